//! Assembles the table of a layout, file by file, by the rules at the head of [`super`]. Never decides where content is cut:
//! it is given the lengths, and reads only to gather the literal stream.

use std::io;

use super::super::{Kind, Segment, Source, Split, cdc};
use super::{ElementHint, Layout, Placement, PlannedChunk, Range, Rule, count, rule_for, too_much};
use crate::limits::{CHUNK_BYTES_MAX, INLINE_BYTES_MAX, LITERAL_CDC_BYTES, SMALL_GROUP_BYTES_MAX};

/// A segment of the literal stream.
#[derive(Clone, Copy)]
struct Literal {
    range: Range,
    segment: u32,
}

/// Small tensors of one type that are to share a chunk.
struct Group {
    hint: ElementHint,
    len: u32,
    /// Each member's segment and the byte of the chunk where it begins.
    members: Vec<(usize, u32)>,
    ranges: Vec<Range>,
}

/// A layout in the making.
#[derive(Default)]
pub(super) struct Plan {
    chunks: Vec<PlannedChunk>,
    ranges: Vec<Range>,
    placements: Vec<Vec<Placement>>,
    literals: Vec<Literal>,
    literal_bytes: u64,
}

impl Plan {
    /// Adds the next file; `cuts` gives the chunk lengths of its segments that are cut by content.
    pub(super) fn add_file(
        &mut self,
        file: u32,
        split: &Split,
        cuts: &mut impl Iterator<Item = Vec<u32>>,
    ) -> io::Result<()> {
        // Overwritten for every segment: here, when its group is closed, or when the literal stream is cut.
        let mut placements = vec![Placement::Inline { at: 0 }; split.segments.len()];
        let mut small = Vec::new();
        let mut offset = 0u64;
        for (number, segment) in split.segments.iter().enumerate() {
            match rule_for(segment) {
                Rule::OwnChunks(hint) => {
                    placements[number] = Placement::Chunks { chunk: count(self.chunks.len())?, at: 0 };
                    self.add_equal_chunks(file, offset, segment.len, hint)?;
                }
                Rule::CutByContent => {
                    placements[number] = Placement::Chunks { chunk: count(self.chunks.len())?, at: 0 };
                    let mut at = offset;
                    for len in cuts.next().ok_or_else(too_much)? {
                        self.add_chunk(ElementHint::Bytes, len, &[Range { file, len, offset: at }])?;
                        at += u64::from(len);
                    }
                }
                Rule::SharedChunk(hint) => {
                    let range = Range { file, len: u32::try_from(segment.len).map_err(|_| too_much())?, offset };
                    small.push((name_of(segment), hint, range, number));
                }
                Rule::LiteralStream => {
                    let range = Range { file, len: u32::try_from(segment.len).map_err(|_| too_much())?, offset };
                    self.literals.push(Literal { range, segment: count(number)? });
                    self.literal_bytes += segment.len;
                }
            }
            offset += segment.len;
        }
        let mut groups: Vec<Group> = Vec::new();
        // Stable: those of one name, or without one, stay in file order.
        small.sort_by_key(|(name, ..)| *name);
        for (_, hint, range, number) in small {
            self.add_to_group(&mut groups, hint, range, number, &mut placements)?;
        }
        for group in groups {
            self.close(group, &mut placements)?;
        }
        self.placements.push(placements);
        Ok(())
    }

    fn add_equal_chunks(&mut self, file: u32, offset: u64, len: u64, hint: ElementHint) -> io::Result<()> {
        // Counted before the first is added: a sparse file may claim more chunks than memory holds.
        let more = usize::try_from(len.div_ceil(CHUNK_BYTES_MAX as u64)).map_err(|_| too_much())?;
        count(self.chunks.len().saturating_add(more))?;
        for part in (0..len).step_by(CHUNK_BYTES_MAX) {
            let len = (len - part).min(CHUNK_BYTES_MAX as u64) as u32;
            self.add_chunk(hint, len, &[Range { file, len, offset: offset + part }])?;
        }
        Ok(())
    }

    /// Puts a small tensor into the open group of its type, after closing one that it doesn't fit into.
    fn add_to_group(
        &mut self,
        groups: &mut Vec<Group>,
        hint: ElementHint,
        range: Range,
        segment: usize,
        placements: &mut [Placement],
    ) -> io::Result<()> {
        let new = || Group { hint, len: 0, members: Vec::new(), ranges: Vec::new() };
        let place = groups.iter().position(|group| group.hint == hint).unwrap_or_else(|| {
            groups.push(new());
            groups.len() - 1
        });
        if groups[place].len as usize + range.len as usize > SMALL_GROUP_BYTES_MAX {
            let full = std::mem::replace(&mut groups[place], new());
            self.close(full, placements)?;
        }
        let group = &mut groups[place];
        group.members.push((segment, group.len));
        group.len += range.len;
        push_range(&mut group.ranges, 0, range);
        Ok(())
    }

