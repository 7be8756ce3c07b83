//! What a shard needs from outside: a clock, sockets, files, memory. One trait has two
//! implementations: the kernel's ring ([`uring::Uring`]), and a simulation in memory
//! (`scripted::Scripted`, with the feature `test-doubles`) that tests drive step by step.
//!
//! Nothing here knows HTTP, WebSocket, sessions or the journal's format. The methods below queue
//! operations. [`Io::submit`] passes them to the kernel together. They come back as [`Completion`]s
//! with the [`UserData`] that they were queued with. Only `submit` blocks, and only as long as its
//! [`Wait`] says.

use crate::clock::Now;
use bytes::BytesMut;
use rustix::io::Errno;
use std::net::SocketAddr;
use std::time::Duration;

pub(crate) mod affinity;
pub(crate) mod buffer_ring;
pub(crate) mod cgroup;
pub(crate) mod clocks;
pub(crate) mod host;
pub(crate) mod inherited;
pub mod memory;
pub(crate) mod pieces;
pub mod probe;
#[cfg(any(test, feature = "test-doubles"))]
pub mod scripted;
pub(crate) mod socket;
pub(crate) mod uring;
pub(crate) mod user_data;

pub(crate) use user_data::{OpKind, UserData};

/// A connected socket, by the number that the [`Io`] gave it when it was accepted. Only
/// [`Io::close`] closes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Socket(pub i32);

/// An open file, by the number that the [`Io`] gave it when it was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileHandle(pub i32);

/// The memory of a shard that its files are written from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteSource {
    /// The frame ring.
    FrameRing,
    /// [`Io::scratch`].
    Scratch,
}

/// A write to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileWrite {
    /// The file.
    pub file: FileHandle,
    /// Where the bytes are.
    pub source: WriteSource,
    /// Offset in that memory, bytes.
    pub start: usize,
    /// Bytes.
    pub size: usize,
    /// Offset in the file, bytes.
    pub offset: u64,
}

/// A pooled send buffer. The code that acquired it owns it until it is released.
#[derive(Debug, PartialEq, Eq)]
pub struct SendSlot(u32);

/// Received bytes in one of the shard's receive buffers. Return them with [`Io::recycle`] after
/// use.
#[derive(Debug, PartialEq, Eq)]
pub struct Received {
    group: BufferGroup,
    buffer: u16,
    offset: u32,
    size: u32,
}

impl Received {
    /// Number of bytes.
    pub fn size(&self) -> usize {
        self.size as usize
    }
}

/// The group of receive buffers. An armed receive and a read never compete for the same buffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BufferGroup {
    /// Buffers of [`Io::receive`]. The kernel takes one when bytes arrive, for any socket.
    Receive,
    /// Buffers of [`Io::read`]. A read takes one while it is submitted, so their number is known.
    Read,
}

/// The end of an operation, or one of the many results of a multishot operation.
#[derive(Debug)]
pub struct Completion {
    /// The user data of the operation.
    pub(crate) user_data: UserData,
    /// Depending on the operation: bytes, a descriptor or zero; or the error.
    pub(crate) result: Result<u32, Errno>,
    /// The operation stays armed, and more completions of it will come. Only this flag, never the
    /// errno, says whether a multishot operation must be armed again.
    pub(crate) more: bool,
    /// The socket of a receive or read held more bytes than this completion brings.
    pub(crate) socket_has_more: bool,
    /// The bytes of a receive.
    pub(crate) received: Option<Received>,
}

/// How long [`Io::submit`] may wait for completions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Does not wait.
    No,
    /// Gathers: returns when `want` completions are there, or when `gather` has passed and there is
    /// at least one, or when `limit` has passed. So one wake-up serves many frames.
    Gather {
        /// Number of completions that ends the wait at once.
        want: u32,
        /// How long a single completion may wait for others.
        gather: Duration,
        /// Longest wait without any completion; `None` waits until there is one.
        limit: Option<Duration>,
    },
}

/// Input and output of one shard. All calls come from the shard's thread.
pub trait Io {
    /// The time of both clocks.
    fn now(&mut self) -> Now;

