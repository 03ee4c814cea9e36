//! Names as a file system can hold them, and back: `%` and two hex digits stand for a byte that can't be in one. Pure: never
//! knows what is named, and never makes one name of two.

use ckpt_store::ChunkId;

/// The longest name of a file.
pub const NAME_BYTES_MAX: usize = 255;

/// What stands before the hash in a name that was cut. No other name has it: a `%` of a name is escaped.
const CUT: &str = "%~";
/// What stands before the number of one of several equal names.
const NUMBERED: &str = "%+";
/// What a directory calls itself and the one that it is in.
const DOTS: [&str; 2] = [".", ".."];
/// What a name of no bytes is shown as.
const EMPTY: &str = "%";

/// A name as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Shown {
    /// At most [`NAME_BYTES_MAX`] bytes, without `/` and NUL, not empty, `.` or `..`.
    pub name: String,
    /// Whether it was too long, and the whole name can't be read from it.
    pub cut: bool,
}

/// Shows a name with `suffix` behind it, which is plain and short.
pub fn show(name: &str, suffix: &str) -> Shown {
    fit(name, escaped(name), suffix)
}

/// As [`show`], for a name that would be taken for something else: its first character is escaped.
pub fn show_apart(name: &str, suffix: &str) -> Shown {
    let Some(first) = name.chars().next().filter(|_| !DOTS.contains(&name)) else { return show(name, suffix) };
    let (first, rest) = name.split_at(first.len_utf8());
    let escaped = first.bytes().map(escape).chain([escaped_part(rest)]).collect();
    fit(name, escaped, suffix)
}

/// The name that is shown, if it is not taken; otherwise one with a number before the `suffix` that it was shown with. Only names
/// that are equal, or whose hashes are, need one.
pub fn unique(shown: &Shown, suffix: &str, is_taken: impl Fn(&str) -> bool) -> String {
    let mut name = shown.name.clone();
    let mut times = 2_u64;
    while is_taken(&name) {
        // No other name has a `+` there.
        let end = format!("{NUMBERED}{times}{suffix}");
        name = shown.name.strip_suffix(suffix).unwrap_or(&shown.name).to_owned();
        while name.len() + end.len() > NAME_BYTES_MAX {
            name.pop();
        }
        name += &end;
        times += 1;
    }
    name
}

/// The name that is shown so; none when it was cut, or is shown in no such way.
#[cfg(test)]
pub fn read(shown: &str) -> Option<String> {
    if shown == EMPTY {
        return Some(String::new());
    }
    let mut bytes = Vec::with_capacity(shown.len());
    let mut rest = shown.as_bytes();
    while let Some((first, others)) = rest.split_first() {
        rest = others;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let digits = std::str::from_utf8(rest.get(..2)?).ok()?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        rest = &rest[2..];
    }
    String::from_utf8(bytes).ok()
}

fn escape(byte: u8) -> String {
    format!("%{byte:02X}")
}

fn escaped(name: &str) -> String {
    match name {
        "" => EMPTY.to_owned(),
        _ if DOTS.contains(&name) => name.bytes().map(escape).collect(),
        _ => escaped_part(name),
    }
}

fn escaped_part(name: &str) -> String {
    let mut escaped = String::with_capacity(name.len());
    for c in name.chars() {
        match c {
            '%' | '/' | '\0' => escaped.push_str(&escape(c as u8)),
            _ => escaped.push(c),
        }
    }
    escaped
}

/// Cuts a name that is too long, never inside of a character or an escape.
fn fit(name: &str, escaped: String, suffix: &str) -> Shown {
    if escaped.len() + suffix.len() <= NAME_BYTES_MAX {
        return Shown { name: escaped + suffix, cut: false };
    }
    let mark: String = CUT.chars().chain(ChunkId::of(name.as_bytes()).to_string().chars().take(16)).collect();
    let room = NAME_BYTES_MAX.saturating_sub(mark.len() + suffix.len());
    let mut end = 0;
    while let Some(c) = escaped[end..].chars().next() {
        let len = if c == '%' { 3 } else { c.len_utf8() };
        if end + len > room {
            break;
        }
        end += len;
    }
    Shown { name: format!("{}{mark}{suffix}", &escaped[..end]), cut: true }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn is_legal(name: &str) -> bool {
        !name.is_empty() && name.len() <= NAME_BYTES_MAX && name != "." && name != ".." && !name.contains(['/', '\0'])
    }

    /// Names that are close to each other, and to what is escaped.
    fn names() -> impl Strategy<Value = String> {
        prop_oneof![
            "[.%/~\\x00a2F5]{0,6}",
            any::<String>(),
            "[%/]{80,100}".prop_map(|name| name.repeat(3)),
            "[aé%/]{240,300}",
        ]
    }

    proptest! {
        #[test]
        fn any_name_is_legal_and_comes_back(name in names(), suffix in prop_oneof![Just(""), Just(".npy")]) {
            for shown in [show(&name, suffix), show_apart(&name, suffix)] {
                prop_assert!(is_legal(&shown.name), "{shown:?}");
                prop_assert!(shown.name.ends_with(suffix));
                let bare = shown.name.strip_suffix(suffix).expect("its suffix");
                prop_assert_eq!(read(bare), (!shown.cut).then(|| name.clone()));
            }
        }

        #[test]
        fn two_names_are_never_shown_alike(a in names(), b in names()) {
            let shown = |name: &str| [show(name, "").name, show_apart(name, "").name];
            for a_shown in shown(&a) {
                prop_assert_eq!(shown(&b).contains(&a_shown) && a != b, false, "{:?} and {:?}", a, b);
            }
        }
    }

    #[test]
    fn names_are_shown_as_the_docs_say() {
        let name = |name: &str| show(name, "").name;
        assert_eq!(name("layer.0/weight"), "layer.0%2Fweight");
        assert_eq!(name("100%"), "100%25");
        assert_eq!(name("a\0b"), "a%00b");
        assert_eq!((name("."), name("..")), ("%2E".into(), "%2E%2E".into()));
        assert_eq!((name("..."), name("")), ("...".into(), "%".into()));
        assert_eq!(show_apart("step-5", "").name, "%73tep-5");
        assert_eq!(show_apart("élan", "").name, "%C3%A9lan");
        assert_eq!(show(".", ".npy").name, "%2E.npy");
        let long = show(&"%".repeat(200), ".npy");
        assert!(long.cut && long.name.len() > 250, "{long:?}");
        let (kept, hash) = long.name.strip_suffix(".npy").and_then(|name| name.split_once("%~")).expect("cut");
        assert_eq!(kept.len() % 3, 0, "no escape is cut");
        assert!(hash.len() == 16 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()), "{hash}");
    }
}
