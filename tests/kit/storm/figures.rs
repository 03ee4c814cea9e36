//! What came of it, in numbers.

use std::collections::BTreeMap;

/// What happened.
#[derive(Debug, Clone, Default)]
pub struct Figures {
    /// Commands that were killed: command and what they were at, and how often.
    pub kills: BTreeMap<(&'static str, &'static str), usize>,
    /// Commands that ended by themselves and had done what they should.
    pub done: BTreeMap<&'static str, usize>,
    /// Commands that a full disk refused.
    pub refused: BTreeMap<&'static str, usize>,
    /// Commands that were killed and had done it all the same.
    pub late: usize,
    /// Checkpoints that were committed.
    pub committed: usize,
    /// Checkpoints that came back and were compared.
    pub compared: usize,
    /// Checkpoints at the end.
    pub left: usize,
    /// Wall time.
    pub seconds: f64,
}

impl Figures {
    /// All kills.
    pub fn killed(&self) -> usize {
        self.kills.values().sum()
    }

    /// Adds those of another round.
    pub fn add(&mut self, other: &Self) {
        let Self { kills, done, refused, late, committed, compared, left, seconds } = other;
        kills.iter().for_each(|(key, count)| *self.kills.entry(*key).or_default() += count);
        done.iter().for_each(|(key, count)| *self.done.entry(*key).or_default() += count);
        refused.iter().for_each(|(key, count)| *self.refused.entry(*key).or_default() += count);
        self.late += late;
        self.committed += committed;
        self.compared += compared;
        self.left += left;
        self.seconds += seconds;
    }
}

/// What a command was at, from the latest change that it began.
pub fn stage(change: &str) -> &'static str {
    let (kind, path) = change.split_once(' ').unwrap_or_default();
    let inside = path.strip_prefix("store/").unwrap_or(path);
    match inside.split('/').next().unwrap_or_default() {
        _ if kind.is_empty() => "before its first change",
        "tmp" if inside.ends_with(".session") => "registering",
        // The latest change, so all that follows without one belongs here.
        "sessions" if kind == "remove" => "leaving",
        "sessions" => "reading, after registering",
        "tmp" if inside.ends_with("HEAD") => "HEAD",
        "HEAD" => "HEAD",
        "tmp" if kind == "remove" => "clearing tmp",
        "tmp" => "writing packs and manifests",
        "packs" if kind == "remove" => "unlinking packs",
        "packs" | "checkpoints" if kind != "remove" => "naming packs and manifests",
        "checkpoints" | "catalog" => "catalogs and old manifests",
        "index" => "index",
        "locks" => "taking a lock",
        "out" => "writing what it gives",
        _ if inside.is_empty() || inside == "store" => "HEAD",
        _ => "elsewhere",
    }
}
