//! Elements, statistics and differences against numbers computed by hand and against the plainest way to compute them.
#![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

use proptest::prelude::*;

use super::difference::{Compare, Difference};
use super::elements::{Blocks, Value, components, decode, value};
use super::find;
use super::stats::{Gather, TensorStats};
use super::{Named, TensorRef};
use crate::split::Dtype;

fn decoded(dtype: Dtype, bytes: &[u8]) -> Vec<f64> {
    let mut numbers = Vec::new();
    decode(dtype, bytes, &mut numbers);
    numbers
}

fn stats(dtype: Dtype, bytes: &[u8]) -> TensorStats {
    let mut gather = Gather::new(dtype).unwrap();
    gather.feed(bytes);
    gather.finish()
}

fn f64s(numbers: &[f64]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}

fn is_close(a: f64, b: f64) -> bool {
    (a.is_nan() && b.is_nan()) || a == b || (a - b).abs() <= 1e-12 * a.abs().max(b.abs())
}

#[track_caller]
fn assert_close(what: &str, a: f64, b: f64) {
    assert!(is_close(a, b), "{what}: {a:?} and {b:?}");
}

#[test]
fn eight_bit_floats_are_what_their_definitions_say() {
    let two = |power: i32| 2.0_f64.powi(power);
    let (nan, inf) = (f64::NAN, f64::INFINITY);
    // Codes of: zero, the smallest, the smallest normal one, 1.5, the largest, beyond it, negative zero, and -1.
    let cases: [(Dtype, &[(u8, f64)]); 5] = [
        (
            Dtype::F8E4M3,
            &[
                (0, 0.0),
                (1, two(-9)),
                (7, 7.0 * two(-9)),
                (8, two(-6)),
                (0x3c, 1.5),
                (0x7e, 448.0),
                (0x7f, nan),
                (0xff, nan),
                (0x80, -0.0),
                (0xb8, -1.0),
            ],
        ),
        (
            Dtype::F8E5M2,
            &[
                (0, 0.0),
                (1, two(-16)),
                (4, two(-14)),
                (0x3e, 1.5),
                (0x7b, 57344.0),
                (0x7c, inf),
                (0x7d, nan),
                (0xfc, -inf),
                (0x80, -0.0),
                (0xbc, -1.0),
            ],
        ),
        (
            Dtype::F8E4M3Fnuz,
            &[
                (0, 0.0),
                (1, two(-10)),
                (8, two(-7)),
                (0x44, 1.5),
                (0x7f, 240.0),
                (0xff, -240.0),
                (0x80, nan),
                (0xc0, -1.0),
            ],
        ),
        (
            Dtype::F8E5M2Fnuz,
            &[
                (0, 0.0),
                (1, two(-17)),
                (4, two(-15)),
                (0x42, 1.5),
                (0x7f, 57344.0),
                (0xff, -57344.0),
                (0x80, nan),
                (0xc0, -1.0),
            ],
        ),
        (Dtype::F8E8M0, &[(0, two(-127)), (127, 1.0), (128, 2.0), (254, two(127)), (255, nan)]),
    ];
    for (dtype, codes) in cases {
        for (code, expected) in codes {
            let [number] = decoded(dtype, &[*code])[..] else { panic!("one byte is one number") };
            let is_same = number.to_bits() == expected.to_bits() || (number.is_nan() && expected.is_nan());
            assert!(is_same, "{dtype} {code:#x} is {number}, not {expected}");
        }
    }
}

