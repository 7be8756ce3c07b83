//! A simulated world in memory for tests: sockets, files and a clock that move only when the script
//! says so.
//!
//! A test keeps a [`World`], gives its [`Scripted`] to a shard, and alternates with it. What peers
//! do ([`World::connect`], [`World::peer_sends`], …) becomes completions at the shard's next
//! `submit`, in the same order. Time passes only in [`World::advance`], and while the shard works
//! if [`World::set_tick`] says so. Faults are switches: windows that close, writes that are short,
//! syncs that fail.
#![forbid(unsafe_code)]

use super::memory::Region;
use super::{
    BufferGroup, Completion, FileHandle, FileWrite, Io, OpKind, Received, SendSlot, Socket,
    UserData, Wait, WriteSource,
};
use crate::clock::{Moment, Now, UnixMicros};
use crate::constants::{READ_BUFFER_COUNT, SCRATCH_SIZE_MAX};
use bytes::BytesMut;
use rustix::io::Errno;
use std::cell::{RefCell, RefMut};
use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

mod event;
mod file;
mod files;
pub mod log;
mod state;

use event::Event;
pub use file::SECTOR_SIZE;
use file::Source;
use state::{End, Peer, State};

/// Wall-clock time at which every script starts: 2026-01-01 00:00:00 UTC, in seconds.
pub const SCRIPT_START_UNIX: u64 = 1_767_225_600;

/// Most receive buffers in use at a time: 16 bits number them.
const BUFFERS_MAX: usize = u16::MAX as usize;

/// The script's handle on the world. Clones share it.
#[derive(Clone, Default)]
pub struct World {
    state: Rc<RefCell<State>>,
}

impl World {
    /// An empty world, its clocks at the start of the script.
    pub fn new() -> World {
        let world = World::default();
        world.state().receive_size_max = usize::MAX;
        world
    }

    /// A shard's view of the world, with `slot_count` send slots of `slot_size` bytes. Writes take
    /// their bytes from `frame_ring`.
    pub fn io(&self, slot_count: usize, slot_size: usize) -> Scripted {
        Scripted {
            world: self.clone(),
            slots: vec![vec![0; slot_size]; slot_count],
            free_slots: (0..slot_count as u32).rev().collect(),
            queue: Vec::new(),
            buffers: Buffers::default(),
            reads_pending: 0,
            rests: HashMap::new(),
            frame_ring: None,
            scratch: vec![0; SCRATCH_SIZE_MAX],
            submits: 0,
        }
    }

    fn state(&self) -> RefMut<'_, State> {
        self.state.borrow_mut()
    }

    /// Lets time pass on both clocks.
    pub fn advance(&self, duration: Duration) {
        self.state().elapsed += duration;
    }

    /// Lets time pass on both clocks while the shard waits in its next submit.
    pub fn sleep_in_submit(&self, duration: Duration) {
        self.state().sleep += duration;
    }

    /// From now on, this much time passes whenever the shard reads the clock: its own work takes
    /// time.
    pub fn set_tick(&self, tick: Duration) {
        self.state().tick = tick;
    }

    /// Steps only the wall clock, as an operator or NTP would.
    pub fn step_wall_clock(&self, seconds: i64) {
        self.state().wall_shift_secs += seconds;
    }

    /// Current time of both clocks.
    pub fn now(&self) -> Now {
        let state = self.state();
        let unix = (SCRIPT_START_UNIX as i64 + state.wall_shift_secs) as u64 * 1_000_000;
        Now {
            moment: Moment::from_nanos(1_000_000_000) + state.elapsed,
            unix: UnixMicros(unix + state.elapsed.as_micros() as u64),
        }
    }

    /// A peer connects from `address`; the shard accepts it at its next submit.
    pub fn connect(&self, address: &str) -> Socket {
        let mut state = self.state();
        state.socket_count += 1;
        let socket = Socket(1000 + state.socket_count);
        let peer = Peer {
            address: address.parse().expect("the script names a socket address"),
            inbound: VecDeque::new(),
            inbound_end: None,
            receive: None,
            outbound: Vec::new(),
            window: None,
            sending: None,
            shut_down: false,
            closed: false,
        };
        state.sockets.insert(socket.0, peer);
        state.backlog.push_back(Ok(socket));
        socket
    }

    /// The next accept fails with `error`.
    pub fn fail_accept(&self, error: Errno) {
        self.state().backlog.push_back(Err(error));
    }

    /// The peer's bytes arrive.
    pub fn peer_sends(&self, socket: Socket, bytes: &[u8]) {
        self.peer(socket).inbound.extend(bytes);
    }

    /// Bytes from the peer that the node has not received yet.
    pub fn unread_size(&self, socket: Socket) -> usize {
        self.peer(socket).inbound.len()
    }

    /// The peer ends its direction.
    pub fn peer_finishes(&self, socket: Socket) {
        self.peer(socket).inbound_end = Some(End::Finished);
    }

    /// The peer resets the connection; what it sent before is still received.
    pub fn peer_resets(&self, socket: Socket) {
        self.peer(socket).inbound_end = Some(End::Reset);
    }

    /// Returns everything that the node has sent to the peer since the last call.
    pub fn peer_reads(&self, socket: Socket) -> Vec<u8> {
        std::mem::take(&mut self.peer(socket).outbound)
    }

    /// The peer's window, in bytes that it still accepts; `None` accepts all.
    pub fn set_window(&self, socket: Socket, window: Option<usize>) {
        self.peer(socket).window = window;
    }

    /// Whether the node has sent its FIN.
    pub fn is_shut_down(&self, socket: Socket) -> bool {
        self.peer(socket).shut_down
    }

    /// Whether the node has closed the socket.
    pub fn is_closed(&self, socket: Socket) -> bool {
        self.peer(socket).closed
    }

    /// Whether the node has a receive armed on the socket.
    pub fn is_reading(&self, socket: Socket) -> bool {
        self.peer(socket).receive.is_some()
    }

    /// Whether the node is still listening.
    pub fn is_listening(&self) -> bool {
        !self.state().listener_closed
    }

    /// Largest number of bytes of one receive: 1 delivers them one at a time.
    pub fn set_receive_size_max(&self, size: usize) {
        self.state().receive_size_max = size;
    }

    /// Receive buffers that the kernel still has. Without any, receives end with `ENOBUFS`. `None`
    /// is unlimited.
    pub fn set_receive_buffers_free(&self, count: Option<usize>) {
        self.state().receive_buffers_free = count;
    }

    /// The wait of the shard's last submit.
    pub fn last_wait(&self) -> Option<Wait> {
        self.state().last_wait
    }

    /// Writes to the eventfd of the mailbox.
    pub fn wake(&self) {
        self.state().woken = true;
    }

    fn peer(&self, socket: Socket) -> RefMut<'_, Peer> {
        RefMut::map(self.state(), |state| {
            state.sockets.get_mut(&socket.0).expect("the script names a socket it connected")
        })
    }
}

