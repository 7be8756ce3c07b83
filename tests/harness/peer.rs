//! The other end of a connection. It writes any bytes, and reads responses and frames one by one.

use crate::tls::Client;
use crate::wire::{self, BINARY, CLOSE, FIN, PING, PONG, TEXT};
use crate::{PATIENCE, SILENCE};
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with, sockopt};
use rustls::ClientConfig;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The pause before a peer that was refused connects again.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// What a peer reads from an upgraded connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// A whole text message.
    Text(String),
    /// A whole binary message.
    Binary(Vec<u8>),
    /// A ping.
    Ping(Vec<u8>),
    /// A pong.
    Pong(Vec<u8>),
    /// A Close: its code, if it has one, and its reason.
    Close(Option<u16>, String),
    /// FIN.
    End,
    /// RST.
    Reset,
}

/// An HTTP response.
#[derive(Clone, Debug)]
pub struct Response {
    /// Status code.
    pub status: u16,
    /// Status line and fields, with their line ends.
    pub head: String,
    /// As long as `Content-Length` says.
    pub body: String,
}

impl Response {
    /// The value of a field. Panics if the field is there twice.
    pub fn field(&self, name: &str) -> Option<&str> {
        let mut found = self.head.lines().filter_map(|line| {
            let (field, value) = line.split_once(':')?;
            field.eq_ignore_ascii_case(name).then_some(value.trim())
        });
        let value = found.next();
        assert!(found.next().is_none(), "{name} twice: {}", self.head);
        value
    }
}

/// The other end of a connection.
#[derive(Debug)]
pub struct Peer {
    socket: TcpStream,
    /// Its TLS side, if it has one.
    tls: Option<Box<Client>>,
    /// Received bytes that are not parsed yet.
    received: Vec<u8>,
    /// The largest read, in bytes, and the pause before it.
    read_size: usize,
    read_pause: Duration,
}

impl Peer {
    /// Connects.
    pub fn connect(address: SocketAddr) -> Peer {
        Peer::on(TcpStream::connect(address).expect("the node listens"))
    }

