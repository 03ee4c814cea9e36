//! FORMAT and HEAD: the two small JSON objects. Each is `{"blake3":"<hex>","<name>":{…}}` with the hash of the inner
//! object's bytes as written, so that a flipped digit is seen. Never decides what HEAD should say.

use std::collections::{BTreeMap, BTreeSet};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::catalog::Change;
use super::{FormatError, VERSION};
use crate::id::{CatalogId, PackId, StoreId};
use crate::limits::HEAD_ENTRIES_MAX;

/// The largest `seq`, `epoch` or `packs_seq` that a reader believes.
const COUNT_MAX: u64 = u64::MAX >> 1;

/// What FORMAT says of a store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Format {
    /// The version of everything in the store.
    pub version: u32,
    /// The store's own name.
    pub store: StoreId,
    /// Features that a reader must know.
    pub features: Vec<String>,
}

/// The one object that is ever replaced.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    /// The store it belongs to.
    pub store: StoreId,
    /// Grows by one with every swap.
    pub seq: u64,
    /// Grows by one whenever packs become condemned or deleting.
    pub epoch: u64,
    /// The seq of the last swap that made new packs part of the store.
    pub packs_seq: u64,
    /// The catalog that `changes` apply to; none is an empty one.
    pub catalog: Option<CatalogId>,
    /// What changed since that catalog, oldest first.
    pub changes: Vec<Change>,
    /// Packs that nothing used when gc looked, and the epoch of that.
    pub condemned: BTreeMap<PackId, u64>,
    /// Packs that may be unlinked at any moment.
    pub deleting: BTreeSet<PackId>,
    /// A random text, to recognize one's own swap after a lost answer.
    pub nonce: String,
}

impl Format {
    /// FORMAT of a new store.
    pub fn new(store: StoreId) -> Self {
        Self { version: VERSION, store, features: Vec::new() }
    }

    /// The stored bytes.
    pub fn to_bytes(&self) -> Result<Vec<u8>, FormatError> {
        write("format", self)
    }

    /// Reads FORMAT; refuses a version or feature that this program does not know.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, FormatError> {
        let format: Self = read("format", bytes)?;
        if format.version != VERSION {
            return Err(FormatError::Unsupported(format!(
                "it is a store of format version {}, this program reads version {VERSION}",
                format.version
            )));
        }
        match format.features.first() {
            Some(feature) => {
                Err(FormatError::Unsupported(format!("the store uses {feature:?}, which this program does not know")))
            }
            None => Ok(format),
        }
    }
}

impl Head {
    /// HEAD of a new store.
    pub fn new(store: StoreId) -> Self {
        Self {
            store,
            seq: 0,
            epoch: 0,
            packs_seq: 0,
            catalog: None,
            changes: Vec::new(),
            condemned: BTreeMap::new(),
            deleting: BTreeSet::new(),
            nonce: String::new(),
        }
    }

    /// The stored bytes.
    pub fn to_bytes(&self) -> Result<Vec<u8>, FormatError> {
        write("head", self)
    }

    /// Whether so many changes more have to be folded into a new catalog.
    pub fn folds(&self, changes: usize) -> bool {
        self.changes.len() + changes > HEAD_ENTRIES_MAX
    }

    /// Reads HEAD.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, FormatError> {
        let head: Self = read("head", bytes)?;
        // Whoever counts on from here must not overflow.
        match [head.seq, head.epoch, head.packs_seq].iter().find(|number| **number > COUNT_MAX) {
            Some(number) => Err(FormatError::damaged(format!("it counts to {number}, which no store does"))),
            None => Ok(head),
        }
    }
}

#[derive(Deserialize)]
struct Outer<'a> {
    blake3: String,
    #[serde(borrow, alias = "format", alias = "head")]
    body: &'a RawValue,
}

fn write<T: Serialize>(name: &str, value: &T) -> Result<Vec<u8>, FormatError> {
    let body = serde_json::to_string(value).map_err(FormatError::damaged)?;
    let check = blake3::hash(body.as_bytes()).to_hex();
    Ok(format!("{{\"blake3\":\"{check}\",\"{name}\":{body}}}\n").into_bytes())
}

fn read<T: DeserializeOwned>(name: &str, bytes: &[u8]) -> Result<T, FormatError> {
    let outer: Outer<'_> = serde_json::from_slice(bytes).map_err(FormatError::damaged)?;
    if blake3::hash(outer.body.get().as_bytes()).to_hex().as_str() != outer.blake3 {
        return Err(FormatError::damaged("its BLAKE3 does not match its bytes"));
    }
    serde_json::from_str(outer.body.get()).map_err(|error| FormatError::damaged(format!("no {name}: {error}")))
}
