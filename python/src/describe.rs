//! What the store answers as Python's own values, for the package to make its dataclasses of. Never decides anything.

use ckpt_store::{Entry, GcReport, Stats, VerifyReport};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};

use crate::failure::damage;

/// A checkpoint.
pub fn entry<'py>(py: Python<'py>, entry: &Entry) -> PyResult<Bound<'py, PyDict>> {
    let described = PyDict::new(py);
    described.set_item("id", entry.id.to_string())?;
    described.set_item("run", &entry.run)?;
    described.set_item("step", entry.step)?;
    described.set_item("time_ms", entry.time_ms)?;
    described.set_item("metrics", entry.metrics.clone())?;
    described.set_item("tags", entry.tags.iter().collect::<Vec<_>>())?;
    described.set_item("pinned", entry.pinned)?;
    described.set_item("files", entry.files)?;
    described.set_item("logical_bytes", entry.logical_bytes)?;
    described.set_item("added_bytes", entry.added_bytes)?;
    described.set_item("written_bytes", entry.written_bytes)?;
    Ok(described)
}

/// Several checkpoints.
pub fn entries<'py>(py: Python<'py>, all: &[Entry]) -> PyResult<Bound<'py, PyList>> {
    PyList::new(py, all.iter().map(|one| entry(py, one)).collect::<PyResult<Vec<_>>>()?)
}

/// What a gc did.
pub fn gc<'py>(py: Python<'py>, report: &GcReport) -> PyResult<Bound<'py, PyDict>> {
    let (kept, dropped) = (PyList::empty(py), PyList::empty(py));
    for verdict in &report.verdicts {
        let reasons: Vec<String> = verdict.reasons.iter().map(ToString::to_string).collect();
        let list = if verdict.keep { &kept } else { &dropped };
        list.append((entry(py, &verdict.entry)?, reasons))?;
    }
    let described = PyDict::new(py);
    described.set_item("kept", kept)?;
    described.set_item("dropped", dropped)?;
    described.set_item("freed_bytes", report.freed_bytes)?;
    Ok(described)
}

/// What the store holds.
pub fn stats<'py>(py: Python<'py>, stats: &Stats) -> PyResult<Bound<'py, PyDict>> {
    let described = PyDict::new(py);
    described.set_item("logical_bytes", stats.logical_bytes)?;
    described.set_item("stored_bytes", stats.stored_bytes)?;
    described.set_item("reclaimable_bytes", stats.reclaimable_bytes)?;
    described.set_item("free_bytes", Some(stats.free_bytes).filter(|bytes| *bytes != u64::MAX))?;
    described.set_item("checkpoints", stats.checkpoints)?;
    described.set_item("growth_bytes", stats.growth_bytes)?;
    let runs = PyDict::new(py);
    for (name, run) in &stats.runs {
        let figures = PyDict::new(py);
        figures.set_item("checkpoints", run.checkpoints)?;
        figures.set_item("logical_bytes", run.logical_bytes)?;
        figures.set_item("added_bytes", run.added_bytes)?;
        figures.set_item("written_bytes", run.written_bytes)?;
        figures.set_item("stored_bytes", run.stored_bytes)?;
        figures.set_item("unique_bytes", run.unique_bytes)?;
        runs.set_item(name, figures)?;
    }
    described.set_item("runs", runs)?;
    Ok(described)
}

/// What verify found.
pub fn verify<'py>(py: Python<'py>, report: &VerifyReport) -> PyResult<Bound<'py, PyDict>> {
    let described = PyDict::new(py);
    described.set_item("checkpoints", report.checkpoints)?;
    described.set_item("chunks", report.chunks)?;
    described.set_item("bytes", report.bytes)?;
    let places = report.damaged.iter().map(|place| damage(py, place)).collect::<PyResult<Vec<_>>>()?;
    described.set_item("damaged", places)?;
    described.set_item("objects", report.objects.clone())?;
    described.set_item("sound", report.is_sound())?;
    Ok(described)
}
