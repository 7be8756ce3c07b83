//! The kernels for CPUs with AVX2 but without AVX-512. With VPCLMULQDQ: AMD Zen 3, Intel client
//! CPUs since 2021. Without: AMD Zen 2, older Intel CPUs. The parent module explains the
//! arithmetic.
//!
//! On a Zen 3 the folding kernel takes 0.7 of the time of the SSE kernel. A streaming copy without
//! a checksum takes nearly as long, so the stores are the limit. For CPUs without VPCLMULQDQ,
//! folding in 128-bit registers took longer than the SSE kernel.

#![allow(unsafe_code)] // the other unsafe code of the data path's pure half is in the parent

use super::super::super::MaskKey;
use super::super::{LINE_SIZE, Supported};
use super::{
    LANE_SIZE, copy_rest, copy_sse42, fold_by, has_sse42, is_aligned, shift, shift_by, wide_word,
    word,
};
use std::arch::x86_64::*;

/// Lane of the AVX2 kernel for the bytes after the large blocks, bytes. Three of them are the rest
/// of 9,600 bytes; a frame of 20 ms at 24 kHz has two such blocks.
const SHORT_LANE_SIZE: usize = 128;

/// Bytes of one 256-bit register. Four of them are folded in parallel; six or eight were not faster
/// on a Zen 3.
const VECTOR_SIZE: usize = 32;
const STRIDE_SIZE: usize = 4 * VECTOR_SIZE;

const _: () = assert!(SHORT_LANE_SIZE.is_multiple_of(LINE_SIZE) && 2 * VECTOR_SIZE == LINE_SIZE);

/// Whether this CPU runs the AVX2 kernel; the operating system has to save the registers.
pub(in super::super) fn has_avx2() -> bool {
    has_sse42() && is_x86_feature_detected!("avx2")
}

/// Whether this CPU and the operating system run the AVX2 kernel that folds.
pub(in super::super) fn has_avx2_vpclmulqdq() -> bool {
    has_avx2() && is_x86_feature_detected!("vpclmulqdq")
}

/// See [`super::super::unmask_copy`]. Both slices have the same length.
#[inline]
pub(in super::super) fn unmask_copy_avx2(
    _: Supported<2>,
    destination: &mut [u8],
    masked: &[u8],
    key: MaskKey,
) -> u32 {
    if is_aligned(destination) {
        // SAFETY: `Supported<2>` exists only if `has_avx2` held (see `Kernel::available`); the
        // destination is aligned.
        unsafe { copy_avx2::<true>(destination, masked, key) }
    } else {
        // SAFETY: as above; without STREAM no alignment is needed.
        unsafe { copy_avx2::<false>(destination, masked, key) }
    }
}

/// See [`super::super::unmask_copy`]. Both slices have the same length.
#[inline]
pub(in super::super) fn unmask_copy_avx2_vpclmulqdq(
    _: Supported<3>,
    destination: &mut [u8],
    masked: &[u8],
    key: MaskKey,
) -> u32 {
    if destination.len() < VECTOR_SIZE {
        // SAFETY: `Supported<3>` exists only if `has_avx2_vpclmulqdq` held, which includes
        // `has_sse42`; no alignment is needed.
        unsafe { copy_sse42::<false>(destination, masked, key) }
    } else if is_aligned(destination) {
        // SAFETY: `Supported<3>` as above; at least one register long; the destination is aligned.
        unsafe { copy_avx2_vpclmulqdq::<true>(destination, masked, key) }
    } else {
        // SAFETY: as above; without STREAM no alignment is needed.
        unsafe { copy_avx2_vpclmulqdq::<false>(destination, masked, key) }
    }
}

/// See [`super::super::store_line`].
#[inline]
pub(in super::super) fn store_line_avx2(
    _: Supported<2>,
    destination: &mut [u8; LINE_SIZE],
    line: &[u8; LINE_SIZE],
) {
    #[target_feature(enable = "avx2")]
    unsafe fn store(destination: *mut u8, line: *const u8) {
        for offset in [0, VECTOR_SIZE] {
            // SAFETY: the caller passes 64 readable and 64 writable bytes, the latter aligned.
            unsafe {
                let value = _mm256_loadu_si256(line.add(offset).cast());
                _mm256_stream_si256(destination.add(offset).cast(), value);
            }
        }
    }
    if is_aligned(destination) {
        // SAFETY: `Supported<2>` exists only if `has_avx2` held; both arrays have 64 bytes; the
        // alignment is checked above.
        unsafe { store(destination.as_mut_ptr(), line.as_ptr()) };
    } else {
        *destination = *line;
    }
}

