//! The hard links of a group: those of old groups (a B-tree of symbol tables, names in a local heap), those that stand in the
//! header of a new one, and those that are too many for it. Never follows a soft or external link.

use super::super::window::{OrDoubt, Parsed, Stop, Window};
use super::header::{LINK, LINK_INFO, Message, SYMBOL_TABLE, find};
use super::{NOWHERE, dense, expect, number};
use crate::limits::{NAME_BYTES_MAX, PATH_BYTES_MAX, TENSORS_MAX};

/// A name in a group and the address of the header of what it names.
pub(super) struct Link {
    pub(super) name: String,
    pub(super) address: u64,
}

/// The most links of one group.
const LINKS_MAX: usize = 2 * TENSORS_MAX;

/// Lists the hard links of an object; none if it is no group.
pub(super) fn links(window: &mut Window<'_>, messages: &[Message]) -> Parsed<Vec<Link>> {
    let mut links = Vec::new();
    if let Some(table) = find(messages, SYMBOL_TABLE) {
        if table.len < 16 {
            return Err(Stop::Doubt);
        }
        let (tree, heap) = (number(window, table.at, 8)?, number(window, table.at + 8, 8)?);
        for node in symbol_nodes(window, tree)? {
            read_symbols(window, node, heap, &mut links)?;
        }
    }
    for message in messages.iter().filter(|message| message.kind == LINK && !message.is_shared) {
        links.extend(parse(message.body(window)?)?);
    }
    if let Some(info) = find(messages, LINK_INFO) {
        let [version, flags]: [u8; 2] = window.array(info.at)?;
        let at = info.at + 2 + if flags & 1 != 0 { 8 } else { 0 };
        if version != 0 || at + 16 > info.at + info.len {
            return Err(Stop::Doubt);
        }
        let (heap, tree) = (number(window, at, 8)?, number(window, at + 8, 8)?);
        if heap != NOWHERE {
            for object in dense::objects(window, heap, tree)? {
                links.extend(parse(window.get(object.at, object.len)?)?);
            }
        }
    }
    Ok(links)
}

/// Lists the symbol table nodes below the root of a B-tree, in order.
fn symbol_nodes(window: &mut Window<'_>, root: u64) -> Parsed<Vec<u64>> {
    let mut ahead = vec![(root, None)];
    let mut nodes = Vec::new();
    while let Some((address, level)) = ahead.pop() {
        expect(window, address, b"TREE")?;
        let [kind, own]: [u8; 2] = window.array(address + 4)?;
        // Levels that go down end, whatever the addresses say.
        if kind != 0 || level.is_some_and(|level| level != own) {
            return Err(Stop::Doubt);
        }
        let used = number(window, address + 6, 2)?;
        // Signature and counts, two siblings, then keys and children in turn.
        let pairs = window.get(address + 24, used * 16)?;
        let child = |pair: &[u8]| pair.last_chunk().map_or(NOWHERE, |child| u64::from_le_bytes(*child));
        let children = pairs.chunks_exact(16).map(child);
        match own.checked_sub(1) {
            None => nodes.extend(children),
            below => ahead.extend(children.rev().map(|child| (child, below))),
        }
        if nodes.len() + ahead.len() > LINKS_MAX {
            return Err(Stop::Doubt);
        }
    }
    Ok(nodes)
}

/// Reads a symbol table node.
fn read_symbols(window: &mut Window<'_>, node: u64, heap: u64, links: &mut Vec<Link>) -> Parsed<()> {
    expect(window, node, b"SNOD")?;
    let count = number(window, node + 6, 2)?;
    // Names are elsewhere: all of the node first, then all of the names.
    let symbols = window.get(node + 8, count * 40)?.to_vec();
    expect(window, heap, b"HEAP")?;
    let (heap_len, names) = (number(window, heap + 8, 8)?, number(window, heap + 24, 8)?);
    for symbol in symbols.chunks_exact(40) {
        let field = |at: usize| symbol[at..].first_chunk().map_or(NOWHERE, |bytes| u64::from_le_bytes(*bytes));
        let (name, address, is_soft) = (field(0), field(8), symbol[16..20] == [2, 0, 0, 0]);
        if is_soft || address == NOWHERE {
            continue;
        }
        let room = heap_len.checked_sub(name).or_doubt()?;
        let name = name_at(window, names.checked_add(name).or_doubt()?, room)?;
        links.push(Link { name, address });
        if links.len() > LINKS_MAX {
            return Err(Stop::Doubt);
        }
    }
    Ok(())
}

/// Reads a name that ends with a zero within so many bytes.
fn name_at(window: &mut Window<'_>, at: u64, room: u64) -> Parsed<String> {
    let room = room.min(window.size().saturating_sub(at));
    for most in [NAME_BYTES_MAX as u64 + 1, PATH_BYTES_MAX as u64 + 1] {
        let bytes = window.get(at, room.min(most))?;
        if let Some(end) = bytes.iter().position(|byte| *byte == 0) {
            return name_of(&bytes[..end]);
        }
    }
    Err(Stop::Doubt)
}

fn name_of(bytes: &[u8]) -> Parsed<String> {
    if bytes.is_empty() || bytes.len() > PATH_BYTES_MAX {
        return Err(Stop::Doubt);
    }
    Ok(String::from_utf8_lossy(bytes).into_owned())
}

/// Reads a link message; nothing if it is no hard link.
fn parse(body: &[u8]) -> Parsed<Option<Link>> {
    let mut rest = body;
    let mut take = |len: usize| {
        let (taken, behind) = rest.split_at_checked(len).or_doubt()?;
        rest = behind;
        Parsed::Ok(taken)
    };
    let &[version, flags] = take(2)? else { return Err(Stop::Doubt) };
    if version != 1 {
        return Err(Stop::Doubt);
    }
    let is_hard = if flags & 0x08 != 0 { take(1)? == [0] } else { true };
    // The order of creation and the name's character set.
    take(if flags & 0x04 != 0 { 8 } else { 0 } + if flags & 0x10 != 0 { 1 } else { 0 })?;
    let len = take(1 << (flags & 3))?.iter().rev().fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
    let name = name_of(take(usize::try_from(len).map_err(|_| Stop::Doubt)?)?)?;
    if !is_hard {
        return Ok(None);
    }
    let address = take(8)?.first_chunk().map_or(NOWHERE, |bytes| u64::from_le_bytes(*bytes));
    Ok((address != NOWHERE).then_some(Link { name, address }))
}
