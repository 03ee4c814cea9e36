//! Tars: members split by what they are, names as they are told, and headers that lie.

use ::tar::{EntryType, Header};

use super::made::{array, large, tar, tar_by_crate, tar_member};
use super::*;
use crate::limits::TAR_HEADERS_MAX;

fn found(file: &[u8]) -> Vec<(u64, String)> {
    let split = split_of(file);
    assert_eq!(split.format.to_string(), "tar");
    segments(&split).into_iter().filter(|(_, kind)| kind != "literal").collect()
}

fn plain(_: &mut Header) {}

#[test]
fn members_are_split_by_what_they_are() {
    let tensors = safetensors_file(&[("w", "F32", &[3, 5])]);
    let torch = torch_file("x", &[("data/0", bytes(9, 80_000))], true);
    let inner = tar(&[tar_member("deep.safetensors", &tensors, plain)]);
    let long = format!("{}/model.safetensors", "directory/".repeat(20));
    let file = tar_by_crate(&[
        ("model.safetensors", &tensors),
        ("a/b.pt", &torch),
        ("weights.npy", &array("<f4", "(4,)", &[7; 16])),
        ("notes.txt", b"hello"),
        ("log.bin", &bytes(1, 70_000)),
        ("inner.tar", &inner),
        (&long, &tensors),
    ]);
    let expected = [
        (60, "model.safetensors:w F32 [3, 5]".into()),
        (80_000, "a/b.pt:data/0 ? ?".into()),
        (16, "weights.npy:array F32 [4]".into()),
        (70_000, "opaque".into()),
        (60, "inner.tar:deep.safetensors:w F32 [3, 5]".into()),
        (60, format!("{long}:w F32 [3, 5]")),
    ];
    assert_eq!(found(&file), expected);
}

#[test]
fn pax_extensions_give_names_and_sizes() {
    let tensors = safetensors_file(&[("w", "F32", &[3, 5])]);
    let path = format!("{}ü.safetensors", "d/".repeat(100));
    let line = |key: &str, value: &str| {
        let rest = key.len() + value.len() + 3;
        let len = (rest..).find(|len| len.to_string().len() + rest == *len).unwrap();
        format!("{len} {key}={value}\n")
    };
    let extended = |lines: &[String]| {
        tar_member("PaxHeader", lines.concat().as_bytes(), |header| header.set_entry_type(EntryType::XHeader))
    };
    let zero = |header: &mut Header| header.set_size(0);
    let size = line("size", &tensors.len().to_string());
    let file = tar(&[
        tar_member("pax_global_header", line("comment", "0").as_bytes(), |header| {
            header.set_entry_type(EntryType::XGlobalHeader)
        }),
        extended(&[line("mtime", "1.5"), line("path", &path), size]),
        tar_member("short", &tensors, zero),
        extended(&[line("GNU.sparse.major", "1")]),
        tar_member("sparse", &tensors, plain),
        tar_member("next", &tensors, plain),
    ]);
    assert_eq!(found(&file), [(60, format!("{path}:w F32 [3, 5]")), (60, "next:w F32 [3, 5]".into())]);
}

#[test]
fn sparse_members_and_links_are_not_looked_into() {
    let tensors = safetensors_file(&[("w", "F32", &[3, 5])]);
    let kind = |kind: EntryType| move |header: &mut Header| header.set_entry_type(kind);
    let mut sparse = {
        let mut header = Header::new_gnu();
        header.set_path("sparse").unwrap();
        header.set_size(70_000);
        header.set_entry_type(EntryType::GNUSparse);
        header.as_gnu_mut().unwrap().set_is_extended(true);
        header.set_cksum();
        header.as_bytes().to_vec()
    };
    let mut more = vec![0; 512];
    more[504] = 1;
    sparse.extend(&more);
    sparse.extend([0; 512]);
    sparse.extend(bytes(3, 70_000));
    sparse.resize(sparse.len().next_multiple_of(512), 0);
    let file = tar(&[
        // A link tells the size of what it leads to.
        tar_member("link", &[], |header| {
            header.set_entry_type(EntryType::Link);
            header.set_size(9_000_000);
        }),
        tar_member("directory", &[], kind(EntryType::Directory)),
        sparse,
        tar_member("old", &tensors, kind(EntryType::new(0))),
        tar_member("dense", &tensors, kind(EntryType::Continuous)),
        tar_member("volume", &tensors, kind(EntryType::new(b'V'))),
    ]);
    let expected = [(70_000, "opaque".into()), (60, "old:w F32 [3, 5]".into()), (60, "dense:w F32 [3, 5]".into())];
    assert_eq!(found(&file), expected);
}

