//! The library's errors as Python's exceptions, of the kinds in `ckpt_store.errors`. The place where hints for Python are
//! written. Never swallows a cause.

use std::error::Error as _;

use ckpt_store::{Damage, Error, Shortage, Thing};
use pyo3::exceptions::PyKeyboardInterrupt;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

/// The exception for an error.
pub fn raise(py: Python<'_>, error: &Error) -> PyErr {
    exception(py, error).unwrap_or_else(|failure| failure)
}

fn exception(py: Python<'_>, error: &Error) -> PyResult<PyErr> {
    if matches!(error, Error::Interrupted) {
        return Ok(PyKeyboardInterrupt::new_err("the store stays as it was"));
    }
    let class = py.import("ckpt_store.errors")?.getattr(kind(error))?;
    let made = class.call1((message(error),))?;
    match error {
        Error::WontFit(shortage) | Error::NoSpace { shortage: Some(shortage), .. } => {
            let Shortage { needs_bytes, free_bytes, is_quota, reserve_bytes, gc_frees, .. } = **shortage;
            made.setattr("needs_bytes", needs_bytes)?;
            made.setattr("free_bytes", Some(free_bytes).filter(|bytes| *bytes != u64::MAX && !is_quota))?;
            made.setattr("reserve_bytes", reserve_bytes)?;
            made.setattr("gc_frees_bytes", gc_frees)?;
        }
        Error::Unavailable { source, .. } => made.setattr("errno", source.raw_os_error())?,
        Error::Damaged(places) => {
            let places = places.iter().map(|place| damage(py, place)).collect::<PyResult<Vec<_>>>()?;
            made.setattr("damage", PyTuple::new(py, places)?)?;
        }
        _ => {}
    }
    Ok(PyErr::from_value(made))
}

/// A place that is damaged, as Python gets it.
pub fn damage<'py>(py: Python<'py>, place: &Damage) -> PyResult<Bound<'py, PyDict>> {
    let described = PyDict::new(py);
    described.set_item("checkpoint", &place.checkpoint)?;
    described.set_item("file", &place.file)?;
    described.set_item("tensor", &place.tensor)?;
    described.set_item("chunk", place.chunk.to_string())?;
    described.set_item("pack", place.pack.map(|pack| pack.to_string()))?;
    described.set_item("reason", &place.reason)?;
    Ok(described)
}

/// The name of the exception's class.
fn kind(error: &Error) -> &'static str {
    match error {
        Error::NotFound { .. } => "NotFound",
        Error::Exists { .. } => "Exists",
        Error::Busy(_) => "Busy",
        Error::Invalid(_) | Error::UnsuitedTensor { .. } => "Invalid",
        Error::Changed { .. } => "Changed",
        Error::WontFit(_) | Error::NoSpace { .. } => "NoSpace",
        Error::Corrupt { .. } | Error::Damaged(_) => "Corrupt",
        Error::Unsupported(_) => "Unsupported",
        Error::Unavailable { .. } => "Unavailable",
        _ => "Internal",
    }
}

/// What happened, why, and what to do.
fn message(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        text += &format!(": {source}");
        cause = source.source();
    }
    match hint(error) {
        Some(hint) => format!("{text} ({hint})"),
        None => text,
    }
}

fn hint(error: &Error) -> Option<String> {
    let hint = match error {
        Error::NotFound { near, .. } if !near.is_empty() => format!("did you mean {}?", near.join(" or ")),
        Error::NotFound { thing: Thing::Run, .. } => "store.runs() lists the runs".into(),
        Error::NotFound { thing: Thing::Checkpoint, name, .. } => match name.split_once('@') {
            Some((run, _)) => format!("store.checkpoints({run:?}) lists its checkpoints"),
            None => return None,
        },
        Error::NotFound { thing: Thing::Store, .. } => {
            "Store(path) makes one unless it is called with create=False".into()
        }
        Error::Exists { thing: Thing::Checkpoint, .. } => "replace=True takes its place".into(),
        Error::Exists { thing: Thing::Destination, .. } => "force=True replaces it".into(),
        Error::WontFit(shortage) | Error::NoSpace { shortage: Some(shortage), .. } => match shortage.gc_frees {
            Some(frees) if frees > 0 => {
                format!("nothing was changed; store.gc() frees {frees} bytes now, and gc=True does that first")
            }
            _ => "nothing was changed; store.gc(keep_last=3, dry_run=True) says what could go".into(),
        },
        Error::NoSpace { .. } => "nothing was changed".into(),
        Error::Changed { .. } => "nothing was stored".into(),
        Error::Damaged(places) if places.len() > 1 => "all places stand in .damage".into(),
        Error::Corrupt { .. } => "`ckpt repair` mends what can be mended".into(),
        _ => return None,
    };
    Some(hint)
}
