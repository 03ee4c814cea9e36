//! The library's rooms below the index, compiled a second time by path so that no RocksDB is involved, and what the
//! fuzz targets share. Never a copy of the code: what is fuzzed is what runs.

#![allow(dead_code, missing_docs, unused_imports, reason = "the targets use a part of each room")]

use std::collections::HashSet;
use std::io;
use std::sync::Arc;

#[path = "../../store/src/backend/mod.rs"]
pub mod backend;
#[path = "../../store/src/catalog/mod.rs"]
pub mod catalog;
#[path = "../../store/src/codec/mod.rs"]
pub mod codec;
#[path = "../../store/src/error.rs"]
pub mod error;
#[path = "../../store/src/format/mod.rs"]
pub mod format;
#[path = "../../store/src/id.rs"]
pub mod id;
#[path = "../../store/src/limits.rs"]
pub mod limits;
#[path = "../../fuse/src/mountinfo/mod.rs"]
pub mod mountinfo;
#[path = "../../store/src/names/mod.rs"]
pub mod names;
#[path = "../../store/src/packs.rs"]
pub mod packs;
#[path = "../../store/src/pickle/mod.rs"]
pub mod pickle;
#[path = "../../store/src/progress.rs"]
pub mod progress;
#[path = "../../store/src/session.rs"]
pub mod session;
#[path = "../../store/src/space.rs"]
pub mod space;
#[path = "../../store/src/split/mod.rs"]
pub mod split;

// The names by which the rooms know each other, as in the library's lib.rs.
pub use error::{Damage, Error, Result, Thing};
pub use format::catalog::Entry;
pub use format::manifest::{Content, File, Manifest, Segment, Tensor, View};
pub use format::tensors::TensorRef;
pub use id::{CatalogId, CheckpointId, ChunkId, InvalidId, PackId, SessionId, StoreId};
pub use progress::{Notice, Progress, Quiet, Stage};

use backend::{Backend, Family, Key, NewObject, Object};
use split::Source;

/// The id that everything fuzzed has: 16 bytes of 1.
pub const ID: [u8; 16] = [1; 16];

/// Bytes as a file that is stored.
pub struct Bytes<'a>(pub &'a [u8]);

impl Bytes<'_> {
    fn range(&self, len: usize, offset: u64) -> Option<&[u8]> {
        let start = usize::try_from(offset).ok()?;
        self.0.get(start..start.checked_add(len)?)
    }
}

impl Source for Bytes<'_> {
    fn size(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        buf.copy_from_slice(self.range(buf.len(), offset).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

impl Object for Bytes<'_> {
    fn size(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        Source::read_exact_at(self, buf, offset).map_err(|error| Error::io("read", "memory".as_ref(), error))
    }
}

impl Source for Owned {
    fn size(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        Source::read_exact_at(&Bytes(&self.0), buf, offset)
    }
}

/// A store that has a HEAD and a catalog, and takes nothing.
pub struct HeadOnly {
    pub head: Vec<u8>,
    pub catalog: Vec<u8>,
}

/// Bytes that are kept.
pub struct Owned(pub Vec<u8>);

impl Object for Owned {
    fn size(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        Object::read_exact_at(&Bytes(&self.0), buf, offset)
    }
}

impl Backend for HeadOnly {
    fn open(&self, key: Key) -> Result<Option<Box<dyn Object>>> {
        Ok(match key {
            Key::Head => Some(Box::new(Owned(self.head.clone()))),
            Key::Catalog(_) => Some(Box::new(Owned(self.catalog.clone()))),
            _ => None,
        })
    }
    fn create(&self, _: Key, _: &str) -> Result<Box<dyn NewObject>> {
        Err(Error::Interrupted)
    }
    fn swap_head(&self, _: &[u8], _: &[u8]) -> Result<bool> {
        Ok(false)
    }
    fn list(&self, _: Family) -> Result<Vec<(Key, u64)>> {
        Ok(Vec::new())
    }
    fn make_durable(&self, _: Key) -> Result<()> {
        Ok(())
    }
    fn delete(&self, _: Key) -> Result<()> {
        Ok(())
    }
    fn sweep_unpublished(&self, _: &dyn Fn() -> Result<HashSet<String>>, _: bool) -> Result<u64> {
        Ok(0)
    }
}

/// An object of JSON with the hash that it should have, as FORMAT and HEAD are.
pub fn hashed_json(name: &str, body: &[u8]) -> Vec<u8> {
    let mut bytes = format!("{{\"blake3\":\"{}\",\"{name}\":", blake3::hash(body).to_hex()).into_bytes();
    bytes.extend_from_slice(body);
    bytes.extend_from_slice(b"}\n");
    bytes
}

/// An envelope around a payload as it is once unpacked, with the right id and hash.
pub fn sealed(magic: &[u8; 8], payload: &[u8]) -> Vec<u8> {
    let mut bytes = magic.to_vec();
    bytes.extend_from_slice(&[1, 0, 0, 0, 0, 0, 0, 0]);
    bytes.extend_from_slice(&ID);
    bytes.extend_from_slice(&ID);
    bytes.extend_from_slice(&(payload.len() as u64).to_le_bytes());
    bytes.extend_from_slice(&zstd::bulk::compress(payload, 1).unwrap_or_default());
    rehashed(bytes)
}

/// Adds the BLAKE3 that an envelope ends with.
pub fn rehashed(mut bytes: Vec<u8>) -> Vec<u8> {
    let check = blake3::hash(&bytes);
    bytes.extend_from_slice(check.as_bytes());
    bytes
}

/// A stored zip as `torch.save` writes it.
pub fn zip(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let (mut file, mut directory) = (Vec::new(), Vec::new());
    for (name, bytes) in entries {
        let (size, at) = ((bytes.len() as u32).to_le_bytes(), (file.len() as u32).to_le_bytes());
        let name_len = (name.len() as u16).to_le_bytes();
        let common = [&[20, 0, 0, 0][..], &[0; 10], &size, &size, &name_len, &[0, 0]].concat();
        file.extend([&b"PK\x03\x04"[..], &common, name.as_bytes(), bytes].concat());
        directory.extend([&b"PK\x01\x02\x14\x00"[..], &common, &[0; 10], &at, name.as_bytes()].concat());
    }
    let count = (entries.len() as u16).to_le_bytes();
    let (len, at) = ((directory.len() as u32).to_le_bytes(), (file.len() as u32).to_le_bytes());
    let end = [&b"PK\x05\x06\0\0\0\0"[..], &count, &count, &len, &at, &[0, 0]].concat();
    [file, directory, end].concat()
}

/// The three pickles that every legacy torch file begins with.
pub const LEGACY_HEAD: &[u8] =
    b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.\x80\x02}X\x0d\0\0\0little_endian\x88s.";

