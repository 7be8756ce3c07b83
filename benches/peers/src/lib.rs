//! What the servers share: listening, the answer to an upgrade, the protocol's texts, the ring of
//! memory that frames are copied into, and a small frame decoder for the peers without a library.
//!
//! None of it is on the measured path of a peer that brings its own codec, but for [`Ring::append`]
//! and [`Call::handle_frame`]. Tokens are not checked: that is work of the node alone.
#![forbid(unsafe_code)]

use std::io;
use std::net::TcpListener;

use data_encoding::BASE64;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::{Value, json};
use sha1::{Digest, Sha1};

/// Bytes of audio that a server keeps, cyclic: the node's frame ring does the same.
pub const RING_SIZE: usize = 256 << 20;

/// A server acknowledges each frame whose number is a multiple of this.
pub const ACK_EVERY: u64 = 10;

/// Longest request head, with its token.
pub const HEAD_SIZE_MAX: usize = 8 * 1024;

/// Longest text that the decoder gathers.
const TEXT_SIZE_MAX: usize = 64 * 1024;

/// Connections that may wait to be accepted: the node asks for as many.
const BACKLOG: i32 = 4096;

/// What the accept key is made with (RFC 6455 §1.3).
const ACCEPT_GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// A Close of ours with code 1000.
pub const CLOSE: [u8; 4] = [0x88, 2, 0x03, 0xE8];

/// Listens where `--listen` says (default: any free port of 127.0.0.1) and prints the same line as
/// the node. Raises the limit of open files as far as it goes.
pub fn listen() -> io::Result<TcpListener> {
    let limit = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: limit, maximum: limit })?;
    let mut arguments = std::env::args().skip_while(|argument| argument != "--listen");
    let address = arguments.nth(1).unwrap_or_else(|| "127.0.0.1:0".to_owned());
    let listener = TcpListener::bind(address)?;
    // The standard library asks for 128. Listening again replaces that number.
    rustix::net::listen(&listener, BACKLOG)?;
    println!("listening on {}", listener.local_addr()?);
    Ok(listener)
}

/// The answer to a request head: its size once it is complete, and the bytes to send.
///
/// `None` while the head is not complete. An answer other than 101 closes.
pub fn answer(bytes: &[u8]) -> Option<(usize, Answer)> {
    let size = bytes.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let head = String::from_utf8_lossy(&bytes[..size]);
    let field = |line: &str| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("sec-websocket-key").then(|| value.trim().to_owned())
    };
    let answer = match head.lines().find_map(field) {
        Some(key) if head.starts_with("GET /v1/ingest ") => Answer::Upgraded(format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {}\r\n\r\n",
            BASE64.encode(&Sha1::digest(key + ACCEPT_GUID))
        )),
        _ => Answer::Refused("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"),
    };
    Some((size, answer))
}

