//! Cuts a stream of bytes where its content says (FastCDC of 2020), so that an insertion moves few chunks. Never holds
//! more of the stream than one buffer, and where it cuts depends on the bytes alone, not on how they were read.

use std::io;

use fastcdc::v2020::FastCDC;

/// Bytes held at a time. Large enough that the rest carried from one filling to the next (less than one chunk) is rarely
/// moved, small enough to stay in a shared cache.
const BUFFER_BYTES: usize = 4 << 20;

/// Minimum, average and maximum bytes of a chunk.
pub(super) type Sizes = (usize, usize, usize);

/// Gives the lengths of the chunks of a stream of `total` bytes, in order; `read` fills its argument with the next bytes.
///
/// # Errors
/// Those of `read`.
pub(super) fn cut(total: u64, sizes: Sizes, mut read: impl FnMut(&mut [u8]) -> io::Result<()>) -> io::Result<Vec<u32>> {
    let (min, average, max) = sizes;
    let mut lens = Vec::with_capacity(usize::try_from(total / average as u64).unwrap_or(0).min(1 << 20));
    let mut buf = vec![0; usize::try_from(total).unwrap_or(usize::MAX).min(BUFFER_BYTES.max(max))];
    let mut unread = total;
    let mut held = 0;
    while unread > 0 || held > 0 {
        let more = usize::try_from(unread).unwrap_or(usize::MAX).min(buf.len() - held);
        read(&mut buf[held..held + more])?;
        held += more;
        unread -= more as u64;

        let cutter = FastCDC::new(&buf[..held], min, average, max);
        let mut at = 0;
        // A cut looks at up to `max` bytes: with less in hand it would see an end of the stream that is none.
        while held - at >= max || (unread == 0 && at < held) {
            let (_, end) = cutter.cut(at, held - at);
            lens.push((end - at) as u32);
            at = end;
        }
        buf.copy_within(at..held, 0);
        held -= at;
    }
    Ok(lens)
}
