//! Checks UTF-8 as it arrives, however it is cut. It fails at the first bad byte, even within a
//! character (RFC 6455 §8.1).

#![forbid(unsafe_code)]

/// Not UTF-8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NotUtf8;

/// Checks a text that arrives in pieces.
///
/// The standard library does the check. This type keeps the bytes of a character that is cut
/// between two pieces, after the library has said that it may still become valid.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Validator {
    /// Up to three bytes of a character, and one more that completes it.
    tail: [u8; 4],
    tail_size: u8,
}

impl Validator {
    /// Takes the next piece. After an error the text stays invalid, whatever follows.
    pub(crate) fn push(&mut self, piece: &[u8]) -> Result<(), NotUtf8> {
        let mut rest = piece;
        while self.tail_size > 0 {
            let Some((&byte, after)) = rest.split_first() else { return Ok(()) };
            rest = after;
            let size = usize::from(self.tail_size);
            self.tail[size] = byte;
            self.tail_size = match std::str::from_utf8(&self.tail[..=size]) {
                Ok(_) => 0,
                Err(error) if error.error_len().is_some() => return Err(NotUtf8),
                Err(_) => self.tail_size + 1,
            };
        }
        let Err(error) = std::str::from_utf8(rest) else { return Ok(()) };
        if error.error_len().is_some() {
            return Err(NotUtf8);
        }
        let tail = &rest[error.valid_up_to()..];
        self.tail[..tail.len()].copy_from_slice(tail);
        self.tail_size = tail.len() as u8;
        Ok(())
    }

    /// Whether the text so far ends between two characters: a text may end only there.
    #[cfg(test)]
    pub(crate) fn is_complete(&self) -> bool {
        self.tail_size == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Index of the byte at which `bytes` is refused when the bytes come one at a time.
    fn refused_at(bytes: &[u8]) -> Option<usize> {
        let mut validator = Validator::default();
        bytes.iter().position(|&byte| validator.push(&[byte]).is_err())
    }

    #[test]
    fn the_first_bad_byte_is_refused_within_a_character() {
        assert_eq!(refused_at(&[0xf4, 0x90]), Some(1), "above U+10FFFF shows in the second byte");
        assert_eq!(refused_at(&[0xed, 0xa0]), Some(1), "so does a surrogate");
        assert_eq!(refused_at(&[0xe0, 0x80]), Some(1), "and an overlong form");
        assert_eq!(refused_at(&[b'a', 0xc0]), Some(1));
        assert_eq!(refused_at(&[0xf5]), Some(0));
        assert_eq!(refused_at(&[0x80]), Some(0));
        assert_eq!(refused_at(&[0xe2, 0x82, b'a']), Some(2));
        assert_eq!(refused_at("κόσμε €𝄞".as_bytes()), None);
    }

    #[test]
    fn a_text_may_not_end_within_a_character() {
        let mut validator = Validator::default();
        validator.push(&[b'a', 0xe2, 0x82]).unwrap();
        assert!(!validator.is_complete());
        validator.push(&[]).unwrap();
        assert!(!validator.is_complete());
        validator.push(&[0xac]).unwrap();
        assert!(validator.is_complete());
    }

    /// Bytes that are valid UTF-8 for longer runs than random bytes are.
    fn nearly_utf8() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            4 => any::<char>().prop_map(|character| character.to_string().into_bytes()),
            1 => proptest::collection::vec(any::<u8>(), 1..3),
            1 => (any::<char>(), 1usize..4).prop_map(|(character, size)| {
                let bytes = character.to_string().into_bytes();
                bytes[..size.min(bytes.len())].to_vec()
            }),
        ];
        proptest::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn it_agrees_with_the_standard_library_however_cut(
            bytes in nearly_utf8(),
            cut in any::<prop::sample::Index>(),
        ) {
            let (front, back) = bytes.split_at(cut.index(bytes.len() + 1));
            let mut validator = Validator::default();
            let outcome = validator.push(front).and_then(|()| validator.push(back));
            match std::str::from_utf8(&bytes) {
                Ok(_) => prop_assert!(outcome.is_ok() && validator.is_complete()),
                Err(error) if error.error_len().is_none() => {
                    prop_assert!(outcome.is_ok() && !validator.is_complete())
                }
                Err(_) => prop_assert_eq!(outcome, Err(NotUtf8)),
            }
            prop_assert_eq!(refused_at(&bytes).is_some(), outcome.is_err());
        }
    }
}
