//! A hostile peer's socket, plain or with TLS. It can read and write at once, and give up midway.

#![forbid(unsafe_code)]

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use rustls::ClientConnection;
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::ear::Ear;
use super::ending::Ending;
use super::endings::LATE_MAX;
use crate::target::Target;
use crate::tls::Tls;

/// Longest time of a connect. SYNs that a full backlog dropped are sent again after 1 s and 3 s.
const CONNECT_WAIT: Duration = Duration::from_secs(8);

/// Bytes of a read.
const READ_SIZE: usize = 4 * 1024;

/// Options of a socket.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Use the smallest receive buffer and small segments, so that there is soon no room for the
    /// node's answers.
    pub is_tiny: bool,
}

/// One connection.
pub struct Peer {
    stream: TcpStream,
    tls: Option<Box<ClientConnection>>,
    /// Bytes that the socket has not taken yet.
    pending: Vec<u8>,
    /// Bytes that it has taken.
    pub sent: u64,
}

impl Peer {
    /// Connects; the TLS handshake is another step.
    pub async fn connect(address: SocketAddr, options: Options) -> Result<Self, Ending> {
        let connecting = tokio::time::timeout(CONNECT_WAIT, connect(address, options)).await;
        let stream = connecting
            .map_err(|_| Ending::NotConnected)?
            .map_err(|error| Ending::of_connect(&error))?;
        Ok(Self { stream, tls: None, pending: Vec::new(), sent: 0 })
    }

    /// Does the TLS handshake, if there is TLS.
    pub async fn secure(&mut self, tls: Option<&Tls>) -> Result<(), Ending> {
        let Some(tls) = tls else { return Ok(()) };
        let connection = tls.begin(false).map_err(|error| Ending::Odd(error.to_string()))?;
        self.tls = Some(Box::new(connection));
        let mut plain = Vec::new();
        loop {
            self.encrypt(&[]).map_err(|error| Ending::of_io(&error))?;
            self.flush().await.map_err(|error| Ending::of_io(&error))?;
            if self.tls.as_ref().is_some_and(|connection| !connection.is_handshaking()) {
                return Ok(());
            }
            self.read(&mut plain).await.map_err(|error| Ending::of_io(&error))?;
        }
    }

    /// The TLS connection, for attacks on TLS itself.
    pub fn tls(&mut self) -> Option<&mut ClientConnection> {
        self.tls.as_deref_mut()
    }

    /// Queues bytes, and sends what the socket takes now. True if it took all.
    pub fn try_write(&mut self, bytes: &[u8]) -> io::Result<bool> {
        self.encrypt(bytes)?;
        self.try_flush()
    }

