//! What a shard needs of the world: a clock, sockets, files, memory. Behind one trait with two implementations: the kernel's
//! ring ([`uring::Uring`]) and a scripted one in memory ([`scripted::Scripted`]) that tests drive step by step.
//!
//! Nothing here knows HTTP, WebSocket, sessions or the journal's format. Operations are queued by the verbs below, go to the
//! kernel together in [`Io::submit`], and come back as [`Completion`]s that carry the [`UserData`] they were queued with. No
//! verb blocks but `submit`, and that only as long as its [`Wait`] says.

use crate::clock::Now;
use bytes::BytesMut;
use rustix::io::Errno;
use std::net::SocketAddr;
use std::time::Duration;

pub mod affinity;
pub mod buffer_ring;
pub mod inherited;
pub mod memory;
pub mod probe;
pub mod scripted;
pub mod socket;
pub mod uring;
pub mod user_data;

pub use user_data::{OpKind, UserData};

/// A connected socket, as the number the [`Io`] that accepted it knows it by. Closed by [`Io::close`] alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Socket(pub i32);

/// An open file, as the number the [`Io`] that opened it knows it by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileHandle(pub i32);

/// A pooled send buffer, owned by whoever acquired it until it is released.
#[derive(Debug, PartialEq, Eq)]
pub struct SendSlot(u32);

/// Received bytes in one of the shard's receive buffers; goes back with [`Io::recycle`] once they have been looked at.
#[derive(Debug, PartialEq, Eq)]
pub struct Received {
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

/// The end of an operation, or one of the many results of a multishot one.
#[derive(Debug)]
pub struct Completion {
    /// What was queued.
    pub user_data: UserData,
    /// Bytes, a descriptor or zero, as the operation has it; or why it failed.
    pub result: Result<u32, Errno>,
    /// Whether the operation stays armed and more completions of it will come. It is this flag, never the errno, that says
    /// whether a multishot operation has to be armed again.
    pub more: bool,
    /// The bytes of a receive.
    pub received: Option<Received>,
}

/// How long [`Io::submit`] may wait for completions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Not at all.
    No,
    /// Gathers: returns once `want` completions are there, or `gather` has passed and there is at least one, or `limit` has
    /// passed. One wake-up then serves many frames.
    Gather {
        /// Enough completions to wake at once.
        want: u32,
        /// How long a lone completion may wait for others.
        gather: Duration,
        /// Longest wait without any completion; `None` waits for one as long as it takes.
        limit: Option<Duration>,
    },
}

/// The world as one shard sees it. All calls come from the shard's thread.
pub trait Io {
    /// Both clocks.
    fn now(&mut self) -> Now;

    /// Arms multishot accept on the shard's listener. Each completion carries a new [`Socket`]'s number.
    fn accept(&mut self, user_data: UserData);

    /// Stops listening for good. The armed accept has to be cancelled first.
    fn close_listener(&mut self);

    /// Address of the other end of an accepted socket, `None` where it is gone already. (Multishot accept yields no address.)
    fn peer_address(&mut self, socket: Socket) -> Option<SocketAddr>;

    /// Sends `bytes` as far as the socket takes them at once, and closes it: for a connection there is no slot for.
    fn turn_away(&mut self, socket: Socket, bytes: &[u8]);

    /// Arms multishot receive into the shard's receive buffers. A completion with zero bytes is the peer's FIN; `ENOBUFS` means
    /// that all receive buffers are in use.
    fn receive(&mut self, socket: Socket, user_data: UserData);

    /// The bytes of a receive completion, writable in place.
    fn received(&mut self, received: &Received) -> &mut [u8];

    /// Gives the bytes of a receive completion back. Every [`Received`] must come back, in any order.
    fn recycle(&mut self, received: Received);

    /// A free send buffer, `None` when all are under way.
    fn acquire_slot(&mut self) -> Option<SendSlot>;

    /// The memory of a send buffer.
    fn slot(&mut self, slot: &SendSlot) -> &mut [u8];

    /// Makes a send buffer free again. Not before the completion of a send from it.
    fn release_slot(&mut self, slot: SendSlot);

    /// Sends the first `size` bytes of `slot` without waiting for the socket to have room: completes at once, with as many
    /// bytes as it took, or `EAGAIN`.
    fn send(&mut self, socket: Socket, slot: &SendSlot, size: usize, user_data: UserData);

    /// Sends some of `bytes` as soon as the socket has room. Holds the bytes until [`Io::take_rest`].
    fn send_rest(&mut self, socket: Socket, bytes: BytesMut, user_data: UserData);

    /// The bytes given to [`Io::send_rest`] under `user_data`, whose completion has come. All of them: the caller drops what was
    /// sent.
    fn take_rest(&mut self, user_data: UserData) -> BytesMut;

    /// Ends our direction of a connection: FIN goes out after everything sent. An armed receive goes on.
    fn shut_down(&mut self, socket: Socket, user_data: UserData);

    /// Cancels an operation. It still completes (`ECANCELED`, or what it was about to); so does the cancel.
    fn cancel(&mut self, target: UserData, user_data: UserData);

    /// Closes a socket. Nothing may be under way on it: an armed receive would keep the connection open. No completion.
    fn close(&mut self, socket: Socket);

    /// Arms one wake-up by the shard's mailbox.
    fn await_wake(&mut self, user_data: UserData);

    /// Writes `size` bytes of the shard's frame ring memory, from byte `start` of it, to a file at `file_offset`.
    fn write(&mut self, file: FileHandle, start: usize, size: usize, file_offset: u64, user_data: UserData);

    /// Memory for what goes to files beside the frame ring, [`SCRATCH_SIZE_MAX`](crate::constants::SCRATCH_SIZE_MAX) bytes that
    /// start on a block. Not to be touched while a write from it is under way.
    fn scratch(&mut self) -> &mut [u8];

    /// As [`Io::write`], from byte `start` of the scratch memory.
    fn write_scratch(&mut self, file: FileHandle, start: usize, size: usize, file_offset: u64, user_data: UserData);

    /// Makes everything durable whose write to the file had completed before this sync was submitted (`fdatasync`).
    fn sync(&mut self, file: FileHandle, user_data: UserData);

    /// Hands all queued operations to the kernel and waits for completions. An error means that the ring is unusable.
    fn submit(&mut self, wait: Wait) -> std::io::Result<()>;

    /// The next completion that has come in, if any.
    fn completion(&mut self) -> Option<Completion>;

    /// System calls made so far.
    fn system_calls(&self) -> u64;
}
