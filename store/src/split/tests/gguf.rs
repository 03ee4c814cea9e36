//! GGUF: names, types and shapes as llama.cpp has them, metadata that is passed over, and headers that lie.

use super::made::{Block, gguf, metadata, text, value};
use super::*;
use crate::limits::TENSORS_MAX;

fn tensors(file: &[u8]) -> Vec<(u64, String)> {
    segments(&split_of(file)).into_iter().filter(|(_, kind)| kind != "literal").collect()
}

fn sample() -> Vec<u8> {
    let blocks = [
        Block::new("token_embd.weight", &[256, 3], 12, bytes(1, 3 * 144)),
        Block::new("output_norm.weight", &[5], 0, bytes(2, 20)),
        Block::new("rope", &[4, 3, 2], 30, bytes(3, 48)),
        Block::new("one", &[], 24, bytes(4, 1)),
    ];
    gguf(&metadata(3), 32, &blocks)
}

#[test]
fn tensors_have_their_blocks_names_and_the_shape_that_others_see() {
    let split = split_of(&sample());
    assert_eq!((split.format, split.format.to_string().as_str()), (Format::Gguf, "gguf"));
    let expected = [
        (432, "token_embd.weight Q4_K [3, 256]".into()),
        (20, "output_norm.weight F32 [5]".into()),
        (48, "rope BF16 [2, 3, 4]".into()),
        (1, "one I8 []".into()),
    ];
    assert_eq!(tensors(&sample()), expected);
    let mut version_2 = sample();
    version_2[4] = 2;
    assert_eq!(tensors(&version_2), expected);
    let names: Vec<_> = (0..64)
        .filter_map(|kind| {
            let file = gguf(&[], 32, &[Block::new("t", &[256], kind, vec![1; 1024])]);
            let [(len, words)] = &tensors(&file)[..] else { panic!("type {kind}") };
            (*len < 1024 || words.contains("F32")).then(|| words.split(' ').nth(1).unwrap().to_owned())
        })
        .collect();
    assert_eq!(names.len(), 30, "types of known size, all but those that fill the file: {names:?}");
}

#[test]
fn alignment_is_what_the_metadata_says() {
    let blocks = [Block::new("a", &[3], 0, bytes(1, 12)), Block::new("b", &[3], 0, bytes(2, 12))];
    for alignment in [1_u32, 8, 64, 4096] {
        let values = [value("general.alignment", 4, &alignment.to_le_bytes())];
        let file = gguf(&values, alignment as usize, &blocks);
        assert_eq!(tensors(&file), [(12, "a F32 [3]".into()), (12, "b F32 [3]".into())], "{alignment}");
        let at = file.windows(12).position(|window| window == bytes(2, 12)).unwrap() as u64;
        let split = split_of(&file);
        let b =
            split.segments.iter().position(|segment| matches!(&segment.kind, Kind::Tensor { name, .. } if name == "b"));
        assert_eq!(split.segments[..b.unwrap()].iter().map(|segment| segment.len).sum::<u64>(), at);
    }
}

#[test]
fn a_type_to_come_ends_where_the_next_tensor_begins() {
    let blocks = [
        Block::new("new", &[7, 9], 99, bytes(1, 100)),
        Block::new("known", &[8], 0, bytes(2, 32)),
        Block::new("last", &[7], 98, bytes(3, 50)),
    ];
    assert_eq!(
        tensors(&gguf(&[], 32, &blocks)),
        [(128, "new ggml type 99 [9, 7]".into()), (32, "known F32 [8]".into()), (64, "last ggml type 98 [7]".into())]
    );
}

#[test]
fn a_large_vocabulary_is_passed_over() {
    let file = gguf(&metadata(200_000), 32, &[Block::new("a", &[3], 0, bytes(1, 12))]);
    assert!(file.len() > 3_000_000);
    assert_eq!(tensors(&file), [(12, "a F32 [3]".into())]);
}

