//! Archives against what they are made of. That torch reads them, and writes the same, is tested with torch itself.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use super::{Joined, Literal, Record, Sums, torch_archive};
use crate::id::ChunkId;
use crate::limits::CHUNK_BYTES_MAX;
use crate::progress::Quiet;
use crate::split::{Kind, Source, split};

fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut output = vec![0; len];
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    hasher.finalize_xof().fill(&mut output);
    output
}

fn all_of(source: &dyn Source) -> Vec<u8> {
    let mut bytes = vec![0; source.size() as usize];
    source.read_exact_at(&mut bytes, 0).expect("bytes that were just made");
    bytes
}

/// A source that can't be looked at where it lies, as memory of a GPU.
struct Far(Literal);

impl Source for Far {
    fn size(&self) -> u64 {
        self.0.size()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_exact_at(buf, offset)
    }
}

fn record(name: &str, source: impl Source + 'static) -> Record {
    Record { name: name.into(), source: Arc::new(source) }
}

fn archive(storages: &[Vec<u8>], sums: &Sums) -> Joined {
    let mut records = vec![record("data.pkl", Literal(noise(200, 1)))];
    records.extend(storages.iter().enumerate().map(|(nr, bytes)| {
        let (name, bytes) = (format!("data/{nr}"), Literal(bytes.clone()));
        if nr % 2 == 0 { record(&name, bytes) } else { record(&name, Far(bytes)) }
    }));
    torch_archive("archive", records, sums, &Quiet).expect("bytes that were just made")
}

#[test]
fn an_archive_is_a_zip_whose_sums_are_right() {
    let storages = [noise(3 * CHUNK_BYTES_MAX + 17, 2), noise(CHUNK_BYTES_MAX, 3), Vec::new(), noise(5, 4)];
    let sums = Sums::default();
    let bytes = all_of(&archive(&storages, &sums));
    // The second time all sums of chunks are known.
    assert_eq!(all_of(&archive(&storages, &sums)), bytes);
    let zip = rawzip::ZipArchive::from_slice(&bytes).expect("bytes that were just made");
    let mut entries = zip.entries();
    let mut found = Vec::new();
    while let Some(entry) = entries.next_entry().expect("bytes that were just made") {
        let body = zip.get_entry(entry.wayfinder()).expect("bytes that were just made");
        // rawzip's own sum, which knows nothing of how ours is put together.
        assert_eq!(rawzip::crc32(body.data()), entry.crc32());
        let start = body.data().as_ptr() as usize - bytes.as_ptr() as usize;
        assert_eq!(start % 64, 0, "{:?}", entry.file_path());
        found.push(body.data().to_vec());
    }
    assert_eq!(found.len(), 1 + storages.len() + 2);
    assert_eq!(found[1..=storages.len()], storages);
}

#[test]
fn what_is_known_of_a_chunk_is_true() {
    let storages = [noise(2 * CHUNK_BYTES_MAX + 40_000, 5), noise(100_000, 6), noise(1000, 7)];
    let source: Arc<dyn Source> = Arc::new(archive(&storages, &Sums::default()));
    let bytes = all_of(&*source);
    let mut known = 0;
    for storage in &storages {
        let start =
            bytes.windows(storage.len()).position(|window| window == storage).expect("bytes that were just made");
        for at in (0..storage.len()).step_by(CHUNK_BYTES_MAX) {
            let len = (storage.len() - at).min(CHUNK_BYTES_MAX);
            let id = source.known_id((start + at) as u64, len as u32);
            known += usize::from(id.is_some());
            assert!(id.is_none_or(|id| id == ChunkId::of(&storage[at..at + len])));
            // A range that is no chunk has no known name.
            assert_eq!(source.known_id((start + at) as u64, len as u32 - 1), None);
            assert_eq!(source.known_id((start + at + 1) as u64, len as u32), None);
        }
    }
    assert_eq!(known, 4, "three chunks of the first and the second storage; the third is too small");
    // In memory is what lies in one part that is.
    let first =
        bytes.windows(storages[0].len()).position(|window| window == storages[0]).expect("bytes that were just made")
            as u64;
    assert_eq!(source.bytes(first, 10), Some(&storages[0][..10]));
    assert_eq!(source.bytes(first - 1, 10), None);
    assert!(source.read_exact_at(&mut [0; 2], source.size() - 1).is_err());
    assert_eq!(source.bytes(u64::MAX, 10), None);
}

#[test]
fn a_splitter_finds_every_storage() {
    let storages: Vec<Vec<u8>> = (0..5).map(|nr| noise(10_000 + 50_000 * nr, nr as u64)).collect();
    let source: Arc<dyn Source> = Arc::new(archive(&storages, &Sums::default()));
    let found = split(&source).expect("bytes that were just made");
    let lens: Vec<u64> = found
        .segments
        .iter()
        .filter(|segment| !matches!(segment.kind, Kind::Literal | Kind::Opaque))
        .map(|segment| segment.len)
        .collect();
    assert_eq!(lens, storages.iter().map(|storage| storage.len() as u64).collect::<Vec<_>>());
}