    /// Arms an accept of one connection on the shard's listener. Its completion carries the number
    /// of the new [`Socket`].
    fn accept(&mut self, user_data: UserData);

    /// Stops listening for good. Cancel armed accepts first.
    fn close_listener(&mut self);

    /// Address of the other end of an accepted socket; `None` if it is already gone. (An accept
    /// does not store it, because many may be in progress.)
    fn peer_address(&mut self, socket: Socket) -> Option<SocketAddr>;

    /// Sends as many of `bytes` as the socket accepts at once, and closes it. For a connection that
    /// gets no slot.
    fn turn_away(&mut self, socket: Socket, bytes: &[u8]);

    /// Arms a multishot receive into the shard's receive buffers. A completion with zero bytes is
    /// the peer's FIN. `ENOBUFS` means that all receive buffers are in use.
    fn receive(&mut self, socket: Socket, user_data: UserData);

    /// Receives once, without waiting. It completes within the next submit, with what the socket
    /// holds (at most one buffer), or with `EAGAIN`. Not while a receive is armed on the same
    /// socket.
    fn read(&mut self, socket: Socket, user_data: UserData);

    /// How many more reads will find a buffer. A read without a buffer completes with `ENOBUFS`.
    fn read_buffers_free(&self) -> usize;

    /// The bytes of a receive completion, writable in place.
    fn received(&mut self, received: &Received) -> &mut [u8];

    /// Returns the bytes of a receive completion. Every [`Received`] must be returned, in any
    /// order.
    fn recycle(&mut self, received: Received);

    /// Returns a free send buffer; `None` if all are in use.
    fn acquire_slot(&mut self) -> Option<SendSlot>;

    /// The memory of a send buffer.
    fn slot(&mut self, slot: &SendSlot) -> &mut [u8];

    /// Frees a send buffer. Call it only after the completion of a send from it.
    fn release_slot(&mut self, slot: SendSlot);

    /// Sends the first `size` bytes of `slot` without waiting for room in the socket. Completes at
    /// once, with the number of bytes that the socket accepted, or with `EAGAIN`.
    fn send(&mut self, socket: Socket, slot: &SendSlot, size: usize, user_data: UserData);

    /// Sends some of `bytes` when the socket has room. Keeps the bytes until [`Io::take_rest`].
    fn send_rest(&mut self, socket: Socket, bytes: BytesMut, user_data: UserData);

    /// Returns the bytes that were given to [`Io::send_rest`] with `user_data`, after its
    /// completion. These are all bytes: the caller drops those that were sent.
    fn take_rest(&mut self, user_data: UserData) -> BytesMut;

    /// Ends our direction of a connection: FIN is sent after everything else. An armed receive goes
    /// on.
    fn shut_down(&mut self, socket: Socket, user_data: UserData);

    /// Cancels an operation. It still completes, with `ECANCELED` or its normal result; the cancel
    /// completes too.
    fn cancel(&mut self, target: UserData, user_data: UserData);

    /// Closes a socket. No operation may be in progress on it, because an armed receive would keep
    /// the connection open. There is no completion.
    fn close(&mut self, socket: Socket);

    /// Arms one wake-up by the shard's mailbox.
    fn await_wake(&mut self, user_data: UserData);

    /// Writes to a file.
    fn write(&mut self, write: FileWrite, user_data: UserData);

    /// Memory for file data that is not in the frame ring:
    /// [`SCRATCH_SIZE_MAX`](crate::constants::SCRATCH_SIZE_MAX) bytes, aligned to a block. Do not
    /// change it while a write from it is in progress.
    fn scratch(&mut self) -> &mut [u8];

    /// Makes all writes to the file durable that had completed before this sync was submitted
    /// (`fdatasync`).
    fn sync(&mut self, file: FileHandle, user_data: UserData);

    /// Passes all queued operations to the kernel, lets it finish what is ready, and waits for
    /// completions. After an error the ring is unusable.
    fn submit(&mut self, wait: Wait) -> std::io::Result<()>;

    /// The next completion, if any.
    fn completion(&mut self) -> Option<Completion>;

    /// Number of system calls so far.
    fn system_calls(&self) -> u64;
}
