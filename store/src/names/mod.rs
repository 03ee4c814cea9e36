//! What the names of checkpoints say: step and metrics as Lightning, Transformers, DeepSpeed, Megatron, Keras and others write
//! them. Pure. Never guesses: what could mean two things gives none.

mod trainer_state;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

pub use trainer_state::trainer_state;

use crate::limits::{NAME_BYTES_MAX, NAMED_METRICS_MAX};

/// Words that announce a step, as Lightning, Transformers, Keras users and others write them.
const WORDS: [&str; 5] = ["step", "steps", "checkpoint", "iter", "iteration"];

/// Words that, alone at a name's head, may belong to the name of the metric that follows: `val-loss=0.3`.
const SPLITS: [&str; 6] = ["val", "valid", "validation", "train", "test", "eval"];

/// Endings of files that are checkpoints, the longer of two first.
const ENDINGS: [&str; 10] =
    [".weights.h5", ".safetensors", ".ckpt", ".pt", ".pth", ".bin", ".keras", ".h5", ".npz", ".gguf"];

/// Endings of files that are being written.
const TEMPORARY: [&str; 8] = [".tmp", ".temp", ".part", ".partial", ".crdownload", ".incomplete", ".swp", "~"];

/// What a name says.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Named {
    /// The step, when there is one and no doubt about it.
    pub step: Option<u64>,
    /// Metrics, but for the counters `epoch` and `step`.
    pub metrics: BTreeMap<String, f64>,
    /// Why there is no step although the name speaks of one.
    pub doubt: Option<String>,
}

/// Reads the name of a file or directory. It may hold a `/`: Lightning makes a directory of `val` from a metric `val/acc`.
pub fn from_name(name: &str) -> Named {
    let steps = steps_in(name);
    let mut named = Named { metrics: metrics_in(stem(name)), ..Named::default() };
    match steps.len() {
        0 => {}
        1 => named.step = steps.first().copied(),
        _ => {
            let steps: Vec<String> = steps.iter().map(u64::to_string).collect();
            named.doubt = Some(format!("its name could mean step {}", steps.join(" or ")));
        }
    }
    named
}

/// The step that the last components of `paths` leave no doubt about.
pub fn step_of(paths: &[PathBuf]) -> Option<u64> {
    let names = paths.iter().filter_map(|path| path.file_name().and_then(|name| name.to_str()));
    let steps: BTreeSet<u64> = names.flat_map(steps_in).collect();
    if steps.len() == 1 { steps.first().copied() } else { None }
}

/// A name without the ending that says what kind of file it is.
pub fn stem(name: &str) -> &str {
    ENDINGS.iter().find_map(|ending| name.strip_suffix(ending)).filter(|stem| !stem.is_empty()).unwrap_or(name)
}

/// Whether a file or folder of this name is a checkpoint by its ending.
pub fn has_checkpoint_ending(name: &str) -> bool {
    stem(name).len() < name.len()
}

/// Whether it is something that is only being written, or that its owner hides.
pub fn is_temporary(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let begins = [".", "tmp-", "tmp_"].iter().any(|head| name.starts_with(head));
    begins || name.contains(".tmp.") || TEMPORARY.iter().any(|ending| name.ends_with(ending))
}

/// Whether a directory of this name is a checkpoint of a known tool: `checkpoint-500`, `global_step1000`, `iter_0005000`.
pub fn is_checkpoint_folder(name: &str) -> bool {
    let digits = name.trim_end_matches(|c: char| c.is_ascii_digit());
    let word = digits.strip_suffix(['-', '_', '=']).unwrap_or(digits);
    digits.len() < name.len() && (WORDS.contains(&word) || word == "global_step")
}

/// Whether a file is one part of a checkpoint that lies in several: `model-00001-of-00004.safetensors`.
pub fn is_part(name: &str) -> bool {
    let words: Vec<&str> = stem(name).split(['-', '_', '.']).collect();
    let is_number = |word: &str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit());
    words.windows(3).any(|three| is_number(three[0]) && three[1] == "of" && is_number(three[2]))
}

/// Whether a name is one of a series, by a number in it; the version that Lightning adds (`best-v1`) is none.
pub fn is_numbered(name: &str) -> bool {
    without_version(stem(name)).contains(|c: char| c.is_ascii_digit())
}

/// A name without the `-v1` that Lightning adds when a file has the name already.
fn without_version(stem: &str) -> &str {
    let digits = stem.trim_end_matches(|c: char| c.is_ascii_digit());
    if digits.len() < stem.len() { digits.strip_suffix("-v").unwrap_or(stem) } else { stem }
}

