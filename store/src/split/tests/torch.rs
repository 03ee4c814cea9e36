//! What torch's pickles say, made by hand: those that lie, those that hold themselves, those that would take forever.

use super::super::torch::{self, Places};
use super::super::whole::cut_short;
use super::*;
use crate::pickle;

/// A pickle of this body.
fn pickled(body: &[u8]) -> Vec<u8> {
    [b"\x80\x02", body, b"."].concat()
}

fn text(text: &str) -> Vec<u8> {
    [&b"X"[..], &(text.len() as u32).to_le_bytes(), text.as_bytes()].concat()
}

fn int(int: i64) -> Vec<u8> {
    [&b"\x8a\x08"[..], &int.to_le_bytes()].concat()
}

fn tuple(items: &[Vec<u8>]) -> Vec<u8> {
    [b"(", &items.concat()[..], b"t"].concat()
}

fn global(module: &str, name: &str) -> Vec<u8> {
    format!("c{module}\n{name}\n").into_bytes()
}

fn call(module: &str, name: &str, args: &[Vec<u8>]) -> Vec<u8> {
    [global(module, name), tuple(args), b"R".to_vec()].concat()
}

fn dict(items: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let items = items.iter().map(|(key, value)| [text(key), value.clone()].concat());
    [b"}(", &items.collect::<Vec<_>>().concat()[..], b"u"].concat()
}

fn storage(class: &str, key: &str, count: i64) -> Vec<u8> {
    [tuple(&[text("storage"), global("torch", class), text(key), text("cpu"), int(count)]), b"Q".to_vec()].concat()
}

fn ints(ints: &[i64]) -> Vec<u8> {
    tuple(&ints.iter().map(|number| int(*number)).collect::<Vec<_>>())
}

/// A tensor of `F32`.
fn tensor(key: &str, offset: i64, shape: &[i64], strides: &[i64]) -> Vec<u8> {
    let args =
        [storage("FloatStorage", key, 100), int(offset), ints(shape), ints(strides), b"\x89".to_vec(), b"}".to_vec()];
    call("torch._utils", "_rebuild_tensor_v2", &args)
}

/// The names, types and places of what a pickle has, in a file whose storages `a` and `b` lie at 1000 and 2000.
fn found(body: &[u8]) -> Vec<String> {
    let bytes = pickled(body);
    let pickle = pickle::read(&bytes).unwrap();
    let places = Places::from([("a".to_owned(), (1000, 1400)), ("b".to_owned(), (2000, 2004))]);
    let words =
        |tensor: arrange::Described| format!("{} {} {:?}@{}", tensor.name, tensor.elements, tensor.shape, tensor.start);
    torch::tensors(&pickle, &places, false).into_iter().map(words).collect()
}

#[test]
fn tensors_that_lie_about_where_they_are_are_left_out_and_the_others_stay() {
    let good = ("good", tensor("a", 2, &[3], &[1]));
    for (what, bad) in [
        ("past the end", tensor("a", 98, &[3], &[1])),
        ("in another storage", tensor("a", 250, &[1], &[1])),
        ("strides past the end", tensor("a", 0, &[2, 2], &[99, 1])),
        ("a storage that is too small", tensor("b", 0, &[2], &[1])),
        ("no such storage", tensor("c", 0, &[2], &[1])),
        ("a negative offset", tensor("a", -1, &[2], &[1])),
        ("a negative size", tensor("a", 0, &[-2], &[1])),
        ("a negative stride", tensor("a", 5, &[2], &[-1])),
        ("sizes that overflow", tensor("a", 0, &[i64::MAX, i64::MAX], &[0, 0])),
        ("an offset that overflows", tensor("a", i64::MAX, &[1], &[1])),
        ("a reach that overflows", tensor("a", 0, &[i64::MAX, i64::MAX], &[i64::MAX, i64::MAX])),
        ("fewer strides", tensor("a", 0, &[2, 2], &[1])),
        ("too many dimensions", tensor("a", 0, &[1; 65], &[1; 65])),
        ("arguments that are none", call("torch._utils", "_rebuild_tensor_v2", &[])),
        ("no storage", call("torch._utils", "_rebuild_tensor_v2", &[int(1), int(0), ints(&[1]), ints(&[1])])),
        (
            "an unknown class of storage",
            call("torch._utils", "_rebuild_tensor_v2", &[storage("XStorage", "a", 1), int(0), ints(&[1]), ints(&[1])]),
        ),
        (
            "a type that is none",
            call(
                "torch._utils",
                "_rebuild_tensor_v3",
                &[storage("UntypedStorage", "a", 1), int(0), ints(&[1]), ints(&[1]), int(0), int(0), int(0)],
            ),
        ),
    ] {
        assert_eq!(found(&dict(&[("bad", bad), good.clone()])), ["good F32 [3]@1008"], "{what}");
    }
}

