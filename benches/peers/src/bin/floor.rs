//! The floor: the least that a server on io_uring can do with these frames. It receives the bytes,
//! reads the frames' headers, acknowledges each 10th frame and discards the rest: no unmasking, no
//! copy, no journal. Other servers are shown as multiples of it.
//!
//! What makes it cheap, and the node does too: one ring with DEFER_TASKRUN, multishot receives, few
//! and so cache-hot receive buffers that the kernel fills incrementally, and a bounded wait that
//! gathers completions before it wakes us. Linux 6.12 is needed.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicU16, Ordering};

use exo_ingest_peers::{Answer, CLOSE, Call, Decoder, Event, HEAD_SIZE_MAX, Piece};
use io_uring::types::{BufRingEntry, Fd, IOU_PBUF_RING_INC, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};
use rustix::net::{SendFlags, Shutdown, shutdown, sockopt};

/// Both queues. The kernel keeps completions beyond the second in a list of its own.
const SUBMISSIONS: u32 = 4096;
const COMPLETIONS: u32 = 1 << 15;

/// Receive buffers: 4 MiB in all.
const BUFFER_COUNT: u16 = 64;
const BUFFER_SIZE: usize = 64 << 10;
const BUFFER_GROUP: u16 = 0;

/// Receives that are armed again in one turn, after buffers had run out. All buffers but the one
/// that is being filled are free then.
const REARMED_MAX: usize = BUFFER_COUNT as usize - 1;

/// The wait ends with this many completions, or after the time with at least one.
const WANT: usize = 128;
const MIN_WAIT_US: u32 = 500;

/// The longest wait: without one the kernel takes `MIN_WAIT_US` for it, even if nothing has come.
const IDLE_WAIT: Timespec = Timespec::new().sec(60);

/// Completions of a turn, so that buffers are given back while they are hot.
const REAPED_MAX: usize = 256;

/// What a receive ends with if no buffer was free.
const NO_BUFFER: i32 = -Errno::NOBUFS.raw_os_error();

/// Bytes that may go out at once: 101, `stopped`, ACKs.
const SLOT_SIZE: usize = 512;

/// Completions are told apart by these in the upper half of their user data; the lower half is the
/// connection.
const ACCEPT: u64 = 1 << 32;
const RECEIVE: u64 = 2 << 32;
const SEND: u64 = 3 << 32;

fn main() -> io::Result<()> {
    let listener = exo_ingest_peers::listen()?;
    let ring = IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_taskrun_flag()
        .setup_submit_all()
        .setup_cqsize(COMPLETIONS)
        .build(SUBMISSIONS)?;
    let buffers = Buffers::register(&ring)?;
    let slots = vec![[0; SLOT_SIZE]; SUBMISSIONS as usize];
    let mut floor = Floor {
        ring,
        buffers,
        slots,
        slots_used: 0,
        connections: Vec::new(),
        free: Vec::new(),
        starved: VecDeque::new(),
    };
    let listener = Fd(listener.as_raw_fd());
    floor.push(opcode::AcceptMulti::new(listener).build().user_data(ACCEPT));
    loop {
        floor.turn(listener)?;
    }
}

/// One thread, one ring. Drop order is of no concern: the process ends by a signal.
struct Floor {
    ring: IoUring,
    buffers: Buffers,
    /// A send that may not wait is done when the submit returns, so a turn starts with all slots.
    slots: Vec<[u8; SLOT_SIZE]>,
    slots_used: usize,
    connections: Vec<Option<Connection>>,
    free: Vec<u32>,
    /// Connections whose receive ended because no buffer was free, in that order.
    starved: VecDeque<u32>,
}

struct Connection {
    socket: OwnedFd,
    /// The request head so far; empty after the upgrade.
    head: Vec<u8>,
    is_upgraded: bool,
    decoder: Decoder,
    call: Call,
}

impl Floor {
    fn turn(&mut self, listener: Fd) -> io::Result<()> {
        for _ in 0..self.starved.len().min(REARMED_MAX) {
            let index = self.starved.pop_front().expect("as many as counted");
            self.receive(index);
        }
        self.buffers.publish();
        let arguments = SubmitArgs::new().min_wait_usec(MIN_WAIT_US).timespec(&IDLE_WAIT);
        let want = if self.starved.is_empty() { WANT } else { 1 };
        let submitted = self.ring.submitter().submit_with_args(want, &arguments);
        match submitted.map_err(|error| (Errno::from_io_error(&error), error)) {
            // The wait ended by its time; a signal came; completions have to be reaped first.
            Err((Some(Errno::TIME | Errno::INTR | Errno::BUSY), _)) | Ok(_) => {}
            Err((_, error)) => return Err(error),
        }
        if self.ring.submission().is_empty() {
            self.slots_used = 0;
        }
        for _ in 0..REAPED_MAX {
            let Some(entry) = self.ring.completion().next() else { break };
            self.handle(&entry, listener);
        }
        Ok(())
    }

