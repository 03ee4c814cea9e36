//! Files that are put together of a checkpoint's tensors: the same bytes as those that commands and frameworks write,
//! in whatever pieces they are read, and each chunk read once.
#![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use ckpt_store::limits::{CACHE_BYTES, UNREADABLE_REMEMBERED};
use ckpt_store::{Body, Content, Error, Manifest, OpenCheckpoint, OpenTensor, Quiet, ReadCache, Store};
use ckpt_tests::lab::{Lab, files, pack_lines};
use ckpt_tests::python::{python, run_python};
use ckpt_tests::sample;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

/// Tensors of every type and every way to lie, in files of torch, safetensors and NumPy.
const WRITE: &str = r"
import numpy, os, torch
from safetensors.torch import save_file
torch.manual_seed(1)
os.mkdir('source')
base = torch.randn(700, 900)
tensors = {
    'a.weight': torch.randn(1000, 600), 'a.transposed': base.T, 'a.base': base, 'a.tied': base,
    'b.expanded': torch.randn(300, 1).expand(300, 900), 'b.all_one': torch.ones(1).expand(5, 7),
    'b.columns': torch.randn(900, 800)[3:800, 10:710],
    'b.sliced': torch.randn(900, 800)[3:800, 10:710:3], 'b.permuted': torch.randn(7, 31, 61, 13).permute(3, 0, 2, 1),
    'c.empty': torch.zeros(0, 3), 'c.empty_too': torch.zeros(3, 0).T, 'c.scalar': torch.tensor(2.5),
    'd.bf16': torch.randn(300, 500).bfloat16(), 'd.bf16_T': torch.randn(900, 700).bfloat16().T,
    'd.fp8': torch.randn(64, 65).to(torch.float8_e4m3fn), 'd.fp8_T': torch.randn(64, 65).to(torch.float8_e5m2).T,
    'e.bool_T': (torch.randn(1100, 1200) > 0).T, 'e.bytes': torch.randint(0, 255, (1500, 1500), dtype=torch.uint8).T,
    'e.complex': torch.randn(40, 50, dtype=torch.complex64), 'e.complex_T': torch.randn(40, 50, dtype=torch.complex64).T,
    'f.half': torch.randn(33).half(), 'f.double_T': torch.randn(300, 200).double().T,
    'f.many_dims': torch.randn(2, 1, 3, 1, 2, 1, 2, 1, 3, 1, 2, 1, 1, 1, 1, 1), 'f.counter': torch.tensor(7), 'f.i16': torch.arange(-9, 9, dtype=torch.int16), 'f.channels_last':
    torch.randn(64, 32, 9, 9).to(memory_format=torch.channels_last),
}
torch.save(tensors, 'source/model.pt')
save_file({'head.weight': torch.randn(900, 700), 'head.bias': torch.randn(900)}, 'source/head.safetensors')
numpy.savez('source/more.npz', fortran=numpy.asfortranarray(numpy.random.default_rng(2).normal(size=(700, 500))),
    unsigned=numpy.arange(7, dtype='u4'))
";

/// Compares the views with what the frameworks say: each tensor of the one file, and each file of NumPy byte for byte
/// with what `numpy.save` writes.
const CHECK: &str = r"
import io, json, ml_dtypes, numpy, os, torch
from safetensors.torch import load_file
from urllib.parse import unquote
real = torch.load('source/model.pt')
real |= load_file('source/head.safetensors')
npz = numpy.load('source/more.npz')
real |= {name: torch.from_numpy(npz[name]) for name in npz.files}
whole = load_file('all.safetensors')
tied = {'a.tied': 'a.base'}
assert set(whole) | set(tied) == set(real), set(whole) ^ set(real)
for name, tensor in real.items():
    other = whole[tied.get(name, name)]
    assert (other.dtype, other.shape) == (tensor.dtype, tensor.shape), name
    assert other.contiguous().view(-1).view(torch.uint8).equal(tensor.contiguous().view(-1).view(torch.uint8)), name
lacking = {torch.bfloat16: (torch.int16, ml_dtypes.bfloat16), torch.float8_e4m3fn: (torch.uint8, ml_dtypes.float8_e4m3fn),
    torch.float8_e5m2: (torch.uint8, ml_dtypes.float8_e5m2)}