#[test]
fn single_elements_are_exact() {
    let long = (1_u64 << 53) + 1;
    let cases: Vec<(Dtype, Vec<u8>, Value, &str)> = vec![
        (Dtype::U64, long.to_le_bytes().to_vec(), Value::Unsigned(long), "9007199254740993"),
        (
            Dtype::I64,
            (-1 - long.cast_signed()).to_le_bytes().to_vec(),
            Value::Signed(-1 - long.cast_signed()),
            "-9007199254740994",
        ),
        (Dtype::I8, vec![0x80], Value::Signed(-128), "-128"),
        (Dtype::I16, vec![0xff, 0xff], Value::Signed(-1), "-1"),
        (Dtype::U16, vec![0xff, 0xff], Value::Unsigned(65535), "65535"),
        (Dtype::I32, vec![0, 0, 0, 0x80], Value::Signed(-2_147_483_648), "-2147483648"),
        (Dtype::Bool, vec![1], Value::Bool(true), "true"),
        (Dtype::F32, 0.1_f32.to_le_bytes().to_vec(), Value::Single(0.1), "0.1"),
        (Dtype::F64, 0.1_f64.to_le_bytes().to_vec(), Value::Double(0.1), "0.1"),
        (Dtype::F16, vec![0, 0x3e], Value::Single(1.5), "1.5"),
        (Dtype::BF16, vec![0xc0, 0x3f], Value::Single(1.5), "1.5"),
        (Dtype::F8E4M3, vec![0x7e], Value::Single(448.0), "448.0"),
        (Dtype::C64, [1.5_f32.to_le_bytes(), (-2_f32).to_le_bytes()].concat(), Value::Complex(1.5, -2.0), "1.5-2.0i"),
        (Dtype::C128, [3_f64.to_le_bytes(), 4_f64.to_le_bytes()].concat(), Value::Complex(3.0, 4.0), "3.0+4.0i"),
    ];
    for (dtype, bytes, expected, text) in cases {
        let found = value(dtype, &bytes).unwrap();
        assert_eq!((found, &*found.to_string()), (expected, text), "{dtype}");
        assert_eq!(value(dtype, &bytes[1..]), None, "{dtype}: a part of an element is none");
    }
    assert_eq!(Value::Complex(3.0, -4.0).to_f64(), 5.0);
}

#[test]
fn packed_types_have_no_numbers() {
    for dtype in [Dtype::F4, Dtype::F6E2M3, Dtype::F6E3M2] {
        assert!(components(dtype).is_none() && Gather::new(dtype).is_none() && decoded(dtype, &[1, 2, 3]).is_empty());
        assert_eq!(value(dtype, &[1]), None);
        let mut compare = Compare::new(Some(dtype));
        compare.add(&[1, 2, 3], &[1, 2, 4]);
        assert_eq!(compare.finish(), Some(None), "that they differ is known all the same");
    }
    let has_numbers = Dtype::ALL.iter().filter(|dtype| Gather::new(**dtype).is_some()).count();
    assert_eq!(has_numbers, Dtype::ALL.len() - 3);
}

#[test]
fn statistics_of_a_few_numbers() {
    let found = stats(Dtype::I32, &[1_i32, 2, 3, 4].map(i32::to_le_bytes).concat());
    assert_eq!((found.count, found.nan, found.infinite), (4, 0, 0));
    assert_eq!((found.min, found.max, found.mean), (1.0, 4.0, 2.5));
    // torch.tensor([1., 2., 3., 4.]).std() is 1.2910.
    assert_close("std", found.std, (5.0_f64 / 3.0).sqrt());
    assert_close("norm", found.norm, 30.0_f64.sqrt());

    let found = stats(Dtype::C64, &[3_f32, 4.0, 0.0, -1.0].map(f32::to_le_bytes).concat());
    assert_eq!((found.count, found.min, found.max, found.mean), (2, 1.0, 5.0, 3.0));
    assert_close("norm", found.norm, 26.0_f64.sqrt());

    let found = stats(Dtype::Bool, &[1, 0, 1, 1]);
    assert_eq!((found.min, found.max, found.mean), (0.0, 1.0, 0.75));

    let one = stats(Dtype::F32, &7_f32.to_le_bytes());
    assert!(one.std.is_nan() && one.mean == 7.0, "one element has no deviation as a sample: {one:?}");
    let none = stats(Dtype::F32, &[]);
    assert!(none.count == 0 && none.min.is_nan() && none.mean.is_nan() && none.std.is_nan() && none.norm == 0.0);
}

