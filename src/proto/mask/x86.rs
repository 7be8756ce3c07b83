//! The kernels for x86-64.
//!
//! # The checksum as polynomial arithmetic
//! CRC-32C is the remainder of the message, a polynomial over GF(2), by P. The representation is
//! reflected: in a word of `w` bits, bit `i` is the coefficient of x^(w-1-i). So the first byte in
//! memory holds the highest powers. Three facts are needed:
//!
//! - `crc32 r64, m64` computes `(R·x^32 + M)·x^32 mod P`, where R is the running remainder (it
//!   covers M's highest 32 powers).
//! - A carry-less product of two reflected 64-bit words, read as a reflected 128-bit word, is
//!   `A·B·x`. That is one power too many, because two 64-bit factors give 127 bits and not 128.
//! - A 32-bit constant K in the low half of a 64-bit word reads as `K·x^32`, so multiplying by it
//!   gives `A·K·x^33`.
//!
//! *Folding* moves a 128-bit block `lo·x^64 + hi` (`lo` is first in memory) forward by D bits, onto
//! the block that lies D bits later. The block must be replaced by something congruent to it times
//! x^D. For the low word, `lo·x^(D+64) = lo·K·x^33` gives `K = x^(D+31) mod P`. For the high word,
//! `hi·x^D = hi·K·x^33` gives `K = x^(D-33) mod P`.
//!
//! *Joining lanes*: a 32-bit remainder R moved forward by D bits is `R·x^D`. With both factors in
//! low halves, the low word of the product, read as a reflected 64-bit word, is `R·K·x`. Its
//! `crc32` is `R·K·x^33`, so again `K = x^(D-33) mod P`.
//!
//! The start value and the final inversion are those of the CRC: all ones over the first 32 bits,
//! and `!` at the end.
//!
//! # Streaming stores
//! These stores bypass the cache and are not ordered with other stores. Another thread or a device
//! may see them late, until [`fence`]. The thread that made them sees them at once, as x86
//! guarantees for all own stores. The frame ring is the only user. It gives out only the bytes of
//! sealed batches, and sealing calls the fence.

#![allow(unsafe_code)] // unsafe code of the data path's pure half is only here and in `avx2`

pub(super) mod avx2;

use super::super::MaskKey;
use super::{LINE_SIZE, Supported};
use std::arch::x86_64::*;

/// P of CRC-32C (Castagnoli) without x^32, reflected.
const POLYNOMIAL: u32 = 0x82F6_3B78;

/// Lane of the SSE and AVX2 kernels, bytes. A frame of 9,600 bytes is six blocks of three such
/// lanes, and a short rest.
const LANE_SIZE: usize = 512;

/// Bytes of one 512-bit register. Four of them are folded in parallel, because VPCLMULQDQ gives a
/// result each cycle, with a latency of four cycles or more.
const VECTOR_SIZE: usize = 64;
const STRIDE_SIZE: usize = 4 * VECTOR_SIZE;

const _: () = assert!(VECTOR_SIZE == LINE_SIZE && LANE_SIZE.is_multiple_of(LINE_SIZE));

/// x^power mod P, reflected in 32 bits.
const fn x_to_the(power: usize) -> u32 {
    let mut remainder = 0x8000_0000; // x^0
    let mut left = power;
    while left > 0 {
        // times x; the other terms of P replace x^32
        remainder = (remainder >> 1) ^ (POLYNOMIAL * (remainder & 1));
        left -= 1;
    }
    remainder
}

/// The pair of constants that moves a 128-bit block forward by `size` bytes: for its low word, for
/// its high word.
const fn fold_by(size: usize) -> (i64, i64) {
    (x_to_the(size * 8 + 31) as i64, x_to_the(size * 8 - 33) as i64)
}

/// The constant that moves a remainder forward by `size` bytes.
const fn shift_by(size: usize) -> i64 {
    x_to_the(size * 8 - 33) as i64
}

/// Whether this CPU runs the SSE kernel.
pub(super) fn has_sse42() -> bool {
    is_x86_feature_detected!("sse4.2") && is_x86_feature_detected!("pclmulqdq")
}

/// Whether this CPU runs the AVX-512 kernel; the operating system has to save the registers.
pub(super) fn has_avx512() -> bool {
    has_sse42() && is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("vpclmulqdq")
}

/// See [`super::fence`].
#[inline]
pub(super) fn fence() {
    // SAFETY: SSE is part of x86-64, and the instruction only orders stores.
    unsafe { _mm_sfence() };
}