    fn close(&mut self, group: Group, placements: &mut [Placement]) -> io::Result<()> {
        let chunk = count(self.chunks.len())?;
        for (segment, at) in group.members {
            placements[segment] = Placement::Chunks { chunk, at };
        }
        self.add_chunk(group.hint, group.len, &group.ranges)
    }

    fn add_chunk(&mut self, dtype: ElementHint, len: u32, ranges: &[Range]) -> io::Result<()> {
        count(self.chunks.len())?;
        self.chunks.push(PlannedChunk { len, dtype, first_range: count(self.ranges.len())? });
        self.ranges.extend_from_slice(ranges);
        Ok(())
    }

    /// Gives the literals their places and makes the layout.
    pub(super) fn finish(mut self, files: &[(&dyn Source, &Split)]) -> io::Result<Layout> {
        let mut inline = Vec::new();
        if self.literal_bytes <= INLINE_BYTES_MAX as u64 {
            let mut at = 0;
            for literal in &self.literals {
                self.placements[literal.range.file as usize][literal.segment as usize] = Placement::Inline { at };
                at += literal.range.len;
                push_range(&mut inline, 0, literal.range);
            }
        } else {
            let lens = cut_literals(files, &self.literals, self.literal_bytes)?;
            self.add_literal_chunks(&lens)?;
        }
        Ok(Layout { chunks: self.chunks, placements: self.placements, inline, ranges: self.ranges })
    }

    fn add_literal_chunks(&mut self, lens: &[u32]) -> io::Result<()> {
        let literals = std::mem::take(&mut self.literals);
        let mut literals = literals.into_iter();
        let mut rest: Option<Range> = None;
        for &len in lens {
            let chunk = count(self.chunks.len())?;
            self.add_chunk(ElementHint::Bytes, len, &[])?;
            let first = self.ranges.len();
            let mut at = 0;
            while at < len {
                let mut range = match rest.take() {
                    Some(range) => range,
                    None => {
                        let literal = literals.next().ok_or_else(too_much)?;
                        let place = &mut self.placements[literal.range.file as usize][literal.segment as usize];
                        *place = Placement::Chunks { chunk, at };
                        literal.range
                    }
                };
                let take = range.len.min(len - at);
                if take < range.len {
                    rest = Some(Range { offset: range.offset + u64::from(take), len: range.len - take, ..range });
                    range.len = take;
                }
                at += take;
                push_range(&mut self.ranges, first, range);
            }
        }
        Ok(())
    }
}

/// The name of a tensor; those without one sort behind all that have one.
fn name_of(segment: &Segment) -> (bool, &str) {
    if let Kind::Tensor { name, .. } = &segment.kind { (false, name) } else { (true, "") }
}

/// Cuts the literal stream as it is gathered from the files.
fn cut_literals(files: &[(&dyn Source, &Split)], literals: &[Literal], total: u64) -> io::Result<Vec<u32>> {
    let mut literals = literals.iter();
    let mut rest: Option<Range> = None;
    cdc::cut(total, LITERAL_CDC_BYTES, |mut buf| {
        while !buf.is_empty() {
            let range = match rest.take() {
                Some(range) => range,
                None => literals.next().ok_or_else(too_much)?.range,
            };
            let take = buf.len().min(range.len as usize);
            let (now, later) = buf.split_at_mut(take);
            files[range.file as usize].0.read_exact_at(now, range.offset)?;
            buf = later;
            let take = take as u32;
            if take < range.len {
                rest = Some(Range { offset: range.offset + u64::from(take), len: range.len - take, ..range });
            }
        }
        Ok(())
    })
}

/// Appends a range, joined to the one before if it continues that and both stand at `first` or behind.
fn push_range(ranges: &mut Vec<Range>, first: usize, range: Range) {
    if let Some(last) = ranges[first..].last_mut() {
        let continues = last.file == range.file && last.offset + u64::from(last.len) == range.offset;
        if let Some(len) = last.len.checked_add(range.len).filter(|_| continues) {
            last.len = len;
            return;
        }
    }
    ranges.push(range);
}
