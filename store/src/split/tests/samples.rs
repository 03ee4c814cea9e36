//! Files to split, built by hand so that every field can lie, and the way back from a layout to files.

use super::super::*;

/// These bytes as a file.
pub fn source(bytes: &[u8]) -> Arc<dyn Source> {
    Arc::new(Bytes(bytes.to_vec()))
}

struct Bytes(pub Vec<u8>);

impl Source for Bytes {
    fn size(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let from = usize::try_from(offset).ok().and_then(|at| self.0.get(at..)).and_then(|rest| rest.get(..buf.len()));
        buf.copy_from_slice(from.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

/// Bytes that look random, always the same for one seed (splitmix64).
pub fn bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x2545_f491_4f6c_dd1d);
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = state;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        out.extend_from_slice(&(word ^ (word >> 31)).to_le_bytes());
    }
    out.truncate(len);
    out
}

/// A safetensors file written by the safetensors crate itself.
pub fn safetensors_file(tensors: &[(&str, &str, &[usize])]) -> Vec<u8> {
    use ::safetensors::tensor::TensorView;
    let data: Vec<_> = tensors
        .iter()
        .zip(1..)
        .map(|((_, dtype, shape), seed)| {
            let bits = shape.iter().product::<usize>() * Dtype::parse(dtype).unwrap().bits() as usize;
            bytes(seed, bits / 8)
        })
        .collect();
    let views = tensors.iter().zip(&data).map(|((name, dtype, shape), data)| {
        let dtype = serde_json::from_str(&format!("\"{dtype}\"")).unwrap();
        (*name, TensorView::new(dtype, shape.to_vec(), data).unwrap())
    });
    ::safetensors::serialize(views, None).unwrap()
}

/// A safetensors file of this header and so many bytes of data.
pub fn with_header(header: &str, data: usize) -> Vec<u8> {
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(header.as_bytes());
    file.extend(bytes(header.len() as u64, data));
    file
}

/// One member of a zip. The fields are what the central directory says of it.
#[derive(Clone)]
pub struct Entry {
    pub name: String,
    pub data: Vec<u8>,
    pub method: u16,
    pub flags: u16,
    pub stored_len: u64,
    pub raw_len: u64,
    /// Added to the place of the local header.
    pub moved: u64,
}

impl Entry {
    pub fn new(name: &str, data: Vec<u8>) -> Self {
        let len = data.len() as u64;
        Self { name: name.into(), data, method: 0, flags: 8, stored_len: len, raw_len: len, moved: 0 }
    }
}

/// A zip as torch writes it: data aligned to 64, zero sizes in the local headers, sizes behind the data.
pub fn zip(entries: &[Entry], zip64: bool) -> Vec<u8> {
    let mut file = Vec::new();
    let mut directory = Vec::new();
    for entry in entries {
        let at = file.len() as u64 + entry.moved;
        let name = entry.name.as_bytes();
        let padding = (64 - (file.len() + 30 + name.len() + 4) % 64) % 64;
        file.extend(b"PK\x03\x04\x14\0");
        for number in [entry.flags, entry.method, 0, 0, 0, 0, 0, 0, 0, 0, name.len() as u16, 4 + padding as u16] {
            file.extend(number.to_le_bytes());
        }
        file.extend(name);
        file.extend(b"FB");
        file.extend((padding as u16).to_le_bytes());
        file.extend(vec![b'Z'; padding]);
        file.extend(&entry.data);
        file.extend(b"PK\x07\x08\0\0\0\0");
        file.extend((entry.data.len() as u32).to_le_bytes());
        file.extend((entry.data.len() as u32).to_le_bytes());
        directory_entry(&mut directory, entry, at, zip64);
    }
    let at = file.len() as u64;
    file.extend(&directory);
    end_of_directory(&mut file, entries.len() as u64, directory.len() as u64, at, zip64);
    file
}

pub fn directory_entry(directory: &mut Vec<u8>, entry: &Entry, at: u64, zip64: bool) {
    directory.extend(b"PK\x01\x02\x14\0\x14\0");
    for number in [entry.flags, entry.method, 0, 0, 0, 0] {
        directory.extend(number.to_le_bytes());
    }
    let mut extra = Vec::new();
    for number in [entry.stored_len, entry.raw_len] {
        directory.extend(if zip64 { u32::MAX } else { number as u32 }.to_le_bytes());
    }
    if zip64 {
        extra.extend(b"\x01\0\x18\0");
        for number in [entry.raw_len, entry.stored_len, at] {
            extra.extend(number.to_le_bytes());
        }
    }
    for number in [entry.name.len() as u16, extra.len() as u16, 0, 0, 0, 0, 0] {
        directory.extend(number.to_le_bytes());
    }
    directory.extend(if zip64 { u32::MAX } else { at as u32 }.to_le_bytes());
    directory.extend(entry.name.as_bytes());
    directory.extend(extra);
}