#[test]
fn types_without_a_name_of_ours_keep_their_own_and_those_of_unknown_size_are_left_out() {
    let v3 = |dtype: &str| {
        let rest = [b"\x89".to_vec(), b"}".to_vec(), global("torch", dtype)];
        let args = [&[storage("UntypedStorage", "a", 400), int(2), ints(&[3]), ints(&[1])][..], &rest].concat();
        call("torch._utils", "_rebuild_tensor_v3", &args)
    };
    assert_eq!(found(&v3("uint16")), ["tensor U16 [3]@1004"]);
    assert_eq!(found(&v3("float4_e2m1fn_x2")), ["tensor float4_e2m1fn_x2 [3]@1002"]);
    assert_eq!(found(&v3("uint3")), ["tensor uint3 [3]@1002"]);
    assert_eq!(found(&v3("bits16")), ["tensor bits16 [3]@1004"]);
    assert!(found(&v3("float7")).is_empty() && found(&v3("uint8000")).is_empty());
}

#[test]
fn elements_of_a_big_endian_machine_have_a_name_that_says_so() {
    let bytes = pickled(&dict(&[
        ("w", tensor("0", 0, &[2], &[1])),
        (
            "b",
            call("torch._utils", "_rebuild_tensor", &[storage("ByteStorage", "1", 3), int(0), ints(&[3]), ints(&[1])]),
        ),
    ]));
    let file = |order: &[u8]| {
        let entries =
            [("m/data.pkl", &bytes[..]), ("m/byteorder", order), ("m/data/0", &[1; 8]), ("m/data/1", &[2; 3])];
        zip(&entries.map(|(name, data)| Entry::new(name, data.to_vec())), true)
    };
    let named =
        |file: &[u8]| segments(&split_of(file)).into_iter().filter(|(_, kind)| kind != "literal").collect::<Vec<_>>();
    assert_eq!(named(&file(b"little")), [(8, "w F32 [2]".into()), (3, "b U8 [3]".into())]);
    assert_eq!(named(&file(b"big")), [(8, "w F32 big-endian [2]".into()), (3, "b U8 [3]".into())]);
}

#[test]
fn two_records_of_one_name_are_storages_without_tensors() {
    let pickle = pickled(&tensor("0", 0, &[2], &[1]));
    let entries = [("m/data.pkl", &pickle[..]), ("m/data/0", &[1; 8]), ("m/data/0", &[2; 8])];
    let file = zip(&entries.map(|(name, data)| Entry::new(name, data.to_vec())), true);
    let found: Vec<_> = segments(&split_of(&file)).into_iter().filter(|(_, kind)| kind != "literal").collect();
    assert_eq!(found, [(8, "data/0 F32 ?".into()), (8, "data/0 F32 ?".into())]);
}

#[test]
fn objects_that_hold_themselves_or_each_other_end() {
    // A dict in itself; a module that knows its parent.
    let itself = [&b"}q\x00("[..], &text("w"), &tensor("a", 0, &[1], &[1]), &text("me"), b"h\x00u"].concat();
    assert_eq!(found(&itself), ["w F32 [1]@1000"]);
    // One list under two names has both.
    let shared = [&b"}("[..], &text("x"), b"]q\x00", &tensor("a", 1, &[1], &[1]), b"a", &text("y"), b"h\x00u"].concat();
    assert_eq!(found(&shared), ["x.0 F32 [1]@1004", "y.0 F32 [1]@1004"]);
    // Sixty-four lists of which each holds the one before it twice, around one tensor: names without end.
    let mut laughs = [&b"]"[..], &tensor("a", 0, &[1], &[1]), b"aq\x00"].concat();
    for level in 0..64_u8 {
        laughs.extend([b'0', b']', b'(', b'h', level, b'h', level, b'e', b'q', level + 1]);
    }
    assert!(found(&laughs).is_empty());
    // The same with nothing in it takes as many looks.
    let nothing = [&b"]q\x00"[..], &laughs[laughs.len() - 640..]].concat();
    assert!(found(&nothing).is_empty());
    // A tensor a million times over.
    let often = [&b"]("[..], &tensor("a", 0, &[1], &[1]), b"q\x00", &b"h\x00".repeat(1_000_000), b"e"].concat();
    assert!(found(&often).is_empty());
    // One that is in too much.
    let deep = [&b"]".repeat(5000)[..], &tensor("a", 0, &[1], &[1]), &b"a".repeat(5000)].concat();
    assert!(found(&deep).is_empty());
    let wrapped = |times: usize| [b"(".repeat(times), tensor("a", 0, &[1], &[1]), b"t".repeat(times)].concat();
    assert_eq!(found(&wrapped(99)).len(), 1);
    assert!(found(&wrapped(5000)).is_empty());
}