    fn handle(&mut self, entry: &cqueue::Entry, listener: Fd) {
        let index = entry.user_data() as u32;
        let more = cqueue::more(entry.flags());
        match entry.user_data() & !u64::from(u32::MAX) {
            ACCEPT => {
                if entry.result() >= 0 {
                    // SAFETY: accept gave us this descriptor, and nothing else has it.
                    self.open(unsafe { OwnedFd::from_raw_fd(entry.result()) });
                }
                if !more {
                    self.push(opcode::AcceptMulti::new(listener).build().user_data(ACCEPT));
                }
            }
            RECEIVE => self.handle_receive(index, entry, more),
            // A client that does not read its ACKs loses its connection.
            _ => self.cut(index),
        }
    }

    fn handle_receive(&mut self, index: u32, entry: &cqueue::Entry, more: bool) {
        if let Some(id) = cqueue::buffer_select(entry.flags()) {
            let size = entry.result().max(0) as usize;
            let (address, size) = self.buffers.take(id, size);
            // SAFETY: the kernel has filled these bytes and does not touch them until the buffer
            // is published again, after this turn.
            let bytes = unsafe { std::slice::from_raw_parts(address, size) };
            self.handle_bytes(index, bytes);
            if !cqueue::buffer_more(entry.flags()) {
                self.buffers.put(id);
            }
        }
        if more {
            return;
        }
        match entry.result() {
            1.. => self.receive(index),
            NO_BUFFER => self.starved.push_back(index),
            _ => {
                self.connections[index as usize] = None;
                self.free.push(index);
            }
        }
    }

    fn open(&mut self, socket: OwnedFd) {
        let _ = sockopt::set_tcp_nodelay(&socket, true);
        let (decoder, call) = (Decoder::default(), Call::default());
        let connection = Connection { socket, head: Vec::new(), is_upgraded: false, decoder, call };
        let index = self.free.pop().unwrap_or_else(|| {
            self.connections.push(None);
            self.connections.len() as u32 - 1
        });
        self.connections[index as usize] = Some(connection);
        self.receive(index);
    }

    fn handle_bytes(&mut self, index: u32, mut bytes: &[u8]) {
        // Taken out, so that sending may use the rest of `self`.
        let Some(mut connection) = self.connections[index as usize].take() else { return };
        let mut out = Vec::new();
        let mut is_over = false;
        if !connection.is_upgraded {
            connection.head.extend(bytes);
            match exo_ingest_peers::answer(&connection.head) {
                Some((size, Answer::Upgraded(answer))) if size == connection.head.len() => {
                    out = answer.into_bytes();
                    connection.is_upgraded = true;
                    connection.head = Vec::new();
                }
                Some(_) => is_over = true,
                None => is_over = connection.head.len() > HEAD_SIZE_MAX,
            }
            bytes = &[];
        }
        while let Some(piece) = connection.decoder.poll(&mut bytes) {
            match piece {
                Piece::Audio { whole: Some(size), .. } => {
                    if let Some(ack) = connection.call.handle_frame(size) {
                        out.extend(exo_ingest_peers::text_frame(&ack));
                    }
                }
                Piece::Audio { .. } => {}
                Piece::Text(text) => match connection.call.handle_text(&text) {
                    Some(Event::Started(text)) => out.extend(exo_ingest_peers::text_frame(&text)),
                    Some(Event::Stopped(text)) => {
                        out.extend(exo_ingest_peers::text_frame(&text));
                        out.extend(CLOSE);
                    }
                    None => {}
                },
                Piece::Close => {
                    is_over = true;
                    break;
                }
            }
        }
        let socket = Fd(connection.socket.as_raw_fd());
        self.connections[index as usize] = Some(connection);
        for part in out.chunks(SLOT_SIZE) {
            self.send(index, socket, part);
        }
        if is_over {
            self.cut(index);
        }
    }

    /// Ends a connection: its receive then ends, and with that its socket is closed.
    fn cut(&mut self, index: u32) {
        if let Some(connection) = &self.connections[index as usize] {
            let _ = shutdown(&connection.socket, Shutdown::Both);
        }
    }

