//! The header of a record, which a salvage goes by.
#![no_main]

use ckpt_fuzz::format::pack::{RECORD_BYTES, record_from_bytes, record_to_bytes};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((at, record)) = data.split_first_chunk::<4>() else { return };
    let at = u64::from(u32::from_le_bytes(*at));
    let Some(mut record) = record.first_chunk::<RECORD_BYTES>().copied() else { return };
    let _ = record_from_bytes(&record, at);
    let check = crc32c::crc32c(&record[..60]);
    record[60..].copy_from_slice(&check.to_le_bytes());
    if let Ok(line) = record_from_bytes(&record, at) {
        let again = record_from_bytes(&record_to_bytes(&line), at).expect("what is written is read");
        assert_eq!(again, line);
    }
});
