//! Every way in which a program can read a range of a file. Each gives the bytes that are there, fewer past the end, and an
//! error for an error: nothing is compared here.

use std::fs::{self, File};
use std::io::{self, Error, ErrorKind, Read, Seek, SeekFrom};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::ptr;

use crate::map::Map;

const PAGE: usize = 4096;

/// A file that is being read.
pub struct Reading<'a> {
    /// Where it lies.
    pub path: &'a Path,
    /// A descriptor of it, which others may use at the same time unless the way moves its offset.
    pub file: &'a File,
}

/// Reads so many bytes from an offset on.
type ReadRange = fn(&Reading<'_>, u64, usize) -> io::Result<Vec<u8>>;

/// All ways: what each is called, and whether many threads can go it on one descriptor because it moves no offset.
pub const WAYS: &[(&str, bool, ReadRange)] = &[
    ("pread", true, pread),
    ("pread in pieces", true, pread_in_pieces),
    ("read", false, seek_and_read),
    ("readv", false, readv),
    ("preadv", true, preadv),
    ("mmap private", true, |r, o, l| map(r, o, l, libc::MAP_PRIVATE, None)),
    ("mmap shared", true, |r, o, l| map(r, o, l, libc::MAP_SHARED, None)),
    ("mmap populated", true, |r, o, l| map(r, o, l, libc::MAP_SHARED | libc::MAP_POPULATE, None)),
    ("MADV_RANDOM", true, |r, o, l| map(r, o, l, libc::MAP_SHARED, Some(libc::MADV_RANDOM))),
    ("MADV_SEQUENTIAL", true, |r, o, l| map(r, o, l, libc::MAP_PRIVATE, Some(libc::MADV_SEQUENTIAL))),
    ("MADV_WILLNEED", true, |r, o, l| map(r, o, l, libc::MAP_SHARED, Some(libc::MADV_WILLNEED))),
    ("mremap", true, mremapped),
    ("mmap backwards", true, mapped_backwards),
    ("sendfile", true, sendfile),
    ("splice", true, splice),
    ("copy_file_range", true, copy_file_range),
    ("O_DIRECT", true, |r, o, l| direct(r, o, l, true)),
    ("O_DIRECT unaligned", true, |r, o, l| direct(r, o, l, false)),
    ("opened anew", true, opened_anew),
    ("dup", false, duplicated),
    ("fork", true, forked),
    ("FADV_DONTNEED", true, |r, o, l| advised(r, o, l, libc::POSIX_FADV_DONTNEED)),
    ("FADV_RANDOM", true, |r, o, l| advised(r, o, l, libc::POSIX_FADV_RANDOM)),
    ("FADV_SEQUENTIAL", true, |r, o, l| advised(r, o, l, libc::POSIX_FADV_SEQUENTIAL)),
    ("FADV_WILLNEED", true, |r, o, l| advised(r, o, l, libc::POSIX_FADV_WILLNEED)),
    ("readahead", true, read_ahead),
];

/// Lets the kernel forget what it has of a file, so that the next read asks whoever has it.
pub fn forget(file: &File) {
    // SAFETY: a hint about a descriptor that is open.
    unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
}

/// The end of data and of the hole that follow an offset, as `lseek` gives them, or the number of its error.
pub fn holes(mut file: &File, offset: u64) -> [Result<u64, i32>; 2] {
    let seek = |whence| {
        // SAFETY: moves the offset of a descriptor that is open.
        let at = unsafe { libc::lseek(file.as_raw_fd(), offset.cast_signed(), whence) };
        if at < 0 { Err(Error::last_os_error().raw_os_error().unwrap_or_default()) } else { Ok(at.cast_unsigned()) }
    };
    let found = [seek(libc::SEEK_DATA), seek(libc::SEEK_HOLE)];
    file.rewind().expect("a file has a beginning");
    found
}

/// Reads until it is full or there is no more.
fn fill(mut buffer: Vec<u8>, mut read: impl FnMut(&mut [u8], usize) -> io::Result<usize>) -> io::Result<Vec<u8>> {
    let mut at = 0;
    while at < buffer.len() {
        match read(&mut buffer[at..], at)? {
            0 => break,
            got => at += got,
        }
    }
    buffer.truncate(at);
    Ok(buffer)
}

fn pread(of: &Reading<'_>, offset: u64, len: usize) -> io::Result<Vec<u8>> {
    fill(vec![0; len], |buffer, at| of.file.read_at(buffer, offset + at as u64))
}

fn pread_in_pieces(of: &Reading<'_>, offset: u64, len: usize) -> io::Result<Vec<u8>> {
    fill(vec![0; len], |buffer, at| {
        let piece = buffer.len().min(10_007);
        of.file.read_at(&mut buffer[..piece], offset + at as u64)
    })
}

fn seek_and_read(of: &Reading<'_>, offset: u64, len: usize) -> io::Result<Vec<u8>> {
    let mut file = of.file;
    file.seek(SeekFrom::Start(offset))?;
    fill(vec![0; len], |buffer, _| file.read(buffer))
}

/// Three buffers of one read.
fn vectors(buffer: &mut [u8]) -> [libc::iovec; 3] {
    let (first, rest) = buffer.split_at_mut(buffer.len() / 7);
    let (second, third) = rest.split_at_mut(rest.len() / 2);
    [first, second, third].map(|part| libc::iovec { iov_base: part.as_mut_ptr().cast(), iov_len: part.len() })
}

fn counted(got: isize) -> io::Result<usize> {
    usize::try_from(got).map_err(|_| Error::last_os_error())
}

fn readv(of: &Reading<'_>, offset: u64, len: usize) -> io::Result<Vec<u8>> {
    let mut file = of.file;
    file.seek(SeekFrom::Start(offset))?;
    fill(vec![0; len], |buffer, _| {
        let to = vectors(buffer);
        // SAFETY: the vectors are parts of `buffer`, which outlives the call.
        counted(unsafe { libc::readv(file.as_raw_fd(), to.as_ptr(), 3) })
    })
}

fn preadv(of: &Reading<'_>, offset: u64, len: usize) -> io::Result<Vec<u8>> {
    fill(vec![0; len], |buffer, at| {
        let to = vectors(buffer);
        let from = (offset + at as u64).cast_signed();
        // SAFETY: the vectors are parts of `buffer`, which outlives the call.
        counted(unsafe { libc::preadv(of.file.as_raw_fd(), to.as_ptr(), 3, from) })
    })
}

fn map(of: &Reading<'_>, offset: u64, len: usize, flags: i32, advice: Option<i32>) -> io::Result<Vec<u8>> {
    let map = Map::new(of.file, offset, len, flags)?;
    advice.map_or(Ok(()), |advice| map.advise(advice))?;
    Ok(map.bytes().to_vec())
}

fn mapped_backwards(of: &Reading<'_>, offset: u64, len: usize) -> io::Result<Vec<u8>> {
    let map = Map::new(of.file, offset, len, libc::MAP_PRIVATE)?;
    let mut bytes: Vec<u8> = map.bytes().iter().rev().copied().collect();
    bytes.reverse();
    Ok(bytes)
}

/// Maps the first page alone, then makes the mapping as long as all of it.
fn mremapped(of: &Reading<'_>, offset: u64, len: usize) -> io::Result<Vec<u8>> {
    let size = of.file.metadata()?.len();
    let len = usize::try_from(size.saturating_sub(offset)).unwrap_or(usize::MAX).min(len);
    let map = Map::new(of.file, offset, len.min(1), libc::MAP_SHARED)?.grown(len)?;
    Ok(map.bytes().to_vec())
}

/// A file in memory.
fn memory() -> io::Result<File> {
    // SAFETY: the name is a text with a NUL, and the descriptor that comes back is nobody else's.
    let descriptor = unsafe { libc::memfd_create(c"read".as_ptr(), libc::MFD_CLOEXEC) };
    if descriptor < 0 {
        return Err(Error::last_os_error());
    }
    // SAFETY: as above.
    Ok(unsafe { File::from_raw_fd(descriptor) })
}

fn content(mut memory: File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    memory.rewind()?;
    memory.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Moves `len` bytes by calls that each move some, until one moves none.
fn moved(len: usize, mut call: impl FnMut(usize) -> isize) -> io::Result<()> {
    let mut left = len;
    while left > 0 {
        match counted(call(left))? {
            0 => break,
            got => left -= got,
        }
    }
    Ok(())
}

fn sendfile(of: &Reading<'_>, offset: u64, len: usize) -> io::Result<Vec<u8>> {
    let (memory, mut at) = (memory()?, offset.cast_signed());
    // SAFETY: two open descriptors, and an offset that is there for the call.
    moved(len, |left| unsafe { libc::sendfile(memory.as_raw_fd(), of.file.as_raw_fd(), &raw mut at, left) })?;
    content(memory)
}

fn splice(of: &Reading<'_>, offset: u64, len: usize) -> io::Result<Vec<u8>> {
    let (memory, mut at) = (memory()?, offset.cast_signed());
    let (from_pipe, into_pipe) = io::pipe()?;
    let mut failed = None;
    moved(len, |left| {
        // SAFETY: open descriptors, and an offset that is there for the call.
        let got = unsafe {
            libc::splice(of.file.as_raw_fd(), &raw mut at, into_pipe.as_raw_fd(), ptr::null_mut(), left.min(1 << 16), 0)
        };
        let put = moved(usize::try_from(got).unwrap_or(0), |left| {
            // SAFETY: open descriptors; what is in the pipe is at least as much as is taken.
            unsafe {
                libc::splice(from_pipe.as_raw_fd(), ptr::null_mut(), memory.as_raw_fd(), ptr::null_mut(), left, 0)
            }
        });
        failed = put.err().or(failed.take());
        got
    })?;
    failed.map_or_else(|| content(memory), Err)
}

/// As `cp` does it: by `read` where the two file systems have no way between them.
fn copy_file_range(of: &Reading<'_>, offset: u64, len: usize) -> io::Result<Vec<u8>> {
    let (memory, mut at) = (memory()?, offset.cast_signed());
    let copied = moved(len, |left| {
        // SAFETY: two open descriptors, and an offset that is there for the call.
        unsafe {
            let (from, to) = (of.file.as_raw_fd(), memory.as_raw_fd());
            libc::copy_file_range(from, &raw mut at, to, ptr::null_mut(), left, 0)
        }
    });
    match copied {
        Err(error) if error.raw_os_error() == Some(libc::EXDEV) => pread(of, offset, len),
        Err(error) => Err(error),
        Ok(()) => content(memory),
    }
}

/// Around the kernel's pages. A file system may refuse what is not at a multiple of its blocks, and then only that.
fn direct(of: &Reading<'_>, offset: u64, len: usize, aligned: bool) -> io::Result<Vec<u8>> {
    let opened = File::options().read(true).custom_flags(libc::O_DIRECT).open(of.path);
    let file = match opened {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => return pread(of, offset, len),
        opened => opened?,
    };
    let skip = if aligned { (offset % PAGE as u64) as usize } else { 0 };
    let whole = if aligned { (len + skip).next_multiple_of(PAGE) } else { len };
    // Memory at a multiple of a page, or just not.
    let mut space = vec![0; whole + 2 * PAGE];
    let start = space.as_ptr().align_offset(PAGE) + usize::from(!aligned);
    let mut at = 0;
    while at < whole {
        let from = offset - skip as u64 + at as u64;
        match file.read_at(&mut space[start + at..start + whole], from) {
            Err(error) if error.kind() == ErrorKind::InvalidInput && !aligned => return pread(of, offset, len),
            Err(error) => return Err(error),
            Ok(0) => break,
            Ok(got) => at += got,
        }
    }
    let end = at.min(skip + len);
    Ok(space[start + skip.min(end)..start + end].to_vec())
}

fn opened_anew(of: &Reading<'_>, offset: u64, len: usize) -> io::Result<Vec<u8>> {
    let file = File::open(of.path)?;
    pread(&Reading { file: &file, path: of.path }, offset, len)
}

fn duplicated(of: &Reading<'_>, offset: u64, len: usize) -> io::Result<Vec<u8>> {
    let mut file = of.file.try_clone()?;
    file.seek(SeekFrom::Start(offset))?;
    // The offset is one for both.
    let mut other = of.file;
    fill(vec![0; len], |buffer, at| if at % 2 == 0 { other.read(buffer) } else { file.read(buffer) })
}

/// By a child that has the descriptor from its parent, into memory that both see.
fn forked(of: &Reading<'_>, offset: u64, len: usize) -> io::Result<Vec<u8>> {
    let memory = memory()?;
    memory.set_len(len as u64)?;
    if len == 0 {
        return Ok(Vec::new());
    }
    let access = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new mapping, and only of what the file has.
    let to = unsafe { libc::mmap(ptr::null_mut(), len, access, libc::MAP_SHARED, memory.as_raw_fd(), 0) };
    if to == libc::MAP_FAILED {
        return Err(Error::last_os_error());
    }
    // SAFETY: the child makes calls to the kernel and ends; it needs no lock that a thread of the parent could hold.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let mut at = 0;
        // SAFETY: as above. `to` has `len` bytes. What a read brings less than it should is an error's or the end's,
        // which the next one tells.
        unsafe {
            while at < len {
                let from = (offset + at as u64).cast_signed();
                match libc::pread(of.file.as_raw_fd(), to.byte_add(at), len - at, from) {
                    0 => break,
                    got if got < 0 => libc::_exit(*libc::__errno_location()),
                    got => at += got.cast_unsigned(),
                }
            }
            libc::_exit(0)
        }
    }
    let mut status = 0;
    // SAFETY: `status` is there for the call; the mapping is this function's.
    let waited = unsafe {
        libc::munmap(to, len);
        libc::waitpid(child, &raw mut status, 0)
    };
    if waited < 0 || !libc::WIFEXITED(status) {
        return Err(Error::other(format!("the child ended with {status}")));
    }
    if libc::WEXITSTATUS(status) != 0 {
        return Err(Error::from_raw_os_error(libc::WEXITSTATUS(status)));
    }
    let size = fs::metadata(of.path)?.len();
    let mut bytes = content(memory)?;
    bytes.truncate(usize::try_from(size.saturating_sub(offset)).unwrap_or(usize::MAX));
    Ok(bytes)
}

fn advised(of: &Reading<'_>, offset: u64, len: usize, advice: i32) -> io::Result<Vec<u8>> {
    let file = File::open(of.path)?;
    // SAFETY: a hint about a descriptor that is open.
    unsafe { libc::posix_fadvise(file.as_raw_fd(), offset.cast_signed(), len as i64, advice) };
    pread(&Reading { file: &file, path: of.path }, offset, len)
}

fn read_ahead(of: &Reading<'_>, offset: u64, len: usize) -> io::Result<Vec<u8>> {
    // SAFETY: a hint about a descriptor that is open.
    unsafe { libc::readahead(of.file.as_raw_fd(), offset.cast_signed(), len) };
    pread(of, offset, len)
}
