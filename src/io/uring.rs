//! The kernel's ring: one per shard, used by the shard's thread alone.

use super::buffer_ring::{BUFFER_GROUP, BufferRing};
use super::memory::{Lease, Region};
use super::probe::{Features, Lack, build_ring, locked_memory_limit};
use super::{Completion, FileHandle, Io, Received, SendSlot, Socket, UserData, Wait, socket};
use crate::clock::{Moment, Now, UnixMicros};
use crate::constants::{BLOCK_SIZE, SCRATCH_SIZE_MAX};
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

/// Entries of the submission queue: what one turn queues at most before it has to submit early (an extra system call, no loss).
const SUBMISSIONS: u32 = 4096;

/// Both queues where memory for the usual ones cannot be locked (Linux 6.18 counts it against `RLIMIT_MEMLOCK`, which some
/// hosts leave at 64 KiB): 24 KiB. A turn that queues more submits more than once; what completes beyond them the kernel keeps.
const QUEUES_SMALL: (u32, u32) = (256, 512);

/// Index of the frame ring among the registered buffers.
const FRAME_RING_INDEX: u16 = 0;

/// Index of the scratch memory among the registered buffers.
const SCRATCH_INDEX: u16 = 1;

/// The longest of waits, where nothing asks for a shorter one: any time at which a turn more costs nothing.
const IDLE_WAIT_MAX: Duration = Duration::from_secs(60);

/// One `io_uring` with its receive buffers and send slots.
///
/// Drop order is field order: `ring` goes first, so that the kernel has let go of everything below it.
pub struct Uring {
    ring: IoUring,
    buffers: BufferRing,
    slots: Region,
    slot_size: usize,
    free_slots: Vec<u32>,
    /// Bytes of sends that wait for room in their socket. The heap block of a BytesMut does not move with it.
    rests: HashMap<UserData, BytesMut>,
    /// Where a read of the eventfd puts its count.
    wake_count: Box<[u8; 8]>,
    wake: Arc<OwnedFd>,
    listener: Option<OwnedFd>,
    frame_ring: Option<FrameRingMemory>,
    features: Features,
    /// Whether the last wait brought anything: see [`Uring::wait_by_timeout`].
    busy: bool,
    system_calls: u64,
}

/// What files are written from.
struct FrameRingMemory {
    lease: Lease,
    scratch: Region,
    registered: bool,
}

/// What a [`Uring`] is made with.
pub struct UringConfig {
    /// What the probe found.
    pub features: Features,
    /// The shard's listener.
    pub listener: OwnedFd,
    /// Wakes the shard; its mailbox writes to it.
    pub wake: Arc<OwnedFd>,
    /// Connections that may be open at once: sizes the completion queue.
    pub connections_max: usize,
    /// Size of a send slot, bytes.
    pub slot_size: usize,
    /// Number of send slots.
    pub slot_count: usize,
}

impl Uring {
    /// Sets up the ring. The calling thread becomes the only one that may use it.
    pub fn new(config: UringConfig) -> Result<Uring, Lack> {
        // Each connection can complete a receive and a send between two reaps. Beyond this the kernel keeps completions in a
        // list of its own: slower, but nothing is lost.
        let completions = (config.connections_max as u32 * 2).next_power_of_two().clamp(SUBMISSIONS * 2, 1 << 16);
        let ring = match build_ring(SUBMISSIONS, completions) {
            Err(Lack::QueueMemory { .. }) => build_ring(QUEUES_SMALL.0, QUEUES_SMALL.1),
            built => built,
        }?;
        let memory = |_| Lack::Memory { purpose: "receive and send buffers", wanted: config.slot_size * config.slot_count };
        let buffers = BufferRing::register(&ring, config.features.incremental_buffers);
        let buffers = buffers.map_err(|error| match (error.kind(), locked_memory_limit()) {
            // The ring of entries counts as locked like the queues; whoever has a limit on that is near it now.
            (std::io::ErrorKind::OutOfMemory, limit @ Some(_)) => Lack::QueueMemory { wanted: BLOCK_SIZE, limit },
            _ => memory(error),
        })?;
        let slots = Region::allocate(config.slot_size * config.slot_count).map_err(memory)?;
        Ok(Uring {
            ring,
            buffers,
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
            system_calls: 0,
        })
    }

