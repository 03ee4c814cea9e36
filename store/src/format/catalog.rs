//! The list of checkpoints and the policies, as stored. Never decides anything: what a change means is `crate::catalog`'s.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::FormatError;
use super::envelope::{self, Kind};
use crate::id::{CatalogId, CheckpointId, SessionId};

/// What the catalog knows of one checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Its id, which is also its manifest's name.
    pub id: CheckpointId,
    /// The run's name.
    pub run: String,
    /// The training step, when there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<u64>,
    /// When it was stored, milliseconds since 1970.
    pub time_ms: i64,
    /// Numbers such as `val_loss`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", with = "metrics")]
    pub metrics: BTreeMap<String, f64>,
    /// Names given to it.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub tags: BTreeSet<String>,
    /// Kept from every policy.
    #[serde(default, skip_serializing_if = "is_false")]
    pub pinned: bool,
    /// Number of regular files.
    pub files: u64,
    /// Bytes of its files.
    pub logical_bytes: u64,
    /// Raw bytes of chunks that the store did not have before it.
    pub added_bytes: u64,
    /// Bytes that storing it wrote to packs.
    pub written_bytes: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "the form that serde calls")]
fn is_false(value: &bool) -> bool {
    !value
}

/// One change of the catalog.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// A checkpoint was stored.
    Add(Box<Entry>),
    /// A checkpoint was dropped.
    Remove(CheckpointId),
    /// A checkpoint got a name; another one of the same run loses it.
    Tag(CheckpointId, String),
    /// A checkpoint lost a name.
    Untag(CheckpointId, String),
    /// A checkpoint is kept from every policy, or no longer.
    Pin(CheckpointId, bool),
    /// The runs of a glob got a policy, in place of the one that the same glob had.
    SetPolicy(Policy),
    /// A glob lost its policy.
    RemovePolicy(String),
}

/// What is kept of the runs that a glob matches. Each rule keeps checkpoints by itself; none is 0, and there is at least one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// The glob.
    pub runs: String,
    /// How many that were stored last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_last: Option<u64>,
    /// The best by a metric.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_best: Option<KeepBest>,
    /// Those whose step is a multiple of this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_every: Option<u64>,
    /// Those not older than this, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_within_ms: Option<u64>,
}

/// The best `count` by `metric`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeepBest {
    /// How many.
    pub count: u64,
    /// By which metric.
    pub metric: String,
    /// Which end of it is good.
    pub mode: Good,
}

/// Which end of a metric is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Good {
    /// Smaller is better.
    Min,
    /// Larger is better.
    Max,
}

/// The stored lists.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Catalog {
    /// In the order in which they were stored.
    pub entries: Vec<Entry>,
    /// In the order of their globs' bytes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<Policy>,
}

impl Catalog {
    /// The stored bytes.
    pub fn to_bytes(&self, id: CatalogId, session: SessionId) -> Result<Vec<u8>, FormatError> {
        envelope::seal(Kind::Catalog, id.to_bytes(), session, self)
    }

    /// Reads and checks a catalog.
    pub fn from_bytes(id: CatalogId, bytes: &[u8]) -> Result<Self, FormatError> {
        envelope::open(Kind::Catalog, id.to_bytes(), bytes)
    }
}

/// Metrics as stored: a diverged training's NaN and infinities have no number in JSON, they stand as texts.
pub(super) mod metrics {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

    #[derive(Serialize, Deserialize)]
    #[serde(untagged)]
    enum Value {
        Number(f64),
        Text(String),
    }

    pub fn serialize<S: Serializer>(metrics: &BTreeMap<String, f64>, to: S) -> Result<S::Ok, S::Error> {
        to.collect_map(metrics.iter().map(|(name, value)| {
            (name, if value.is_finite() { Value::Number(*value) } else { Value::Text(value.to_string()) })
        }))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<String, f64>, D::Error> {
        BTreeMap::<String, Value>::deserialize(from)?
            .into_iter()
            .map(|(name, value)| match value {
                Value::Number(number) => Ok((name, number)),
                Value::Text(text) => text.parse().map(|number| (name, number)).map_err(D::Error::custom),
            })
            .collect()
    }
}