#[test]
fn what_makes_no_sense_is_cut_by_content_from_there_on() {
    let tensors = safetensors_file(&[("w", "F32", &[3, 5])]);
    let first = tar_member("first", &tensors, plain);
    let lies: [(&str, Vec<u8>); 7] = [
        ("a size past the end", tar_member("x", &large(1), |header| header.set_size(1 << 30))),
        ("a size past all files", tar_member("x", &large(1), |header| header.set_size(u64::MAX))),
        ("a size that wraps once it is padded", tar_member("x", &large(1), |header| header.set_size(u64::MAX - 600))),
        ("a size of letters", tar_member("x", &large(1), |header| header.as_old_mut().size.fill(b'x'))),
        ("a wrong sum", {
            let mut member = tar_member("x", &large(1), plain);
            member[0] ^= 1;
            member
        }),
        ("no header", large(1)),
        ("an end", [vec![0; 512], large(1)].concat()),
    ];
    for (what, lie) in lies {
        let file = [&first[..], &lie, &bytes(5, 10_000)].concat();
        let all = found(&file);
        assert_eq!(all[0], (60, "first:w F32 [3, 5]".into()), "{what}");
        assert_eq!((all.len(), all[1].1.as_str()), (2, "opaque"), "{what}");
        assert_eq!(all[1].0, (file.len() - first.len()) as u64, "{what}");
        rebuild(&[&file]);
    }
    // A first header of which nothing is right is no tar.
    let mut wrong = tar(&[first]);
    wrong[10] ^= 1;
    assert_eq!(split_of(&wrong).format, Format::Opaque);
}

#[test]
fn long_names_and_extensions_are_not_held() {
    let tensors = safetensors_file(&[("w", "F32", &[3, 5])]);
    for kind in [EntryType::GNULongName, EntryType::XHeader, EntryType::XGlobalHeader, EntryType::GNULongLink] {
        let endless = tar_member("x", &vec![b'n'; 10 << 20], |header| header.set_entry_type(kind));
        let file = tar(&[endless, tar_member("after", &tensors, plain)]);
        let source = hostile::Virtual::new(file.len() as u64, &file, b"");
        assert_eq!(source.split().unwrap().format, Format::Tar);
        assert!(source.bytes_read() < 8192, "{kind:?} of 10 MB was read");
    }
    let headers = tar_member("x", &[], plain).repeat(TAR_HEADERS_MAX + 5);
    let source = hostile::Virtual::new(headers.len() as u64, &headers, b"");
    assert_eq!(source.split().unwrap().format, Format::Tar);
    assert!(source.bytes_read() < (TAR_HEADERS_MAX as u64 + 10) * 512);
}

#[test]
fn containers_in_containers_end_at_a_depth() {
    let mut file = array("<f4", "(4,)", &[7; 16]);
    for depth in 0..6 {
        file = tar(&[tar_member("t", &file, plain)]);
        let named = if depth < 3 { 1 } else { 0 };
        assert_eq!(found(&file).len(), named, "{depth}");
    }
}

#[test]
fn a_tar_that_is_cut_short_is_known_to_be() {
    let cut = |file: &[u8]| cut_short(&*source(file), "a.tar").unwrap();
    let file = tar(&[tar_member("a", &bytes(1, 1000), plain), tar_member("b", &bytes(1, 600), plain)]);
    // One block of zeros is an end.
    for len in (512..file.len() - 512).step_by(8) {
        assert!(cut(&file[..len]).is_some(), "{len} bytes of {}", file.len());
    }
    assert_eq!(cut(&file), None);
    assert_eq!(cut(&[&file[..], &[0; 8192]].concat()), None);
}