names = [unquote(name) for name in os.listdir('npy')]
assert sorted(names) == sorted(real), names
for name, tensor in real.items():
    tensor = tensor.contiguous()
    if tensor.dtype in lacking:
        alias, dtype = lacking[tensor.dtype]
        array = tensor.view(alias).numpy().view(dtype)
    else:
        array = tensor.numpy()
    path = f'npy/{name}'
    loaded = numpy.load(path)
    assert loaded.shape == array.shape and loaded.tobytes() == array.tobytes() and loaded.flags.c_contiguous, name
    mapped = numpy.load(path, mmap_mode='r' if array.size else None)
    assert mapped.tobytes() == array.tobytes(), name
    assert mapped.ctypes.data % 64 == 0 or not array.size, name
    if tensor.dtype == torch.float8_e5m2:
        # NumPy can't read the name that it writes for this one.
        assert loaded.dtype == 'V1' and (loaded.view(ml_dtypes.float8_e5m2) == array).all()
        continue
    to = io.BytesIO()
    numpy.save(to, array)
    assert to.getvalue() == open(path, 'rb').read(), name
print(json.dumps(len(real)))
";

/// A store with one checkpoint `r@1`.
struct Views {
    lab: Lab,
    manifest: Manifest,
}

impl Views {
    fn new() -> Self {
        let lab = Lab::quick();
        run_python(python().current_dir(lab.dir()).args(["-c", WRITE]));
        Self::of(lab)
    }

    /// Of what lies in `source`.
    fn of(lab: Lab) -> Self {
        lab.put(&[&lab.path("source")], "r", 1).unwrap();
        let store = lab.open();
        let manifest = store.manifest(store.resolve("r@1").unwrap().id).unwrap();
        Self { lab, manifest }
    }

    fn open(&self, cache_bytes: usize) -> OpenCheckpoint {
        let store = Arc::new(self.lab.open());
        store.open_checkpoint_in(store.resolve("r@1").unwrap().id, Arc::new(ReadCache::new(cache_bytes))).unwrap()
    }
}

fn read(open: &OpenCheckpoint, body: &Body, offset: u64, len: u64) -> ckpt_store::Result<Vec<u8>> {
    let slices = open.slices(body, offset, len, &Quiet)?;
    Ok(slices.iter().flat_map(|slice| slice.iter().copied()).collect())
}

/// All bytes of a body, in pieces of one length.
fn read_all(open: &OpenCheckpoint, body: &Body, piece: u64) -> Vec<u8> {
    let pieces = (0..body.len().div_ceil(piece)).map(|nr| read(open, body, nr * piece, piece).unwrap());
    pieces.flatten().collect()
}

/// Reads ranges that begin and end anywhere.
fn check_ranges(open: &OpenCheckpoint, body: &Body, bytes: &[u8], rng: &mut SmallRng, count: usize) {
    assert_eq!(body.len(), bytes.len() as u64);
    for _ in 0..count {
        let from = rng.random_range(0..bytes.len() + 10);
        let len = match rng.random_range(0..3) {
            0 => rng.random_range(0..200),
            1 => rng.random_range(0..200_000),
            _ => rng.random_range(0..3_000_000),
        };
        if rng.random_range(0..4) == 0 {
            open.bring(body, from as u64, len as u64, &Quiet).unwrap();
        }
        let to = bytes.len().min(from + len);
        let found = read(open, body, from as u64, len as u64).unwrap();
        assert!(found == bytes[from.min(to)..to], "{len} bytes from {from} on of {}", bytes.len());
    }
}

#[test]
fn a_checkpoint_is_one_safetensors_file_and_each_tensor_one_of_numpy() {
    let views = Views::new();
    let (lab, open) = (&views.lab, views.open(CACHE_BYTES));
    let exported = lab.ok(&[&"get", &"r@1", &"-", &"--as", &"safetensors"]).stdout;
    let body = Body::safetensors(&views.manifest).unwrap();
    let mut rng = SmallRng::seed_from_u64(1);
    check_ranges(&open, &body, &exported, &mut rng, 60);
    assert!(read_all(&open, &body, 128 << 10) == exported);
    lab.write("all.safetensors", &exported);
    let tensors = OpenTensor::all(&views.manifest);
    assert_eq!(tensors, open.tensors());
    for tensor in &tensors {
        let body = Body::npy(tensor).unwrap();
        let bytes = read_all(&open, &body, 300_000);
        lab.write(format!("npy/{}", tensor.name), &bytes);
        check_ranges(&open, &body, &bytes, &mut rng, 3);
    }
    let compared = run_python(python().current_dir(lab.dir()).args(["-c", CHECK]));
    assert_eq!(compared.trim(), tensors.len().to_string());
    assert!(tensors.len() >= 30);
}

