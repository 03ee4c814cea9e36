//! The bytes of a pack: header, records, trailer, footer. Never encodes a chunk and never does I/O. docs/format.md has the
//! tables.

use super::{Fields, FormatError};
use crate::codec::Codec;
use crate::id::{ChunkId, PackId, SessionId, StoreId};
use crate::limits::{CHUNK_BYTES_MAX, PACK_RECORDS_MAX};

/// Bytes of the header of a pack.
pub const HEADER_BYTES: usize = 64;
/// Bytes of the header of a record.
pub const RECORD_BYTES: usize = 64;
/// Bytes of the footer of a pack.
pub const FOOTER_BYTES: usize = 64;
/// Bytes of one line of the trailer.
pub const LINE_BYTES: usize = 56;

const MAGIC: &[u8; 8] = b"CKPTPACK";
const RECORD_MAGIC: &[u8; 4] = b"CKRC";
const FOOTER_MAGIC: &[u8; 8] = b"CKPTPEND";
const VERSION: u16 = 1;

/// Payloads and records begin at a multiple of this.
const ALIGN: u64 = 64;
/// Raw payloads from [`RAW_ALIGN_FROM`] bytes on begin at a multiple of this, so that they can be mapped and cloned.
const RAW_ALIGN: u64 = 4096;
/// Below this the padding would cost more than a mapping could ever save.
const RAW_ALIGN_FROM: usize = 64 << 10;

/// Who a pack belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The store.
    pub store: StoreId,
    /// The pack's own name.
    pub pack: PackId,
    /// The session that wrote it; while that lives, gc leaves the pack alone.
    pub session: SessionId,
}

/// Where a chunk lies in a pack, and how it is stored there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line {
    /// The chunk.
    pub id: ChunkId,
    /// Where its payload begins, in bytes from the pack's start.
    pub offset: u64,
    /// Bytes of the payload.
    pub stored_len: u32,
    /// Bytes of the chunk.
    pub raw_len: u32,
    /// How it is encoded.
    pub codec: Codec,
    /// CRC32C of the payload.
    pub crc: u32,
}

impl Header {
    /// The first bytes of the pack.
    pub fn to_bytes(self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..10].copy_from_slice(&VERSION.to_le_bytes());
        bytes[16..32].copy_from_slice(&self.store.to_bytes());
        bytes[32..48].copy_from_slice(&self.pack.to_bytes());
        bytes[48..64].copy_from_slice(&self.session.to_bytes());
        let check = header_check(&bytes);
        bytes[12..16].copy_from_slice(&check.to_le_bytes());
        bytes
    }

    /// Reads the first bytes of a pack.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut fields = Fields(bytes);
        if fields.bytes(8)? != MAGIC {
            return Err(FormatError::damaged("it does not begin as a pack"));
        }
        let (version, flags, check) = (fields.u16()?, fields.u16()?, fields.u32()?);
        // The checksum first: another version is one only if it says so in sound bytes.
        if bytes.get(..HEADER_BYTES).map(header_check) != Some(check) {
            return Err(FormatError::damaged("the checksum of its header is wrong"));
        }
        if version != VERSION || flags != 0 {
            return Err(FormatError::Unsupported(format!(
                "pack version {version}, flags {flags:#x} are not known here"
            )));
        }
        Ok(Self {
            store: StoreId::from_bytes(fields.array()?),
            pack: PackId::from_bytes(fields.array()?),
            session: SessionId::from_bytes(fields.array()?),
        })
    }
}

/// CRC32C of a pack's header without the four bytes that hold it.
fn header_check(bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&bytes[..12]), &bytes[16..HEADER_BYTES])
}

/// Where a record that begins at or after `end` has its header and its payload.
pub fn record_place(end: u64, codec: Codec, stored_len: usize) -> (u64, u64) {
    let header = end.next_multiple_of(ALIGN);
    let align = if codec == Codec::Raw && stored_len >= RAW_ALIGN_FROM { RAW_ALIGN } else { ALIGN };
    (header, (header + RECORD_BYTES as u64).next_multiple_of(align))
}

/// Where the trailer of a pack begins whose last payload ends at `end`.
pub fn trailer_start(end: u64) -> u64 {
    end.next_multiple_of(ALIGN)
}

/// The bytes of a pack of so many records whose last payload ends at `end`.
pub fn pack_bytes(end: u64, records: usize) -> u64 {
    trailer_start(end) + (records * LINE_BYTES + FOOTER_BYTES) as u64
}

/// The header of the record of `line`.
pub fn record_to_bytes(line: &Line) -> [u8; RECORD_BYTES] {
    let mut bytes = [0; RECORD_BYTES];
    bytes[..4].copy_from_slice(RECORD_MAGIC);
    bytes[4] = line.codec as u8;
    bytes[8..40].copy_from_slice(&line.id.0);
    bytes[40..44].copy_from_slice(&line.raw_len.to_le_bytes());
    bytes[44..48].copy_from_slice(&line.stored_len.to_le_bytes());
    bytes[48..52].copy_from_slice(&line.crc.to_le_bytes());
    let check = crc32c::crc32c(&bytes[..60]);
    bytes[60..64].copy_from_slice(&check.to_le_bytes());
    bytes
}

