//! A whole pack: header, footer, trailer. As it is, and with the checksums mended so that what they guard is reached.
#![no_main]

use ckpt_fuzz::format::pack::{FOOTER_BYTES, HEADER_BYTES, Header, footer_from_bytes, trailer_from_bytes};
use ckpt_fuzz::packs::read_trailer;
use ckpt_fuzz::{Bytes, PackId, StoreId};
use libfuzzer_sys::fuzz_target;

fn read(bytes: &[u8]) {
    if let Ok(header) = Header::from_bytes(&bytes[..bytes.len().min(HEADER_BYTES)]) {
        assert_eq!(header.to_bytes(), bytes[..HEADER_BYTES]);
        let _ = read_trailer(header.pack, header.store, &Bytes(bytes));
    }
    let id = |bytes| (PackId::from_bytes(bytes), StoreId::from_bytes(bytes));
    let (pack, store) = id(ckpt_fuzz::ID);
    let _ = read_trailer(pack, store, &Bytes(bytes));
}

fuzz_target!(|data: &[u8]| {
    read(data);
    if data.len() < HEADER_BYTES + FOOTER_BYTES {
        return;
    }
    let mut bytes = data.to_vec();
    let check = crc32c::crc32c_append(crc32c::crc32c(&bytes[..12]), &bytes[16..HEADER_BYTES]);
    bytes[12..16].copy_from_slice(&check.to_le_bytes());
    let footer = bytes.len() - FOOTER_BYTES;
    let trailer = bytes[footer + 8..footer + 16].try_into().map(u64::from_le_bytes).expect("8 bytes");
    let start = usize::try_from(trailer).unwrap_or(usize::MAX).min(footer);
    let hash = blake3::hash(&bytes[start..footer]);
    bytes[footer + 32..].copy_from_slice(hash.as_bytes());
    let check = crc32c::crc32c(&bytes[footer..footer + 28]);
    bytes[footer + 28..footer + 32].copy_from_slice(&check.to_le_bytes());
    read(&bytes);
    if let Ok((start, len)) = footer_from_bytes(&bytes[footer..], bytes.len() as u64) {
        let trailer = &bytes[start as usize..start as usize + len];
        if let Ok(lines) = trailer_from_bytes(trailer, &bytes[footer..], start) {
            let mut end = HEADER_BYTES as u64;
            for line in lines {
                assert!(line.offset >= end && line.offset + u64::from(line.stored_len) <= start);
                end = line.offset + u64::from(line.stored_len);
            }
        }
    }
});
