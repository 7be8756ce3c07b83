//! A connection's socket, plain or with TLS. It takes and gives the bytes of the WebSocket.
//!
//! A reading and a writing task share it. With TLS only the writing task sends, because records
//! have to leave in the order in which they were sealed. Bytes of rustls itself (an answer to a
//! KeyUpdate) wait for it, see [`Socket::wants_write`].

use std::cell::{Cell, RefCell};
use std::io::{self, BufRead, Write};
use std::net::{Shutdown, SocketAddr};
use std::time::Duration;

use rustls::{ClientConnection, HandshakeKind};
use tokio_uring::net::TcpStream;

use crate::failure::{Failure, Reason};
use crate::gate::Gate;
use crate::tls::{self, Tls};

/// Bytes of a read of a live call: some acks, or one record of them.
const RECORD_READ_SIZE: usize = 512;

/// Bytes of a read during the handshake: the node's certificates come in one read or two.
const HANDSHAKE_READ_SIZE: usize = 4_096;

/// The socket.
pub struct Socket {
    stream: TcpStream,
    tls: Option<Box<Layer>>,
}

/// What TLS adds to a socket.
struct Layer {
    connection: RefCell<ClientConnection>,
    /// Sealed bytes of a read; kept from one to the next.
    sealed: RefCell<Vec<u8>>,
    /// The peer's close_notify has come.
    is_closed: Cell<bool>,
}

/// A handshake that is done.
#[derive(Debug, Clone, Copy, Default)]
pub struct Handshake {
    /// With a ticket.
    pub is_resumed: bool,
    /// CPU time of this side, nanoseconds.
    pub cpu_ns: u64,
}

impl Socket {
    /// Connects by TCP.
    pub async fn connect(address: SocketAddr) -> Result<Self, Failure> {
        let failed = |error: io::Error| Failure::new(Reason::ConnectFailed, error.to_string());
        let stream = TcpStream::connect(address).await.map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        Ok(Self { stream, tls: None })
    }

    /// Makes it a TLS connection. `again`: with a ticket, if there is one.
    pub async fn secure(
        &mut self,
        tls: &Tls,
        again: bool,
        gate: &Gate,
    ) -> Result<Handshake, Failure> {
        let (begun, mut cpu_ns) = gate.pass(|| tls.begin(again)).await;
        let mut connection = begun.map_err(|error| failed(&error))?;
        let mut buffer = Vec::with_capacity(HANDSHAKE_READ_SIZE);
        loop {
            let output = take_output(&mut connection);
            if !output.is_empty() {
                self.stream.write_all(output).await.0.map_err(dropped)?;
            }
            if !connection.is_handshaking() {
                break;
            }
            let done;
            buffer.clear();
            (done, buffer) = self.stream.read(buffer).await;
            if done.map_err(dropped)? == 0 {
                return Err(Failure::new(
                    Reason::Dropped,
                    "the connection ended during the TLS handshake",
                ));
            }
            let (fed, ns) = gate.pass(|| feed(&mut connection, &buffer)).await;
            cpu_ns += ns;
            if let Err(error) = fed {
                // The alert that says why.
                let _ = self.stream.write_all(take_output(&mut connection)).await;
                return Err(failed(&error));
            }
        }
        tls.note(&connection);
        let is_resumed = connection.handshake_kind() == Some(HandshakeKind::Resumed);
        self.tls = Some(Box::new(Layer {
            connection: RefCell::new(connection),
            sealed: RefCell::default(),
            is_closed: Cell::new(false),
        }));
        Ok(Handshake { is_resumed, cpu_ns })
    }

    /// Reads once into `buffer`. Returns the number of bytes, none if the peer has ended the
    /// stream. With TLS a read can bring 0 bytes.
    pub async fn read(&self, mut buffer: Vec<u8>) -> (Result<Option<usize>, Failure>, Vec<u8>) {
        buffer.clear();
        let Some(layer) = &self.tls else {
            let (done, buffer) = self.stream.read(buffer).await;
            return (done.map(|size| (size > 0).then_some(size)).map_err(dropped), buffer);
        };
        let read = layer.read(&self.stream, &mut buffer).await;
        (read.map(|is_open| is_open.then_some(buffer.len())), buffer)
    }

    /// Sends all of it.
    pub async fn write_all(&self, bytes: Vec<u8>) -> io::Result<()> {
        if self.tls.is_none() {
            return self.stream.write_all(bytes).await.0;
        }
        let mut sealed = Vec::with_capacity(bytes.len() + 64);
        self.seal(&bytes, &mut sealed)?;
        self.write_sealed(sealed).await.0
    }

    /// Whether bytes have to be sealed before they are sent.
    pub fn is_secure(&self) -> bool {
        self.tls.is_some()
    }

