#![allow(clippy::unwrap_used)]

use super::*;
use proptest::prelude::*;

const HINTS: [Hint; 9] = [
    Hint::Dtype(Dtype::F32),
    Hint::Dtype(Dtype::BF16),
    Hint::Dtype(Dtype::F16),
    Hint::Dtype(Dtype::F64),
    Hint::Dtype(Dtype::I64),
    Hint::Dtype(Dtype::I32),
    Hint::Dtype(Dtype::U8),
    Hint::Text,
    Hint::Unknown,
];

/// A small generator, so that large inputs need no crate and are the same on every run.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Roughly normal, as weights are.
    fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.unit()).sum::<f64>() - 6.0
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| (self.next() >> 32) as u8).collect()
    }
}

fn f32_weights(n: usize, seed: u64) -> Vec<u8> {
    let mut rng = Rng(seed);
    (0..n).flat_map(|_| ((rng.normal() * 0.04) as f32).to_le_bytes()).collect()
}

fn bf16_weights(n: usize, seed: u64) -> Vec<u8> {
    f32_weights(n, seed).chunks_exact(4).flat_map(|x| [x[2], x[3]]).collect()
}

/// Every kind of content the room knows about, each `len` bytes.
fn content(kind: u8, len: usize, seed: u64) -> Vec<u8> {
    let mut rng = Rng(seed | 1);
    let mut bytes: Vec<u8> = match kind % 12 {
        0 => rng.bytes(len),
        1 => vec![seed as u8; len],
        2 => f32_weights(len / 4 + 1, seed | 1),
        3 => bf16_weights(len / 2 + 1, seed | 1),
        4 => (0..len / 8 + 1).flat_map(|_| rng.normal().to_le_bytes()).collect(),
        5 => (0..len / 8 + 1).flat_map(|i| (i as u64).to_le_bytes()).collect(),
        6 => (0..len / 6 + 1).flat_map(|i| format!("{:05},", i % 977).into_bytes()).collect(),
        // Sparse: one element in fifty.
        7 => (0..len / 4 + 1)
            .flat_map(|_| (if rng.next().is_multiple_of(50) { rng.normal() as f32 } else { 0.0 }).to_le_bytes())
            .collect(),
        // Half random, half zeros.
        8 => [rng.bytes(len / 2 + 1), vec![0; len / 2 + 1]].concat(),
        // Few symbols with steeply falling counts, so that codes reach their greatest length.
        9 => (0..len).map(|_| (rng.next() | 1 << 40).trailing_zeros() as u8).collect(),
        10 => f32_weights(len / 4 + 1, seed | 1).chunks_exact(4).flat_map(|x| [0, 0, x[2], x[3]]).collect(),
        _ => (0..len / 4 + 1).flat_map(|_| ((rng.next() % 1000) as u32).to_le_bytes()).collect(),
    };
    bytes.truncate(len);
    assert_eq!(bytes.len(), len);
    bytes
}

fn round_trip(encoder: &mut Encoder, decoder: &mut Decoder, raw: &[u8], hint: Hint) -> (Codec, usize) {
    let (codec, stored) = encoder.encode(raw, hint);
    assert!(stored.len() <= raw.len());
    if codec == Codec::Raw {
        assert_eq!(stored, raw);
    }
    let mut back = vec![0xa5; raw.len()];
    decoder.decode(codec, stored, &mut back).unwrap();
    assert!(back == raw, "{codec} of {} bytes with {hint:?} came back different", raw.len());
    (codec, stored.len())
}

#[test]
fn every_content_and_hint_comes_back() {
    let (mut encoder, mut decoder) = (Encoder::new(), Decoder::new());
    let mut lengths: Vec<usize> = (0..70).collect();
    lengths.extend([1000, 1023, 4097, 65_535, 131_071, 262_145, (1 << 20) - 1, 1 << 20]);
    for kind in 0..12 {
        for &len in &lengths {
            let raw = content(kind, len, 7 + len as u64);
            let hints = if len > 100_000 { &HINTS[usize::from(kind) % 3..][..7] } else { &HINTS[..] };
            for &hint in hints {
                round_trip(&mut encoder, &mut decoder, &raw, hint);
            }
        }
    }
}