#[test]
fn names_without_end_are_given_up() {
    let key = text(&"k".repeat(1000));
    let mut body = [&b"]("[..], &tensor("a", 0, &[1], &[1]).repeat(2000), b"e"].concat();
    for _ in 0..50 {
        body = [&b"}"[..], &key, &body, b"s"].concat();
    }
    assert!(found(&body).is_empty());
}

#[test]
fn a_subclass_of_a_subclass_of_a_tensor_is_none_we_look_for() {
    let mut body = (
        global("torch._utils", "_rebuild_tensor_v2"),
        tuple(&[storage("FloatStorage", "a", 4), int(0), ints(&[4]), ints(&[1])]),
    );
    for level in 0..1000 {
        let args = tuple(&[body.0, global("m", "Class"), body.1, b"}".to_vec()]);
        body = (global("torch._tensor", "_rebuild_from_type_v2"), args);
        if level == 0 {
            assert_eq!(found(&[&body.0[..], &body.1, b"R"].concat()), ["tensor F32 [4]@1000"]);
        }
    }
    assert!(found(&[&body.0[..], &body.1, b"R"].concat()).is_empty());
}

#[test]
fn the_oldest_forms_are_known() {
    let view = tuple(&[
        text("storage"),
        global("torch", "FloatStorage"),
        text("a"),
        text("cpu"),
        int(100),
        tuple(&[text("other"), int(10), int(20)]),
    ]);
    let args = [[&view[..], b"Q"].concat(), int(2), ints(&[3]), ints(&[1])];
    assert_eq!(found(&call("torch._utils", "_rebuild_tensor", &args)), ["tensor F32 [3]@1048"]);
    // Python 2 wrote an OrderedDict as a call with a list of lists.
    let list = [&b"](("[..], &text("w"), &tensor("a", 0, &[1], &[1]), b"le"].concat();
    assert_eq!(found(&call("collections", "OrderedDict", &[list])), ["w F32 [1]@1000"]);
    // Protocols 0 and 1 make objects by a call with a class, its base and a state of that.
    let made = call(
        "copy_reg",
        "_reconstructor",
        &[global("m", "Attributes"), global("__builtin__", "dict"), dict(&[("w", tensor("a", 0, &[1], &[1]))])],
    );
    assert_eq!(found(&made), ["w F32 [1]@1000"]);
}

#[test]
fn parts_of_distributed_tensors_go_by_the_name_of_the_whole() {
    let state = dict(&[("_local_tensor", tensor("a", 0, &[2], &[1])), ("_spec", b"N".to_vec())]);
    let wrapper = [global("torch._utils", "_rebuild_wrapper_subclass"), global("m", "DTensor"), tuple(&[]), state];
    assert_eq!(found(&dict(&[("w", call("torch._tensor", "_rebuild_from_type_v2", &wrapper))])), ["w F32 [2]@1000"]);
}