fn word(key: MaskKey) -> i32 {
    i32::from_le_bytes(key.0)
}

/// The key, repeated over eight bytes.
fn wide_word(key: MaskKey) -> u64 {
    u64::from(word(key) as u32) * 0x1_0000_0001
}

fn is_aligned(bytes: &[u8]) -> bool {
    bytes.as_ptr().addr().is_multiple_of(LINE_SIZE)
}

/// See [`super::unmask_copy`]. Both slices have the same length.
#[inline]
pub(super) fn unmask_copy_sse42(
    _: Supported<1>,
    destination: &mut [u8],
    masked: &[u8],
    key: MaskKey,
) -> u32 {
    if is_aligned(destination) {
        // SAFETY: `Supported` exists only if `has_sse42` held (see `Kernel::available`); the
        // destination is aligned.
        unsafe { copy_sse42::<true>(destination, masked, key) }
    } else {
        // SAFETY: as above; without STREAM no alignment is needed.
        unsafe { copy_sse42::<false>(destination, masked, key) }
    }
}

/// See [`super::unmask_copy`]. Both slices have the same length.
#[inline]
pub(super) fn unmask_copy_avx512(
    _: Supported<4>,
    destination: &mut [u8],
    masked: &[u8],
    key: MaskKey,
) -> u32 {
    if destination.len() < VECTOR_SIZE {
        // SAFETY: `Supported` exists only if `has_avx512` held, which includes `has_sse42`; no
        // alignment is needed.
        unsafe { copy_sse42::<false>(destination, masked, key) }
    } else if is_aligned(destination) {
        // SAFETY: `Supported` as above; at least one vector long; the destination is aligned.
        unsafe { copy_avx512::<true>(destination, masked, key) }
    } else {
        // SAFETY: as above; without STREAM no alignment is needed.
        unsafe { copy_avx512::<false>(destination, masked, key) }
    }
}

/// See [`super::store_line`].
#[inline]
pub(super) fn store_line_sse42(
    _: Supported<1>,
    destination: &mut [u8; LINE_SIZE],
    line: &[u8; LINE_SIZE],
) {
    if !is_aligned(destination) {
        *destination = *line;
        return;
    }
    for offset in (0..LINE_SIZE).step_by(16) {
        // SAFETY: `offset + 16` is within both arrays. The check above makes destination + offset
        // 16-byte aligned. SSE2 is part of x86-64.
        unsafe {
            let value = _mm_loadu_si128(line.as_ptr().add(offset).cast());
            _mm_stream_si128(destination.as_mut_ptr().add(offset).cast(), value);
        }
    }
}

/// See [`super::store_line`].
#[inline]
pub(super) fn store_line_avx512(
    _: Supported<4>,
    destination: &mut [u8; LINE_SIZE],
    line: &[u8; LINE_SIZE],
) {
    #[target_feature(enable = "avx512f")]
    unsafe fn store(destination: *mut u8, line: *const u8) {
        // SAFETY: the caller passes 64 readable and 64 writable bytes, the latter aligned.
        unsafe { _mm512_stream_si512(destination.cast(), _mm512_loadu_si512(line.cast())) };
    }
    if is_aligned(destination) {
        // SAFETY: `Supported` exists only if `has_avx512` held; both arrays have 64 bytes; the
        // alignment is checked above.
        unsafe { store(destination.as_mut_ptr(), line.as_ptr()) };
    } else {
        *destination = *line;
    }
}

/// Loads 16 bytes, unmasks them, stores them, and returns them as two words in memory order.
///
/// # Safety
/// 16 bytes are readable at `from` and writable at `to`, which is 16-byte aligned if `STREAM`.
#[inline]
#[target_feature(enable = "sse4.2")]
unsafe fn step_16<const STREAM: bool>(to: *mut u8, from: *const u8, key: __m128i) -> (u64, u64) {
    // SAFETY: the caller guarantees exactly this.
    let value = unsafe {
        let value = _mm_xor_si128(_mm_loadu_si128(from.cast()), key);
        if STREAM {
            _mm_stream_si128(to.cast(), value);
        } else {
            _mm_storeu_si128(to.cast(), value);
        }
        value
    };
    (_mm_cvtsi128_si64(value) as u64, _mm_extract_epi64::<1>(value) as u64)
}

