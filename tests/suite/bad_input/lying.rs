//! safetensors and zip files that are cut short or state what is not so: they go in and come out as they are.

use std::fmt::Write as _;

use ckpt_tests::lab::{Lab, noise, safetensors, tree};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

/// A stored zip as `torch.save` writes it, and where its central directory begins.
fn zip(entries: &[(&str, &[u8])], flags: u16) -> (Vec<u8>, usize) {
    let (mut file, mut directory) = (Vec::new(), Vec::new());
    for (name, bytes) in entries {
        let size = u32::try_from(bytes.len()).unwrap().to_le_bytes();
        let at = u32::try_from(file.len()).unwrap().to_le_bytes();
        let name_len = u16::try_from(name.len()).unwrap().to_le_bytes();
        // Version, flags, method, time, date, CRC (0 is what some writers leave), sizes, name's and extra's length.
        let common = [&[20, 0][..], &flags.to_le_bytes(), &[0; 10], &size, &size, &name_len, &[0, 0]].concat();
        file.extend([&b"PK\x03\x04"[..], &common, name.as_bytes(), bytes].concat());
        directory.extend([&b"PK\x01\x02\x14\x00"[..], &common, &[0; 10], &at, name.as_bytes()].concat());
    }
    let begins = file.len();
    let count = u16::try_from(entries.len()).unwrap().to_le_bytes();
    let (len, at) = (u32::try_from(directory.len()).unwrap(), u32::try_from(begins).unwrap());
    let end = [&b"PK\x05\x06\0\0\0\0"[..], &count, &count, &len.to_le_bytes(), &at.to_le_bytes(), &[0, 0]].concat();
    file.extend(directory);
    file.extend(end);
    (file, begins)
}

fn torch_like() -> (Vec<u8>, usize) {
    let (weight, bias) = (noise(1, 40_000), noise(2, 300));
    zip(&[("m/data.pkl", b"\x80\x02}."), ("m/data/0", &weight), ("m/data/1", &bias), ("m/version", b"3\n")], 0)
}

fn small_safetensors() -> Vec<u8> {
    safetensors(&[("a", "F32", &noise(3, 40_000)), ("b", "F16", &noise(4, 2000)), ("c", "U8", &noise(5, 10))])
}

/// A safetensors file with this header and some bytes after it.
fn with_header(header: &str, stated_len: Option<u64>) -> Vec<u8> {
    let stated = stated_len.unwrap_or(header.len() as u64);
    [&stated.to_le_bytes()[..], header.as_bytes(), &noise(6, 5000)].concat()
}

/// Puts all in one directory, each alone as well when asked to, and compares what comes back.
fn assert_round_trip(files: &[(String, Vec<u8>)], each_alone: bool) {
    let lab = Lab::quick();
    for (name, bytes) in files {
        lab.write(format!("all/{name}"), bytes);
    }
    lab.put(&[&lab.path("all")], "all", 1).unwrap();
    lab.get("all@1", &lab.path("back")).unwrap();
    assert_eq!(tree(&lab.path("back")), tree(&lab.path("all")));
    for (step, (name, bytes)) in (0..).zip(files).filter(|_| each_alone) {
        lab.put(&[&lab.path("all").join(name)], "one", step).unwrap();
        let one = lab.path("one");
        lab.get(&format!("one@{step}"), &one).unwrap();
        assert!(std::fs::read(&one).unwrap() == *bytes, "{name} came back with other bytes");
        std::fs::remove_file(one).unwrap();
    }
    lab.ok(&[&"show", &"all@1", &"--tensors"]);
    assert!(lab.verify().unwrap().is_sound());
}

