//! The immutable description of one checkpoint, as stored. Never names a place: chunks are named by id, so that packs can
//! be rewritten under it.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::FormatError;
use super::envelope::{self, Kind};
use crate::id::{CheckpointId, ChunkId, SessionId, StoreId};
use crate::limits::{CHUNK_BYTES_MAX, FILES_MAX, INLINE_BYTES_MAX, PATH_BYTES_MAX};

/// One checkpoint: what it is called and which bytes it holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// The store it belongs to.
    pub store: StoreId,
    /// Its own id.
    pub id: CheckpointId,
    /// The run's name.
    pub run: String,
    /// The training step, when there is one.
    pub step: Option<u64>,
    /// When it was stored, milliseconds since 1970.
    pub time_ms: i64,
    /// Numbers such as `val_loss`.
    #[serde(with = "super::catalog::metrics")]
    pub metrics: BTreeMap<String, f64>,
    /// Free-form texts.
    pub meta: BTreeMap<String, String>,
    /// When the checkpoint is one directory, that directory's name; its files' paths are relative to it.
    pub root: Option<ByteBuf>,
    /// The chunks' ids one after the other, 32 bytes each.
    pub chunk_ids: ByteBuf,
    /// The chunks' raw lengths in bytes.
    pub chunk_lens: Vec<u32>,
    /// Short literals of all files, one after the other.
    pub inline: ByteBuf,
    /// The files, directories and links; a directory before what is in it.
    pub files: Vec<File>,
}

/// One member of a checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct File {
    /// Relative path, components separated by `/`; any bytes but NUL.
    pub path: ByteBuf,
    /// Permission bits.
    pub mode: u32,
    /// Time of the last change, milliseconds since 1970.
    pub mtime_ms: i64,
    /// What it is.
    pub content: Content,
}

/// What a member of a checkpoint is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Content {
    /// A regular file.
    File {
        /// Bytes.
        size: u64,
        /// The splitter that cut it.
        format: String,
        /// Ranges from offset 0 on, without gap.
        segments: Vec<Segment>,
        /// The tensors in it that are no segment.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        views: Vec<View>,
    },
    /// A directory.
    Directory,
    /// A symbolic link that stays inside the checkpoint.
    Link {
        /// Where it points, relative to its own directory.
        target: ByteBuf,
    },
}

/// A range of a file: its length in bytes, the chunk its bytes begin in (none: in the inline bytes), where in there they
/// begin, and the tensor they are. The bytes go on through the following chunks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Segment(pub u64, pub Option<u32>, pub u32, pub Option<Tensor>);

/// What a segment's bytes mean: name, dtype and shape, the latter two as far as the container tells them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Tensor(pub String, pub Option<String>, pub Option<Vec<u64>>);

/// A tensor that is no segment: name, dtype, shape, strides in elements (none: row-major with nothing between), the byte of
/// the file where its first element begins, and the bytes from there to the end of its last.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct View(pub String, pub Option<String>, pub Vec<u64>, pub Option<Vec<u64>>, pub u64, pub u64);

/// A piece of a file that lies in one chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Index of the chunk in the manifest's table.
    pub chunk: u32,
    /// Where in the chunk it begins.
    pub chunk_at: u32,
    /// Index of the file.
    pub file: u32,
    /// Where in the file it begins.
    pub file_at: u64,
    /// Bytes.
    pub len: u32,
}

impl Manifest {
    /// The stored bytes.
    pub fn to_bytes(&self, session: SessionId) -> Result<Vec<u8>, FormatError> {
        envelope::seal(Kind::Manifest, self.id.to_bytes(), session, self)
    }

    /// Reads and checks a manifest; whatever this returns can be followed without further checks of bounds or names.
    pub fn from_bytes(id: CheckpointId, bytes: &[u8]) -> Result<Self, FormatError> {
        let manifest: Self = envelope::open(Kind::Manifest, id.to_bytes(), bytes)?;
        if manifest.id != id {
            return Err(FormatError::damaged("it describes another checkpoint than its name says"));
        }
        manifest.check()?;
        Ok(manifest)
    }

