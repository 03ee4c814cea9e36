//! NumPy's files: which types are known, which orders are segments, and headers that lie.

use super::made::{array, npy};
use super::*;

fn words(file: &[u8]) -> (Vec<(u64, String)>, Vec<View>) {
    let split = split_of(file);
    (segments(&split).into_iter().filter(|(_, kind)| kind != "literal").collect(), split.views)
}

#[test]
fn an_array_is_one_tensor_behind_its_header() {
    for major in 1..=3 {
        let file = npy(major, "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }", &bytes(1, 24));
        let split = split_of(&file);
        assert_eq!((split.format, split.format.to_string().as_str()), (Format::Npy, "npy"));
        let header = file.len() as u64 - 24;
        assert_eq!(segments(&split), [(header, "literal".into()), (24, "array F32 [2, 3]".into())], "{major}");
    }
    // A number, what Python 2 wrote, other quotes and another order of keys.
    assert_eq!(words(&array("<i8", "()", &[7; 8])).0, [(8, "array I64 []".into())]);
    assert_eq!(words(&array("<f2", "(3L,)", &[7; 6])).0, [(6, "array F16 [3]".into())]);
    let other = r#"{"shape":(1,1,2),"fortran_order":False,"descr":"<u2"}"#;
    assert_eq!(words(&npy(1, other, &[7; 4])).0, [(4, "array U16 [1, 1, 2]".into())]);
}

#[test]
fn types_have_safetensors_names_or_numpys() {
    let known = [
        ("|b1", "BOOL", 1),
        ("|u1", "U8", 1),
        ("|i1", "I8", 1),
        ("<i2", "I16", 2),
        ("<u2", "U16", 2),
        ("<i4", "I32", 4),
        ("<u4", "U32", 4),
        ("<i8", "I64", 8),
        ("<u8", "U64", 8),
        ("<f2", "F16", 2),
        ("<f4", "F32", 4),
        ("<f8", "F64", 8),
        ("<c8", "C64", 8),
        ("<c16", "C128", 16),
        ("<f1", "F8_E5M2", 1),
        (">f4", ">f4", 4),
        // What ml_dtypes becomes; bfloat16 and others can't be told apart.
        ("<V2", "<V2", 2),
        ("<V1", "<V1", 1),
        ("<f16", "<f16", 16),
        ("<c32", "<c32", 32),
        ("<M8[ns]", "<M8[ns]", 8),
        ("|S3", "|S3", 3),
        ("<U3", "<U3", 12),
    ];
    for (descr, name, width) in known {
        let expected = (width * 5, format!("array {name} [5]"));
        assert_eq!(words(&array(descr, "(5,)", &bytes(1, width as usize * 5))).0, [expected]);
    }
    let fields = "[('a', '<f4'), ('b]', '<i8', (2,))]";
    let header = |fields: &str| format!("{{'descr': {fields}, 'fortran_order': False, 'shape': (2,), }}");
    assert_eq!(words(&npy(1, &header(fields), &[1; 40])).0, [(40, format!("array {fields} [2]"))]);
    let many = format!("[{}]", "('field', '<f4'), ".repeat(20));
    assert_eq!(words(&npy(1, &header(&many), &[1; 160])).0, [(160, "array structure [2]".into())]);
    assert_eq!(split_of(&npy(1, &header(fields), &[1; 41])).format, Format::Opaque, "no whole elements");
}

#[test]
fn an_array_stored_by_columns_is_a_storage_with_a_view() {
    let header = |shape: &str| format!("{{'descr': '<f4', 'fortran_order': True, 'shape': {shape}, }}");
    let (found, views) = words(&npy(1, &header("(2, 3)"), &bytes(1, 24)));
    assert_eq!(found, [(24, "storage F32".into())]);
    let [view] = &views[..] else { panic!("{views:?}") };
    assert_eq!((view.name.as_str(), &view.shape[..], view.len), ("array", &[2, 3][..], 24));
    assert_eq!(view.strides.as_deref(), Some(&[1, 2][..]));
    let (_, views) = words(&npy(1, &header("(2, 3, 4)"), &bytes(1, 96)));
    assert_eq!(views[0].strides.as_deref(), Some(&[1, 2, 6][..]));
    // Where no two dimensions have neighbors, the two orders are one.
    for shape in ["(6,)", "(6, 1)", "(1, 6, 1)"] {
        let (found, views) = words(&npy(1, &header(shape), &bytes(1, 24)));
        assert_eq!((found.len(), found[0].1.starts_with("array F32"), views.len()), (1, true, 0), "{shape}");
    }
}

