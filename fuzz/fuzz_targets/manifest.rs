//! A manifest, from its payload as it is once unpacked. One that is accepted can be followed without any further check.
#![no_main]

use ckpt_fuzz::{CheckpointId, Content, Manifest, SessionId, sealed};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let id = CheckpointId::from_bytes(ckpt_fuzz::ID);
    let Ok(manifest) = Manifest::from_bytes(id, &sealed(b"CKPTMANI", data)) else { return };
    assert_eq!(manifest.chunks().len(), manifest.chunk_count());
    let _ = manifest.logical_bytes();
    for (at, file) in (0..).zip(&manifest.files) {
        let Content::File { size, segments, .. } = &file.content else { continue };
        // A hostile segment may run over all chunks; walking each of many such is honest work, not a hang to report.
        if segments.len().saturating_mul(manifest.chunk_count()) > 100_000 {
            continue;
        }
        let extents = manifest.extents(at);
        for extent in &extents {
            assert!(extent.len > 0 && extent.chunk_at + extent.len <= manifest.chunk_lens[extent.chunk as usize]);
        }
        let inline: u64 = manifest.inline_pieces(at).map(|(_, range)| manifest.inline[range].len() as u64).sum();
        for tensor in file.tensors() {
            assert!(tensor.offset + tensor.len <= *size);
        }
        assert_eq!(extents.iter().map(|extent| u64::from(extent.len)).sum::<u64>() + inline, *size);
    }
    let again = manifest.to_bytes(SessionId::from_bytes(ckpt_fuzz::ID)).expect("what was read can be written");
    // NaN is not equal to itself, so bytes are compared and not metrics.
    let again = Manifest::from_bytes(id, &again).expect("what was written can be read");
    assert_eq!(again.files, manifest.files);
});
