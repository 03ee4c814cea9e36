//! The same tensors in every container, and every sample with every byte changed or missing.

use std::collections::HashSet;

use super::made::{Block, Hdf5, array, contiguous, gguf, link, metadata, tar, tar_member};
use super::plans::contents;
use super::*;

/// One tensor of two chunks, and one that is small.
const LARGE: [u64; 2] = [2, 150_000];
const SMALL: [u64; 1] = [25];

fn containers(large: &[u8], small: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let safetensors = {
        use ::safetensors::tensor::TensorView;
        let view = |shape: &[u64], data| {
            let shape = shape.iter().map(|dim| *dim as usize).collect();
            TensorView::new(::safetensors::Dtype::F32, shape, data).unwrap()
        };
        ::safetensors::serialize([("large", view(&LARGE, large)), ("small", view(&SMALL, small))], None).unwrap()
    };
    let arrays = [
        Entry::new("large.npy", array("<f4", "(2, 150000)", large)),
        Entry::new("small.npy", array("<f4", "(25,)", small)),
    ];
    let hdf5 = {
        let mut file = Hdf5::new();
        let (a, b) = (file.add(large), file.add(small));
        let (a, b) = (file.add(&contiguous(&LARGE, a, 1_200_000)), file.add(&contiguous(&SMALL, b, 100)));
        file.finish(&[link("large", a), link("small", b)])
    };
    let gguf = {
        let (large, small) = (large.to_vec(), small.to_vec());
        let blocks = [Block::new("large", &[150_000, 2], 0, large), Block::new("small", &SMALL, 0, small)];
        gguf(&metadata(100), 32, &blocks)
    };
    let model = [Entry::new("config.json", b"{}".to_vec()), Entry::new("model.weights.h5", hdf5.clone())];
    let torch = torch_file("archive", &[("data/0", large.to_vec()), ("data/1", small.to_vec())], true);
    let members = |name: &str, file: &[u8]| tar(&[tar_member(name, file, |_| {})]);
    vec![
        ("tar of safetensors", members("m.safetensors", &safetensors)),
        ("tar of torch", members("m.pt", &torch)),
        ("zip of gguf", zip(&[Entry::new("m.gguf", gguf.clone()), Entry::new("x", vec![1])], false)),
        ("npz", zip(&arrays, false)),
        ("keras", zip(&model, false)),
        ("safetensors", safetensors),
        ("torch", torch),
        ("hdf5", hdf5),
        ("gguf", gguf),
    ]
}

#[test]
fn a_tensor_has_the_same_chunks_in_every_container() {
    let (large, small) = (bytes(1, 1_200_000), bytes(2, 100));
    let expected = [&large[..1 << 20], &large[1 << 20..], &small];
    for (what, file) in containers(&large, &small) {
        let chunks: HashSet<_> = contents(&[&file]).into_iter().collect();
        for chunk in expected {
            assert!(chunks.contains(chunk), "{what} has not the chunk of {} bytes", chunk.len());
        }
        let named = |name: &str| {
            split_of(&file).segments.iter().any(|segment| {
                matches!(&segment.kind, Kind::Tensor { name: own, .. } if own.split([':', ' ']).next_back() == Some(name))
            })
        };
        assert!(what.contains("torch") || (named("large") && named("small")), "{what} has not the names");
    }
    let one = array("<f4", "(2, 150000)", &large);
    for file in [&one, &tar(&[tar_member("a.npy", &one, |_| {})])] {
        let chunks: HashSet<_> = contents(&[file]).into_iter().collect();
        assert!(expected[..2].iter().all(|chunk| chunks.contains(*chunk)));
    }
}

#[test]
fn every_changed_byte_and_every_missing_end_is_borne() {
    let mut files = vec![array("<f4", "(5, 2)", &bytes(1, 40))];
    files.push(gguf(
        &metadata(2),
        32,
        &[Block::new("a", &[32], 2, bytes(1, 18)), Block::new("b", &[3], 0, bytes(2, 12))],
    ));
    files.push(tar(&[tar_member("a.npy", &files[0], |_| {}), tar_member("b", &bytes(3, 700), |_| {})]));
    files.extend([hdf5::EARLIEST, hdf5::LATEST, hdf5::KERAS].map(<[u8]>::to_vec));
    for mut file in files {
        let whole = split_of(&file);
        assert_ne!(whole.format, Format::Opaque);
        for at in 0..file.len() {
            for change in [0xff, 1] {
                file[at] ^= change;
                check(&file);
                file[at] ^= change;
            }
        }
        for len in 0..file.len() {
            check(&file[..len]);
        }
        for at in (0..file.len()).step_by(3) {
            let place = at..file.len().min(at + 8);
            let held = file[place.clone()].to_vec();
            for number in [u64::MAX, i64::MAX as u64, file.len() as u64, at as u64] {
                file[place.clone()].copy_from_slice(&number.to_le_bytes()[..held.len()]);
                check(&file);
            }
            file[place].copy_from_slice(&held);
        }
        assert_eq!(split_of(&file), whole);
    }
}

/// Segments tile, views lie in the file, and little more was read than there is.
fn check(file: &[u8]) {
    let source = hostile::Virtual::new(file.len() as u64, file, b"");
    let split = source.split().unwrap();
    assert!(check_tiling(file.len() as u64, &split.segments), "{split:?}");
    assert!(split.views.iter().all(|view| view.offset + view.len <= file.len() as u64), "{split:?}");
    let counted: Arc<dyn Source> = Arc::new(source.clone());
    cut_short(&*counted, "a").unwrap();
    assert!(
        source.bytes_read() < 140 * file.len() as u64 + (1 << 20),
        "{} bytes of {}",
        source.bytes_read(),
        file.len()
    );
}
