//! What a put has to store, split and laid out, and its description once the chunks have names. Never writes anything.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_bytes::ByteBuf;

use super::gather::{Gathered, Member, MemberKind};
use super::room;
use super::source::SourceFile;
use super::splitting::{Names, split_all};
use crate::archive::Literal;
use crate::error::{Error, Result};
use crate::format::manifest::{Content, File, Manifest, Segment, Tensor, View};
use crate::format::part::Part;
use crate::id::{CheckpointId, ChunkId, StoreId};
use crate::split::{self, Kind, Layout, Placement, Source, Split};

/// The members of a checkpoint, or of a part of one, and which bytes make which chunk.
pub struct Material {
    gathered: Gathered,
    /// The literals of each part that stand inline there: more of them than one manifest takes may come together.
    literals: Vec<Arc<SourceFile>>,
    /// For each member that is a file, then for each of the literals.
    splits: Vec<Split>,
    /// The plan of all of them.
    pub layout: Layout,
    /// What the members' metadata calls the tensors of the files beside it.
    pub names: Names,
}

impl Material {
    /// Splits what was gathered and lays it out together with the inline literals of parts.
    pub fn of(gathered: Gathered, parts: &[Part]) -> Result<Self> {
        let (mut splits, names) = split_all(&gathered.members)?;
        let literals: Vec<Arc<SourceFile>> = parts.iter().map(|part| literals_of(&part.manifest.inline)).collect();
        splits.extend(literals.iter().map(|literal| {
            let len = literal.size();
            let segments = (len > 0).then_some(split::Segment { len, kind: Kind::Literal }).into_iter().collect();
            Split { format: split::Format::Opaque, segments, views: Vec::new() }
        }));
        let layout = lay_out(&sources(&gathered.members, &literals), &splits)?;
        Ok(Self { gathered, literals, splits, layout, names })
    }

    /// The files to read, by the numbers that they have in the layout.
    pub fn sources(&self) -> Vec<&SourceFile> {
        sources(&self.gathered.members, &self.literals)
    }

    /// Where the inline literals of a part begin; none when it has none.
    pub fn literal_place(&self, part: usize) -> Option<Placement> {
        let first = self.splits.len() - self.literals.len();
        self.layout.placements.get(first + part)?.first().copied()
    }

    /// Whether it has no member.
    pub fn is_empty(&self) -> bool {
        self.gathered.members.is_empty() && self.gathered.root.is_none()
    }

    /// The most bytes of a manifest besides its chunks.
    pub fn described_bytes(&self) -> u64 {
        room::described_bytes(&self.gathered, &self.splits)
    }

    /// Describes the members by chunks of these ids, as a checkpoint that has no run yet.
    pub fn describe(&self, ids: &[ChunkId], id: CheckpointId, store: StoreId) -> Result<Manifest> {
        let sources = self.sources();
        let mut inline = Vec::new();
        for range in &self.layout.inline {
            let source = sources
                .get(range.file as usize)
                .ok_or_else(|| Error::Internal("an inline range is of no file".into()))?;
            let at = inline.len();
            inline.resize(at + range.len as usize, 0);
            source.read_exact_at(&mut inline[at..], range.offset).map_err(|error| source.read_error(error))?;
        }
        let mut described = self.splits.iter().zip(&self.layout.placements);
        let mut files = Vec::with_capacity(self.gathered.members.len());
        for member in &self.gathered.members {
            let content = match &member.kind {
                MemberKind::Directory => Content::Directory,
                MemberKind::Link(target) => Content::Link { target: ByteBuf::from(target.clone()) },
                MemberKind::File(source) => {
                    let (split, placements) =
                        described.next().ok_or_else(|| Error::Internal("a file was not laid out".into()))?;
                    describe_file(source, split, placements)
                }
            };
            let path = ByteBuf::from(member.path.clone());
            files.push(File { path, mode: member.mode, mtime_ms: member.mtime_ms, content });
        }
        Ok(Manifest {
            store,
            id,
            run: String::new(),
            step: None,
            time_ms: 0,
            metrics: BTreeMap::new(),
            meta: BTreeMap::new(),
            root: self.gathered.root.clone().map(ByteBuf::from),
            chunk_ids: ByteBuf::from(ids.iter().flat_map(|id| id.0).collect::<Vec<u8>>()),
            chunk_lens: self.layout.chunks.iter().map(|chunk| chunk.len).collect(),
            inline: ByteBuf::from(inline),
            files,
        })
    }
}

fn describe_file(source: &SourceFile, split: &Split, placements: &[Placement]) -> Content {
    let segments = split.segments.iter().zip(placements).map(|(segment, placement)| {
        let tensor = match &segment.kind {
            Kind::Tensor { name, dtype, shape } => {
                Some(Tensor(name.clone(), dtype.as_ref().map(ToString::to_string), shape.clone()))
            }
            Kind::Storage { .. } | Kind::Literal | Kind::Opaque => None,
        };
        match *placement {
            Placement::Chunks { chunk, at } => Segment(segment.len, Some(chunk), at, tensor),
            Placement::Inline { at } => Segment(segment.len, None, at, tensor),
        }
    });
    let views = split.views.iter().cloned().map(|view| {
        let dtype = view.dtype.map(|dtype| dtype.to_string());
        View(view.name, dtype, view.shape, view.strides, view.offset, view.len)
    });
    let format = split.format.to_string();
    Content::File { size: source.size(), format, segments: segments.collect(), views: views.collect() }
}

fn sources<'a>(members: &'a [Member], literals: &'a [Arc<SourceFile>]) -> Vec<&'a SourceFile> {
    members.iter().filter_map(Member::source).chain(literals).map(|source| &**source).collect()
}

fn lay_out(sources: &[&SourceFile], splits: &[Split]) -> Result<Layout> {
    let files: Vec<(&dyn Source, &Split)> = sources.iter().map(|source| *source as &dyn Source).zip(splits).collect();
    split::lay_out(&files).map_err(|error| {
        // The planner reads many files and can't say which one failed.
        match sources.iter().find_map(|source| source.check_unchanged().err()) {
            Some(changed) => changed,
            None => sources.first().map_or(Error::Internal(error.to_string()), |source| source.read_error(error)),
        }
    })
}

/// The inline literals of a part, as a file.
fn literals_of(inline: &[u8]) -> Arc<SourceFile> {
    let source: Arc<dyn Source> = Arc::new(Literal(inline.to_vec()));
    Arc::new(SourceFile::given("a part's literals", &source))
}
