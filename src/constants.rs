//! Compile-time limits, each with the reason for its value. Limits that an operator may change are
//! in [`crate::limits`].
#![forbid(unsafe_code)]

/// The commit of this build; `unknown` outside of the repository: see `build.rs`.
pub(crate) const COMMIT: &str = env!("BUILT_FROM_COMMIT");

/// Frames between two ACKs. The quick reference promises this number to clients, so it is not a
/// setting.
pub const ACK_INTERVAL_FRAMES: u64 = 10;

/// Most bytes from a client in a TLS handshake. Without a certificate it sends less than 2 KiB, and
/// a chain of certificates has a few. rustls would accept messages of 64 KiB.
pub const TLS_HANDSHAKE_SIZE_MAX: usize = 32 * 1024;

/// Bytes by which the buffer for handshake records grows. `Vec` would double it, and 10,000
/// connections may wait for the second half of a hello.
pub const TLS_HANDSHAKE_STEP: usize = 1024;

/// Size of a spill buffer, bytes: the largest TLS record (16,645 bytes) in whole cache lines.
pub(crate) const SPILL_SIZE: usize = 16_704;

/// Divisor: connections without a call may use this part of the spill buffers.
pub(crate) const SPILL_SHARE_OF_HEADS: usize = 4;

/// Smallest RSA modulus, bits. Smaller ones can be factored with known means (NIST SP 800-131A).
pub(crate) const KEY_BITS_MIN: usize = 2048;

/// Largest RSA modulus, bits. A signature of 8192 bits takes twelve times as long to verify, and so
/// makes a flood of bad tokens cheaper.
pub(crate) const KEY_BITS_MAX: usize = 4096;

/// Longest tenant or interaction id, bytes. So a call record has less than a kilobyte.
pub(crate) const ID_SIZE_MAX: usize = 256;

/// Tenants with their own counters on a node, including one row for all others. A thousand rows are
/// read in microseconds. A node of 16,000 calls has fewer large tenants.
pub(crate) const TENANT_COUNT_MAX: usize = 1024;

/// Largest token, bytes. An RS256 token with a 4096-bit key and generous claims is under 2 KiB.
pub(crate) const TOKEN_SIZE_MAX: usize = 4 * 1024;

/// Largest request head, bytes: a token of [`TOKEN_SIZE_MAX`], and the same size for everything
/// else.
pub const HEAD_SIZE_MAX: usize = 8 * 1024;

/// Most header fields in a request head. Browsers send about 20, proxies add a handful.
pub const HEAD_FIELDS_MAX: usize = 64;

/// Largest payload of a control frame (RFC 6455 §5.5).
pub(crate) const CONTROL_PAYLOAD_SIZE_MAX: usize = 125;

/// Alignment unit of the journal, bytes. Batches start on it in the ring and in the file, so that
/// O_DIRECT works on any disk.
pub const BLOCK_SIZE: usize = 4096;

/// Alignment of records and of their payload, bytes: a cache line, so that streaming stores fill
/// whole lines.
pub(crate) const RECORD_ALIGNMENT: usize = 64;

/// Largest sealed batch, bytes: about 108 whole frames. A larger write does not cost less per byte.
pub(crate) const BATCH_SIZE_MAX: usize = 1024 * 1024;

/// Largest write that always uses registered memory, bytes: see [`crate::io::pieces`]. It is the
/// largest write of a journal.
pub(crate) const REGISTERED_WRITE_SIZE_MAX: usize = 4 * BATCH_SIZE_MAX;

/// Memory of a shard for the start of a segment, bytes: its header, and a batch of call records.
pub(crate) const SCRATCH_SIZE_MAX: usize = BLOCK_SIZE + BATCH_SIZE_MAX;

/// Size of a receive buffer in the hot buffer ring, bytes (6.12 path: many receives fill it
/// incrementally).
pub(crate) const RECEIVE_BUFFER_SIZE: usize = 64 * 1024;

/// Receive buffers per shard. 64 × 64 KiB = 4 MiB stay in the L2/L3 cache; 1,024 × 16 KiB measured
/// 15 % slower.
pub(crate) const RECEIVE_BUFFER_COUNT: u16 = 64;

/// Buffers of [`RECEIVE_BUFFER_SIZE`] for reads from a backlog, in addition to those of armed
/// receives. So a turn reads up to 1.5 MiB of a backlog: some 160 frames, which are still in the
/// cache when they are copied. With 64 buffers, a frame of a flood cost 1.2 times as much. They are
/// touched only in a backlog.
pub(crate) const READ_BUFFER_COUNT: u16 = 32;