#[test]
fn what_is_written_does_not_depend_on_the_processor() {
    for kind in 0..12 {
        for len in [1030, 77_777, 1 << 20] {
            let raw = content(kind, len, 3);
            for hint in HINTS {
                let mut expected = None;
                for level in Level::all() {
                    let mut encoder = Encoder::with_level(level);
                    let (codec, stored) = encoder.encode(&raw, hint);
                    let made = (codec, stored.to_vec());
                    let mut back = vec![1; len];
                    Decoder::with_level(level).decode(codec, stored, &mut back).unwrap();
                    assert!(back == raw, "{level:?}");
                    assert!(expected.get_or_insert(made.clone()) == &made, "{level:?} {hint:?} kind {kind} len {len}");
                }
            }
        }
    }
}

#[test]
fn planes_of_every_shape_and_level_agree_with_the_plain_definition() {
    for width in [1, 2, 4, 8] {
        for rotated in [false, width > 1] {
            for n in [0, 1, 3, 63, 64, 65, 1023, 1024, 1025, 5000] {
                let raw = Rng(n as u64 + 9).bytes(n * width);
                let mut expected = vec![vec![0u8; n]; 8];
                for (i, element) in raw.chunks_exact(width).enumerate() {
                    let mut bytes = element.to_vec();
                    if rotated {
                        let top = u16::from_le_bytes([bytes[width - 2], bytes[width - 1]]).rotate_left(1);
                        bytes[width - 2..].copy_from_slice(&top.to_le_bytes());
                    }
                    for (plane, byte) in bytes.iter().enumerate() {
                        expected[plane][i] = *byte;
                    }
                }
                for level in Level::all() {
                    let mut made = vec![vec![0u8; n]; 8];
                    let mut slots = made.iter_mut();
                    let mut planes: [&mut [u8]; 8] = std::array::from_fn(|_| slots.next().unwrap().as_mut_slice());
                    lanes::split(level, Shape { width, rotated }, &raw, &mut planes);
                    assert_eq!(made, expected, "{level:?} {width} {rotated} {n}");
                    let mut back = vec![0; raw.len()];
                    let planes: [&[u8]; 8] = std::array::from_fn(|i| made[i].as_slice());
                    lanes::merge(level, Shape { width, rotated }, &planes, &mut back);
                    assert_eq!(back, raw, "{level:?} {width} {rotated} {n}");
                }
            }
        }
    }
}