#[test]
fn safetensors_that_lie_come_back() {
    let good = small_safetensors();
    let mut files: Vec<(String, Vec<u8>)> = vec![("good".into(), good.clone())];
    for len in (0..400).chain((400..good.len()).step_by(1501)) {
        files.push((format!("cut-{len}"), good[..len].to_vec()));
    }
    for stated in [0, 1, 8, 1 << 20, 1 << 40, 1 << 62, 1 << 63, u64::MAX - 8, u64::MAX - 7, u64::MAX] {
        files.push((format!("stated-{stated}"), with_header("{}", Some(stated))));
    }
    let one = |dtype: &str, shape: &str, begin: &str, end: &str| {
        format!(r#"{{"a":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{begin},{end}]}}}}"#)
    };
    let headers = [
        one("F32", "[1250]", "0", "5000"),
        one("F32", "[1250]", "0", "5001"),
        one("F32", "[1]", "5000", "0"),
        one("F32", "[1]", "9223372036854775808", "9223372036854775812"),
        one("F32", "[1]", "18446744073709551612", "18446744073709551615"),
        one("F32", "[9223372036854775808, 4]", "0", "4"),
        one("F32", "[4294967296, 4294967296]", "0", "0"),
        one("F32", "[]", "0", "4"),
        one("F99", "[1250]", "0", "5000"),
        one("F32", "[-1]", "0", "4"),
        one("F32", "[1]", "0.5", "4e0"),
        r#"{"a":{"dtype":"U8","shape":[3000],"data_offsets":[0,3000]},"b":{"dtype":"U8","shape":[3000],"data_offsets":[2000,5000]}}"#.into(),
        r#"{"a":{"dtype":"U8","shape":[9],"data_offsets":[0,9]},"a":{"dtype":"U8","shape":[9],"data_offsets":[0,9]}}"#.into(),
        r#"{"a":{"dtype":"U8","shape":[9],"data_offsets":[100,109]}}"#.into(),
        r#"{"__metadata__":{"format":"pt"}}"#.into(),
        r#"{"__metadata__":7,"\u0000\ud800":{}}"#.into(),
        format!("{{{}", "[".repeat(100_000)),
        "{\"a\":".repeat(20_000),
        "{".into(),
        "null".into(),
    ];
    for (nr, header) in headers.into_iter().enumerate() {
        files.push((format!("header-{nr}"), with_header(&header, None)));
    }
    let mut rng = SmallRng::seed_from_u64(1);
    for nr in 0..150 {
        let mut bytes = good.clone();
        for _ in 0..rng.random_range(1..4) {
            bytes[rng.random_range(0..220)] = rng.random();
        }
        files.push((format!("random-{nr}"), bytes));
    }
    assert_round_trip(&files[..420], false);
    assert_round_trip(&files[420..], true);
}

#[test]
fn zips_that_lie_come_back() {
    let (good, directory) = torch_like();
    let (encrypted, _) = zip(&[("m/data.pkl", &noise(7, 100)), ("m/data/0", &noise(8, 50_000))], 1);
    let (nested, _) = zip(&[("m/data/0", &good), ("m/data/1", &small_safetensors())], 0);
    let mut files = vec![
        ("good".to_owned(), good.clone()),
        ("encrypted".to_owned(), encrypted),
        ("nested".to_owned(), nested),
        ("twice".to_owned(), good.repeat(2)),
        ("stray-tail".to_owned(), [&good[..], &noise(9, 300)].concat()),
        ("stray-head".to_owned(), [&b"PK\x03\x04"[..], &noise(9, 300), &good].concat()),
        ("only-end".to_owned(), good[good.len() - 22..].to_vec()),
        ("only-directory".to_owned(), [b"PK\x03\x04", &good[directory..]].concat()),
    ];
    for len in (0..good.len()).step_by(997).chain(directory..good.len()) {
        files.push((format!("cut-{len}"), good[..len].to_vec()));
    }
    // Every number of the directory and of the end record, as large as it gets: sizes, offsets, counts, lengths. All ones
    // also send a reader to zip64 records that are not there.
    for (nr, value) in [u32::MAX, 1 << 31, 0, 0xFFFE].into_iter().enumerate() {
        for at in (directory..good.len() - 4).step_by(if nr == 0 { 1 } else { 2 }) {
            let mut bytes = good.clone();
            bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
            files.push((format!("number-{value:x}-{at}"), bytes));
        }
    }
    for (nr, (size, count)) in [(1 << 63, 1), (u64::MAX, 1), (100, 1 << 63), (56, 1_000_000)].into_iter().enumerate() {
        files.push((format!("zip64-{nr}"), zip64(&good, directory, size, count)));
    }
    let (alone, together) = files.split_at(40);
    assert_round_trip(alone, true);
    assert_round_trip(together, false);
}

/// A zip whose end record sends the reader to a zip64 one with these numbers.
fn zip64(good: &[u8], directory: usize, size: u64, count: u64) -> Vec<u8> {
    let mut file = good[..good.len() - 22].to_vec();
    let at = file.len() as u64;
    let begins = directory as u64;
    let numbers = [count, count, size, begins].map(u64::to_le_bytes).concat();
    file.extend([&b"PK\x06\x06"[..], &44_u64.to_le_bytes(), &[45, 0, 45, 0], &[0; 8], &numbers].concat());
    file.extend([&b"PK\x06\x07"[..], &[0; 4], &at.to_le_bytes(), &[1, 0, 0, 0]].concat());
    file.extend([&b"PK\x05\x06\0\0\0\0"[..], &[0xFF; 12], &[0, 0]].concat());
    file
}

#[test]
fn a_million_entries_come_back() {
    let mut header = String::from("{");
    for nr in 0..1_000_000 {
        let comma = if nr == 0 { "" } else { "," };
        write!(header, r#"{comma}"t{nr}":{{"dtype":"U8","shape":[1],"data_offsets":[{nr},{}]}}"#, nr + 1).unwrap();
    }
    header.push('}');
    let tensors = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &noise(1, 1_000_000)].concat();
    // A zip counts to 65,535; that it has more is said by a zip64 record.
    let (mut records, mut directory) = (Vec::new(), Vec::new());
    for nr in 0..1_000_000_u32 {
        let at = u32::try_from(records.len()).unwrap().to_le_bytes();
        let name = format!("d/{nr:06}");
        records.extend([&b"PK\x03\x04\x14\0"[..], &[0; 20], &[8, 0, 0, 0], name.as_bytes()].concat());
        directory.extend([&b"PK\x01\x02\x14\0\x14\0"[..], &[0; 20], &[8, 0], &[0; 12], &at, name.as_bytes()].concat());
    }
    let (begins, size) = (records.len(), directory.len() as u64);
    let good = [&records[..], &directory, &[0; 22]].concat();
    let zip = zip64(&good, begins, size, 1_000_000);
    assert_round_trip(&[("million.safetensors".into(), tensors)], false);
    assert_round_trip(&[("million.pt".into(), zip)], false);
}
