//! What a layout is for: which bytes share a chunk, and how much survives a change.

use std::collections::HashSet;

use super::samples::*;
use super::*;
use crate::limits::*;

fn tensor(name: &str, len: u64, dtype: Option<Dtype>) -> Segment {
    Segment { len, kind: Kind::Tensor { name: name.into(), dtype: dtype.map(ElementType::from), shape: None } }
}

fn plan(files: &[(Vec<u8>, Vec<Segment>)]) -> Layout {
    let splits: Vec<_> = files
        .iter()
        .map(|(_, segments)| Split { format: Format::Opaque, segments: segments.clone(), views: vec![] })
        .collect();
    rebuild_from(&files.iter().map(|(file, _)| &file[..]).collect::<Vec<_>>(), &splits)
}

/// The lengths and hints of the table.
fn table(layout: &Layout) -> Vec<(u32, ElementHint)> {
    layout.chunks.iter().map(|chunk| (chunk.len, chunk.dtype)).collect()
}

/// The chunks' bytes, to be compared between layouts.
pub fn contents(files: &[&[u8]]) -> Vec<Vec<u8>> {
    let (_, layout) = rebuild(files);
    let bytes_of = |range: &Range| &files[range.file as usize][range.offset as usize..][..range.len as usize];
    (0..layout.chunks.len())
        .map(|chunk| layout.ranges(chunk).iter().map(bytes_of).collect::<Vec<_>>().concat())
        .collect()
}

fn bytes_in_common(old: &[&[u8]], new: &[&[u8]]) -> usize {
    let old: HashSet<_> = contents(old).into_iter().collect();
    contents(new).iter().filter(|chunk| old.contains(*chunk)).map(Vec::len).sum()
}

#[test]
fn tensors_have_their_own_chunks_from_their_first_byte() {
    let max = CHUNK_BYTES_MAX as u64;
    let lens = [max, max + 1, 2 * max - 1, SMALL_TENSOR_BYTES, SMALL_TENSOR_BYTES];
    let hint = ElementHint::Dtype(Dtype::BF16);
    let segments: Vec<_> = lens.iter().map(|len| tensor("t", *len, Some(Dtype::BF16))).collect();
    let layout = plan(&[(bytes(1, lens.iter().sum::<u64>() as usize), segments)]);
    let expected = [max, max, 1, max, max - 1, SMALL_TENSOR_BYTES, SMALL_TENSOR_BYTES];
    assert_eq!(table(&layout), expected.map(|len| (len as u32, hint)));
    let first = |chunk| Placement::Chunks { chunk, at: 0 };
    assert_eq!(layout.placements, [[first(0), first(1), first(3), first(5), first(6)]]);
}

#[test]
fn small_tensors_share_chunks_by_type_and_file() {
    let small = SMALL_TENSOR_BYTES - 1;
    let one = |kinds: &[Option<Dtype>]| {
        let segments: Vec<_> = kinds.iter().map(|dtype| tensor("t", small, *dtype)).collect();
        (bytes(kinds.len() as u64, small as usize * kinds.len()), segments)
    };
    let f32 = Some(Dtype::F32);
    let layout = plan(&[one(&[f32, None, f32]), one(&[f32])]);
    let small = small as u32;
    let (f32_hint, unknown) = (ElementHint::Dtype(Dtype::F32), ElementHint::Unknown);
    assert_eq!(table(&layout), [(2 * small, f32_hint), (small, unknown), (small, f32_hint)]);
    assert_eq!(layout.placements[0][2], Placement::Chunks { chunk: 0, at: small });
    assert_eq!(layout.ranges(0).len(), 2, "what lies between is not gathered");

    let layout = plan(&[one(&[f32; 20])]);
    let full = SMALL_GROUP_BYTES_MAX as u32 / small;
    assert_eq!(table(&layout), [full, full, 20 - 2 * full].map(|tensors| (tensors * small, f32_hint)));
    assert_eq!(layout.ranges(0).len(), 1, "neighbours are one range");
}

#[test]
fn few_literals_stand_inline_and_more_are_cut() {
    let literal = |len| vec![Segment { len, kind: Kind::Literal }];
    let half = INLINE_BYTES_MAX / 2;
    let layout = plan(&[(bytes(1, half), literal(half as u64)), (bytes(2, half), literal(half as u64))]);
    assert_eq!((layout.chunks.len(), layout.inline.len()), (0, 2));
    assert_eq!(layout.placements[1], [Placement::Inline { at: half as u32 }]);

    let layout = plan(&[(bytes(1, half), literal(half as u64)), (bytes(2, half + 1), literal(half as u64 + 1))]);
    assert_eq!((layout.chunks.len(), layout.inline.len()), (1, 0));
    assert_eq!(layout.placements[1], [Placement::Chunks { chunk: 0, at: half as u32 }]);

    let large = 3_000_000;
    let layout = plan(&[(bytes(3, large), literal(large as u64)), (bytes(4, 10), literal(10))]);
    assert!(layout.chunks.iter().all(|chunk| chunk.len as usize <= LITERAL_CDC_BYTES.2));
    let huge = 5_000_000;
    let layout = plan(&[(bytes(3, huge), literal(huge as u64)), (bytes(4, 10), literal(10))]);
    assert!(layout.chunks.len() < huge / CDC_BYTES.0);
    assert_eq!(layout.inline.len(), 1);
}

