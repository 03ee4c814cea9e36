//! A part of a file in memory. Never writes to it.

use std::fs::File;
use std::io::{self, Error};
use std::os::fd::AsRawFd;
use std::ptr;

const PAGE: u64 = 4096;

/// A part of a file in memory.
pub struct Map {
    address: *mut libc::c_void,
    len: usize,
    /// Where in it the range begins that was asked for.
    skip: usize,
    wanted: usize,
}

// SAFETY: it is memory that nobody writes to.
unsafe impl Sync for Map {}
// SAFETY: as above; any thread may unmap it.
unsafe impl Send for Map {}

impl Map {
    /// Maps a range of a file, as far as the file goes: what lies in its last page behind the end is left out, and a page
    /// behind that would be the end of the process.
    pub fn new(file: &File, offset: u64, len: usize, flags: i32) -> io::Result<Self> {
        let size = file.metadata()?.len();
        let wanted = usize::try_from(size.saturating_sub(offset)).unwrap_or(usize::MAX).min(len);
        let skip = (offset % PAGE) as usize;
        if wanted == 0 {
            return Ok(Self { address: ptr::null_mut(), len: 0, skip: 0, wanted: 0 });
        }
        let len = wanted + skip;
        let start = (offset - skip as u64).cast_signed();
        // SAFETY: a new mapping of a descriptor that is open, wherever the kernel likes.
        let address = unsafe { libc::mmap(ptr::null_mut(), len, libc::PROT_READ, flags, file.as_raw_fd(), start) };
        if address == libc::MAP_FAILED {
            return Err(Error::last_os_error());
        }
        Ok(Self { address, len, skip, wanted })
    }

    /// The first `len` bytes of what was asked for, of which this is some, as the same mapping made longer.
    pub fn grown(self, len: usize) -> io::Result<Self> {
        if self.wanted == 0 {
            return Ok(self);
        }
        let long = len + self.skip;
        // SAFETY: it is this mapping, which nobody has a slice of, and is told below where it lies from now on.
        let address = unsafe { libc::mremap(self.address, self.len, long, libc::MREMAP_MAYMOVE) };
        if address == libc::MAP_FAILED {
            return Err(Error::last_os_error());
        }
        let skip = self.skip;
        std::mem::forget(self);
        Ok(Self { address, len: long, skip, wanted: len })
    }

    /// Says how it will be used, or that its pages may go.
    pub fn advise(&self, advice: i32) -> io::Result<()> {
        if self.wanted == 0 {
            return Ok(());
        }
        // SAFETY: the whole of a mapping, which nobody writes to: none of these changes what is read.
        let done = unsafe { libc::madvise(self.address, self.len, advice) };
        if done == 0 { Ok(()) } else { Err(Error::last_os_error()) }
    }

    /// What is in it.
    pub fn bytes(&self) -> &[u8] {
        if self.wanted == 0 {
            return &[];
        }
        // SAFETY: that range is mapped as long as `self` is there, and lies within the file, which never changes.
        unsafe { std::slice::from_raw_parts(self.address.cast::<u8>().add(self.skip), self.wanted) }
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        if self.wanted != 0 {
            // SAFETY: the mapping is this one's alone, and no slice of it outlives it.
            unsafe { libc::munmap(self.address, self.len) };
        }
    }
}
