//! HDF5: files of h5py and Keras (`tests/golden/formats`) taken apart, and files built by hand that lie.

use super::made::{Hdf5, contiguous, float, header, layout, link, simple};
use super::*;

pub const EARLIEST: &[u8] = include_bytes!("../../../../tests/golden/formats/earliest.h5");
pub const LATEST: &[u8] = include_bytes!("../../../../tests/golden/formats/latest.h5");
pub const WEIGHTS: &[u8] = include_bytes!("../../../../tests/golden/formats/model.weights.h5");
pub const LEGACY: &[u8] = include_bytes!("../../../../tests/golden/formats/legacy.h5");
pub const KERAS: &[u8] = include_bytes!("../../../../tests/golden/formats/model.keras");

fn tensors(file: &[u8]) -> Vec<(u64, String)> {
    segments(&split_of(file)).into_iter().filter(|(_, kind)| kind != "literal").collect()
}

#[test]
fn datasets_of_h5py_have_their_names_types_and_shapes() {
    for file in [EARLIEST, LATEST] {
        let split = split_of(file);
        assert_eq!((split.format, split.format.to_string().as_str()), (Format::Hdf5, "hdf5"));
        let mut expected: Vec<(u64, String)> = [
            (96, "layers/dense/vars/0 F32 [4, 6]"),
            (12, "same F16 [6]"),
            (8, "scalar I64 []"),
            (3, "bools BOOL [3]"),
            (24, "c64 C64 [3]"),
            (48, "c128 C128 [3]"),
            (12, "big_endian >f4 [3]"),
            (15, "bytes |S5 [3]"),
            (12, "opaque |V4 [3]"),
            (40, "structure compound [2]"),
            (32, "committed F64 [4]"),
            (6, "enumeration I16 [3]"),
        ]
        .map(|(len, words)| (len, words.to_owned()))
        .into();
        expected.extend((0..20).map(|number| (12, format!("many/tensor.{number} F32 [3]"))));
        assert_eq!(tensors(file), expected);
        let mut views: Vec<_> =
            split.views.iter().map(|view| (view.name.as_str(), view.len, &view.shape[..])).collect();
        views.sort();
        // A second name of the same dataset; the way in a circle has none.
        assert_eq!(views, [("empty", 0, &[0, 4][..]), ("layers/dense/vars/1", 12, &[6])]);
        let floats: Vec<u8> = (0..24).flat_map(|number| (number as f32).to_le_bytes()).collect();
        let at = split.segments[0].len as usize;
        assert_eq!(&file[at..at + 96], &floats[..]);
    }
}

#[test]
fn keras_weights_have_their_paths_and_bfloat16() {
    let expected = [
        (96, "layers/dense/vars/0 F32 [4, 6]".into()),
        (24, "layers/dense/vars/1 F32 [6]".into()),
        (12, "layers/dense_1/vars/0 BF16 [6, 1]".into()),
        (2, "layers/dense_1/vars/1 BF16 [1]".into()),
    ];
    assert_eq!(tensors(WEIGHTS), expected);
    let split = split_of(KERAS);
    assert_eq!((split.format, split.format.to_string().as_str()), (Format::Keras, "keras"));
    assert_eq!(tensors(KERAS), expected);
    // Whole models of old say nothing about types that HDF5 has not.
    let expected = [
        (96, "model_weights/dense/sequential/dense/kernel F32 [4, 6]".into()),
        (24, "model_weights/dense/sequential/dense/bias F32 [6]".into()),
        (12, "model_weights/dense_1/sequential/dense_1/kernel |V2 [6, 1]".into()),
        (2, "model_weights/dense_1/sequential/dense_1/bias |V2 [1]".into()),
    ];
    assert_eq!(tensors(LEGACY), expected);
}

#[test]
fn files_by_hand_are_what_the_lies_are_made_of() {
    let mut file = Hdf5::new();
    let data = file.add(&bytes(1, 60));
    let dataset = file.add(&contiguous(&[3, 5], data, 60));
    let inner = file.add(&header(&[link("w", dataset)]));
    let file = file.finish(&[link("g", inner)]);
    assert_eq!(tensors(&file), [(60, "g/w F32 [3, 5]".into())]);
    assert_eq!(cut_short(&*source(&file), "a.h5").unwrap(), None);
    for len in 8..file.len() {
        assert!(cut_short(&*source(&file[..len]), "a.h5").unwrap().is_some(), "{len} bytes");
    }
}

