//! Page-aligned memory that is allocated once: frame ring, receive buffers, send slots.

use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::Arc;

/// An anonymous mapping; unmapped with its last owner.
#[derive(Debug)]
struct Mapping {
    start: NonNull<u8>,
    size: usize,
}

// SAFETY: a Mapping only carries an address; access to the bytes goes through the one Region, or through the kernel.
unsafe impl Send for Mapping {}
// SAFETY: as above: `&Mapping` gives no access to the bytes.
unsafe impl Sync for Mapping {}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: this is the whole mapping that `allocate` made, and no Region or Lease is left to use it.
        let unmapped = unsafe { munmap(self.start.as_ptr().cast(), self.size) };
        debug_assert!(unmapped.is_ok());
    }
}

/// Preallocated memory: page-aligned, zeroed, all of its pages present from the start so that no first touch on the data path
/// faults. The one place its bytes are read and written from.
#[derive(Debug)]
pub struct Region {
    mapping: Arc<Mapping>,
}

/// Keeps a [`Region`]'s memory mapped and knows where it is, without access to the bytes: what a ring holds for the kernel.
#[derive(Clone, Debug)]
pub struct Lease {
    mapping: Arc<Mapping>,
}

impl Region {
    /// Maps `size` bytes (at least 1). The error is the kernel's: usually not enough memory.
    pub fn allocate(size: usize) -> std::io::Result<Region> {
        assert!(size > 0, "an empty region cannot be mapped");
        let flags = MapFlags::PRIVATE | MapFlags::POPULATE;
        // SAFETY: a null hint lets the kernel choose an unused range, so no existing mapping is touched.
        let start = unsafe { mmap_anonymous(std::ptr::null_mut(), size, ProtFlags::READ | ProtFlags::WRITE, flags)? };
        let start = NonNull::new(start.cast::<u8>()).ok_or(std::io::ErrorKind::OutOfMemory)?;
        Ok(Region { mapping: Arc::new(Mapping { start, size }) })
    }

    /// Where it starts; stays the same as long as the region or a lease on it lives.
    pub fn as_ptr(&self) -> *mut u8 {
        self.mapping.start.as_ptr()
    }

    /// A lease on the memory, for the kernel's side.
    pub fn lease(&self) -> Lease {
        Lease { mapping: Arc::clone(&self.mapping) }
    }
}

impl Lease {
    /// Where the memory starts.
    pub fn as_ptr(&self) -> *const u8 {
        self.mapping.start.as_ptr()
    }

    /// Its size in bytes.
    pub fn size(&self) -> usize {
        self.mapping.size
    }

    /// A copy of `size` bytes from byte `start` on: what a scripted disk takes. Only [`super::scripted`] calls it, whose
    /// worlds cannot leave their thread.
    pub(super) fn copy(&self, start: usize, size: usize) -> Vec<u8> {
        assert!(start + size <= self.mapping.size, "a copy lies within the memory");
        // SAFETY: the range lies within the mapping, which is initialised and lives as long as self; the region is used on
        // the one thread of the scripted world, and no reference into it is live while that world's verbs run.
        unsafe { std::slice::from_raw_parts(self.as_ptr().add(start), size).to_vec() }
    }
}

impl Deref for Region {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the mapping is `size` bytes long, readable, initialised (zero pages) and lives as long as self. Leases never
        // make references to the bytes, so `&self` and `&mut self` rule access as for any owned slice.
        unsafe { std::slice::from_raw_parts(self.as_ptr(), self.mapping.size) }
    }
}

impl DerefMut for Region {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, writable, and &mut self makes the slice unique.
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
