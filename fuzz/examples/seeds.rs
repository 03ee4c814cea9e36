//! Makes the corpora that the targets begin with, in `corpus/TARGET/`: from the golden store and from small made files. Never
//! touches anything else.

use std::fs;
use std::path::{Path, PathBuf};

use ckpt_fuzz::codec::{Codec, Encoder, Hint};
use ckpt_fuzz::split::Dtype;
use ckpt_fuzz::{LEGACY_HEAD, distcp, tensor_pickle, zip};

fn main() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR"));
    let golden = fuzz.join("../tests/golden/v1/store");
    let mut seeds = Seeds { root: fuzz.join("corpus"), count: 0 };

    let (head, format) = (read(&golden.join("HEAD")), read(&golden.join("FORMAT")));
    seeds.add("head", body_of(&head));
    seeds.add("head", &head);
    seeds.add("format", body_of(&format));
    seeds.add("format", &format);
    for (target, folder) in [("manifest", "checkpoints"), ("catalog", "catalog")] {
        for path in files(&golden.join(folder)) {
            let stored = read(&path);
            seeds.add("envelope", &stored[..stored.len() - 32]);
            let raw_len = u64::from_le_bytes(stored[48..56].try_into().expect("8 bytes"));
            let payload = &stored[56..stored.len() - 32];
            let raw = zstd::bulk::decompress(payload, raw_len as usize).expect("a golden object unpacks");
            // The targets give everything one id.
            let id = path.file_name().expect("a name").to_string_lossy().into_owned();
            let mine = ckpt_fuzz::CheckpointId::from_bytes(ckpt_fuzz::ID).to_string();
            seeds.add(target, &replaced(&raw, id.as_bytes(), mine.as_bytes()));
            if target == "catalog" {
                seeds.add("head", &[body_of(&head), b"\0", &raw].concat());
            }
        }
    }
    for folder in folders(&golden.join("packs")) {
        for path in files(&folder) {
            let pack = read(&path);
            seeds.add("pack", &pack);
            for at in (0..pack.len().saturating_sub(64)).step_by(64).filter(|at| pack[*at..].starts_with(b"CKRC")) {
                seeds.add("record", &[&(at as u32).to_le_bytes()[..], &pack[at..at + 64]].concat());
            }
        }
    }
    let pin = ckpt_fuzz::CheckpointId::from_bytes([7; 16]);
    let packs = [ckpt_fuzz::PackId::from_bytes([8; 16])].into();
    let manifest = ckpt_fuzz::Manifest {
        store: ckpt_fuzz::StoreId::from_bytes(ckpt_fuzz::ID),
        id: ckpt_fuzz::CheckpointId::from_bytes(ckpt_fuzz::ID),
        run: String::new(),
        step: None,
        time_ms: 0,
        metrics: [].into(),
        meta: [].into(),
        root: None,
        chunk_ids: serde_bytes::ByteBuf::from(vec![3; 64]),
        chunk_lens: vec![100, 50],
        inline: serde_bytes::ByteBuf::from(vec![4; 9]),
        files: vec![ckpt_fuzz::File {
            path: serde_bytes::ByteBuf::from(b"a.distcp".to_vec()),
            mode: 0o644,
            mtime_ms: 1,
            content: ckpt_fuzz::Content::File {
                size: 159,
                format: "torch zip".into(),
                segments: vec![
                    ckpt_fuzz::Segment(9, None, 0, None),
                    ckpt_fuzz::Segment(150, Some(0), 0, Some(ckpt_fuzz::Tensor("w".into(), None, None))),
                ],
                views: vec![],
            },
        }],
    };
    let session = ckpt_fuzz::SessionId::from_bytes(ckpt_fuzz::ID);
    let (new_chunks, added_bytes, written_bytes) = (2, 150, 400);
    let written = std::collections::BTreeSet::clone(&packs);
    let part = ckpt_fuzz::format::part::Part {
        session,
        epoch: 1,
        packs,
        written,
        new_chunks,
        added_bytes,
        written_bytes,
        manifest,
    };
    let part = part.to_bytes().expect("a part can be written");
    let raw_len = u64::from_le_bytes(part[48..56].try_into().expect("8 bytes")) as usize;
    seeds.add("part", &zstd::bulk::decompress(&part[56..part.len() - 32], raw_len).expect("it unpacks"));
    seeds.add("part", &part);
    seeds.add("session", b"{\"session\":{\"what\":\"prepare\",\"pid\":1}}\n{\"pin_packs\":[]}\n");
    seeds.add("session", format!("{{\"session\":{{\"what\":\"get\",\"pid\":1}}}}\n{{\"pin\":\"{pin}\"}}\n").as_bytes());
    for text in
        ["a/b@1", "a/b@latest", "a/b@best", "a/b@best:val_loss:min", "a/b@good", "ü", &pin.to_string(), "@", "a/b@"]
    {
        seeds.add("refs", text.as_bytes());
    }

    let floats: Vec<u8> = (0..4096_u32).flat_map(|nr| (nr as f32).sin().to_le_bytes()).collect();
    let text = b"def forward(self, x): return self.linear(x)\n".repeat(40);
    let mut encoder = Encoder::new();
    let all = [Hint::Unknown, Hint::Text, Hint::Dtype(Dtype::F32), Hint::Dtype(Dtype::BF16), Hint::Dtype(Dtype::I64)];
    for (nr, raw) in [&floats[..], &text, &[7; 3000], &floats[..100]].into_iter().enumerate() {
        for (hint_nr, hint) in (0..).zip(all) {
            let (codec, stored) = encoder.encode(raw, hint);
            let len = (raw.len() as u32).to_le_bytes();
            let front = [codec as u8, len[0], len[1], len[2]];
            seeds.add("decode", &[&front[..], stored].concat());
            assert!(codec != Codec::Raw || stored.len() == raw.len());
            seeds.add("encode", &[&[hint_nr, nr as u8], raw].concat());
        }
    }
    let header = br#"{"a":{"dtype":"F32","shape":[2,4],"data_offsets":[0,32]},"b":{"dtype":"BF16","shape":[8],"data_offsets":[32,48]},"__metadata__":{"format":"pt"}}"#;
    seeds.add("split_safetensors", &[&header[..], b"\0", &[1; 48]].concat());
    seeds.add("split_safetensors", &[&(header.len() as u64).to_le_bytes()[..], header, &[1; 48]].concat());
    seeds.add("split_safetensors", header);
    let zip = zip(&[("m/data.pkl", b"\x80\x02}."), ("m/data/0", &floats[..900]), ("m/version", b"3\n")]);
    seeds.add("split_zip", &zip);
    seeds.add("split_zip", &zip.repeat(2));
    seeds.add("split_zip", &zip64(&zip));
    seeds.add("split_torch_zip", b"\x80\x02}.");
    let tensors = tensor_pickle();
    for target in ["split_torch_zip", "pickle"] {
        seeds.add(target, &tensors);
    }
    for pickle in PICKLES {
        seeds.add("pickle", pickle);
        seeds.add("split_torch_zip", pickle);
    }
    let keys = b"\x80\x02](X\x01\0\0\00e.";
    let legacy = [&tensors[..], keys, &100_u64.to_le_bytes(), &[1; 400]].concat();
    seeds.add("split_torch_legacy", &legacy);
    seeds.add("split_torch_legacy", &[LEGACY_HEAD, &legacy].concat());
    seeds.add("split_whole", &[LEGACY_HEAD, &legacy].concat());
    let half = (distcp().len() / 2) as u16;
    for (first, size) in
        [(&b"K\0K\0\x86"[..], &b"K\x04K\x32\x86"[..]), (b"K\x02K\0\x86", b"K\x05K\x7f\x86"), (b"K\0\x85", b"K\x05\x85")]
    {
        seeds.add("split_dcp", &distributed_metadata(first, size, half));
    }
    seeds.add("split_whole", &zip);
    seeds.add("split_whole", &[&(header.len() as u64).to_le_bytes()[..], header, &[1; 48]].concat());
    seeds.add("split_whole", &[&b"\x89HDF\r\n\x1a\n\0"[..], &[8; 100]].concat());
    for array in [
        "{'descr': '<f4', 'fortran_order': True, 'shape': (3, 4), }\n",
        "{'descr': [('a', '<f4'), ('b', '<i8', (2,))], 'fortran_order': False, 'shape': (2,), }\n",
    ] {
        let file =
            [&b"\x93NUMPY\x01\0"[..], &(array.len() as u16).to_le_bytes(), array.as_bytes(), &floats[..48]].concat();
        seeds.add("split_npy", &file);
        seeds.add("split_npy", &[array.as_bytes(), b"\0"].concat());
        seeds.add("split_whole", &file);
        let mut tar = tar::Builder::new(Vec::new());
        for path in ["a.npy".to_owned(), "d/".repeat(90) + "b.npy", "c.bin".to_owned()] {
            let mut header = tar::Header::new_gnu();
            header.set_size(file.len() as u64);
            tar.append_data(&mut header, path, &file[..]).expect("memory can be written");
        }
        tar.append_pax_extensions([("path", &b"p/q"[..]), ("size", b"9")]).expect("memory can be written");
        let tar = tar.into_inner().expect("memory can be written");
        seeds.add("split_tar", &tar);
        seeds.add("split_whole", &tar);
    }
    let gguf = gguf();
    seeds.add("split_gguf", &gguf);
    seeds.add("split_gguf", &gguf[8..]);
    seeds.add("split_whole", &gguf);
    for path in files(&fuzz.join("../tests/golden/formats")) {
        if path.extension().is_some_and(|extension| extension == "h5") {
            seeds.add("split_hdf5", &read(&path));
            seeds.add("split_hdf5", &read(&path)[8..]);
        } else if path.extension().is_some_and(|extension| extension == "keras") {
            seeds.add("split_zip", &read(&path));
        }
    }
    for name in [
        "epoch=3-step=1200-val_loss=0.31.ckpt",
        "checkpoint-500",
        "model_step_10000.pt",
        "model-00001-of-00004.safetensors",
    ] {
        seeds.add("names", name.as_bytes());
    }
    seeds.add("names", br#"{"global_step":500,"log_history":[{"eval_loss":0.5,"step":500}],"best_metric":0.5}"#);
    seeds.add(
        "mountinfo",
        b"24 1 254:0 / / rw,relatime - ext4 /dev/root rw\n40 24 0:44 / /a\\040b ro shared:2 - fuse.ckpt /s ro,user_id=1000\n\
          41 40 0:45 / /a/b rw - tmpfs tmpfs rw\n42 24 0:46 / /a/b rw - tmpfs tmpfs rw\n",
    );
    seeds.add("split_cdc", &[&[3], &text[..]].concat());
    seeds.add("split_cdc", &[&[255], &floats[..2000]].concat());
    println!("{} seeds in {}", seeds.count, seeds.root.display());
}

