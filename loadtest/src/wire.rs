//! tungstenite between two byte buffers: one with bytes from a socket, one with bytes for it.
//!
//! So a blocking library runs inside asynchronous code: an empty input is `WouldBlock`. Nothing
//! here touches a socket.

use std::io::{self, Read, Write};
use std::time::Duration;

use tungstenite::error::Error;
use tungstenite::handshake::HandshakeError;
use tungstenite::handshake::MidHandshake;
use tungstenite::handshake::client::{ClientHandshake, generate_key};
use tungstenite::http::Request;
use tungstenite::protocol::frame::Frame;
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::protocol::{CloseFrame, Message, WebSocket, WebSocketConfig};

use crate::event::excerpt;
use crate::failure::{Failure, Reason};
use crate::target::Target;

/// tungstenite's read buffer per call: acks are 30 bytes. Its default, 128 KiB, would be a gigabyte
/// for 8,000 calls.
const READ_BUFFER_SIZE: usize = 256;

/// Largest message from a node: its events are short.
const MESSAGE_SIZE_MAX: usize = 64 * 1024;

/// The two buffers.
#[derive(Debug, Default)]
pub struct Wire {
    input: Vec<u8>,
    /// Bytes of `input` that were read already.
    taken: usize,
    output: Vec<u8>,
}

impl Read for Wire {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let rest = &self.input[self.taken..];
        if rest.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let size = rest.len().min(into.len());
        into[..size].copy_from_slice(&rest[..size]);
        self.taken += size;
        if self.taken == self.input.len() {
            self.input.clear();
            self.taken = 0;
        }
        Ok(size)
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.output.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A client's side of one upgrade. Call contract: `begin`, send `request`, then `handle_bytes`
/// until it is done.
pub struct Upgrade {
    handshake: Option<MidHandshake<ClientHandshake<Wire>>>,
}

impl Upgrade {
    /// Starts an upgrade; the bytes are the request.
    pub fn begin(target: &Target, token: &str) -> Result<(Self, Vec<u8>), Failure> {
        let invalid = |error: &dyn std::fmt::Display| {
            Failure::new(Reason::UpgradeInvalid, format!("cannot ask: {error}"))
        };
        let request = Request::get(target.uri.clone())
            .header("Host", &target.host)
            .header("Connection", "Upgrade")
            .header("Upgrade", "websocket")
            .header("Sec-WebSocket-Version", "13")
            .header("Sec-WebSocket-Key", generate_key())
            .header("Authorization", format!("Bearer {token}"))
            .body(())
            .map_err(|error| invalid(&error))?;
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER_SIZE)
            .write_buffer_size(0)
            .max_message_size(Some(MESSAGE_SIZE_MAX))
            .max_frame_size(Some(MESSAGE_SIZE_MAX));
        let handshake = ClientHandshake::start(Wire::default(), request, Some(config))
            .map_err(|error| invalid(&error))?;
        match handshake.handshake() {
            Err(HandshakeError::Interrupted(mut handshake)) => {
                let request = std::mem::take(&mut handshake.get_mut().get_mut().output);
                Ok((Self { handshake: Some(handshake) }, request))
            }
            Err(HandshakeError::Failure(error)) => Err(invalid(&error)),
            Ok(_) => Err(invalid(&"done before an answer")),
        }
    }

    /// Takes bytes from the node. Returns the connection once it is up.
    pub fn handle_bytes(&mut self, bytes: &[u8]) -> Result<Option<Link>, Failure> {
        let Some(mut handshake) = self.handshake.take() else { return Ok(None) };
        handshake.get_mut().get_mut().input.extend_from_slice(bytes);
        match handshake.handshake() {
            Ok((socket, _)) => Ok(Some(Link { socket, error: None })),
            Err(HandshakeError::Interrupted(handshake)) => {
                self.handshake = Some(handshake);
                Ok(None)
            }
            Err(HandshakeError::Failure(error)) => Err(refusal(error)),
        }
    }
}

fn refusal(error: Error) -> Failure {
    let Error::Http(response) = error else {
        return Failure::new(Reason::UpgradeInvalid, error.to_string());
    };
    let status = response.status();
    let retry_after = response
        .headers()
        .get("Retry-After")
        .and_then(|value| value.to_str().ok()?.trim().parse().ok());
    let detail = format!("the node answered {status}");
    Failure {
        reason: Reason::Refused(status.as_u16()),
        detail,
        retry_after: retry_after.map(Duration::from_secs),
    }
}

/// A connection after its upgrade. Call contract: `handle_bytes`, then `poll_message` until it has
/// none, then `take_output`.
pub struct Link {
    socket: WebSocket<Wire>,
    /// The node's `error` event, which gives the reason of a Close.
    error: Option<String>,
}

impl Link {
    /// Takes bytes from the node.
    pub fn handle_bytes(&mut self, bytes: &[u8]) {
        self.socket.get_mut().input.extend_from_slice(bytes);
    }

