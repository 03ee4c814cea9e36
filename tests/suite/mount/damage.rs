//! A damaged store: what is damaged can't be read, and the log says what it is; everything else can be read as ever.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use ckpt_tests::calls::{Reading, WAYS, forget};
use ckpt_tests::lab::{files, pack_lines, put_request};
use ckpt_tests::mount::mountable;
use ckpt_tests::sample;

use super::Scene;

const MIB: usize = 1 << 20;
/// The tensor whose third chunk is damaged.
const DAMAGED: &str = "encoder.weight";

/// A checkpoint with a file of a tensor of six chunks that are kept raw and of one whose chunks are encoded, and another file.
struct Damaged {
    scene: Scene,
    original: PathBuf,
    /// Bytes of the header: the first tensor begins behind it.
    header: usize,
    bytes: Vec<u8>,
}

impl Damaged {
    fn new() -> Self {
        let scene = Scene::new();
        let raw = sample::noise(1, 6 * MIB);
        let encoded = sample::weights(2, MIB);
        let bytes = ckpt_tests::lab::safetensors(&[(DAMAGED, "U8", &raw), ("head.weight", "F32", &encoded)]);
        let original = scene.lab.path("original-r-1");
        scene.lab.write("original-r-1/model.safetensors", &bytes);
        scene.lab.write("original-r-1/notes.txt", "a few words ".repeat(1000).as_bytes());
        scene.lab.put(&[&original], "r", 1).unwrap();
        let header = bytes.len() - raw.len() - encoded.len();
        Self { scene, original, header, bytes }
    }

    /// The pack that has the chunk of this range of the file, and where in it that lies.
    fn place(&self, from: usize, len: usize) -> (PathBuf, usize, usize) {
        let id = *blake3::hash(&self.bytes[from..from + len]).as_bytes();
        let packs = files(&self.scene.lab.store().join("packs"));
        let found = packs.into_iter().find_map(|path| {
            let lines = pack_lines(&fs::read(&path).unwrap());
            let line = *lines.iter().find(|line| line.chunk == id)?;
            Some((path, line.offset, line.stored_len))
        });
        found.expect("the chunk is stored")
    }

    /// The range of the file that its chunk of this number covers.
    fn chunk(&self, nr: usize) -> std::ops::Range<usize> {
        self.header + nr * MIB..self.header + (nr + 1) * MIB
    }

    /// Reads all of the mounted file in pieces, and insists that exactly the pages of these bytes are in error.
    #[track_caller]
    fn assert_errors(&self, mounted: &Path, damaged: &[std::ops::Range<usize>], what: &str) {
        let file = File::open(mounted).unwrap();
        let mut errors = 0;
        for piece in [4096, 65_536] {
            forget(&file);
            for from in (0..self.bytes.len()).step_by(piece) {
                let end = (from + piece).min(self.bytes.len());
                let mut buffer = vec![0; end - from];
                let hit = damaged.iter().any(|range| range.start < end && from < range.end);
                match file.read_exact_at(&mut buffer, from as u64) {
                    Ok(()) => {
                        assert!(!hit, "{what}: {from}..{end} is damaged and was given");
                        assert!(buffer == self.bytes[from..end], "{what}: {from}..{end} has other bytes");
                    }
                    Err(error) => {
                        assert!(hit, "{what}: {from}..{end} is sound: {error}");
                        assert_eq!(error.raw_os_error(), Some(libc::EIO), "{what}: {error}");
                        errors += 1;
                    }
                }
            }
        }
        assert_eq!(errors > 0, !damaged.is_empty(), "{what}");
    }

    /// Insists that each call that reads on from sound bytes into those that are damaged from `border` on says so.
    #[track_caller]
    fn assert_no_way_around(&self, mounted: &Path, border: usize) {
        let file = File::open(mounted).unwrap();
        let is_call = |name: &str| !["mmap", "MADV", "mremap"].iter().any(|mapping| name.starts_with(mapping));
        for (name, _, read) in WAYS.iter().filter(|(name, ..)| is_call(name)) {
            forget(&file);
            let got = read(&Reading { path: mounted, file: &file }, border as u64 - 100_000, 300_000);
            let error = got.map(|bytes| bytes.len()).expect_err(name);
            assert_eq!(error.raw_os_error(), Some(libc::EIO), "{name}: {error}");
        }
    }
}

