//! The class `Reader`: a checkpoint that is open. Writes what it reads to memory that Python names by address, and nowhere
//! else.

#![allow(unsafe_code, reason = "memory that Python names by address")]

use std::sync::atomic::{AtomicBool, Ordering};

use ckpt_store::{Content, OpenCheckpoint, Progress, Span};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};

use crate::describe;
use crate::memory::expect_filling;
use crate::work::{run, run_briefly};

/// Bytes of a read from which on it may take long enough for somebody to want to stop it.
const LONG_BYTES: usize = 8 << 20;

/// A checkpoint that is open for reading.
#[pyclass(frozen)]
pub struct Reader {
    checkpoint: OpenCheckpoint,
    /// Whether something was read: the first time the index is asked, which may have to be made anew before.
    has_read: AtomicBool,
}

impl Reader {
    /// A reader that has read nothing yet.
    pub fn new(checkpoint: OpenCheckpoint) -> Self {
        Self { checkpoint, has_read: AtomicBool::new(false) }
    }
}

#[pymethods]
impl Reader {
    /// The checkpoint.
    fn entry<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        describe::entry(py, self.checkpoint.entry())
    }

    /// Its members.
    fn files<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let all = self.checkpoint.files().iter().map(|file| {
            let described = PyDict::new(py);
            described.set_item("path", String::from_utf8_lossy(&file.path).into_owned())?;
            described.set_item("size", file.size())?;
            described.set_item("mode", file.mode)?;
            described.set_item("mtime_ms", file.mtime_ms)?;
            let (kind, format) = match &file.content {
                Content::File { format, .. } => ("file", Some(format)),
                Content::Directory => ("directory", None),
                Content::Link { .. } => ("link", None),
            };
            described.set_item("kind", kind)?;
            described.set_item("format", format)?;
            Ok(described)
        });
        PyList::new(py, all.collect::<PyResult<Vec<_>>>()?)
    }

    /// Its tensors.
    fn tensors<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let all = self.checkpoint.tensors().into_iter().map(|tensor| {
            let described = PyDict::new(py);
            described.set_item("name", tensor.name)?;
            described.set_item("bare_name", tensor.bare_name)?;
            described.set_item("file", tensor.file)?;
            described.set_item("dtype", tensor.dtype)?;
            described.set_item("shape", tensor.shape)?;
            described.set_item("strides", tensor.strides)?;
            described.set_item("offset", tensor.offset)?;
            described.set_item("len", tensor.len)?;
            Ok(described)
        });
        PyList::new(py, all.collect::<PyResult<Vec<_>>>()?)
    }

    /// Reads from byte `offset` of a file on into the `len` bytes at `address`; answers how many there were.
    fn read_at(&self, py: Python<'_>, file: u32, offset: u64, address: usize, len: usize) -> PyResult<usize> {
        let mut memory = memory(&[(address, len)])?;
        let read = |progress: &dyn Progress| self.checkpoint.read_at(file, offset, memory[0], progress);
        if len < LONG_BYTES && self.has_read.load(Ordering::Relaxed) {
            return run_briefly(py, read);
        }
        let count = run(py, read)?;
        self.has_read.store(true, Ordering::Relaxed);
        Ok(count)
    }

    /// Reads ranges (file, offset, bytes, address) into memory, each chunk decoded once.
    fn read_many(&self, py: Python<'_>, wanted: Vec<(u32, u64, u64, usize)>) -> PyResult<()> {
        let spans: Vec<Span> =
            wanted.iter().map(|(file, offset, len, _)| Span { file: *file, offset: *offset, len: *len }).collect();
        let places: Vec<(usize, usize)> = wanted.iter().map(|(_, _, len, address)| (*address, *len as usize)).collect();
        let mut memory = memory(&places)?;
        expect_filling(places);
        run(py, |progress| self.checkpoint.read_many(&spans, &mut memory, progress))
    }
}

/// Memory that the package has made to be written to, and holds while this call lasts.
fn memory<'a>(places: &[(usize, usize)]) -> PyResult<Vec<&'a mut [u8]>> {
    let mut sorted: Vec<(usize, usize)> = places.iter().copied().filter(|(_, len)| *len > 0).collect();
    sorted.sort_unstable();
    let is_memory = |at: usize, len: usize| at > 0 && len <= isize::MAX as usize && at.checked_add(len).is_some();
    let is_sound = sorted.iter().all(|(address, len)| is_memory(*address, *len))
        && sorted.windows(2).all(|pair| pair[0].0 + pair[0].1 <= pair[1].0);
    if !is_sound {
        return Err(PyValueError::new_err("the memory to read into overlaps, or is none"));
    }
    let made = places.iter().map(|(address, len)| {
        if *len == 0 {
            return &mut [][..];
        }
        // SAFETY: the ranges don't overlap, as was checked, and are of tensors or buffers that the package holds for the call
        // and that nobody else knows or, for a buffer that a caller handed in, that the caller lets be written to.
        unsafe { std::slice::from_raw_parts_mut(*address as *mut u8, *len) }
    });
    Ok(made.collect())
}
