//! Page-aligned memory that is allocated once: frame ring, receive buffers, send slots.

use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

/// `count` words of zeros, for one thread that writes and others that read. The kernel gives a page
/// only when it is written for the first time: a loop that stores zeros would ask for all of them.
pub(crate) fn zeroed_words(count: usize) -> Box<[AtomicU64]> {
    let words = Box::new_zeroed_slice(count);
    // SAFETY: an `AtomicU64` is a `u64` in memory, and all of its bytes may be zero.
    unsafe { words.assume_init() }
}

/// An anonymous mapping; unmapped with its last owner.
#[derive(Debug)]
struct Mapping {
    start: NonNull<u8>,
    size: usize,
}

// SAFETY: a Mapping only carries an address; only the one Region, or the kernel, accesses the
// bytes.
unsafe impl Send for Mapping {}
// SAFETY: as above: `&Mapping` gives no access to the bytes.
unsafe impl Sync for Mapping {}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: this is the whole mapping that `allocate` made, and no Region or Lease uses it
        // any more.
        let unmapped = unsafe { munmap(self.start.as_ptr().cast(), self.size) };
        debug_assert!(unmapped.is_ok());
    }
}

/// Preallocated memory: page-aligned, zeroed, with all pages present from the start, so that no
/// access on the data path faults. Its bytes are read and written only through this type.
#[derive(Debug)]
pub struct Region {
    mapping: Arc<Mapping>,
}

/// Keeps a [`Region`]'s memory mapped and knows its address, without access to the bytes. A ring
/// holds it for the kernel.
#[derive(Clone, Debug)]
pub(crate) struct Lease {
    mapping: Arc<Mapping>,
}

impl Region {
    /// Maps `size` bytes (at least 1). The error comes from the kernel; usually there is not enough
    /// memory.
    pub fn allocate(size: usize) -> std::io::Result<Region> {
        assert!(size > 0, "an empty region cannot be mapped");
        let flags = MapFlags::PRIVATE | MapFlags::POPULATE;
        // SAFETY: a null hint lets the kernel choose an unused range, so no existing mapping is
        // changed.
        let start = unsafe {
            mmap_anonymous(std::ptr::null_mut(), size, ProtFlags::READ | ProtFlags::WRITE, flags)?
        };
        let start = NonNull::new(start.cast::<u8>()).ok_or(std::io::ErrorKind::OutOfMemory)?;
        Ok(Region { mapping: Arc::new(Mapping { start, size }) })
    }

    /// Start address. It stays the same while the region or a lease on it lives.
    pub(crate) fn as_ptr(&self) -> *mut u8 {
        self.mapping.start.as_ptr()
    }

    /// A lease on the memory, for the kernel's side.
    pub(crate) fn lease(&self) -> Lease {
        Lease { mapping: Arc::clone(&self.mapping) }
    }
}

impl Lease {
    /// Where the memory starts.
    pub(crate) fn as_ptr(&self) -> *const u8 {
        self.mapping.start.as_ptr()
    }

    /// Its size in bytes.
    pub(crate) fn size(&self) -> usize {
        self.mapping.size
    }

    /// Copies `size` bytes from byte `start` on, for a simulated disk. Only `scripted` calls it,
    /// and its worlds cannot leave their thread.
    #[cfg(any(test, feature = "test-doubles"))]
    pub(super) fn copy(&self, start: usize, size: usize) -> Vec<u8> {
        assert!(start + size <= self.mapping.size, "a copy lies within the memory");
        // SAFETY: the range is within the mapping, which is initialised and lives as long as self.
        // The region is used on the one thread of the simulation, and no reference into it is live
        // while methods of that world run.
        unsafe { std::slice::from_raw_parts(self.as_ptr().add(start), size).to_vec() }
    }
}

impl Deref for Region {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the mapping is `size` bytes long, readable, initialised (zero pages) and lives as
        // long as self. Leases never make references to the bytes. So `&self` and `&mut self`
        // control access, as for any owned slice.
        unsafe { std::slice::from_raw_parts(self.as_ptr(), self.mapping.size) }
    }
}

impl DerefMut for Region {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above; it is writable, and &mut self makes the slice unique.
        unsafe { std::slice::from_raw_parts_mut(self.as_ptr(), self.mapping.size) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_region_is_page_aligned_zeroed_and_writable() {
        let mut region = Region::allocate(8192).unwrap();
        assert_eq!(region.as_ptr().align_offset(4096), 0);
        assert_eq!(region.len(), 8192);
        assert!(region.iter().all(|byte| *byte == 0));
        region[8191] = 7;
        assert_eq!(region[8191], 7);
        let lease = region.lease();
        drop(region);
        assert_eq!(lease.size(), 8192);
    }
}
