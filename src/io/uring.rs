//! The kernel's ring: one per shard, used only by the shard's thread.

use super::buffer_ring::BufferRing;
use super::memory::{Lease, Region};
use super::pieces::Pieces;
use super::probe::{Features, HostError, build_ring, locked_memory_limit};
use super::{
    BufferGroup, Completion, FileHandle, FileWrite, Io, OpKind, Received, SendSlot, Socket,
    UserData, Wait, WriteSource, socket,
};
use crate::clock::{Moment, Now, UnixMicros};
use crate::constants::{BLOCK_SIZE, RECEIVE_BUFFER_SIZE, SCRATCH_SIZE_MAX};
use bytes::BytesMut;
use io_uring::{IoUring, cqueue, opcode, squeue, types};
use rustix::fd::{BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::time::{ClockId, clock_gettime};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, FromRawFd};
use std::sync::Arc;
use std::time::Duration;

/// Entries of the submission queue: the operations that one turn can queue before it must submit
/// early (an extra system call, and no loss).
const SUBMISSIONS: u32 = 4096;

/// Sizes of both queues if memory for the usual ones cannot be locked: 24 KiB. Linux 6.18 counts
/// the queues against `RLIMIT_MEMLOCK`, which some hosts leave at 64 KiB. A turn that queues more
/// submits more than once, and the kernel keeps completions that do not fit.
const QUEUES_SMALL: (u32, u32) = (256, 512);

/// Index of the scratch memory among the registered buffers.
const SCRATCH_INDEX: u16 = 0;

/// Index of the frame ring's first piece among the registered buffers; the other pieces follow.
const FRAME_RING_INDEX: u16 = 1;

/// Longest wait when nothing asks for a shorter one. It may be anything that makes an extra turn
/// cheap.
const IDLE_WAIT_MAX: Duration = Duration::from_secs(60);

/// One `io_uring` with its receive buffers and send slots.
///
/// Drop order is field order: `ring` is first, so that the kernel has released everything below it.
pub(crate) struct Uring {
    ring: IoUring,
    receive_buffers: BufferRing,
    read_buffers: BufferRing,
    /// Reads that are queued and not completed; each may take a buffer.
    reads_pending: usize,
    slots: Region,
    slot_size: usize,
    free_slots: Vec<u32>,
    /// Bytes of sends that wait for room in their socket. The heap block of a BytesMut does not
    /// move with it.
    rests: HashMap<UserData, BytesMut>,
    /// Where a read of the eventfd stores its count.
    wake_count: Box<[u8; 8]>,
    wake: Arc<OwnedFd>,
    listener: Option<OwnedFd>,
    frame_ring: Option<FrameRingMemory>,
    features: Features,
    /// Whether the last wait brought a completion: see [`Uring::wait_by_timeout`].
    busy: bool,
    /// See [`UringConfig::completions_per_turn`].
    completions_per_turn: usize,
    system_calls: u64,
}

/// Memory that files are written from.
struct FrameRingMemory {
    lease: Lease,
    scratch: Region,
    /// The registered pieces of the frame ring's memory; `None` if nothing is registered.
    pieces: Option<Pieces>,
}

impl FrameRingMemory {
    /// The registered buffer that contains this part of the frame ring's memory, if one does.
    fn index_of(&self, start: usize, size: usize) -> Option<u16> {
        let piece = self.pieces?.holding(start, size)?;
        Some(FRAME_RING_INDEX + piece as u16)
    }
}

/// Configuration of a [`Uring`].
pub(crate) struct UringConfig {
    /// Result of the probe.
    pub(crate) features: Features,
    /// The shard's listener.
    pub(crate) listener: OwnedFd,
    /// Wakes the shard; its mailbox writes to it.
    pub(crate) wake: Arc<OwnedFd>,
    /// Connections that may be open at once: determines the size of the completion queue.
    pub(crate) connections_max: usize,
    /// Size of a send slot, bytes.
    pub(crate) slot_size: usize,
    /// Number of send slots.
    pub(crate) slot_count: usize,
    /// Completions that the shard reaps in a turn: [`Io::submit`] gathers no more than it finds.
    pub(crate) completions_per_turn: usize,
}

/// Pieces of work that the kernel runs at a time, where a call does not wait for more
/// (`IO_LOCAL_TW_DEFAULT_MAX`).
const TASK_WORK_SIZE: usize = 20;

