//! The datasets of an HDF5 file that are stored as one range, as Keras and h5py write them. Never reads a dataset's bytes,
//! decodes a filter or follows a link out of the file.
//!
//! This is a reader of our own for the part of the format that says where datasets are; `docs/decisions/0018-hdf5.md` says
//! why, and which parts it knows.

mod dense;
mod groups;
mod header;
mod types;

use std::collections::HashMap;
use std::io;

use self::header::{Message, find};
use self::types::{Element, Place};
use super::arrange::{Described, Storage, arrange, row_major};
use super::window::{OrDoubt, Parsed, Stop, Window};
use super::{Format, Found, Kind, Parts, Source};
use crate::limits::{
    HDF5_DEPTH_MAX, HDF5_NAMES_BYTES_MAX, HDF5_READ_BYTES_MAX, PATH_BYTES_MAX, SMALL_FILE_BYTES, TENSORS_MAX,
};

const MAGIC: &[u8] = b"\x89HDF\r\n\x1a\n";

/// Bytes that are read at once: some headers of datasets, which often stand side by side.
const READ_AHEAD_BYTES: u64 = 4 << 10;

/// What a file may cost, as a multiple of its size: everything is read once, but with what stands around it.
const BUDGET_FACTOR: u64 = 64;
const BUDGET_MIN: u64 = 64 << 10;

/// The address of what is not there.
const NOWHERE: u64 = u64::MAX;

/// Says whether a file that begins with `head` is one.
pub(super) fn looks_like(head: &[u8]) -> bool {
    head.starts_with(MAGIC)
}

/// Finds the datasets, or nothing if there is any doubt.
pub(super) fn split(source: &dyn Source) -> io::Result<Option<Parts>> {
    // No file is larger, and addresses in it can be added to without thought.
    if source.size() > 1 << 62 {
        return Ok(None);
    }
    match Walk::through(source) {
        Ok(walk) => Ok(walk.parts(source.size())),
        Err(Stop::Io(failure)) => Err(failure),
        Err(Stop::Doubt | Stop::End) => Ok(None),
    }
}

/// The way through all groups of a file, and what was met on it.
struct Walk<'a> {
    window: Window<'a>,
    /// Objects by the addresses of their headers; a dataset that is a tensor has a place in `tensors`.
    seen: HashMap<u64, Option<usize>>,
    storages: Vec<Storage>,
    tensors: Vec<Described>,
    /// How many bytes of names have been kept.
    names_bytes: u64,
    /// A dataset lies in pieces of which we know nothing.
    has_pieces: bool,
}

/// An object that is to be looked at.
struct Ahead {
    path: String,
    depth: usize,
    address: u64,
}

impl<'a> Walk<'a> {
    fn through(source: &'a dyn Source) -> Parsed<Self> {
        let budget = source.size().saturating_mul(BUDGET_FACTOR).saturating_add(BUDGET_MIN).min(HDF5_READ_BYTES_MAX);
        let mut walk = Self {
            window: Window::new(source, budget, READ_AHEAD_BYTES),
            seen: HashMap::new(),
            storages: Vec::new(),
            tensors: Vec::new(),
            names_bytes: 0,
            has_pieces: false,
        };
        let root = root_of(&mut walk.window)?;
        let mut ahead = vec![Ahead { path: String::new(), depth: 0, address: root }];
        while let Some(object) = ahead.pop() {
            walk.visit(object, &mut ahead)?;
        }
        Ok(walk)
    }

    fn visit(&mut self, object: Ahead, ahead: &mut Vec<Ahead>) -> Parsed<()> {
        let Ahead { path, depth, address } = object;
        if let Some(seen) = self.seen.get(&address) {
            // A further link to a dataset is a further name of it; one to a group is a circle, or a second way to the same.
            if let Some(first) = seen {
                let further = Described { name: path, ..self.tensors[*first].clone() };
                self.tensors.push(further);
            }
            return self.check_counts(ahead);
        }
        let messages = header::messages(&mut self.window, address)?;
        let tensor = if find(&messages, header::LAYOUT).is_some() { self.dataset(&path, &messages)? } else { None };
        self.seen.insert(address, tensor.is_some().then_some(self.tensors.len()));
        self.tensors.extend(tensor);
        let children = groups::links(&mut self.window, &messages)?;
        if !children.is_empty() && depth == HDF5_DEPTH_MAX {
            return Err(Stop::Doubt);
        }
        // The last on the stack is the next.
        for link in children.into_iter().rev() {
            let path = if path.is_empty() { link.name } else { format!("{path}/{}", link.name) };
            self.names_bytes += path.len() as u64;
            if path.len() > PATH_BYTES_MAX || self.names_bytes > HDF5_NAMES_BYTES_MAX {
                return Err(Stop::Doubt);
            }
            ahead.push(Ahead { path, depth: depth + 1, address: link.address });
        }
        self.check_counts(ahead)
    }