/// Read buffers that calls leave to requests and to connections that end. These need no room in the
/// frame ring, so they go on while calls cannot.
pub(crate) const READ_BUFFERS_KEPT: usize = 8;

/// Most bytes of one connection's armed receive in a turn: a sixteenth of the receive buffers. The
/// connection reads the rest in its turn, with the others.
pub(crate) const TURN_SIZE_MAX: usize = RECEIVE_BUFFER_SIZE * RECEIVE_BUFFER_COUNT as usize / 16;

/// Size of a receive buffer on kernels without incremental buffers, where each receive takes a
/// whole one.
pub(crate) const RECEIVE_BUFFER_SIZE_WHOLE: usize = 16 * 1024;

/// Receive buffers on kernels without incremental buffers; the same 4 MiB in all.
pub(crate) const RECEIVE_BUFFER_COUNT_WHOLE: u16 = 256;

/// Bytes of frame ring that one received byte can need at worst. A masked message of one byte has 7
/// bytes on the wire. In the ring it is a record header of 64 bytes and a payload padded to 64
/// bytes.
pub(crate) const RECORD_EXPANSION_MAX: usize = (2 * RECORD_ALIGNMENT).div_ceil(7);

/// Most bytes of a call record in a frame ring: a header, and after some numbers two ids of
/// [`ID_SIZE_MAX`] and the peer's address.
pub(crate) const CALL_RECORD_SIZE_MAX: usize = 11 * RECORD_ALIGNMENT;

/// Bytes of an end record in a frame ring.
pub(crate) const END_RECORD_SIZE: usize = 2 * RECORD_ALIGNMENT;

/// Most bytes of a frame ring that sealing a batch early costs: the padding of the batch, and the
/// header of the next one.
pub(crate) const SEAL_SIZE_MAX: usize = BLOCK_SIZE;

/// Bytes of a frame ring that are reserved for the end records of this many connections' calls,
/// because a call may end at any time. No received bytes and no seal may use them.
pub(crate) const fn ends_size(connection_count: usize) -> usize {
    connection_count * END_RECORD_SIZE
}

/// Bytes of a frame ring that must be free to accept `size` received bytes. It is the sum of
///
/// - what the bytes can become, whatever frames they are;
/// - what their first bytes can complete, after a start that was received before. It may be a
///   frame, which makes a record even of few bytes, or a `start`, which makes a call record. The
///   larger one counts;
/// - the end record of every call;
/// - one seal, so that the last accepted bytes can be sealed before anything is released. A second
///   seal is not included.
pub const fn room_needed(size: usize, connection_count: usize) -> usize {
    size * RECORD_EXPANSION_MAX + CALL_RECORD_SIZE_MAX + ends_size(connection_count) + SEAL_SIZE_MAX
}

/// Divisor: this part of the ring's size is the memory for notes about contents that are not
/// durable yet. Carriers send frames of 160 bytes or more. Each needs 256 bytes of the ring, and 16
/// bytes of notes, or 32 if it arrives alone in a turn. The rest is for the records of calls.
/// Memory is touched only as needed: with frames of 9,600 bytes, a 600th of the ring.
pub const PENDING_HEADERS_SHARE: usize = 7;

/// Average size of a batch, bytes: the queues have room at once for a full ring of such batches.
/// Batches are sealed every 20 ms or at [`BATCH_SIZE_MAX`]: 2,000 per minute and shard while the
/// disk stalls. With 4 GiB there is room for 65,536. With smaller batches the queues grow.
pub(crate) const BATCH_SIZE_QUEUED: usize = 64 * 1024;

/// Divisor: this part of a segment's size is the memory for notes about its contents. They are as
/// above, plus some 190 bytes for each call that is live when the segment begins. For 16,000 calls
/// these are 3 MB.
pub(crate) const RECORD_HEADERS_SHARE: u64 = 6;

/// With retention by age no segment takes audio for longer than this. So a segment whose end nothing
/// tells has ended at most so long after its beginning.
pub(crate) const SEGMENT_AGE_MAX: std::time::Duration = std::time::Duration::from_secs(3_600);

/// Bytes of a frame ring for one second of a call at 24 kHz: 50 frames of 960 bytes with a header
/// each, and a 64th for batches. Frames of 9,600 bytes that arrive in TCP segments of 1,448 bytes
/// need as much.
pub(crate) const CALL_RING_RATE: usize = 50 * (960 + RECORD_ALIGNMENT) * 65 / 64;

