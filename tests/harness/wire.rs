//! Good and bad requests and frames, as bytes.

/// The masking key of all frames here.
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// Final bit of a frame's first byte.
pub const FIN: u8 = 0x80;
/// Continuation.
pub const CONTINUATION: u8 = 0x0;
/// Text.
pub const TEXT: u8 = 0x1;
/// Binary.
pub const BINARY: u8 = 0x2;
/// Close.
pub const CLOSE: u8 = 0x8;
/// Ping.
pub const PING: u8 = 0x9;
/// Pong.
pub const PONG: u8 = 0xa;

/// The header of a frame without its mask: the first byte, then `mask_bit` (0 or 0x80) with the
/// length.
fn header(first: u8, mask_bit: u8, size: usize) -> Vec<u8> {
    let mut bytes = vec![first];
    match size {
        0..=125 => bytes.push(mask_bit | size as u8),
        126..=0xffff => {
            bytes.push(mask_bit | 126);
            bytes.extend_from_slice(&(size as u16).to_be_bytes());
        }
        _ => {
            bytes.push(mask_bit | 127);
            bytes.extend_from_slice(&(size as u64).to_be_bytes());
        }
    }
    bytes
}

/// Appends a payload, masked with the key of [`announce`]. It masks by words, because tests that
/// play audio mask megabytes.
pub fn mask_onto(payload: &[u8], bytes: &mut Vec<u8>) {
    let (words, rest) = payload.as_chunks::<4>();
    let key = u32::from_ne_bytes(MASK);
    bytes.extend(words.iter().flat_map(|word| (u32::from_ne_bytes(*word) ^ key).to_ne_bytes()));
    bytes.extend(rest.iter().zip(MASK).map(|(byte, mask)| byte ^ mask));
}

/// A masked frame with any first byte.
pub fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = header(first, 0x80, payload.len());
    bytes.extend_from_slice(&MASK);
    bytes.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

/// The start of a masked frame that announces `size` bytes. The bytes are not included.
pub fn announce(first: u8, size: usize) -> Vec<u8> {
    let mut bytes = header(first, 0x80, size);
    bytes.extend_from_slice(&MASK);
    bytes
}

/// A frame without a mask: a node sends such frames, a peer must not.
pub fn unmasked(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = header(first, 0, payload.len());
    bytes.extend_from_slice(payload);
    bytes
}

/// A whole text message.
pub fn text(text: &str) -> Vec<u8> {
    frame(FIN | TEXT, text.as_bytes())
}

/// A whole binary message.
pub fn binary(payload: &[u8]) -> Vec<u8> {
    frame(FIN | BINARY, payload)
}

/// A Close with a code and no reason.
pub fn close(code: u16) -> Vec<u8> {
    frame(FIN | CLOSE, &code.to_be_bytes())
}

/// The quick reference's `start`.
pub fn start_text(tenant: &str, interaction: &str) -> String {
    let ids = format!(r#""interaction_id":"{interaction}","tenant_id":"{tenant}""#);
    format!(r#"{{"event":"start",{ids},"sample_rate":24000,"encoding":"pcm16"}}"#)
}

/// Fields of a good upgrade request, without a token.
pub const UPGRADE_FIELDS: &str = "Host: node\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

/// A whole upgrade request with a token.
pub fn upgrade_request(token: &str) -> String {
    format!("GET /v1/ingest HTTP/1.1\r\n{UPGRADE_FIELDS}Authorization: Bearer {token}\r\n\r\n")
}
