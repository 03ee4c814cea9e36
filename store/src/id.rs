//! Names of things in a store: chunks by their content, everything else by ULID. Never reads a clock other than to make a
//! new ULID, whose time part is for people and never for safety.

use std::fmt;
use std::str::FromStr;

/// The BLAKE3 hash of a chunk's raw bytes: its name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChunkId(pub [u8; 32]);

impl ChunkId {
    /// Names `raw` by its BLAKE3 hash.
    pub fn of(raw: &[u8]) -> Self {
        Self(*blake3::hash(raw).as_bytes())
    }
}

impl fmt::Display for ChunkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in self.0 {
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for ChunkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ChunkId({self})")
    }
}

macro_rules! ulid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(ulid::Ulid);

        impl $name {
            /// Makes a new name that was never used before.
            pub fn generate() -> Self {
                Self(ulid::Ulid::generate())
            }

            /// The 16 bytes of the ULID, big-endian as the ULID specification says.
            pub fn to_bytes(self) -> [u8; 16] {
                self.0.to_bytes()
            }

            /// Takes back what [`Self::to_bytes`] gave.
            pub fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(ulid::Ulid::from_bytes(bytes))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                // Lower case, as file names on disk and ids on the command line are written.
                f.write_str(&self.0.to_string().to_lowercase())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                // Only the canonical spelling: one object has one key.
                ulid::Ulid::from_string(text)
                    .ok()
                    .map(Self)
                    .filter(|id| id.to_string().eq_ignore_ascii_case(text))
                    .ok_or_else(|| InvalidId(text.to_owned()))
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(from)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

ulid_id!(
    /// Names one checkpoint, and the manifest that describes it.
    CheckpointId
);
ulid_id!(
    /// Names one pack. Never used twice.
    PackId
);
ulid_id!(
    /// Names one immutable list of checkpoints.
    CatalogId
);
ulid_id!(
    /// Names one live use of the store by a process.
    SessionId
);
ulid_id!(
    /// Names the store itself; every pack carries it.
    StoreId
);

/// A text that is no ULID.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an id (26 characters of 0-9 and a-z)")]
pub struct InvalidId(pub String);
