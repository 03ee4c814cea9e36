//! Finds the checkpoints in a directory and says what each is to be stored as. Never follows a link, never looks into a
//! checkpoint beyond Transformers' `trainer_state.json`, and never takes what is hidden or only being written.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use globset::{GlobBuilder, GlobMatcher};

use super::remove;
use crate::catalog::refs;
use crate::error::{Error, Result, Thing};
use crate::id::CheckpointId;
use crate::limits::{FILES_MAX, TRAINER_STATE_BYTES_MAX};
use crate::names::{self, Named};

/// The file that Transformers writes last into a checkpoint.
pub const TRAINER_STATE: &str = "trainer_state.json";

/// What lies beside the files of one saved model, which then are no checkpoints of their own.
const MODEL_FILES: [&str; 4] = [TRAINER_STATE, "config.json", "model.safetensors.index.json", "training_args.bin"];

/// A checkpoint in the directory.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// Its path in the directory.
    pub name: PathBuf,
    /// What it was when it was found.
    pub stamp: Stamp,
    /// The step that it says it has.
    pub claimed: Option<u64>,
    /// The step to store it under; none also when another one has a better claim.
    pub step: Option<u64>,
    /// Metrics from its name and its `trainer_state.json`.
    pub metrics: BTreeMap<String, f64>,
    /// Texts to remember.
    pub meta: BTreeMap<String, String>,
    /// A name for a checkpoint without step.
    pub tag: Option<String>,
    /// What a person should know.
    pub note: Option<String>,
}

/// Files by their paths in a candidate with size, time of the last change and inode: another stamp, another content.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stamp {
    files: BTreeMap<PathBuf, (u64, i64, i64, u64)>,
    /// Whether it is a directory.
    pub is_tree: bool,
}

/// A link in the directory to one of its entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its name.
    pub name: PathBuf,
    /// The entry that it leads to.
    pub target: PathBuf,
    /// The tag that it becomes.
    pub tag: String,
}

/// What is in the directory.
#[derive(Debug, Default)]
pub struct Found {
    /// In the order in which they are to be stored: those without step by time, then by step.
    pub candidates: Vec<Candidate>,
    /// Links that become tags.
    pub links: Vec<Link>,
    /// What an interrupted removal left, with the checkpoints that hold it.
    pub leftovers: Vec<(PathBuf, CheckpointId)>,
    /// What looks like a checkpoint and is passed over, and why.
    pub skipped: Vec<(PathBuf, String)>,
    /// What looks like a checkpoint and can't be looked at, and why.
    pub unreadable: Vec<(PathBuf, String)>,
}

/// Where to look, for what.
pub struct Search<'a> {
    dir: &'a Path,
    store: (u64, u64),
    pattern: Option<(GlobMatcher, usize)>,
}

impl Stamp {
    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.files.values().map(|file| file.0).sum()
    }

    /// The latest change of a file.
    pub fn newest(&self) -> (i64, i64) {
        self.files.values().map(|file| (file.1, file.2)).max().unwrap_or_default()
    }

    /// The files with their inodes; a single one has the empty path.
    pub fn files(&self) -> impl Iterator<Item = (&Path, u64)> {
        self.files.iter().map(|(path, file)| (&**path, file.3))
    }

    /// Looks at what is at `path`, without following links.
    pub fn of(path: &Path) -> io::Result<Self> {
        let mut stamp = Self { is_tree: fs::symlink_metadata(path)?.is_dir(), ..Self::default() };
        for entry in walkdir::WalkDir::new(path) {
            let entry = entry?;
            if entry.file_type().is_file() && stamp.files.len() < FILES_MAX {
                let now = entry.metadata()?;
                let relative = entry.path().strip_prefix(path).unwrap_or(entry.path()).to_owned();
                stamp.files.insert(relative, (now.size(), now.mtime(), now.mtime_nsec(), now.ino()));
            }
        }
        Ok(stamp)
    }
}

