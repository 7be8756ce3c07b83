//! The one pass over audio bytes: unmask, copy into the frame ring around the cache, checksum.
//!
//! SKELETON: signatures fixed, bodies to be written.

use super::MaskKey;

/// How the pass is done on this CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernel {
    /// Portable code.
    Plain,
    /// SSE4.2: 16-byte streaming stores, `crc32` instruction.
    Sse42,
    /// AVX-512 with VPCLMULQDQ: 64-byte streaming stores, checksum by folding.
    Avx512,
}

impl Kernel {
    /// The fastest this CPU can run.
    pub fn detect() -> Kernel {
        todo!()
    }

    /// Every kernel this CPU can run; tests compare them.
    pub fn available() -> Vec<Kernel> {
        todo!()
    }
}

/// Copies `masked`, unmasked with `key`, to `destination` of the same length, and returns the CRC-32C of the unmasked bytes.
/// After the last of a batch of such copies, call [`fence`] before another agent (the kernel) reads the destination.
pub fn unmask_copy(_kernel: Kernel, _destination: &mut [u8], _masked: &[u8], _key: MaskKey) -> u32 {
    todo!()
}

/// Orders streaming stores before what follows.
pub fn fence() {
    todo!()
}

/// Unmasks small payloads (text, control frames) where they are.
pub fn unmask_in_place(_bytes: &mut [u8], _key: MaskKey) {
    todo!()
}