/// `remainder · x^D mod P`, for the D that [`shift_by`] made `constant` for.
#[inline]
#[target_feature(enable = "sse4.2,pclmulqdq")]
fn shift(remainder: u64, constant: i64) -> u64 {
    let product =
        _mm_clmulepi64_si128::<0>(_mm_cvtsi64_si128(remainder as i64), _mm_cvtsi64_si128(constant));
    _mm_crc32_u64(0, _mm_cvtsi128_si64(product) as u64)
}

/// # Safety
/// The CPU has the features; `destination` is aligned to 16 bytes if `STREAM`; both slices have the
/// same length.
#[target_feature(enable = "sse4.2,pclmulqdq")]
unsafe fn copy_sse42<const STREAM: bool>(
    destination: &mut [u8],
    masked: &[u8],
    key: MaskKey,
) -> u32 {
    let wide_key = _mm_set1_epi32(word(key));
    let mut remainder = u64::from(u32::MAX);
    let mut to_blocks = destination.chunks_exact_mut(3 * LANE_SIZE);
    let mut from_blocks = masked.chunks_exact(3 * LANE_SIZE);
    for (to, from) in to_blocks.by_ref().zip(from_blocks.by_ref()) {
        // `crc32` has a latency of three cycles and a rate of one each cycle. So three lanes run at
        // once and are joined at the end of the block.
        let mut lanes = [remainder, 0, 0];
        for line in (0..LANE_SIZE).step_by(LINE_SIZE) {
            for (index, lane) in lanes.iter_mut().enumerate() {
                for part in (0..LINE_SIZE).step_by(16) {
                    let at = index * LANE_SIZE + line + part;
                    // SAFETY: `at + 16` is at most `3 * LANE_SIZE`, the length of both blocks. `at`
                    // and the offset of the block are multiples of 16, so the alignment is that of
                    // the destination, which the caller guarantees.
                    let (low, high) = unsafe {
                        step_16::<STREAM>(to.as_mut_ptr().add(at), from.as_ptr().add(at), wide_key)
                    };
                    *lane = _mm_crc32_u64(_mm_crc32_u64(*lane, low), high);
                }
            }
        }
        let joined = shift(lanes[0], const { shift_by(2 * LANE_SIZE) })
            ^ shift(lanes[1], const { shift_by(LANE_SIZE) });
        remainder = joined ^ lanes[2];
    }
    let mut to_parts = to_blocks.into_remainder().chunks_exact_mut(16);
    let mut from_parts = from_blocks.remainder().chunks_exact(16);
    for (to, from) in to_parts.by_ref().zip(from_parts.by_ref()) {
        // SAFETY: both have 16 bytes and start at a multiple of 16 from the start of the
        // destination.
        let (low, high) = unsafe { step_16::<STREAM>(to.as_mut_ptr(), from.as_ptr(), wide_key) };
        remainder = _mm_crc32_u64(_mm_crc32_u64(remainder, low), high);
    }
    !copy_rest(to_parts.into_remainder(), from_parts.remainder(), key, remainder)
}

/// The last bytes of a copy, fewer than a vector: eight at a time, then single ones. Returns the
/// remainder after them.
#[inline]
#[target_feature(enable = "sse4.2")]
fn copy_rest(destination: &mut [u8], masked: &[u8], key: MaskKey, remainder: u64) -> u32 {
    let wide_key = wide_word(key);
    let (to_words, to_bytes) = destination.as_chunks_mut::<8>();
    let (from_words, from_bytes) = masked.as_chunks::<8>();
    let mut remainder = remainder;
    for (to, from) in to_words.iter_mut().zip(from_words) {
        let value = u64::from_le_bytes(*from) ^ wide_key;
        *to = value.to_le_bytes();
        remainder = _mm_crc32_u64(remainder, value);
    }
    let mut remainder = remainder as u32;
    for (index, (to, from)) in to_bytes.iter_mut().zip(from_bytes).enumerate() {
        *to = from ^ key.0[index % 4];
        remainder = _mm_crc32_u8(remainder, *to);
    }
    remainder
}

/// Loads 64 bytes, unmasks them, stores them, and returns them.
///
/// # Safety
/// 64 bytes are readable at `from` and writable at `to`, which is 64-byte aligned if `STREAM`.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn step_64<const STREAM: bool>(to: *mut u8, from: *const u8, key: __m512i) -> __m512i {
    // SAFETY: the caller guarantees exactly this.
    unsafe {
        let value = _mm512_xor_si512(_mm512_loadu_si512(from.cast()), key);
        if STREAM {
            _mm512_stream_si512(to.cast(), value);
        } else {
            _mm512_storeu_si512(to.cast(), value);
        }
        value
    }
}

