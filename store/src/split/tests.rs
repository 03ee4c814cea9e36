#![allow(clippy::unwrap_used)]
//! Segments must tile and layouts must give back whatever is thrown at them; the rest is about the dedup ratio.

mod alike;
mod arranged;
mod gguf;
mod hdf5;
mod hostile;
mod made;
mod npy;
mod plans;
mod samples;
mod tar;
mod torch;

use proptest::prelude::*;

use self::samples::{Entry, bytes, dcp, rebuild, safetensors_file, segments, source, torch_file, zip};
use super::*;

fn split_of(bytes: &[u8]) -> Split {
    let split = split(&source(bytes)).unwrap();
    assert!(check_tiling(bytes.len() as u64, &split.segments), "{split:?}");
    split
}

#[test]
fn segments_tile_or_do_not() {
    let tile = |size, lens: &[u64]| {
        let segments: Vec<_> = lens.iter().map(|len| Segment { len: *len, kind: Kind::Opaque }).collect();
        check_tiling(size, &segments)
    };
    assert!(tile(0, &[]) && tile(5, &[2, 3]) && tile(u64::MAX, &[u64::MAX - 1, 1]));
    assert!(!tile(5, &[]) && !tile(5, &[2, 2]) && !tile(5, &[5, 0]) && !tile(0, &[0]) && !tile(0, &[u64::MAX, 1]));
}

#[test]
fn safetensors_gives_header_and_tensors() {
    let file = safetensors_file(&[
        ("b", "F32", &[3, 5]),
        ("a", "BF16", &[7]),
        ("none", "F32", &[0, 4]),
        ("scalar", "I64", &[]),
    ]);
    let split = split_of(&file);
    assert_eq!(split.format, Format::Safetensors);
    assert_eq!(split.format.to_string(), "safetensors");
    let header = file.len() as u64 - 60 - 14 - 8;
    assert_eq!(
        segments(&split),
        [
            (header, "literal".into()),
            (8, "scalar I64 []".into()),
            (60, "b F32 [3, 5]".into()),
            (14, "a BF16 [7]".into()),
        ]
    );
    let [none] = &split.views[..] else { panic!("{:?}", split.views) };
    assert_eq!((none.name.as_str(), &none.shape[..], none.len), ("none", &[0, 4][..], 0));
}