#[test]
fn a_cache_that_holds_next_to_nothing_changes_no_byte() {
    let views = Views::new();
    let exported = views.lab.ok(&[&"get", &"r@1", &"-", &"--as", &"safetensors"]).stdout;
    let body = Body::safetensors(&views.manifest).unwrap();
    for cache_bytes in [0, 1 << 20, 3 << 20] {
        let open = views.open(cache_bytes);
        check_ranges(&open, &body, &exported, &mut SmallRng::seed_from_u64(cache_bytes as u64), 25);
    }
}

#[test]
fn rows_are_gathered_once_and_their_chunks_read_once() {
    let views = Views::new();
    let tensors = OpenTensor::all(&views.manifest);
    for name in ["a.transposed", "e.bytes", "b.permuted", "f.channels_last"] {
        let tensor = tensors.iter().find(|tensor| tensor.name == name).unwrap();
        let open = views.open(CACHE_BYTES);
        let body = Body::npy(tensor).unwrap();
        // From many sides at a time, in small pieces: each of them needs all chunks.
        let all: Vec<Vec<u8>> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..6)
                .map(|nr| {
                    scope.spawn({
                        let (open, body) = (&open, &body);
                        move || read_all(open, body, 20_000 + nr * 1000)
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(all.iter().all(|bytes| *bytes == all[0]), "{name}");
        let chunks = chunks_of(&views.manifest, tensor);
        assert_eq!(open.read_bytes(), chunks.values().sum::<u64>(), "{name}");
    }
}

/// The chunks that a tensor lies in, and their lengths.
fn chunks_of(manifest: &Manifest, tensor: &OpenTensor) -> BTreeMap<[u8; 32], u64> {
    let extents = manifest.extents(tensor.file).into_iter();
    let inside = extents.filter(|extent| {
        extent.file_at < tensor.offset + tensor.len && extent.file_at + u64::from(extent.len) > tensor.offset
    });
    let len = |chunk: u32| u64::from(manifest.chunk_lens[chunk as usize]);
    inside.map(|extent| (manifest.chunk_id(extent.chunk as usize).0, len(extent.chunk))).collect()
}

#[test]
fn what_a_format_lacks_is_refused_as_an_export_is() {
    let lab = Lab::quick();
    let script = "import os, torch; os.mkdir('source'); torch.save({'c': torch.ones(90, 80, dtype=torch.complex128).T, \
        'conj': torch.ones(9, dtype=torch.cfloat).conj()}, 'source/m.pt')";
    run_python(python().current_dir(lab.dir()).args(["-c", script]));
    lab.write("source/q.safetensors", &ckpt_tests::lab::safetensors(&[("block", "Q9_X", &[7; 50_000])]));
    let header = r#"{"four":{"dtype":"F4","shape":[200,500],"data_offsets":[0,50000]}}"#;
    let four = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &[7; 50_000]].concat();
    lab.write("source/four.safetensors", &four);
    let views = Views::of(lab);
    let refused = Body::safetensors(&views.manifest).unwrap_err();
    assert!(matches!(refused, Error::UnsuitedTensor { .. }), "{refused}");
    let exported = views.lab.run(&[&"get", &"r@1", &"-", &"--as", &"safetensors"]);
    assert_eq!((exported.code, &*exported.stdout), (Some(1), &b""[..]));
    assert!(exported.stderr.contains(&refused.to_string()), "{refused}: {exported:?}");
    let tensors = OpenTensor::all(&views.manifest);
    let sound: Vec<_> = tensors.iter().filter(|tensor| Body::npy(tensor).is_ok()).map(|tensor| &*tensor.name).collect();
    assert_eq!(sound, ["c"]);
    let why =
        |name: &str| Body::npy(tensors.iter().find(|tensor| tensor.name == name).unwrap()).unwrap_err().to_string();
    assert!(why("block").contains("has the type Q9_X, which NumPy doesn't have"), "{}", why("block"));
    assert!(why("four").contains("has the type F4, which NumPy doesn't have"), "{}", why("four"));

    let lab = Lab::quick();
    lab.write("source/notes.txt", b"no tensor at all");
    assert!(matches!(Body::safetensors(&Views::of(lab).manifest), Err(Error::NotFound { .. })));
}

/// The raw bytes of the chunks of checkpoints, each counted once.
fn distinct(store: &Store, references: &[&str]) -> (u64, u64) {
    let mut seen = BTreeMap::new();
    for reference in references {
        let manifest = store.manifest(store.resolve(reference).unwrap().id).unwrap();
        seen.extend(manifest.chunks().map(|id| id.0).zip(manifest.chunk_lens.iter().map(|len| u64::from(*len))));
    }
    (seen.len() as u64, seen.values().sum())
}

fn bodies(manifest: &Manifest) -> Vec<Body> {
    (0..manifest.files.len() as u32).filter_map(|file| Body::of_file(manifest, file)).collect()
}

#[test]
fn checkpoints_that_share_a_cache_decode_what_they_share_once() {
    let lab = Lab::quick();
    let mut records: Vec<(u64, usize)> = (0..30).map(|nr| (nr, 90_000 + nr as usize)).collect();
    records.extend((100..300).map(|nr| (nr, 300)));
    lab.put(&[&lab.write("one/model.pt", &sample::torch_zip(&records))], "r", 1).unwrap();
    records[3].0 = 1000;
    let second = sample::torch_zip(&records);
    lab.put(&[&lab.write("two/model.pt", &second)], "r", 2).unwrap();
    let store = Arc::new(lab.open());
    let cache = Arc::new(ReadCache::new(256 << 20));
    let opened: Vec<OpenCheckpoint> = ["r@1", "r@2"]
        .iter()
        .map(|reference| store.open_checkpoint_in(store.resolve(reference).unwrap().id, Arc::clone(&cache)).unwrap())
        .collect();
    let body_of = |open: &OpenCheckpoint| bodies(&store.manifest(open.entry().id).unwrap()).remove(0);
    // By many threads at a time, all of which want all of it.
    std::thread::scope(|scope| {
        for nr in 0..12 {
            let (open, body) = (&opened[nr % 2], body_of(&opened[nr % 2]));
            scope.spawn(move || open.bring(&body, 0, body.len(), &Quiet).unwrap());
        }
    });
    assert_eq!(cache.decoded(), distinct(&store, &["r@1", "r@2"]));
    // Reading takes what is there; what was read whole may go.
    let bytes = read_all(&opened[1], &body_of(&opened[1]), 5 << 20);
    assert!(bytes == second);
    assert_eq!(cache.decoded(), distinct(&store, &["r@1", "r@2"]));
    std::thread::scope(|scope| {
        for nr in 0..8 {
            let (open, body, second) = (&opened[nr % 2], body_of(&opened[nr % 2]), &second);
            scope.spawn(move || {
                let bytes = read_all(open, &body, 50_000 * (nr as u64 + 1));
                assert!(nr % 2 == 0 || bytes == *second);
            });
        }
    });
    assert!(cache.bytes() <= cache.bytes_max());
    let (first, alone) = (distinct(&store, &["r@1"]).1, distinct(&store, &["r@1", "r@2"]).1);
    assert!(alone < first + first / 2, "they share next to nothing");
}

#[test]
fn what_a_file_takes_in_the_packs_is_told() {
    let lab = Lab::quick();
    // Two that are the same, some small ones that share chunks, and what compresses.
    let mut records: Vec<(u64, usize)> = vec![(1, 400_000), (1, 400_000), (2, 500_000)];
    records.extend((10..200).map(|nr| (nr, 400)));
    lab.write("source/model.pt", &sample::torch_zip(&records));
    lab.write("source/folder/same.pt", &sample::torch_zip(&records));
    lab.write("source/vocabulary.txt", "token ".repeat(90_000).as_bytes());
    lab.write("source/empty", b"");
    let views = Views::of(lab);
    let lines =
        files(&views.lab.store().join("packs")).into_iter().flat_map(|path| pack_lines(&fs::read(path).unwrap()));
    let stored: BTreeMap<[u8; 32], u64> = lines.map(|line| (line.chunk, line.stored_len as u64)).collect();
    let open = views.open(CACHE_BYTES);
    for (nr, file) in (0..).zip(open.files()) {
        let told = open.stored_bytes(nr, &Quiet);
        if !matches!(file.content, Content::File { .. }) {
            assert!(matches!(told, Err(Error::Invalid(_))), "{file:?}");
            continue;
        }
        let extents = views.manifest.extents(nr);
        let chunks: BTreeSet<_> =
            extents.iter().map(|extent| views.manifest.chunk_id(extent.chunk as usize).0).collect();
        assert_eq!(told.unwrap(), chunks.iter().map(|chunk| stored[chunk]).sum::<u64>(), "{file:?}");
        assert!(file.size() == 0 || chunks.iter().any(|chunk| stored[chunk] > 0), "{file:?}");
    }
    assert!(matches!(open.stored_bytes(99, &Quiet), Err(Error::Invalid(_))));
}

/// Damages the payload of one chunk.
fn damage(root: &Path, chunk: [u8; 32]) {
    for path in files(&root.join("packs")) {
        let mut pack = fs::read(&path).unwrap();
        let lines = pack_lines(&pack);
        for line in lines.iter().filter(|line| line.chunk == chunk) {
            pack[line.offset + line.stored_len / 2] ^= 1;
        }
        fs::write(&path, pack).unwrap();
    }
}

#[test]
fn damage_is_told_where_it_is_read_and_nowhere_else() {
    let views = Views::new();
    let body = Body::safetensors(&views.manifest).unwrap();
    let sound = read_all(&views.open(CACHE_BYTES), &body, 1 << 20);
    let tensors = OpenTensor::all(&views.manifest);
    let permuted = tensors.iter().find(|tensor| tensor.name == "a.transposed").unwrap();
    let chunk = *chunks_of(&views.manifest, permuted).iter().max_by_key(|(_, len)| **len).unwrap().0;
    damage(&views.lab.store(), chunk);
    let open = views.open(CACHE_BYTES);
    // Those that read ahead don't mind.
    open.bring(&body, 0, body.len(), &Quiet).unwrap();
    let mut damaged = 0;
    for at in (0..body.len()).step_by(50_000) {
        match read(&open, &body, at, 50_000) {
            Ok(bytes) => assert!(bytes == sound[at as usize..][..bytes.len()], "at {at}"),
            Err(Error::Damaged(places)) => {
                damaged += 1;
                assert_eq!((places.len(), &*places[0].file), (1, "model.pt"), "{places:?}");
                assert!(["a.base", "a.tied"].contains(&places[0].tensor.as_deref().unwrap()), "{places:?}");
            }
            Err(error) => panic!("{error}"),
        }
    }
    // All of the rows of one, since each has a byte in there, and a part of the other.
    assert!((50..110).contains(&damaged), "{damaged} pieces");
}

/// Who passes over damage in small pieces makes nobody read all of the chunk for each of them.
#[test]
fn a_damaged_chunk_is_looked_at_again_after_a_while_only() {
    let lab = Lab::quick();
    fs::create_dir(lab.path("source")).unwrap();
    lab.write("source/model.bin", &sample::noise(3, 900_000));
    let views = Views::of(lab);
    let path =
        files(&views.lab.store().join("packs")).into_iter().max_by_key(|path| path.metadata().unwrap().len()).unwrap();
    let good = fs::read(&path).unwrap();
    let chunk = pack_lines(&good).into_iter().max_by_key(|line| line.stored_len).unwrap().chunk;
    damage(&views.lab.store(), chunk);
    let open = views.open(CACHE_BYTES);
    let body = Body::of_file(&views.manifest, 0).unwrap();
    let at = (0..900_000).step_by(1000).find(|at| read(&open, &body, *at, 10).is_err()).unwrap();
    let started = Instant::now();
    let reason = || match read(&open, &body, at, 10) {
        Ok(bytes) => format!("{bytes:?}"),
        Err(Error::Damaged(places)) => places[0].reason.clone(),
        Err(error) => panic!("{error}"),
    };
    let first = reason();
    // Other damage, and then none: it is not looked at.
    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(100).unwrap();
    let second = reason();
    // A machine that stands still in between proves nothing.
    if Instant::now() < started + UNREADABLE_REMEMBERED {
        assert_eq!(second, first);
    }
    std::thread::sleep(UNREADABLE_REMEMBERED);
    assert_ne!(reason(), first);
    fs::write(&path, good).unwrap();
    std::thread::sleep(UNREADABLE_REMEMBERED);
    assert!(
        read(&open, &body, at, 10).unwrap()
            == fs::read(views.lab.path("source/model.bin")).unwrap()[at as usize..][..10]
    );
}

/// A transposed matrix that is larger than the cache: not all of it is decoded for each piece of it. One of which
/// columns were left out lies together, and nothing more is decoded of it than what is read.
#[test]
fn rows_of_what_the_cache_can_not_hold_are_gathered_several_blocks_at_a_time() {
    let lab = Lab::quick();
    let script = "import os, torch; os.mkdir('source'); torch.manual_seed(3)
a, b = torch.randn(2500, 2600), torch.randn(5000, 1250)
torch.save({'a': a.T, 'b': b[:, 10:]}, 'source/m.pt')
open('a', 'wb').write(a.T.contiguous().numpy().tobytes()); open('b', 'wb').write(b[:, 10:].contiguous().numpy().tobytes())";
    run_python(python().current_dir(lab.dir()).args(["-c", script]));
    let views = Views::of(lab);
    let tensors = OpenTensor::all(&views.manifest);
    let npy = |name: &str| Body::npy(tensors.iter().find(|tensor| tensor.name == name).unwrap()).unwrap();
    let (body, sliced) = (npy("a"), npy("b"));
    let plain = |name: &str| fs::read(views.lab.path(name)).unwrap();
    let open = views.open(16 << 20);
    let bytes = read_all(&open, &body, 100_000);
    assert!(bytes[bytes.len() - 26_000_000..] == plain("a"));
    // 25 blocks, four at a time.
    assert!(open.read_bytes() <= 8 * 26_000_000, "{} bytes were decoded of 26 MB", open.read_bytes());
    let open = views.open(16 << 20);
    let from = sliced.len() / 2;
    assert!(read(&open, &sliced, from, 1000).unwrap() == plain("b")[from as usize - 128..][..1000]);
    assert!(open.read_bytes() <= 4 << 20, "{} bytes were decoded for 1,000", open.read_bytes());
    // By many at a time, each its own part.
    let open = views.open(16 << 20);
    std::thread::scope(|scope| {
        for nr in 0..6_u64 {
            let (open, body, bytes) = (&open, &body, &bytes);
            scope.spawn(move || {
                for at in (nr * 4_000_000..(nr + 1) * 4_000_000).step_by(500_000) {
                    open.bring(body, at, 1_000_000, &Quiet).unwrap();
                    assert!(read(open, body, at, 500_000).unwrap() == bytes[at as usize..][..500_000]);
                }
            });
        }
    });
}

/// What lies in many small pieces is not held piece by piece.
#[test]
fn an_answer_of_many_pieces_has_few_slices() {
    let lab = Lab::quick();
    let records: Vec<(u64, usize)> = (0..5000).map(|nr| (nr, 60)).collect();
    let bytes = sample::torch_zip(&records);
    fs::create_dir(lab.path("source")).unwrap();
    lab.write("source/model.pt", &bytes);
    let views = Views::of(lab);
    let open = views.open(CACHE_BYTES);
    let body = Body::of_file(&views.manifest, 0).unwrap();
    let pieces = views.manifest.extents(0).len();
    let slices = open.slices(&body, 0, 1 << 20, &Quiet).unwrap();
    assert!(pieces > 1000 && slices.len() < 100, "{} slices of {pieces} pieces", slices.len());
    assert!(slices.iter().flat_map(|slice| slice.iter()).eq(&bytes[..bytes.len().min(1 << 20)]));
}
