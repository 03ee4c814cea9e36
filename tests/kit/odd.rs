//! Checkpoints as no framework writes them and every file system allows them: odd names, sizes at every border, deep
//! directories, links. The same ones for the same seed.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use crate::sample::{self, Node, Tree};

const PAGE: usize = 4096;
const MIB: usize = 1 << 20;

/// Names that are hard on somebody: on a shell, on a text, on an escape, on a length.
pub fn names() -> Vec<OsString> {
    let texts = [
        "model.safetensors",
        "with blanks ",
        " ",
        "new\nline",
        "tab\tand \\ back",
        "100%",
        "%2F",
        "%2E%2E",
        "step-5",
        "latest",
        "best",
        "by-id",
        "...",
        ".hidden",
        "-rf",
        "*?[a]",
        "\"'$(x)`",
        "ünïcödé-Δ-模型",
        "e\u{301}",
        "é",
        "user.ckpt.id",
    ];
    let mut names: Vec<OsString> = texts.iter().map(OsString::from).collect();
    names.push(OsString::from("l".repeat(255)));
    names.push(OsString::from_vec(b"not utf-8 \xff\xfe\x80".to_vec()));
    names.push(OsString::from_vec((1..=255_u8).filter(|byte| *byte != b'/').collect::<Vec<u8>>()));
    names.push(OsString::from_vec(vec![0xff; 255]));
    names
}

/// A size that something rounds.
fn size(rng: &mut SmallRng) -> usize {
    let border = [0, 1, PAGE, 32 << 10, 64 << 10, 128 << 10, MIB, 2 * MIB][rng.random_range(0..8)];
    match rng.random_range(0..4) {
        0 => border,
        1 => border + 1,
        2 => border.saturating_sub(1),
        _ => border + rng.random_range(0..700_000),
    }
}

/// Bytes of one of the kinds that are stored in different ways.
fn bytes(rng: &mut SmallRng) -> Vec<u8> {
    let (seed, size) = (rng.random_range(0..1000), size(rng));
    match rng.random_range(0..7) {
        // Kept raw, and encoded as floats.
        0 | 1 => sample::noise(seed, size),
        2 => sample::weights(seed, size / 4),
        3 => (0..size).map(|at| b"the same words again, "[at % 22]).collect(),
        4 => vec![0; size],
        5 => {
            let tensors: Vec<(String, u64, usize)> = (0..rng.random_range(1..60))
                .map(|nr| (format!("layer.{nr}.weight"), seed + nr % 7, rng.random_range(0..40_000)))
                .collect();
            let tensors: Vec<(&str, u64, usize)> =
                tensors.iter().map(|(name, seed, count)| (name.as_str(), *seed, *count)).collect();
            sample::safetensors(&tensors)
        }
        _ => {
            let records: Vec<(u64, usize)> =
                (0..rng.random_range(1..300)).map(|nr| (seed + nr % 50, rng.random_range(0..5_000))).collect();
            sample::torch_zip(&records)
        }
    }
}

/// A directory of files, directories and links that this seed stands for. One of the first few has a file of many chunks.
pub fn tree(seed: u64) -> Tree {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut tree = Tree::directory();
    let mut directories = vec![PathBuf::new()];
    let mut names = names();
    let mut deep = PathBuf::new();
    for nr in 0..rng.random_range(0..12) {
        deep.push(format!("level {nr}"));
        directories.push(deep.clone());
    }
    for nr in 0..rng.random_range(0..4) {
        let above = directories[rng.random_range(0..directories.len())].clone();
        let at = names.swap_remove(rng.random_range(0..names.len()));
        if tree.0.keys().chain(&directories).all(|path| *path != above.join(&at)) && nr < 3 {
            directories.push(above.join(at));
        }
    }
    for (nr, path) in directories.iter().enumerate().skip(1) {
        let mode = [0o755, 0o700, 0o555][nr % 3];
        tree.0.insert(path.clone(), Node::Directory(mode));
    }
    for name in names {
        let path = directories[rng.random_range(0..directories.len())].join(name);
        if rng.random_range(0..3) == 0 || tree.0.contains_key(&path) {
            continue;
        }
        let node = match rng.random_range(0..8) {
            0 => Node::Link(link(&mut rng, &path)),
            _ => Node::File(bytes(&mut rng), [0o644, 0o600, 0o444, 0o755, 0o640][rng.random_range(0..5)]),
        };
        tree.0.insert(path, node);
    }
    if seed.is_multiple_of(3) {
        let mut large = sample::noise(seed, 5 * MIB);
        large.extend(sample::weights(seed, 1_500_000));
        large.extend(sample::noise(seed + 1, 777));
        tree.0.insert("large.bin".into(), Node::File(large, 0o644));
    }
    tree
}

/// Where a link points: to a neighbor, to nothing, to itself.
fn link(rng: &mut SmallRng, at: &Path) -> PathBuf {
    match rng.random_range(0..4) {
        0 => "model.safetensors".into(),
        1 => OsString::from_vec(b"nowhere \xff\n".to_vec()).into(),
        2 => "not/there".into(),
        _ => PathBuf::from(".").join(at.file_name().expect("a name")),
    }
}