#[test]
fn huffman_frames_are_what_zstd_reads() {
    let (mut decoder, mut table) = (zstd_io::Decompressor::new(), huffman_read::Table::new());
    let mut frames = 0;
    for len in [1024, 1087, 5000, 65_536, 131_072, 131_073, 262_144, 300_001, 1 << 20] {
        for spread in 1..10u64 {
            let mut rng = Rng(len as u64 * spread);
            // From two equal symbols to steep and wide; the last byte is one that occurs nowhere else.
            let mut plane: Vec<u8> = (0..len)
                .map(|_| match spread {
                    1 => (rng.next() >> 40) as u8 & 1,
                    2 => 126 + ((rng.next() >> 40) as u8 & 1),
                    3..6 => (rng.normal() * spread as f64 + 64.0) as u8 & 127,
                    _ => (rng.next() | 1 << 30).trailing_zeros() as u8 * (spread as u8 - 5),
                })
                .collect();
            plane[len - 1] = 127;
            let mut made = Vec::new();
            for level in Level::all() {
                let mut out = vec![0; len + OUT_SLACK];
                let frame = huffman::encode(level, &plane, &mut out).map(|n| out[..n].to_vec());
                made.push(frame);
            }
            assert!(made.windows(2).all(|w| w[0] == w[1]), "levels differ at {len} {spread}");
            if let Some(frame) = &made[0] {
                frames += 1;
                let mut back = vec![0; len];
                assert_eq!(decoder.decompress(frame, &mut back).unwrap(), len);
                assert!(back == plane, "{len} {spread}");
                for level in Level::all() {
                    back.fill(0);
                    let read = huffman_read::decode(level, &mut table, frame, &mut back);
                    assert!(read.is_some() && back == plane, "{level:?} {len} {spread}");
                }
            }
        }
    }
    assert_eq!(frames, 81);
    // A symbol that the code can't name, a single symbol, noise, and no room: zstd's work.
    let mut out = vec![0; 1 << 16];
    for level in Level::all() {
        let mut plane = vec![3u8; 4096];
        assert_eq!(huffman::encode(level, &plane, &mut out), None);
        plane[2000] = 4;
        assert!(huffman::encode(level, &plane, &mut out).is_some());
        assert_eq!(huffman::encode(level, &plane, &mut out[..100]), None);
        plane[77] = 128;
        assert_eq!(huffman::encode(level, &plane, &mut out), None);
        let noise: Vec<u8> = Rng(5).bytes(9000).iter().map(|b| b & 127).collect();
        assert!(huffman::encode(level, &noise, &mut out).is_none_or(|n| n < 9000));
    }
}

#[test]
fn ratios_are_what_the_format_promises() {
    let (mut encoder, mut decoder) = (Encoder::new(), Decoder::new());
    let mut ratio = |raw: &[u8], hint| {
        let (codec, len) = round_trip(&mut encoder, &mut decoder, raw, hint);
        (codec, len as f64 / raw.len() as f64)
    };
    let f32s = f32_weights(1 << 18, 11);
    let bf16s = bf16_weights(1 << 19, 12);
    for hint in [Hint::Dtype(Dtype::F32), Hint::Unknown, Hint::Text] {
        let (codec, r) = ratio(&f32s, hint);
        assert!(codec == Codec::Planes && r < 0.835, "{hint:?} {codec} {r}");
    }
    for hint in [Hint::Dtype(Dtype::BF16), Hint::Unknown, Hint::Text] {
        let (codec, r) = ratio(&bf16s, hint);
        assert!(codec == Codec::Planes && r < 0.67, "{hint:?} {codec} {r}");
    }
    // BF16 values kept as F32: two planes are nothing.
    let (_, r) = ratio(&content(10, 1 << 20, 1), Hint::Dtype(Dtype::F32));
    assert!(r < 0.335, "{r}");
    let (_, r) = ratio(&content(5, 1 << 20, 1), Hint::Dtype(Dtype::I64));
    assert!(r < 0.13, "{r}");
    let (codec, r) = ratio(&content(6, 1 << 20, 1), Hint::Text);
    assert!(codec == Codec::Zstd && r < 0.1, "{codec} {r}");
    // One F32 in fifty is 0.02 x 0.83 of raw, and its place about 0.035 x 1 of raw.
    let (_, r) = ratio(&content(7, 1 << 20, 1), Hint::Dtype(Dtype::F32));
    assert!(r < 0.1, "{r}");
}

#[test]
fn constant_chunks_are_tiny_and_noise_stays_raw() {
    let (mut encoder, mut decoder) = (Encoder::new(), Decoder::new());
    let noise = Rng(99).bytes(1 << 20);
    for hint in HINTS {
        for raw in [vec![0; 1 << 20], vec![0x3f; 1 << 20], 1.5f32.to_le_bytes().repeat(1 << 18)] {
            let (_, len) = round_trip(&mut encoder, &mut decoder, &raw, hint);
            assert!(len < 256, "{hint:?}: {len}");
        }
        assert_eq!(round_trip(&mut encoder, &mut decoder, &noise, hint), (Codec::Raw, 1 << 20), "{hint:?}");
        // One element that differs, where the sample does not look, must not cost much.
        let mut almost = vec![0; 1 << 20];
        almost[777_777] = 1;
        let (_, len) = round_trip(&mut encoder, &mut decoder, &almost, hint);
        assert!(len < 512, "{hint:?}: {len}");
    }
}

