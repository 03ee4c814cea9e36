//! What a run holds and what rules leave of it, worked out without the library.

use std::collections::BTreeMap;

use rand::RngExt;
use rand::rngs::SmallRng;

use crate::lab::{noise, safetensors};

/// Contents that a writer puts, again and again.
pub const CONTENTS: u64 = 12;

/// A checkpoint that must be there.
#[derive(Debug, Clone, PartialEq)]
pub struct Kept {
    /// The BLAKE3 of its bytes.
    pub hash: [u8; 32],
    /// Its metric.
    pub loss: f64,
    /// Whether a tag keeps it.
    pub tagged: bool,
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
        let from = run.keys().rev().nth(self.last - 1).copied().unwrap_or(0);
        let is_kept = |step: u64, kept: &Kept| {
            kept.tagged || step >= from || best.contains(&step) || step.is_multiple_of(self.every)
        };
        run.iter().filter(|(step, kept)| is_kept(**step, kept)).map(|(step, kept)| (*step, kept.clone())).collect()
    }
}

/// A model of which a part is the same in all, a part is its writer's, and a part comes again in later steps.
pub fn model(writer: u64, content: u64) -> Vec<u8> {
    safetensors(&[
        ("frozen", "F32", &noise(0, 400_000)),
        ("writer", "F32", &noise(1000 + writer, 120_000)),
        ("head", "F32", &noise(1_000_000 + writer / 2 * 1000 + content, 160_000)),
    ])
}