/// A file of one dataset by this header.
fn one(dataset: impl Fn(u64) -> Vec<u8>) -> Vec<u8> {
    let mut file = Hdf5::new();
    let data = file.add(&bytes(1, 64));
    let dataset = file.add(&dataset(data));
    file.finish(&[link("w", dataset)])
}

#[test]
fn datasets_that_lie_make_the_file_opaque() {
    let max = u64::MAX;
    let with = |dims: &[u64], at: u64, len: u64| contiguous(dims, at, len);
    type Lie<'a> = (&'a str, Box<dyn Fn(u64) -> Vec<u8> + 'a>);
    let lies: [Lie; 13] = [
        ("past the end", Box::new(|_| with(&[16], 1 << 20, 64))),
        ("far past the end", Box::new(|at| with(&[1 << 50], at, 1 << 52))),
        ("past all files", Box::new(|_| with(&[16], max - 5, 64))),
        ("less than its shape", Box::new(|at| with(&[16], at, 60))),
        ("elements overflow", Box::new(|at| with(&[1 << 40, 1 << 40], at, 64))),
        ("bytes overflow", Box::new(|at| with(&[1 << 62], at, 64))),
        ("over its own header", Box::new(|at| [contiguous(&[16], at, 64), contiguous(&[16], at + 4, 64)].concat())),
        ("a dimension less", Box::new(|at| header(&[(1, simple(&[3, 5]).1[..9].to_vec()), float(), layout(at, 60)]))),
        (
            "elements of no bytes",
            Box::new(|at| {
                let mut type_message = float();
                type_message.1[4..8].fill(0);
                header(&[simple(&[3]), type_message, layout(at, 60)])
            }),
        ),
        (
            "a compound of 4 GiB with parts of 2",
            Box::new(|at| {
                let member =
                    |name: &[u8]| [name, &[0; 4], &[0x11, 0x20, 31, 0, 0, 0, 0, 128, 0, 0, 0, 0], &[0; 8]].concat();
                let compound = [&[0x36, 2, 0, 0, 255, 255, 255, 255][..], &member(b"r\0"), &member(b"i\0")].concat();
                header(&[simple(&[3]), (3, compound), layout(at, 60)])
            }),
        ),
        ("a type cut short", Box::new(|at| header(&[simple(&[3]), (3, vec![0x11, 0x20, 31]), layout(at, 60)]))),
        ("a layout cut short", Box::new(|at| header(&[simple(&[3]), float(), (8, layout(at, 60).1[..9].to_vec())]))),
        (
            "a message past its header",
            Box::new(|at| {
                let mut lie = contiguous(&[3], at, 12);
                lie[11] = 0xff;
                lie
            }),
        ),
    ];
    for (what, lie) in lies {
        let file = one(lie);
        let split = split_of(&file);
        let is_right =
            if what == "over its own header" { tensors(&file).len() == 1 } else { split.format == Format::Opaque };
        assert!(is_right, "{what}: {split:?}");
        rebuild(&[&file]);
    }
    let mut file = Hdf5::new();
    let data = file.add(&bytes(1, 64));
    let (a, b) = (file.add(&contiguous(&[16], data, 64)), file.add(&contiguous(&[8], data + 32, 32)));
    assert_eq!(split_of(&file.finish(&[link("a", a), link("b", b)])).format, Format::Opaque, "two of one place");
}

