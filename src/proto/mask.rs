//! The one pass over audio bytes: unmask, copy into the frame ring around the cache, checksum.
//!
//! ```text
//!   receive buffer (hot)                                     frame ring (cold; read next by the disk)
//!   ┌──────────────┐  load   ┌─────┐ xor key ┌─────────┐  streaming store   ┌────────────────┐
//!   │ masked bytes │ ──────► │ zmm │ ──────► │ sample  │ ─────────────────► │ record payload │
//!   └──────────────┘         └─────┘         │ values  │                    └────────────────┘
//!                                            └────┬────┘
//!                                                 └─ folded into the CRC-32C while still in a register
//! ```
//!
//! Three kernels give the same result; which one runs is decided once, at start. It does not decode frames and knows nothing
//! of records. Unsafe code is in `mask/x86.rs` alone.

#![deny(unsafe_code)]

use super::MaskKey;

mod plain;
#[cfg(target_arch = "x86_64")]
mod x86;

#[cfg(test)]
mod tests;

/// Bytes of a cache line, and of what [`store_line`] writes: aligned to it, every kernel streams.
pub const LINE_SIZE: usize = 64;

/// How the pass is done on this CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernel {
    /// Portable code.
    Plain,
    /// SSE4.2 and PCLMULQDQ: 16-byte streaming stores, `crc32` instruction on three interleaved lanes.
    Sse42(Supported),
    /// AVX-512 with VPCLMULQDQ: 64-byte streaming stores, checksum by folding.
    Avx512(Supported),
}

/// Proof that this CPU has what a kernel needs. Only detection makes one, so that calling a kernel is sound without asking
/// the CPU again for every record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Supported(());

impl Kernel {
    /// The fastest this CPU can run.
    pub fn detect() -> Kernel {
        Kernel::available().pop().unwrap_or(Kernel::Plain)
    }

    /// Every kernel this CPU can run, the fastest last; tests and benchmarks compare them.
    pub fn available() -> Vec<Kernel> {
        #[cfg(target_arch = "x86_64")]
        {
            let sse42 = x86::has_sse42().then_some(Kernel::Sse42(Supported(())));
            let avx512 = x86::has_avx512().then_some(Kernel::Avx512(Supported(())));
            [Some(Kernel::Plain), sse42, avx512].into_iter().flatten().collect()
        }
        #[cfg(not(target_arch = "x86_64"))]
        vec![Kernel::Plain]
    }

    /// For logs and reports.
    pub const fn name(self) -> &'static str {
        match self {
            Kernel::Plain => "plain",
            Kernel::Sse42(_) => "sse4.2",
            Kernel::Avx512(_) => "avx512",
        }
    }
}

/// Copies `masked`, unmasked with `key`, to `destination` of the same length, and returns the CRC-32C of the unmasked bytes.
/// After the last of a batch of such copies, call [`fence`] before another agent (the kernel) reads the destination.
///
/// A destination aligned to [`LINE_SIZE`] is written around the cache, but for what is left over after its last whole line;
/// any other one is written in the ordinary way.
#[inline]
pub fn unmask_copy(kernel: Kernel, destination: &mut [u8], masked: &[u8], key: MaskKey) -> u32 {
    assert_eq!(destination.len(), masked.len(), "a copy has the size of its source");
    match kernel {
        #[cfg(target_arch = "x86_64")]
        Kernel::Sse42(proof) => x86::unmask_copy_sse42(proof, destination, masked, key),
        #[cfg(target_arch = "x86_64")]
        Kernel::Avx512(proof) => x86::unmask_copy_avx512(proof, destination, masked, key),
        _ => plain::unmask_copy(destination, masked, key),
    }
}

/// Writes one line, a record header, around the cache like the payload that follows it. An ordinary store would first fetch
/// the line from memory. [`fence`] applies as it does to [`unmask_copy`].
#[inline]
pub fn store_line(kernel: Kernel, destination: &mut [u8; LINE_SIZE], line: &[u8; LINE_SIZE]) {
    match kernel {
        #[cfg(target_arch = "x86_64")]
        Kernel::Sse42(proof) => x86::store_line_sse42(proof, destination, line),
        #[cfg(target_arch = "x86_64")]
        Kernel::Avx512(proof) => x86::store_line_avx512(proof, destination, line),
        _ => *destination = *line,
    }
}

/// Orders streaming stores before what follows.
#[inline]
pub fn fence() {
    #[cfg(target_arch = "x86_64")]
    x86::fence();
}

/// Unmasks small payloads (text, control frames) where they are.
#[inline]
pub fn unmask_in_place(bytes: &mut [u8], key: MaskKey) {
    plain::unmask_in_place(bytes, key);
}