/// Loads 32 bytes, unmasks them, stores them, and returns them.
///
/// # Safety
/// 32 bytes are readable at `from` and writable at `to`, which is 32-byte aligned if `STREAM`.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn step_32<const STREAM: bool>(to: *mut u8, from: *const u8, key: __m256i) -> __m256i {
    // SAFETY: the caller guarantees exactly this.
    unsafe {
        let value = _mm256_xor_si256(_mm256_loadu_si256(from.cast()), key);
        if STREAM {
            _mm256_stream_si256(to.cast(), value);
        } else {
            _mm256_storeu_si256(to.cast(), value);
        }
        value
    }
}

/// The word at byte `at`, unmasked.
fn word_at(masked: &[u8], at: usize, wide_key: u64) -> u64 {
    u64::from_le_bytes(masked[at..at + 8].try_into().expect("eight bytes")) ^ wide_key
}

/// # Safety
/// The CPU has the features; `destination` is aligned to 32 bytes if `STREAM`; both slices have the
/// same length.
#[target_feature(enable = "avx2,sse4.2,pclmulqdq")]
unsafe fn copy_avx2<const STREAM: bool>(
    destination: &mut [u8],
    masked: &[u8],
    key: MaskKey,
) -> u32 {
    let (wide_key, wide_word) = (_mm256_set1_epi32(word(key)), wide_word(key));
    let start = u64::from(u32::MAX);
    // SAFETY: the caller guarantees it.
    let (at, remainder) =
        unsafe { copy_lanes::<STREAM, LANE_SIZE>(destination, masked, key, start) };
    let (to, from) = (&mut destination[at..], &masked[at..]);
    // SAFETY: as above; `at` is a multiple of a line, so the destination is as aligned as before.
    let (at, mut remainder) =
        unsafe { copy_lanes::<STREAM, SHORT_LANE_SIZE>(to, from, key, remainder) };
    let mut to_parts = to[at..].chunks_exact_mut(VECTOR_SIZE);
    let mut from_parts = from[at..].chunks_exact(VECTOR_SIZE);
    for (to, from) in to_parts.by_ref().zip(from_parts.by_ref()) {
        // SAFETY: both have 32 bytes and start at a multiple of 32 from the start of the
        // destination.
        unsafe { step_32::<STREAM>(to.as_mut_ptr(), from.as_ptr(), wide_key) };
        for at in (0..VECTOR_SIZE).step_by(8) {
            remainder = _mm_crc32_u64(remainder, word_at(from, at, wide_word));
        }
    }
    !copy_rest(to_parts.into_remainder(), from_parts.remainder(), key, remainder)
}

/// Copies blocks of three lanes of `LANE` bytes while there are whole blocks. Returns how many
/// bytes that were, and the remainder after them.
///
/// The lines are stored in order, because a CPU combines few streams of stores at a time. The
/// checksum reads the lanes again, from the source in the first-level cache. Extracting the words
/// from the vector registers would cost more.
///
/// # Safety
/// As for [`copy_avx2`].
#[inline]
#[target_feature(enable = "avx2,sse4.2,pclmulqdq")]
unsafe fn copy_lanes<const STREAM: bool, const LANE: usize>(
    destination: &mut [u8],
    masked: &[u8],
    key: MaskKey,
    mut remainder: u64,
) -> (usize, u64) {
    let (wide_key, wide_word) = (_mm256_set1_epi32(word(key)), wide_word(key));
    let mut copied = 0;
    for (to, from) in destination.chunks_exact_mut(3 * LANE).zip(masked.chunks_exact(3 * LANE)) {
        let mut lanes = [remainder, 0, 0];
        for line in (0..LANE).step_by(LINE_SIZE) {
            for at in (3 * line..3 * (line + LINE_SIZE)).step_by(VECTOR_SIZE) {
                // SAFETY: `at + 32` is at most `3 * LANE`, the length of both blocks. `at` and the
                // offset of the block are multiples of 32, so the alignment is that of the
                // destination, which the caller guarantees.
                unsafe {
                    step_32::<STREAM>(to.as_mut_ptr().add(at), from.as_ptr().add(at), wide_key)
                };
            }
            for at in (line..line + LINE_SIZE).step_by(8) {
                for (index, lane) in lanes.iter_mut().enumerate() {
                    *lane = _mm_crc32_u64(*lane, word_at(from, index * LANE + at, wide_word));
                }
            }
        }
        let joined = shift(lanes[0], const { shift_by(2 * LANE) })
            ^ shift(lanes[1], const { shift_by(LANE) });
        remainder = joined ^ lanes[2];
        copied += 3 * LANE;
    }
    (copied, remainder)
}

