//! Assembles text messages: unmasked, checked as they arrive, bounded, and copied only if they
//! arrive in pieces.

#![forbid(unsafe_code)]

use super::utf8::Validator;
use super::{DataPiece, Violation};
use std::borrow::Cow;

/// Collects the pieces of text messages, one message at a time.
///
/// It holds no memory between messages, nor for messages that arrive in one piece. The decoder
/// checks the size of a message at its frame header, before any piece. So that limit also bounds
/// this buffer.
#[derive(Debug, Default)]
pub struct TextBuffer {
    bytes: Vec<u8>,
    validator: Validator,
}

impl TextBuffer {
    /// Takes the next piece of a text; returns the text when it is complete. A text in one piece is
    /// returned in place, in the input; any other is returned with its memory. Fails at the first
    /// byte that cannot be UTF-8, even within a message.
    pub fn push<'a>(&mut self, piece: DataPiece<'a>) -> Result<Option<Cow<'a, str>>, Violation> {
        let DataPiece { first, last, payload, key, .. } = piece;
        key.apply(payload);
        if first && last {
            return std::str::from_utf8(payload)
                .map(|text| Some(Cow::Borrowed(text)))
                .map_err(|_| Violation::NotUtf8);
        }
        if first {
            *self = TextBuffer::default();
        }
        self.validator.push(payload).map_err(|_| Violation::NotUtf8)?;
        self.bytes.extend_from_slice(payload);
        if !last {
            return Ok(None);
        }
        // A text that ends inside a character passes the validator and fails here.
        let bytes = std::mem::take(&mut self.bytes);
        String::from_utf8(bytes).map(|text| Some(Cow::Owned(text))).map_err(|_| Violation::NotUtf8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::{MaskKey, MessageKind};

    const KEY: MaskKey = MaskKey([1, 2, 3, 4]);

    /// Pushes `text`, masked and cut at `cuts`; returns the result for the last piece, or the first
    /// error.
    fn push_cut(
        buffer: &mut TextBuffer,
        text: &[u8],
        cuts: &[usize],
    ) -> Result<Option<String>, Violation> {
        let mut masked = text.to_vec();
        KEY.apply(&mut masked);
        let mut start = 0;
        let mut outcome = Ok(None);
        for &end in cuts.iter().chain([&text.len()]) {
            let piece = DataPiece {
                kind: MessageKind::Text,
                first: start == 0,
                last: end == text.len(),
                offset: start,
                fragments: 1,
                payload: &mut masked[start..end],
                key: KEY.advanced(start),
            };
            let whole = piece.first && piece.last;
            outcome = buffer.push(piece).map(|text| {
                assert!(
                    text.iter().all(|text| matches!(text, Cow::Borrowed(_)) == whole),
                    "copied only if cut"
                );
                text.map(Cow::into_owned)
            });
            if outcome.is_err() {
                break;
            }
            start = end;
        }
        outcome
    }

    #[test]
    fn texts_are_returned_however_cut_and_memory_is_freed() {
        let text = "{\"event\":\"start\",\"tenant\":\"Žižkov €𝄞\"}";
        let mut buffer = TextBuffer::default();
        assert_eq!(push_cut(&mut buffer, text.as_bytes(), &[]), Ok(Some(text.into())));
        for cut in 1..text.len() {
            assert_eq!(push_cut(&mut buffer, text.as_bytes(), &[cut]), Ok(Some(text.into())));
            assert_eq!(buffer.bytes.capacity(), 0);
        }
        assert_eq!(push_cut(&mut buffer, b"", &[]), Ok(Some(String::new())));
    }

    #[test]
    fn a_bad_byte_fails_before_the_text_ends() {
        let text = b"good \xf4\x90 and much more to come";
        for cuts in [&[7][..], &[6, 7], &[3, 7]] {
            let mut buffer = TextBuffer::default();
            assert_eq!(push_cut(&mut buffer, text, cuts), Err(Violation::NotUtf8));
            assert!(buffer.bytes.len() < 7, "the rest was not waited for");
        }
        assert_eq!(push_cut(&mut TextBuffer::default(), text, &[]), Err(Violation::NotUtf8));
    }

    #[test]
    fn a_text_that_ends_within_a_character_fails() {
        for cuts in [&[][..], &[2], &[1, 3]] {
            assert_eq!(
                push_cut(&mut TextBuffer::default(), b"ab\xe2\x82", cuts),
                Err(Violation::NotUtf8)
            );
        }
    }
}