    /// Sends all bytes, and does not read meanwhile.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), Ending> {
        self.encrypt(bytes).map_err(|error| Ending::of_io(&error))?;
        self.flush().await.map_err(|error| Ending::of_io(&error))
    }

    /// Whether all queued bytes have been sent.
    pub fn is_flushed(&self) -> bool {
        self.pending.is_empty()
    }

    /// Waits until the socket takes bytes.
    pub async fn writable(&self) -> io::Result<()> {
        self.stream.writable().await
    }

    /// Sends what the socket takes of the queued bytes. True if it took all.
    pub fn try_flush(&mut self) -> io::Result<bool> {
        while !self.pending.is_empty() {
            match self.stream.try_write(&self.pending) {
                Ok(size) => {
                    self.sent += size as u64;
                    self.pending.drain(..size);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Reads once, and appends to `plain`. The end of the stream is an error.
    pub async fn read(&mut self, plain: &mut Vec<u8>) -> io::Result<()> {
        loop {
            self.stream.readable().await?;
            if self.try_read(plain)? {
                return Ok(());
            }
        }
    }

    /// Reads what is there, and appends to `plain`. False if nothing is there.
    pub fn try_read(&mut self, plain: &mut Vec<u8>) -> io::Result<bool> {
        let mut buffer = [0; READ_SIZE];
        let size = match self.stream.try_read(&mut buffer) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(size) => size,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error),
        };
        match &mut self.tls {
            Some(tls) => decrypt(tls, &buffer[..size], plain)?,
            None => plain.extend_from_slice(&buffer[..size]),
        }
        Ok(true)
    }

    /// Reads all that is left on a connection that has failed. True if there was something.
    pub fn drain(&mut self, plain: &mut Vec<u8>) -> bool {
        let before = plain.len();
        while matches!(self.try_read(plain), Ok(true)) {}
        plain.len() > before
    }

    /// Waits until there is something to read or, with `writes`, room to write.
    pub async fn ready(&self, writes: bool) -> io::Result<()> {
        let interest =
            if writes { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE };
        self.stream.ready(interest).await.map(drop)
    }

    /// Listens until the node ends the connection, or until `deadline`.
    pub async fn listen(&mut self, ear: &mut Ear, deadline: Instant) -> Ending {
        let listening = async {
            let mut plain = Vec::new();
            loop {
                if let Err(error) = self.read(&mut plain).await {
                    return Ending::of_io(&error);
                }
                if let Some(ending) = ear.handle_bytes(&plain) {
                    return ending;
                }
                plain.clear();
            }
        };
        tokio::time::timeout_at(deadline, listening).await.unwrap_or(Ending::NotClosed)
    }

    /// Listens until `is_done`. The error is an ending that came before.
    pub async fn await_that(
        &mut self,
        ear: &mut Ear,
        wait: Duration,
        is_done: impl Fn(&Ear) -> bool,
    ) -> Result<(), Ending> {
        let listening = async {
            let mut plain = Vec::new();
            while !is_done(ear) {
                self.read(&mut plain).await.map_err(|error| Ending::of_io(&error))?;
                if let Some(ending) = ear.handle_bytes(&plain) {
                    return Err(ending);
                }
                plain.clear();
            }
            Ok(())
        };
        tokio::time::timeout(wait, listening).await.unwrap_or(Err(Ending::NotClosed))
    }

    /// Ends the connection by RST: bytes in flight are lost.
    pub fn reset(self) {
        // socket2 0.4 takes a stream of the standard library, and none of tokio.
        if let Ok(stream) = self.stream.into_std() {
            let _ = Socket::from(stream).set_linger(Some(Duration::ZERO));
        }
    }

    /// Resets the connection, so that its port does not wait for late packets. Returns the bytes
    /// sent.
    pub fn drop_now(self) -> u64 {
        let sent = self.sent;
        self.reset();
        sent
    }

    async fn flush(&mut self) -> io::Result<()> {
        while !self.try_flush()? {
            self.stream.writable().await?;
        }
        Ok(())
    }

    /// Queues bytes, sealed if there is TLS, and the bytes of TLS itself.
    fn encrypt(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Some(tls) = &mut self.tls else {
            self.pending.extend_from_slice(bytes);
            return Ok(());
        };
        if !bytes.is_empty() {
            io::Write::write_all(&mut tls.writer(), bytes)?;
        }
        while tls.wants_write() {
            tls.write_tls(&mut self.pending)?;
        }
        Ok(())
    }
}

/// How long to wait for the node to end a peer, if it must do so within `limit`.
pub fn patience(limit: Duration) -> Duration {
    limit + LATE_MAX
}

/// The node, and how to connect to it.
#[derive(Clone, Copy)]
pub struct Node<'a> {
    /// Its address.
    pub target: &'a Target,
    /// None for a plain port.
    pub tls: Option<&'a Tls>,
}

impl Node<'_> {
    /// A connection, with TLS where the URL asks for it.
    pub async fn connect(&self, options: Options) -> Result<Peer, Ending> {
        let mut peer = Peer::connect(self.target.address, options).await?;
        peer.secure(self.tls).await?;
        Ok(peer)
    }
}

async fn connect(address: SocketAddr, options: Options) -> io::Result<TcpStream> {
    if !options.is_tiny {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        return Ok(stream);
    }
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_recv_buffer_size(1)?;
    // The kernel counts the node's send buffer in segments. With the usual 64 KiB of the loopback
    // it would take megabytes before it is full.
    socket.set_mss(536)?;
    socket.set_nonblocking(true)?;
    match socket.connect(&SockAddr::from(address)) {
        Err(error)
            if error.raw_os_error() != Some(rustix::io::Errno::INPROGRESS.raw_os_error()) =>
        {
            return Err(error);
        }
        _ => {}
    }
    let stream = TcpStream::from_std(socket.into())?;
    stream.writable().await?;
    stream.take_error()?.map_or(Ok(()), Err)?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn decrypt(tls: &mut ClientConnection, mut bytes: &[u8], plain: &mut Vec<u8>) -> io::Result<()> {
    while !bytes.is_empty() {
        tls.read_tls(&mut bytes)?;
        let state = tls.process_new_packets().map_err(io::Error::other)?;
        let size = state.plaintext_bytes_to_read();
        let start = plain.len();
        plain.resize(start + size, 0);
        io::Read::read_exact(&mut tls.reader(), &mut plain[start..])?;
    }
    Ok(())
}
