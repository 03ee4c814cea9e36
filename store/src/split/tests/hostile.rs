//! Files that lie. Whatever they say, the answer is a tiling in bounded time and memory, or the error of a real read.

use std::sync::atomic::{AtomicU64, Ordering};

use super::samples::*;
use super::*;
use crate::limits::ZIP_RECORDS_MAX;

/// A file of any size: `head`, zeros, `tail`. Counts what is read and fails where the disk is broken.
#[derive(Clone)]
pub struct Virtual {
    size: u64,
    head: Vec<u8>,
    tail: Vec<u8>,
    broken: std::ops::Range<u64>,
    read: Arc<AtomicU64>,
}

impl Virtual {
    pub fn new(size: u64, head: &[u8], tail: &[u8]) -> Self {
        Self { size, head: head.to_vec(), tail: tail.to_vec(), broken: 0..0, read: Arc::default() }
    }

    pub fn split(&self) -> io::Result<Split> {
        split(&(Arc::new(self.clone()) as Arc<dyn Source>))
    }

    pub fn bytes_read(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }
}

impl Source for Virtual {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.read.fetch_add(buf.len() as u64, Ordering::Relaxed);
        let end =
            offset.checked_add(buf.len() as u64).filter(|end| *end <= self.size).ok_or(io::ErrorKind::UnexpectedEof)?;
        if offset < self.broken.end && end > self.broken.start {
            return Err(io::Error::other("the disk is broken"));
        }
        let tail = self.size - self.tail.len() as u64;
        if let Some(held) = self.head.get(offset as usize..).and_then(|held| held.get(..buf.len())) {
            buf.copy_from_slice(held);
            return Ok(());
        }
        for (at, byte) in (offset..end).zip(buf) {
            *byte = if let Some(head) = self.head.get(at as usize) {
                *head
            } else if at >= tail {
                self.tail[(at - tail) as usize]
            } else {
                0
            };
        }
        Ok(())
    }
}