#[test]
fn an_insertion_into_an_opaque_file_keeps_most_chunks() {
    let old = bytes(7, 12 << 20);
    let mut new = old.clone();
    new.splice(5_000_001..5_000_001, bytes(8, 100));
    let kept = bytes_in_common(&[&old], &[&new]);
    assert!(kept + 3 * CHUNK_BYTES_MAX > old.len(), "{kept} of {}", old.len());
    let kept = bytes_in_common(&[&old], &[&old[1..]]);
    assert!(kept + 2 * CHUNK_BYTES_MAX > old.len(), "{kept} of {}", old.len());
}

#[test]
fn renumbered_storages_keep_their_chunks() {
    let (frozen, old, new) = (bytes(1, 3_000_000), bytes(2, 200_000), bytes(3, 200_000));
    let old = torch_file("step-1", &[("data/0", frozen.clone()), ("data/1", old)], true);
    let new = torch_file("step-1000", &[("data/11", new), ("data/12", frozen.clone())], true);
    assert!(bytes_in_common(&[&old], &[&new]) >= frozen.len());
}

#[test]
fn small_tensors_share_chunks_by_name_in_whatever_order_they_lie() {
    let shared = |order: &[u64]| {
        let file: Vec<u8> = order.iter().flat_map(|name| bytes(*name, 3000)).collect();
        let segments: Vec<_> = order.iter().map(|name| tensor(&name.to_string(), 3000, Some(Dtype::F32))).collect();
        let layout = plan(&[(file.clone(), segments)]);
        let bytes_of = |range: &Range| file[range.offset as usize..][..range.len as usize].to_vec();
        (0..layout.chunks.len())
            .map(|chunk| layout.ranges(chunk).iter().flat_map(bytes_of).collect())
            .collect::<Vec<Vec<u8>>>()
    };
    let up: Vec<u64> = (100..300).collect();
    let down: Vec<u64> = up.iter().rev().copied().collect();
    assert!(shared(&up).len() > 1 && shared(&up) == shared(&down));
}

#[test]
fn five_thousand_small_files_share_chunks_and_one_change_costs_little() {
    let files: Vec<_> = (0..5000u64).map(|n| bytes(n, (n as usize * 37) % 2000)).collect();
    let old: Vec<&[u8]> = files.iter().map(|file| &file[..]).collect();
    let total: usize = files.iter().map(Vec::len).sum();
    let (_, layout) = rebuild(&old);
    assert!(layout.chunks.len() < total / LITERAL_CDC_BYTES.0, "{} chunks", layout.chunks.len());
    let mut new = old.clone();
    new[2500] = b"another";
    new.insert(1000, b"a new file");
    let kept = bytes_in_common(&old, &new);
    assert!(kept + 4 * LITERAL_CDC_BYTES.2 > total, "{kept} of {total}");
}

#[test]
fn a_stream_is_cut_in_pieces_of_a_buffer_and_like_the_whole() {
    for (len, sizes) in
        [(40 << 20, CDC_BYTES), (10 << 20, LITERAL_CDC_BYTES), (4 << 20, CDC_BYTES), (1, CDC_BYTES), (0, CDC_BYTES)]
    {
        let data = bytes(5, len);
        let (mut at, mut longest) = (0, 0);
        let lens = cdc::cut(len as u64, sizes, |buf| {
            buf.copy_from_slice(&data[at..at + buf.len()]);
            at += buf.len();
            longest = longest.max(buf.len());
            Ok(())
        })
        .unwrap();
        assert!(longest <= 4 << 20 && at == len);
        let whole = fastcdc::v2020::FastCDC::new(&data, sizes.0, sizes.1, sizes.2);
        assert_eq!(lens, whole.map(|chunk| chunk.length as u32).collect::<Vec<_>>());
    }
}

/// Where content is cut is *format*: a version of fastcdc that cuts elsewhere would make every store hold everything again.
#[test]
fn cuts_stay_where_they_are() {
    let data = bytes(5, 2 << 20);
    let mut at = 0;
    let read = |buf: &mut [u8]| {
        buf.copy_from_slice(&data[at..at + buf.len()]);
        at += buf.len();
        Ok(())
    };
    let lens = cdc::cut(data.len() as u64, CDC_BYTES, read).unwrap();
    assert_eq!(lens, [603_197, 350_318, 290_743, 179_423, 286_721, 386_750]);
}