#[test]
fn an_array_without_elements_is_a_view() {
    let (found, views) = words(&array("<f4", "(0, 3)", &[]));
    assert!(found.is_empty());
    assert_eq!((views[0].shape.as_slice(), views[0].len), (&[0, 3][..], 0));
}

#[test]
fn what_stands_behind_the_array_is_cut_by_content() {
    let small = [array("<f4", "(2,)", &[1; 8]), vec![2; 100]].concat();
    assert_eq!(segments(&split_of(&small))[1..], [(8, "array F32 [2]".into()), (100, "literal".into())]);
    let second = [array("<f4", "(2,)", &[1; 8]), array("<f4", "(20000,)", &bytes(3, 80_000))].concat();
    assert_eq!(segments(&split_of(&second))[2].1, "opaque");
}

#[test]
fn lying_headers_make_the_file_opaque() {
    let whole = |header: &str| npy(1, header, &bytes(1, 64));
    let with = |descr: &str, shape: &str| array(descr, shape, &bytes(1, 64));
    let lies = [
        ("past the end", with("<f4", "(17,)")),
        ("far past the end", with("<f4", "(4611686018427387904,)")),
        ("elements overflow", with("<f4", "(4294967296, 4294967296)")),
        ("bytes overflow", with("<f8", "(9223372036854775807,)")),
        ("a number of 80 digits", with("<f4", &format!("({},)", "9".repeat(80)))),
        ("width overflows", with("<U18446744073709551615", "(1,)")),
        ("width of 0", with("|S0", "(1,)")),
        ("Python objects", with("|O", "(1,)")),
        ("Python objects with a width", with("|O8", "(1,)")),
        ("no type", with("", "(1,)")),
        ("no width", with("<f", "(1,)")),
        ("sign", with("<f4", "(-1,)")),
        ("fraction", with("<f4", "(1.0,)")),
        ("not a tuple", with("<f4", "(1)")),
        ("not closed", with("<f4", "(1,")),
        ("too many dimensions", with("<f4", &format!("({})", "1,".repeat(65)))),
        ("type past ASCII", with("<fü4", "(1,)")),
        ("empty", whole("")),
        ("not a dictionary", whole("[]")),
        ("nothing said", whole("{}")),
        ("no shape", whole("{'descr': '<f4', 'fortran_order': False}")),
        ("twice", whole("{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (1,)}")),
        ("a key more", whole("{'descr': '<f4', 'fortran_order': False, 'shape': (1,), 'x': 1}")),
        ("an order that is none", whole("{'descr': '<f4', 'fortran_order': 0, 'shape': (1,)}")),
        ("more behind it", whole("{'descr': '<f4', 'fortran_order': False, 'shape': (1,)} x")),
        ("quote not closed", whole("{'descr")),
        ("escape at the end", whole("{'descr\\")),
        ("list not closed", whole("{'descr': [('a', '<f4')")),
        ("brackets", whole(&format!("{{'descr': {}", "[".repeat(5000)))),
        ("closed too often", whole("{'descr': ])")),
        ("version 0", npy(0, "{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }", &[0; 64])),
        ("version 4", npy(4, "{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }", &[0; 64])),
        ("a header of 1 MiB", npy(2, &format!("{{{}}}", " ".repeat(1 << 20)), &[0; 64])),
    ];
    for (what, file) in lies {
        assert_eq!(split_of(&file).format, Format::Opaque, "{what}");
        rebuild(&[&file]);
    }
}

#[test]
fn an_array_that_is_cut_short_is_known_to_be() {
    let cut = |file: &[u8], name: &str| cut_short(&*source(file), name).unwrap();
    for file in [
        array("<f4", "(5, 2)", &bytes(1, 40)),
        npy(3, "{'descr': '<f4', 'fortran_order': True, 'shape': (10,), }", &[1; 40]),
    ] {
        for len in 6..file.len() {
            assert!(cut(&file[..len], "a.npy").is_some(), "{len} bytes of {}", file.len());
        }
        assert_eq!(cut(&file, "a.npy"), None);
        assert_eq!(cut(&[&file[..], &[0; 9]].concat(), "a.npy"), None);
    }
    // These say nothing about their size.
    assert_eq!(cut(&array("|O", "(5,)", &[]), "a.npy"), None);
    assert_eq!(cut(&npy(9, "", &[]), "a.npy"), None);
}
