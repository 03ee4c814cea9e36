//! What `torch.save` wrote before version 1.6: five pickles on end (a magic number, the version, the machine, the object, the
//! keys of the storages), then each storage with its number of elements before it. Never executes anything of a pickle, and
//! believes no number that doesn't fit the file and the others.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use super::arrange::{Storage, arrange};
use super::torch::{self, Places, Told};
use super::{Format, Parts, Source};
use crate::limits::{PICKLE_BYTES_MAX, PICKLE_WINDOW_BYTES};
use crate::pickle::{self, Node, Pickle, Problem};

/// The integer that the first pickle is, little-endian.
const MAGIC: &[u8] = &[0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];

/// What the second pickle is.
const VERSION: i64 = 1001;

/// Says whether a file that begins with `head` begins with a pickle, of protocols 2 to 5, of that magic number.
pub(super) fn looks_like(head: &[u8]) -> bool {
    let rest = match head {
        [0x80, 2..=5, 0x8a, 10, rest @ ..] => rest,
        [0x80, 4 | 5, 0x95, _, _, _, _, _, _, _, _, 0x8a, 10, rest @ ..] => rest,
        _ => return false,
    };
    !rest.is_empty() && rest.iter().zip(MAGIC).all(|(a, b)| a == b)
}

/// Finds the parts, or nothing if there is any doubt.
pub(super) fn split(source: &Arc<dyn Source>) -> io::Result<Option<Parts>> {
    let found = with_front(&**source, |front| {
        let storages = match storages(&**source, front)? {
            Ok(storages) => storages,
            Err(_) => return Ok(None),
        };
        let places: Places = storages.iter().map(|(told, start, end)| (told.key.clone(), (*start, *end))).collect();
        let tensors = torch::tensors(&front.object, &places, front.is_big_endian);
        let named = storages.into_iter().zip(0..).map(|((told, start, end), number)| Storage {
            start,
            end,
            elements: told.elements,
            name: format!("data/{number}"),
        });
        Ok(arrange(named.collect(), tensors))
    })?;
    Ok(found.ok().flatten().map(|(found, views)| Parts { format: Format::TorchLegacy, found, views }))
}

/// Whether the file ends before its last storage does.
pub(super) fn is_cut_short(source: &dyn Source) -> io::Result<bool> {
    let fits = with_front(source, |front| storages(source, front))?;
    Ok(matches!(fits, Err(Problem::Ended) | Ok(Err(Problem::Ended))))
}

/// The pickles before the storages.
struct Front<'a> {
    object: Pickle<'a>,
    keys: Pickle<'a>,
    is_big_endian: bool,
    /// Bytes of the pickles.
    len: usize,
}

/// Reads the pickles, of which nobody says how long they are, and does something with them.
fn with_front<T>(
    source: &dyn Source,
    then: impl FnOnce(&Front<'_>) -> io::Result<T>,
) -> io::Result<Result<T, Problem>> {
    let mut window = PICKLE_WINDOW_BYTES;
    loop {
        let len = source.size().min(window as u64) as usize;
        let mut bytes = vec![0; len];
        source.read_exact_at(&mut bytes, 0)?;
        match front(&bytes) {
            Ok(front) => return then(&front).map(Ok),
            Err(Problem::Ended) if (len as u64) < source.size() => {
                if window >= PICKLE_BYTES_MAX {
                    return Ok(Err(Problem::TooLarge));
                }
                window = (window * 8).min(PICKLE_BYTES_MAX);
            }
            Err(problem) => return Ok(Err(problem)),
        }
    }
}

fn front(bytes: &[u8]) -> Result<Front<'_>, Problem> {
    let mut len = 0;
    let mut next = || {
        let pickle = pickle::read(&bytes[len..])?;
        len += pickle.consumed();
        Ok(pickle)
    };
    let (magic, version) = (next()?, next()?);
    if magic.long(magic.root()) != Some(MAGIC) || version.int(version.root()) != Some(VERSION) {
        return Err(Problem::Malformed);
    }
    let (machine, object, keys) = (next()?, next()?, next()?);
    if !matches!(keys.node(keys.root()), Node::List(_)) {
        return Err(Problem::Malformed);
    }
    let little_endian = machine.get(machine.root(), "little_endian").map(|value| machine.node(value));
    Ok(Front { object, keys, is_big_endian: little_endian == Some(Node::Bool(false)), len })
}

/// A storage with its first byte and the one behind it.
type Placed = (Told, u64, u64);

/// Every storage.
fn storages(source: &dyn Source, front: &Front<'_>) -> io::Result<Result<Vec<Placed>, Problem>> {
    let mut told: HashMap<String, Told> =
        torch::storages(&front.object, front.is_big_endian).into_iter().map(|told| (told.key.clone(), told)).collect();
    let mut storages = Vec::with_capacity(told.len());
    let mut at = front.len as u64;
    for key in front.keys.items(front.keys.root()) {
        // Each once, and none that no tensor has: torch would refuse it.
        let Some(told) = front.keys.text(key).and_then(|key| told.remove(key)) else {
            return Ok(Err(Problem::Malformed));
        };
        if source.size() - at < 8 {
            return Ok(Err(Problem::Ended));
        }
        let mut count = [0; 8];
        source.read_exact_at(&mut count, at)?;
        if u64::from_le_bytes(count) != told.count {
            return Ok(Err(Problem::Malformed));
        }
        let start = at + 8;
        let end = told.count.checked_mul(told.element_bytes).and_then(|len| start.checked_add(len));
        match end {
            Some(end) if end <= source.size() => at = end,
            Some(_) => return Ok(Err(Problem::Ended)),
            None => return Ok(Err(Problem::Malformed)),
        }
        storages.push((told, start, at));
    }
    Ok(Ok(storages))
}