    /// Connects with a receive buffer as small as the kernel gives.
    pub fn connect_with_receive_buffer(address: SocketAddr, size: usize) -> Peer {
        let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        // A node that another test starts must not inherit it: the connection would not end.
        let socket =
            socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None).expect("a socket");
        sockopt::set_socket_recv_buffer_size(&socket, size).expect("a size");
        connect(&socket, &address).expect("the node listens");
        Peer::on(TcpStream::from(socket))
    }

    /// Connects, and completes a TLS handshake.
    #[track_caller]
    pub fn connect_tls(address: SocketAddr, config: &Arc<ClientConfig>) -> Peer {
        let mut peer = Peer::connect(address);
        let mut client = Client::new(config);
        client.shake_hands(&mut peer.socket).expect("a handshake");
        peer.tls = Some(Box::new(client));
        peer
    }

    /// The TLS side of its connection.
    #[track_caller]
    pub fn tls(&mut self) -> &mut Client {
        self.tls.as_mut().expect("it speaks TLS")
    }

    /// Reads until its TLS connection fails, and returns the error.
    #[track_caller]
    pub fn tls_error(&mut self) -> rustls::Error {
        let mut buffer = [0; 1024];
        loop {
            let tls = self.tls.as_mut().expect("it speaks TLS");
            match tls.read(&mut self.socket, &mut buffer) {
                Ok(0) => panic!("it ended in peace"),
                Ok(_) => {}
                Err(error) => {
                    let inner = error.into_inner().expect("an error of TLS");
                    return *inner.downcast().expect("an error of TLS");
                }
            }
        }
    }

    /// A peer on a connected socket.
    pub fn on(socket: TcpStream) -> Peer {
        socket.set_nodelay(true).expect("a TCP socket");
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        socket.set_write_timeout(Some(PATIENCE)).expect("a timeout");
        Peer {
            socket,
            tls: None,
            received: Vec::new(),
            read_size: 16 * 1024,
            read_pause: Duration::ZERO,
        }
    }

    /// From now on it reads `size` bytes at a time, each time after a pause.
    pub fn read_slowly(&mut self, size: usize, pause: Duration) {
        (self.read_size, self.read_pause) = (size, pause);
    }

    /// Its socket.
    pub fn socket(&self) -> &TcpStream {
        &self.socket
    }

    /// Sends bytes. The node must accept them.
    #[track_caller]
    pub fn send(&mut self, bytes: &[u8]) {
        self.try_send(bytes).expect("the node takes bytes");
    }

    /// Sends bytes that the node may no longer accept.
    pub fn try_send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        match &mut self.tls {
            Some(tls) => tls.write(&mut self.socket, bytes),
            None => self.socket.write_all(bytes),
        }
    }

    /// Sends bytes below TLS.
    #[track_caller]
    pub fn send_raw(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).expect("the node takes bytes");
    }

    /// Sends the records that its TLS side has ready.
    #[track_caller]
    pub fn send_pending(&mut self) {
        let records = self.tls().pending();
        self.send_raw(&records);
    }

    /// Ends its side: FIN.
    pub fn end(&mut self) {
        if let Some(tls) = &mut self.tls {
            tls.connection().send_close_notify();
            let records = tls.pending();
            let _ = self.socket.write_all(&records);
        }
        // After a reset by the node there is no side left to end.
        let _ = self.socket.shutdown(Shutdown::Write);
    }

    /// Resets the connection: RST.
    pub fn reset(self) {
        sockopt::set_socket_linger(&self.socket, Some(Duration::ZERO)).expect("a TCP socket");
    }

    /// Reads at least one byte more. `Some` is the end of the connection.
    #[track_caller]
    fn read_more(&mut self) -> Option<Message> {
        let mut buffer = vec![0; self.read_size];
        if !self.read_pause.is_zero() {
            std::thread::sleep(self.read_pause);
        }
        let outcome = match &mut self.tls {
            Some(tls) => tls.read(&mut self.socket, &mut buffer),
            None => self.socket.read(&mut buffer),
        };
        match outcome {
            Ok(0) => Some(Message::End),
            Ok(size) => {
                self.received.extend_from_slice(&buffer[..size]);
                None
            }
            Err(error) if error.kind() == ErrorKind::ConnectionReset => Some(Message::Reset),
            // The kernel removes a ring that this thread made (the node's probe) by a signal of its
            // own.
            Err(error) if error.kind() == ErrorKind::Interrupted => None,
            Err(error) => {
                panic!("nothing came: {error}, after {:?}", String::from_utf8_lossy(&self.received))
            }
        }
    }

    /// Exactly these bytes come next.
    #[track_caller]
    pub fn expect_bytes(&mut self, expected: &[u8]) {
        while self.received.len() < expected.len() {
            if let Some(end) = self.read_more() {
                panic!("{end:?} after {:?}", String::from_utf8_lossy(&self.received));
            }
        }
        let rest = self.received.split_off(expected.len());
        let got = std::mem::replace(&mut self.received, rest);
        assert!(
            got == expected,
            "{:?}, not {:?}",
            String::from_utf8_lossy(&got),
            String::from_utf8_lossy(expected)
        );
    }

    /// The next response; `None` if the connection ends without one.
    #[track_caller]
    pub fn try_response(&mut self, has_body: bool) -> Option<Response> {
        let head_size = loop {
            if let Some(end) = self.received.windows(4).position(|window| window == b"\r\n\r\n") {
                break end + 4;
            }
            if self.read_more().is_some() {
                assert!(
                    self.received.is_empty(),
                    "half a response: {:?}",
                    String::from_utf8_lossy(&self.received)
                );
                return None;
            }
        };
        let head = String::from_utf8(self.received.drain(..head_size).collect()).expect("ASCII");
        let status = head.get(9..12).and_then(|status| status.parse().ok()).expect("a status");
        let mut response = Response { status, head, body: String::new() };
        let body_size =
            response.field("Content-Length").map_or(0, |size| size.parse().expect("a number"));
        if has_body {
            while self.received.len() < body_size {
                assert_eq!(self.read_more(), None, "half a body");
            }
            response.body =
                String::from_utf8(self.received.drain(..body_size).collect()).expect("ASCII");
        }
        Some(response)
    }

    /// The next response.
    #[track_caller]
    pub fn response(&mut self) -> Response {
        self.try_response(true).expect("a response")
    }

    /// Sends an upgrade request with a token, and reads the 101. While the node refuses new calls
    /// because its disk is slow, the peer connects again, as a real client does. On a slow disk the
    /// small rings of tests are full after a tenth of a second.
    #[track_caller]
    pub fn upgrade(&mut self, token: &str) {
        let address = self.socket.peer_addr().expect("a connected socket");
        let start = Instant::now();
        loop {
            self.send(wire::upgrade_request(token).as_bytes());
            let response = self.response();
            if response.status != 503 || start.elapsed() > PATIENCE {
                return expect_switching(&response);
            }
            std::thread::sleep(RETRY_PAUSE);
            *self = match &self.tls {
                Some(tls) => Peer::connect_tls(address, tls.config()),
                None => Peer::connect(address),
            };
        }
    }

    /// The 101 comes next, byte for byte.
    #[track_caller]
    pub fn expect_switching(&mut self) {
        expect_switching(&self.response());
    }

    /// Starts a call and reads `started`.
    #[track_caller]
    pub fn start(&mut self, tenant: &str, interaction: &str) {
        self.send(&wire::text(&wire::start_text(tenant, interaction)));
        self.expect_started(interaction);
    }

    /// `started` comes next, byte for byte.
    #[track_caller]
    pub fn expect_started(&mut self, interaction: &str) {
        self.expect_text(&format!(r#"{{"event":"started","interaction_id":"{interaction}"}}"#));
    }

    /// Sends `count` frames of `size` bytes in one go.
    #[track_caller]
    pub fn send_frames(&mut self, count: usize, size: usize) {
        self.send(&wire::binary(&vec![0x5a; size]).repeat(count));
    }

    /// The ack of frame `seq` comes next, byte for byte.
    #[track_caller]
    pub fn expect_ack(&mut self, seq: u64) {
        self.expect_text(&format!(r#"{{"event":"ack","seq":{seq}}}"#));
    }

    /// The acks of frames `first`, `first` + 10 … `last` come next, byte for byte.
    #[track_caller]
    pub fn expect_acks(&mut self, first: u64, last: u64) {
        for seq in (first..=last).step_by(10) {
            self.expect_ack(seq);
        }
    }

    /// This text message comes next, in one unmasked frame, byte for byte. Pings before it are
    /// ignored: on a slow machine a peer may be silent long enough to get one.
    #[track_caller]
    pub fn expect_text(&mut self, text: &str) {
        let mut message = self.receive();
        while matches!(message, Message::Ping(_)) {
            message = self.receive();
        }
        assert_eq!(message, Message::Text(text.to_owned()));
    }

    /// A Close comes next. After this side has ended too, only the end comes.
    #[track_caller]
    pub fn expect_close(&mut self, code: u16, reason: &str) {
        assert_eq!(self.receive(), Message::Close(Some(code), reason.to_owned()));
        self.expect_end();
    }

    /// An error event comes next, then a Close with `code` and `reason`, then the end. Returns the
    /// event's message.
    #[track_caller]
    pub fn expect_refusal(&mut self, code: u16, reason: &str, retryable: bool) -> String {
        let event_code = if code >= 4000 { code - 4000 } else { code };
        let message = self.receive();
        let Message::Text(text) = message else { panic!("{message:?}, not an error event") };
        let opening =
            format!(r#"{{"event":"error","code":{event_code},"reason":"{reason}","message":""#);
        let ending = format!(r#"","retryable":{retryable}}}"#);
        let words = text.strip_prefix(&opening).and_then(|text| text.strip_suffix(&ending));
        let words = words.unwrap_or_else(|| panic!("{text}, not {opening}…{ending}")).to_owned();
        assert!(!words.is_empty(), "{text}");
        self.expect_close(code, reason);
        words
    }

    /// Everything up to the end of the connection, which may lie within a frame.
    #[track_caller]
    pub fn rest(&mut self) -> Vec<u8> {
        while self.read_more().is_none() {}
        std::mem::take(&mut self.received)
    }

    /// Nothing more comes. The connection ends with FIN, or with RST if bytes of this side were
    /// still under way.
    #[track_caller]
    pub fn expect_end(&mut self) {
        self.end();
        let message = self.receive();
        assert!(matches!(message, Message::End | Message::Reset), "{message:?}, not the end");
    }

    /// Nothing more comes. The node ends the connection although this side has not.
    #[track_caller]
    pub fn expect_end_unasked(&mut self) {
        let message = self.receive();
        assert!(matches!(message, Message::End | Message::Reset), "{message:?}, not the end");
    }

    /// Nothing comes for a while.
    #[track_caller]
    pub fn expect_silence(&mut self) {
        self.socket.set_read_timeout(Some(SILENCE)).expect("a timeout");
        let mut byte = [0];
        let outcome = loop {
            match self.socket.read(&mut byte) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                outcome => break outcome,
            }
        };
        self.socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let is_timeout = |kind| matches!(kind, ErrorKind::WouldBlock | ErrorKind::TimedOut);
        let is_silent = outcome.as_ref().is_err_and(|error| is_timeout(error.kind()));
        assert!(is_silent && self.received.is_empty(), "{outcome:?} {byte:?} {:?}", self.received);
    }

    /// The next message, or how the connection ended. A node sends whole messages in unmasked
    /// frames of the shortest form.
    #[track_caller]
    pub fn receive(&mut self) -> Message {
        loop {
            if let Some((size, message)) = parse(&self.received) {
                self.received.drain(..size);
                return message;
            }
            if let Some(end) = self.read_more() {
                assert!(self.received.is_empty(), "half a frame: {:?}", self.received);
                return end;
            }
        }
    }
}

/// The first message of `bytes` and its size on the wire, if it is whole.
fn parse(bytes: &[u8]) -> Option<(usize, Message)> {
    let (&[first, second], rest) = bytes.split_first_chunk()?;
    assert_eq!(first & 0xf0, FIN, "every frame of a node's is a whole message without extensions");
    let (header_size, size) = match second {
        0..=125 => (2, usize::from(second)),
        126 => (4, usize::from(u16::from_be_bytes(*rest.first_chunk()?))),
        127 => (10, u64::from_be_bytes(*rest.first_chunk()?) as usize),
        masked => panic!("a masked frame from a node: {masked:#x}"),
    };
    assert!(size > 125 || header_size == 2, "RFC 6455 §5.2: the shortest form");
    let payload = bytes.get(header_size..header_size + size)?.to_vec();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("UTF-8");
    let message = match first & 0x0f {
        TEXT => Message::Text(text(&payload)),
        BINARY => Message::Binary(payload),
        PING => Message::Ping(payload),
        PONG => Message::Pong(payload),
        CLOSE => match payload.split_first_chunk() {
            Some((code, reason)) => Message::Close(Some(u16::from_be_bytes(*code)), text(reason)),
            None => Message::Close(None, text(&payload)),
        },
        opcode => panic!("opcode {opcode} from a node"),
    };
    Some((header_size + size, message))
}

#[track_caller]
fn expect_switching(response: &Response) {
    let expected = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
        Connection: Upgrade\r\n\
                    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
    assert_eq!(response.head, expected, "{}", response.body);
}