impl Uring {
    /// Sets up the ring. After that, only the calling thread may use it.
    pub(crate) fn new(config: UringConfig) -> Result<Uring, HostError> {
        // Each connection can complete a receive and a send between two reaps. Beyond this, the
        // kernel keeps completions in a list: that is slower, but nothing is lost.
        let completions =
            (config.connections_max as u32 * 2).next_power_of_two().clamp(SUBMISSIONS * 2, 1 << 16);
        let ring = match build_ring(SUBMISSIONS, completions) {
            Err(HostError::QueueMemory { .. }) => build_ring(QUEUES_SMALL.0, QUEUES_SMALL.1),
            built => built,
        }?;
        let memory = |_| HostError::Memory {
            purpose: "receive and send buffers",
            wanted: config.slot_size * config.slot_count,
        };
        let register = |group| {
            let buffers = BufferRing::register(&ring, group, config.features.incremental_buffers);
            buffers.map_err(|error| match (error.kind(), locked_memory_limit()) {
                // The entry ring counts as locked memory, like the queues, so a limit on it is
                // nearly reached here.
                (std::io::ErrorKind::OutOfMemory, limit @ Some(_)) => {
                    HostError::QueueMemory { wanted: BLOCK_SIZE, limit }
                }
                _ => memory(error),
            })
        };
        let (receive_buffers, read_buffers) =
            (register(BufferGroup::Receive)?, register(BufferGroup::Read)?);
        let slots = Region::allocate(config.slot_size * config.slot_count).map_err(memory)?;
        Ok(Uring {
            ring,
            receive_buffers,
            read_buffers,
            reads_pending: 0,
            slots,
            slot_size: config.slot_size,
            free_slots: (0..config.slot_count as u32).rev().collect(),
            rests: HashMap::new(),
            wake_count: Box::new([0; 8]),
            wake: config.wake,
            listener: Some(config.listener),
            frame_ring: None,
            features: config.features,
            busy: false,
            completions_per_turn: config.completions_per_turn,
            system_calls: 0,
        })
    }

    /// Memory of receive buffers and send slots, bytes. All of it is resident.
    pub(crate) fn memory_size(&self) -> usize {
        self.receive_buffers.memory_size() + self.read_buffers.memory_size() + self.slots.len()
    }

    /// Sets the memory that [`Io::write`] writes from, and registers it, so that writes need not
    /// look up its pages. If memory cannot be locked, that is an error. With `allow_unregistered`
    /// it returns `false` instead, and writes use unregistered memory.
    pub(crate) fn use_frame_ring(
        &mut self,
        region: &Region,
        allow_unregistered: bool,
    ) -> Result<bool, HostError> {
        self.use_frame_ring_in(Pieces::new(region.len()), region, allow_unregistered)
    }

    fn use_frame_ring_in(
        &mut self,
        pieces: Pieces,
        region: &Region,
        allow_unregistered: bool,
    ) -> Result<bool, HostError> {
        let lease = region.lease();
        let scratch = Region::allocate(SCRATCH_SIZE_MAX).map_err(|_| HostError::Memory {
            purpose: "the start of segments",
            wanted: SCRATCH_SIZE_MAX,
        })?;
        let buffer = |start: *const u8, size| libc::iovec {
            iov_base: start.cast_mut().cast(),
            iov_len: size,
        };
        let mut buffers = vec![buffer(scratch.as_ptr(), scratch.len())];
        buffers.extend(
            pieces.ranges().map(|range| buffer(region[range.clone()].as_ptr(), range.len())),
        );
        // SAFETY: the lease and the region kept below map the ranges for as long as this ring
        // lives.
        let registered = unsafe { self.ring.submitter().register_buffers(&buffers) };
        let wanted = pieces.registered_size() + scratch.len();
        let pieces = match registered {
            Ok(()) => Some(pieces),
            Err(_) if allow_unregistered => None,
            Err(error) if error.kind() == std::io::ErrorKind::OutOfMemory => {
                return Err(HostError::LockedMemory { wanted, limit: locked_memory_limit() });
            }
            Err(error) => {
                return Err(HostError::Other {
                    step: "registering the frame ring's memory",
                    error,
                });
            }
        };
        self.frame_ring = Some(FrameRingMemory { lease, scratch, pieces });
        Ok(pieces.is_some())
    }

    fn push(&mut self, entry: squeue::Entry, user_data: UserData) {
        self.push_flagged(entry, user_data, squeue::Flags::empty());
    }

