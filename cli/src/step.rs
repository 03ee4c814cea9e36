//! Reads a training step from the name of a file or directory. Never guesses: a name that could mean two numbers gives none.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Words that announce a step, as Lightning, Transformers, Keras users and others write them.
const WORDS: [&str; 5] = ["step", "steps", "checkpoint", "iter", "iteration"];

/// The step that the names of `paths` leave no doubt about.
pub fn from_paths(paths: &[PathBuf]) -> Option<u64> {
    let steps: BTreeSet<u64> = paths.iter().flat_map(|path| from_name(path)).collect();
    if steps.len() == 1 { steps.first().copied() } else { None }
}

fn from_name(path: &Path) -> BTreeSet<u64> {
    let Some(name) = path.file_name().and_then(|name| name.to_str()) else { return BTreeSet::new() };
    // Runs of letters and of digits, in order: `epoch=3-step=1200.ckpt` is epoch 3 step 1200 ckpt.
    let mut words: Vec<(String, bool)> = Vec::new();
    let mut last = ' ';
    for c in name.chars() {
        let joins = (c.is_ascii_digit() && last.is_ascii_digit()) || (c.is_alphabetic() && last.is_alphabetic());
        match words.last_mut().filter(|_| joins) {
            Some((word, _)) => word.push(c.to_ascii_lowercase()),
            None if c.is_ascii_digit() || c.is_alphabetic() => {
                // `step-0.5` and `step=1e3` are no whole numbers: what stands before decides whether this may be one.
                words.push((c.to_ascii_lowercase().to_string(), last == '.'));
            }
            None => {}
        }
        last = c;
    }
    words
        .windows(2)
        .filter(|pair| WORDS.contains(&&*pair[0].0) && !pair[1].1)
        .filter_map(|pair| pair[1].0.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_leave_no_doubt() {
        let step = |names: &[&str]| from_paths(&names.iter().map(PathBuf::from).collect::<Vec<_>>());
        assert_eq!(step(&["epoch=3-step=1200-val_loss=0.31.ckpt"]), Some(1200));
        assert_eq!(step(&["runs/checkpoint-500/"]), Some(500));
        assert_eq!(step(&["model_step_10000.pt"]), Some(10000));
        assert_eq!(step(&["step=35000"]), Some(35000));
        assert_eq!(step(&["Step-250.ckpt", "optimizer_step_250.pt"]), Some(250));
        assert_eq!(step(&["step250.pt"]), Some(250));
        assert_eq!(step(&["step-250.ckpt", "step-500.ckpt"]), None);
        assert_eq!(step(&["model-500.pt"]), None);
        assert_eq!(step(&["last.ckpt"]), None);
        assert_eq!(step(&["footstep.5.pt"]), None);
        assert_eq!(step(&["step-99999999999999999999999.pt"]), None);
    }
}
