//! The elements of a tensor row by row, however they lie in its file. Holds a few chunks, or all of a tensor whose elements lie
//! in another order; never more than one tensor.

use super::layout::Layout;
use crate::error::{Error, Result};
use crate::ops::opened::Opened;
use crate::ops::stream::{Reader, Span};
use crate::ops::tensors::Named;
use crate::progress::Progress;

/// Bytes handed on at a time when elements are gathered.
const GATHER_BYTES: usize = 1 << 20;

/// Gives the elements of a tensor to `receive`, row by row, little-endian. What it gets at a time may end within an element.
///
/// # Errors
/// Those of [`Reader::stream`] and [`Layout::of`]; [`Error::UnsuitedTensor`] for a tensor in another order that does not fit in
/// memory.
pub fn stream_rows(
    reader: &mut Reader<'_>,
    opened: &Opened,
    named: &Named<'_>,
    progress: &dyn Progress,
    receive: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    let layout = Layout::of(named)?;
    if let Some(span) = layout.span() {
        return reader.stream(opened, &[span], progress, &mut |_, bytes| receive(bytes));
    }
    let mut stored = Vec::new();
    let len = usize::try_from(named.tensor.len).unwrap_or(usize::MAX);
    stored.try_reserve_exact(len).map_err(|_| Error::UnsuitedTensor {
        name: named.name.clone(),
        reason: "does not fit in memory, which putting it in rows needs".to_owned(),
    })?;
    let span = Span { file: named.file, offset: named.tensor.offset, len: named.tensor.len };
    reader.stream(opened, &[span], progress, &mut |_, bytes| {
        stored.extend_from_slice(bytes);
        Ok(())
    })?;
    let mut out = Vec::with_capacity(GATHER_BYTES);
    let mut at = 0;
    while at < layout.bytes() {
        out.clear();
        layout.runs(at, GATHER_BYTES as u64, |from, len| {
            let from = (from - span.offset) as usize;
            out.extend_from_slice(&stored[from..from + len as usize]);
        });
        receive(&out)?;
        at += out.len() as u64;
    }
    Ok(())
}
