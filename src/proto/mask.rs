//! The single pass over audio bytes: unmask them, copy them into the frame ring past the cache,
//! checksum them.
//!
//! ```text
//!   receive buffer                                        frame ring (not in the cache;
//!   (in the cache)                                         the disk reads it next)
//!  ┌──────────────┐ load  ┌─────┐ xor key ┌─────────┐ streaming store ┌────────────────┐
//!  │ masked bytes │ ────► │ zmm │ ──────► │ sample  │ ──────────────► │ record payload │
//!  └──────────────┘       └─────┘         │ values  │                 └────────────────┘
//!                                         └────┬────┘
//!                                              └─ CRC-32C, while still in a register
//! ```
//!
//! All kernels give the same result. The choice is made once, at start:
//!
//! | kernel | needs | stores, bytes | checksum |
//! | --- | --- | --- | --- |
//! | `plain` | nothing | ordinary | the `crc32c` crate, one block at a time |
//! | `sse4.2` | SSE4.2, PCLMULQDQ | 16, streaming | `crc32` instruction on three lanes |
//! | `avx2` | the same and AVX2 | 32, streaming | the same, from the source |
//! | `avx2-vpclmulqdq` | the same and VPCLMULQDQ | 32, streaming | folding |
//! | `avx512` | AVX-512F, VPCLMULQDQ | 64, streaming | folding |
//!
//! This module does not decode frames and does not know records. Unsafe code is only in
//! `mask/x86.rs` and `mask/x86/`.

#![deny(unsafe_code)]

use super::MaskKey;

mod plain;
#[cfg(target_arch = "x86_64")]
mod x86;

#[cfg(test)]
mod tests;

/// Bytes of a cache line, and of a write by [`store_line`]. Every kernel streams if the destination
/// is aligned to it.
pub(crate) const LINE_SIZE: usize = 64;

/// How this CPU runs the pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernel {
    /// Portable code.
    Plain,
    /// SSE4.2 and PCLMULQDQ: 16-byte streaming stores, `crc32` instruction on three interleaved
    /// lanes.
    Sse42(Supported<1>),
    /// AVX2: 32-byte streaming stores, `crc32` instruction on three interleaved lanes.
    Avx2(Supported<2>),
    /// AVX2 with VPCLMULQDQ: 32-byte streaming stores, checksum by folding.
    Avx2Vpclmulqdq(Supported<3>),
    /// AVX-512 with VPCLMULQDQ: 64-byte streaming stores, checksum by folding.
    Avx512(Supported<4>),
}

/// Proof that this CPU has what a kernel needs. Only detection makes one, so calling a kernel is
/// sound without asking the CPU for every record. Each kernel has its own number, so a proof is
/// good for one kernel only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Supported<const KERNEL: u8>(());

impl From<Supported<3>> for Supported<2> {
    /// The `avx2-vpclmulqdq` kernel needs all that the `avx2` kernel needs, and more.
    fn from(_: Supported<3>) -> Self {
        Supported(())
    }
}

impl Kernel {
    /// The fastest kernel that this CPU can run.
    pub fn detect() -> Kernel {
        Kernel::available().pop().unwrap_or(Kernel::Plain)
    }

    /// Every kernel that this CPU can run, the fastest last. Tests and benchmarks compare them.
    pub fn available() -> Vec<Kernel> {
        #[cfg(target_arch = "x86_64")]
        {
            let sse42 = x86::has_sse42().then_some(Kernel::Sse42(Supported(())));
            let avx2 = x86::avx2::has_avx2().then_some(Kernel::Avx2(Supported(())));
            let folding =
                x86::avx2::has_avx2_vpclmulqdq().then_some(Kernel::Avx2Vpclmulqdq(Supported(())));
            let avx512 = x86::has_avx512().then_some(Kernel::Avx512(Supported(())));
            [Some(Kernel::Plain), sse42, avx2, folding, avx512].into_iter().flatten().collect()
        }
        #[cfg(not(target_arch = "x86_64"))]
        vec![Kernel::Plain]
    }

    /// Name in logs and reports.
    pub const fn name(self) -> &'static str {
        match self {
            Kernel::Plain => "plain",
            Kernel::Sse42(_) => "sse4.2",
            Kernel::Avx2(_) => "avx2",
            Kernel::Avx2Vpclmulqdq(_) => "avx2-vpclmulqdq",
            Kernel::Avx512(_) => "avx512",
        }
    }
}

/// Copies `masked`, unmasked with `key`, to `destination` of the same length, and returns the
/// CRC-32C of the unmasked bytes. After the last copy of a batch, call [`fence`] before another
/// agent (the kernel) reads the destination.
///
/// If the destination is aligned to [`LINE_SIZE`], whole lines are written past the cache, and the
/// rest after the last whole line is not. Any other destination is written in the ordinary way.
#[inline]
pub fn unmask_copy(kernel: Kernel, destination: &mut [u8], masked: &[u8], key: MaskKey) -> u32 {
    assert_eq!(destination.len(), masked.len(), "a copy has the size of its source");
    match kernel {
        #[cfg(target_arch = "x86_64")]
        Kernel::Sse42(proof) => x86::unmask_copy_sse42(proof, destination, masked, key),
        #[cfg(target_arch = "x86_64")]
        Kernel::Avx2(proof) => x86::avx2::unmask_copy_avx2(proof, destination, masked, key),
        #[cfg(target_arch = "x86_64")]
        Kernel::Avx2Vpclmulqdq(proof) => {
            x86::avx2::unmask_copy_avx2_vpclmulqdq(proof, destination, masked, key)
        }
        #[cfg(target_arch = "x86_64")]
        Kernel::Avx512(proof) => x86::unmask_copy_avx512(proof, destination, masked, key),
        _ => plain::unmask_copy(destination, masked, key),
    }
}

/// Writes one line, a record header, past the cache like the payload that follows it. An ordinary
/// store would first read the line from memory. [`fence`] is needed as for [`unmask_copy`].
#[inline]
pub(crate) fn store_line(
    kernel: Kernel,
    destination: &mut [u8; LINE_SIZE],
    line: &[u8; LINE_SIZE],
) {
    match kernel {
        #[cfg(target_arch = "x86_64")]
        Kernel::Sse42(proof) => x86::store_line_sse42(proof, destination, line),
        #[cfg(target_arch = "x86_64")]
        Kernel::Avx2(proof) => x86::avx2::store_line_avx2(proof, destination, line),
        #[cfg(target_arch = "x86_64")]
        Kernel::Avx2Vpclmulqdq(proof) => {
            x86::avx2::store_line_avx2(proof.into(), destination, line)
        }
        #[cfg(target_arch = "x86_64")]
        Kernel::Avx512(proof) => x86::store_line_avx512(proof, destination, line),
        _ => *destination = *line,
    }
}

/// Orders streaming stores before later accesses.
#[inline]
pub(crate) fn fence() {
    #[cfg(target_arch = "x86_64")]
    x86::fence();
}

/// Unmasks small payloads (text, control frames) in place.
#[cfg(test)]
#[inline]
pub(crate) fn unmask_in_place(bytes: &mut [u8], key: MaskKey) {
    plain::unmask_in_place(bytes, key);
}