/// A legacy file: its five pickles, then storages with the counts that stand before them.
fn legacy(protocol: u8, object: &[u8], keys: &[&str], storages: &[(i64, Vec<u8>)], is_little: bool) -> Vec<u8> {
    let of = |body: &[u8]| [&[0x80, protocol][..], body, b"."].concat();
    let mut file = of(b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19");
    file.extend(of(b"M\xe9\x03"));
    file.extend(of(&dict(&[("little_endian", if is_little { b"\x88" } else { b"\x89" }.to_vec())])));
    file.extend(of(object));
    file.extend(of(&[b"](", &keys.iter().map(|key| text(key)).collect::<Vec<_>>().concat()[..], b"e"].concat()));
    for (count, data) in storages {
        file.extend(count.to_le_bytes());
        file.extend(data);
    }
    file
}

#[test]
fn legacy_files_that_lie_are_opaque() {
    let object = tensor("k", 0, &[2, 50], &[50, 1]);
    let honest = legacy(2, &object, &["k"], &[(100, bytes(1, 400))], true);
    let words =
        |file: &[u8]| segments(&split_of(file)).into_iter().filter(|(_, kind)| kind != "literal").collect::<Vec<_>>();
    assert_eq!(words(&honest), [(400, "tensor F32 [2, 50]".into())]);
    assert_eq!(split_of(&honest).format, Format::TorchLegacy);
    assert_eq!(words(&legacy(4, &object, &["k"], &[(100, bytes(1, 400))], true)), [(400, "tensor F32 [2, 50]".into())]);
    let big = words(&legacy(2, &object, &["k"], &[(100, bytes(1, 400))], false));
    assert_eq!(big, [(400, "tensor F32 big-endian [2, 50]".into())]);
    // What follows the last storage is nobody's.
    assert_eq!(words(&[&honest[..], &bytes(2, 50)].concat()), [(400, "tensor F32 [2, 50]".into())]);
    let data = || bytes(1, 400);
    for (what, file) in [
        ("another count", legacy(2, &object, &["k"], &[(99, data())], true)),
        ("a negative count", legacy(2, &object, &["k"], &[(-1, data())], true)),
        ("a key of no tensor", legacy(2, &object, &["x"], &[(100, data())], true)),
        ("a key twice", legacy(2, &object, &["k", "k"], &[(100, data()), (100, data())], true)),
        ("no data", legacy(2, &object, &["k"], &[], true)),
        ("too little data", legacy(2, &object, &["k"], &[(100, bytes(1, 399))], true)),
        (
            "keys that are none",
            legacy(2, &object, &[], &[], true).iter().map(|byte| if *byte == b']' { b'}' } else { *byte }).collect(),
        ),
    ] {
        assert_eq!(split_of(&file).format, Format::Opaque, "{what}");
        rebuild(&[&file]);
    }
    // More elements than any file has bytes.
    let huge = [
        tuple(&[text("storage"), global("torch", "DoubleStorage"), text("k"), text("cpu"), int(i64::MAX)]),
        b"Q".to_vec(),
    ]
    .concat();
    assert_eq!(split_of(&legacy(2, &huge, &["k"], &[(i64::MAX, data())], true)).format, Format::Opaque);
    let other = legacy(3, b"N", &[], &[], true);
    assert_eq!(split_of(&other).format, Format::TorchLegacy, "without any tensor it is one all the same");
}

#[test]
fn a_legacy_file_is_whole_when_its_last_storage_is() {
    let file = legacy(2, &tensor("k", 0, &[100], &[1]), &["k"], &[(100, bytes(1, 400))], true);
    for len in 15..file.len() {
        let cut = cut_short(&*source(&file[..len]), "a.pt").unwrap();
        assert_eq!(cut, Some("it ends before its last storage"), "cut at {len}");
    }
    assert_eq!(cut_short(&*source(&file), "a.pt").unwrap(), None);
    assert_eq!(cut_short(&*source(&[&file[..], b"more"].concat()), "a.pt").unwrap(), None);
    // One that lies is not known to be short.
    let liar = legacy(2, &tensor("k", 0, &[100], &[1]), &["k"], &[(99, bytes(1, 10))], true);
    assert_eq!(cut_short(&*source(&liar), "a.pt").unwrap(), None);
}

#[test]
fn a_pickle_of_which_nobody_says_how_long_it_is_is_found_in_a_large_file() {
    // Longer than the first bytes that are looked at.
    let names: Vec<_> = (0..4000).map(|nr| format!("layer.{nr}.{}", "x".repeat(80))).collect();
    let object = dict(&names.iter().map(|name| (&**name, tensor("k", 0, &[100], &[1]))).collect::<Vec<_>>());
    assert!(object.len() > crate::limits::PICKLE_WINDOW_BYTES);
    let split = split_of(&legacy(2, &object, &["k"], &[(100, bytes(1, 400))], true));
    assert_eq!((split.format, split.views.len()), (Format::TorchLegacy, 3999));
}

/// Metadata of a distributed checkpoint: each part's name, its place in the whole and that one's shape, file, offset and length.
type Part<'a> = (&'a str, Option<&'a [i64]>, &'a [i64], &'a str, i64, i64);

fn metadata(parts: &[Part<'_>]) -> Vec<u8> {
    let made = |class: &str, state: Vec<u8>| {
        [global("torch.distributed.checkpoint.metadata", class), b")\x81".to_vec(), state, b"b".to_vec()].concat()
    };
    let size = |ints_of: &[i64]| call("torch", "Size", &[ints(ints_of)]);
    let about =
        parts.iter().map(|(name, _, whole, ..)| (*name, made("TensorStorageMetadata", dict(&[("size", size(whole))]))));
    let stored = parts.iter().map(|(name, first, _, file, offset, len)| {
        let first = first.map_or(b"N".to_vec(), size);
        let index = made("MetadataIndex", dict(&[("fqn", text(name)), ("offset", first), ("index", int(0))]));
        let info = dict(&[("relative_path", text(file)), ("offset", int(*offset)), ("length", int(*len))]);
        [index, made("_StorageInfo", info)].concat()
    });
    let stored = [b"}(", &stored.collect::<Vec<_>>().concat()[..], b"u"].concat();
    let state = [("state_dict_metadata", dict(&about.collect::<Vec<_>>())), ("storage_data", stored)];
    pickled(&made("Metadata", dict(&state)))
}

#[test]
fn parts_of_distributed_checkpoints_are_slices_of_the_whole() {
    let one = |shape: &[i64], strides: &[i64]| {
        let data = bytes(1, shape.iter().product::<i64>() as usize * 4);
        let entries = [("m/data.pkl", pickled(&tensor("0", 0, shape, strides))), ("m/data/0", data)];
        zip(&entries.map(|(name, data)| Entry::new(name, data)), true)
    };
    let (a, b, none) = (one(&[2, 4], &[4, 1]), one(&[3], &[1]), one(&[0], &[1]));
    let file = [&a[..], &b, &none].concat();
    let (end_a, end_b) = (a.len() as i64, (a.len() + b.len()) as i64);
    let end = file.len() as i64;
    let named = |parts: &[Part<'_>]| {
        let names = DistributedNames::read(&*source(&metadata(parts))).unwrap()?;
        let mut split = split_of(&file);
        names.apply("f", &mut split);
        let views: Vec<_> = split.views.iter().map(|view| view.name.clone()).collect();
        let words: Vec<_> =
            segments(&split).into_iter().map(|(_, kind)| kind).filter(|kind| kind != "literal").collect();
        Some((words.join(", "), views.join(", ")))
    };
    let whole: &[Part<'_>] = &[
        ("a", Some(&[2, 0]), &[6, 4], "f", 0, end_a),
        ("b", None, &[3], "f", end_a, end_b - end_a),
        ("c", Some(&[0]), &[0], "f", end_b, end - end_b),
    ];
    assert_eq!(named(whole).unwrap(), ("a[2:4,0:4] F32 [2, 4], b F32 [3]".into(), "c".into()));
    let untouched = ("0/tensor F32 [2, 4], 1/tensor F32 [3]".to_owned(), "2/tensor".to_owned());
    // Another file's; places that are beyond it; a part that is larger than the whole has no place in it.
    assert_eq!(named(&[("a", None, &[2, 4], "g", 0, end_a)]).unwrap(), untouched);
    assert_eq!(named(&[("a", None, &[2, 4], "f", end, end)]).unwrap().0, untouched.0);
    assert_eq!(named(&[("a", None, &[2, 4], "f", 0, 10)]).unwrap().0, untouched.0);
    assert_eq!(named(&[("a", Some(&[5, 0]), &[6, 4], "f", 0, end_a)]).unwrap().0, "a F32 [2, 4], 1/tensor F32 [3]");
    // Two in one place, or places that overflow: not believed at all.
    assert_eq!(named(&[whole[0], ("b", None, &[3], "f", end_a - 1, 500)]), None);
    assert_eq!(named(&[("a", None, &[2, 4], "f", i64::MAX, i64::MAX)]).map(|(words, _)| words), Some(untouched.0));
    assert_eq!(named(&[("a", None, &[2, 4], "f", -1, 5)]), None);
    // A file that has names of its own keeps them.
    let own = safetensors_file(&[("own", "F32", &[3])]);
    let names =
        DistributedNames::read(&*source(&metadata(&[("a", None, &[3], "f", 0, own.len() as i64)]))).unwrap().unwrap();
    let mut split = split_of(&own);
    names.apply("f", &mut split);
    assert_eq!(segments(&split)[1].1, "own F32 [3]");
    let not = |bytes: &[u8]| DistributedNames::read(&*source(bytes)).unwrap().is_none();
    assert!(not(b"") && not(b"\x80\x02N.") && not(&pickled(&dict(&[("storage_data", dict(&[]))]))));
}