    /// Names the memory that [`Io::write`] writes from, and registers it so that writes need not look its pages up. Where memory
    /// cannot be locked that is an error, or with `allow_unregistered` returns `false`: writes then go without.
    pub fn use_frame_ring(&mut self, region: &Region, allow_unregistered: bool) -> Result<bool, Lack> {
        let lease = region.lease();
        let scratch = Region::allocate(SCRATCH_SIZE_MAX)
            .map_err(|_| Lack::Memory { purpose: "the start of segments", wanted: SCRATCH_SIZE_MAX })?;
        let ranges = [(lease.as_ptr(), lease.size()), (scratch.as_ptr().cast_const(), scratch.len())]
            .map(|(start, size)| libc::iovec { iov_base: start.cast_mut().cast(), iov_len: size });
        // SAFETY: the lease and the region kept below map the ranges for as long as this ring lives.
        let registered = unsafe { self.ring.submitter().register_buffers(&ranges) };
        let wanted = lease.size() + scratch.len();
        let registered = match registered {
            Ok(()) => true,
            Err(_) if allow_unregistered => false,
            Err(error) if error.kind() == std::io::ErrorKind::OutOfMemory => {
                return Err(Lack::LockedMemory { wanted, limit: locked_memory_limit() });
            }
            Err(error) => return Err(Lack::Other { step: "registering the frame ring's memory", error }),
        };
        self.frame_ring = Some(FrameRingMemory { lease, scratch, registered });
        Ok(registered)
    }

    fn push(&mut self, entry: squeue::Entry, user_data: UserData) {
        self.push_flagged(entry, user_data, squeue::Flags::empty());
    }

    fn push_flagged(&mut self, entry: squeue::Entry, user_data: UserData, flags: squeue::Flags) {
        let entry = entry.user_data(user_data.pack()).flags(flags);
        loop {
            // SAFETY: what each entry points to stays valid until its completion: send slots and rests are kept here until the
            // caller, having the completion, gives them back; the frame ring is leased, the scratch memory ours; sockets are
            // closed by `close` alone.
            if unsafe { self.ring.submission().push(&entry) }.is_ok() {
                return;
            }
            self.system_calls += 1;
            // Interrupted or out of memory for a moment: the queue empties with a later try. Nothing else is possible here
            // with a ring that has worked before.
            let _ = self.ring.submit();
        }
    }

    /// Waiting in kernels before 6.12: while completions come, gather them for a fixed time; once a wait brought none, sleep
    /// until the first. So an idle shard does not wake 2,000 times a second.
    fn wait_by_timeout(&mut self, want: u32, gather: Duration, limit: Option<Duration>) -> std::io::Result<usize> {
        let (want, timeout) = match self.busy {
            true => (want, Some(limit.map_or(gather, |limit| limit.min(gather)))),
            false => (1, limit),
        };
        self.wait_with(want, Duration::ZERO, timeout)
    }

    fn wait_with(&mut self, want: u32, min_wait: Duration, limit: Option<Duration>) -> std::io::Result<usize> {
        // Without a timeout the kernel takes the end of the gathering for one, even where nothing has come: an idle shard would
        // wake 2,000 times a second.
        let limit = limit.or_else(|| (!min_wait.is_zero()).then_some(IDLE_WAIT_MAX)).map(types::Timespec::from);
        let mut args = types::SubmitArgs::new().min_wait_usec(min_wait.as_micros() as u32);
        if let Some(limit) = &limit {
            args = args.timespec(limit);
        }
        self.ring.submitter().submit_with_args(want as usize, &args)
    }

    fn completion_of(&mut self, entry: &cqueue::Entry) -> Completion {
        let user_data = UserData::unpack(entry.user_data()).expect("completions carry what push_flagged packed");
        let result = match entry.result() {
            size @ 0.. => Ok(size as u32),
            error => Err(Errno::from_raw_os_error(-error)),
        };
        let flags = entry.flags();
        let received =
            cqueue::buffer_select(flags).map(|id| self.buffers.take(id, result.unwrap_or(0), cqueue::buffer_more(flags)));
        Completion { user_data, result, more: cqueue::more(flags), received }
    }
}

