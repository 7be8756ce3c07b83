//! The bytes that hostile peers send.

#![forbid(unsafe_code)]

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// First byte of a whole text message (RFC 6455 §5.2).
const TEXT: u8 = 0x81;

/// First byte of a whole binary message.
pub const BINARY: u8 = 0x82;

/// First byte of a ping.
pub const PING: u8 = 0x89;

/// First byte of a binary message's first fragment.
const BINARY_BEGINS: u8 = 0x02;

/// First byte of a fragment that is neither the first nor the last.
const CONTINUES: u8 = 0x00;

/// Marks a masked frame. The masks here are zero, which costs the node the same.
const MASKED: u8 = 0x80;

/// Identical starts at once. The node counts texts and pings in one bucket of `limits.text_burst`,
/// 250 texts. With `limits.control_burst` 50, a ping counts as five texts.
const STARTS: usize = 150;

/// Pings at once.
const PINGS: usize = 15;

/// Empty frames at once, far fewer than a flood: each counts as 2 ms (`limits.frame_time_min`), and
/// a call may be 30 s ahead.
const EMPTY_FRAMES: usize = 5_000;

/// A masked frame.
pub fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    match payload.len() {
        size @ 0..126 => frame.push(MASKED | size as u8),
        size @ 126..65_536 => {
            frame.push(MASKED | 126);
            frame.extend((size as u16).to_be_bytes());
        }
        size => {
            frame.push(MASKED | 127);
            frame.extend((size as u64).to_be_bytes());
        }
    }
    frame.extend([0; 4]);
    frame.extend_from_slice(payload);
    frame
}

/// A text message.
pub fn text(text: &str) -> Vec<u8> {
    frame(TEXT, text.as_bytes())
}

/// The first fragment of a message that does not end.
pub fn first_fragment() -> Vec<u8> {
    frame(BINARY_BEGINS, &[])
}

/// A fragment of one byte, and an empty one.
pub fn two_fragments() -> Vec<u8> {
    [frame(CONTINUES, &[7]), frame(CONTINUES, &[])].concat()
}

/// Three frames of audio, and half a frame.
pub fn frames_and_a_half() -> Vec<u8> {
    let audio = frame(BINARY, &[1; 9_600]);
    let mut bytes = audio.repeat(3);
    bytes.extend_from_slice(&audio[..audio.len() / 2]);
    bytes
}

/// As much as a node takes at once within its default limits. It answers with 60 KB.
pub fn many_answers(start: &[u8]) -> Vec<u8> {
    let mut bytes = start.repeat(STARTS);
    bytes.extend(frame(PING, &[1; 125]).repeat(PINGS));
    bytes.extend(frame(BINARY, &[]).repeat(EMPTY_FRAMES));
    bytes
}

/// As much as it takes twice a second.
pub fn more_answers() -> Vec<u8> {
    let mut bytes = frame(PING, &[1; 125]).repeat(2);
    bytes.extend(frame(BINARY, &[]).repeat(100));
    bytes
}

/// A request head so long that it does not end if it is sent slowly.
pub fn slow_head(host: &str) -> Vec<u8> {
    format!("GET /v1/ingest HTTP/1.1\r\nHost: {host}\r\nX-Slow: {}", "z".repeat(200)).into_bytes()
}

/// The first part of a ClientHello: its record announces 512 bytes, and 151 follow.
pub fn half_hello() -> Vec<u8> {
    let mut hello = vec![22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3];
    hello.extend(std::iter::repeat_with(|| fastrand::u8(..)).take(32));
    hello.push(32);
    hello.extend(std::iter::repeat_with(|| fastrand::u8(..)).take(32));
    // Cipher suites: TLS 1.3's, and some of 1.2.
    hello
        .extend([0, 32, 0x13, 1, 0x13, 2, 0x13, 3, 0xc0, 0x2b, 0xc0, 0x2f, 0xc0, 0x2c, 0xc0, 0x30]);
    hello.extend([0; 64]);
    hello
}

/// A token that must not be accepted, made from a good one. Most of them have only a wrong
/// signature, because these cost a node the most.
pub fn bad_token(token: &str, number: u64) -> String {
    let (signed, signature) = token.rsplit_once('.').unwrap_or((token, ""));
    match number % 8 {
        0 => format!("{}.", unsigned(signed)),
        1 => format!("{signed}.{}", signature.get(..signature.len() / 2).unwrap_or_default()),
        2 => "not.a.token".to_owned(),
        _ => format!("{signed}.{}", damaged(signature)),
    }
}

/// The claims, with the algorithm `none`.
fn unsigned(signed: &str) -> String {
    let claims = signed.split_once('.').map_or("", |(_, claims)| claims);
    format!("{}.{claims}", URL_SAFE_NO_PAD.encode(r#"{"alg":"none","typ":"JWT"}"#))
}

/// The signature with one bit flipped.
fn damaged(signature: &str) -> String {
    let Ok(mut bytes) = URL_SAFE_NO_PAD.decode(signature) else { return "AAAA".to_owned() };
    let middle = bytes.len() / 2;
    if let Some(byte) = bytes.get_mut(middle) {
        *byte ^= 1;
    }
    URL_SAFE_NO_PAD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_have_the_lengths_of_rfc_6455() {
        assert_eq!(frame(BINARY, &[]), [0x82, 0x80, 0, 0, 0, 0]);
        assert_eq!(frame(PING, b"hi"), [0x89, 0x82, 0, 0, 0, 0, b'h', b'i']);
        assert_eq!(frame(BINARY, &[0; 9_600])[..4], [0x82, 0xFE, 0x25, 0x80]);
        assert_eq!(frame(BINARY, &[0; 65_536]).len(), 2 + 8 + 4 + 65_536);
        assert_eq!(two_fragments(), [0, 0x81, 0, 0, 0, 0, 7, 0, 0x80, 0, 0, 0, 0]);
    }

    #[test]
    fn bad_tokens_differ_from_the_good_one() {
        let good = format!("eyJhbGciOiJSUzI1NiJ9.e30.{}", URL_SAFE_NO_PAD.encode([7; 256]));
        for number in 0..8 {
            let bad = bad_token(&good, number);
            assert_ne!(bad, good);
            assert_eq!(bad.split('.').count(), 3, "{bad}");
        }
        let damaged = bad_token(&good, 7);
        assert_eq!(
            (damaged.len(), damaged.rsplit_once('.').unwrap().0),
            (good.len(), "eyJhbGciOiJSUzI1NiJ9.e30")
        );
    }

    #[test]
    fn half_a_hello_is_less_than_its_record_says() {
        let hello = half_hello();
        let said = usize::from(u16::from_be_bytes([hello[3], hello[4]]));
        assert!(hello.len() - 5 < said && hello.len() > 100);
    }
}