    fn check_counts(&self, ahead: &[Ahead]) -> Parsed<()> {
        let count = self.seen.len() + self.tensors.len() + ahead.len();
        if count > 4 * TENSORS_MAX || self.tensors.len() > TENSORS_MAX { Err(Stop::Doubt) } else { Ok(()) }
    }

    /// Describes a dataset, if its elements are one range of the file.
    fn dataset(&mut self, path: &str, messages: &[Message]) -> Parsed<Option<Described>> {
        let (start, told) = match types::place(&mut self.window, messages)? {
            Place::Range { start, len } => (start, len),
            Place::Pieces => {
                self.has_pieces = true;
                return Ok(None);
            }
            Place::Elsewhere => return Ok(None),
        };
        let Some(shape) = types::shape(&mut self.window, messages)? else { return Ok(None) };
        let Some(Element { elements, bytes }) = types::element(&mut self.window, messages)? else { return Ok(None) };
        let count = shape.iter().try_fold(1_u64, |product, dim| product.checked_mul(*dim)).or_doubt()?;
        let len = count.checked_mul(bytes).or_doubt()?;
        let strides = row_major(&shape).or_doubt()?;
        let described = |start| Described {
            name: path.to_owned(),
            elements: elements.clone(),
            element_bytes: bytes,
            shape,
            strides,
            start,
        };
        if len == 0 {
            return Ok(Some(described(0)));
        }
        // Nothing was ever written to it.
        if start == NOWHERE {
            return Ok(None);
        }
        if told.is_some_and(|told| told < len) {
            return Err(Stop::Doubt);
        }
        let end = start.checked_add(len).or_doubt()?;
        self.storages.push(Storage { start, end, elements: Some(elements.clone()), name: path.to_owned() });
        Ok(Some(described(start)))
    }

    fn parts(self, size: u64) -> Option<Parts> {
        let (mut found, views) = arrange(self.storages, self.tensors)?;
        if self.has_pieces {
            // Large gaps are those pieces, perhaps with metadata among them.
            let mut at = 0;
            let mut gaps = Vec::new();
            found.sort_by_key(|found| found.start);
            let ranges = found.iter().map(|found| (found.start, found.end)).chain([(size, size)]);
            for (start, end) in ranges {
                if start.saturating_sub(at) > SMALL_FILE_BYTES {
                    gaps.push(Found { start: at, end: start, kind: Kind::Opaque });
                }
                at = end;
            }
            found.extend(gaps);
        }
        Some(Parts { format: Format::Hdf5, found, views })
    }
}

/// Reads the superblock and gives the address of the root group's header.
fn root_of(window: &mut Window<'_>) -> Parsed<u64> {
    let [version, ..]: [u8; 6] = window.array(MAGIC.len() as u64)?;
    let (widths, base, root) = match version {
        0 => (13, 24, 64),
        1 => (13, 28, 68),
        2 | 3 => (9, 12, 36),
        _ => return Err(Stop::Doubt),
    };
    // Everybody writes addresses and lengths of 8 bytes, counted from the beginning of the file.
    let widths: [u8; 2] = window.array(widths)?;
    let base = u64::from_le_bytes(window.array(base)?);
    if widths != [8, 8] || base != 0 {
        return Err(Stop::Doubt);
    }
    Ok(u64::from_le_bytes(window.array(root)?))
}

/// Checks that a structure begins with its signature.
fn expect(window: &mut Window<'_>, at: u64, signature: &[u8]) -> Parsed<()> {
    if window.get(at, signature.len() as u64)? == signature { Ok(()) } else { Err(Stop::Doubt) }
}

/// Reads a little-endian number of so many bytes, at most 8.
fn number(window: &mut Window<'_>, at: u64, width: u64) -> Parsed<u64> {
    Ok(window.get(at, width)?.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}
