//! The class `Store`: a method for each verb, as thin as it can be. Never has an opinion: defaults and dataclasses are the
//! package's.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use ckpt_store::{
    Best, Error, GcRequest, GetRequest, Given, Mode, PartRequest, Prepared, PutRequest, Record, Rules, Sums,
    VerifyRequest, mode_of, torch_archive,
};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList};

use crate::describe;
use crate::failure::raise;
use crate::memory::Memory;
use crate::reader::Reader;
use crate::work::{run, run_briefly};

/// A store.
#[pyclass(frozen)]
pub struct Store {
    pub store: Arc<ckpt_store::Store>,
    sums: Sums,
}

#[pymethods]
impl Store {
    /// Opens the store in `path`; makes it when there is none and `create` says so.
    #[new]
    fn new(py: Python<'_>, path: PathBuf, create: bool) -> PyResult<Self> {
        let store = run_briefly(py, |_| match ckpt_store::Store::open(&path) {
            Err(Error::NotFound { .. }) if create => match ckpt_store::Store::init(&path) {
                // Another rank was faster.
                Err(Error::Exists { .. }) => ckpt_store::Store::open(&path),
                made => made,
            },
            opened => opened,
        })?;
        Ok(Self { store: Arc::new(store), sums: Sums::default() })
    }