/// Minimum size of a frame ring for this many connections, bytes. Half of it is the room that one
/// whole receive buffer needs, and an open batch. The other half is for what batches waste at their
/// ends and at the end of a lap.
pub const fn ring_size_min(connections_max: usize) -> usize {
    2 * (room_needed(RECEIVE_BUFFER_SIZE, connections_max + SHED_CONNECTIONS_MAX) + BATCH_SIZE_MAX)
}

/// Most places of a shard that upgraded connections cannot use: see [`visitors_max`].
pub(crate) const SHED_CONNECTIONS_MAX: usize = 64;

/// Fewest of these places: a few requests at a time.
pub(crate) const VISITORS_MIN: usize = 16;

/// Places of a shard in addition to those of its `connections_max` upgraded connections. They are
/// for requests: a full node still answers `/health`, and answers calls with 503. A place is free
/// again after a round trip, because the oldest incomplete request gives way to a new one. Each
/// place needs a descriptor.
pub const fn visitors_max(connections_max: usize) -> usize {
    if connections_max < VISITORS_MIN {
        VISITORS_MIN
    } else if connections_max > SHED_CONNECTIONS_MAX {
        SHED_CONNECTIONS_MAX
    } else {
        connections_max
    }
}

/// The largest `connections_max` for this many sockets: the inverse of the above.
pub(crate) const fn connections_within(sockets: usize) -> usize {
    if sockets >= 2 * SHED_CONNECTIONS_MAX {
        sockets - SHED_CONNECTIONS_MAX
    } else if sockets >= 2 * VISITORS_MIN {
        sockets / 2
    } else {
        sockets.saturating_sub(VISITORS_MIN)
    }
}

/// Divisor: this part of those places is kept free for new connections. In a flood, the others
/// decide how long an incomplete request may stay.
pub(crate) const FREE_SHARE_OF_VISITORS: usize = 4;

/// Accepts that are armed at a time, and so the most connections that a turn accepts: 16,000 a
/// second with a turn of 2 ms. Each is for one connection, so a shard never has more sockets than
/// places. A multishot accept would take the whole backlog at once: 4,096 sockets for each shard,
/// however few descriptors there are.
pub(crate) const ACCEPTS_MAX: usize = 32;

/// How long a turn may verify tokens before it serves the live calls again. An ACK waits 20 ms for
/// its sync, and this adds a tenth. Usually `limits.handshakes_per_turn` ends it first: a token
/// takes 21 µs.
pub(crate) const HANDSHAKE_TIME_MAX: std::time::Duration = std::time::Duration::from_millis(2);

const _: () = assert!(connections_within(65) == 32 && visitors_max(32) == 32);
const _: () = assert!(connections_within(128) == 64 && visitors_max(64) == 64 && ACCEPTS_MAX <= 32);
const _: () = assert!(TENANT_COUNT_MAX > 1 && TENANT_COUNT_MAX <= u16::MAX as usize);
const _: () = assert!(HEAD_SIZE_MAX >= 2 * TOKEN_SIZE_MAX);
const _: () = assert!(BATCH_SIZE_MAX.is_multiple_of(BLOCK_SIZE));
const _: () = assert!(BLOCK_SIZE.is_multiple_of(RECORD_ALIGNMENT));
const _: () = assert!(RECEIVE_BUFFER_SIZE < BATCH_SIZE_MAX / 4);
const _: () =
    assert!(RECEIVE_BUFFER_COUNT.is_power_of_two() && RECEIVE_BUFFER_COUNT_WHOLE.is_power_of_two());
const _: () =
    assert!(READ_BUFFER_COUNT.is_power_of_two() && READ_BUFFERS_KEPT < READ_BUFFER_COUNT as usize);
const _: () = assert!(
    RECEIVE_BUFFER_SIZE_WHOLE <= RECEIVE_BUFFER_SIZE,
    "no receive needs more room than the largest buffer"
);
const _: () = assert!(
    CALL_RECORD_SIZE_MAX >= 2 * ID_SIZE_MAX && CALL_RECORD_SIZE_MAX >= 2 * RECORD_ALIGNMENT
);
// An empty ring accepts the bytes that its minimum size is for. After the needed room, the open
// batch and the end of a lap, an eighth is left. Appending costs a 64th of that. So there is also
// room for a TLS record that was partly in a spill buffer.
const _: () = assert!(
    ring_size_min(0) - 2 * BATCH_SIZE_MAX
        >= room_needed(RECEIVE_BUFFER_SIZE + SPILL_SIZE, SHED_CONNECTIONS_MAX) * 9 / 8
);