#[test]
fn groups_in_circles_and_endless_structures_are_given_up() {
    // A group that is its own child, under many names.
    let mut file = Hdf5::new();
    let at = file.next();
    let links: Vec<_> = (0..50).map(|number| link(&format!("me{number}"), at)).collect();
    let own = file.add(&header(&links));
    assert_eq!(own, at);
    check_reads(&file.finish(&[link("g", own)]), Format::Hdf5);

    // Forty groups, each twice in the one before: a trillion paths.
    let mut file = Hdf5::new();
    let mut inner = file.add(&header(&[]));
    for _ in 0..40 {
        inner = file.add(&header(&[link("a", inner), link("b", inner)]));
    }
    check_reads(&file.finish(&[link("g", inner)]), Format::Hdf5);

    // Deeper than anybody's.
    for (depth, format) in [(60, Format::Hdf5), (70, Format::Opaque)] {
        let mut file = Hdf5::new();
        let mut inner = file.add(&header(&[]));
        for _ in 0..depth {
            inner = file.add(&header(&[link("d", inner)]));
        }
        check_reads(&file.finish(&[link("g", inner)]), format);
    }

    // A header that goes on in itself.
    let mut file = Hdf5::new();
    let block = file.next();
    let goes_on = [block.to_le_bytes(), 28_u64.to_le_bytes()].concat();
    let own = file.add(&[&b"OCHK"[..], &[0x10, 16, 0, 0], &goes_on, &[0; 4]].concat());
    assert_eq!(own, block);
    check_reads(&file.finish(&[(0x10, goes_on)]), Format::Opaque);

    // A B-tree whose nodes all have the same two children, a hundred levels high.
    let mut file = Hdf5::new();
    let heap = file.add(&[&b"HEAP\0\0\0\0"[..], &[0; 24]].concat());
    let mut node = file.add(&[&b"SNOD\x01\0\0\0"[..]].concat());
    for level in 0..100 {
        let children = [[0; 8], node.to_le_bytes(), [0; 8], node.to_le_bytes(), [0; 8]].concat();
        node = file.add(&[&b"TREE\0"[..], &[level, 2, 0], &[0xff; 16], &children].concat());
    }
    let table = [node.to_le_bytes(), heap.to_le_bytes()].concat();
    check_reads(&file.finish(&[(0x11, table)]), Format::Opaque);

    // And one that is its own child.
    let mut file = Hdf5::new();
    let at = file.next();
    let children = [[0; 8], at.to_le_bytes(), [0; 8]].concat();
    let node = file.add(&[&b"TREE\0\x01\x01\0"[..], &[0xff; 16], &children].concat());
    let table = [node.to_le_bytes(), heap.to_le_bytes()].concat();
    check_reads(&file.finish(&[(0x11, table)]), Format::Opaque);
}

#[test]
fn names_that_add_up_are_not_held() {
    // Sixteen groups in each other with names of 250 bytes, and in the last a name that leads to each of 20,000 links.
    let mut file = Hdf5::new();
    let empty = file.add(&header(&[]));
    let links: Vec<_> = (0..20_000).map(|number| link(&number.to_string(), empty)).collect();
    let mut inner = file.add(&header(&links));
    for _ in 0..15 {
        inner = file.add(&header(&[link(&"n".repeat(250), inner)]));
    }
    check_reads(&file.finish(&[link("g", inner)]), Format::Opaque);
}

fn check_reads(file: &[u8], format: Format) {
    let source = hostile::Virtual::new(file.len() as u64, file, b"");
    assert_eq!(source.split().unwrap().format, format);
    let most = 64 * file.len() as u64 + (80 << 10);
    assert!(source.bytes_read() < most, "{} bytes were read of {}", source.bytes_read(), file.len());
}

#[test]
fn pieces_of_chunked_datasets_are_cut_by_content_when_they_are_many() {
    let mut chunked = Hdf5::new();
    let data = chunked.add(&bytes(1, 64));
    let pieces = chunked.add(&bytes(2, 300_000));
    let contiguous = chunked.add(&contiguous(&[16], data, 64));
    let layout = (8, [&[3, 2, 2][..], &pieces.to_le_bytes(), &[0; 8]].concat());
    let dataset = chunked.add(&header(&[simple(&[75_000]), float(), layout]));
    let file = chunked.finish(&[link("a", contiguous), link("b", dataset)]);
    let kinds: Vec<_> = segments(&split_of(&file)).into_iter().map(|(_, kind)| kind).collect();
    assert_eq!(kinds, ["literal", "a F32 [16]", "opaque"]);
}

#[test]
fn superblocks_of_others_are_opaque() {
    let file = one(|at| contiguous(&[16], at, 64));
    assert_eq!(split_of(&file).format, Format::Hdf5);
    for (at, byte) in [(8, 4), (9, 4), (10, 4), (12, 1), (36, 1)] {
        let mut other = file.clone();
        other[at] = byte;
        assert_eq!(split_of(&other).format, Format::Opaque, "byte {at}");
    }
}
