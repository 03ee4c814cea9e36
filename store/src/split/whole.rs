//! Says whether a file ends where its container says that it does. Only what can be seen to be cut short is; a file of unknown
//! structure never is.

use std::io;

use super::{HEAD_BYTES, Source, gguf, hdf5, npy, safetensors, tar, torch_legacy, zip};

/// A zip's end record without its comment, and the longest comment.
const END_BYTES: usize = 22;
const COMMENT_BYTES_MAX: usize = 65_535;

/// Why the file can't be whole; nothing when it may be. `name` tells what it is meant to be while its head may not be there.
pub fn cut_short(source: &dyn Source, name: &str) -> io::Result<Option<&'static str>> {
    let size = source.size();
    let mut buf = [0; HEAD_BYTES];
    let head = &mut buf[..size.min(HEAD_BYTES as u64) as usize];
    source.read_exact_at(head, 0)?;
    if head.is_empty() {
        return Ok(Some("it is empty"));
    }
    if zip::looks_like(head) {
        return Ok((!ends_as_zip(source)?).then_some("its zip directory is not there yet"));
    }
    if torch_legacy::looks_like(head) {
        return Ok(torch_legacy::is_cut_short(source)?.then_some("it ends before its last storage"));
    }
    if hdf5::looks_like(head) {
        return Ok(is_short_hdf5(source)?.then_some("it is shorter than its superblock says"));
    }
    if name.ends_with(".safetensors") || safetensors::looks_like(head, size) {
        return Ok(safetensors::is_cut_short(source)?.then_some("it is shorter than its header says"));
    }
    if npy::looks_like(head) {
        return Ok(npy::is_cut_short(source)?.then_some("it is shorter than its header says"));
    }
    if gguf::looks_like(head) {
        return Ok(gguf::is_cut_short(source)?.then_some("it is shorter than its header says"));
    }
    if tar::looks_like(source)? {
        return Ok(tar::is_cut_short(source)?.then_some("the end of its tar is not there yet"));
    }
    Ok(None)
}

/// Whether the file ends with the end record of a zip: the last thing that is written.
fn ends_as_zip(source: &dyn Source) -> io::Result<bool> {
    let size = source.size();
    let len = size.min((END_BYTES + COMMENT_BYTES_MAX) as u64) as usize;
    let mut tail = vec![0; len];
    source.read_exact_at(&mut tail, size - len as u64)?;
    let ends = |at: usize| {
        let comment = usize::from(u16::from_le_bytes([tail[at + 20], tail[at + 21]]));
        tail[at..].starts_with(b"PK\x05\x06") && at + END_BYTES + comment == len
    };
    Ok((0..(len + 1).saturating_sub(END_BYTES)).rev().any(ends))
}

/// Whether an HDF5 file is shorter than the end that its superblock states.
fn is_short_hdf5(source: &dyn Source) -> io::Result<bool> {
    let mut block = [0; 56];
    // Superblock and root group take more.
    if source.size() < block.len() as u64 {
        return Ok(true);
    }
    source.read_exact_at(&mut block, 0)?;
    // Where the end stands depends on the superblock's version; both with addresses of 8 bytes, as everybody writes them.
    let at = match (block[8], block[9], block[13]) {
        (0, _, 8) => 40,
        (1, _, 8) => 44,
        (2 | 3, 8, _) => 28,
        _ => return Ok(false),
    };
    let mut end = [0; 8];
    end.copy_from_slice(&block[at..at + 8]);
    Ok(u64::from_le_bytes(end) > source.size())
}