/// A pickle that names a tensor of two rows of `F32` in storage `0`, its transposed, and one number.
pub fn tensor_pickle() -> Vec<u8> {
    let one = |name: &str, (shape, strides): (&[u8], &[u8])| {
        let text = |text: &str| [&b"X"[..], &(text.len() as u32).to_le_bytes(), text.as_bytes()].concat();
        let ints =
            |ints: &[u8]| [b"(".to_vec(), ints.iter().flat_map(|int| [b'K', *int]).collect(), b"t".to_vec()].concat();
        let storage =
            [b"(", &text("storage")[..], b"ctorch\nFloatStorage\n", &text("0"), &text("cpu"), b"K\x64tQ"].concat();
        let args =
            [b"(", &storage[..], b"K\0", &ints(shape), &ints(strides), b"\x89ccollections\nOrderedDict\n)Rt"].concat();
        [&text(name)[..], b"ctorch._utils\n_rebuild_tensor_v2\n", &args, b"R"].concat()
    };
    let tensors = [one("w", (&[2, 50], &[50, 1])), one("t", (&[50, 2], &[1, 50])), one("n", (&[], &[]))].concat();
    [&b"\x80\x02}("[..], &tensors, b"u."].concat()
}

/// A file of a distributed checkpoint: two archives on end, with a storage of 100 `F32` each.
pub fn distcp() -> Vec<u8> {
    zip(&[("m/data.pkl", &tensor_pickle()), ("m/data/0", &[1; 400])]).repeat(2)
}

/// Splits and lays out a file; whatever its bytes are, segments tile it and every byte has one place.
pub fn split_and_lay_out(file: &[u8]) -> split::Split {
    let source: Arc<dyn Source> = Arc::new(Owned(file.to_vec()));
    let split = split::split(&source).expect("memory can be read");
    assert!(split::check_tiling(file.len() as u64, &split.segments), "segments tile the file: {split:?}");
    for view in &split.views {
        assert!(
            view.offset.checked_add(view.len).is_some_and(|end| end <= file.len() as u64),
            "{view:?} is in the file"
        );
    }
    let layout = split::lay_out(&[(&*source, &split)]).expect("memory can be read");
    let mut covered = vec![0_u8; file.len()];
    let mut cover = |range: &split::Range| {
        let start = usize::try_from(range.offset).expect("it is in the file");
        covered[start..start + range.len as usize].iter_mut().for_each(|count| *count += 1);
    };
    layout.inline.iter().for_each(&mut cover);
    for (at, chunk) in layout.chunks.iter().enumerate() {
        let ranges = layout.ranges(at);
        let total: u64 = ranges.iter().map(|range| u64::from(range.len)).sum();
        assert_eq!(total, u64::from(chunk.len), "the ranges of chunk {at} are its length");
        assert!(total > 0 && total <= limits::CHUNK_BYTES_MAX as u64, "chunk {at} has {total} bytes");
        ranges.iter().for_each(&mut cover);
    }
    assert!(covered.iter().all(|count| *count == 1), "every byte has one place");
    split
}