    fn push_flagged(&mut self, entry: squeue::Entry, user_data: UserData, flags: squeue::Flags) {
        let entry = entry.user_data(user_data.pack()).flags(flags);
        loop {
            // SAFETY: what each entry points to stays valid until its completion. Send slots and
            // rests are kept here until the caller, which then has the completion, returns them.
            // The frame ring is leased, and the scratch memory is ours. Only `close` closes
            // sockets.
            if unsafe { self.ring.submission().push(&entry) }.is_ok() {
                return;
            }
            self.system_calls += 1;
            self.publish_buffers();
            // Interrupted, or short of memory for a moment: a later try empties the queue. No other
            // error is possible with a ring that has worked before.
            let _ = self.ring.submit();
        }
    }

    /// Waiting in kernels before 6.12. While completions come, gathers them for a fixed time. After
    /// a wait without any, sleeps until the first one. So an idle shard does not wake 2,000 times a
    /// second.
    fn wait_by_timeout(
        &mut self,
        want: u32,
        gather: Duration,
        limit: Option<Duration>,
    ) -> std::io::Result<usize> {
        let (want, timeout) = match self.busy {
            true => (want, Some(limit.map_or(gather, |limit| limit.min(gather)))),
            false => (1, limit),
        };
        self.wait_with(want, Duration::ZERO, timeout)
    }

    fn wait_with(
        &mut self,
        want: u32,
        min_wait: Duration,
        limit: Option<Duration>,
    ) -> std::io::Result<usize> {
        // Without a timeout, the kernel takes the end of the gathering as one, even if nothing has
        // come. Then an idle shard would wake 2,000 times a second.
        let limit = limit
            .or_else(|| (!min_wait.is_zero()).then_some(IDLE_WAIT_MAX))
            .map(types::Timespec::from);
        let mut args = types::SubmitArgs::new().min_wait_usec(min_wait.as_micros() as u32);
        if let Some(limit) = &limit {
            args = args.timespec(limit);
        }
        self.ring.submitter().submit_with_args(want as usize, &args)
    }

    fn completion_of(&mut self, entry: &cqueue::Entry) -> Completion {
        let user_data = UserData::unpack(entry.user_data())
            .expect("completions carry what push_flagged packed");
        let result = match entry.result() {
            size @ 0.. => Ok(size as u32),
            error => Err(Errno::from_raw_os_error(-error)),
        };
        let flags = entry.flags();
        let group =
            if user_data.kind == OpKind::Read { BufferGroup::Read } else { BufferGroup::Receive };
        self.reads_pending -= usize::from(group == BufferGroup::Read);
        let received = cqueue::buffer_select(flags).and_then(|id| {
            let received =
                self.buffers(group).take(id, result.unwrap_or(0), cqueue::buffer_more(flags));
            // A FIN that came with a buffer has no bytes in it.
            if received.size == 0 {
                self.buffers(group).recycle(received);
                return None;
            }
            Some(received)
        });
        Completion {
            user_data,
            result,
            more: cqueue::more(flags),
            socket_has_more: cqueue::sock_nonempty(flags),
            received,
        }
    }

    fn buffers(&mut self, group: BufferGroup) -> &mut BufferRing {
        match group {
            BufferGroup::Receive => &mut self.receive_buffers,
            BufferGroup::Read => &mut self.read_buffers,
        }
    }

    fn publish_buffers(&mut self) {
        self.receive_buffers.publish();
        self.read_buffers.publish();
    }

    /// Submits without waiting, and runs the work that the kernel has deferred: with DEFER_TASKRUN
    /// it runs only on request.
    fn submit_and_poll(&mut self) -> std::io::Result<usize> {
        /// `IORING_ENTER_GETEVENTS`.
        const GET_EVENTS: u32 = 1;
        let queued = self.ring.submission().len() as u32;
        // SAFETY: no argument is passed. For what the entries point to, see push_flagged.
        unsafe { self.ring.submitter().enter::<()>(queued, 0, GET_EVENTS, None) }
    }