/// Pickles of many opcodes, and those that hold themselves.
const PICKLES: &[&[u8]] = &[
    b"(dp0\nVa\np1\n(lp2\nI1\naF1.5\nasS'b'\n(I1\nL2L\ntp3\ns.",
    b"\x80\x04\x95\x10\0\0\0\0\0\0\0}\x94(\x8c\x01a\x94]\x94(K\x01\x88\x89Neh\x01h\x02u.",
    b"\x80\x05\x8f\x94(K\x01K\x02\x90(K\x03\x91\x96\x01\0\0\0\0\0\0\0a\x97\x98\x87.",
    b"\x80\x02}q\0(X\x01\0\0\0ah\0u.",
    b"\x80\x02cm\nC\n)\x81}(X\x0b\0\0\0_parameters}X\x08\0\0\0_buffers}X\x08\0\0\0_modules}ub.",
    b"(im\nC\n(cm\nD\nK\x01oPkey\n\x82\x01\x83\x01\x02\x87.",
];

/// The metadata of two parts, at the beginning and from byte `half` on.
fn distributed_metadata(first: &[u8], size: &[u8], half: u16) -> Vec<u8> {
    let text = |text: &str| [&[0x8c, text.len() as u8], text.as_bytes()].concat();
    let dict = |items: &[(&str, Vec<u8>)]| {
        let items: Vec<_> = items.iter().map(|(key, value)| [text(key), value.clone()].concat()).collect();
        [b"}(", &items.concat()[..], b"u"].concat()
    };
    let made = |class: &str, state: Vec<u8>| [format!("cm\n{class}\n)").as_bytes(), b"\x81", &state, b"b"].concat();
    let number = |number: u16| [&b"M"[..], &number.to_le_bytes()].concat();
    let about = |name| (name, made("TensorStorageMetadata", dict(&[("size", size.to_vec())])));
    let stored = |name: &str, offset| {
        let index = made("MetadataIndex", dict(&[("fqn", text(name)), ("offset", first.to_vec())]));
        let info = [("relative_path", text("f")), ("offset", number(offset)), ("length", number(half))];
        [index, made("_StorageInfo", dict(&info))].concat()
    };
    let storage = [b"}(", &[stored("a", 0), stored("b", half)].concat()[..], b"u"].concat();
    let state = [("state_dict_metadata", dict(&[about("a"), about("b")])), ("storage_data", storage)];
    [&b"\x80\x04"[..], &made("Metadata", dict(&state)), b"."].concat()
}

