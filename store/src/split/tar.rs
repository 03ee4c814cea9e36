//! The members of a tar, each split by its own content. Never reads a name or an extension longer than we keep; a member that
//! is sparse or no regular file is not looked into.

use std::io;
use std::sync::Arc;

use tar::{EntryType, Header, PaxExtensions};

use super::source::Part;
use super::{Format, Found, Kind, Parts, Source, split_content};
use crate::limits::{PATH_BYTES_MAX, SMALL_FILE_BYTES, TAR_EXTENSION_BYTES_MAX, TAR_HEADERS_MAX};

const BLOCK_BYTES: u64 = 512;
const CHECKSUM: std::ops::Range<usize> = 148..156;

type Block = [u8; BLOCK_BYTES as usize];

/// Says whether a file begins with the header of a member. Reads one block.
pub(super) fn looks_like(source: &dyn Source) -> io::Result<bool> {
    if source.size() < BLOCK_BYTES {
        return Ok(false);
    }
    let block = read_block(source, 0)?;
    // ustar, or GNU's, with spaces behind it.
    Ok(block[257..].starts_with(b"ustar") && is_header(&block))
}

/// Finds what is in the members.
pub(super) fn split(source: &Arc<dyn Source>, depth: usize) -> io::Result<Option<Parts>> {
    let mut parts = Parts::of(Format::Tar);
    let mut members = Members::of(&**source);
    while let Some(member) = members.next()? {
        let Member { start, len, path, is_plain } = member;
        let part = Part::of(source, start, len).filter(|_| is_plain);
        match part.map(|part| split_content(&part, depth + 1)).transpose()?.flatten() {
            Some(split) => parts.add_member(split, start, |name| format!("{path}:{name}")),
            None if len > SMALL_FILE_BYTES => {
                parts.found.push(Found { start, end: start + len, kind: Kind::Opaque });
            }
            None => {}
        }
    }
    // Behind the end, or behind what makes no sense, there may be anything.
    if source.size() - members.at > SMALL_FILE_BYTES {
        parts.found.push(Found { start: members.at, end: source.size(), kind: Kind::Opaque });
    }
    Ok(Some(parts))
}

/// Whether the file ends without the block of zeros that ends a tar.
pub(super) fn is_cut_short(source: &dyn Source) -> io::Result<bool> {
    let mut members = Members::of(source);
    while members.next()?.is_some() {}
    Ok(members.end == End::OfFile)
}

/// A member with any bytes.
struct Member {
    start: u64,
    len: u64,
    /// Empty if it is not UTF-8.
    path: String,
    /// A regular file whose bytes stand as they are.
    is_plain: bool,
}

/// Why there are no more members.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    NotYet,
    /// Zeros say so.
    Told,
    /// The file ends before they do, or in the middle of a member.
    OfFile,
    /// What comes next is no header, or there were too many.
    Doubt,
}

/// The members of a tar from front to back.
struct Members<'a> {
    source: &'a dyn Source,
    /// Where the next header is; once there are no more members, where what was understood ends.
    at: u64,
    headers: usize,
    end: End,
}

/// What an extension says about the member that follows it.
#[derive(Default)]
struct Extension {
    path: Option<String>,
    size: Option<u64>,
    is_sparse: bool,
}

impl<'a> Members<'a> {
    fn of(source: &'a dyn Source) -> Self {
        Self { source, at: 0, headers: 0, end: End::NotYet }
    }

    fn next(&mut self) -> io::Result<Option<Member>> {
        let mut extension = Extension::default();
        while self.end == End::NotYet {
            let Some(header) = self.header()? else { break };
            let kind = header.entry_type();
            let told = header.entry_size().ok();
            let len = match kind {
                // These have no bytes, whatever they say.
                _ if is_link_or_device(kind) => Some(0),
                _ if is_extension(kind) => told,
                _ => extension.size.or(told),
            };
            let Some(len) = len else {
                self.end = End::Doubt;
                break;
            };
            let Some(start) = self.start_of_data(&header)? else { break };
            let padded = len.checked_next_multiple_of(BLOCK_BYTES).and_then(|len| start.checked_add(len));
            let Some(next) = padded.filter(|_| start + len <= self.source.size()) else {
                self.end = End::OfFile;
                break;
            };
            // The padding of the last member may be missing, as the zeros behind it.
            self.at = next.min(self.source.size());
            if is_extension(kind) {
                self.read_extension(kind, start, len, &mut extension)?;
                continue;
            }
            let path = extension.path.take().unwrap_or_else(|| text(&header.path_bytes()));
            let is_plain = (kind.is_file() || kind.is_contiguous()) && !extension.is_sparse;
            if len > 0 {
                return Ok(Some(Member { start, len, path, is_plain }));
            }
            extension = Extension::default();
        }
        Ok(None)
    }