#[test]
fn reads_that_begin_anywhere_are_those_of_the_whole() {
    let source = archive(&[noise(70_000, 8), noise(3, 9)], &Sums::default());
    let bytes = all_of(&source);
    for start in (0..bytes.len()).step_by(977) {
        for len in [0, 1, 63, 5000, bytes.len() - start] {
            let end = (start + len).min(bytes.len());
            let mut read = vec![0; end - start];
            source.read_exact_at(&mut read, start as u64).expect("bytes that were just made");
            assert!(read == bytes[start..end], "{start}..{end}");
        }
    }
}

/// A small source that is different each time somebody looks.
struct Restless(AtomicU8, [[u8; 100]; 8]);

impl Source for Restless {
    fn size(&self) -> u64 {
        100
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        buf.copy_from_slice(self.bytes(offset, buf.len()).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn bytes(&self, offset: u64, len: usize) -> Option<&[u8]> {
        let look = self.0.fetch_add(1, Ordering::Relaxed) as usize % self.1.len();
        self.1[look].get(offset as usize..offset as usize + len)
    }
}

#[test]
fn a_small_record_is_what_was_summed_up() {
    let restless = Restless(AtomicU8::new(0), std::array::from_fn(|look| [look as u8; 100]));
    let records = vec![record("data.pkl", Literal(noise(200, 1))), record("data/0", restless)];
    let archive = torch_archive("archive", records, &Sums::default(), &Quiet).expect("bytes that were just made");
    let bytes = all_of(&archive);
    assert_eq!(bytes, all_of(&archive), "it is read as often as anybody likes");
    let zip = rawzip::ZipArchive::from_slice(&bytes).expect("bytes that were just made");
    let mut entries = zip.entries();
    while let Some(entry) = entries.next_entry().expect("bytes that were just made") {
        let body = zip.get_entry(entry.wayfinder()).expect("bytes that were just made");
        assert_eq!(rawzip::crc32(body.data()), entry.crc32());
    }
}

/// What torch 2.15 wrote of `[torch.zeros(4 * 2**30 + 100, dtype=torch.uint8), torch.ones(1000)]` to a file `big.pt`: each record's
/// size and where its header begins. No test can afford the file.
const BEYOND_32_BITS: [(&str, u64, u64); 8] = [
    ("data.pkl", 235, 0),
    (".format_version", 1, 315),
    (".storage_alignment", 2, 401),
    ("byteorder", 6, 530),
    ("data/0", (4 << 30) + 100, 662),
    ("data/1", 4000, 4_294_968_188),
    ("version", 2, 4_294_972_280),
    (".data/serialization_id", 40, 4_294_972_378),
];

#[test]
fn sizes_and_places_beyond_32_bits_are_as_torch_writes_them() {
    let mut writer = super::zip::Writer::new("big");
    let mut at = 0;
    let mut fields = Vec::new();
    for (name, size, expected) in BEYOND_32_BITS {
        assert_eq!(at, expected, "where {name} begins");
        let header = writer.begin(name, size);
        let behind = writer.end(0x0102_0304, size);
        fields.push((header[30 + "big/".len() + name.len()..].to_vec(), behind.len()));
        at += header.len() as u64 + size + behind.len() as u64;
    }
    let padded = |wide: &[u8], padding: u8| [wide, b"FB", &[padding, 0], &vec![b'Z'; padding.into()]].concat();
    // The size twice, for a large record; the place, for one behind it; and 64-bit sizes behind each of these.
    assert_eq!(fields[4], (padded(b"\x01\0\x10\0\x64\0\0\0\x01\0\0\0\0\0\0\0\0\0\0\0", 42), 24), "of a local header");
    assert_eq!(fields[5], (padded(b"\x01\0\x08\0\x7c\x03\0\0\x01\0\0\0", 12), 24));
    assert_eq!(fields[3], (padded(b"", 63), 16));
    let end = writer.finish();
    assert_eq!(at, 0x1_0000_1480, "where the directory begins");
    assert_eq!(end.len(), 0x223 + 56 + 20 + 22);
    let entry = end.windows(10).position(|bytes| bytes == b"big/data/0").expect("the record's entry") + 10;
    assert_eq!(end[entry..entry + 20], *b"\x01\0\x10\0\x64\0\0\0\x01\0\0\0\x64\0\0\0\x01\0\0\0");
    assert_eq!(end[end.len() - 22..], *b"PK\x05\x06\0\0\0\0\x08\0\x08\0\x23\x02\0\0\xff\xff\xff\xff\0\0");
}
