//! What a file of a mounted checkpoint must hold, worked out from the content that its first bytes say it has. Never
//! asks the store, and takes nothing from the file but its header, of which every field is checked.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::runs::{CONTENTS, HEAD, Size, head_seed, model, parts};
use crate::lab::noise;

/// How a checkpoint is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The file that was stored.
    Original,
    /// All of its tensors as one file.
    Safetensors,
    /// A tensor as a file of NumPy.
    Npy(&'static str),
}

/// Every way to look at one.
pub const KINDS: [Kind; 4] = [Kind::Original, Kind::Safetensors, Kind::Npy(HEAD), Kind::Npy("frozen")];

/// Why a look at a mount is not as it must be.
pub enum Bad {
    /// A call failed.
    Failed(String, io::Error),
    /// Something that must be there is not, or is there and must not be.
    Other(String),
    /// Bytes are others than were stored: nothing excuses that.
    Bytes(String),
}

impl fmt::Display for Bad {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(what, error) => write!(f, "{what}: {error}"),
            Self::Other(what) => write!(f, "{what}"),
            Self::Bytes(what) => write!(f, "wrong bytes: {what}"),
        }
    }
}

/// What came of a look.
pub type Looked<T = ()> = Result<T, Bad>;

/// Says at what a call failed.
pub fn at<T>(what: impl FnOnce() -> String, done: io::Result<T>) -> Looked<T> {
    done.map_err(|error| Bad::Failed(what(), error))
}

impl Kind {
    /// The path of it below the run's directory.
    pub fn path(self, run: usize, step: u64) -> String {
        match self {
            Self::Original => format!("step-{step}/w{run}.safetensors"),
            Self::Safetensors => format!("step-{step}/.safetensors"),
            Self::Npy(name) => format!("step-{step}/.tensors/{name}.npy"),
        }
    }

    /// All bytes that an open one must have, and which content that is, as far as it can be told.
    pub fn expected(self, run: usize, size: Size, file: &File, what: &str) -> Looked<(Vec<u8>, Option<u64>)> {
        let read = |from: u64, len: usize| {
            let mut bytes = vec![0; len];
            at(|| format!("{what}: {len} bytes from {from}"), file.read_exact_at(&mut bytes, from)).map(|()| bytes)
        };
        let run = run as u64;
        let (expected, content) = if let Self::Npy(name) = self {
            let prefix = read(0, 10)?;
            let is_magic = prefix.starts_with(b"\x93NUMPY\x01\0");
            let begin = 10 + usize::from(u16::from_le_bytes([prefix[8], prefix[9]]));
            let mut expected = read(0, begin)?;
            let content = if name == HEAD { Some(content(run, &read(begin as u64, PROBE)?, what)?) } else { None };
            let part = part(run, content.unwrap_or(0), size, name);
            let text = String::from_utf8_lossy(&expected[10..]).into_owned();
            let shape = format!("({},)", part.len() / 4);
            if !is_magic || !text.contains(&shape) || !text.contains("'<f4'") || !text.contains("False") {
                return Err(Bad::Bytes(format!("{what}: no header of {shape} floats: {text}")));
            }
            expected.extend(part);
            (expected, content)
        } else {
            let prefix = read(0, 8)?;
            let len = u64::from_le_bytes(prefix.clone().try_into().expect("eight bytes"));
            let len = usize::try_from(len).ok().filter(|len| *len < 10_000);
            let len = len.ok_or_else(|| Bad::Bytes(format!("{what}: a header of {prefix:?} bytes")))?;
            let header = read(8, len)?;
            let json: serde_json::Value = serde_json::from_slice(&header)
                .map_err(|error| Bad::Bytes(format!("{what}: {error} in {:?}", String::from_utf8_lossy(&header))))?;
            let base = 8 + len;
            let range = |name: &str| {
                let ends = &json[name]["data_offsets"];
                let end = |nr: usize| ends[nr].as_u64().and_then(|end| usize::try_from(end).ok());
                end(0).zip(end(1)).ok_or_else(|| Bad::Bytes(format!("{what}: no {name} in {json}")))
            };
            let content = content(run, &read((base + range(HEAD)?.0) as u64, PROBE)?, what)?;
            let expected = if self == Self::Original {
                model(run, content, size)
            } else {
                let parts = parts(run, content, size);
                let all: usize = parts.iter().map(|(_, bytes)| bytes.len()).sum();
                let mut expected = [prefix, header].concat();
                expected.resize(base + all, 0);
                for (name, bytes) in &parts {
                    let (start, end) = range(name)?;
                    let is_so = end <= all && start + bytes.len() == end;
                    let about = &json[*name];
                    if !is_so || about["dtype"] != "F32" || about["shape"] != serde_json::json!([bytes.len() / 4]) {
                        return Err(Bad::Bytes(format!("{what}: {name} is {about}")));
                    }
                    expected[base + start..base + end].copy_from_slice(bytes);
                }
                let others = json.as_object().is_none_or(|names| {
                    names.keys().any(|name| name != "__metadata__" && parts.iter().all(|(part, _)| part != name))
                });
                if others {
                    return Err(Bad::Bytes(format!("{what}: other tensors in {json}")));
                }
                expected
            };
            (expected, Some(content))
        };
        let size = at(|| format!("{what}: stat"), file.metadata())?.len();
        if size != expected.len() as u64 {
            return Err(Bad::Bytes(format!("{what}: {size} bytes and not {}", expected.len())));
        }
        Ok((expected, content))
    }
}

/// Bytes by which contents are told apart.
const PROBE: usize = 64;

/// Which of its writer's contents has a head that begins so.
fn content(run: u64, head: &[u8], what: &str) -> Looked<u64> {
    let found = (0..CONTENTS).find(|content| noise(head_seed(run, *content), PROBE) == head);
    found.ok_or_else(|| Bad::Bytes(format!("{what}: its head is that of nothing that was ever put")))
}

fn part(run: u64, content: u64, size: Size, name: &str) -> Vec<u8> {
    let all = parts(run, content, size);
    all.into_iter().find(|(part, _)| *part == name).expect("it is one of them").1
}

/// Insists that these are the bytes from an offset on.
pub fn same(got: &[u8], expected: &[u8], offset: u64, len: usize, what: impl FnOnce() -> String) -> Looked {
    let from = usize::try_from(offset).unwrap_or(usize::MAX).min(expected.len());
    let there = &expected[from..from.saturating_add(len).min(expected.len())];
    if got == there {
        return Ok(());
    }
    let differs = got.iter().zip(there).position(|(a, b)| a != b);
    let (what, got, there) = (what(), got.len(), there.len());
    Err(Bad::Bytes(match differs {
        Some(at) => format!("{what}: another byte at {}", offset + at as u64),
        None => format!("{what}: {got} bytes and not {there}"),
    }))
}
