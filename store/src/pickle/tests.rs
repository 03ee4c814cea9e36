#![allow(clippy::unwrap_used)]
//! Pickles made by hand: what each opcode gives, and those that were made to do harm.

use proptest::prelude::*;

use super::node::Node;
use super::*;
use crate::limits::{PICKLE_BYTES_MAX, PICKLE_NODES_MAX, PICKLE_TEXT_BYTES_MAX};

/// A value in words. Bounded, for values may hold themselves.
fn words(pickle: &Pickle<'_>, id: Id, depth: usize) -> String {
    if depth > 6 {
        return "…".into();
    }
    let word = |id| words(pickle, id, depth + 1);
    let list = |items: Vec<String>| items.join(" ");
    let pairs = || list(pickle.pairs(id).map(|(key, value)| format!("{}={}", word(key), word(value))).collect());
    let items = || list(pickle.items(id).map(word).collect());
    match pickle.node(id) {
        Node::None => "None".into(),
        Node::Bool(bool) => format!("{bool}"),
        Node::Int(int) => format!("{int}"),
        Node::Long(_) => format!("long {:?}", pickle.long(id).unwrap()),
        Node::Float(float) => format!("{float}f"),
        Node::Text(_) => format!("{:?}", pickle.text(id).unwrap()),
        Node::Bytes(len) => format!("{len} bytes"),
        Node::Tuple(_) => format!("({})", list(pickle.tuple(id).unwrap().iter().map(|item| word(*item)).collect())),
        Node::List(_) => format!("[{}]", items()),
        Node::Dict(_) => format!("{{{}}}", pairs()),
        Node::Global(module, name) => format!("{}:{}", word(module), word(name)),
        Node::Persistent(id) => format!("<{}>", word(id)),
        Node::Opaque => "?".into(),
        Node::Object(_) => {
            let object = pickle.object(id).unwrap();
            let state = object.state.map_or(String::new(), |state| format!(" state {}", word(state)));
            format!("{}{} {{{}}} [{}]{state}", word(object.callee), word(object.args), pairs(), items())
        }
    }
}

fn read_words(bytes: &[u8]) -> Result<String, Problem> {
    let pickle = read(bytes)?;
    assert_eq!(pickle.consumed(), bytes.len(), "all of it");
    Ok(words(&pickle, pickle.root(), 0))
}