#[test]
fn what_is_not_finite_is_counted_and_left_out() {
    let inf = f64::INFINITY;
    let found = stats(Dtype::F64, &f64s(&[1.0, f64::NAN, -inf, 3.0, inf, f64::NAN, f64::NAN]));
    assert_eq!((found.count, found.nan, found.infinite), (7, 3, 2));
    assert_eq!((found.min, found.max, found.mean), (-inf, inf, 2.0));
    assert_close("std", found.std, 2.0_f64.sqrt());
    assert_close("norm", found.norm, 10.0_f64.sqrt());
    let only = stats(Dtype::F64, &f64s(&[f64::NAN; 3]));
    assert!(only.count == 3 && only.nan == 3 && only.min.is_nan() && only.mean.is_nan());
    // Their sum is too large for a double, they are not.
    let large = stats(Dtype::F64, &f64s(&[1.5e308; 4]));
    assert_eq!((large.infinite, large.min, large.max), (0, 1.5e308, 1.5e308));
    assert_close("mean", large.mean, 1.5e308);
}

#[test]
fn small_deviations_far_from_zero_are_not_lost() {
    // Sums of squares would cancel: 1e9 squared leaves no digit for a deviation of 0.5.
    let numbers: Vec<f64> = (0..100_000).map(|at| 1e9 + f64::from(at % 2)).collect();
    let found = stats(Dtype::F64, &f64s(&numbers));
    assert_close("mean", found.mean, 1e9 + 0.5);
    assert_close("std", found.std, (0.25_f64 * 100_000.0 / 99_999.0).sqrt());
}

fn difference(dtype: Dtype, before: &[u8], after: &[u8]) -> Difference {
    let mut compare = Compare::new(Some(dtype));
    compare.add(before, after);
    compare.finish().unwrap().unwrap()
}

#[test]
fn differences_of_a_few_numbers() {
    let f32s = |numbers: &[f32]| numbers.iter().flat_map(|number| number.to_le_bytes()).collect::<Vec<u8>>();
    let found = difference(Dtype::F32, &f32s(&[3.0, 4.0, 0.0, 1.0, 0.0]), &f32s(&[3.0, 2.0, 0.5, 1.0, 0.0]));
    assert_eq!((found.elements, found.changed), (5, 2));
    assert_eq!((found.max_abs, found.mean_abs), (2.0, 0.5));
    assert_close("relative", found.relative, (4.25_f64 / 26.0).sqrt());
    assert_close("cosine", found.cosine, 18.0 / (26.0_f64.sqrt() * 14.25_f64.sqrt()));

    let found = difference(Dtype::C64, &f32s(&[3.0, 4.0, 1.0, 0.0]), &f32s(&[0.0, 0.0, 1.0, 0.0]));
    assert_eq!((found.elements, found.changed, found.max_abs, found.mean_abs), (2, 1, 5.0, 2.5));

    let (nan, inf) = (f32::NAN, f32::INFINITY);
    let found = difference(Dtype::F32, &f32s(&[1.0, 1.0, nan, 1.0]), &f32s(&[2.0, nan, nan, inf]));
    assert_eq!((found.changed, found.nonfinite_before, found.nonfinite_after), (3, 1, 3));
    assert_eq!((found.max_abs, found.mean_abs, found.relative), (1.0, 1.0, 1.0));

    let zero = difference(Dtype::F32, &f32s(&[0.0, 0.0]), &f32s(&[0.0, 1.0]));
    assert!(zero.relative == f64::INFINITY && zero.cosine.is_nan(), "{zero:?}");

    // Beyond 53 bits doubles are the same and the elements are not.
    let (a, b) = ((1_i64 << 60).to_le_bytes(), ((1_i64 << 60) + 1).to_le_bytes());
    let found = difference(Dtype::I64, &a, &b);
    assert_eq!((found.changed, found.max_abs, found.relative), (1, 0.0, 0.0));

    let mut same = Compare::new(Some(Dtype::F32));
    same.add(&f32s(&[1.0, nan]), &f32s(&[1.0, nan]));
    assert_eq!(same.finish(), None);
    let mut longer = Compare::new(Some(Dtype::F32));
    longer.add(&[0; 4], &[0; 4]);
    longer.differs_in_length();
    assert_eq!(longer.finish(), Some(None));
}

