//! What one process prepared of a checkpoint that several make: bytes that it sends to the one that commits. Never an object of
//! the store: nothing keeps them.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::FormatError;
use super::envelope::{self, Kind};
use super::manifest::Manifest;
use crate::id::{CheckpointId, PackId, SessionId};

/// A part of a checkpoint, and what its chunks rely on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Part {
    /// The session that keeps its packs while it lives.
    pub session: SessionId,
    /// The epoch of HEAD at which all of `packs` were there and on no list of gc's.
    pub epoch: u64,
    /// The packs that its chunks lie in.
    pub packs: BTreeSet<PackId>,
    /// Those of them that were written for it.
    pub written: BTreeSet<PackId>,
    /// Chunks that the store did not have.
    pub new_chunks: u64,
    /// Their raw bytes.
    pub added_bytes: u64,
    /// Bytes written to packs.
    pub written_bytes: u64,
    /// Its members, described as a checkpoint of their own that has no run.
    pub manifest: Manifest,
}

impl Part {
    /// The bytes to be sent.
    pub fn to_bytes(&self) -> Result<Vec<u8>, FormatError> {
        envelope::seal(Kind::Part, self.manifest.id.to_bytes(), self.session, self)
    }

    /// Reads and checks a part; what this returns can be followed as a manifest can.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, FormatError> {
        let part: Self = envelope::open(Kind::Part, envelope::id_of(bytes)?, bytes)?;
        if part.manifest.id != CheckpointId::from_bytes(envelope::id_of(bytes)?)
            || part.session != envelope::session_of(bytes)?
        {
            return Err(FormatError::damaged("it is another part than its header says"));
        }
        if !part.packs.is_superset(&part.written) {
            return Err(FormatError::damaged("it relies on other packs than were written for it"));
        }
        part.manifest.check()?;
        Ok(part)
    }
}