/// A queued operation.
enum Queued {
    Accept(UserData),
    Receive(Socket, UserData),
    Read(Socket, UserData),
    Send { socket: Socket, bytes: Vec<u8>, user_data: UserData },
    SendRest { socket: Socket, bytes: BytesMut, user_data: UserData },
    ShutDown(Socket, UserData),
    Cancel { target: UserData, user_data: UserData },
    Close(Socket),
    Wake(UserData),
    Write { file: FileHandle, offset: u64, bytes: Vec<u8>, user_data: UserData, source: Source },
    Sync(FileHandle, UserData),
}

/// Reads (from, size) in the memory of the frame ring.
type ReadMemory = Rc<dyn Fn(usize, usize) -> Vec<u8>>;

/// The shard's side of a [`World`].
pub struct Scripted {
    world: World,
    slots: Vec<Vec<u8>>,
    free_slots: Vec<u32>,
    queue: Vec<Queued>,
    /// Received bytes that the shard has not recycled.
    buffers: Buffers,
    /// Reads that are queued and not completed.
    reads_pending: usize,
    rests: HashMap<UserData, BytesMut>,
    frame_ring: Option<ReadMemory>,
    scratch: Vec<u8>,
    submits: u64,
}

/// Received bytes, by the number of their buffer.
#[derive(Default)]
struct Buffers {
    bytes: HashMap<u16, Vec<u8>>,
    /// The last number that was used.
    last: u16,
    /// Buffers filled by reads.
    reads_held: usize,
}

impl Buffers {
    fn hold(&mut self, group: BufferGroup, bytes: Vec<u8>) -> Received {
        self.last = self.last.wrapping_add(1);
        while self.bytes.contains_key(&self.last) {
            self.last = self.last.wrapping_add(1);
        }
        self.reads_held += usize::from(group == BufferGroup::Read);
        let received = Received { group, buffer: self.last, offset: 0, size: bytes.len() as u32 };
        let held = self.bytes.insert(self.last, bytes);
        assert!(held.is_none(), "a script has 65,536 receive buffers: let larger pieces come");
        received
    }
}

impl Scripted {
    /// Sets how writes read the memory of the frame ring (from, size).
    pub fn use_frame_ring(&mut self, read: impl Fn(usize, usize) -> Vec<u8> + 'static) {
        self.frame_ring = Some(Rc::new(read));
    }

    /// Makes writes take their bytes from `region`, which belongs to a frame ring of the same
    /// thread.
    pub fn use_region(&mut self, region: &Region) {
        let lease = region.lease();
        self.use_frame_ring(move |start, size| lease.copy(start, size));
    }