/// A constant pair of [`fold_by`], for both 128-bit blocks of a register.
#[inline]
#[target_feature(enable = "avx2")]
fn pair((low, high): (i64, i64)) -> __m256i {
    _mm256_set_epi64x(high, low, high, low)
}

/// Moves both blocks of `sum` forward by `constants`, onto those of `next`.
#[inline]
#[target_feature(enable = "avx2,vpclmulqdq")]
fn fold(sum: __m256i, constants: __m256i, next: __m256i) -> __m256i {
    let low = _mm256_clmulepi64_epi128::<0x00>(sum, constants);
    let high = _mm256_clmulepi64_epi128::<0x11>(sum, constants);
    _mm256_xor_si256(_mm256_xor_si256(low, high), next)
}

/// The remainder of a register that ends the message so far: moves its first block onto the second,
/// then reduces 128 bits to 32.
#[inline]
#[target_feature(enable = "avx2,vpclmulqdq,sse4.2")]
fn reduce(sum: __m256i) -> u64 {
    let (low, high) = const { fold_by(16) };
    // The constants of the last block are zero, so it is added unchanged.
    let moved = fold(sum, _mm256_set_epi64x(0, 0, high, low), _mm256_setzero_si256());
    let block = _mm_xor_si128(_mm256_castsi256_si128(moved), _mm256_extracti128_si256::<1>(sum));
    let remainder = _mm_crc32_u64(0, _mm_cvtsi128_si64(block) as u64);
    _mm_crc32_u64(remainder, _mm_extract_epi64::<1>(block) as u64)
}

/// # Safety
/// The CPU has the features; the slices have the same length, at least one register; `destination`
/// is 32-byte aligned if `STREAM`.
#[target_feature(enable = "avx2,vpclmulqdq,sse4.2,pclmulqdq")]
unsafe fn copy_avx2_vpclmulqdq<const STREAM: bool>(
    destination: &mut [u8],
    masked: &[u8],
    key: MaskKey,
) -> u32 {
    let wide_key = _mm256_set1_epi32(word(key));
    let start = _mm256_zextsi128_si256(_mm_cvtsi32_si128(-1)); // all ones over the first 32 bits
    let by_one = pair(const { fold_by(VECTOR_SIZE) });
    let by_four = pair(const { fold_by(STRIDE_SIZE) });
    let (to, from, size) = (destination.as_mut_ptr(), masked.as_ptr(), destination.len());
    // SAFETY: used below only with `at + 32 <= size`, the length of both slices. Every `at` is a
    // multiple of 32, so the alignment is that of the destination, which the caller guarantees.
    let step = |at: usize| unsafe { step_32::<STREAM>(to.add(at), from.add(at), wide_key) };

    let mut sum;
    let mut at;
    if size >= STRIDE_SIZE {
        let mut sums = [_mm256_xor_si256(step(0), start), step(32), step(64), step(96)];
        at = STRIDE_SIZE;
        while at + STRIDE_SIZE <= size {
            sums[0] = fold(sums[0], by_four, step(at));
            sums[1] = fold(sums[1], by_four, step(at + 32));
            sums[2] = fold(sums[2], by_four, step(at + 64));
            sums[3] = fold(sums[3], by_four, step(at + 96));
            at += STRIDE_SIZE;
        }
        sum = fold(fold(fold(sums[0], by_one, sums[1]), by_one, sums[2]), by_one, sums[3]);
    } else {
        sum = _mm256_xor_si256(step(0), start);
        at = VECTOR_SIZE;
    }
    while at + VECTOR_SIZE <= size {
        sum = fold(sum, by_one, step(at));
        at += VECTOR_SIZE;
    }
    !copy_rest(&mut destination[at..], &masked[at..], key, reduce(sum))
}