impl<'a> Search<'a> {
    /// A search in `dir` for what matches `pattern`, or for what looks like a checkpoint.
    ///
    /// # Errors
    /// When the directory is none, belongs to a store, or is a checkpoint itself.
    pub fn new(dir: &'a Path, pattern: Option<&str>, store: &Path) -> Result<Self> {
        let metadata = fs::metadata(dir).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => {
                Error::NotFound { thing: Thing::Source, name: dir.display().to_string(), near: Vec::new() }
            }
            _ => Error::io("read", dir, error),
        })?;
        if !metadata.is_dir() {
            return Err(Error::Invalid(format!("{} is no directory: `put` stores a single file", dir.display())));
        }
        let store = fs::metadata(store).map_err(|error| Error::io("read", store, error))?;
        let store = (store.dev(), store.ino());
        let inside = dir.canonicalize().map_err(|error| Error::io("read", dir, error))?;
        let is_store = |path: &Path| fs::metadata(path).is_ok_and(|it| (it.dev(), it.ino()) == store);
        if inside.ancestors().any(is_store) {
            return Err(Error::Invalid(format!("{} belongs to the store itself", dir.display())));
        }
        let pattern = match pattern {
            None => None,
            Some(pattern) => {
                let glob = GlobBuilder::new(pattern).literal_separator(true).build();
                let glob = glob.map_err(|error| Error::Invalid(format!("{pattern:?} is no glob: {}", error.kind())))?;
                let depth = if pattern.contains("**") { usize::MAX } else { 1 + pattern.matches('/').count() };
                Some((glob.compile_matcher(), depth))
            }
        };
        Ok(Self { dir, store, pattern })
    }

    /// Looks.
    pub fn find(&self) -> Result<Found> {
        let mut found = Found::default();
        let mut loose = Vec::new();
        match &self.pattern {
            None => self.find_by_kind(&mut found, &mut loose)?,
            Some((glob, depth)) => self.find_by_pattern(glob, *depth, &mut found)?,
        }
        if !loose.is_empty() {
            let own_name = self.dir.file_name().unwrap_or_default().to_string_lossy();
            let by_name = if names::is_checkpoint_folder(&own_name) { Some("name") } else { None };
            let beside = MODEL_FILES.into_iter().find(|name| self.dir.join(name).exists());
            if found.candidates.is_empty()
                && let Some(sign) = by_name.or(beside)
            {
                return Err(Error::Invalid(format!(
                    "{} is itself a checkpoint, by its {sign}: put it as it is, import the directory that it is in, or \
                     choose its files by a pattern",
                    self.dir.display()
                )));
            }
            if let Some(beside) = beside {
                let reason = format!("it belongs to the model beside {beside}");
                found.skipped.extend(loose.drain(..).map(|name| (name, reason.clone())));
            }
            loose.into_iter().for_each(|name| self.add(name, &mut found));
        }
        settle_steps(&mut found.candidates);
        self.settle_links(&mut found);
        Ok(found)
    }

    fn find_by_kind(&self, found: &mut Found, loose: &mut Vec<PathBuf>) -> Result<()> {
        for (name, kind) in self.entries(Path::new(""), found)? {
            let text = name.to_string_lossy();
            if kind.is_dir() {
                let path = self.dir.join(&name);
                let holds = |file: &str| path.join(file).is_file();
                let by_name = names::is_checkpoint_folder(&text) || names::has_checkpoint_ending(&text);
                if by_name || holds(TRAINER_STATE) || holds(".metadata") {
                    self.add(name, found);
                } else if text.contains('=') {
                    // Lightning's name of a metric with a slash: `epoch=3-val/acc=0.9.ckpt`.
                    for (file, kind) in self.entries(&name, found)? {
                        let text = file.to_string_lossy();
                        if kind.is_file() && names::has_checkpoint_ending(&text) && text.contains('=') {
                            self.add(file, found);
                        }
                    }
                }
            } else if kind.is_symlink() {
                self.add_link(name, found);
            } else if kind.is_file() && names::is_part(&text) && names::has_checkpoint_ending(&text) {
                found.skipped.push((name, "it is one part of a larger checkpoint".into()));
            } else if kind.is_file() && names::has_checkpoint_ending(&text) {
                if names::from_name(&text).step.is_some() { self.add(name, found) } else { loose.push(name) }
            }
        }
        Ok(())
    }

    fn find_by_pattern(&self, glob: &GlobMatcher, depth: usize, found: &mut Found) -> Result<()> {
        let mut todo = vec![(PathBuf::new(), 1)];
        while let Some((folder, level)) = todo.pop() {
            for (name, kind) in self.entries(&folder, found)? {
                let matches = glob.is_match(&name);
                if matches && kind.is_symlink() {
                    self.add_link(name, found);
                } else if matches && (kind.is_file() || kind.is_dir()) {
                    self.add(name, found);
                } else if kind.is_dir() && level < depth {
                    todo.push((name, level + 1));
                }
            }
        }
        Ok(())
    }

    /// What is in a folder, sorted, but for what is hidden, temporary, or the store. One that went away holds nothing.
    fn entries(&self, folder: &Path, found: &mut Found) -> Result<Vec<(PathBuf, fs::FileType)>> {
        let path = self.dir.join(folder);
        let mut all = Vec::new();
        let entries = match fs::read_dir(&path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound && folder != Path::new("") => return Ok(all),
            Err(error) => return Err(Error::io("list", &path, error)),
        };
        for entry in entries {
            let entry = entry.map_err(|error| Error::io("list", &path, error))?;
            let name: OsString = entry.file_name();
            if let Some(id) = remove::leftover(&name) {
                found.leftovers.push((folder.join(&name), id));
            }
            let Ok(kind) = entry.file_type() else { continue };
            let is_store = || entry.metadata().is_ok_and(|it| (it.dev(), it.ino()) == self.store);
            if names::is_temporary(&name.to_string_lossy()) || (kind.is_dir() && is_store()) {
                continue;
            }
            all.push((folder.join(name), kind));
        }
        all.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        Ok(all)
    }

    fn add(&self, name: PathBuf, found: &mut Found) {
        let path = self.dir.join(&name);
        match Stamp::of(&path) {
            Ok(stamp) => found.candidates.push(describe(&path, name, stamp)),
            // Gone before it was looked at: then there is nothing to take over.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => found.unreadable.push((name, format!("it can't be read: {error}"))),
        }
    }

    fn add_link(&self, name: PathBuf, found: &mut Found) {
        let is_checkpoint = |path: &Path| {
            let text = path.to_string_lossy();
            names::has_checkpoint_ending(&text) || names::is_checkpoint_folder(&text)
        };
        let Ok(target) = fs::read_link(self.dir.join(&name)) else { return };
        if self.pattern.is_none() && !is_checkpoint(&name) && !is_checkpoint(&target) {
            return;
        }
        // Absolute ones count by where they say they lead: nothing is followed.
        let inside = target.strip_prefix(self.dir).map(Path::to_owned).unwrap_or(target);
        let plain: PathBuf = inside.components().filter(|part| *part != Component::CurDir).collect();
        let stays = plain.components().all(|part| matches!(part, Component::Normal(_)));
        let tag = names::stem(&name.to_string_lossy()).to_owned();
        let skip = if !stays || plain.as_os_str().is_empty() {
            "it is a link that leads out of the directory"
        } else if refs::check_tag(&tag).is_err() {
            "it is a link, and its name can't be a tag"
        } else {
            found.links.push(Link { name, target: plain, tag });
            return;
        };
        found.skipped.push((name, skip.into()));
    }

    /// Keeps the links whose target may be in the store; the others are passed over with a word.
    fn settle_links(&self, found: &mut Found) {
        let taken: BTreeSet<&PathBuf> = found.candidates.iter().map(|candidate| &candidate.name).collect();
        let (keep, skip): (Vec<Link>, Vec<Link>) = std::mem::take(&mut found.links)
            .into_iter()
            .partition(|link| taken.contains(&link.target) || !self.dir.join(&link.target).exists());
        found.links = keep;
        found.skipped.extend(skip.into_iter().map(|link| (link.name, "it is a link to no checkpoint".into())));
    }
}