    /// The number of chunks.
    pub fn chunk_count(&self) -> usize {
        self.chunk_lens.len()
    }

    /// The id of chunk `index` of the table.
    ///
    /// # Panics
    /// When `index` is not below [`Self::chunk_count`].
    pub fn chunk_id(&self, index: usize) -> ChunkId {
        let mut id = [0; 32];
        id.copy_from_slice(&self.chunk_ids[index * 32..index * 32 + 32]);
        ChunkId(id)
    }

    /// All chunk ids in the table's order.
    pub fn chunks(&self) -> impl ExactSizeIterator<Item = ChunkId> + '_ {
        (0..self.chunk_count()).map(|index| self.chunk_id(index))
    }

    /// Bytes of all regular files.
    pub fn logical_bytes(&self) -> u64 {
        self.files.iter().map(File::size).sum()
    }

    /// The pieces of file `index` that lie in chunks, in file order.
    pub fn extents(&self, index: u32) -> Vec<Extent> {
        let mut extents = Vec::new();
        for (mut file_at, Segment(len, place, at, _)) in self.segments(index) {
            let Some(first) = place else { continue };
            let (mut chunk, mut chunk_at, mut left) = (*first, *at, *len);
            while left > 0 {
                let piece = left.min(u64::from(self.chunk_lens[chunk as usize] - chunk_at)) as u32;
                extents.push(Extent { chunk, chunk_at, file: index, file_at, len: piece });
                left -= u64::from(piece);
                file_at += u64::from(piece);
                chunk += 1;
                chunk_at = 0;
            }
        }
        extents
    }

    /// The pieces of file `index` that stand inline, in file order: where in the file, and which of [`Self::inline`].
    pub fn inline_pieces(&self, index: u32) -> impl Iterator<Item = (u64, Range<usize>)> + '_ {
        let inline = self.segments(index).filter(|(_, segment)| segment.1.is_none());
        inline.map(|(file_at, Segment(len, _, at, _))| (file_at, *at as usize..*at as usize + *len as usize))
    }

    /// The segments of file `index` and where in the file each begins.
    fn segments(&self, index: u32) -> impl Iterator<Item = (u64, &Segment)> {
        let segments = match &self.files[index as usize].content {
            Content::File { segments, .. } => &segments[..],
            _ => &[],
        };
        segments.iter().scan(0, |at, segment| {
            let begins = *at;
            *at += segment.0;
            Some((begins, segment))
        })
    }

    /// Checks every bound and name, so that a hostile or torn manifest is refused before anything follows it.
    pub fn check(&self) -> Result<(), FormatError> {
        let count = self.chunk_lens.len();
        if self.chunk_ids.len() != count.saturating_mul(32) || count > u32::MAX as usize {
            return Err(FormatError::damaged("its lists of chunks differ in length"));
        }
        if let Some(len) = self.chunk_lens.iter().find(|len| **len == 0 || **len as usize > CHUNK_BYTES_MAX) {
            return Err(FormatError::damaged(format!("it names a chunk of {len} bytes")));
        }
        if self.inline.len() > INLINE_BYTES_MAX || self.files.len() > FILES_MAX {
            return Err(FormatError::damaged("it holds more than a manifest may"));
        }
        if let Some(root) = &self.root {
            check_component(root)?;
        }
        // Sums of the lengths before each chunk, to check long segments without walking them.
        let mut before = Vec::with_capacity(count + 1);
        before.push(0_u64);
        for len in &self.chunk_lens {
            before.push(before[before.len() - 1] + u64::from(*len));
        }
        let mut seen: HashMap<&[u8], bool> = HashMap::with_capacity(self.files.len());
        for file in &self.files {
            check_path(&file.path)?;
            if file.mode > 0o777 {
                return Err(FormatError::damaged(format!("{} has mode {:o}", lossy(&file.path), file.mode)));
            }
            let parent = parent_of(&file.path);
            if !parent.is_empty() && seen.get(parent) != Some(&true) {
                return Err(FormatError::damaged(format!("{} is in no directory of it", lossy(&file.path))));
            }
            if seen.insert(&file.path, matches!(file.content, Content::Directory)).is_some() {
                return Err(FormatError::damaged(format!("it names {} twice", lossy(&file.path))));
            }
            match &file.content {
                Content::Directory => {}
                Content::Link { target } if link_stays_inside(&file.path, target) => {}
                Content::Link { .. } => {
                    return Err(FormatError::damaged(format!("the link {} leads out of it", lossy(&file.path))));
                }
                Content::File { size, segments, views, .. } => {
                    self.check_segments(file, *size, segments, &before)?;
                    if let Some(view) = views.iter().find(|view| !view.fits(*size)) {
                        let path = lossy(&file.path);
                        return Err(FormatError::damaged(format!("{path} has no such tensor as {:?}", view.0)));
                    }
                }
            }
        }
        Ok(())
    }

    fn check_segments(&self, file: &File, size: u64, segments: &[Segment], before: &[u64]) -> Result<(), FormatError> {
        let mut total = 0_u64;
        for Segment(len, place, at, _) in segments {
            let at = u64::from(*at);
            let room = match place {
                None => (self.inline.len() as u64).checked_sub(at),
                Some(chunk) => self
                    .chunk_lens
                    .get(*chunk as usize)
                    .filter(|chunk_len| at < u64::from(**chunk_len))
                    .map(|_| before[before.len() - 1] - before[*chunk as usize] - at),
            };
            if *len == 0 || room.is_none_or(|room| room < *len) {
                return Err(FormatError::damaged(format!("{} has a segment outside its chunks", lossy(&file.path))));
            }
            total = total.checked_add(*len).ok_or_else(|| FormatError::damaged("a size overflows"))?;
        }
        if total != size {
            return Err(FormatError::damaged(format!(
                "{} has {total} bytes of segments, not {size}",
                lossy(&file.path)
            )));
        }
        Ok(())
    }
}

