//! What a run holds and what rules leave of it, worked out without the library.

use std::collections::BTreeMap;

use rand::RngExt;
use rand::rngs::SmallRng;

use crate::lab::{noise, safetensors};
use crate::sample::weights;

/// Contents that a writer puts, again and again.
pub const CONTENTS: u64 = 12;

/// A checkpoint that must be there.
#[derive(Debug, Clone, PartialEq)]
pub struct Kept {
    /// The BLAKE3 of its bytes.
    pub hash: [u8; 32],
    /// Which of its writer's contents that is.
    pub content: u64,
    /// Its metric.
    pub loss: f64,
    /// Whether a tag keeps it.
    pub tagged: bool,
    /// When it was stored, among the others of its run.
    pub stored: u64,
}

/// A writer's run: its checkpoints by step. Locked by whoever may change which there are.
pub type Run = BTreeMap<u64, Kept>;

/// Rules of a gc.
pub struct Rules {
    last: usize,
    best: usize,
    every: u64,
}

impl Rules {
    /// Any rules.
    pub fn random(rng: &mut SmallRng) -> Self {
        Self { last: rng.random_range(1..5), best: rng.random_range(1..4), every: rng.random_range(3..9) }
    }

    /// The call of a gc with these rules for these runs.
    pub fn args(&self, runs: &str) -> Vec<String> {
        let Self { last, best, every } = self;
        let words = format!(
            "gc --run {runs} --keep-last {last} --keep-best {best} --metric loss --mode min --keep-every {every}"
        );
        words.split(' ').map(str::to_owned).collect()
    }

    /// What they leave of a run.
    pub fn keep(&self, run: &Run) -> Run {
        let mut by_loss: Vec<(f64, u64)> = run.iter().map(|(step, kept)| (kept.loss, *step)).collect();
        by_loss.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
        let best: Vec<u64> = by_loss.iter().take(self.best).map(|(_, step)| *step).collect();
        let mut by_age: Vec<u64> = run.values().map(|kept| kept.stored).collect();
        by_age.sort_unstable();
        let from = by_age.iter().rev().nth(self.last - 1).copied().unwrap_or(0);
        let is_kept = |step: u64, kept: &Kept| {
            kept.tagged || kept.stored >= from || best.contains(&step) || step.is_multiple_of(self.every)
        };
        run.iter().filter(|(step, kept)| is_kept(**step, kept)).map(|(step, kept)| (*step, kept.clone())).collect()
    }
}

/// How much a model holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Size {
    /// Little, to be put often.
    Small,
    /// Several chunks of a tensor, some of them encoded.
    Large,
}

/// The tensor by which the contents of a writer differ.
pub const HEAD: &str = "head";

/// The seed of that tensor.
pub fn head_seed(writer: u64, content: u64) -> u64 {
    1_000_000 + writer / 2 * 1000 + content
}

/// The tensors of a model, of which a part is the same in all, a part is its writer's, and a part comes again in later
/// steps.
pub fn parts(writer: u64, content: u64, size: Size) -> Vec<(&'static str, Vec<u8>)> {
    let mut parts = vec![
        ("frozen", noise(0, 400_000)),
        ("writer", noise(1000 + writer, 120_000)),
        (HEAD, noise(head_seed(writer, content), 160_000)),
    ];
    if size == Size::Large {
        parts.push(("encoded", weights(2_000_000 + writer / 2 * 1000 + content / 3, 600_000)));
        parts.push(("raw", noise(3_000_000 + writer * 1000 + content / 2, 1_300_000)));
    }
    parts
}

/// The file of a model.
pub fn model(writer: u64, content: u64, size: Size) -> Vec<u8> {
    let parts = parts(writer, content, size);
    let parts: Vec<(&str, &str, &[u8])> = parts.iter().map(|(name, bytes)| (*name, "F32", &bytes[..])).collect();
    safetensors(&parts)
}