    /// Runs the work that the kernel has put off until the shard has all the completions that a
    /// turn reaps. Since Linux 6.13 a call that does not wait runs 20 pieces of it (`f46b9cdb22f7`,
    /// "limit local tw done"). A turn in a backlog does not wait, so without this live calls stand
    /// in a queue of the kernel's that no limit of ours counts.
    fn run_what_is_left(&mut self) {
        for _ in 0..self.completions_per_turn.div_ceil(TASK_WORK_SIZE) {
            let has_enough = self.ring.completion().len() >= self.completions_per_turn;
            if has_enough || !self.ring.submission().taskrun() {
                return;
            }
            self.system_calls += 1;
            if self.submit_and_poll().is_err() {
                // What is left is there for the next turn.
                return;
            }
        }
    }
}

fn borrow(socket: &Socket) -> BorrowedFd<'_> {
    // SAFETY: the descriptor of a Socket is open until `Io::close` or `Io::turn_away` gets it, and
    // then the shard has dropped it. Descriptors of accepted connections are never -1.
    unsafe { BorrowedFd::borrow_raw(socket.0) }
}

fn clock(id: ClockId) -> Duration {
    let time = clock_gettime(id);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32)
}

impl Io for Uring {
    fn now(&mut self) -> Now {
        Now {
            moment: Moment::ZERO + clock(ClockId::Boottime),
            unix: UnixMicros(clock(ClockId::Realtime).as_micros() as u64),
        }
    }

    fn accept(&mut self, user_data: UserData) {
        let Some(listener) = &self.listener else { return };
        let flags = rustix::net::SocketFlags::CLOEXEC.bits() as i32;
        let nowhere = std::ptr::null_mut();
        let entry = opcode::Accept::new(types::Fd(listener.as_raw_fd()), nowhere, nowhere.cast())
            .flags(flags)
            .build();
        self.push(entry, user_data);
    }

    fn close_listener(&mut self) {
        self.listener = None;
    }

    fn peer_address(&mut self, socket: Socket) -> Option<SocketAddr> {
        self.system_calls += 1;
        socket::peer_of(borrow(&socket))
    }

    fn turn_away(&mut self, socket: Socket, bytes: &[u8]) {
        self.system_calls += 3;
        // SAFETY: the descriptor came from accept, no operation on it was queued, and the caller
        // drops the Socket.
        let owned = unsafe { OwnedFd::from_raw_fd(socket.0) };
        socket::send_at_once(&owned, bytes);
    }

    fn receive(&mut self, socket: Socket, user_data: UserData) {
        self.push(
            opcode::RecvMulti::new(types::Fd(socket.0), BufferGroup::Receive.number()).build(),
            user_data,
        );
    }

    fn read(&mut self, socket: Socket, user_data: UserData) {
        let entry = opcode::Recv::new(
            types::Fd(socket.0),
            std::ptr::null_mut(),
            RECEIVE_BUFFER_SIZE as u32,
        )
        .flags(rustix::net::RecvFlags::DONTWAIT.bits() as i32)
        .buf_group(BufferGroup::Read.number())
        .build();
        self.reads_pending += 1;
        self.push_flagged(entry, user_data, squeue::Flags::BUFFER_SELECT);
    }

    fn read_buffers_free(&self) -> usize {
        self.read_buffers.free_count().saturating_sub(self.reads_pending)
    }

    fn received(&mut self, received: &Received) -> &mut [u8] {
        self.buffers(received.group).bytes(received)
    }

    fn recycle(&mut self, received: Received) {
        self.buffers(received.group).recycle(received);
    }

    fn acquire_slot(&mut self) -> Option<SendSlot> {
        self.free_slots.pop().map(SendSlot)
    }

    fn slot(&mut self, slot: &SendSlot) -> &mut [u8] {
        let start = slot.0 as usize * self.slot_size;
        &mut self.slots[start..start + self.slot_size]
    }

    fn release_slot(&mut self, slot: SendSlot) {
        self.free_slots.push(slot.0);
    }

    fn send(&mut self, socket: Socket, slot: &SendSlot, size: usize, user_data: UserData) {
        let bytes = &self.slot(slot)[..size];
        let entry = opcode::Send::new(types::Fd(socket.0), bytes.as_ptr(), size as u32);
        let flags =
            (rustix::net::SendFlags::DONTWAIT | rustix::net::SendFlags::NOSIGNAL).bits() as i32;
        self.push(entry.flags(flags).build(), user_data);
    }

    fn send_rest(&mut self, socket: Socket, bytes: BytesMut, user_data: UserData) {
        let entry = opcode::Send::new(types::Fd(socket.0), bytes.as_ptr(), bytes.len() as u32);
        let flags = rustix::net::SendFlags::NOSIGNAL.bits() as i32;
        let replaced = self.rests.insert(user_data, bytes);
        assert!(replaced.is_none(), "a connection has one send under way at a time");
        self.push(entry.flags(flags).build(), user_data);
    }