#[test]
fn lying_headers_make_the_file_opaque() {
    let one = |values: &[Vec<u8>], block: Block<'_>| gguf(values, 32, &[block]);
    let block = |dims| Block::new("t", dims, 0, bytes(1, 96));
    let list = |kind: u32, count: u64| value("x", 9, &[&kind.to_le_bytes()[..], &count.to_le_bytes()].concat());
    let counts = |tensors: u64, values: u64| {
        let mut file = sample();
        file[8..16].copy_from_slice(&tensors.to_le_bytes());
        file[16..24].copy_from_slice(&values.to_le_bytes());
        file
    };
    let overlap = [
        Block::new("a", &[8], 0, bytes(1, 32)),
        Block { moved: u64::MAX - 3, ..Block::new("b", &[8], 0, bytes(1, 64)) },
    ];
    let same = [
        Block::new("a", &[8], 0, bytes(1, 32)),
        Block { moved: u64::MAX - 31, ..Block::new("b", &[8], 0, vec![0; 32]) },
    ];
    let max = u64::MAX;
    let lies = [
        ("past the end", one(&[], block(&[25]))),
        ("elements overflow", one(&[], block(&[1 << 40, 1 << 40]))),
        ("bytes overflow", one(&[], block(&[1 << 62]))),
        ("offset past all files", one(&[], Block { moved: max, ..block(&[1]) })),
        ("half a block", one(&[], Block { kind: 12, ..block(&[128]) })),
        ("too many dimensions", one(&[], block(&[1; 65]))),
        ("a name of 5000 bytes", one(&[], Block { name: &"n".repeat(5000), ..block(&[1]) })),
        ("overlap", gguf(&[], 1, &overlap)),
        ("a doubled place", gguf(&[], 32, &same)),
        ("alignment of 0", one(&[value("general.alignment", 4, &[0; 4])], block(&[1]))),
        ("alignment of 3", one(&[value("general.alignment", 4, &3_u32.to_le_bytes())], block(&[1]))),
        ("alignment of another type", one(&[value("general.alignment", 10, &[32, 0, 0, 0, 0, 0, 0, 0])], block(&[1]))),
        ("alignment past the end", one(&[value("general.alignment", 4, &(1_u32 << 31).to_le_bytes())], block(&[1]))),
        ("a type of value to come", one(&[value("x", 13, &[0; 8])], block(&[1]))),
        ("a list of lists", one(&[list(9, 1)], block(&[1]))),
        ("a list without end", one(&[list(10, max)], block(&[1]))),
        ("strings without end", one(&[list(8, max)], block(&[1]))),
        ("a string without end", one(&[value("x", 8, &max.to_le_bytes())], block(&[1]))),
        (
            "a key without end",
            [b"GGUF\x03\0\0\0", &[1, 0, 0, 0, 0, 0, 0, 0][..], &[1, 0, 0, 0, 0, 0, 0, 0], &[255; 8]].concat(),
        ),
        ("more tensors than there are", counts(5, 6)),
        ("tensors without end", counts(max, 6)),
        ("values without end", counts(4, max)),
        ("version 1", [b"GGUF\x01\0\0\0", &sample()[8..]].concat()),
        ("big-endian", [b"GGUF\0\0\0\x03", &sample()[8..]].concat()),
    ];
    for (what, file) in lies {
        assert_eq!(split_of(&file).format, Format::Opaque, "{what}");
        rebuild(&[&file]);
    }
}

#[test]
fn counts_that_lie_cost_no_more_than_the_file() {
    // A name and no dimension for each of so many tensors: as many as there are bytes for.
    let info = [text(""), vec![0; 4], 24_u32.to_le_bytes().to_vec(), vec![0; 8]].concat();
    let mut file = b"GGUF\x03\0\0\0".to_vec();
    file.extend((TENSORS_MAX as u64).to_le_bytes());
    file.extend([0; 8]);
    file.extend(info.repeat(1000));
    let source = hostile::Virtual::new(file.len() as u64, &file, b"");
    assert_eq!(source.split().unwrap().format, Format::Opaque);
    assert!(source.bytes_read() < 2 * file.len() as u64);
    // Empty strings up to the largest header: a header is never read twice.
    let endless = [
        b"GGUF\x03\0\0\0",
        &[0; 8][..],
        &[1, 0, 0, 0, 0, 0, 0, 0],
        &value("x", 9, &[8, 0, 0, 0, 255, 255, 255, 255, 255, 255, 255, 0]),
    ]
    .concat();
    let source = hostile::Virtual::new(1 << 50, &endless, b"");
    assert_eq!(source.split().unwrap().format, Format::Opaque);
    assert!(source.bytes_read() <= crate::limits::GGUF_HEADER_BYTES_MAX + (1 << 20));
}

#[test]
fn a_model_that_is_cut_short_is_known_to_be() {
    let cut = |file: &[u8]| cut_short(&*source(file), "a.gguf").unwrap();
    let file = sample();
    // The last tensor's padding may be missing.
    let end = file.len() - 31;
    for len in 8..end {
        assert!(cut(&file[..len]).is_some(), "{len} bytes of {}", file.len());
    }
    for len in end..=file.len() {
        assert_eq!(cut(&file[..len]), None);
    }
    assert_eq!(cut(&[b"GGUF\x09\0\0\0", &file[8..]].concat()), None, "a version to come");
}