#[test]
fn a_flipped_byte_is_an_error_of_that_range_alone() {
    if !mountable() {
        return;
    }
    let damaged = Damaged::new();
    let scene = &damaged.scene;
    // Both kinds of chunks: one that is given as it lies there, and one that is decoded.
    for range in [damaged.chunk(2), damaged.chunk(7)] {
        let (path, at, len) = damaged.place(range.start, range.len());
        let good = fs::read(&path).unwrap();
        let mut bad = good.clone();
        bad[at + len / 2] ^= 0x10;
        fs::write(&path, &bad).unwrap();
        let fresh = scene.mount();
        damaged.assert_errors(&fresh.path("r/step-1/model.safetensors"), std::slice::from_ref(&range), "flipped");
        damaged.assert_no_way_around(&fresh.path("r/step-1/model.safetensors"), range.start);
        let log = fresh.log();
        let tensor = if range == damaged.chunk(2) { DAMAGED } else { "head.weight" };
        let pack = path.file_name().unwrap().to_str().unwrap();
        let line = log.lines().find(|line| line.contains("r@1"));
        let line = line.unwrap_or_else(|| panic!("the log names no checkpoint: {log}"));
        for named in ["model.safetensors", tensor, pack] {
            assert!(line.contains(named), "no {named} in: {line}");
        }
        assert!(log.lines().count() < 40, "it says that too often: {log}");
        let notes = |root: &Path| fs::read(root.join("notes.txt")).unwrap();
        assert!(notes(&fresh.path("r/step-1")) == notes(&damaged.original), "another file");
        // Storing the same bytes again mends what is mounted, also for who has it open.
        let open = File::open(fresh.path("r/step-1/model.safetensors")).unwrap();
        let mut page = [0; 100];
        assert_eq!(
            open.read_exact_at(&mut page, range.start as u64 + 5000).unwrap_err().raw_os_error(),
            Some(libc::EIO)
        );
        scene
            .lab
            .open()
            .put(&put_request(&[&damaged.original], "again", range.start as u64), &ckpt_store::Quiet)
            .unwrap();
        super::wait_for("it is mended", super::NOTICES, || {
            open.read_exact_at(&mut page, range.start as u64 + 5000).is_ok()
        });
        assert!(page == damaged.bytes[range.start + 5000..range.start + 5100]);
        damaged.assert_errors(&fresh.path("r/step-1/model.safetensors"), &[], "mended");
    }
}

#[test]
fn a_pack_that_is_cut_or_gone_is_an_error_of_what_it_had() {
    if !mountable() {
        return;
    }
    for how in ["cut", "gone"] {
        let damaged = Damaged::new();
        let scene = &damaged.scene;
        let (path, at, _) = damaged.place(damaged.chunk(3).start, MIB);
        let good = fs::read(&path).unwrap();
        let lost: Vec<_> = pack_lines(&good)
            .into_iter()
            .filter(|line| how == "gone" || line.offset + line.stored_len > at + 5000)
            .collect();
        if how == "cut" {
            fs::write(&path, &good[..at + 5000]).unwrap();
        } else {
            fs::remove_file(&path).unwrap();
        }
        let is_lost = |chunk: &[u8; 32]| lost.iter().any(|line| line.chunk == *chunk);
        let id = |range: &std::ops::Range<usize>| *blake3::hash(&damaged.bytes[range.clone()]).as_bytes();
        // Six of noise and four of floats; what is lost beside them has the header.
        let tensors: Vec<_> = (0..10).map(|nr| damaged.chunk(nr)).collect();
        let header =
            lost.iter().any(|line| tensors.iter().all(|range| id(range) != line.chunk)).then_some(0..damaged.header);
        let lost: Vec<_> = tensors.iter().filter(|range| is_lost(&id(range))).cloned().chain(header).collect();
        assert!(!lost.is_empty() && (how == "gone" || lost.len() < 11), "{how}: {lost:?}");
        let mount = scene.mount();
        damaged.assert_errors(&mount.path("r/step-1/model.safetensors"), &lost, how);
        assert!(mount.log().lines().any(|line| line.contains("r@1") && line.contains(DAMAGED)), "{}", mount.log());
        scene.lab.put(&[&damaged.original], "again", 1).unwrap();
        let mounted = mount.path("r/step-1/model.safetensors");
        super::wait_for("it is mended", super::NOTICES, || fs::read(&mounted).is_ok_and(|got| got == damaged.bytes));
    }
}

/// Who has mapped what is damaged gets SIGBUS there, as from a disk with a bad sector; the server lives on.
#[test]
fn a_damaged_page_of_a_mapping_is_sigbus_and_the_others_are_sound() {
    if !mountable() {
        return;
    }
    let damaged = Damaged::new();
    let (path, at, _) = damaged.place(damaged.chunk(4).start, MIB);
    let mut bad = fs::read(&path).unwrap();
    bad[at + 77] ^= 1;
    fs::write(&path, &bad).unwrap();
    let mount = damaged.scene.mount();
    let file = File::open(mount.path("r/step-1/model.safetensors")).unwrap();
    let signal = |offset: usize| touched(&file, damaged.bytes.len(), offset);
    assert_eq!(signal(damaged.chunk(4).start + MIB / 2), Some(libc::SIGBUS));
    assert_eq!(signal(damaged.chunk(3).start + 5000), None);
    assert_eq!(signal(damaged.chunk(5).start + 9000), None);
    let error = fs::read(mount.path("r/step-1/model.safetensors")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EIO));
    assert!(mount.path("r/latest/notes.txt").is_file());
}

/// The signal that ends a child which maps a file and reads one byte of it.
fn touched(file: &File, len: usize, offset: usize) -> Option<i32> {
    // SAFETY: the child maps, reads, and ends, by calls to the kernel alone.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // SAFETY: as above; the address is checked, and `offset` is within the file.
        unsafe {
            let map = libc::mmap(std::ptr::null_mut(), len, libc::PROT_READ, libc::MAP_SHARED, file.as_raw_fd(), 0);
            if map == libc::MAP_FAILED {
                libc::_exit(1);
            }
            std::ptr::read_volatile(map.cast::<u8>().add(offset));
            libc::_exit(0);
        }
    }
    let mut status = 0;
    // SAFETY: `status` is there for the call, and the child is this process's.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    assert!(libc::WIFSIGNALED(status) || status == 0, "the child ended with {status}");
    libc::WIFSIGNALED(status).then(|| libc::WTERMSIG(status))
}
