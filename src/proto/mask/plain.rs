//! Portable unmasking, eight bytes at a time. The `crc32c` crate makes the checksum (in hardware on
//! ARM, with tables elsewhere).

#![forbid(unsafe_code)]

use super::super::MaskKey;

/// Bytes that are copied before they are summed. They fill half of a first-level cache of usual
/// size, so they are still in it.
const BLOCK_SIZE: usize = 16 * 1024;

/// The key, repeated over eight bytes.
fn wide(key: MaskKey) -> u64 {
    let word = u64::from(u32::from_le_bytes(key.0));
    word | word << 32
}

/// See [`super::unmask_copy`]. Both slices have the same length. `BLOCK_SIZE` is a multiple of the
/// key size, so every block starts with the same byte of the key.
pub(super) fn unmask_copy(destination: &mut [u8], masked: &[u8], key: MaskKey) -> u32 {
    let mut crc = 0;
    for (to, from) in destination.chunks_mut(BLOCK_SIZE).zip(masked.chunks(BLOCK_SIZE)) {
        copy_block(to, from, key);
        crc = crc32c::crc32c_append(crc, to);
    }
    crc
}

fn copy_block(destination: &mut [u8], masked: &[u8], key: MaskKey) {
    let wide = wide(key);
    let (to_words, to_rest) = destination.as_chunks_mut::<8>();
    let (from_words, from_rest) = masked.as_chunks::<8>();
    for (to, from) in to_words.iter_mut().zip(from_words) {
        *to = (u64::from_le_bytes(*from) ^ wide).to_le_bytes();
    }
    for (index, (to, from)) in to_rest.iter_mut().zip(from_rest).enumerate() {
        *to = from ^ key.0[index % 4];
    }
}

/// See [`super::unmask_in_place`].
#[cfg(test)]
pub(super) fn unmask_in_place(bytes: &mut [u8], key: MaskKey) {
    let wide = wide(key);
    let (words, rest) = bytes.as_chunks_mut::<8>();
    for word in words {
        *word = (u64::from_le_bytes(*word) ^ wide).to_le_bytes();
    }
    for (index, byte) in rest.iter_mut().enumerate() {
        *byte ^= key.0[index % 4];
    }
}
