//! `traceparent` of an upgrade request: W3C Trace Context, as far as a log needs it.
//!
//! ```text
//!   00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01
//!   version  trace-id                    parent-id        flags
//! ```
//! Source: <https://www.w3.org/TR/trace-context/>, section 3.2. As it says, a malformed value is
//! ignored.
#![forbid(unsafe_code)]

use std::fmt;

/// Where a call belongs in the trace of its client.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Trace {
    trace_id: [u8; 16],
    parent_id: [u8; 8],
    flags: u8,
}

/// Length of version 00.
const SIZE: usize = 55;

impl Trace {
    /// Parses the field's value; `None` if it is malformed. A later version may add more after
    /// another dash.
    pub(crate) fn parse(value: &[u8]) -> Option<Trace> {
        let (known, more) = value.split_at_checked(SIZE)?;
        let version = hex::<1>(&known[..2])?;
        let is_known_end = match version {
            [0xff] => false,
            [0] => more.is_empty(),
            _ => matches!(more, [] | [b'-', ..]),
        };
        let has_dashes = [2, 35, 52].iter().all(|&at| known[at] == b'-');
        let trace = Trace {
            trace_id: hex(&known[3..35])?,
            parent_id: hex(&known[36..52])?,
            flags: hex::<1>(&known[53..])?[0],
        };
        let has_ids = trace.trace_id != [0; 16] && trace.parent_id != [0; 8];
        (is_known_end && has_dashes && has_ids).then_some(trace)
    }
}

/// Always written as version 00, whatever version was received.
impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (trace_id, parent_id) =
            (u128::from_be_bytes(self.trace_id), u64::from_be_bytes(self.parent_id));
        write!(f, "00-{trace_id:032x}-{parent_id:016x}-{:02x}", self.flags)
    }
}

impl fmt::Debug for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Accepts lowercase digits only: the specification allows no others.
fn hex<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    let (pairs, []) = digits.as_chunks::<2>() else { return None };
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_valid_value_prints_as_it_was_read() {
        for text in [GOOD, "00-00000000000000000000000000000001-0000000000000001-00"] {
            let trace = Trace::parse(text.as_bytes()).expect("it is good");
            assert_eq!(trace.to_string(), text);
        }
    }

    #[test]
    fn a_later_version_is_read_as_version_00() {
        for more in ["", "-", "-what-comes-then"] {
            let text = format!("cc{}{more}", &GOOD[2..]);
            assert_eq!(
                Trace::parse(text.as_bytes()).map(|trace| trace.to_string()).as_deref(),
                Some(GOOD),
                "{text}"
            );
        }
        assert_eq!(Trace::parse(format!("cc{}x", &GOOD[2..]).as_bytes()), None);
        assert_eq!(Trace::parse(format!("{GOOD}-x").as_bytes()), None, "version 00 ends there");
        assert_eq!(Trace::parse(format!("ff{}", &GOOD[2..]).as_bytes()), None, "ff is forbidden");
    }

    #[test]
    fn malformed_values_are_ignored() {
        for at in 0..GOOD.len() {
            for byte in *b" -xG\xff" {
                let mut text = GOOD.as_bytes().to_vec();
                if std::mem::replace(&mut text[at], byte) != byte {
                    assert_eq!(Trace::parse(&text), None, "{}", String::from_utf8_lossy(&text));
                }
            }
            assert_eq!(Trace::parse(&GOOD.as_bytes()[..at]), None);
        }
        assert_eq!(Trace::parse(GOOD.to_uppercase().as_bytes()), None);
        assert_eq!(Trace::parse(b"00-00000000000000000000000000000000-b7ad6b7169203331-01"), None);
        assert_eq!(Trace::parse(b"00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01"), None);
    }
}
