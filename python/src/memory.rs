//! Bytes that lie in the memory of a Python process, as a source of the store. The one place with code that the compiler can't
//! check: a tensor's address comes from Python. Never writes to them, and never holds the GIL while it reads.

#![allow(unsafe_code, reason = "memory that Python names by address")]

use std::io;
use std::sync::Arc;

use ckpt_store::{Joined, Literal, Source};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use rayon::prelude::*;

use crate::work::run_briefly;

/// Bytes in memory that can become a file of a checkpoint.
#[pyclass(frozen)]
pub struct Memory(pub Arc<dyn Source>);

#[pymethods]
impl Memory {
    /// The `len` bytes at `address`, which `owner` keeps there. They are read in place, without a copy.
    #[staticmethod]
    fn at(address: usize, len: usize, owner: Py<PyAny>) -> PyResult<Self> {
        if address == 0 && len > 0 || address.checked_add(len).is_none() || len > isize::MAX as usize {
            return Err(PyValueError::new_err(format!("there are no {len} bytes at {address:#x}")));
        }
        Ok(Self(Arc::new(Near { address, len, _owner: owner })))
    }

    /// These bytes.
    #[staticmethod]
    fn of(bytes: Vec<u8>) -> Self {
        Self(Arc::new(Literal(bytes)))
    }

    /// `len` bytes that have to be fetched, as those of a GPU: `fetch(thread, offset, len)` answers an address where these
    /// bytes stay until it is called again for the same `thread`, a small number.
    #[staticmethod]
    fn far(len: u64, fetch: Py<PyAny>) -> Self {
        Self(Arc::new(Far { len, fetch }))
    }

    /// Several, one behind the other.
    #[staticmethod]
    fn joined(parts: Vec<PyRef<'_, Memory>>) -> Self {
        let mut joined = Joined::default();
        parts.iter().for_each(|part| joined.add_hashed(Arc::clone(&part.0), Vec::new()));
        Self(Arc::new(joined))
    }

    fn __len__(&self) -> PyResult<usize> {
        usize::try_from(self.0.size()).map_err(|error| PyValueError::new_err(error.to_string()))
    }
}

/// Memory of this process.
struct Near {
    address: usize,
    len: usize,
    _owner: Py<PyAny>,
}

impl Source for Near {
    fn size(&self) -> u64 {
        self.len as u64
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let bytes = self.bytes(offset, buf.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        buf.copy_from_slice(bytes);
        Ok(())
    }

    fn bytes(&self, offset: u64, len: usize) -> Option<&[u8]> {
        let start = usize::try_from(offset).ok()?;
        if start.checked_add(len)? > self.len {
            return None;
        }
        // A tensor without elements may lie nowhere.
        if len == 0 {
            return Some(&[]);
        }
        // SAFETY: `Memory::at` is told that `len` bytes lie at `address` as long as the owner lives, and the owner lives as
        // long as this borrow; the sum doesn't wrap, as was checked there. A training that goes on meanwhile may write to
        // them: then some bytes are read as they were before and some as after. The store takes no byte for what it isn't,
        // since it names what it has copied; it says that the source changed.
        Some(unsafe { std::slice::from_raw_parts((self.address as *const u8).wrapping_add(start), len) })
    }
}

/// Memory that this process can't read by itself.
struct Far {
    len: u64,
    fetch: Py<PyAny>,
}

impl Source for Far {
    fn size(&self) -> u64 {
        self.len
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        if offset.checked_add(buf.len() as u64).is_none_or(|end| end > self.len) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let thread = rayon::current_thread_index().unwrap_or(0);
        let fetched = Python::try_attach(|py| self.fetch.call1(py, (thread, offset, buf.len()))?.extract(py));
        let address: usize = fetched
            .ok_or_else(|| io::Error::other("the interpreter is about to end"))?
            .map_err(|error: PyErr| io::Error::other(error.to_string()))?;
        if address == 0 {
            return Err(io::Error::other("the bytes could not be fetched"));
        }
        // SAFETY: `fetch` has put as many bytes as the buffer has there, and they stay until this thread asks again.
        buf.copy_from_slice(unsafe { std::slice::from_raw_parts(address as *const u8, buf.len()) });
        Ok(())
    }
}

/// Bytes that one thread copies at a time.
const COPY_BYTES: usize = 4 << 20;

/// Bytes of a huge page on the machines that we know, and how far apart two tensors of one buffer may lie.
const HUGE_PAGE_BYTES: usize = 2 << 20;
const GAP_BYTES: usize = 64;

/// Has the system give huge pages where memory (address, bytes) is about to be filled for the first time: a page at a time of 4 KiB
/// takes as long as reading what goes there. Where there are none, or it was filled before, nothing happens.
pub fn expect_filling(mut places: Vec<(usize, usize)>) {
    places.sort_unstable();
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for (address, len) in places {
        match runs.last_mut() {
            Some((start, run)) if address.saturating_sub(*start + *run) <= GAP_BYTES => *run = address + len - *start,
            _ => runs.push((address, len)),
        }
    }
    for (address, len) in runs {
        let start = address.next_multiple_of(HUGE_PAGE_BYTES);
        let end = (address + len) / HUGE_PAGE_BYTES * HUGE_PAGE_BYTES;
        if start < end {
            // SAFETY: the advice changes nothing that can be seen of the memory, and pages that are not ours to advise on are
            // refused.
            unsafe { libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_HUGEPAGE) };
        }
    }
}

/// Copies memory: from, to, bytes of each, which must not overlap. By all threads.
#[pyfunction]
pub fn copy(py: Python<'_>, copies: Vec<(usize, usize, usize)>) -> PyResult<()> {
    let is_memory = |at: usize, len: usize| at > 0 && len <= isize::MAX as usize && at.checked_add(len).is_some();
    if copies.iter().any(|(from, to, len)| *len > 0 && !(is_memory(*from, *len) && is_memory(*to, *len))) {
        return Err(PyValueError::new_err("there is no memory where something is to be copied"));
    }
    expect_filling(copies.iter().map(|(_, to, len)| (*to, *len)).collect());
    // Large ones in pieces, so that all threads have something to do to the end.
    let mut pieces = Vec::with_capacity(copies.len());
    for (from, to, len) in copies {
        pieces.extend((0..len).step_by(COPY_BYTES).map(|at| (from + at, to + at, COPY_BYTES.min(len - at))));
    }
    run_briefly(py, |_| {
        pieces.into_par_iter().for_each(|(from, to, len)| {
            // SAFETY: the package names memory of tensors that it holds while this runs, the one side to read and the other,
            // made for this, to write.
            unsafe { std::ptr::copy_nonoverlapping(from as *const u8, to as *mut u8, len) }
        });
        Ok(())
    })
}
