//! Tensors of a checkpoint as one safetensors file. Never writes a type that safetensors doesn't have, and never two names for
//! one tensor: its readers refuse that, so further names go to the metadata as `safetensors.torch.save_model` has it.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use globset::GlobSet;
use serde::ser::{SerializeMap, Serializer};

use super::{Named, find, named, rows};
use crate::catalog::refs;
use crate::error::{Error, Result, Thing};
use crate::format::catalog::Entry;
use crate::ops::get::{name_globs, path_globs};
use crate::ops::opened::{Opened, Pinned};
use crate::ops::place::{exists, parent_of, put_in_place, temporary_beside};
use crate::ops::stream::Reader;
use crate::progress::{Progress, Stage};
use crate::split::Dtype;
use crate::store::Store;

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

/// A file to be written: its header, and the tensors in the order of their bytes.
struct Plan<'a> {
    header: Vec<u8>,
    tensors: Vec<Named<'a>>,
    tied: u64,
    bytes: u64,
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
    let plan = plan(&opened, request)?;
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
    let plan = plan(&opened, request)?;
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

fn plan<'a>(opened: &'a Opened, request: &ExportRequest) -> Result<Plan<'a>> {
    let mut chosen = choose(opened, request)?;
    // The names alone decide which of several stays, as in save_model.
    chosen.sort_by(|a, b| a.name.cmp(&b.name));
    let mut metadata =
        BTreeMap::from([("format".to_owned(), "pt".to_owned()), ("ckpt".to_owned(), refs::name_of(&opened.entry))]);
    let mut kept_at: HashMap<_, String> = HashMap::new();
    let mut tensors = Vec::with_capacity(chosen.len());
    let mut tied = 0;
    for named in chosen {
        let tensor = named.tensor;
        let place = (named.file, tensor.offset, tensor.len, tensor.dtype, tensor.shape, tensor.strides);
        match kept_at.get(&place).filter(|_| tensor.len > 0) {
            Some(kept) => {
                tied += 1;
                metadata.entry(named.name).or_insert_with(|| kept.clone());
            }
            None => {
                kept_at.insert(place, named.name.clone());
                tensors.push((safetensors_type(&named)?, named));
            }
        }
    }
    // Wider elements first, so that all of them are aligned.
    tensors.sort_by(|(a, left), (b, right)| b.bits().cmp(&a.bits()).then_with(|| left.name.cmp(&right.name)));
    let mut infos = Vec::with_capacity(tensors.len());
    let mut end = 0_u64;
    for (dtype, named) in &tensors {
        let shape = named.tensor.shape.unwrap_or_default();
        let elements = shape.iter().try_fold(1_u64, |product, dim| product.checked_mul(*dim));
        let len = elements.and_then(|elements| dtype.bytes_of(elements)).ok_or_else(|| too_large(opened))?;
        if named.is_row_major() && len != named.tensor.len {
            let reason = format!("has {} bytes, which is not what its type and shape say", named.tensor.len);
            return Err(Error::UnsuitedTensor { name: named.name.clone(), reason });
        }
        let begin = end;
        end = end.checked_add(len).ok_or_else(|| too_large(opened))?;
        infos.push((&*named.name, Info { dtype: dtype.name(), shape, data_offsets: [begin, end] }));
    }
    let header = header(&metadata, &infos)?;
    let bytes = end + header.len() as u64;
    Ok(Plan { header, tied, bytes, tensors: tensors.into_iter().map(|(_, named)| named).collect() })
}

fn too_large(opened: &Opened) -> Error {
    Error::Invalid(format!("{} holds more than one file can", refs::name_of(&opened.entry)))
}

/// The type of a tensor, if safetensors has it.
fn safetensors_type(named: &Named<'_>) -> Result<Dtype> {
    let dtype = named.tensor.dtype.and_then(Dtype::parse).filter(|_| named.tensor.shape.is_some());
    dtype.filter(|dtype| !matches!(dtype, Dtype::C32 | Dtype::C128)).ok_or_else(|| {
        let reason = match named.tensor.dtype {
            Some(_) if named.tensor.shape.is_none() => "has a shape that its file doesn't tell".into(),
            Some(dtype) => format!("has the type {dtype}, which safetensors doesn't have"),
            None => "has a type that its file doesn't tell".into(),
        };
        Error::UnsuitedTensor { name: named.name.clone(), reason }
    })
}

#[derive(serde::Serialize)]
struct Info<'a> {
    dtype: &'static str,
    shape: &'a [u64],
    data_offsets: [u64; 2],
}

/// The length, the JSON and the spaces up to a multiple of 8 that the file begins with.
fn header(metadata: &BTreeMap<String, String>, infos: &[(&str, Info<'_>)]) -> Result<Vec<u8>> {
    let mut json = serde_json::Serializer::new(vec![0; 8]);
    let write = |json: &mut serde_json::Serializer<Vec<u8>>| {
        let mut map = json.serialize_map(Some(infos.len() + 1))?;
        map.serialize_entry("__metadata__", metadata)?;
        infos.iter().try_for_each(|(name, info)| map.serialize_entry(name, info))?;
        map.end()
    };
    write(&mut json).map_err(|error| Error::Internal(error.to_string()))?;
    let mut bytes = json.into_inner();
    bytes.resize(bytes.len().next_multiple_of(8), b' ');
    let len = bytes.len() as u64 - 8;
    bytes[..8].copy_from_slice(&len.to_le_bytes());
    Ok(bytes)
}