/// What a request head gets.
#[derive(Debug)]
pub enum Answer {
    /// 101: WebSocket frames follow.
    Upgraded(String),
    /// The connection closes.
    Refused(&'static str),
}

/// Listens on tokio's epoll, one task a connection, on one thread.
#[cfg(feature = "tokio")]
pub fn serve_on_epoll<S, E>(serve: impl Fn(tokio::net::TcpStream) -> S) -> io::Result<()>
where
    S: Future<Output = Result<(), E>> + Send + 'static,
{
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(async {
        let listener = listen()?;
        listener.set_nonblocking(true)?;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        loop {
            let (stream, _) = listener.accept().await?;
            let connection = serve(stream);
            // An error of a client ends only its own connection.
            tokio::spawn(async move { drop(connection.await) });
        }
    })
}

/// Reads the request head from a socket and answers it. The client waits for the answer, so that
/// no frame follows the head.
#[cfg(feature = "tokio")]
pub async fn upgrade(stream: &mut tokio::net::TcpStream) -> io::Result<()> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    stream.set_nodelay(true)?;
    let mut head = Vec::with_capacity(HEAD_SIZE_MAX);
    loop {
        if head.len() >= HEAD_SIZE_MAX || stream.read_buf(&mut head).await? == 0 {
            return Err(io::ErrorKind::InvalidData.into());
        }
        match answer(&head) {
            None => {}
            Some((size, Answer::Upgraded(text))) if size == head.len() => {
                return stream.write_all(text.as_bytes()).await;
            }
            Some(_) => return Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

/// Frames and bytes of one call.
#[derive(Debug, Default)]
pub struct Call {
    interaction: String,
    sample_rate: u64,
    frames: u64,
    bytes: u64,
}

/// What a text of the client asks for.
#[derive(Debug)]
pub enum Event {
    /// Send this.
    Started(String),
    /// Send this, then a Close 1000.
    Stopped(String),
}

impl Call {
    /// Takes a text; an unknown one is ignored, as the node does.
    pub fn handle_text(&mut self, text: &[u8]) -> Option<Event> {
        let event: Value = serde_json::from_slice(text).ok()?;
        let interaction = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        match event["event"].as_str()? {
            "start" => {
                self.interaction = interaction(&event["interaction_id"]);
                self.sample_rate = event["sample_rate"].as_u64()?.max(1);
                let started = json!({"event": "started", "interaction_id": self.interaction});
                Some(Event::Started(started.to_string()))
            }
            "stop" => {
                let stopped = json!({
                    "event": "stopped",
                    "interaction_id": self.interaction,
                    "seq": self.frames,
                    "bytes": self.bytes,
                    "duration_ms": self.bytes / 2 * 1_000 / self.sample_rate.max(1),
                    "durable_seq": null,
                });
                Some(Event::Stopped(stopped.to_string()))
            }
            _ => None,
        }
    }

    /// Counts a whole frame of `size` bytes; the ACK, if one is due.
    pub fn handle_frame(&mut self, size: u64) -> Option<String> {
        self.frames += 1;
        self.bytes += size;
        let is_due = self.frames.is_multiple_of(ACK_EVERY);
        is_due.then(|| format!(r#"{{"event":"ack","seq":{}}}"#, self.frames))
    }
}

/// A text of ours as a WebSocket frame, for the peers without a library.
pub fn text_frame(text: &str) -> Vec<u8> {
    let size = u16::try_from(text.len()).expect("our texts are short");
    let mut frame = vec![0x81];
    match size {
        0..126 => frame.push(size as u8),
        _ => frame.extend([[126].as_slice(), &size.to_be_bytes()].concat()),
    }
    frame.extend(text.as_bytes());
    frame
}

/// Preallocated memory that frames are copied into, one after another, over and over again.
#[derive(Debug)]
pub struct Ring {
    memory: Vec<u8>,
    position: usize,
}

impl Default for Ring {
    fn default() -> Self {
        // Not zeros: those the kernel would hand out page by page, and the first round would fault.
        Self { memory: vec![1; RING_SIZE], position: 0 }
    }
}

impl Ring {
    /// Copies bytes that a library has unmasked.
    pub fn append(&mut self, bytes: &[u8]) {
        let (bytes, rest) = bytes.split_at(bytes.len().min(self.memory.len() - self.position));
        self.memory[self.position..self.position + bytes.len()].copy_from_slice(bytes);
        self.position += bytes.len();
        if self.position == self.memory.len() {
            self.position = 0;
        }
        if !rest.is_empty() {
            self.append(rest);
        }
    }

    /// Copies and unmasks in one pass.
    pub fn append_masked(&mut self, bytes: &[u8], mask: [u8; 4]) {
        let (bytes, rest) = bytes.split_at(bytes.len().min(self.memory.len() - self.position));
        let into = &mut self.memory[self.position..self.position + bytes.len()];
        let mask_8 = u64::from_ne_bytes([mask, mask].concat().try_into().expect("eight bytes"));
        let whole = bytes.len() / 8 * 8;
        for (to, from) in into[..whole].chunks_exact_mut(8).zip(bytes.chunks_exact(8)) {
            let word = u64::from_ne_bytes(from.try_into().expect("eight bytes")) ^ mask_8;
            to.copy_from_slice(&word.to_ne_bytes());
        }
        for (index, to) in into.iter_mut().enumerate().skip(whole) {
            *to = bytes[index] ^ mask[index % 4];
        }
        self.position += bytes.len();
        if self.position == self.memory.len() {
            self.position = 0;
        }
        if !rest.is_empty() {
            self.append_masked(rest, rotate(mask, bytes.len() as u64));
        }
    }
}

/// The mask for the byte at `offset` and those after it.
fn rotate(mut mask: [u8; 4], offset: u64) -> [u8; 4] {
    mask.rotate_left((offset % 4) as usize);
    mask
}

/// What the decoder finds in received bytes.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// Masked bytes of an audio frame.
    Audio {
        /// As received.
        payload: &'a [u8],
        /// The mask, turned so that it fits the first byte.
        mask: [u8; 4],
        /// The size of the whole frame, with its last piece.
        whole: Option<u64>,
    },
    /// A whole text, unmasked.
    Text(Vec<u8>),
    /// The client's Close, or a frame that no client may send.
    Close,
}

/// Reads frames out of received bytes, wherever these are cut. Call contract: [`Decoder::poll`]
/// until it returns `None`, which is when all bytes have been taken.
///
/// Messages in several fragments are not put together: the generators send none.
#[derive(Debug, Default)]
pub struct Decoder {
    header: [u8; 14],
    header_known: usize,
    /// The header is complete; payload follows.
    in_payload: bool,
    size: u64,
    taken: u64,
    mask: [u8; 4],
    text: Vec<u8>,
}

impl Decoder {
    /// The next piece. Takes what it used from the front of `bytes`.
    pub fn poll<'a>(&mut self, bytes: &mut &'a [u8]) -> Option<Piece<'a>> {
        loop {
            if !self.in_payload && !self.gather_header(bytes) {
                return None;
            }
            let left = self.size - self.taken;
            if left > 0 && bytes.is_empty() {
                return None;
            }
            let offset = self.taken;
            let payload = bytes.split_off(..(bytes.len() as u64).min(left) as usize)?;
            self.taken += payload.len() as u64;
            let is_whole = self.taken == self.size;
            if is_whole {
                self.in_payload = false;
                self.header_known = 0;
            }
            let mask = rotate(self.mask, offset);
            match self.header[0] & 0x0F {
                0 | 2 => {
                    return Some(Piece::Audio {
                        payload,
                        mask,
                        whole: is_whole.then_some(self.size),
                    });
                }
                1 if self.size <= TEXT_SIZE_MAX as u64 => {
                    self.text.extend(payload.iter().zip(mask.iter().cycle()).map(|(a, b)| a ^ b));
                    if is_whole {
                        return Some(Piece::Text(std::mem::take(&mut self.text)));
                    }
                }
                // Pings and pongs: the generators send none that wait for an answer.
                9 | 10 => {}
                _ => return Some(Piece::Close),
            }
        }
    }

    /// True once the header is complete.
    fn gather_header(&mut self, bytes: &mut &[u8]) -> bool {
        while self.header_known < self.header_size() {
            let wanted = (self.header_size() - self.header_known).min(bytes.len());
            let Some(part) = bytes.split_off(..wanted).filter(|part| !part.is_empty()) else {
                return false;
            };
            self.header[self.header_known..self.header_known + wanted].copy_from_slice(part);
            self.header_known += wanted;
        }
        let length = &self.header[2..self.header_size() - 4];
        self.size = match length.len() {
            0 => u64::from(self.header[1] & 0x7F),
            _ => length.iter().fold(0, |size, byte| size << 8 | u64::from(*byte)),
        };
        let end = self.header_size();
        self.mask.copy_from_slice(&self.header[end - 4..end]);
        self.taken = 0;
        self.in_payload = true;
        true
    }

    /// As far as it is known. Clients mask every frame (RFC 6455 §5.3).
    fn header_size(&self) -> usize {
        match self.header[1] & 0x7F {
            _ if self.header_known < 2 => 2,
            126 => 8,
            127 => 14,
            _ => 6,
        }
    }
}

#[cfg(test)]
mod tests;