/// What a candidate is to be stored as, by its name and its `trainer_state.json`.
fn describe(path: &Path, name: PathBuf, stamp: Stamp) -> Candidate {
    let text = name.to_string_lossy().into_owned();
    let Named { step, metrics, doubt } = names::from_name(&text);
    let mut candidate =
        Candidate { name, claimed: step, step: None, metrics, meta: BTreeMap::new(), tag: None, note: doubt, stamp };
    if candidate.stamp.is_tree
        && let Some(json) = read_bounded(&path.join(TRAINER_STATE))
        && let Some(state) = names::trainer_state(&json)
    {
        candidate.metrics.extend(state.metrics);
        candidate.meta.extend(state.best_metric.map(|best| ("best_metric".to_owned(), best.to_string())));
        match (candidate.claimed, state.step) {
            (Some(a), Some(b)) if a != b => {
                candidate.claimed = None;
                candidate.note = Some(format!("its name says step {a} and its {TRAINER_STATE} {b}"));
            }
            (a, b) => candidate.claimed = a.or(b),
        }
    }
    let stem = names::stem(&text);
    // A tag keeps a checkpoint from every rule: right for `best` and `last`, not for a long series.
    if candidate.claimed.is_none() && !names::is_numbered(&text) {
        match refs::check_tag(stem) {
            Ok(()) => candidate.tag = Some(stem.to_owned()),
            Err(_) => candidate.note = candidate.note.or_else(|| Some(format!("{stem:?} can't be a tag"))),
        }
    }
    candidate
}

/// The bytes of a regular file, when it is not larger than is believable.
fn read_bounded(path: &Path) -> Option<Vec<u8>> {
    if !fs::symlink_metadata(path).ok()?.is_file() {
        return None;
    }
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(TRAINER_STATE_BYTES_MAX + 1).read_to_end(&mut bytes).ok()?;
    Some(bytes).filter(|bytes| bytes.len() as u64 <= TRAINER_STATE_BYTES_MAX)
}

/// Gives each step to the one that was written last, and puts all in order. The others of a step come before it, so that
/// after an interruption the same ones get the same.
fn settle_steps(candidates: &mut [Candidate]) {
    let time = |candidate: &Candidate| (candidate.stamp.newest(), candidate.name.clone());
    candidates.sort_by_cached_key(|candidate| (candidate.claimed, time(candidate)));
    let mut owners: HashMap<u64, PathBuf> = HashMap::new();
    for candidate in candidates.iter_mut().rev() {
        let Some(step) = candidate.claimed else { continue };
        match owners.get(&step) {
            None => {
                candidate.step = Some(step);
                owners.insert(step, candidate.name.clone());
            }
            Some(owner) => {
                candidate.note = Some(format!("{} has step {step} as well and is newer", owner.display()));
            }
        }
    }
}
