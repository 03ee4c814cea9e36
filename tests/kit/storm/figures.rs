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
    /// What came of the mounts beside it.
    pub mounted: Mounted,
    /// Wall time.
    pub seconds: f64,
}

/// What came of mounts of the store, and of those who read them.
#[derive(Debug, Clone, Default)]
pub struct Mounted {
    /// What readers did, by name, and how often.
    pub counts: BTreeMap<String, u64>,
    /// How long it took until a mount showed what had come or gone, in milliseconds.
    pub lags: Vec<u64>,
    /// Servers that were killed.
    pub kills: u64,
    /// Readers that a signal ended at a dead mapping.
    pub signals: u64,
    /// Servers under which a call failed.
    pub faults: u64,
    /// The most memory that one held, in kB.
    pub held_kb: u64,
    /// The most descriptors that one had open.
    pub descriptors: usize,
    /// And those that one had open at the end, when nobody had a file open.
    pub descriptors_left: usize,
    /// Files that were laid down at the end.
    pub laid_down: u64,
}

impl Mounted {
    /// Takes what a reader has told.
    pub fn take(&mut self, told: &serde_json::Value) {
        for (name, count) in told["counts"].as_object().expect("counts by name") {
            *self.counts.entry(name.clone()).or_default() += count.as_u64().expect("a count");
        }
        self.lags.extend(told["lags"].as_array().expect("a list").iter().filter_map(serde_json::Value::as_u64));
    }

    /// Adds those of another mount or another round.
    pub fn add(&mut self, other: &Self) {
        let Self { counts, lags, kills, signals, faults, held_kb, descriptors, descriptors_left, laid_down } = other;
        counts.iter().for_each(|(name, count)| *self.counts.entry(name.clone()).or_default() += count);
        self.lags.extend(lags);
        self.kills += kills;
        self.signals += signals;
        self.faults += faults;
        self.held_kb = self.held_kb.max(*held_kb);
        self.descriptors = self.descriptors.max(*descriptors);
        self.descriptors_left = self.descriptors_left.max(*descriptors_left);
        self.laid_down += laid_down;
    }

    /// How often something was done.
    pub fn count(&self, name: &str) -> u64 {
        self.counts.get(name).copied().unwrap_or_default()
    }

    /// The time after which a part of the news was seen, of 1000, in milliseconds.
    pub fn lag(&self, part: usize) -> u64 {
        let mut lags = self.lags.clone();
        lags.sort_unstable();
        lags.get((lags.len() * part / 1000).min(lags.len().saturating_sub(1))).copied().unwrap_or_default()
    }
}

impl Figures {
    /// All kills.
    pub fn killed(&self) -> usize {
        self.kills.values().sum()
    }

    /// Adds those of another round.
    pub fn add(&mut self, other: &Self) {
        let Self { kills, done, refused, late, committed, compared, left, mounted, seconds } = other;
        kills.iter().for_each(|(key, count)| *self.kills.entry(*key).or_default() += count);
        done.iter().for_each(|(key, count)| *self.done.entry(*key).or_default() += count);
        refused.iter().for_each(|(key, count)| *self.refused.entry(*key).or_default() += count);
        self.late += late;
        self.committed += committed;
        self.compared += compared;
        self.left += left;
        self.mounted.add(mounted);
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