    /// Received slices that are not recycled yet.
    pub fn outstanding(&self) -> usize {
        self.buffers.bytes.len()
    }

    /// Send slots that are not in use.
    pub fn slots_free(&self) -> usize {
        self.free_slots.len()
    }

    /// Whether nothing is queued and no completion waits: another submit would only bring what the
    /// script does meanwhile.
    pub fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.world.state().completions.is_empty()
    }

    fn perform(&mut self, queued: Queued) {
        let mut state = self.world.state();
        match queued {
            Queued::Accept(user_data) => state.accepting.push_back(user_data),
            Queued::Wake(user_data) => state.waking = Some(user_data),
            Queued::Receive(socket, user_data) => {
                let armed_before = state.peer(socket).receive.replace(user_data);
                assert!(armed_before.is_none(), "a socket has one receive armed at a time");
            }
            Queued::Read(socket, user_data) => {
                assert!(
                    state.peer(socket).receive.is_none(),
                    "a read beside an armed receive takes its bytes"
                );
                let is_free = self.buffers.reads_held < usize::from(READ_BUFFER_COUNT);
                let completion = state.read(socket, is_free);
                let received =
                    completion.bytes.map(|bytes| self.buffers.hold(BufferGroup::Read, bytes));
                state.completions.push_back(Completion {
                    user_data,
                    result: completion.result,
                    more: false,
                    socket_has_more: completion.socket_has_more,
                    received,
                });
            }
            Queued::Send { socket, bytes, user_data } => {
                let peer = state.peer(socket);
                assert!(
                    !peer.closed && peer.sending.is_none(),
                    "sent on a closed socket, or beside another send"
                );
                let result = match peer.take(&bytes) {
                    _ if peer.inbound_end == Some(End::Reset) => Err(Errno::PIPE),
                    0 if !bytes.is_empty() => Err(Errno::AGAIN),
                    taken => Ok(taken),
                };
                if let Ok(taken) = result {
                    state.note(|| Event::Told { socket, bytes: bytes[..taken].to_vec() });
                }
                state.complete(user_data, result.map(|taken| taken as u32));
            }
            Queued::SendRest { socket, bytes, user_data } => {
                let before = state.peer(socket).sending.replace((user_data, bytes));
                assert!(before.is_none(), "a socket has one send under way at a time");
            }
            Queued::ShutDown(socket, user_data) => {
                state.peer(socket).shut_down = true;
                state.complete(user_data, Ok(0));
            }
            Queued::Cancel { target, user_data } => {
                let found = state.cancel(target);
                state.complete(user_data, if found { Ok(0) } else { Err(Errno::NOENT) });
            }
            Queued::Close(socket) => {
                let peer = state.peer(socket);
                assert!(
                    peer.receive.is_none() && peer.sending.is_none(),
                    "closed with an operation under way"
                );
                assert!(!peer.closed, "closed twice: the number may be another socket's by then");
                peer.closed = true;
            }
            Queued::Write { file, offset, bytes, user_data, source } => {
                state.start_write(file, (offset as usize, bytes), user_data, source);
            }
            Queued::Sync(file, user_data) => state.start_sync(file, user_data),
        }
    }

    /// Turns what peers did into completions: accepts first, then one receive per socket and round
    /// until nothing is left.
    fn deliver(&mut self) {
        let mut guard = self.world.state();
        let state = &mut *guard;
        state.deliver_accepts();
        if state.woken
            && let Some(user_data) = state.waking.take()
        {
            state.woken = false;
            state.complete(user_data, Ok(8));
        }
        state.deliver_rests(&mut self.rests);
        let sockets: Vec<i32> = state.sockets.keys().copied().collect();
        loop {
            let mut progress = false;
            for socket in &sockets {
                if self.buffers.bytes.len() == BUFFERS_MAX {
                    // The rest comes after some buffers are recycled.
                    return;
                }
                if let Some(bytes) = state.deliver_receive(Socket(*socket)) {
                    progress = true;
                    if let Some((bytes, user_data)) = bytes {
                        let socket_has_more = !state.peer(Socket(*socket)).inbound.is_empty();
                        let received = self.buffers.hold(BufferGroup::Receive, bytes);
                        let (result, received) = (Ok(received.size), Some(received));
                        let completion =
                            Completion { user_data, result, more: true, socket_has_more, received };
                        state.completions.push_back(completion);
                    }
                }
            }
            if !progress {
                return;
            }
        }
    }
}

impl Io for Scripted {
    fn now(&mut self) -> Now {
        let tick = self.world.state().tick;
        self.world.advance(tick);
        self.world.now()
    }

