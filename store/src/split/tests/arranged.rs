//! Storages with tensors in them: which become segments and which become views.

use super::super::arrange::{Described, Storage, arrange, row_major};
use super::*;

fn storage(start: u64, end: u64) -> Storage {
    Storage { start, end, elements: Some(Dtype::F32.into()), name: format!("data/{start}") }
}

fn tensor(name: &str, start: u64, shape: &[u64], strides: &[u64]) -> Described {
    let (name, shape, strides) = (name.to_owned(), shape.to_vec(), strides.to_vec());
    Described { name, elements: Dtype::F32.into(), element_bytes: 4, shape, strides, start }
}

/// Segments and views of a file of 1000 bytes, in words; literals are left out.
fn arranged(storages: Vec<Storage>, tensors: Vec<Described>) -> Option<(Vec<String>, Vec<String>)> {
    let (found, views) = arrange(storages, tensors)?;
    let split = Parts { format: Format::TorchZip, found, views }.fill_gaps(1000)?;
    let mut at = 0;
    let mut words = Vec::new();
    for (segment, (len, kind)) in split.segments.iter().zip(samples::segments(&split)) {
        if segment.kind != Kind::Literal {
            words.push(format!("{at}+{len} {kind}"));
        }
        at += len;
    }
    let view = |view: &View| {
        let View { name, shape, strides, offset, len, .. } = view;
        format!("{offset}+{len} {name} {shape:?} {strides:?}")
    };
    Some((words, split.views.iter().map(view).collect()))
}

#[test]
fn a_tensor_that_fills_its_storage_is_a_segment() {
    let (segments, views) = arranged(vec![storage(100, 148)], vec![tensor("w", 100, &[3, 4], &[4, 1])]).unwrap();
    assert_eq!(segments, ["100+48 w F32 [3, 4]"]);
    assert!(views.is_empty());
    // The stride of a dimension of one element says nothing.
    let (segments, _) = arranged(vec![storage(100, 148)], vec![tensor("w", 100, &[1, 12], &[77, 1])]).unwrap();
    assert_eq!(segments, ["100+48 w F32 [1, 12]"]);
}

#[test]
fn a_storage_is_cut_where_its_tensors_begin() {
    let flat = vec![tensor("b", 140, &[4], &[1]), tensor("a", 100, &[2, 4], &[4, 1])];
    let (segments, views) = arranged(vec![storage(100, 200)], flat).unwrap();
    assert_eq!(segments, ["100+32 a F32 [2, 4]", "132+8 storage F32", "140+16 b F32 [4]", "156+44 storage F32"]);
    assert!(views.is_empty());
}

#[test]
fn of_tensors_that_overlap_the_longest_is_the_segment() {
    let tied = vec![
        tensor("head", 100, &[2, 4], &[4, 1]),
        tensor("embedding", 100, &[2, 4], &[4, 1]),
        tensor("row", 116, &[4], &[1]),
        tensor("turned", 100, &[4, 2], &[1, 4]),
        tensor("spread", 100, &[5, 2], &[0, 1]),
        tensor("none", 132, &[0, 7], &[7, 1]),
    ];
    let (segments, views) = arranged(vec![storage(100, 132)], tied).unwrap();
    assert_eq!(segments, ["100+32 head F32 [2, 4]"]);
    assert_eq!(
        views,
        [
            "100+32 embedding [2, 4] None",
            "100+32 turned [4, 2] Some([1, 4])",
            "116+16 row [4] None",
            "100+8 spread [5, 2] Some([0, 1])",
            "132+0 none [0, 7] None"
        ]
    );
}

#[test]
fn a_storage_of_which_only_a_turned_tensor_is_known_is_whole() {
    let (segments, views) = arranged(vec![storage(100, 132)], vec![tensor("t", 100, &[4, 2], &[1, 4])]).unwrap();
    assert_eq!(segments, ["100+32 storage F32"]);
    assert_eq!(views, ["100+32 t [4, 2] Some([1, 4])"]);
    let (segments, _) = arranged(vec![storage(100, 132)], vec![]).unwrap();
    assert_eq!(segments, ["100+32 data/100 F32 ?"]);
}

#[test]
fn a_tensor_outside_its_storage_is_a_doubt() {
    let outside = [
        tensor("past the end", 104, &[8], &[1]),
        tensor("before", 96, &[8], &[1]),
        tensor("strides reach out", 100, &[2, 4], &[5, 1]),
        tensor("between two", 200, &[1], &[1]),
        tensor("elements overflow", 100, &[u64::MAX, u64::MAX], &[1, 1]),
        tensor("reach overflows", 100, &[2], &[u64::MAX]),
        tensor("end overflows", u64::MAX - 2, &[1], &[1]),
        tensor("fewer strides", 100, &[2, 4], &[1]),
        tensor("too many dimensions", 100, &[1; 65], &[1; 65]),
        Described { element_bytes: 0, ..tensor("no bytes", 100, &[1], &[1]) },
    ];
    for tensor in outside {
        let what = tensor.name.clone();
        assert!(arranged(vec![storage(100, 132), storage(300, 400)], vec![tensor]).is_none(), "{what}");
    }
    assert!(arranged(vec![storage(100, 132), storage(131, 200)], vec![]).is_none(), "two overlap");
    assert_eq!(row_major(&[2, u64::MAX, 3]), None);
}

proptest! {
    #[test]
    fn every_byte_of_a_storage_has_one_segment_and_every_tensor_its_name(
        tensors in prop::collection::vec((0_u64..60, prop::collection::vec(0_u64..5, 0..3), prop::collection::vec(0_u64..5, 2)), 0..12)
    ) {
        let described = tensors.iter().enumerate().map(|(nr, (at, shape, strides))| {
            tensor(&nr.to_string(), 100 + at * 4, shape, &strides[..shape.len()])
        });
        if let Some((segments, views)) = arranged(vec![storage(100, 400)], described.collect()) {
            let named = segments.iter().filter(|words| !words.contains("storage") && !words.contains("data/")).count();
            prop_assert_eq!(named + views.len(), tensors.len());
            let len = |words: &String| words.split(['+', ' ']).nth(1).unwrap().parse::<u64>().unwrap();
            prop_assert_eq!(segments.iter().map(len).sum::<u64>(), 300);
        }
    }
}
