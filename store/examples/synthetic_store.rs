//! Makes a large store for benchmarks without putting anything: writes packs, manifests and HEAD as docs/format.md says, and
//! lets the library fold them into a catalog. Chunks are eight bytes long; the store is sound all the same.
//!
//! usage: `synthetic_store STORE CHUNKS CHECKPOINTS CHUNKS_OF_EACH`

#![allow(clippy::unwrap_used, reason = "a benchmark's tool: it stops at the first surprise")]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs;
use std::path::Path;

use ckpt_store::{CheckpointId, ChunkId, Content, Entry, File, Manifest, PackId, Segment, SessionId, Store, StoreId};
use serde_bytes::ByteBuf;

/// Records of one pack: as many as one may have.
const PACK_RECORDS: usize = 131_072;
const CHUNK_BYTES: u64 = 8;
const RUNS: u64 = 10;
const FIRST_TIME_MS: i64 = 1_700_000_000_000;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [root, chunks, checkpoints, each] = &args[..] else {
        panic!("usage: synthetic_store STORE CHUNKS CHECKPOINTS CHUNKS_OF_EACH")
    };
    let root = Path::new(root);
    let [chunks, checkpoints, each]: [u64; 3] = [chunks, checkpoints, each].map(|text| text.parse().unwrap());
    let store = Store::init(root).unwrap();
    let session = SessionId::generate();
    for first in (0..chunks).step_by(PACK_RECORDS) {
        write_pack(root, store.id(), session, first..chunks.min(first + PACK_RECORDS as u64));
    }
    let mut changes = Vec::new();
    // Each checkpoint has its share of the chunks, and those that came before.
    let mut last: VecDeque<ChunkId> = (0..each).map(|back| chunk((chunks - each + back) % chunks)).collect();
    for nr in 0..checkpoints {
        for new in nr * chunks / checkpoints..(nr + 1) * chunks / checkpoints {
            last.pop_front();
            last.push_back(chunk(new));
        }
        let entry = write_manifest(root, store.id(), session, nr, checkpoints, &last);
        changes.push(serde_json::json!({ "add": entry }));
    }
    write_head(root, store.id(), changes);
    // The next change is one too many for HEAD: all become a catalog.
    store.tag("run-0@0", "first").unwrap();
}

fn chunk(nr: u64) -> ChunkId {
    ChunkId::of(&nr.to_le_bytes())
}

fn write_pack(root: &Path, store: StoreId, session: SessionId, numbers: std::ops::Range<u64>) {
    let id = PackId::generate();
    let mut pack = Vec::new();
    pack.extend_from_slice(b"CKPTPACK\x01\0\0\0\0\0\0\0");
    for id in [store.to_bytes(), id.to_bytes(), session.to_bytes()] {
        pack.extend_from_slice(&id);
    }
    let check = crc32c::crc32c_append(crc32c::crc32c(&pack[..12]), &pack[16..64]);
    pack[12..16].copy_from_slice(&check.to_le_bytes());
    let mut trailer = Vec::new();
    let count = numbers.end - numbers.start;
    for nr in numbers {
        let (payload, id) = (nr.to_le_bytes(), chunk(nr));
        let (len, crc) = ((CHUNK_BYTES as u32).to_le_bytes(), crc32c::crc32c(&payload).to_le_bytes());
        pack.resize(pack.len().next_multiple_of(64), 0);
        let mut record = [0; 64];
        record[..4].copy_from_slice(b"CKRC");
        record[8..40].copy_from_slice(&id.0);
        record[40..44].copy_from_slice(&len);
        record[44..48].copy_from_slice(&len);
        record[48..52].copy_from_slice(&crc);
        let check = crc32c::crc32c(&record[..60]);
        record[60..].copy_from_slice(&check.to_le_bytes());
        pack.extend_from_slice(&record);
        trailer.extend_from_slice(&id.0);
        trailer.extend_from_slice(&(pack.len() as u64).to_le_bytes());
        trailer.extend([len, len, crc, [0; 4]].iter().flatten());
        pack.extend_from_slice(&payload);
    }
    pack.resize(pack.len().next_multiple_of(64), 0);
    let begins = pack.len() as u64;
    pack.extend_from_slice(&trailer);
    let mut footer = Vec::new();
    footer.extend_from_slice(b"CKPTPEND");
    footer.extend_from_slice(&begins.to_le_bytes());
    footer.extend_from_slice(&(trailer.len() as u64).to_le_bytes());
    footer.extend_from_slice(&(count as u32).to_le_bytes());
    footer.extend_from_slice(&crc32c::crc32c(&footer).to_le_bytes());
    footer.extend_from_slice(blake3::hash(&trailer).as_bytes());
    pack.extend_from_slice(&footer);
    let folder = root.join(format!("packs/{:02x}", id.to_bytes()[15]));
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join(id.to_string()), pack).unwrap();
}

fn write_manifest(
    root: &Path,
    store: StoreId,
    session: SessionId,
    nr: u64,
    checkpoints: u64,
    chunks: &VecDeque<ChunkId>,
) -> Entry {
    let bytes = chunks.len() as u64 * CHUNK_BYTES;
    let per_run = checkpoints.div_ceil(RUNS);
    let manifest = Manifest {
        store,
        id: CheckpointId::generate(),
        run: format!("run-{}", nr / per_run),
        step: Some(nr % per_run),
        time_ms: FIRST_TIME_MS + nr as i64 * 60_000,
        metrics: BTreeMap::from([("val_loss".into(), 1.0 / (nr + 1) as f64)]),
        meta: BTreeMap::new(),
        root: None,
        chunk_ids: ByteBuf::from(chunks.iter().flat_map(|id| id.0).collect::<Vec<u8>>()),
        chunk_lens: vec![CHUNK_BYTES as u32; chunks.len()],
        inline: ByteBuf::new(),
        files: vec![File {
            path: ByteBuf::from("model.bin"),
            mode: 0o644,
            mtime_ms: FIRST_TIME_MS,
            content: Content::File {
                size: bytes,
                format: "opaque".into(),
                segments: vec![Segment(bytes, Some(0), 0, None)],
                views: Vec::new(),
            },
        }],
    };
    fs::write(root.join(format!("checkpoints/{}", manifest.id)), manifest.to_bytes(session).unwrap()).unwrap();
    Entry {
        id: manifest.id,
        run: manifest.run,
        step: manifest.step,
        time_ms: manifest.time_ms,
        metrics: manifest.metrics,
        tags: BTreeSet::new(),
        pinned: false,
        files: 1,
        logical_bytes: bytes,
        added_bytes: bytes,
        written_bytes: bytes,
    }
}

fn write_head(root: &Path, store: StoreId, changes: Vec<serde_json::Value>) {
    let head = serde_json::json!({
        "store": store.to_string(), "seq": 1, "epoch": 0, "packs_seq": 1, "catalog": null, "changes": changes,
        "condemned": {}, "deleting": [], "nonce": "",
    });
    let body = head.to_string();
    let check = blake3::hash(body.as_bytes()).to_hex();
    fs::write(root.join("HEAD"), format!("{{\"blake3\":\"{check}\",\"head\":{body}}}\n")).unwrap();
}
