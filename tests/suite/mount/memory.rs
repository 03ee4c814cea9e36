//! What the server holds: memory within its cache, descriptors and sessions while something is open.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use ckpt_tests::calls::forget;
use ckpt_tests::mount::{Mounting, mountable};
use ckpt_tests::run::{on, run};
use ckpt_tests::sample::{self, Node, Tree};

use super::{Scene, wait_for};

const MIB: usize = 1 << 20;
/// What the server may hold beside its cache: buffers of its threads, manifests, requests of the kernel.
const BESIDE_KB_MAX: u64 = 80_000;

#[test]
fn memory_stays_within_the_cache() {
    if !mountable() {
        return;
    }
    let scene = Scene::new();
    // A hundred times the cache: noise that is kept raw, and floats that are encoded.
    let mut tree = Tree::directory();
    for nr in 0..8 {
        let bytes = if nr % 2 == 0 { sample::noise(nr, 24 * MIB) } else { sample::weights(nr, 6 * MIB) };
        let name = format!("{nr}.safetensors");
        let kind = if nr % 2 == 0 { "U8" } else { "F32" };
        tree = tree.with(&name, Node::File(ckpt_tests::lab::safetensors(&[("w", kind, &bytes)]), 0o644));
    }
    let original = scene.put(&tree, "r", 1);
    let mount = Mounting::new(&scene.lab.store(), &scene.lab.path("mnt")).args(["--cache-size", "16MB"]).start();
    let (peak, stop, read) = (AtomicU64::new(0), AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::SeqCst) {
                peak.fetch_max(mount.status("RssAnon"), Ordering::SeqCst);
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        let readers: Vec<_> = (0..16_usize)
            .map(|thread| {
                let (mount, original, read) = (&mount, &original, &read);
                scope.spawn(move || {
                    let name = format!("{}.safetensors", thread % 8);
                    let expected = fs::read(original.join(&name)).unwrap();
                    let file = File::open(mount.path("r/step-1").join(name)).unwrap();
                    let mut buffer = vec![0; 3 * MIB];
                    for pass in 0..2 {
                        forget(&file);
                        // Half of them go on from front to back, the others leap.
                        for nr in 0..expected.len() / buffer.len() {
                            let nr = if thread < 8 { nr } else { (nr * 5 + pass + thread) % 8 };
                            let from = nr * buffer.len();
                            file.read_exact_at(&mut buffer, from as u64).unwrap();
                            assert!(buffer == expected[from..from + buffer.len()]);
                            read.fetch_add(buffer.len() as u64, Ordering::SeqCst);
                        }
                    }
                })
            })
            .collect();
        let ended: Vec<_> = readers.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        stop.store(true, Ordering::SeqCst);
        ended.into_iter().for_each(|ended| ended.unwrap());
    });
    let (peak, read) = (peak.into_inner(), read.into_inner());
    assert!(read > 600_000_000, "only {read} bytes were read");
    assert!((1000..=16_000 + BESIDE_KB_MAX).contains(&peak), "the server held {peak} kB");
}

/// Pages here and there of a file that is larger than the cache: a chunk is not decoded for each of them again.
#[test]
fn small_reads_here_and_there_bring_what_is_around_them() {
    if !mountable() {
        return;
    }
    let scene = Scene::new();
    // The tensors begin at no page's border, and end in the middle of chunks.
    let tensors = [("a", "U8", sample::noise(1, 17 * MIB + 77)), ("b", "F32", sample::weights(2, 3 * MIB + 5))];
    let bytes = ckpt_tests::lab::safetensors(&tensors.each_ref().map(|(name, kind, bytes)| (*name, *kind, &bytes[..])));
    let chunks = bytes.len() as u64 / MIB as u64 + 4;
    scene.put(&Tree::directory().with("m.safetensors", Node::File(bytes.clone(), 0o644)), "r", 1);
    let mount = Mounting::new(&scene.lab.store(), &scene.lab.path("mnt")).args(["--cache-size", "8MB"]).start();
    let file = File::open(mount.path("r/step-1/m.safetensors")).unwrap();
    let mut random = 5_u64;
    let mut page = [0; 4096];
    for _ in 0..20_000 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let from = (random >> 33) as usize % (bytes.len() / page.len()) * page.len();
        file.read_exact_at(&mut page, from as u64).unwrap();
        assert!(page[..] == bytes[from..from + page.len()], "at byte {from}");
    }
    // All of it, as the kernel has it by now.
    assert!(fs::read(mount.path("r/step-1/m.safetensors")).unwrap() == bytes);
    let status = run(on(&scene.lab.store()).args(["mount", "--status", "--json"]).arg(mount.at())).json();
    let decoded = status["chunks_decoded"].as_u64().unwrap();
    assert!(decoded <= 30 * chunks, "{decoded} times one of {chunks} chunks was decoded");
}

#[test]
fn nothing_stays_of_a_thousand_opens() {
    if !mountable() {
        return;
    }
    let scene = Scene::new();
    for step in 0..20 {
        scene.put(&ckpt_tests::odd::tree(step), "r", step);
    }
    let mount = scene.mount();
    let sessions = || fs::read_dir(scene.lab.store().join("sessions")).unwrap().count();
    let all = || {
        let mut opened = 0;
        for step in 0..20 {
            let at = mount.path(format!("r/step-{step}"));
            for path in ckpt_tests::readers::files(&at) {
                let file = File::open(at.join(path)).unwrap();
                let _ = file.read_at(&mut [0; 10], 0).unwrap();
                opened += 1;
            }
        }
        opened
    };
    let each = all();
    wait_for("sessions end", Duration::from_secs(15), || sessions() == 0);
    let (descriptors, threads, memory) = (mount.descriptors(), mount.status("Threads"), mount.status("RssAnon"));
    let mut opened = 0;
    while opened < 1000 {
        opened += all();
    }
    wait_for("sessions end", Duration::from_secs(15), || sessions() == 0);
    let again = (mount.descriptors(), mount.status("Threads"));
    assert!(again.0 <= descriptors + 2 && again.1 <= threads + 2, "{descriptors} and {threads} became {again:?}");
    let grown = mount.status("RssAnon").saturating_sub(memory);
    assert!(grown < 40_000, "{grown} kB more after {opened} opens, {each} at first");
    // Many at a time are one session for each checkpoint that they are of.
    let open: Vec<File> = (0..20)
        .flat_map(|step| {
            let at = mount.path(format!("r/step-{step}"));
            ckpt_tests::readers::files(&at).into_iter().map(move |path| File::open(at.join(path)).unwrap())
        })
        .collect();
    assert!(open.len() > 100 && sessions() <= 20, "{} files are {} sessions", open.len(), sessions());
    drop(open);
    wait_for("sessions end", Duration::from_secs(15), || sessions() == 0);
}