pub fn end_of_directory(file: &mut Vec<u8>, entries: u64, len: u64, at: u64, zip64: bool) {
    if zip64 {
        let end64 = file.len() as u64;
        file.extend(b"PK\x06\x06\x2c\0\0\0\0\0\0\0\x2d\0\x2d\0\0\0\0\0\0\0\0\0");
        // Relative to where the archive begins, which is how several on end are found.
        for number in [entries, entries, len, at] {
            file.extend(number.to_le_bytes());
        }
        file.extend(b"PK\x06\x07\0\0\0\0");
        file.extend(end64.to_le_bytes());
        file.extend(1u32.to_le_bytes());
    }
    file.extend(b"PK\x05\x06\0\0\0\0");
    file.extend((entries.min(0xffff) as u16).to_le_bytes());
    file.extend((entries.min(0xffff) as u16).to_le_bytes());
    file.extend((len as u32).to_le_bytes());
    file.extend((at as u32).to_le_bytes());
    file.extend(0u16.to_le_bytes());
}

pub fn torch_file(stem: &str, records: &[(&str, Vec<u8>)], zip64: bool) -> Vec<u8> {
    let mut entries = vec![
        Entry::new(&format!("{stem}/data.pkl"), bytes(100, 500)),
        Entry::new(&format!("{stem}/byteorder"), b"little".to_vec()),
    ];
    entries.extend(records.iter().map(|(name, data)| Entry::new(&format!("{stem}/{name}"), data.clone())));
    entries.push(Entry::new(&format!("{stem}/version"), b"3\n".to_vec()));
    entries.push(Entry::new(&format!("{stem}/.data/serialization_id"), bytes(101, 40)));
    zip(&entries, zip64)
}

/// One torch file for each part on end, as `torch.distributed.checkpoint` writes them.
pub fn dcp(parts: &[Vec<u8>], zip64: bool) -> Vec<u8> {
    parts.iter().flat_map(|part| torch_file("archive", &[("data/0", part.clone())], zip64)).collect()
}

/// The segments in words.
pub fn segments(split: &Split) -> Vec<(u64, String)> {
    let words = |kind: &Kind| match kind {
        Kind::Literal => "literal".into(),
        Kind::Opaque => "opaque".into(),
        Kind::Tensor { name, dtype, shape } => {
            let dtype = dtype.as_ref().map_or("?".into(), ElementType::to_string);
            let shape = shape.as_ref().map_or("?".into(), |shape| format!("{shape:?}"));
            format!("{name} {dtype} {shape}")
        }
        Kind::Storage { dtype } => format!("storage {}", dtype.map_or("?", Dtype::name)),
    };
    split.segments.iter().map(|segment| (segment.len, words(&segment.kind))).collect()
}

/// Splits the files and lays them out, twice; checks every promise of a layout and that it gives the files back.
pub fn rebuild(files: &[&[u8]]) -> (Vec<Split>, Layout) {
    let splits: Vec<_> = files.iter().map(|file| split(&source(file)).unwrap()).collect();
    let layout = rebuild_from(files, &splits);
    (splits, layout)
}

pub fn rebuild_from(files: &[&[u8]], splits: &[Split]) -> Layout {
    let sources: Vec<_> = files.iter().map(|file| source(file)).collect();
    let input: Vec<(&dyn Source, &Split)> = sources.iter().map(|source| &**source).zip(splits).collect();
    let layout = lay_out(&input).unwrap();
    assert_eq!(lay_out(&input).unwrap(), layout, "not the same plan twice");
    let gather = |ranges: &[Range]| {
        let parts = ranges.iter().map(|range| {
            assert!(range.len > 0);
            &files[range.file as usize][range.offset as usize..][..range.len as usize]
        });
        parts.collect::<Vec<_>>().concat()
    };
    let chunks: Vec<_> = (0..layout.chunks.len()).map(|chunk| gather(layout.ranges(chunk))).collect();
    for (chunk, planned) in chunks.iter().zip(&layout.chunks) {
        assert!((1..=crate::limits::CHUNK_BYTES_MAX).contains(&chunk.len()) && chunk.len() == planned.len as usize);
    }
    let inline = gather(&layout.inline);
    assert!(inline.len() <= crate::limits::INLINE_BYTES_MAX);
    assert_eq!(
        chunks.iter().map(Vec::len).sum::<usize>() + inline.len(),
        files.iter().map(|file| file.len()).sum::<usize>(),
        "every byte is in exactly one place"
    );
    for ((file, split), placements) in files.iter().zip(splits).zip(&layout.placements) {
        assert!(check_tiling(file.len() as u64, &split.segments));
        assert_eq!(placements.len(), split.segments.len());
        let mut back: Vec<u8> = Vec::new();
        for (segment, placement) in split.segments.iter().zip(placements) {
            let end = back.len() + segment.len as usize;
            match *placement {
                Placement::Inline { at } => back.extend(&inline[at as usize..][..segment.len as usize]),
                Placement::Chunks { chunk, at } => {
                    let (mut chunk, mut at) = (chunk as usize, at as usize);
                    while back.len() < end {
                        let take = (end - back.len()).min(chunks[chunk].len() - at);
                        back.extend(&chunks[chunk][at..at + take]);
                        (chunk, at) = (chunk + 1, 0);
                    }
                }
            }
        }
        assert!(back == **file, "a file came back changed");
    }
    layout
}