#[test]
fn the_layout_is_the_one_documented() {
    let mut raw = 1.0f32.to_le_bytes().repeat(32);
    raw.extend([9, 8, 7]);
    let mut encoder = Encoder::new();
    let (codec, stored) = encoder.encode(&raw, Hint::Dtype(Dtype::F32));
    assert_eq!(codec, Codec::Planes);
    // 1.0 is 0x3f80_0000; its top half rotated is 0x7f00.
    let entry = [2, 1, 0, 0];
    let expected =
        [&[1, 0b110, 131, 0, 0, 0][..], &entry, &entry, &entry, &entry, &[9, 8, 7], &[0, 0, 0, 0x7f]].concat();
    assert_eq!(stored, expected);

    // Hand-made: U16 not rotated, both planes copied.
    let stored = [&[1, 1, 7, 0, 0, 0][..], &[0, 3, 0, 0], &[0, 3, 0, 0], &[1, 2, 3], &[4, 5, 6], &[7]].concat();
    let mut back = [0; 7];
    Decoder::new().decode(Codec::Planes, &stored, &mut back).unwrap();
    assert_eq!(back, [1, 4, 2, 5, 3, 6, 7]);
    for (codec, number) in [(Codec::Raw, 0), (Codec::Zstd, 1), (Codec::Planes, 2)] {
        assert_eq!(codec as u8, number);
        assert_eq!(Codec::try_from(number), Ok(codec));
    }
    assert!(Codec::try_from(3).is_err());
    assert_eq!(Codec::Planes.to_string(), "planes");
}

#[test]
fn a_wrong_length_is_an_error() {
    let mut decoder = Decoder::new();
    let mut encoder = Encoder::new();
    for (raw, hint) in [
        (f32_weights(5000, 5), Hint::Dtype(Dtype::F32)),
        (content(6, 20_000, 5), Hint::Text),
        (vec![0; 20_000], Hint::Unknown),
    ] {
        let (codec, stored) = encoder.encode(&raw, hint);
        assert_ne!(codec, Codec::Raw);
        for wrong in [0, 1, raw.len() - 4, raw.len() - 1, raw.len() + 1, raw.len() + 4] {
            assert!(decoder.decode(codec, stored, &mut vec![0; wrong]).is_err(), "{codec} {wrong}");
        }
        for cut in [0, 1, 2, 10, stored.len() - 1] {
            assert!(decoder.decode(codec, &stored[..cut], &mut vec![0; raw.len()]).is_err(), "{codec} cut at {cut}");
        }
        let longer = [stored, &[0]].concat();
        assert!(decoder.decode(codec, &longer, &mut vec![0; raw.len()]).is_err(), "{codec}");
        // And after all these errors the decoder still works.
        round_trip(&mut Encoder::new(), &mut decoder, &raw, hint);
    }
    assert!(decoder.decode(Codec::Raw, &[1, 2], &mut [0; 3]).is_err());
    assert!(
        decoder.decode(Codec::Planes, &[1, 0, 1, 0, 16, 0, 2, 1, 0, 0, 5], &mut vec![0; CHUNK_BYTES_MAX + 1]).is_err()
    );
}