    /// Appends `bytes` to `sealed` as records. They have to be sent before others are sealed.
    pub fn seal(&self, bytes: &[u8], sealed: &mut Vec<u8>) -> io::Result<()> {
        let Some(layer) = &self.tls else {
            sealed.extend_from_slice(bytes);
            return Ok(());
        };
        let mut connection = layer.connection.borrow_mut();
        connection.writer().write_all(bytes)?;
        while connection.wants_write() {
            connection.write_tls(sealed)?;
        }
        Ok(())
    }

    /// Sends bytes as they are: plain ones of a plain socket, or records.
    pub async fn write_sealed(&self, bytes: Vec<u8>) -> (io::Result<()>, Vec<u8>) {
        self.stream.write_all(bytes).await
    }

    /// Whether TLS has bytes of its own to send: [`Socket::flush`] sends them.
    pub fn wants_write(&self) -> bool {
        self.tls.as_ref().is_some_and(|layer| layer.connection.borrow().wants_write())
    }

    /// Sends the bytes of TLS itself.
    pub async fn flush(&self) -> io::Result<()> {
        self.write_all(Vec::new()).await
    }

    /// Queues close_notify: nothing is sent after it.
    pub fn queue_close_notify(&self) {
        if let Some(layer) = &self.tls {
            layer.connection.borrow_mut().send_close_notify();
        }
    }

    /// Whether the peer has sent close_notify, after its last byte. A plain socket has none: true.
    pub fn is_closed_by_peer(&self) -> bool {
        self.tls.as_ref().is_none_or(|layer| layer.is_closed.get())
    }

    /// Ends both directions, so that pending operations return.
    pub fn shutdown(&self) {
        // An error means that the connection has ended already.
        let _ = self.stream.shutdown(Shutdown::Both);
    }

    /// Makes the kernel send a RST when the last task has dropped the socket, and wakes the task
    /// that reads. `is_writing`: another task waits for room to send, and is woken too.
    pub fn reset(&self, is_writing: bool) {
        // Without it the peer gets a FIN, and the connection ends all the same.
        let _ = socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
        // Shutting down the receiving side sends nothing.
        let _ = self.stream.shutdown(if is_writing { Shutdown::Both } else { Shutdown::Read });
    }
}

impl Layer {
    /// False once the peer has ended the stream.
    async fn read(&self, stream: &TcpStream, plain: &mut Vec<u8>) -> Result<bool, Failure> {
        // Data can come in one read with the end of the handshake.
        drain(&mut self.connection.borrow_mut(), plain);
        if !plain.is_empty() || self.is_closed.get() {
            return Ok(!plain.is_empty());
        }
        let mut sealed = self.sealed.take();
        sealed.clear();
        sealed.reserve(RECORD_READ_SIZE);
        let done;
        (done, sealed) = stream.read(sealed).await;
        let is_open = done.map_err(dropped)? > 0;
        let fed = open(&mut self.connection.borrow_mut(), &sealed, plain);
        self.sealed.replace(sealed);
        if fed.map_err(|error| failed(&error))? {
            self.is_closed.set(true);
            return Ok(!plain.is_empty());
        }
        Ok(is_open)
    }
}

/// The bytes that rustls has to send.
fn take_output(connection: &mut ClientConnection) -> Vec<u8> {
    let mut output = Vec::new();
    // A vector takes every write.
    while connection.wants_write() && connection.write_tls(&mut output).is_ok() {}
    output
}

/// Gives bytes of the handshake to rustls. Data after it in the same read stays there.
fn feed(connection: &mut ClientConnection, mut sealed: &[u8]) -> Result<(), rustls::Error> {
    while !sealed.is_empty() {
        let taken = connection
            .read_tls(&mut sealed)
            .map_err(|error| rustls::Error::General(error.to_string()))?;
        connection.process_new_packets()?;
        if taken == 0 {
            break;
        }
    }
    Ok(())
}

/// Opens records into `plain`. True once the peer's close_notify has come.
fn open(
    connection: &mut ClientConnection,
    mut sealed: &[u8],
    plain: &mut Vec<u8>,
) -> Result<bool, rustls::Error> {
    while !sealed.is_empty() {
        let taken = connection
            .read_tls(&mut sealed)
            .map_err(|error| rustls::Error::General(error.to_string()))?;
        let is_closed = connection.process_new_packets()?.peer_has_closed();
        drain(connection, plain);
        if is_closed || taken == 0 {
            return Ok(is_closed);
        }
    }
    Ok(false)
}

fn drain(connection: &mut ClientConnection, plain: &mut Vec<u8>) {
    let mut reader = connection.reader();
    // An error means that there is no more data, now or ever.
    while let Ok(chunk) = reader.fill_buf() {
        let size = chunk.len();
        if size == 0 {
            return;
        }
        plain.extend_from_slice(chunk);
        reader.consume(size);
    }
}

fn failed(error: &rustls::Error) -> Failure {
    Failure::new(Reason::TlsFailed, tls::explain(error))
}

/// The failure of a connection that has ended.
pub fn dropped(error: io::Error) -> Failure {
    Failure::new(Reason::Dropped, error.to_string())
}