/// Every number that a word for steps stands before.
fn steps_in(name: &str) -> BTreeSet<u64> {
    let words = words_of(name);
    let pairs = words.windows(2).filter(|pair| WORDS.contains(&&*pair[0].1.to_lowercase()));
    pairs.filter(|pair| is_whole(name, pair[1])).filter_map(|pair| pair[1].1.parse().ok()).collect()
}

/// Runs of letters and of digits with the places where they begin: `epoch=3-step=1200.ckpt` is epoch 3 step 1200 ckpt.
fn words_of(name: &str) -> Vec<(usize, &str)> {
    let kind = |c: char| if c.is_ascii_digit() { 1 } else { 2 * u8::from(c.is_alphabetic()) };
    let mut words: Vec<(usize, &str)> = Vec::new();
    let (mut begin, mut last) = (0, 0);
    for (at, c) in name.char_indices().chain([(name.len(), ' ')]) {
        if kind(c) != last {
            if last != 0 {
                words.push((begin, &name[begin..at]));
            }
            (begin, last) = (at, kind(c));
        }
    }
    words
}

/// Whether a number stands for itself: not the half of `0.5`, and not of `1e3` or `100k`.
fn is_whole(name: &str, (at, number): (usize, &str)) -> bool {
    let before = &name[..at];
    let mut after = name[at + number.len()..].chars();
    let ends = match (after.next(), after.next()) {
        (Some('.'), Some(next)) => !next.is_ascii_digit(),
        (Some(c), _) => !c.is_alphabetic(),
        (None, _) => true,
    };
    ends && !before.ends_with('.') && !before.ends_with("=-")
}

/// Every `name=number`, as Lightning writes metrics.
fn metrics_in(stem: &str) -> BTreeMap<String, f64> {
    let mut found: BTreeMap<String, Option<f64>> = BTreeMap::new();
    let mut done = 0;
    for (equals, _) in stem.match_indices('=') {
        let is_key = |c: char| c.is_alphanumeric() || "_/.@".contains(c);
        let begin = stem[..equals].trim_end_matches(is_key).len().max(done);
        let key = stem[begin..equals].trim_start_matches(['_', '.', '/']);
        let value = &stem[equals + 1..];
        let len = number_len(value);
        let ends = value[len..].chars().next().is_none_or(|c| "-_ ,".contains(c));
        let number = value[..len].parse::<f64>().ok().filter(|_| ends);
        // What stands between the last number and this name may be a part of the name, as in `epoch=3-val-loss=0.3`.
        let between = stem[done..begin].trim_matches(|c: char| "-_ ,".contains(c));
        let doubtful = if done == 0 {
            let word = between.rsplit(['-', '_', ' ']).next().unwrap_or_default();
            SPLITS.contains(&&*word.to_ascii_lowercase())
        } else {
            !(between.is_empty() || is_version(between))
        };
        if number.is_some() {
            done = equals + 1 + len;
        }
        if !is_counter(key) && key.starts_with(char::is_alphabetic) && key.len() <= NAME_BYTES_MAX {
            let number = number.filter(|_| !doubtful);
            // Twice with different numbers is a doubt as well.
            found
                .entry(key.to_owned())
                .and_modify(|old| *old = old.filter(|old| Some(*old) == number))
                .or_insert(number);
        }
    }
    found.into_iter().filter_map(|(key, value)| Some((key, value?))).take(NAMED_METRICS_MAX).collect()
}

fn is_version(word: &str) -> bool {
    word.strip_prefix('v').is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Whether a name counts and does not measure: its last word is `epoch` or `step`.
fn is_counter(key: &str) -> bool {
    let last = key.rsplit(['_', '/', '.']).next().unwrap_or_default().to_ascii_lowercase();
    ["epoch", "epochs", "batch"].contains(&&*last) || WORDS.contains(&&*last)
}

/// How many bytes at the head of `text` are one number.
fn number_len(text: &str) -> usize {
    let digits = |from: usize| text[from..].bytes().take_while(u8::is_ascii_digit).count();
    let sign = usize::from(text.starts_with(['+', '-']));
    let word = text[sign..].bytes().take_while(u8::is_ascii_alphabetic).count();
    if ["nan", "inf"].contains(&&*text[sign..sign + word].to_ascii_lowercase()) {
        return sign + word;
    }
    let mut end = sign + digits(sign);
    if end == sign {
        return 0;
    }
    if text[end..].starts_with('.') && digits(end + 1) > 0 {
        end += 1 + digits(end + 1);
    }
    if text[end..].starts_with(['e', 'E']) {
        let sign = usize::from(text[end + 1..].starts_with(['+', '-']));
        let exponent = digits(end + 1 + sign);
        if exponent > 0 {
            end += 1 + sign + exponent;
        }
    }
    end
}
