//! Page-aligned memory that is allocated once: frame ring, receive buffers, send slots.

use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

/// An anonymous mapping, page-aligned, zeroed, all of its pages present from the start so that no first touch on the data path
/// faults.
#[derive(Debug)]
pub struct Region {
    start: NonNull<u8>,
    size: usize,
}

// SAFETY: a Region owns its mapping as a Box<[u8]> owns its heap block; nothing in it is tied to a thread.
unsafe impl Send for Region {}

impl Region {
    /// Maps `size` bytes (at least 1). The error is the kernel's: usually not enough memory.
    pub fn allocate(size: usize) -> std::io::Result<Region> {
        assert!(size > 0, "an empty region cannot be mapped");
        let flags = MapFlags::PRIVATE | MapFlags::POPULATE;
        // SAFETY: a null hint lets the kernel choose an unused range, so no existing mapping is touched.
        let start = unsafe { mmap_anonymous(std::ptr::null_mut(), size, ProtFlags::READ | ProtFlags::WRITE, flags)? };
        let start = NonNull::new(start.cast::<u8>()).expect("mmap without MAP_FIXED does not return the null page");
        Ok(Region { start, size })
    }

    /// Where it starts; valid as long as the region lives, which does not move when the Region value does.
    pub fn as_ptr(&self) -> *mut u8 {
        self.start.as_ptr()
    }
}

impl Deref for Region {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the mapping is `size` bytes long, readable, initialised (zero pages) and lives as long as self.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.size) }
    }
}

impl DerefMut for Region {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, writable, and &mut self makes the slice unique.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.size) }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: this is the whole mapping that `allocate` made, and no slice into it outlives self.
        let unmapped = unsafe { munmap(self.start.as_ptr().cast(), self.size) };
        debug_assert!(unmapped.is_ok());
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
    }
}