    fn take_rest(&mut self, user_data: UserData) -> BytesMut {
        self.rests.remove(&user_data).unwrap_or_default()
    }

    fn shut_down(&mut self, socket: Socket, user_data: UserData) {
        /// `SHUT_WR`, the same on every Unix.
        const SHUT_WR: i32 = 1;
        self.push(opcode::Shutdown::new(types::Fd(socket.0), SHUT_WR).build(), user_data);
    }

    fn cancel(&mut self, target: UserData, user_data: UserData) {
        self.push(opcode::AsyncCancel::new(target.pack()).build(), user_data);
    }

    fn close(&mut self, socket: Socket) {
        let entry = opcode::Close::new(types::Fd(socket.0)).build();
        let user_data = UserData::lone(super::OpKind::Close);
        self.push_flagged(entry, user_data, squeue::Flags::SKIP_SUCCESS);
    }

    fn await_wake(&mut self, user_data: UserData) {
        let entry =
            opcode::Read::new(types::Fd(self.wake.as_raw_fd()), self.wake_count.as_mut_ptr(), 8)
                .build();
        self.push(entry, user_data);
    }

    fn write(&mut self, write: FileWrite, user_data: UserData) {
        let FileWrite { source, start, size, .. } = write;
        let memory = self.frame_ring.as_ref().expect("use_frame_ring comes before the first write");
        let (bytes, registered) = match source {
            WriteSource::FrameRing => {
                assert!(start + size <= memory.lease.size(), "a write lies within the frame ring");
                // SAFETY: start is within the leased mapping, by the assertion above.
                (unsafe { memory.lease.as_ptr().add(start) }, memory.index_of(start, size))
            }
            WriteSource::Scratch => {
                (memory.scratch[start..start + size].as_ptr(), memory.pieces.map(|_| SCRATCH_INDEX))
            }
        };
        let (file, size) = (types::Fd(write.file.0), size as u32);
        let entry = match registered {
            Some(index) => {
                opcode::WriteFixed::new(file, bytes, size, index).offset(write.offset).build()
            }
            None => opcode::Write::new(file, bytes, size).offset(write.offset).build(),
        };
        self.push(entry, user_data);
    }

    fn scratch(&mut self) -> &mut [u8] {
        &mut self.frame_ring.as_mut().expect("use_frame_ring comes before the first write").scratch
    }

    fn sync(&mut self, file: FileHandle, user_data: UserData) {
        let entry =
            opcode::Fsync::new(types::Fd(file.0)).flags(types::FsyncFlags::DATASYNC).build();
        self.push(entry, user_data);
    }

    fn submit(&mut self, wait: Wait) -> std::io::Result<()> {
        self.publish_buffers();
        self.system_calls += 1;
        let mut submitted = match wait {
            Wait::No => self.submit_and_poll(),
            Wait::Gather { want, gather, limit } if self.features.min_wait => {
                self.wait_with(want, gather, limit)
            }
            Wait::Gather { want, gather, limit } => self.wait_by_timeout(want, gather, limit),
        };
        // If its time or a signal ended a wait, the deferred work of the kernel may not have run.
        // After SIGSTOP that is everything that arrived, and it must be reaped before any timer
        // fires. The result does not tell: it is the number of submitted entries, if there were
        // any.
        if !matches!(wait, Wait::No) && self.ring.completion().is_empty() {
            self.system_calls += 1;
            submitted = submitted.and(self.submit_and_poll());
        }
        self.run_what_is_left();
        self.busy = !self.ring.completion().is_empty();
        match submitted {
            Ok(_) => Ok(()),
            Err(error) => match Errno::from_io_error(&error) {
                // The time of the wait is over; a signal came; completions must be reaped before
                // more can be submitted; or the kernel was short of memory for a moment. In each
                // case, entries that were not submitted are still queued.
                Some(Errno::TIME | Errno::INTR | Errno::BUSY | Errno::AGAIN) => Ok(()),
                _ => Err(error),
            },
        }
    }

    fn completion(&mut self) -> Option<Completion> {
        let entry = self.ring.completion().next()?;
        Some(self.completion_of(&entry))
    }

    fn system_calls(&self) -> u64 {
        self.system_calls
    }
}

#[cfg(test)]
mod tests;