    /// Stores files, directories, and files that are only in memory (path, mode, bytes) as one checkpoint.
    #[allow(clippy::too_many_arguments, reason = "the package names them")]
    fn put<'py>(
        &self,
        py: Python<'py>,
        paths: Vec<PathBuf>,
        given: Vec<(String, u32, PyRef<'py, Memory>)>,
        root: Option<String>,
        run: String,
        step: Option<u64>,
        metrics: BTreeMap<String, f64>,
        meta: BTreeMap<String, String>,
        tags: BTreeSet<String>,
        replace: bool,
        gc: bool,
    ) -> PyResult<Bound<'py, PyDict>> {
        let request =
            PutRequest { paths, given: files(given), root, run, step, metrics, meta, tags, replace, reserve: None, gc };
        let report = crate::work::run(py, |progress| self.store.put(&request, progress))?;
        describe::entry(py, &report.entry)
    }

    /// Stores this process's share of a checkpoint; what it stored stays as long as the answer lives.
    fn prepare(&self, py: Python<'_>, given: Vec<(String, u32, PyRef<'_, Memory>)>) -> PyResult<Part> {
        let request = PartRequest { given: files(given), ..PartRequest::default() };
        let prepared = run(py, |progress| self.store.prepare(&request, progress))?;
        Ok(Part(prepared))
    }

    /// Makes one checkpoint of the parts that several processes prepared.
    #[allow(clippy::too_many_arguments, reason = "the package names them")]
    fn commit_parts<'py>(
        &self,
        py: Python<'py>,
        parts: Vec<Vec<u8>>,
        given: Vec<(String, u32, PyRef<'py, Memory>)>,
        root: Option<String>,
        run: String,
        step: Option<u64>,
        metrics: BTreeMap<String, f64>,
        meta: BTreeMap<String, String>,
        tags: BTreeSet<String>,
        replace: bool,
    ) -> PyResult<Bound<'py, PyDict>> {
        let request =
            PutRequest { given: files(given), root, run, step, metrics, meta, tags, replace, ..PutRequest::default() };
        let report = crate::work::run(py, |progress| self.store.commit_parts(&request, &parts, progress))?;
        describe::entry(py, &report.entry)
    }

    /// The zip that `torch.save` writes of records, which are the pickle and the storages.
    fn torch_archive(&self, py: Python<'_>, records: Vec<(String, PyRef<'_, Memory>)>) -> PyResult<Memory> {
        let records = records.into_iter().map(|(name, memory)| Record { name, source: Arc::clone(&memory.0) });
        let records: Vec<Record> = records.collect();
        let archive = run(py, |progress| torch_archive("archive", records, &self.sums, progress))?;
        Ok(Memory(Arc::new(archive)))
    }

    /// Opens a checkpoint for reading.
    fn open(&self, py: Python<'_>, reference: String) -> PyResult<Reader> {
        run(py, |progress| self.store.open_checkpoint(&reference, progress)).map(Reader::new)
    }

    /// Gives a checkpoint's files back; answers where they are.
    fn get(
        &self,
        py: Python<'_>,
        reference: String,
        destination: PathBuf,
        files: Vec<String>,
        force: bool,
    ) -> PyResult<PathBuf> {
        let request = GetRequest { reference, files, force };
        let report = run(py, |progress| self.store.get(&request, &destination, progress))?;
        Ok(report.path.unwrap_or(destination))
    }

    /// All checkpoints, or those of one run, as they were stored.
    fn checkpoints<'py>(&self, py: Python<'py>, run: Option<String>) -> PyResult<Bound<'py, PyList>> {
        let found = run_briefly(py, |_| match &run {
            Some(run) => self.store.checkpoints_of(run),
            None => self.store.checkpoints(),
        })?;
        describe::entries(py, &found)
    }

    /// The checkpoint that a ref names.
    fn resolve<'py>(&self, py: Python<'py>, reference: String) -> PyResult<Bound<'py, PyDict>> {
        let entry = run(py, |progress| {
            let settled = self.store.settle(&reference, progress)?;
            self.store.resolve(&settled)
        })?;
        describe::entry(py, &entry)
    }

    /// Drops checkpoints.
    fn remove<'py>(&self, py: Python<'py>, references: Vec<String>) -> PyResult<Bound<'py, PyList>> {
        let dropped = run(py, |_| self.store.remove(&references))?;
        describe::entries(py, &dropped)
    }

    /// Names a checkpoint.
    fn tag<'py>(&self, py: Python<'py>, reference: String, name: String) -> PyResult<Bound<'py, PyDict>> {
        let entry = run(py, |_| self.store.tag(&reference, &name))?;
        describe::entry(py, &entry)
    }

    /// Takes a name away.
    fn untag<'py>(&self, py: Python<'py>, reference: String, name: Option<String>) -> PyResult<Bound<'py, PyDict>> {
        let entry = run(py, |_| self.store.untag(&reference, name.as_deref()))?;
        describe::entry(py, &entry)
    }

    /// Keeps a checkpoint from every policy, or no longer.
    fn pin<'py>(&self, py: Python<'py>, reference: String, pinned: bool) -> PyResult<Bound<'py, PyDict>> {
        let entry = run(py, |_| self.store.pin(&reference, pinned))?;
        describe::entry(py, &entry)
    }

    /// Drops checkpoints by rules, or else by the store's policies, and frees what nothing uses.
    #[allow(clippy::too_many_arguments, reason = "the package names them")]
    fn gc<'py>(
        &self,
        py: Python<'py>,
        runs: Option<String>,
        last: Option<u64>,
        best: Option<(u64, String, Option<String>)>,
        every: Option<u64>,
        within_ms: Option<i64>,
        dry_run: bool,
    ) -> PyResult<Bound<'py, PyDict>> {
        let best = best.map(|(count, metric, mode)| best_by(count, metric, mode.as_deref())).transpose();
        let best = best.map_err(|error| raise(py, &error))?;
        let request = GcRequest { runs, rules: Rules { last, best, every, within_ms }, dry_run };
        let report = run(py, |progress| self.store.gc(&request, progress))?;
        describe::gc(py, &report)
    }

    /// What the store holds and what is left of the disk.
    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let stats = run(py, |progress| self.store.stats(progress))?;
        describe::stats(py, &stats)
    }

    /// Reads everything back, or one checkpoint, and checks it.
    fn verify<'py>(&self, py: Python<'py>, reference: Option<String>, quick: bool) -> PyResult<Bound<'py, PyDict>> {
        let request = VerifyRequest { reference, quick, not_since_ms: None };
        let report = run(py, |progress| self.store.verify(&request, progress))?;
        describe::verify(py, &report)
    }
}

/// What one process prepared of a checkpoint.
#[pyclass(frozen)]
pub struct Part(Prepared);

#[pymethods]
impl Part {
    /// What the process that commits must know of it.
    fn to_bytes<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, self.0.to_bytes())
    }
}

/// Files that are only in memory.
fn files(given: Vec<(String, u32, PyRef<'_, Memory>)>) -> Vec<Given> {
    let given = given.into_iter().map(|(path, mode, memory)| Given { path, mode, source: Arc::clone(&memory.0) });
    given.collect()
}

/// The best by a metric; which end of it is good is told by its name when nobody says.
pub fn best_by(count: u64, metric: String, mode: Option<&str>) -> Result<Best, Error> {
    let mode = match mode {
        Some("min") => Some(Mode::Min),
        Some("max") => Some(Mode::Max),
        Some(other) => return Err(Error::Invalid(format!("mode is {other:?}, which is neither \"min\" nor \"max\""))),
        None => mode_of(&metric),
    };
    let unknown =
        || Error::Invalid(format!("whether small or large {metric} is good can't be told from its name: say mode"));
    Ok(Best { count, mode: mode.ok_or_else(unknown)?, metric })
}