#[test]
fn an_element_is_found_by_its_position() {
    let found = |shape: &[u64], strides: Option<&[u64]>, len, index: &[i64]| {
        let tensor = TensorRef { name: "t", dtype: Some("F32"), shape: Some(shape), strides, offset: 100, len };
        find::element(&Named { name: "t".into(), file: 3, tensor }, index)
            .map(|span| (span.file, span.offset, span.len))
    };
    assert_eq!(found(&[2, 3], None, 24, &[0, 0]), Ok((3, 100, 4)));
    assert_eq!(found(&[2, 3], None, 24, &[1, 2]), Ok((3, 120, 4)));
    assert_eq!(found(&[2, 3], None, 24, &[-1, -3]), Ok((3, 112, 4)));
    assert_eq!(found(&[2, 3], Some(&[1, 2]), 24, &[1, 2]), Ok((3, 120, 4)), "transposed");
    assert_eq!(found(&[4, 2], Some(&[0, 1]), 8, &[3, 1]), Ok((3, 104, 4)), "expanded");
    assert_eq!(found(&[], None, 4, &[]), Ok((3, 100, 4)));
    assert_eq!(found(&[2, 3], None, 24, &[1]), Err("it has 2 dimensions".into()));
    assert_eq!(found(&[2, 3], None, 24, &[1, 3]), Err("dimension 1 has 3 positions".into()));
    assert_eq!(found(&[2, 3], None, 24, &[-3, 0]), Err("dimension 0 has 2 positions".into()));
    assert_eq!(found(&[2, 3], None, 24, &[i64::MIN, 0]), Err("dimension 0 has 2 positions".into()));
    assert_eq!(found(&[0, 3], None, 0, &[0, 0]), Err("dimension 0 has 0 positions".into()));
    // A manifest that lies about the shape.
    assert_eq!(found(&[2, 30], None, 24, &[1, 2]), Err("its shape does not fit its bytes".into()));
    assert_eq!(found(&[9, u64::MAX, 9], None, 24, &[1, 1, 1]), Err("its shape overflows".into()));
}

/// Numbers of all kinds, mostly ordinary ones.
fn number() -> impl Strategy<Value = f64> {
    prop_oneof![8 => -1e3..1e3_f64, 1 => Just(0.0), 1 => any::<f32>().prop_map(f64::from)]
}

