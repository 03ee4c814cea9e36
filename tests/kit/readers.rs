//! Holds a mounted tree against the original: what there is, what is said of it, and every byte, read in every way. Says what
//! differs and with which seed, and never repairs or leaves out anything.

use std::fs::{self, File, Metadata};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use crate::calls::{Reading, WAYS, forget, holes};

/// Paths below a directory, sorted, and what they are; links are not followed, and the views that the mount shows are left out.
pub fn paths(root: &Path) -> Vec<(PathBuf, Metadata)> {
    let mut found = Vec::new();
    let mut todo = vec![PathBuf::new()];
    while let Some(folder) = todo.pop() {
        let entries =
            fs::read_dir(root.join(&folder)).unwrap_or_else(|e| panic!("{}: {e}", root.join(&folder).display()));
        for entry in entries {
            let name = entry.expect("a directory can be listed").file_name();
            if folder.as_os_str().is_empty() && (name == ".safetensors" || name == ".tensors") {
                continue;
            }
            let path = folder.join(name);
            let metadata = fs::symlink_metadata(root.join(&path)).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            if metadata.is_dir() {
                todo.push(path.clone());
            }
            found.push((path, metadata));
        }
    }
    found.sort_by(|(a, _), (b, _)| a.cmp(b));
    found
}

/// Insists that a mounted directory has what the original has, and says the same of it.
///
/// # Panics
/// When it doesn't.
pub fn assert_same_metadata(original: &Path, mounted: &Path, what: &str) {
    let (ours, theirs) = (paths(mounted), paths(original));
    let names =
        |found: &[(PathBuf, Metadata)]| -> Vec<PathBuf> { found.iter().map(|(path, _)| path.clone()).collect() };
    assert_eq!(names(&ours), names(&theirs), "{what}: other names");
    for ((path, ours), (_, theirs)) in ours.iter().zip(&theirs) {
        let told = |of: &Metadata| {
            let milliseconds = of.mtime() * 1000 + of.mtime_nsec() / 1_000_000;
            let size = if of.is_dir() { 0 } else { of.size() };
            // Links have modes and times of their own, which no store keeps.
            let kept = if of.is_symlink() { (0, 0) } else { (of.mode(), milliseconds) };
            (of.mode() & libc::S_IFMT, kept, size)
        };
        assert_eq!(told(ours), told(theirs), "{what}: {}", path.display());
        if ours.is_symlink() {
            let target = |root: &Path| fs::read_link(root.join(path)).expect("a link has a target");
            assert_eq!(target(mounted), target(original), "{what}: {}", path.display());
        } else if ours.is_dir() {
            let below = theirs.nlink().max(2);
            assert!(ours.nlink() == 1 || ours.nlink() >= below, "{what}: {}: {} links", path.display(), ours.nlink());
        } else {
            assert_eq!(ours.nlink(), 1, "{what}: {}", path.display());
        }
    }
}

/// The regular files below a directory that have bytes or have none.
pub fn files(root: &Path) -> Vec<PathBuf> {
    paths(root).into_iter().filter(|(_, metadata)| metadata.is_file()).map(|(path, _)| path).collect()
}

/// A range that begins anywhere, often at a border, now and then past the end, and of a length that some read has.
fn range(rng: &mut SmallRng, size: u64) -> (u64, usize) {
    let len = match rng.random_range(0..10) {
        0 => rng.random_range(0..10),
        1..5 => rng.random_range(0..10_000),
        5..9 => rng.random_range(0..300_000),
        _ => rng.random_range(0..3_000_000),
    };
    let offset = rng.random_range(0..size + size / 20 + 10);
    let step = [1, 1, 512, 4096, 1 << 20][rng.random_range(0..5)];
    (offset / step * step, len)
}

/// Reads `rounds` random ranges of random files in random ways.
///
/// # Panics
/// When one brings other bytes than the original has.
pub fn assert_same_reads(original: &Path, mounted: &Path, seed: u64, rounds: usize) {
    let mut rng = SmallRng::seed_from_u64(seed);
    let files = files(original);
    for _ in 0..rounds {
        let path = &files[rng.random_range(0..files.len())];
        let (theirs, ours) = (original.join(path), mounted.join(path));
        let what = format!("seed {seed}: {}", path.display());
        let file = File::open(&ours).unwrap_or_else(|error| panic!("{what}: {error}"));
        let size = fs::metadata(&theirs).expect("the original is there").len();
        if rng.random_range(0..4) == 0 {
            forget(&file);
        }
        for _ in 0..rng.random_range(1..4) {
            let (name, _, read) = WAYS[rng.random_range(0..WAYS.len())];
            let (offset, len) = range(&mut rng, size);
            let what = format!("{what}: {len} bytes from {offset} of {size} by {name}");
            let got = read(&Reading { path: &ours, file: &file }, offset, len);
            let got = got.unwrap_or_else(|error| panic!("{what}: {error}"));
            assert_same(&got, &theirs, offset, len, &what);
        }
        if rng.random_range(0..8) == 0 {
            let (offset, _) = range(&mut rng, size);
            let expected = if offset < size { [Ok(offset), Ok(size)] } else { [Err(libc::ENXIO); 2] };
            assert_eq!(holes(&file, offset), expected, "{what}: holes from {offset} of {size}");
        }
    }
}

/// Insists that these are the bytes of a file from an offset on.
///
/// # Panics
/// When they aren't.
pub fn assert_same(got: &[u8], original: &Path, offset: u64, len: usize, what: &str) {
    let file = File::open(original).expect("the original is there");
    let size = file.metadata().expect("the original is there").len();
    let there = usize::try_from(size.saturating_sub(offset)).unwrap_or(usize::MAX).min(len);
    let mut expected = vec![0; there];
    file.read_exact_at(&mut expected, offset).expect("the original can be read");
    assert_eq!(got.len(), there, "{what}: another length");
    if let Some(at) = got.iter().zip(&expected).position(|(a, b)| a != b) {
        panic!("{what}: another byte at {}", offset + at as u64);
    }
}

/// Reads random ranges of one file by many threads, all on one descriptor.
///
/// # Panics
/// When one brings other bytes than the original has.
pub fn assert_same_by_many(original: &Path, mounted: &Path, seed: u64, threads: u64, rounds: usize) {
    let file = File::open(mounted).unwrap_or_else(|error| panic!("{}: {error}", mounted.display()));
    let size = fs::metadata(original).expect("the original is there").len();
    let ways: Vec<_> = WAYS.iter().filter(|(_, shared, _)| *shared).collect();
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let (file, ways) = (&file, &ways);
            scope.spawn(move || {
                let mut rng = SmallRng::seed_from_u64(seed * 1000 + thread);
                for _ in 0..rounds {
                    let (name, _, read) = ways[rng.random_range(0..ways.len())];
                    let (offset, len) = range(&mut rng, size);
                    let what = format!("seed {seed}, thread {thread}: {len} bytes from {offset} by {name}");
                    let got = read(&Reading { path: mounted, file }, offset, len);
                    let got = got.unwrap_or_else(|error| panic!("{what}: {error}"));
                    assert_same(&got, original, offset, len, &what);
                }
            });
        }
    });
}

/// Reads every file whole.
///
/// # Panics
/// When one has other bytes than the original.
pub fn assert_same_bytes(original: &Path, mounted: &Path, what: &str) {
    for path in files(original) {
        let got = fs::read(mounted.join(&path)).unwrap_or_else(|error| panic!("{what}: {}: {error}", path.display()));
        assert_same(&got, &original.join(&path), 0, usize::MAX, &format!("{what}: {}", path.display()));
    }
}