fn borrow(socket: &Socket) -> BorrowedFd<'_> {
    // SAFETY: a Socket's descriptor is open until `Io::close` or `Io::turn_away` is called with it, after which the shard has
    // dropped it; descriptors of accepted connections are never -1.
    unsafe { BorrowedFd::borrow_raw(socket.0) }
}

/// A write from memory that is the registered buffer of this index, or from any other.
fn write_entry(file: FileHandle, bytes: *const u8, size: usize, offset: u64, registered: Option<u16>) -> squeue::Entry {
    let file = types::Fd(file.0);
    match registered {
        Some(index) => opcode::WriteFixed::new(file, bytes, size as u32, index).offset(offset).build(),
        None => opcode::Write::new(file, bytes, size as u32).offset(offset).build(),
    }
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
        let entry = opcode::AcceptMulti::new(types::Fd(listener.as_raw_fd())).flags(flags).build();
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
        // SAFETY: the descriptor came from accept, no operation on it has been queued, and the caller drops the Socket.
        let owned = unsafe { OwnedFd::from_raw_fd(socket.0) };
        socket::send_at_once(&owned, bytes);
    }

    fn receive(&mut self, socket: Socket, user_data: UserData) {
        self.push(opcode::RecvMulti::new(types::Fd(socket.0), BUFFER_GROUP).build(), user_data);
    }

    fn received(&mut self, received: &Received) -> &mut [u8] {
        self.buffers.bytes(received)
    }

    fn recycle(&mut self, received: Received) {
        self.buffers.recycle(received);
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
        let flags = (rustix::net::SendFlags::DONTWAIT | rustix::net::SendFlags::NOSIGNAL).bits() as i32;
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
        /// `SHUT_WR`, as every Unix has it.
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
        let entry = opcode::Read::new(types::Fd(self.wake.as_raw_fd()), self.wake_count.as_mut_ptr(), 8).build();
        self.push(entry, user_data);
    }

    fn write(&mut self, file: FileHandle, start: usize, size: usize, file_offset: u64, user_data: UserData) {
        let memory = self.frame_ring.as_ref().expect("use_frame_ring comes before the first write");
        assert!(start + size <= memory.lease.size(), "a write lies within the frame ring");
        // SAFETY: start is within the leased mapping, by the assertion above.
        let bytes = unsafe { memory.lease.as_ptr().add(start) };
        let entry = write_entry(file, bytes, size, file_offset, memory.registered.then_some(FRAME_RING_INDEX));
        self.push(entry, user_data);
    }

    fn scratch(&mut self) -> &mut [u8] {
        &mut self.frame_ring.as_mut().expect("use_frame_ring comes before the first write").scratch
    }

    fn write_scratch(&mut self, file: FileHandle, start: usize, size: usize, file_offset: u64, user_data: UserData) {
        let memory = self.frame_ring.as_ref().expect("use_frame_ring comes before the first write");
        let bytes = memory.scratch[start..start + size].as_ptr();
        let entry = write_entry(file, bytes, size, file_offset, memory.registered.then_some(SCRATCH_INDEX));
        self.push(entry, user_data);
    }

    fn sync(&mut self, file: FileHandle, user_data: UserData) {
        let entry = opcode::Fsync::new(types::Fd(file.0)).flags(types::FsyncFlags::DATASYNC).build();
        self.push(entry, user_data);
    }

    fn submit(&mut self, wait: Wait) -> std::io::Result<()> {
        self.buffers.publish();
        self.system_calls += 1;
        let submitted = match wait {
            Wait::No => self.ring.submit(),
            Wait::Gather { want, gather, limit } if self.features.min_wait => self.wait_with(want, gather, limit),
            Wait::Gather { want, gather, limit } => self.wait_by_timeout(want, gather, limit),
        };
        self.busy = !self.ring.completion().is_empty();
        match submitted {
            Ok(_) => Ok(()),
            Err(error) => match Errno::from_io_error(&error) {
                // The wait ended by its time; a signal came; completions have to be reaped before more can be submitted; the
                // kernel was short of memory for a moment. In each case what was not submitted is still queued.
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