#[test]
fn safetensors_knows_every_type_of_the_crate() {
    use ::safetensors::Dtype as Theirs;
    let theirs = [
        Theirs::BOOL,
        Theirs::F4,
        Theirs::F6_E2M3,
        Theirs::F6_E3M2,
        Theirs::U8,
        Theirs::I8,
        Theirs::F8_E5M2,
        Theirs::F8_E4M3,
        Theirs::F8_E8M0,
        Theirs::F8_E4M3FNUZ,
        Theirs::F8_E5M2FNUZ,
        Theirs::I16,
        Theirs::U16,
        Theirs::F16,
        Theirs::BF16,
        Theirs::I32,
        Theirs::U32,
        Theirs::F32,
        Theirs::C64,
        Theirs::F64,
        Theirs::I64,
        Theirs::U64,
    ];
    // Those that safetensors has no name for come last.
    assert_eq!(theirs.len() + 2, Dtype::ALL.len());
    for theirs in theirs {
        let ours = Dtype::parse(&theirs.to_string()).unwrap();
        assert_eq!((ours.name(), ours.bits() as usize), (theirs.to_string().as_str(), theirs.bitsize()));
    }
    assert_eq!(Dtype::parse("F128"), None);
    // Three 6-bit elements are no whole number of bytes, four are three bytes.
    let header = |dims, end| format!(r#"{{"t":{{"dtype":"F6_E2M3","shape":[{dims}],"data_offsets":[0,{end}]}}}}"#);
    assert_eq!(split_of(&samples::with_header(&header(3, 2), 2)).format, Format::Opaque);
    assert_eq!(split_of(&samples::with_header(&header(4, 3), 3)).format, Format::Safetensors);
}

#[test]
fn safetensors_forgives_gaps_tails_and_types_to_come() {
    let header = r#"{"__metadata__":{"a":{"b":[1]}},"t":{"dtype":"F256","x":[],"shape":[1],"data_offsets":[4,36]}}"#;
    let file = samples::with_header(header, 50);
    let header = 8 + header.len() as u64;
    let split = split_of(&file);
    assert_eq!(segments(&split), [(header + 4, "literal".into()), (32, "t F256 [1]".into()), (14, "literal".into())]);
    assert_eq!(segments(&split_of(&samples::with_header("{}", 0))), [(10, "literal".into())]);
}

#[test]
fn torch_zip_gives_its_storages() {
    let split = split_of(&torch_file(
        "step-250",
        &[("data/0", bytes(1, 70_000)), ("data/1", vec![]), ("data/2", bytes(2, 4))],
        true,
    ));
    assert_eq!((split.format, split.format.to_string().as_str()), (Format::TorchZip, "torch zip"));
    let tensors: Vec<_> = segments(&split).into_iter().filter(|(_, kind)| kind != "literal").collect();
    assert_eq!(tensors, [(70_000, "data/0 ? ?".into()), (4, "data/2 ? ?".into())]);
    // Lightning numbers records by the order of saving: the bytes found are those put in, whatever the names.
    for zip64 in [false, true] {
        let file = torch_file("archive", &[("data/7", bytes(3, 100_000))], zip64);
        let split = split_of(&file);
        let at = split
            .segments
            .iter()
            .take_while(|segment| segment.kind == Kind::Literal)
            .map(|segment| segment.len)
            .sum::<u64>();
        assert_eq!(&file[at as usize..at as usize + 100_000], &bytes(3, 100_000)[..]);
    }
}

#[test]
fn torch_zip_takes_constants_and_package_storages_and_no_other_records() {
    let records = [
        Entry::new("m/data.pkl", bytes(1, 300)),
        Entry::new("m/constants/3", bytes(2, 10)),
        Entry::new("m/.data/1.storage", bytes(3, 11)),
        Entry::new("m/.data/serialization_id", bytes(4, 40)),
        Entry::new("m/code/x.py", bytes(5, 100_000)),
        Entry::new("other/data/1", bytes(6, 12)),
        Entry { method: 8, ..Entry::new("m/data/5", bytes(7, 13)) },
        Entry { method: 8, ..Entry::new("m/data/6", bytes(8, 70_000)) },
        Entry { flags: 1, ..Entry::new("m/data/7", bytes(9, 14)) },
    ];
    let split = split_of(&zip(&records, true));
    let found: Vec<_> = segments(&split).into_iter().filter(|(_, kind)| kind != "literal").collect();
    assert_eq!(found, [(10, "constants/3 ? ?".into()), (11, ".data/1.storage ? ?".into()), (70_000, "opaque".into())]);
}

#[test]
fn several_torch_zips_on_end_are_all_found() {
    let parts = [bytes(1, 50_000), bytes(2, 10), bytes(3, 70_000)];
    let names = |split: &Split| segments(split).into_iter().filter(|(_, kind)| kind != "literal").collect::<Vec<_>>();
    let expected = [(50_000, "0/data/0 ? ?".into()), (10, "1/data/0 ? ?".into()), (70_000, "2/data/0 ? ?".into())];
    for zip64 in [false, true] {
        assert_eq!(names(&split_of(&dcp(&parts, zip64))), expected);
    }
    // What one archive says can't reach into the next.
    let mut liar = [Entry::new("a/data.pkl", bytes(4, 100)), Entry::new("a/data/0", bytes(5, 70_000))];
    liar[1].stored_len += 5000;
    liar[1].raw_len += 5000;
    let liar = zip(&liar, true);
    let split = split_of(&[&liar[..], &dcp(&parts[2..], true)].concat());
    assert_eq!(segments(&split)[0], (liar.len() as u64, "opaque".into()));
    assert_eq!(names(&split)[1..], [(70_000, "1/data/0 ? ?".to_owned())]);

    let mut damaged = dcp(&parts, true);
    let first = torch_file("archive", &[("data/0", parts[0].clone())], true).len();
    damaged[first - 100] ^= 0xff;
    let split = split_of(&damaged);
    assert_eq!(segments(&split)[0], (first as u64, "opaque".into()));
    assert_eq!(names(&split)[1..], [(10, "1/data/0 ? ?".to_owned()), (70_000, "2/data/0 ? ?".to_owned())]);
}

#[test]
fn other_zips_give_their_large_members_and_split_the_stored_ones() {
    let inner = torch_file("x", &[("data/0", bytes(9, 80_000))], true);
    let members = [
        Entry::new("arr_0.npy", bytes(1, 100_000)),
        Entry::new("small.npy", bytes(2, 1000)),
        Entry::new("nested.zip", inner.clone()),
        Entry { flags: 1, ..Entry::new("secret", bytes(3, 90_000)) },
    ];
    let split = split_of(&zip(&members, false));
    assert_eq!(split.format.to_string(), "zip");
    let found: Vec<_> = segments(&split).into_iter().filter(|(_, kind)| kind != "literal").collect();
    let nested = (80_000, "nested.zip:data/0 ? ?".into());
    assert_eq!(found, [(100_000, "opaque".into()), nested, (90_000, "opaque".into())]);
}

fn sample() -> impl Strategy<Value = Vec<u8>> {
    let samples = [
        safetensors_file(&[("a", "F32", &[200, 50]), ("b", "BF16", &[7]), ("c", "U8", &[3]), ("d", "F32", &[2])]),
        torch_file(
            "archive",
            &[("data/0", bytes(1, 40_000)), ("data/1", bytes(2, 4)), ("data/2", bytes(3, 300))],
            true,
        ),
        torch_file("archive", &[("data/0", bytes(1, 1000)), ("data/1", bytes(2, 4))], false),
        zip(
            &[Entry::new("a", bytes(4, 70_000)), Entry { method: 8, flags: 9, ..Entry::new("b", bytes(5, 90)) }],
            false,
        ),
        dcp(&[bytes(6, 40), bytes(7, 100), bytes(8, 33_000)], true),
        made::array("<f4", "(3, 4)", &bytes(1, 48)),
        made::gguf(&made::metadata(3), 32, &[made::Block::new("a", &[256, 3], 12, bytes(1, 432))]),
        made::tar_by_crate(&[("a.npy", &made::array("<f2", "(3, 4)", &bytes(1, 24))), ("b", &bytes(2, 70_000))]),
        hdf5::EARLIEST.to_vec(),
        hdf5::LATEST.to_vec(),
        hdf5::KERAS.to_vec(),
        Vec::new(),
    ];
    prop::sample::select(samples.to_vec())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_tiled_and_given_back(
        head in prop::sample::select(vec![&b""[..], b"PK\x03\x04", b"\x20\0\0\0\0\0\0\0{", b"\x02\0\0\0\0\0\0\0{}"]),
        body in prop::collection::vec(any::<u8>(), 0..600),
    ) {
        let file = [head, &body[..]].concat();
        rebuild(&[&file, &file]);
    }

    #[test]
    fn any_change_of_a_real_file_is_tiled_and_given_back(
        mut file in sample(),
        changes in prop::collection::vec((0..6u8, any::<prop::sample::Index>(), any::<u8>(), any::<u64>()), 1..6),
    ) {
        for (what, place, byte, number) in changes {
            if file.is_empty() {
                break;
            }
            // Half of the changes hit the last or first 400 bytes.
            let near = place.index(file.len().min(400));
            let at = match byte % 4 { 0 => near, 1 => file.len() - 1 - near, _ => place.index(file.len()) };
            match what {
                0 => file[at] = byte,
                1 => file.truncate(at),
                2 => file.extend(bytes(number, 1 + near)),
                3 => { file.remove(at); }
                4 => file.insert(at, byte),
                _ => {
                    let number = if byte % 3 == 0 { u64::MAX >> (number % 64) } else { number % 100_000 };
                    let end = file.len().min(at + if byte % 2 == 0 { 8 } else { 4 });
                    let len = end - at;
                    file[at..end].copy_from_slice(&number.to_le_bytes()[..len]);
                }
            }
        }
        rebuild(&[&file]);
    }
}