    /// Reads the header that comes next; nothing, and the reason in `end`, when there is none.
    fn header(&mut self) -> io::Result<Option<Header>> {
        if self.source.size() - self.at < BLOCK_BYTES {
            self.end = End::OfFile;
            return Ok(None);
        }
        let block = read_block(self.source, self.at)?;
        self.end = if block == [0; BLOCK_BYTES as usize] {
            End::Told
        } else if !is_header(&block) || self.headers == TAR_HEADERS_MAX {
            End::Doubt
        } else {
            self.headers += 1;
            return Ok(Some(Header::from_byte_slice(&block).clone()));
        };
        Ok(None)
    }

    /// Where the bytes of a member begin: behind its header, and behind the blocks that GNU's sparse files have there.
    fn start_of_data(&mut self, header: &Header) -> io::Result<Option<u64>> {
        let mut start = self.at + BLOCK_BYTES;
        let mut goes_on = header.as_gnu().is_some_and(|gnu| header.entry_type().is_gnu_sparse() && gnu.is_extended());
        while goes_on {
            self.headers += 1;
            if self.source.size() - start < BLOCK_BYTES || self.headers > TAR_HEADERS_MAX {
                self.end = if self.headers > TAR_HEADERS_MAX { End::Doubt } else { End::OfFile };
                return Ok(None);
            }
            goes_on = read_block(self.source, start)?[504] != 0;
            start += BLOCK_BYTES;
        }
        Ok(Some(start))
    }

    fn read_extension(&self, kind: EntryType, start: u64, len: u64, extension: &mut Extension) -> io::Result<()> {
        let is_wanted = kind.is_gnu_longname() || kind.is_pax_local_extensions();
        if !is_wanted || len > TAR_EXTENSION_BYTES_MAX {
            // Without its extension a member can't be told from a sparse one.
            extension.is_sparse |= is_wanted;
            return Ok(());
        }
        let mut bytes = vec![0; len as usize];
        self.source.read_exact_at(&mut bytes, start)?;
        if kind.is_gnu_longname() {
            extension.path = Some(text(bytes.strip_suffix(b"\0").unwrap_or(&bytes)));
            return Ok(());
        }
        for line in PaxExtensions::new(&bytes) {
            let Ok(line) = line else { continue };
            match line.key_bytes() {
                b"path" => extension.path = Some(text(line.value_bytes())),
                b"size" => extension.size = line.value().ok().and_then(|size| size.parse().ok()),
                key => extension.is_sparse |= key.starts_with(b"GNU.sparse."),
            }
        }
        Ok(())
    }
}

fn is_extension(kind: EntryType) -> bool {
    kind.is_gnu_longname()
        || kind.is_gnu_longlink()
        || kind.is_pax_local_extensions()
        || kind.is_pax_global_extensions()
}

fn is_link_or_device(kind: EntryType) -> bool {
    kind.is_hard_link()
        || kind.is_symlink()
        || kind.is_character_special()
        || kind.is_block_special()
        || kind.is_dir()
        || kind.is_fifo()
}

/// Empty when it is too long or not UTF-8.
fn text(bytes: &[u8]) -> String {
    str::from_utf8(bytes).ok().filter(|text| text.len() <= PATH_BYTES_MAX).unwrap_or_default().to_owned()
}

fn read_block(source: &dyn Source, at: u64) -> io::Result<Block> {
    let mut block = [0; BLOCK_BYTES as usize];
    source.read_exact_at(&mut block, at)?;
    Ok(block)
}

/// Whether the sum in a header is that of its bytes.
fn is_header(block: &Block) -> bool {
    let sum: u32 =
        block.iter().enumerate().map(|(at, byte)| u32::from(if CHECKSUM.contains(&at) { b' ' } else { *byte })).sum();
    Header::from_byte_slice(block).cksum().is_ok_and(|told| told == sum)
}
