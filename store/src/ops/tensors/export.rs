//! Writes tensors of a checkpoint as one safetensors file. Never leaves a file that looks whole and is not, and never holds more
//! than one tensor.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::plan::{Plan, plan};
use super::{Named, find, named, rows};
use crate::catalog::refs;
use crate::error::{Error, Result, Thing};
use crate::format::catalog::Entry;
use crate::ops::get::{name_globs, path_globs};
use crate::ops::opened::{Opened, Pinned};
use crate::ops::place::{exists, parent_of, put_in_place, temporary_beside};
use crate::ops::stream::Reader;
use crate::progress::{Progress, Stage};
use crate::store::Store;
use globset::GlobSet;

/// Which tensors to give, and where to.
#[derive(Debug, Clone, Default)]
pub struct ExportRequest {
    /// Which checkpoint.
    pub reference: String,
    /// Only tensors of files whose path matches; none means all.
    pub files: Vec<String>,
    /// Only tensors whose name matches; none means all.
    pub tensors: Vec<String>,
    /// Whether an existing destination is replaced.
    pub force: bool,
}

/// What an export did.
#[derive(Debug, Clone, PartialEq)]
pub struct ExportReport {
    /// The checkpoint.
    pub entry: Entry,
    /// What was written; none when it went to a stream.
    pub path: Option<PathBuf>,
    /// Tensors in the file.
    pub tensors: u64,
    /// Further names of these, which stand in the metadata.
    pub tied: u64,
    /// Bytes of the file.
    pub bytes: u64,
    /// Wall time.
    pub seconds: f64,
}

/// Writes the tensors to a file. A destination that is a directory gets it as `model.safetensors`.
pub fn export(
    store: &Store,
    request: &ExportRequest,
    destination: &Path,
    progress: &dyn Progress,
) -> Result<ExportReport> {
    let started = Instant::now();
    let (opened, pinned) = Opened::by_ref(store, "get", &request.reference, progress)?;
    let plan = plan(&refs::name_of(&opened.entry), choose(&opened, request)?)?;
    let target = if destination.is_dir() { destination.join("model.safetensors") } else { destination.to_owned() };
    if !request.force && fs::symlink_metadata(&target).is_ok() {
        return Err(exists(&target));
    }
    let temporary = Temporary(temporary_beside(&target)?);
    let failed = |error| Error::io("write", &target, error);
    let mut file = File::create_new(&temporary.0).map_err(failed)?;
    write(store, &opened, &pinned, &plan, &target, &mut file, progress)?;
    file.sync_all().map_err(failed)?;
    put_in_place(&temporary.0, &target, request.force).map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => exists(&target),
        _ => failed(error),
    })?;
    File::open(parent_of(&target)).and_then(|parent| parent.sync_all()).map_err(failed)?;
    Ok(report(&plan, &opened, Some(target.clone()), started))
}

/// Writes the tensors to a stream.
pub fn export_stream(
    store: &Store,
    request: &ExportRequest,
    to: &mut dyn Write,
    progress: &dyn Progress,
) -> Result<ExportReport> {
    let started = Instant::now();
    let (opened, pinned) = Opened::by_ref(store, "get", &request.reference, progress)?;
    let plan = plan(&refs::name_of(&opened.entry), choose(&opened, request)?)?;
    write(store, &opened, &pinned, &plan, Path::new("the stream"), to, progress)?;
    Ok(report(&plan, &opened, None, started))
}

fn report(plan: &Plan<'_>, opened: &Opened, path: Option<PathBuf>, started: Instant) -> ExportReport {
    ExportReport {
        entry: opened.entry.clone(),
        path,
        tensors: plan.tensors.len() as u64,
        tied: plan.tied,
        bytes: plan.bytes,
        seconds: started.elapsed().as_secs_f64(),
    }
}

/// A file that goes when it was not given its name.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn write(
    store: &Store,
    opened: &Opened,
    pinned: &Pinned,
    plan: &Plan<'_>,
    name: &Path,
    to: &mut dyn Write,
    progress: &dyn Progress,
) -> Result<()> {
    let failed = |error| Error::io("write", name, error);
    let mut reader = Reader::new(store, &pinned.state);
    progress.begin(Stage::Read, plan.bytes);
    to.write_all(&plan.header).map_err(failed)?;
    let mut receive = |bytes: &[u8]| {
        to.write_all(bytes).map_err(failed)?;
        progress.advance(bytes.len() as u64);
        Ok(())
    };
    // Those that lie in rows are read as one stream, so that many small ones are decoded in parallel too.
    for tensors in plan.tensors.chunk_by(|a, b| a.is_row_major() && b.is_row_major()) {
        if tensors[0].is_row_major() {
            let spans: Vec<_> = tensors.iter().map(Named::span).collect();
            reader.stream(opened, &spans, progress, &mut |_, bytes| receive(bytes))?;
        } else {
            for tensor in tensors {
                rows::stream_rows(&mut reader, opened, tensor, progress, &mut receive)?;
            }
        }
    }
    to.flush().map_err(failed)
}

/// The tensors that the request wants.
fn choose<'a>(opened: &'a Opened, request: &ExportRequest) -> Result<Vec<Named<'a>>> {
    let files = if request.files.is_empty() { None } else { Some(path_globs(&request.files)?) };
    let names = name_globs(request.tensors.iter().cloned())?;
    // Only who writes a file's path into the pattern means it.
    let with_path = name_globs(request.tensors.iter().filter(|pattern| pattern.contains(':')).cloned())?;
    let is_named = |named: &Named<'_>| {
        let is_match = |globs: &GlobSet, name: &str| globs.is_match(Path::new(name));
        // A name may hold what a glob takes for its own, so the very name counts as well.
        let exactly = request.tensors.iter().any(|wanted| [named.tensor.name, &named.name].contains(&wanted.as_str()));
        exactly || is_match(&names, named.tensor.name) || is_match(&with_path, &named.name)
    };
    let is_in_file = |named: &Named<'_>| {
        let path = Path::new(OsStr::from_bytes(&opened.manifest.files[named.file as usize].path));
        files.as_ref().is_none_or(|files| files.is_match(path))
    };
    let is_wanted = |named: &Named<'_>| (request.tensors.is_empty() || is_named(named)) && is_in_file(named);
    let chosen: Vec<Named<'_>> = named(&opened.manifest).into_iter().filter(is_wanted).collect();
    if chosen.is_empty() {
        let what = if request.tensors.is_empty() { "any".to_owned() } else { request.tensors.join(", ") };
        return Err(Error::NotFound {
            thing: Thing::Tensor,
            name: format!("{what} in {}", refs::name_of(&opened.entry)),
            near: find::near(&opened.manifest, &what),
        });
    }
    Ok(chosen)
}