impl File {
    /// Bytes of a regular file, 0 for others.
    pub fn size(&self) -> u64 {
        match self.content {
            Content::File { size, .. } => size,
            _ => 0,
        }
    }
}

fn lossy(path: &[u8]) -> String {
    format!("{:?}", String::from_utf8_lossy(path))
}

/// The directory that a path is in; empty for one in the root.
pub fn parent_of(path: &[u8]) -> &[u8] {
    path.iter().rposition(|byte| *byte == b'/').map_or(&[], |at| &path[..at])
}

/// Refuses what can't be the name of a file in a directory.
pub fn check_component(name: &[u8]) -> Result<(), FormatError> {
    let sound = !name.is_empty() && name != b"." && name != b".." && !name.contains(&0) && !name.contains(&b'/');
    if sound && name.len() <= 255 {
        Ok(())
    } else {
        Err(FormatError::damaged(format!("{} is no name of a file", lossy(name))))
    }
}

/// Refuses a path that a checkpoint can't hold.
pub fn check_path(path: &[u8]) -> Result<(), FormatError> {
    if path.len() > PATH_BYTES_MAX {
        return Err(FormatError::damaged(format!("a path has {} bytes", path.len())));
    }
    path.split(|byte| *byte == b'/').try_for_each(check_component)
}

/// Whether a link at `path` with `target` can only lead to something inside the checkpoint. A `..` counts only at the
/// beginning, where it leaves directories that are real: after another link's name nobody can say where it leads.
pub fn link_stays_inside(path: &[u8], target: &[u8]) -> bool {
    if target.is_empty() || target[0] == b'/' || target.contains(&0) || target.len() > PATH_BYTES_MAX {
        return false;
    }
    let depth = path.iter().filter(|byte| **byte == b'/').count();
    let mut parts = target.split(|byte| *byte == b'/').filter(|part| !matches!(part, [] | [b'.'])).peekable();
    let mut ups = 0;
    while parts.next_if(|part| part == b"..").is_some() {
        ups += 1;
    }
    ups <= depth && parts.all(|part| part != b"..")
}
