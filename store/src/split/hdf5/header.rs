//! Object headers of both versions to lists of their messages. Never reads a message's body.

use super::super::window::{OrDoubt, Parsed, Stop, Window};
use super::{expect, number};
use crate::limits::HDF5_MESSAGES_MAX;

/// Kinds of messages that we look at.
pub(super) const DATASPACE: u64 = 0x01;
pub(super) const LINK_INFO: u64 = 0x02;
pub(super) const DATATYPE: u64 = 0x03;
pub(super) const LINK: u64 = 0x06;
pub(super) const EXTERNAL_FILES: u64 = 0x07;
pub(super) const LAYOUT: u64 = 0x08;
pub(super) const FILTERS: u64 = 0x0b;
pub(super) const ATTRIBUTE: u64 = 0x0c;
const CONTINUATION: u64 = 0x10;
pub(super) const SYMBOL_TABLE: u64 = 0x11;

/// A message of a header.
#[derive(Clone, Copy)]
pub(super) struct Message {
    pub(super) kind: u64,
    /// Byte of the file where its body begins.
    pub(super) at: u64,
    /// Bytes of its body.
    pub(super) len: u64,
    /// The body only says where the message is.
    pub(super) is_shared: bool,
}

impl Message {
    /// Gives the body, if it has not more bytes than are sensible.
    pub(super) fn body<'a>(&self, window: &'a mut Window<'_>) -> Parsed<&'a [u8]> {
        window.get(self.at, self.len)
    }
}

/// Gives the first message of a kind.
pub(super) fn find(messages: &[Message], kind: u64) -> Option<&Message> {
    messages.iter().find(|message| message.kind == kind)
}

/// How messages stand in the blocks of a header.
struct Style {
    /// Bytes before each message: kind, length, flags and more.
    prefix: u64,
    kind_bytes: u64,
    /// Bytes around those of a continued block: signature and checksum.
    before: u64,
    after: u64,
}

/// Lists the messages of the header at this address.
pub(super) fn messages(window: &mut Window<'_>, address: u64) -> Parsed<Vec<Message>> {
    let (style, first) = match window.array::<4>(address)? {
        [1, ..] => {
            let len = number(window, address + 8, 4)?;
            (Style { prefix: 8, kind_bytes: 2, before: 0, after: 0 }, (address + 16, len))
        }
        [b'O', b'H', b'D', b'R'] => {
            let [version, flags]: [u8; 2] = window.array(address + 4)?;
            if version != 2 {
                return Err(Stop::Doubt);
            }
            let times = if flags & 0x20 != 0 { 16 } else { 0 };
            let limits = if flags & 0x10 != 0 { 4 } else { 0 };
            let at = address + 6 + times + limits;
            let width = 1 << (flags & 3);
            let len = number(window, at, width)?;
            let order = if flags & 0x04 != 0 { 2 } else { 0 };
            (Style { prefix: 4 + order, kind_bytes: 1, before: 4, after: 4 }, (at + width, len))
        }
        _ => return Err(Stop::Doubt),
    };
    let mut blocks = vec![first];
    let mut messages = Vec::new();
    let mut count = 0;
    while let Some((start, len)) = blocks.pop() {
        let end = start.checked_add(len).or_doubt()?;
        let mut at = start;
        // A rest that is too short for a message is a gap.
        while end - at >= style.prefix {
            let kind = number(window, at, style.kind_bytes)?;
            let len = number(window, at + style.kind_bytes, 2)?;
            let flags = number(window, at + style.kind_bytes + 2, 1)?;
            let body = at + style.prefix;
            at = body.checked_add(len).filter(|at| *at <= end).or_doubt()?;
            count += 1;
            if count > HDF5_MESSAGES_MAX {
                return Err(Stop::Doubt);
            }
            if kind == CONTINUATION {
                blocks.push(continued(window, body, len, &style)?);
            } else {
                messages.push(Message { kind, at: body, len, is_shared: flags & 2 != 0 });
            }
        }
    }
    Ok(messages)
}

/// Where the messages of a continued block are, and their bytes.
fn continued(window: &mut Window<'_>, body: u64, len: u64, style: &Style) -> Parsed<(u64, u64)> {
    if len < 16 {
        return Err(Stop::Doubt);
    }
    let (start, len) = (number(window, body, 8)?, number(window, body + 8, 8)?);
    let len = len.checked_sub(style.before + style.after).or_doubt()?;
    if style.before > 0 {
        expect(window, start, b"OCHK")?;
    }
    Ok((start.checked_add(style.before).or_doubt()?, len))
}