#[test]
fn lying_safetensors_headers_make_the_file_opaque() {
    let tensor = |name: &str, dtype: &str, shape: &str, begin: u64, end: u64| {
        format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{begin},{end}]}}"#)
    };
    let dims = format!("[{}]", vec!["1"; 65].join(","));
    let max = u64::MAX;
    let bodies = [
        ("overlap", [tensor("a", "U8", "[8]", 0, 8), tensor("b", "U8", "[8]", 7, 15)].join(",")),
        ("same range", [tensor("a", "U8", "[8]", 0, 8), tensor("b", "U8", "[8]", 0, 8)].join(",")),
        ("same name", [tensor("a", "U8", "[8]", 0, 8), tensor("a", "U8", "[8]", 8, 16)].join(",")),
        ("past the end", tensor("a", "U8", "[65]", 0, 65)),
        ("far past the end", tensor("a", "U8", "[9223372036854775808]", 0, 1 << 63)),
        ("sum wraps", tensor("a", "U8", "[1]", max - 1, max)),
        ("backwards", tensor("a", "U8", "[8]", 16, 8)),
        ("not its size", tensor("a", "F32", "[8]", 0, 8)),
        ("elements overflow", tensor("a", "U8", "[4294967296,4294967296,16]", 0, 0)),
        ("bits overflow", tensor("a", "F64", "[1152921504606846976]", 0, 0)),
        ("negative", tensor("a", "U8", "[-1]", 0, 8)),
        ("fraction", tensor("a", "U8", "[8.0]", 0, 8)),
        ("too many dimensions", tensor("a", "U8", &dims, 0, 1)),
        ("twice", r#""a":{"dtype":"U8","dtype":"U8","shape":[8],"data_offsets":[0,8]}"#.into()),
        ("no offsets", r#""a":{"dtype":"U8","shape":[8]}"#.into()),
        ("three offsets", r#""a":{"dtype":"U8","shape":[8],"data_offsets":[0,8,9]}"#.into()),
        ("not an object", r#""a":[]"#.into()),
        ("deep", format!(r#""__metadata__":{}"#, "[".repeat(5000))),
    ];
    for (what, body) in bodies {
        let file = with_header(&format!("{{{body}}}"), 64);
        assert_eq!(split_of(&file).format, Format::Opaque, "{what}");
        rebuild(&[&file]);
    }
    for header in ["{", "{]", "{}x", "{}{}", "{\"a", "{\"\u{fffd}", "{ "] {
        assert_eq!(split_of(&with_header(header, 64)).format, Format::Opaque, "{header}");
    }
}

#[test]
fn an_impossible_header_length_is_not_read() {
    for len in [0u64, 1, 57, 1 << 25 | 1, 100_000_001, i64::MAX as u64, u64::MAX] {
        let head = [&len.to_le_bytes()[..], b"{}"].concat();
        let small = Virtual::new(64, &head, b"");
        assert_eq!(small.split().unwrap().format, Format::Opaque);
        assert_eq!(small.bytes_read(), HEAD_BYTES as u64, "length {len}");
    }
}

#[test]
fn no_size_of_a_file_is_too_large() {
    let real = safetensors_file(&[("a", "U8", &[8])]);
    let torch = torch_file("a", &[("data/0", bytes(1, 50))], true);
    for size in [1 << 40, i64::MAX as u64, 1 << 63, u64::MAX] {
        for (head, tail) in
            [(&b""[..], &b""[..]), (&real, b""), (&torch, b""), (b"PK\x03\x04", &torch), (&torch, &torch)]
        {
            let source = Virtual::new(size, head, tail);
            let split = source.split().unwrap();
            assert!(check_tiling(size, &split.segments));
            assert!(source.bytes_read() < 1 << 20);
        }
    }
}

#[test]
fn more_chunks_than_a_table_counts_are_an_error_and_no_allocation() {
    let source = Virtual::new(1 << 62, b"", b"");
    let kind = Kind::Tensor { name: "a".into(), dtype: None, shape: None };
    let split = Split { format: Format::Safetensors, segments: vec![Segment { len: 1 << 62, kind }], views: vec![] };
    assert_eq!(lay_out(&[(&source, &split)]).unwrap_err().kind(), io::ErrorKind::InvalidInput);
}

#[test]
fn only_a_failed_read_is_an_error() {
    let torch = torch_file("a", &[("data/0", bytes(1, 5000))], true);
    let two = dcp(&[bytes(1, 50), bytes(2, 50)], true);
    let tensors = safetensors_file(&[("a", "U8", &[8])]);
    for file in [&tensors, &torch, &two, &bytes(1, 70_000)] {
        let mut source = Virtual::new(file.len() as u64, file, b"");
        let whole = source.split().unwrap();
        let mut failed = 0;
        for broken in (0..source.size).step_by(20) {
            source.broken = broken..broken + 1;
            match source.split() {
                Err(failure) => {
                    failed += 1;
                    assert_eq!(failure.to_string(), "the disk is broken");
                }
                Ok(split) => assert_eq!(split, whole, "a failed read changed the answer"),
            }
        }
        assert!(failed > 0);
    }
    let mut source = Virtual::new(200_000, b"", b"");
    let mut split =
        Split { format: Format::Opaque, segments: vec![Segment { len: 200_000, kind: Kind::Opaque }], views: vec![] };
    source.broken = 150_000..150_001;
    assert!(lay_out(&[(&source, &split)]).is_err());
    source.broken = 40_000..40_001;
    split.segments[0].len = 50_000;
    assert!(lay_out(&[(&source, &split)]).is_err());
}

#[test]
fn lying_zip_directories_make_the_file_opaque() {
    type Lie = fn(&mut Entry);
    let honest = || vec![Entry::new("a/data.pkl", bytes(1, 100)), Entry::new("a/data/0", bytes(2, 70_000))];
    assert_eq!(split_of(&zip(&honest(), true)).format, Format::TorchZip);
    let lies: [(&str, Lie); 6] = [
        ("overlaps the next", |entry| (entry.stored_len, entry.raw_len) = (5000, 5000)),
        ("ends past the file", |entry| (entry.stored_len, entry.raw_len) = (1 << 30, 1 << 30)),
        ("ends past all files", |entry| (entry.stored_len, entry.raw_len) = (u64::MAX, u64::MAX)),
        ("begins at no header", |entry| entry.moved = 1),
        ("begins past the file", |entry| entry.moved = 1 << 40),
        ("begins past all files", |entry| entry.moved = u64::MAX - 10),
    ];
    for (what, lie) in lies {
        let mut entries = honest();
        lie(&mut entries[0]);
        let file = zip(&entries, true);
        assert_eq!(split_of(&file).format, Format::Opaque, "{what}");
        rebuild(&[&file]);
    }
    let mut two_at_one_place = honest();
    two_at_one_place.insert(1, Entry { name: "a/data/1".into(), ..two_at_one_place[0].clone() });
    let directory = zip(&two_at_one_place, true);
    assert_eq!(split_of(&directory).format, Format::TorchZip);
}

#[test]
fn a_million_entries_are_given_up_at_once() {
    for (entries, told) in [(1_000_000, 1_000_000), (ZIP_RECORDS_MAX as u64 + 1, 7), (1_000_000, 7)] {
        let mut file = zip(&[Entry::new("a/data.pkl", vec![])], false);
        let at = file.len() as u64;
        let mut directory = Vec::new();
        for _ in 0..entries {
            directory_entry(&mut directory, &Entry::new("", vec![]), 0, false);
        }
        file.extend(&directory);
        end_of_directory(&mut file, told, directory.len() as u64, at, told > 7);
        let source = Virtual::new(file.len() as u64, &file, b"");
        assert_eq!(source.split().unwrap().format, Format::Opaque);
        // Believed when it says too many; else 30 bytes for each record up to the limit, and its part of the directory.
        let most = if told > 7 { 0 } else { ZIP_RECORDS_MAX as u64 * 80 };
        assert!(source.bytes_read() < most + (1 << 20));
    }
}

#[test]
fn a_directory_of_long_names_is_not_held() {
    let mut file = zip(&[Entry::new("a/data.pkl", vec![])], false);
    let at = file.len() as u64;
    let mut directory = Vec::new();
    let long = Entry::new(&"n".repeat(65_535), vec![]);
    for _ in 0..1100 {
        directory_entry(&mut directory, &long, 0, false);
    }
    file.extend(&directory);
    end_of_directory(&mut file, 1100, directory.len() as u64, at, false);
    let source = Virtual::new(file.len() as u64, &file, b"");
    assert_eq!(source.split().unwrap().format, Format::Opaque);
    assert!(source.bytes_read() < 1 << 20);
}