/// A constant pair of [`fold_by`], for all four 128-bit blocks of a register.
#[inline]
#[target_feature(enable = "avx512f")]
fn pair((low, high): (i64, i64)) -> __m512i {
    _mm512_set_epi64(high, low, high, low, high, low, high, low)
}

/// Moves the four blocks of `sum` forward by `constants`, onto those of `next`.
#[inline]
#[target_feature(enable = "avx512f,vpclmulqdq")]
fn fold(sum: __m512i, constants: __m512i, next: __m512i) -> __m512i {
    let low = _mm512_clmulepi64_epi128::<0x00>(sum, constants);
    let high = _mm512_clmulepi64_epi128::<0x11>(sum, constants);
    _mm512_ternarylogic_epi64::<0x96>(low, high, next) // 0x96: exclusive or of all three
}

/// The remainder of a register that ends the message so far: moves its four blocks onto the last
/// one, then reduces 128 bits to 32.
#[inline]
#[target_feature(enable = "avx512f,vpclmulqdq,sse4.2")]
fn reduce(sum: __m512i) -> u64 {
    let (k0, k1, k2) = const { (fold_by(48), fold_by(32), fold_by(16)) };
    let constants = _mm512_set_epi64(0, 0, k2.1, k2.0, k1.1, k1.0, k0.1, k0.0);
    // The constants of the last block are zero, so it is added unchanged.
    let last = _mm512_maskz_mov_epi64(0b1100_0000, sum);
    let moved = fold(sum, constants, last);
    let halves =
        _mm256_xor_si256(_mm512_castsi512_si256(moved), _mm512_extracti64x4_epi64::<1>(moved));
    let block =
        _mm_xor_si128(_mm256_castsi256_si128(halves), _mm256_extracti128_si256::<1>(halves));
    let remainder = _mm_crc32_u64(0, _mm_cvtsi128_si64(block) as u64);
    _mm_crc32_u64(remainder, _mm_extract_epi64::<1>(block) as u64)
}

/// # Safety
/// The CPU has the features; the slices have the same length, at least one vector; `destination` is
/// 64-byte aligned if `STREAM`.
#[target_feature(enable = "avx512f,vpclmulqdq,sse4.2,pclmulqdq")]
unsafe fn copy_avx512<const STREAM: bool>(
    destination: &mut [u8],
    masked: &[u8],
    key: MaskKey,
) -> u32 {
    let wide_key = _mm512_set1_epi32(word(key));
    let start = _mm512_zextsi128_si512(_mm_cvtsi32_si128(-1)); // all ones over the first 32 bits
    let (by_one, by_four) =
        (pair(const { fold_by(VECTOR_SIZE) }), pair(const { fold_by(STRIDE_SIZE) }));
    let (to, from, size) = (destination.as_mut_ptr(), masked.as_ptr(), destination.len());
    // SAFETY: used below only with `at + 64 <= size`, the length of both slices. Every `at` is a
    // multiple of 64, so the alignment is that of the destination, which the caller guarantees.
    let step = |at: usize| unsafe { step_64::<STREAM>(to.add(at), from.add(at), wide_key) };

    let mut sum;
    let mut at;
    if size >= STRIDE_SIZE {
        let mut sums = [_mm512_xor_si512(step(0), start), step(64), step(128), step(192)];
        at = STRIDE_SIZE;
        while at + STRIDE_SIZE <= size {
            sums[0] = fold(sums[0], by_four, step(at));
            sums[1] = fold(sums[1], by_four, step(at + 64));
            sums[2] = fold(sums[2], by_four, step(at + 128));
            sums[3] = fold(sums[3], by_four, step(at + 192));
            at += STRIDE_SIZE;
        }
        sum = fold(fold(fold(sums[0], by_one, sums[1]), by_one, sums[2]), by_one, sums[3]);
    } else {
        sum = _mm512_xor_si512(step(0), start);
        at = VECTOR_SIZE;
    }
    while at + VECTOR_SIZE <= size {
        sum = fold(sum, by_one, step(at));
        at += VECTOR_SIZE;
    }
    !copy_rest(&mut destination[at..], &masked[at..], key, reduce(sum))
}
