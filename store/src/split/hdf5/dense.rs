//! The links of a large group: messages in a fractal heap, found through a B-tree of version 2. Never reads a heap that is
//! filtered, or objects too large for its blocks.

use super::super::window::{OrDoubt, Parsed, Stop, Window};
use super::{NOWHERE, expect, number};
use crate::limits::TENSORS_MAX;

/// Where a message stands in the file.
pub(super) struct Object {
    pub(super) at: u64,
    pub(super) len: u64,
}

/// Records of the tree that names links: a hash of 4 bytes, then the place in the heap.
const LINK_NAMES: u8 = 5;
const HASH_BYTES: u64 = 4;

/// Bytes around the records of a node: signature, version, type, checksum.
const NODE_OVERHEAD_BYTES: u64 = 10;

/// Deeper than any tree of as many links as we take.
const TREE_DEPTH_MAX: u64 = 16;

/// Lists the objects of a heap in the order of the tree.
pub(super) fn objects(window: &mut Window<'_>, heap: u64, tree: u64) -> Parsed<Vec<Object>> {
    let heap = Heap::read(window, heap)?;
    let ids = heap_ids(window, tree, heap.id_bytes)?;
    ids.iter().map(|id| heap.find(window, id)).collect()
}

/// Lists the heap's ids in a tree.
fn heap_ids(window: &mut Window<'_>, tree: u64, id_bytes: u64) -> Parsed<Vec<Vec<u8>>> {
    if tree == NOWHERE {
        return Ok(Vec::new());
    }
    expect(window, tree, b"BTHD")?;
    let [version, kind]: [u8; 2] = window.array(tree + 4)?;
    let node_bytes = number(window, tree + 6, 4)?;
    let record_bytes = number(window, tree + 10, 2)?;
    let depth = number(window, tree + 12, 2)?;
    let (root, root_records) = (number(window, tree + 16, 8)?, number(window, tree + 24, 2)?);
    let is_known = version == 0 && kind == LINK_NAMES && record_bytes == HASH_BYTES + id_bytes;
    if !is_known || depth > TREE_DEPTH_MAX || node_bytes < NODE_OVERHEAD_BYTES + record_bytes {
        return Err(Stop::Doubt);
    }
    let pointers = pointer_widths(node_bytes, record_bytes, depth)?;
    let mut ids = Vec::new();
    let mut ahead = if root == NOWHERE { vec![] } else { vec![(root, root_records, depth)] };
    while let Some((node, records, level)) = ahead.pop() {
        expect(window, node, if level == 0 { b"BTLF" } else { b"BTIN" })?;
        if records > (node_bytes - NODE_OVERHEAD_BYTES) / record_bytes {
            return Err(Stop::Doubt);
        }
        let begins = node + 6;
        let records_bytes = records * record_bytes;
        let held = window.get(begins, records_bytes)?;
        ids.extend(held.chunks_exact(record_bytes as usize).map(|record| record[HASH_BYTES as usize..].to_vec()));
        if level > 0 {
            let (count_width, total_width) = pointers.get(level as usize).copied().or_doubt()?;
            let width = 8 + count_width + total_width;
            for child in (0..=records).rev() {
                let at = begins + records_bytes + child * width;
                ahead.push((number(window, at, 8)?, number(window, at + 8, count_width)?, level - 1));
            }
        }
        if ids.len() + ahead.len() > 2 * TENSORS_MAX {
            return Err(Stop::Doubt);
        }
    }
    Ok(ids)
}

/// For nodes of each level, the bytes of a child's count of records and of those below it, which depend on how many there
/// may be.
fn pointer_widths(node_bytes: u64, record_bytes: u64, depth: u64) -> Parsed<Vec<(u64, u64)>> {
    let room = node_bytes - NODE_OVERHEAD_BYTES;
    let in_leaf = room / record_bytes;
    let count_width = bytes_for(in_leaf);
    let mut below: u64 = in_leaf;
    let mut total_width = 0;
    let mut widths = vec![(0, 0)];
    for _ in 0..depth {
        widths.push((count_width, total_width));
        let pointer = 8 + count_width + total_width;
        let records = room.checked_sub(pointer).or_doubt()? / (record_bytes + pointer);
        below = (records + 1).checked_mul(below).and_then(|below| below.checked_add(records)).or_doubt()?;
        total_width = bytes_for(below);
    }
    Ok(widths)
}

/// Bytes of a number up to this one.
fn bytes_for(most: u64) -> u64 {
    u64::from(most.max(1).ilog2() / 8 + 1)
}