proptest! {
    #[test]
    fn statistics_are_those_of_the_plain_way(numbers in proptest::collection::vec(number(), 0..5000), cut in 0..40_000_usize) {
        let bytes = f64s(&numbers);
        let mut gather = Gather::new(Dtype::F64).unwrap();
        let (first, second) = bytes.split_at(cut.min(bytes.len()));
        gather.feed(first);
        gather.feed(second);
        let found = gather.finish();
        let finite: Vec<f64> = numbers.iter().copied().filter(|number| number.is_finite()).collect();
        let n = finite.len() as f64;
        let mean = finite.iter().sum::<f64>() / n;
        let squares: f64 = finite.iter().map(|number| (number - mean).powi(2)).sum();
        prop_assert_eq!(found.count as usize, numbers.len());
        prop_assert_eq!((found.nan + found.infinite) as usize, numbers.len() - finite.len());
        let scale = finite.iter().map(|number| number.abs()).sum::<f64>() / n;
        prop_assert!(finite.is_empty() || (found.mean - mean).abs() <= 1e-12 * scale, "{} {mean}", found.mean);
        if finite.len() > 1 {
            let std = (squares / (n - 1.0)).sqrt();
            prop_assert!((found.std - std).abs() <= 1e-9 * std.max(scale), "{} {std}", found.std);
        }
        let norm = finite.iter().map(|number| number * number).sum::<f64>().sqrt();
        prop_assert!((found.norm - norm).abs() <= 1e-9 * norm, "{} {norm}", found.norm);
        let numbers = numbers.iter().copied().filter(|number| !number.is_nan());
        let extremes = numbers.fold(None, |all: Option<(f64, f64)>, number| {
            Some(all.map_or((number, number), |(min, max)| (min.min(number), max.max(number))))
        });
        prop_assert_eq!(extremes.is_none(), found.min.is_nan());
        if let Some(extremes) = extremes {
            prop_assert_eq!(extremes, (found.min, found.max));
        }
    }

    #[test]
    fn blocks_are_the_same_however_the_bytes_are_cut(
        bytes in proptest::collection::vec(any::<u8>(), 0..3000),
        cuts in proptest::collection::vec(0..3000_usize, 0..6),
        dtype in proptest::sample::select(Dtype::ALL),
    ) {
        prop_assume!(components(dtype).is_some());
        let element = dtype.bits() as usize / 8;
        let expected = decoded(dtype, &bytes[..bytes.len() - bytes.len() % element]);
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).chain([0, bytes.len()]).collect();
        cuts.sort_unstable();
        let mut blocks = Blocks::new(dtype).unwrap();
        let mut found = Vec::new();
        for pair in cuts.windows(2) {
            blocks.feed(&bytes[pair[0]..pair[1]], |numbers| found.extend_from_slice(numbers));
        }
        let bits = |numbers: &[f64]| numbers.iter().map(|number| number.to_bits()).collect::<Vec<_>>();
        prop_assert_eq!(bits(&found), bits(&expected));
    }

    #[test]
    fn differences_are_those_of_the_plain_way(pairs in proptest::collection::vec((number(), number(), any::<bool>()), 1..4000)) {
        let before: Vec<f64> = pairs.iter().map(|(a, ..)| *a).collect();
        let after: Vec<f64> = pairs.iter().map(|(a, b, same)| if *same { *a } else { *b }).collect();
        let changed = before.iter().zip(&after).filter(|(a, b)| a.to_bits() != b.to_bits()).count();
        let mut compare = Compare::new(Some(Dtype::F64));
        compare.add(&f64s(&before), &f64s(&after));
        let Some(found) = compare.finish() else {
            prop_assert_eq!(changed, 0);
            return Ok(());
        };
        let found = found.unwrap();
        prop_assert_eq!((found.elements, found.changed), (before.len() as u64, changed as u64));
        prop_assert_eq!(found.nonfinite_before as usize, before.iter().filter(|number| !number.is_finite()).count());
        prop_assert_eq!(found.nonfinite_after as usize, after.iter().filter(|number| !number.is_finite()).count());
        let finite = || before.iter().zip(&after).filter(|(a, b)| a.is_finite() && b.is_finite());
        let sum = |term: fn(f64, f64) -> f64| finite().map(|(a, b)| term(*a, *b)).sum::<f64>();
        let close = |a: f64, b: f64| is_close(a, b) || (a - b).abs() <= 1e-9 * a.abs().max(b.abs());
        prop_assert!(close(found.mean_abs, sum(|a, b| (a - b).abs()) / finite().count() as f64));
        prop_assert!(close(found.max_abs, finite().map(|(a, b)| (a - b).abs()).reduce(f64::max).unwrap_or(f64::NAN)));
        let (norm_a, norm_b) = (sum(|a, _| a * a).sqrt(), sum(|_, b| b * b).sqrt());
        let apart = sum(|a, b| (a - b) * (a - b)).sqrt();
        if norm_a > 0.0 && finite().count() > 0 {
            prop_assert!(close(found.relative, apart / norm_a), "{found:?}");
        }
        if norm_a > 0.0 && norm_b > 0.0 {
            let cosine = sum(|a, b| a * b) / (norm_a * norm_b);
            prop_assert!((found.cosine - cosine).abs() < 1e-9 || found.cosine.is_nan() == cosine.is_nan(), "{found:?}");
        }
    }
}