#[test]
fn every_opcode_gives_what_python_would_give_or_a_node_that_says_what_it_would_call() {
    let cases: &[(&[u8], &str)] = &[
        (b"N.", "None"),
        (b"\x80\x05\x88.", "true"),
        (b"I00\n.", "false"),
        (b"I01\n.", "true"),
        (b"I-17\n.", "-17"),
        (b"L123L\n.", "123"),
        (b"L123456789012345678901234567890L\n.", "?"),
        (b"J\xfe\xff\xff\xff.", "-2"),
        (b"K\xff.", "255"),
        (b"M\x00\x01.", "256"),
        (b"\x8a\x00.", "0"),
        (b"\x8a\x02\x00\x80.", "-32768"),
        (b"\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f.", "9223372036854775807"),
        (b"\x8a\x09\x00\x00\x00\x00\x00\x00\x00\x80\x00.", "long [0, 0, 0, 0, 0, 0, 0, 128, 0]"),
        (b"\x8b\x01\x00\x00\x00\x05.", "5"),
        (b"F1.5\n.", "1.5f"),
        (b"G\x3f\xf8\x00\x00\x00\x00\x00\x00.", "1.5f"),
        (b"S'a\\x41\\n\\'\\\\'\n.", r#""aA\n'\\""#),
        (b"S\"a\"\n.", r#""a""#),
        (b"S'\\xff'\n.", "6 bytes"),
        (b"V\xe9\\u00e9\\U0001f600.\n.", "\"éé😀.\""),
        (b"V\\ud800\n.", "6 bytes"),
        (b"T\x01\x00\x00\x00a.", r#""a""#),
        (b"U\x01a.", r#""a""#),
        (b"X\x02\x00\x00\x00\xc3\xa9.", "\"é\""),
        (b"X\x02\x00\x00\x00\xc3\xc3.", "2 bytes"),
        (b"\x8c\x01a.", r#""a""#),
        (b"\x8d\x01\0\0\0\0\0\0\0a.", r#""a""#),
        (b"B\x02\0\0\0ab.", "2 bytes"),
        (b"C\x01a.", "1 bytes"),
        (b"\x8e\x01\0\0\0\0\0\0\0a.", "1 bytes"),
        (b"\x96\x01\0\0\0\0\0\0\0a.", "1 bytes"),
        (b").", "()"),
        (b"(K\x01K\x02t.", "(1 2)"),
        (b"K\x01\x85.", "(1)"),
        (b"K\x01K\x02\x86.", "(1 2)"),
        (b"K\x01K\x02K\x03\x87.", "(1 2 3)"),
        (b"](K\x01K\x02eK\x03a.", "[1 2 3]"),
        (b"(K\x01K\x02l.", "[1 2]"),
        (b"}(K\x01K\x02uK\x03Ns.", "{1=2 3=None}"),
        (b"(K\x01K\x02d.", "{1=2}"),
        (b"\x8f(K\x01K\x02\x90.", "[1 2]"),
        (b"(K\x01K\x02\x91.", "(1 2)"),
        (b"cos\nsystem\nX\x02\0\0\0rm\x85R.", r#""os":"system"("rm") {} []"#),
        (b"\x8c\x02os\x8c\x06system\x93.", r#""os":"system""#),
        (b"ca\nB\n)\x81}K\x01K\x02sb.", r#""a":"B"() {} [] state {1=2}"#),
        (b"ca\nB\n)}\x92.", r#""a":"B"() {} []"#),
        (b"ca\nB\n)R(K\x01K\x02uK\x03a.", r#""a":"B"() {1=2} [3]"#),
        (b"(K\x01ia\nB\n.", r#""a":"B"(1) {} []"#),
        (b"(ca\nB\nK\x01o.", r#""a":"B"(1) {} []"#),
        (b"Pkey\n.", r#"<"key">"#),
        (b"K\x07Q.", "<7>"),
        (b"K\x01K\x020.", "1"),
        (b"K\x01(0.", "1"),
        (b"K\x01(K\x02K\x031.", "1"),
        (b"K\x012\x86.", "(1 1)"),
        (b"]q\x00h\x00a.", "[[[[[[[…]]]]]]]"),
        (b"]r\x00\0\0\0K\x01aj\x00\0\0\0\x86.", "([1] [1])"),
        (b"]p0\nK\x01ag0\n\x86.", "([1] [1])"),
        (b"]\x94K\x01a\x8c\x01x\x94h\x00h\x01\x87.", r#"("x" [1] "x")"#),
        (b"\x82\x01.", "?"),
        (b"\x83\x01\x02.", "?"),
        (b"\x84\x01\x02\x03\x04.", "?"),
        (b"\x97\x98.", "?"),
        (b"\x97(K\x01e}b.", "?"),
        (b"\x80\x04\x95\x01\0\0\0\0\0\0\0N.", "None"),
    ];
    for (bytes, expected) in cases {
        let found = read_words(bytes);
        assert_eq!(found.as_deref(), Ok(*expected), "{}", bytes.escape_ascii());
    }
}

#[test]
fn a_pickle_that_ends_anywhere_has_ended_and_what_follows_it_is_left_alone() {
    let whole = b"\x80\x04\x95\x20\0\0\0\0\0\0\0}\x94(\x8c\x01a\x94]\x94(K\x01M\x01\x02G\0\0\0\0\0\0\0\0e\x8c\x01b\x8a\x02\x01\x02u.";
    assert_eq!(read_words(whole).unwrap(), r#"{"a"=[1 513 0f] "b"=513}"#);
    for len in 0..whole.len() {
        assert_eq!(read(&whole[..len]).unwrap_err(), Problem::Ended, "cut at {len}");
    }
    let more = [&whole[..], b"\xff anything"].concat();
    assert_eq!(read(&more).unwrap().consumed(), whole.len());
}

#[test]
fn what_python_would_refuse_is_refused() {
    let cases: &[&[u8]] = &[
        b".",
        b"0.",
        b"1.",
        b"2.",
        b"t.",
        b"\x85.",
        b"N\x86.",
        b"(N\x86.",
        b"N(\x85.",
        b"e.",
        b"(e.",
        b"]e.",
        b"a.",
        b"]a.",
        b"]N(a.",
        b"s.",
        b"}Ns.",
        b"}(Nu.",
        b"(Nd.",
        b"](NNu.",
        b"}(Ne.",
        b"N(NNu.",
        b"K\x01(Ne.",
        b"R.",
        b"NR.",
        b"o.",
        b"(o.",
        b"b.",
        b"Nb.",
        b"Q.",
        b"\x93.",
        b"N\x93.",
        b"\x92.",
        b"NN\x92.",
        b"q\0.",
        b"h\0.",
        b"g0\n.",
        b"gx\n.",
        b"p0\n.",
        b"\x94.",
        b"\x80\x06N.",
        b"Fx\n.",
        b"T\xff\xff\xff\xff.",
        b"\x8b\xff\xff\xff\xff.",
        b"\xff.",
        b"\0.",
        b"N(.",
        b"Ix\n.",
        b"I-\n.",
        b"L1x\n.",
        b"\x98.",
    ];
    for bytes in cases {
        assert_eq!(read(bytes).map(drop).unwrap_err(), Problem::Malformed, "{}", bytes.escape_ascii());
    }
}

#[test]
fn declared_sizes_are_not_believed() {
    for bytes in [
        &b"X\xff\xff\xff\xff."[..],
        b"\x8d\xff\xff\xff\xff\xff\xff\xff\xff.",
        b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.",
        b"\x96\0\0\0\0\x01\0\0\0.",
        b"\x8b\xff\xff\xff\x7f.",
        b"B\xff\xff\xff\x7f.",
    ] {
        assert_eq!(read(bytes).map(drop).unwrap_err(), Problem::Ended, "{}", bytes.escape_ascii());
    }
    // A memo of four billion places for six bytes.
    for bytes in [&b"Nr\xff\xff\xff\xff."[..], b"Np4294967295\n.", b"Nr\0\0\x10\0."] {
        assert_eq!(read(bytes).map(drop).unwrap_err(), Problem::TooLarge, "{}", bytes.escape_ascii());
    }
}

#[test]
fn bombs_are_too_large_and_cost_no_more_than_the_limits() {
    let many = PICKLE_NODES_MAX + 10;
    let of = |head: &[u8], body: &[u8], tail: &[u8]| [head, &body.repeat(many), tail].concat();
    for (what, bytes) in [
        ("values", of(b"", b"]", b".")),
        ("copies", of(b"N", b"2", b".")),
        ("marks", of(b"", b"(", b".")),
        ("items of the memo", of(b"]q\0", b"h\0", b".")),
        ("items of one list", of(b"]q\0", b"Na", b".")),
    ] {
        assert_eq!(read(&bytes).map(drop).unwrap_err(), Problem::TooLarge, "{what}");
    }
    let long = [
        &b"\x8e"[..],
        &(PICKLE_BYTES_MAX as u64 - 30).to_le_bytes(),
        &vec![0; PICKLE_BYTES_MAX - 30],
        &b"N0".repeat(20),
        b"N.",
    ]
    .concat();
    assert_eq!(read(&long).map(drop).unwrap_err(), Problem::TooLarge, "a pickle above the limit");
}

#[test]
fn depth_costs_nothing() {
    // A million lists in each other, and as many tuples.
    let deep = [&b"]".repeat(1_000_000)[..], &b"a".repeat(999_999), b"."].concat();
    let pickle = read(&deep).unwrap();
    let (mut at, mut depth) = (pickle.root(), 1);
    while let Some(inner) = pickle.items(at).next() {
        (at, depth) = (inner, depth + 1);
    }
    assert_eq!(depth, 1_000_000);
    read(&[&b"N"[..], &b"\x85".repeat(1_000_000), b"."].concat()).unwrap();
}

#[test]
fn a_text_that_is_too_long_for_a_name_is_bytes() {
    let text = |len: usize| [&b"X"[..], &(len as u32).to_le_bytes(), &vec![b'a'; len], b"."].concat();
    assert!(matches!(read(&text(PICKLE_TEXT_BYTES_MAX)).unwrap(), pickle if pickle.text(pickle.root()).is_some()));
    let long = text(PICKLE_TEXT_BYTES_MAX + 1);
    assert_eq!(read_words(&long).unwrap(), format!("{} bytes", PICKLE_TEXT_BYTES_MAX + 1));
    let escaped = [&b"V"[..], &vec![b'a'; PICKLE_TEXT_BYTES_MAX + 1], b"\n."].concat();
    assert_eq!(read_words(&escaped).unwrap(), format!("{} bytes", PICKLE_TEXT_BYTES_MAX + 1));
}

#[test]
fn of_a_key_that_stands_twice_the_last_value_counts() {
    let pickle = read(b"}(U\x01aK\x01U\x01bK\x02U\x01aK\x03u.").unwrap();
    let value = pickle.get(pickle.root(), "a").and_then(|value| pickle.int(value));
    assert_eq!((value, pickle.get(pickle.root(), "c")), (Some(3), None));
    assert_eq!(pickle.size(pickle.get(pickle.root(), "b").unwrap()), Some(2));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_program_ends_in_an_answer_whose_every_value_can_be_looked_at(
        ops in prop::collection::vec(prop::sample::select(&b"(.0125NIJKLMFGSVTUXBC)t]}ldaesucRiobPQghjpqr\x80\x81\x82\x85\x86\x87\x88\x8a\x8c\x8f\x90\x91\x92\x93\x94\x95\x97\x98\n\x01\0a"[..]), 0..80)
    ) {
        if let Ok(pickle) = read(&ops) {
            prop_assert!(pickle.consumed() <= ops.len());
            words(&pickle, pickle.root(), 3);
            for nr in 0..pickle.nodes().count() as u32 {
                let id = Id(nr);
                let _ = (pickle.text(id), pickle.global(id), pickle.tuple(id), pickle.long(id), pickle.object(id));
                // A chain has no more links than there are, so none leads back.
                prop_assert!(pickle.items(id).count() + pickle.pairs(id).count() <= ops.len());
            }
        }
    }
}