/// A model of two tensors and some metadata.
fn gguf() -> Vec<u8> {
    let text = |text: &str| [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat();
    let number = |number: u64| number.to_le_bytes().to_vec();
    let kind = |kind: u32| kind.to_le_bytes().to_vec();
    let values = [
        [text("general.alignment"), kind(4), kind(64)].concat(),
        [text("tokenizer.ggml.tokens"), kind(9), kind(8), number(2), text("a"), text("bc")].concat(),
        [text("scores"), kind(9), kind(6), number(2), number(0)].concat(),
    ];
    let tensors = [
        [text("embed"), kind(2), number(256), number(2), kind(12), number(0)].concat(),
        [text("norm"), kind(1), number(3), kind(0), number(320)].concat(),
    ];
    let mut file = [&b"GGUF\x03\0\0\0"[..], &number(2), &number(3), &values.concat(), &tensors.concat()].concat();
    file.resize(file.len().next_multiple_of(64) + 320 + 64, 7);
    file
}

struct Seeds {
    root: PathBuf,
    count: usize,
}

impl Seeds {
    fn add(&mut self, target: &str, bytes: &[u8]) {
        let folder = self.root.join(target);
        fs::create_dir_all(&folder).expect("a folder can be made");
        let name = &blake3::hash(bytes).to_hex()[..16];
        fs::write(folder.join(format!("seed-{name}")), bytes).expect("a seed can be written");
        self.count += 1;
    }
}

fn read(path: &Path) -> Vec<u8> {
    fs::read(path).expect("a golden file can be read")
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).expect("a golden folder").map(|entry| entry.expect("it can be listed").path()).collect()
}