/// A fractal heap: objects in direct blocks, which a tree of indirect ones leads to. Blocks double from row to row.
struct Heap {
    id_bytes: u64,
    offset_bytes: u64,
    len_bytes: u64,
    width: u64,
    first_block_bytes: u64,
    direct_block_bytes_max: u64,
    root: u64,
    /// Rows of the root if it is an indirect block.
    root_rows: u64,
}

impl Heap {
    fn read(window: &mut Window<'_>, at: u64) -> Parsed<Self> {
        expect(window, at, b"FRHP")?;
        let id_bytes = number(window, at + 5, 2)?;
        let filter_bytes = number(window, at + 7, 2)?;
        let object_bytes_max = number(window, at + 10, 4)?;
        let width = number(window, at + 110, 2)?;
        let first_block_bytes = number(window, at + 112, 8)?;
        let direct_block_bytes_max = number(window, at + 120, 8)?;
        let heap_bits = number(window, at + 128, 2)?;
        let (root, root_rows) = (number(window, at + 132, 8)?, number(window, at + 140, 2)?);
        let offset_bytes = heap_bits.div_ceil(8);
        let are_powers = first_block_bytes.is_power_of_two() && direct_block_bytes_max.is_power_of_two();
        let is_known = filter_bytes == 0
            && are_powers
            && width.is_power_of_two()
            && first_block_bytes <= direct_block_bytes_max
            && direct_block_bytes_max <= 1 << 32
            && (1..=8).contains(&offset_bytes)
            && id_bytes <= 64;
        if !is_known {
            return Err(Stop::Doubt);
        }
        let len_bytes = u64::from(direct_block_bytes_max.ilog2()).div_ceil(8).min(bytes_for(object_bytes_max));
        Ok(Self {
            id_bytes,
            offset_bytes,
            len_bytes,
            width,
            first_block_bytes,
            direct_block_bytes_max,
            root,
            root_rows,
        })
    }

    /// Finds the object of an id.
    fn find(&self, window: &mut Window<'_>, id: &[u8]) -> Parsed<Object> {
        let number_in = |from: u64, width: u64| {
            let bytes = id.get(from as usize..(from + width) as usize).or_doubt()?;
            Parsed::Ok(bytes.iter().rev().fold(0_u64, |number, byte| number << 8 | u64::from(*byte)))
        };
        // Of this version, and among the blocks: not one too large for them, nor one that stands in the id.
        if id.first() != Some(&0) {
            return Err(Stop::Doubt);
        }
        let mut offset = number_in(1, self.offset_bytes)?;
        let len = number_in(1 + self.offset_bytes, self.len_bytes)?;
        let (mut block, mut rows, mut block_bytes) = (self.root, self.root_rows, self.first_block_bytes);
        while rows > 0 {
            expect(window, block, b"FHIB")?;
            let row = self.row_of(offset);
            if row >= rows {
                return Err(Stop::Doubt);
            }
            let (begins, bytes) = self.row(row)?;
            let column = (offset - begins) / bytes;
            // Signature, version, heap and the block's own offset stand before the addresses, 8 bytes each.
            let entry = block + 13 + self.offset_bytes + (row * self.width + column) * 8;
            block = number(window, entry, 8)?;
            offset -= begins + column * bytes;
            block_bytes = bytes;
            // A block that is too large to be direct holds as many rows as make up its bytes; fewer at each turn.
            let of_width = (self.first_block_bytes * self.width).max(1);
            rows =
                if bytes <= self.direct_block_bytes_max { 0 } else { u64::from((bytes / of_width).max(1).ilog2()) + 1 };
        }
        expect(window, block, b"FHDB")?;
        if offset.checked_add(len).is_none_or(|end| end > block_bytes) {
            return Err(Stop::Doubt);
        }
        Ok(Object { at: block.checked_add(offset).or_doubt()?, len })
    }

    /// The row in which an offset lies.
    fn row_of(&self, offset: u64) -> u64 {
        match offset / (self.first_block_bytes * self.width) {
            0 => 0,
            times => u64::from(times.ilog2()) + 1,
        }
    }

    /// The offset at which a row begins, and the bytes of each of its blocks.
    fn row(&self, row: u64) -> Parsed<(u64, u64)> {
        let bytes = match row {
            0 => return Ok((0, self.first_block_bytes)),
            row => self.first_block_bytes.checked_mul(1_u64.checked_shl(row as u32 - 1).or_doubt()?).or_doubt()?,
        };
        Ok((bytes.checked_mul(self.width).or_doubt()?, bytes))
    }
}
