//! Numbers and texts as the older protocols write them. Never makes more of a text than it has bytes.

/// A little-endian signed integer of at most 8 bytes.
pub(super) fn int(bytes: &[u8]) -> Option<i64> {
    let Some(last) = bytes.last() else { return Some(0) };
    let mut wide = [if *last >= 0x80 { 0xff } else { 0 }; 8];
    wide.get_mut(..bytes.len())?.copy_from_slice(bytes);
    Some(i64::from_le_bytes(wide))
}

/// Decodes Latin-1 with `\uXXXX` and `\UXXXXXXXX`, as protocol 0 writes text. False if it is none.
pub(super) fn escaped(line: &[u8], out: &mut String) -> bool {
    let mut rest = line;
    while let Some((first, after)) = rest.split_first() {
        let digits = match (first, after.first()) {
            (b'\\', Some(b'u')) => 4,
            (b'\\', Some(b'U')) => 8,
            _ => {
                out.push(char::from(*first));
                rest = after;
                continue;
            }
        };
        let code = after.get(1..1 + digits).and_then(hex).and_then(char::from_u32);
        let Some(code) = code else { return false };
        out.push(code);
        rest = &after[1 + digits..];
    }
    true
}

/// Decodes a quoted string with the escapes of Python's `repr`. False if it is none, or no text.
pub(super) fn repr(line: &[u8], out: &mut String) -> bool {
    let quoted = match line.trim_ascii() {
        [b'\'', inner @ .., b'\''] | [b'"', inner @ .., b'"'] => inner,
        _ => return false,
    };
    let mut bytes = Vec::with_capacity(quoted.len());
    let mut rest = quoted;
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first != b'\\' {
            bytes.push(*first);
            continue;
        }
        let Some((escape, after)) = rest.split_first() else { return false };
        rest = after;
        match escape {
            b'n' => bytes.push(b'\n'),
            b'r' => bytes.push(b'\r'),
            b't' => bytes.push(b'\t'),
            b'\\' | b'\'' | b'"' => bytes.push(*escape),
            b'x' => {
                let Some(code) = rest.get(..2).and_then(hex) else { return false };
                bytes.push(code as u8);
                rest = &rest[2..];
            }
            _ => return false,
        }
    }
    let Ok(text) = str::from_utf8(&bytes) else { return false };
    out.push_str(text);
    true
}

fn hex(digits: &[u8]) -> Option<u32> {
    if !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    u32::from_str_radix(str::from_utf8(digits).ok()?, 16).ok()
}