fn files(folder: &Path) -> Vec<PathBuf> {
    entries(folder).into_iter().filter(|path| path.is_file()).collect()
}

fn folders(folder: &Path) -> Vec<PathBuf> {
    entries(folder).into_iter().filter(|path| path.is_dir()).collect()
}

/// The inner object of FORMAT or HEAD.
fn body_of(stored: &[u8]) -> &[u8] {
    let begins = stored.iter().skip(1).position(|byte| *byte == b'{').expect("an inner object") + 1;
    &stored[begins..stored.len() - 2]
}

fn replaced(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let places: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at..].starts_with(from)).collect();
    places.into_iter().for_each(|at| bytes[at..at + to.len()].copy_from_slice(to));
    bytes
}

/// The same with a zip64 end record.
fn zip64(zip: &[u8]) -> Vec<u8> {
    let end = zip.len() - 22;
    let number = |at: usize| u64::from(u32::from_le_bytes(zip[at..at + 4].try_into().expect("4 bytes")));
    let (size, begins) = (number(end + 12), number(end + 16));
    let numbers = [3, 3, size, begins].map(u64::to_le_bytes).concat();
    let mut file = zip[..end].to_vec();
    file.extend([&b"PK\x06\x06"[..], &44_u64.to_le_bytes(), &[45, 0, 45, 0], &[0; 8], &numbers].concat());
    file.extend([&b"PK\x06\x07"[..], &[0; 4], &(end as u64).to_le_bytes(), &[1, 0, 0, 0]].concat());
    file.extend([&b"PK\x05\x06\0\0\0\0"[..], &[0xFF; 12], &[0, 0]].concat());
    file
}
