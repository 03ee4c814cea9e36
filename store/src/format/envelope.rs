//! The wrapping of manifests, catalogs and parts: a header, one zstd frame of MessagePack, and a BLAKE3 over all before it. Never
//! knows what is inside.
//!
//! ```text
//!  0   8  magic, "CKPTMANI", "CKPTCATA" or "CKPTPART"
//!  8   2  version of the envelope, 1
//! 10   2  flags, 0
//! 12   4  reserved, 0
//! 16  16  id of the object (ULID)
//! 32  16  id of the session that wrote it (ULID)
//! 48   8  bytes of the payload once unpacked
//! 56   n  payload: one zstd frame
//! 56+n 32 BLAKE3 of bytes 0 to 56+n
//! ```

use super::{Fields, FormatError};
use crate::id::SessionId;
use crate::limits::{OBJECT_BYTES_MAX, UNPACK_RATIO_MAX, UNPACKED_BYTES_FREE};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Bytes before the payload.
pub const HEADER_BYTES: usize = 56;
const CHECK_BYTES: usize = 32;
const VERSION: u16 = 1;
/// Names and shapes repeat a lot; ids don't compress at all. Level 3 is within 2 % of level 19 on real manifests.
const ZSTD_LEVEL: i32 = 3;

/// What kind of object an envelope holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The description of one checkpoint.
    Manifest,
    /// A list of checkpoints.
    Catalog,
    /// What one process prepared of a checkpoint.
    Part,
}

impl Kind {
    fn magic(self) -> &'static [u8; 8] {
        match self {
            Self::Manifest => b"CKPTMANI",
            Self::Catalog => b"CKPTCATA",
            Self::Part => b"CKPTPART",
        }
    }
}

/// Packs `value` as an object of `kind`. Fails only when it would be larger than [`OBJECT_BYTES_MAX`].
pub fn seal<T: Serialize>(kind: Kind, id: [u8; 16], session: SessionId, value: &T) -> Result<Vec<u8>, FormatError> {
    let raw = rmp_serde::to_vec_named(value).map_err(FormatError::damaged)?;
    if raw.len() as u64 > OBJECT_BYTES_MAX {
        return Err(FormatError::Unsupported(format!("it would take {} bytes, more than can be read back", raw.len())));
    }
    let payload = zstd::bulk::compress(&raw, ZSTD_LEVEL).map_err(FormatError::damaged)?;
    if raw.len() as u64 > unpacked_max(payload.len()) {
        return Err(FormatError::Unsupported("it repeats itself more than can be read back".into()));
    }
    let mut bytes = Vec::with_capacity(HEADER_BYTES + payload.len() + CHECK_BYTES);
    bytes.extend_from_slice(kind.magic());
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&[0; 6]);
    bytes.extend_from_slice(&id);
    bytes.extend_from_slice(&session.to_bytes());
    bytes.extend_from_slice(&(raw.len() as u64).to_le_bytes());
    bytes.extend_from_slice(&payload);
    let check = blake3::hash(&bytes);
    bytes.extend_from_slice(check.as_bytes());
    Ok(bytes)
}

/// The most bytes that a payload may unpack to, so that a small file can't fill the memory.
fn unpacked_max(payload_bytes: usize) -> u64 {
    (payload_bytes as u64).saturating_mul(UNPACK_RATIO_MAX).clamp(UNPACKED_BYTES_FREE, OBJECT_BYTES_MAX)
}

/// Unpacks what [`seal`] packed, after checking kind, id, version and hash.
pub fn open<T: DeserializeOwned>(kind: Kind, id: [u8; 16], bytes: &[u8]) -> Result<T, FormatError> {
    let body_bytes = bytes
        .len()
        .checked_sub(CHECK_BYTES)
        .filter(|n| *n >= HEADER_BYTES)
        .ok_or_else(|| FormatError::damaged(format!("it has {} bytes, too few for its header", bytes.len())))?;
    let (body, check) = bytes.split_at(body_bytes);
    if blake3::hash(body).as_bytes() != check {
        return Err(FormatError::damaged("its BLAKE3 does not match its bytes"));
    }
    let mut fields = Fields(body);
    if fields.bytes(8)? != kind.magic() {
        return Err(FormatError::damaged("it does not begin with the mark of its kind"));
    }
    let version = fields.u16()?;
    let flags = fields.u16()?;
    if version != VERSION || flags != 0 {
        return Err(FormatError::Unsupported(format!(
            "envelope version {version}, flags {flags:#x} are not known here"
        )));
    }
    fields.u32()?;
    if fields.array::<16>()? != id {
        return Err(FormatError::damaged("it is another object than its name says"));
    }
    fields.bytes(16)?;
    let raw_len = fields.u64()?;
    if raw_len > unpacked_max(fields.0.len()) {
        return Err(FormatError::damaged(format!("it claims to unpack to {raw_len} bytes")));
    }
    let raw = zstd::bulk::decompress(fields.0, raw_len as usize).map_err(FormatError::damaged)?;
    if raw.len() as u64 != raw_len {
        return Err(FormatError::damaged("its payload unpacks to another length than it states"));
    }
    rmp_serde::from_slice(&raw).map_err(FormatError::damaged)
}

/// The id that an object says that it has, read from its first [`HEADER_BYTES`] without checking the rest.
pub fn id_of(header: &[u8]) -> Result<[u8; 16], FormatError> {
    let mut fields = Fields(header);
    fields.bytes(16)?;
    fields.array()
}

/// The session that wrote the object, read from its first [`HEADER_BYTES`] without checking the rest.
pub fn session_of(header: &[u8]) -> Result<SessionId, FormatError> {
    let mut fields = Fields(header);
    fields.bytes(32)?;
    Ok(SessionId::from_bytes(fields.array()?))
}
