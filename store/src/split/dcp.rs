//! What the `.metadata` of a `torch.distributed.checkpoint` calls the tensors in the files beside it, each of which holds one
//! small archive for each tensor, or part of one, under no name at all. Never changes where a file is cut.

use std::collections::HashMap;
use std::io;

use super::{Format, Kind, Source, Split, torch};
use crate::limits::{PICKLE_BYTES_MAX, PICKLE_TENSORS_MAX};
use crate::pickle::{self, Id, Pickle};

/// Names by file and place.
pub struct DistributedNames {
    files: HashMap<String, Vec<Part>>,
}

/// What a range of a file holds.
struct Part {
    start: u64,
    end: u64,
    name: String,
    /// Where it begins in the tensor that it is a part of, and the dimensions of that tensor.
    place: Option<(Vec<u64>, Vec<u64>)>,
}

impl DistributedNames {
    /// Reads the metadata; nothing if there is any doubt.
    ///
    /// # Errors
    /// Only those of reading the source.
    pub fn read(metadata: &dyn Source) -> io::Result<Option<Self>> {
        let Some(len) = usize::try_from(metadata.size()).ok().filter(|len| *len <= PICKLE_BYTES_MAX) else {
            return Ok(None);
        };
        let mut bytes = vec![0; len];
        metadata.read_exact_at(&mut bytes, 0)?;
        Ok(pickle::read(&bytes).ok().and_then(|pickle| Self::of(&pickle)))
    }

    fn of(pickle: &Pickle<'_>) -> Option<Self> {
        let attribute = |object: Id, class: &str, name: &str| {
            let object = pickle.object(object)?;
            let (_, own) = pickle.global(object.callee)?;
            (own == class).then_some(())?;
            pickle.get(object.state?, name)
        };
        let root = pickle.root();
        let described = attribute(root, "Metadata", "state_dict_metadata")?;
        let stored = attribute(root, "Metadata", "storage_data")?;
        let mut shapes = HashMap::new();
        for (name, about) in pickle.pairs(described).take(PICKLE_TENSORS_MAX) {
            let size = attribute(about, "TensorStorageMetadata", "size");
            if let Some((name, shape)) = pickle.text(name).zip(size.and_then(|size| torch::sizes(pickle, size))) {
                shapes.insert(name, shape);
            }
        }
        let mut files: HashMap<String, Vec<Part>> = HashMap::new();
        for (index, info) in pickle.pairs(stored).take(PICKLE_TENSORS_MAX) {
            let name = pickle.text(attribute(index, "MetadataIndex", "fqn")?)?;
            let first = attribute(index, "MetadataIndex", "offset").and_then(|offset| torch::sizes(pickle, offset));
            let told = |name| attribute(info, "_StorageInfo", name);
            let (file, start, len) = (told("relative_path")?, told("offset")?, told("length")?);
            let start = pickle.size(start)?;
            let part = Part {
                start,
                end: start.checked_add(pickle.size(len)?)?,
                name: name.to_owned(),
                place: first.zip(shapes.get(name).cloned()),
            };
            files.entry(pickle.text(file)?.to_owned()).or_default().push(part);
        }
        for parts in files.values_mut() {
            parts.retain(|part| part.start < part.end);
            parts.sort_by_key(|part| part.start);
            if parts.windows(2).any(|pair| pair[0].end > pair[1].start) {
                return None;
            }
        }
        Some(Self { files })
    }

    /// Gives the tensors of a file, by its path relative to the metadata's, their names.
    pub fn apply(&self, path: &str, split: &mut Split) {
        // safetensors has the names itself.
        let Some(parts) = self.files.get(path).filter(|_| split.format == Format::TorchZip) else { return };
        let at = |start: u64, end: u64| {
            let at = parts.partition_point(|part| part.start <= start).checked_sub(1)?;
            (end <= parts[at].end).then_some(at)
        };
        let mut start = 0;
        for segment in &mut split.segments {
            let end = start + segment.len;
            if let Kind::Tensor { name, shape, .. } = &mut segment.kind
                && let Some(at) = at(start, end)
            {
                *name = parts[at].name_of(name, shape.as_deref());
            }
            start = end;
        }
        for view in &mut split.views {
            // One without bytes is nowhere; but the archives are numbered as the parts are.
            let at = match view.len {
                0 if parts.len() == 1 => Some(0),
                0 => number_of(&view.name),
                len => at(view.offset, view.offset + len),
            };
            if let Some(part) = at.and_then(|at| parts.get(at)) {
                view.name = part.name_of(&view.name, Some(&view.shape));
            }
        }
    }
}

impl Part {
    /// What a tensor in this part is called that goes by this name in its file.
    fn name_of(&self, own: &str, shape: Option<&[u64]>) -> String {
        let own = if number_of(own).is_some() { own.split_once('/').map_or(own, |(_, own)| own) } else { own };
        match (own, shape) {
            (torch::BARE, Some(shape)) => self.slice(shape).unwrap_or_else(|| self.name.clone()),
            // A storage that no tensor names.
            (_, None) => format!("{}:{own}", self.name),
            _ => format!("{}.{own}", self.name),
        }
    }

    /// The name with its place in the whole, as NumPy writes slices; nothing if it is the whole.
    fn slice(&self, shape: &[u64]) -> Option<String> {
        let (first, whole) = self.place.as_ref()?;
        if first.len() != shape.len() || whole.len() != shape.len() || whole == shape {
            return None;
        }
        let dimensions = first.iter().zip(shape).zip(whole).map(|((first, len), whole)| {
            let end = first.checked_add(*len).filter(|end| end <= whole)?;
            Some(format!("{first}:{end}"))
        });
        let dimensions: Option<Vec<_>> = dimensions.collect();
        dimensions.map(|dimensions| format!("{}[{}]", self.name, dimensions.join(",")))
    }
}

/// The number of the archive that a tensor is in, in a file of several.
fn number_of(name: &str) -> Option<usize> {
    name.split_once('/').and_then(|(number, _)| number.parse().ok())
}