    fn accept(&mut self, user_data: UserData) {
        self.queue.push(Queued::Accept(user_data));
    }

    fn close_listener(&mut self) {
        self.world.state().listener_closed = true;
    }

    fn peer_address(&mut self, socket: Socket) -> Option<SocketAddr> {
        let mut state = self.world.state();
        let peer = state.peer(socket);
        (peer.inbound_end != Some(End::Reset)).then_some(peer.address)
    }

    fn turn_away(&mut self, socket: Socket, bytes: &[u8]) {
        let mut state = self.world.state();
        let peer = state.peer(socket);
        peer.take(bytes);
        peer.closed = true;
    }

    fn receive(&mut self, socket: Socket, user_data: UserData) {
        self.queue.push(Queued::Receive(socket, user_data));
    }

    fn read(&mut self, socket: Socket, user_data: UserData) {
        self.reads_pending += 1;
        self.queue.push(Queued::Read(socket, user_data));
    }

    fn read_buffers_free(&self) -> usize {
        (usize::from(READ_BUFFER_COUNT) - self.buffers.reads_held)
            .saturating_sub(self.reads_pending)
    }

    fn received(&mut self, received: &Received) -> &mut [u8] {
        let bytes = self.buffers.bytes.get_mut(&received.buffer);
        bytes.expect("received bytes are looked at before they are recycled")
    }

    fn recycle(&mut self, received: Received) {
        let recycled = self.buffers.bytes.remove(&received.buffer);
        assert!(recycled.is_some(), "received bytes are recycled once");
        match received.group {
            BufferGroup::Read => self.buffers.reads_held -= 1,
            BufferGroup::Receive => {
                if let Some(free) = &mut self.world.state().receive_buffers_free {
                    *free += 1;
                }
            }
        }
    }

    fn acquire_slot(&mut self) -> Option<SendSlot> {
        self.free_slots.pop().map(SendSlot)
    }

    fn slot(&mut self, slot: &SendSlot) -> &mut [u8] {
        &mut self.slots[slot.0 as usize]
    }

    fn release_slot(&mut self, slot: SendSlot) {
        assert!(!self.free_slots.contains(&slot.0), "a slot is released once");
        self.free_slots.push(slot.0);
    }

    fn send(&mut self, socket: Socket, slot: &SendSlot, size: usize, user_data: UserData) {
        let bytes = self.slot(slot)[..size].to_vec();
        self.queue.push(Queued::Send { socket, bytes, user_data });
    }

    fn send_rest(&mut self, socket: Socket, bytes: BytesMut, user_data: UserData) {
        self.queue.push(Queued::SendRest { socket, bytes, user_data });
    }

    fn take_rest(&mut self, user_data: UserData) -> BytesMut {
        self.rests.remove(&user_data).unwrap_or_default()
    }

    fn shut_down(&mut self, socket: Socket, user_data: UserData) {
        self.queue.push(Queued::ShutDown(socket, user_data));
    }

    fn cancel(&mut self, target: UserData, user_data: UserData) {
        self.queue.push(Queued::Cancel { target, user_data });
    }

    fn close(&mut self, socket: Socket) {
        self.queue.push(Queued::Close(socket));
    }

    fn await_wake(&mut self, user_data: UserData) {
        self.queue.push(Queued::Wake(user_data));
    }

    fn write(&mut self, write: FileWrite, user_data: UserData) {
        let FileWrite { file, source, start, size, offset } = write;
        let (bytes, source) = match source {
            WriteSource::FrameRing => {
                let read =
                    self.frame_ring.as_ref().expect("use_frame_ring comes before the first write");
                (read(start, size), Some((Rc::clone(read), start)))
            }
            WriteSource::Scratch => (self.scratch[start..start + size].to_vec(), None),
        };
        self.queue.push(Queued::Write { file, offset, bytes, user_data, source });
    }

    fn scratch(&mut self) -> &mut [u8] {
        &mut self.scratch
    }

    fn sync(&mut self, file: FileHandle, user_data: UserData) {
        self.queue.push(Queued::Sync(file, user_data));
    }

    fn submit(&mut self, wait: Wait) -> std::io::Result<()> {
        self.submits += 1;
        self.world.state().last_wait = Some(wait);
        let slept = std::mem::take(&mut self.world.state().sleep);
        self.world.advance(slept);
        for queued in std::mem::take(&mut self.queue) {
            self.perform(queued);
        }
        self.deliver();
        Ok(())
    }

    fn completion(&mut self) -> Option<Completion> {
        let completion = self.world.state().completions.pop_front()?;
        self.reads_pending -= usize::from(completion.user_data.kind == OpKind::Read);
        Some(completion)
    }

    fn system_calls(&self) -> u64 {
        self.submits
    }
}

#[cfg(test)]
mod tests;