    fn receive(&mut self, index: u32) {
        let Some(connection) = &self.connections[index as usize] else { return };
        let socket = Fd(connection.socket.as_raw_fd());
        let entry = opcode::RecvMulti::new(socket, BUFFER_GROUP).build();
        self.push(entry.user_data(RECEIVE | u64::from(index)));
    }

    /// Sends at once or not at all, so that the slot is free when the submit returns. Only failures
    /// complete.
    fn send(&mut self, index: u32, socket: Fd, bytes: &[u8]) {
        if self.slots_used == self.slots.len() {
            self.submit();
        }
        let slot = &mut self.slots[self.slots_used];
        self.slots_used += 1;
        slot[..bytes.len()].copy_from_slice(bytes);
        let flags = (SendFlags::DONTWAIT | SendFlags::NOSIGNAL).bits() as i32;
        let entry = opcode::Send::new(socket, slot.as_ptr(), bytes.len() as u32);
        let entry = entry.flags(flags).build().flags(squeue::Flags::SKIP_SUCCESS);
        self.push(entry.user_data(SEND | u64::from(index)));
    }

    fn push(&mut self, entry: squeue::Entry) {
        // SAFETY: the entries point to sockets and slots alone. Sockets stay open until their
        // receive has ended, slots stay as they are until a submit has taken all entries.
        while unsafe { self.ring.submission().push(&entry) }.is_err() {
            self.submit();
        }
    }

    /// Submits all that is queued, without waiting.
    fn submit(&mut self) {
        while self.ring.submit().is_err() || !self.ring.submission().is_empty() {}
        self.slots_used = 0;
    }
}

/// The receive buffers and the ring of entries that offers them to the kernel.
struct Buffers {
    entries: *mut BufRingEntry,
    memory: *mut u8,
    tail: u16,
    filled: [usize; BUFFER_COUNT as usize],
}

impl Buffers {
    fn register(ring: &IoUring) -> io::Result<Buffers> {
        let entries = map(usize::from(BUFFER_COUNT) * size_of::<BufRingEntry>())?.cast();
        let memory = map(usize::from(BUFFER_COUNT) * BUFFER_SIZE)?;
        // SAFETY: the mapping holds as many entries and is never unmapped.
        unsafe {
            ring.submitter().register_buf_ring_with_flags(
                entries as u64,
                BUFFER_COUNT,
                BUFFER_GROUP,
                IOU_PBUF_RING_INC as u16,
            )?;
        }
        let filled = [0; BUFFER_COUNT as usize];
        let mut buffers = Buffers { entries, memory, tail: 0, filled };
        (0..BUFFER_COUNT).for_each(|id| buffers.put(id));
        buffers.publish();
        Ok(buffers)
    }

    /// Where the kernel put `size` more bytes.
    fn take(&mut self, id: u16, size: usize) -> (*const u8, usize) {
        let start = usize::from(id) * BUFFER_SIZE + self.filled[usize::from(id)];
        self.filled[usize::from(id)] += size;
        assert!(self.filled[usize::from(id)] <= BUFFER_SIZE, "filled beyond its end");
        // SAFETY: the buffer ends within the mapping, by the assertion above.
        (unsafe { self.memory.add(start) }, size)
    }

    fn put(&mut self, id: u16) {
        self.filled[usize::from(id)] = 0;
        let index = usize::from(self.tail % BUFFER_COUNT);
        // SAFETY: the index lies within the entries, and this one is beyond the published tail,
        // so the kernel does not look at it.
        let entry = unsafe { &mut *self.entries.add(index) };
        entry.set_addr(self.memory as u64 + u64::from(id) * BUFFER_SIZE as u64);
        entry.set_len(BUFFER_SIZE as u32);
        entry.set_bid(id);
        self.tail = self.tail.wrapping_add(1);
    }

    fn publish(&mut self) {
        // SAFETY: the kernel's tail lies in the first entry; both sides access it atomically.
        let tail = unsafe { &*BufRingEntry::tail(self.entries).cast::<AtomicU16>() };
        tail.store(self.tail, Ordering::Release);
    }
}

/// Memory with all of its pages present.
fn map(size: usize) -> io::Result<*mut u8> {
    let flags = MapFlags::PRIVATE | MapFlags::POPULATE;
    let access = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: without a wish for an address, no existing mapping is touched.
    Ok(unsafe { mmap_anonymous(std::ptr::null_mut(), size, access, flags)? }.cast())
}