/// Reads the header of a record that begins at `at`; the line's offset follows from the layout rule.
pub fn record_from_bytes(bytes: &[u8], at: u64) -> Result<Line, FormatError> {
    let mut fields = Fields(bytes);
    if fields.bytes(4)? != RECORD_MAGIC {
        return Err(FormatError::damaged("no record begins there"));
    }
    if crc32c::crc32c(&bytes[..60]).to_le_bytes() != bytes[60..64] {
        return Err(FormatError::damaged("the checksum of a record's header is wrong"));
    }
    let codec = codec(fields.u8()?)?;
    if fields.bytes(3)? != [0; 3] {
        return Err(FormatError::Unsupported("a record uses a feature that is not known here".into()));
    }
    let id = ChunkId(fields.array()?);
    let (raw_len, stored_len, crc) = (fields.u32()?, fields.u32()?, fields.u32()?);
    let offset = record_place(at, codec, stored_len as usize).1;
    check_line(Line { id, offset, stored_len, raw_len, codec, crc })
}

/// Trailer and footer of a pack whose last payload ends at `end`: what comes after the padding to a multiple of 64.
pub fn trailer_to_bytes(end: u64, lines: &[Line]) -> Vec<u8> {
    let start = trailer_start(end);
    let mut bytes = vec![0; (start - end) as usize];
    let padding = bytes.len();
    for line in lines {
        bytes.extend_from_slice(&line.id.0);
        bytes.extend_from_slice(&line.offset.to_le_bytes());
        bytes.extend_from_slice(&line.stored_len.to_le_bytes());
        bytes.extend_from_slice(&line.raw_len.to_le_bytes());
        bytes.extend_from_slice(&line.crc.to_le_bytes());
        bytes.push(line.codec as u8);
        bytes.extend_from_slice(&[0; 3]);
    }
    let hash = blake3::hash(&bytes[padding..]);
    let mut footer = [0; FOOTER_BYTES];
    footer[..8].copy_from_slice(FOOTER_MAGIC);
    footer[8..16].copy_from_slice(&start.to_le_bytes());
    footer[16..24].copy_from_slice(&((bytes.len() - padding) as u64).to_le_bytes());
    footer[24..28].copy_from_slice(&(lines.len() as u32).to_le_bytes());
    footer[32..64].copy_from_slice(hash.as_bytes());
    let check = crc32c::crc32c(&footer[..28]);
    footer[28..32].copy_from_slice(&check.to_le_bytes());
    bytes.extend_from_slice(&footer);
    bytes
}

/// Where the trailer of a pack begins and how many bytes it has, from the pack's last [`FOOTER_BYTES`].
pub fn footer_from_bytes(footer: &[u8], pack_bytes: u64) -> Result<(u64, usize), FormatError> {
    let mut fields = Fields(footer);
    if fields.bytes(8)? != FOOTER_MAGIC {
        return Err(FormatError::damaged("it does not end as a pack"));
    }
    let (start, len, count) = (fields.u64()?, fields.u64()?, fields.u32()? as usize);
    if crc32c::crc32c(&footer[..28]).to_le_bytes() != footer[28..32] {
        return Err(FormatError::damaged("the checksum of its footer is wrong"));
    }
    let ends = start.checked_add(len).and_then(|end| end.checked_add(FOOTER_BYTES as u64));
    if ends != Some(pack_bytes) || count > PACK_RECORDS_MAX || len != (count * LINE_BYTES) as u64 {
        return Err(FormatError::damaged("its footer does not fit its size"));
    }
    Ok((start, len as usize))
}

/// Reads a trailer, given the footer that [`footer_from_bytes`] accepted and the trailer's first byte's offset.
pub fn trailer_from_bytes(trailer: &[u8], footer: &[u8], start: u64) -> Result<Vec<Line>, FormatError> {
    if footer.len() != FOOTER_BYTES || blake3::hash(trailer).as_bytes() != &footer[32..64] {
        return Err(FormatError::damaged("the BLAKE3 of its trailer does not match"));
    }
    let mut fields = Fields(trailer);
    let mut lines = Vec::with_capacity(trailer.len() / LINE_BYTES);
    let mut end = HEADER_BYTES as u64;
    while !fields.0.is_empty() {
        let (id, offset) = (ChunkId(fields.array()?), fields.u64()?);
        let (stored_len, raw_len, crc) = (fields.u32()?, fields.u32()?, fields.u32()?);
        let codec = codec(fields.u8()?)?;
        if fields.bytes(3)? != [0; 3] {
            return Err(FormatError::Unsupported("it uses a feature that is not known here".into()));
        }
        let line = check_line(Line { id, offset, stored_len, raw_len, codec, crc })?;
        // Records lie one after the other by one rule, so a trailer can't point two of them at the same bytes.
        if offset != record_place(end, codec, stored_len as usize).1 || offset + u64::from(stored_len) > start {
            return Err(FormatError::damaged("its trailer lists a record where none can be"));
        }
        end = offset + u64::from(stored_len);
        lines.push(line);
    }
    Ok(lines)
}

fn codec(byte: u8) -> Result<Codec, FormatError> {
    Codec::try_from(byte).map_err(|_| FormatError::Unsupported(format!("codec {byte} is not known here")))
}

fn check_line(line: Line) -> Result<Line, FormatError> {
    let raw_sound = line.raw_len > 0 && line.raw_len as usize <= CHUNK_BYTES_MAX;
    let stored_sound = line.stored_len <= line.raw_len && (line.codec != Codec::Raw || line.stored_len == line.raw_len);
    if raw_sound && stored_sound {
        Ok(line)
    } else {
        Err(FormatError::damaged("a record states lengths that can't be"))
    }
}
