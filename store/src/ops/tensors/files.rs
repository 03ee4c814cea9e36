//! Which members of two checkpoints differ. Never reads a chunk where the ids of chunks tell already.

use std::collections::BTreeMap;

use super::diff::Sides;
use crate::error::Result;
use crate::format::manifest::{Content, File};
use crate::format::tensors::Piece;
use crate::ops::opened::Opened;
use crate::ops::stream::Span;

/// Bytes of each side that are compared at a time: as many chunks as are decoded together.
const BLOCK_BYTES: u64 = 16 << 20;

/// A member of a checkpoint that another one lacks or has otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileChange {
    /// Its path, in the later checkpoint if that has it.
    pub path: Vec<u8>,
    /// Its path in the earlier one, when that is another: two checkpoints of one file each are compared under any names.
    pub was: Option<Vec<u8>>,
    /// What it was; none when it is new.
    pub before: Option<Member>,
    /// What it is; none when it is gone.
    pub after: Option<Member>,
    /// Whether its bytes differ, or are those of a member that only one of the two has.
    pub content: bool,
}

/// What a member is, apart from its bytes and its time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Member {
    /// A regular file.
    File {
        /// Bytes.
        bytes: u64,
        /// Permission bits.
        mode: u32,
    },
    /// A directory.
    Directory {
        /// Permission bits.
        mode: u32,
    },
    /// A link.
    Link {
        /// Where it points.
        target: Vec<u8>,
    },
}

impl Member {
    fn of(file: &File) -> Self {
        match &file.content {
            Content::File { size, .. } => Self::File { bytes: *size, mode: file.mode },
            Content::Directory => Self::Directory { mode: file.mode },
            Content::Link { target } => Self::Link { target: target.to_vec() },
        }
    }
}

/// What differs, by path, and how many members do not. Times of change are no difference.
pub fn compare(sides: &mut Sides<'_>) -> Result<(Vec<FileChange>, u64)> {
    let (before, after) = (sides.before.opened, sides.after.opened);
    let by_path = |opened: &'_ Opened| -> BTreeMap<Vec<u8>, u32> {
        (0..).zip(&opened.manifest.files).map(|(nr, file)| (file.path.to_vec(), nr)).collect()
    };
    let mut old = by_path(before);
    let mut new = by_path(after);
    let mut pairs: Vec<(Option<u32>, Option<u32>)> = Vec::new();
    if is_one_file(before) && is_one_file(after) {
        pairs.push((Some(0), Some(0)));
        (old, new) = Default::default();
    }
    pairs.extend(new.iter().map(|(path, nr)| (old.remove(path), Some(*nr))));
    pairs.extend(old.values().map(|nr| (Some(*nr), None)));
    let (mut changes, mut unchanged) = (Vec::new(), 0);
    for (a, b) in pairs {
        let (old, new) =
            (a.map(|nr| &before.manifest.files[nr as usize]), b.map(|nr| &after.manifest.files[nr as usize]));
        let Some(path) = new.or(old).map(|file| file.path.to_vec()) else { continue };
        let was = old.map(|file| file.path.to_vec()).filter(|was| *was != path);
        let (old, new) = (old.map(Member::of), new.map(Member::of));
        let content = match (a.zip(b), &old, &new) {
            (Some((a, b)), Some(Member::File { .. }), Some(Member::File { .. })) => !same_bytes(sides, a, b)?,
            _ => old != new,
        };
        if content || old != new {
            changes.push(FileChange { path, was, before: old, after: new, content });
        } else {
            unchanged += 1;
        }
    }
    changes.sort_by(|a, b| a.path.cmp(&b.path));
    Ok((changes, unchanged))
}

fn is_one_file(opened: &Opened) -> bool {
    matches!(&opened.manifest.files[..], [file] if matches!(file.content, Content::File { .. }))
}

/// Whether two files have the same bytes.
fn same_bytes(sides: &mut Sides<'_>, a: u32, b: u32) -> Result<bool> {
    let (before, after) = (sides.before.opened, sides.after.opened);
    let size = before.manifest.files[a as usize].size();
    if size != after.manifest.files[b as usize].size() {
        return Ok(false);
    }
    let Some(doubts) = doubts(before, a, after, b, size) else { return Ok(false) };
    for (mut offset, mut left) in doubts {
        while left > 0 {
            let len = left.min(BLOCK_BYTES);
            let [old, new] = sides.read_both(&[Span { file: a, offset, len }], &[Span { file: b, offset, len }])?;
            if old != new {
                return Ok(false);
            }
            (offset, left) = (offset + len, left - len);
        }
    }
    Ok(true)
}

/// The ranges of two files of one size of which ids do not tell whether they are the same; none when they tell that the
/// files are not. Small files and headers share chunks with their neighbors: that such a chunk is another one says nothing of
/// them.
fn doubts(before: &Opened, a: u32, after: &Opened, b: u32, size: u64) -> Option<Vec<(u64, u64)>> {
    let (old, new) = (&before.manifest, &after.manifest);
    let (of_old, of_new) = (old.map(a).pieces(0, size), new.map(b).pieces(0, size));
    let (mut of_old, mut of_new) = (of_old.into_iter(), of_new.into_iter());
    let (mut piece_a, mut piece_b) = (of_old.next(), of_new.next());
    let mut doubts: Vec<(u64, u64)> = Vec::new();
    let mut at = 0;
    while let (Some(a), Some(b)) = (piece_a, piece_b) {
        let shared = len_of(a).min(len_of(b));
        let is_same = match (a, b) {
            (Piece::Chunk { chunk: a, at: a_at, len: a_len }, Piece::Chunk { chunk: b, at: b_at, len: b_len }) => {
                let same_chunk = old.chunk_id(a as usize) == new.chunk_id(b as usize);
                let is_whole = |at, len, lens: &[u32], chunk: u32| at == 0 && len == lens[chunk as usize];
                let both_whole = a_len == b_len
                    && is_whole(a_at, a_len, &old.chunk_lens, a)
                    && is_whole(b_at, b_len, &new.chunk_lens, b);
                if both_whole && !same_chunk {
                    return None;
                }
                same_chunk && a_at == b_at
            }
            (Piece::Inline { at: a, .. }, Piece::Inline { at: b, .. }) => {
                let of = |inline: &[u8], at: u32| inline[at as usize..(at + shared) as usize].to_vec();
                if of(&old.inline, a) != of(&new.inline, b) {
                    return None;
                }
                true
            }
            _ => false,
        };
        match doubts.last_mut() {
            _ if is_same => {}
            Some((offset, len)) if *offset + *len == at => *len += u64::from(shared),
            _ => doubts.push((at, shared.into())),
        }
        at += u64::from(shared);
        piece_a = behind(a, shared).or_else(|| of_old.next());
        piece_b = behind(b, shared).or_else(|| of_new.next());
    }
    Some(doubts)
}

fn len_of(piece: Piece) -> u32 {
    let (Piece::Chunk { len, .. } | Piece::Inline { len, .. }) = piece;
    len
}

/// What is left of a piece behind its first bytes.
fn behind(piece: Piece, bytes: u32) -> Option<Piece> {
    let left = len_of(piece) - bytes;
    (left > 0).then(|| match piece {
        Piece::Chunk { chunk, at, .. } => Piece::Chunk { chunk, at: at + bytes, len: left },
        Piece::Inline { at, .. } => Piece::Inline { at: at + bytes, len: left },
    })
}
