//! Compile-time limits, each with the reason for its value. What an operator may change is in [`crate::limits`].
#![forbid(unsafe_code)]

/// Frames between two ACKs. The quick reference promises it to clients: not a setting.
pub const ACK_INTERVAL_FRAMES: u64 = 10;

/// Longest tenant or interaction id, bytes. Keeps a call record within a kilobyte.
pub const ID_SIZE_MAX: usize = 256;

/// Tenants with counters of their own on a node, the row of all others included. A thousand rows are read in microseconds
/// and are more than a node of 16,000 calls has large tenants.
pub const TENANT_COUNT_MAX: usize = 1024;

/// Largest token, bytes. An RS256 token with a 4096-bit key and generous claims is under 2 KiB.
pub const TOKEN_SIZE_MAX: usize = 4 * 1024;

/// Largest request head, bytes: a token of [`TOKEN_SIZE_MAX`] and as much again of everything else.
pub const HEAD_SIZE_MAX: usize = 8 * 1024;

/// Most header fields in a request head. Browsers send about 20, proxies add a handful.
pub const HEAD_FIELDS_MAX: usize = 64;

/// Largest payload of a control frame (RFC 6455 §5.5).
pub const CONTROL_PAYLOAD_SIZE_MAX: usize = 125;

/// Unit of the journal's alignment, bytes: batches start on it in ring and file, so that O_DIRECT takes them on any disk.
pub const BLOCK_SIZE: usize = 4096;

/// Alignment of records and of their payload, bytes: a cache line, so that streaming stores fill whole lines.
pub const RECORD_ALIGNMENT: usize = 64;

/// Largest sealed batch, bytes. About 108 whole frames: beyond it, a larger write no longer costs less per byte.
pub const BATCH_SIZE_MAX: usize = 1024 * 1024;

/// Memory of a shard for what a segment starts with, bytes: its header, and a batch of call records.
pub const SCRATCH_SIZE_MAX: usize = BLOCK_SIZE + BATCH_SIZE_MAX;

/// One receive buffer of the hot buffer ring, bytes (6.12 path: filled incrementally by many receives).
pub const RECEIVE_BUFFER_SIZE: usize = 64 * 1024;

/// Receive buffers per shard. 64 × 64 KiB = 4 MiB stay in the L2/L3 cache; 1,024 × 16 KiB measured 15 % slower.
pub const RECEIVE_BUFFER_COUNT: u16 = 64;

/// One receive buffer on kernels without incremental buffers, where each receive takes a whole one.
pub const RECEIVE_BUFFER_SIZE_WHOLE: usize = 16 * 1024;

/// Receive buffers on kernels without incremental buffers; the same 4 MiB in all.
pub const RECEIVE_BUFFER_COUNT_WHOLE: u16 = 256;

/// Bytes of frame ring that one received byte can turn into, at worst: a masked one-byte message is 7 bytes on the wire and a
/// 64-byte record header plus a padded 64-byte payload in the ring.
pub const RECORD_EXPANSION_MAX: usize = (2 * RECORD_ALIGNMENT).div_ceil(7);

/// Most bytes a call record takes up in a frame ring: a header, and two ids of [`ID_SIZE_MAX`] with some numbers before them.
pub const CALL_RECORD_SIZE_MAX: usize = 10 * RECORD_ALIGNMENT;

/// Bytes an end record takes up in a frame ring.
pub const END_RECORD_SIZE: usize = 2 * RECORD_ALIGNMENT;

/// Most that sealing a batch early costs of a frame ring's free size, bytes: the batch's pad, and the next one's header.
pub const SEAL_SIZE_MAX: usize = BLOCK_SIZE;

/// Bytes of a frame ring that are kept for the end records of so many connections' calls, which come without notice: nothing
/// received is let in over them, and no seal spends them.
pub const fn ends_size(connection_count: usize) -> usize {
    connection_count * END_RECORD_SIZE
}

/// Bytes of a frame ring that have to be free for `size` received bytes to be let in. The sum of
///
/// - what the bytes can turn into, whatever frames they make;
/// - what the first of them can be the end of, something whose beginning, header and all, came before: of a frame, which makes a
///   record of however few bytes, or of a `start`, which makes a call record; the larger of the two;
/// - every call's end record;
/// - one seal, so that what is let in last can be sealed before anything is released. There is no second one in it.
pub const fn room_needed(size: usize, connection_count: usize) -> usize {
    size * RECORD_EXPANSION_MAX + CALL_RECORD_SIZE_MAX + ends_size(connection_count) + SEAL_SIZE_MAX
}

/// Which share of a frame ring's size there is room for beside it, to note what is in the ring and not durable yet: a header for
/// each 9,600 bytes of audio would be a 151st, in the pieces in which frames arrive a 131st. With shorter frames it is for less
/// than a ring full of them.
pub const NOTES_SHARE: usize = 64;

/// Which share of a segment's size there is room for to note what is in it: as above, and each call that is under way when it
/// is begun, some 170 bytes; 16,000 of them in a segment of 128 MiB.
pub const MANIFEST_SHARE: u64 = 32;

/// Most room for that, bytes, however large the segment.
pub const MANIFEST_SIZE_MAX: u64 = 16 << 20;

/// Least bytes of a frame ring for so many connections: half of it is the room that one whole receive buffer needs, and a batch
/// being filled. The other half is for what batches waste at their ends, and at the end of a lap.
pub const fn ring_size_min(connections_max: usize) -> usize {
    2 * (room_needed(RECEIVE_BUFFER_SIZE, connections_max + SHED_CONNECTIONS_MAX) + BATCH_SIZE_MAX)
}

/// Connections of one shard, beyond those it has place for, that may stay until they have read their 503: two seconds at most, an
/// answer's way there and back as a rule. So a thousand a second are told at a round trip of 60 ms; a flood holds no more than
/// these. Each needs a descriptor.
pub const SHED_CONNECTIONS_MAX: usize = 64;

const _: () = assert!(TENANT_COUNT_MAX > 1 && TENANT_COUNT_MAX <= u16::MAX as usize);
const _: () = assert!(HEAD_SIZE_MAX >= 2 * TOKEN_SIZE_MAX);
const _: () = assert!(BATCH_SIZE_MAX.is_multiple_of(BLOCK_SIZE));
const _: () = assert!(BLOCK_SIZE.is_multiple_of(RECORD_ALIGNMENT));
const _: () = assert!(RECEIVE_BUFFER_SIZE < BATCH_SIZE_MAX / 4);
const _: () = assert!(RECEIVE_BUFFER_COUNT.is_power_of_two() && RECEIVE_BUFFER_COUNT_WHOLE.is_power_of_two());
const _: () =
    assert!(RECEIVE_BUFFER_SIZE_WHOLE <= RECEIVE_BUFFER_SIZE, "no receive needs more room than the largest buffer");
const _: () = assert!(CALL_RECORD_SIZE_MAX >= 2 * ID_SIZE_MAX && CALL_RECORD_SIZE_MAX >= 2 * RECORD_ALIGNMENT);
// An empty ring takes all of what it is the least for: beyond the room that is needed, the batch being filled and the end of a lap,
// an eighth is left, of which appending is taxed a sixty-fourth.
const _: () =
    assert!(ring_size_min(0) - 2 * BATCH_SIZE_MAX >= room_needed(RECEIVE_BUFFER_SIZE, SHED_CONNECTIONS_MAX) * 9 / 8);