#[test]
fn a_chunk_beyond_the_limit_stays_raw() {
    let raw = vec![0; CHUNK_BYTES_MAX + 1];
    assert_eq!(Encoder::new().encode(&raw, Hint::Text).0, Codec::Raw);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_come_back(kind in 0u8..12, len in 0usize..9000, seed: u64, hint in 0usize..9, noise in 0usize..8) {
        let mut raw = content(kind, len, seed);
        let mut rng = Rng(seed | 1);
        for _ in 0..noise.min(len) {
            let at = rng.next() as usize % len;
            raw[at] = rng.next() as u8;
        }
        round_trip(&mut Encoder::new(), &mut Decoder::new(), &raw, HINTS[hint]);
    }

    #[test]
    fn random_stored_bytes_never_panic(codec in 0u8..3, stored in prop::collection::vec(any::<u8>(), 0..300), len in 0usize..2000) {
        let _ = Decoder::new().decode(Codec::try_from(codec).unwrap(), &stored, &mut vec![0; len]);
        // The same with a header that gets past the first checks.
        let shape = stored.first().copied().unwrap_or(0) & 7;
        let stored = [&[1, shape][..], &(len as u32).to_le_bytes(), &stored].concat();
        let _ = Decoder::new().decode(Codec::Planes, &stored, &mut vec![0; len]);
    }

    #[test]
    fn random_plane_tables_never_panic(
        shape in 0u8..8, entries in prop::collection::vec((0u8..3, 0u32..40), 8),
        payload in prop::collection::vec(any::<u8>(), 0..200), len in 0usize..200,
    ) {
        let mut stored = [&[1, shape][..], &(len as u32).to_le_bytes()].concat();
        for (mode, size) in &entries[..1 << (shape & 3)] {
            stored.extend((u32::from(*mode) | size << 8).to_le_bytes());
        }
        // As many bytes as the entries ask for, so that the checks of the lengths pass.
        let total: u32 = entries[..1 << (shape & 3)].iter().map(|e| e.1).sum();
        stored.extend(payload.iter().cycle().take(if payload.is_empty() { 0 } else { total as usize + len % 8 }));
        let _ = Decoder::new().decode(Codec::Planes, &stored, &mut vec![0; len]);
    }

    /// The quick reader may refuse what zstd reads, but never read what zstd refuses or reads otherwise.
    #[test]
    fn quick_reader_never_disagrees_with_zstd(
        len in 1024usize..6000, spread in 2u32..40, seed: u64, wrong_len in 0usize..3,
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..3),
    ) {
        let mut rng = Rng(seed | 1);
        let plane: Vec<u8> = (0..len).map(|_| (rng.normal() * f64::from(spread) / 4.0 + 64.0) as u8 & 127).collect();
        let mut out = vec![0; 2 * len];
        let Some(n) = huffman::encode(Level::detect(), &plane, &mut out) else { return Ok(()) };
        let mut frame = out[..n].to_vec();
        for (at, byte) in &damage {
            let at = if byte & 1 == 0 { at.index(n) } else { at.index(70) };
            frame[at] = *byte;
        }
        let room = len + wrong_len - 1;
        let (mut quick, mut slow) = (vec![0; room], vec![0; room]);
        for level in Level::all() {
            let mut table = huffman_read::Table::new();
            if huffman_read::decode(level, &mut table, &frame, &mut quick).is_some() {
                prop_assert_eq!(zstd_io::Decompressor::new().decompress(&frame, &mut slow), Ok(room));
                prop_assert!(quick == slow);
            }
        }
    }

    #[test]
    fn damaged_stored_bytes_never_panic(
        kind in 0u8..12, len in 64usize..20_000, seed: u64, hint in 0usize..9,
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(), cutting: bool,
    ) {
        let raw = content(kind, len, seed);
        let mut encoder = Encoder::new();
        let (codec, stored) = encoder.encode(&raw, HINTS[hint]);
        let mut stored = stored.to_vec();
        for (at, byte) in &damage {
            // Half of the damage goes to the first bytes, where headers and trees are.
            let at = if byte & 1 == 0 { at.index(stored.len()) } else { at.index(stored.len().min(80)) };
            stored[at] = *byte;
        }
        if cutting {
            stored.truncate(cut.index(stored.len()));
        }
        let mut decoder = Decoder::new();
        let _ = decoder.decode(codec, &stored, &mut vec![0; len]);
        round_trip(&mut Encoder::new(), &mut decoder, &raw, HINTS[hint]);
    }
}