    /// The next whole message.
    pub fn poll_message(&mut self) -> Result<Option<Message>, Failure> {
        match self.socket.read() {
            Ok(message) => Ok(Some(message)),
            Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(Error::ConnectionClosed | Error::AlreadyClosed) => Ok(None),
            Err(error) => Err(Failure::new(Reason::ProtocolError, error.to_string())),
        }
    }

    /// Queues a message.
    pub fn send(&mut self, message: Message) {
        // The buffer takes every byte. The only other error is a connection that is closing, where
        // sending is pointless.
        let _ = self.socket.send(message);
    }

    /// Keeps the node's `error` event for the report.
    pub fn remember_error(&mut self, code: u16, reason: &str, message: &str) {
        self.error =
            Some(format!("; the node says {code} {}: {}", excerpt(reason), excerpt(message)));
    }

    /// The `error` event as the end of a sentence; empty if there was none.
    pub fn error(&self) -> &str {
        self.error.as_deref().unwrap_or_default()
    }

    /// Bytes for the node: what was sent, pongs, the answer to a Close.
    pub fn take_output(&mut self) -> Vec<u8> {
        // After the answer to a Close, tungstenite reports the end as an error here. The bytes are
        // there.
        let _ = self.socket.flush();
        std::mem::take(&mut self.socket.get_mut().output)
    }
}

/// A masked Close 1000. The codec does not make it, because it must go on answering pings until the
/// Close is sent.
pub fn close_frame() -> Vec<u8> {
    let mut frame = Frame::close(Some(CloseFrame { code: CloseCode::Normal, reason: "".into() }));
    frame.header_mut().mask = Some(fastrand::u32(..).to_ne_bytes());
    let mut bytes = Vec::new();
    frame.format(&mut bytes).expect("a vector takes every write");
    bytes
}

#[cfg(test)]
mod tests {
    use tungstenite::handshake::derive_accept_key;

    use super::*;

    fn target() -> Target {
        Target::parse("ws://127.0.0.1:8443/v1/ingest").unwrap()
    }

    fn answer(request: &[u8]) -> Vec<u8> {
        let text = std::str::from_utf8(request).unwrap();
        let key = text.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Key: ")).unwrap();
        let accept = derive_accept_key(key.as_bytes());
        format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {accept}\r\n\r\n"
        )
        .into_bytes()
    }

    #[test]
    fn an_upgrade_works_at_every_split_point_and_keeps_what_follows() {
        let (_, request) = Upgrade::begin(&target(), "a.b.c").unwrap();
        let text = String::from_utf8(request.clone()).unwrap().to_ascii_lowercase();
        assert!(text.starts_with("get /v1/ingest http/1.1\r\n"), "{text}");
        assert!(
            text.contains("authorization: bearer a.b.c\r\n")
                && text.contains("host: 127.0.0.1:8443\r\n")
        );
        let size = answer(&request).len();
        for split in 1..size {
            let (mut upgrade, request) = Upgrade::begin(&target(), "a.b.c").unwrap();
            let mut bytes = answer(&request);
            bytes.extend_from_slice(b"\x81\x02hi");
            assert!(upgrade.handle_bytes(&bytes[..split]).unwrap().is_none());
            let mut link = upgrade.handle_bytes(&bytes[split..]).unwrap().unwrap();
            assert_eq!(link.poll_message().unwrap(), Some(Message::text("hi")));
            assert_eq!(link.poll_message().unwrap(), None);
        }
    }

    #[test]
    fn refusals_keep_their_status_and_retry_after() {
        let (mut upgrade, _) = Upgrade::begin(&target(), "t").unwrap();
        let failure = upgrade
            .handle_bytes(
                b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n",
            )
            .err()
            .unwrap();
        assert_eq!(failure.reason, Reason::Refused(503));
        assert_eq!(failure.retry_after, Some(Duration::from_secs(7)));
        let (mut upgrade, _) = Upgrade::begin(&target(), "t").unwrap();
        let wrong_key = b"HTTP/1.1 101 x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
            Sec-WebSocket-Accept: AAAA\r\n\r\n";
        assert_eq!(upgrade.handle_bytes(wrong_key).err().unwrap().reason, Reason::UpgradeInvalid);
    }

    #[test]
    fn pings_are_answered_and_forbidden_frames_named() {
        let (mut upgrade, request) = Upgrade::begin(&target(), "t").unwrap();
        let mut link = upgrade.handle_bytes(&answer(&request)).unwrap().unwrap();
        link.handle_bytes(b"\x89\x02hi");
        assert!(matches!(link.poll_message().unwrap(), Some(Message::Ping(_))));
        assert_eq!(link.poll_message().unwrap(), None);
        let pong = link.take_output();
        assert_eq!((pong[0], pong[1], pong.len()), (0x8A, 0x82, 8));
        link.handle_bytes(b"\xC1\x00");
        assert_eq!(link.poll_message().err().unwrap().reason, Reason::ProtocolError);
    }
}
