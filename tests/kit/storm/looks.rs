//! One look at a mount after the other: files that are open, in all ways, and names. Keeps files open over everything
//! that happens to what they are of.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rand::RngExt;
use rand::rngs::SmallRng;

use super::WRITERS;
use super::checks::{Bad, KINDS, Kind, Looked, at, same};
use super::reader::Place;
use super::runs::Size;
use super::truth::{Line, Told};
use crate::calls::{Reading, WAYS, forget};
use crate::map::Map;

/// Files that one thread has open at a time.
const OPEN_MAX: usize = 6;

/// What one thread has open, and what it did.
pub struct Looks<'a> {
    place: &'a Place,
    size: Size,
    rng: SmallRng,
    open: Vec<Open>,
    /// How often what was done.
    pub counts: BTreeMap<&'static str, u64>,
}

/// A file that is open, or mapped, or both.
struct Open {
    what: String,
    run: usize,
    step: u64,
    content: Option<u64>,
    id: Vec<u8>,
    file: Option<File>,
    map: Option<Map>,
    expected: Vec<u8>,
}

type Look<'a> = fn(&mut Looks<'a>) -> Looked;

/// Whether a name was not there, or what it stood for not any more.
fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESTALE))
}

/// Insists on what a name may stand for at most and at least.
fn judge(told: [&Told; 2], step: u64, is_there: bool, what: impl FnOnce() -> String) -> Looked {
    let Some(allowed) = told[0].allowed(told[1], step) else { return Ok(()) };
    if allowed.iter().any(|allowed| allowed.is_some() == is_there) {
        return Ok(());
    }
    let (what, line) = (what(), told[1].lines.get(&step));
    Err(Bad::Other(format!("{what}: {}: {line:?}", if is_there { "is still there" } else { "is not there" })))
}

impl<'a> Looks<'a> {
    /// Nothing is open.
    pub fn new(place: &'a Place, size: Size, rng: SmallRng) -> Self {
        Self { place, size, rng, open: Vec::new(), counts: BTreeMap::new() }
    }

    /// Chooses what to look at.
    pub fn any(&mut self) -> (&'static str, Look<'a>) {
        let looks: [(u32, &'static str, Look<'a>); 8] = [
            (30, "opening", Self::open),
            (35, "a read", Self::read),
            (10, "reading from front to back", Self::through),
            (10, "a mapping", Self::mapped),
            (7, "closing", Self::close),
            (7, "a run", Self::walk),
            (4, "links", Self::links),
            (5, "attributes", Self::attributes),
        ];
        let mut at = self.rng.random_range(0..looks.iter().map(|(weight, ..)| weight).sum());
        for (weight, name, look) in looks {
            if at < weight {
                return (name, look);
            }
            at -= weight;
        }
        ("nothing", |_| Ok(()))
    }

    fn count(&mut self, name: &'static str, count: u64) {
        *self.counts.entry(name).or_default() += count;
    }

    fn told(&self, run: usize) -> Told {
        Told::read(&self.place.truth, run)
    }

    fn run_path(&self, run: usize) -> PathBuf {
        self.place.at.join(format!("w{run}"))
    }

    /// Opens something that is there, and now and then something that was dropped.
    fn open(&mut self) -> Looked {
        let run = self.rng.random_range(0..WRITERS);
        let told = self.told(run);
        let there = told.there();
        let all: Vec<u64> = told.lines.keys().copied().collect();
        let steps = if self.rng.random_bool(0.9) { &there } else { &all };
        if steps.is_empty() {
            return Ok(());
        }
        let step = steps[self.rng.random_range(0..steps.len())];
        let kind = KINDS[self.rng.random_range(0..KINDS.len())];
        let Some(mut opened) = self.opened(run, step, kind)? else { return Ok(()) };
        if self.rng.random_bool(0.4) {
            let file = opened.file.as_ref().expect("it is open");
            opened.map =
                Some(at(|| format!("{}: mmap", opened.what), Map::new(file, 0, usize::MAX, libc::MAP_SHARED))?);
            if self.rng.random_bool(0.5) {
                opened.file = None;
            }
        }
        if self.open.len() == OPEN_MAX {
            self.close()?;
        }
        self.open.push(opened);
        Ok(())
    }

    /// Opens a file, which must be right or rightly gone.
    fn opened(&mut self, run: usize, step: u64, kind: Kind) -> Looked<Option<Open>> {
        let path = self.run_path(run).join(kind.path(run, step));
        let what = path.display().to_string();
        let before = self.told(run);
        let opened = File::open(&path);
        let after = self.told(run);
        let file = match opened {
            Err(error) if is_gone(&error) => {
                self.count("gone when opened", 1);
                return judge([&before, &after], step, false, || what).map(|()| None);
            }
            opened => at(|| format!("{what}: open"), opened)?,
        };
        judge([&before, &after], step, true, || what.clone())?;
        let (expected, content) = kind.expected(run, self.size, &file, &what)?;
        if let Some(allowed) = before.allowed(&after, step)
            && content.is_some()
            && !allowed.contains(&content)
        {
            return Err(Bad::Other(format!("{what}: shows content {content:?} and not one of {allowed:?}")));
        }
        let id = self.attribute(&what, &file, "user.ckpt.id")?;
        self.count("opened", 1);
        Ok(Some(Open { what, run, step, content, id, file: Some(file), map: None, expected }))
    }

    fn attribute(&self, what: &str, file: &File, name: &str) -> Looked<Vec<u8>> {
        let mut value = vec![0; 200];
        let got = rustix::fs::fgetxattr(file, name, &mut value[..]).map_err(io::Error::from);
        value.truncate(at(|| format!("{what}: {name}"), got)?);
        Ok(value)
    }

    /// One that is open as a descriptor or as a mapping.
    fn choose(&mut self, has: fn(&Open) -> bool) -> Option<usize> {
        let suited: Vec<usize> = (0..self.open.len()).filter(|nr| has(&self.open[*nr])).collect();
        if suited.is_empty() { None } else { Some(suited[self.rng.random_range(0..suited.len())]) }
    }

    /// Counts bytes that were compared, and those of what is dropped as well.
    fn compared(&mut self, nr: usize, bytes: usize) {
        let Open { run, step, content, .. } = self.open[nr];
        let is = self.told(run).lines.get(&step).and_then(Line::is);
        let is_dropped = is.is_some_and(|is| is.is_none() || (content.is_some() && is != content));
        self.count("reads", 1);
        self.count("bytes", bytes as u64);
        if is_dropped {
            self.count("reads of what was dropped", 1);
        }
    }

    /// Reads a range in any way.
    fn read(&mut self) -> Looked {
        let Some(nr) = self.choose(|open| open.file.is_some()) else { return Ok(()) };
        let Open { what, file, expected, .. } = &self.open[nr];
        let file = file.as_ref().expect("it was chosen for that");
        if self.rng.random_range(0..4) == 0 {
            forget(file);
        }
        let (name, _, read) = WAYS[self.rng.random_range(0..WAYS.len())];
        let size = expected.len() as u64;
        let step = [1, 1, 512, 4096][self.rng.random_range(0..4)];
        let offset = self.rng.random_range(0..size + 100) / step * step;
        let longest = [100, 10_000, 300_000, 3_000_000][self.rng.random_range(0..4)];
        let len = self.rng.random_range(0..longest);
        // Not by its name, which may be another's by now.
        let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
        let what = || format!("{what}: {len} bytes from {offset} by {name}");
        let got = at(what, read(&Reading { path: &path, file }, offset, len))?;
        same(&got, expected, offset, len, what)?;
        self.compared(nr, got.len());
        Ok(())
    }

    /// Reads all of a file as a loader does that has no mappings.
    fn through(&mut self) -> Looked {
        let Some(nr) = self.choose(|open| open.file.is_some()) else { return Ok(()) };
        let Open { what, file, expected, .. } = &self.open[nr];
        let file = file.as_ref().expect("it was chosen for that");
        if self.rng.random_bool(0.5) {
            forget(file);
        }
        let piece = [65_536, 262_144, 1 << 20][self.rng.random_range(0..3)];
        let mut buffer = vec![0; piece];
        let mut offset = 0;
        while offset < expected.len() {
            let got = at(|| format!("{what}: from {offset}"), file.read_at(&mut buffer, offset as u64))?;
            let wanted = got.max(usize::from(offset < expected.len()));
            same(&buffer[..got], expected, offset as u64, wanted, || format!("{what}: on from {offset}"))?;
            offset += got;
        }
        let bytes = expected.len();
        self.compared(nr, bytes);
        Ok(())
    }

    /// Touches a mapping here and there, or all of it, after its pages went.
    fn mapped(&mut self) -> Looked {
        let Some(nr) = self.choose(|open| open.map.is_some()) else { return Ok(()) };
        let Open { what, file, map, expected, .. } = &self.open[nr];
        let map = map.as_ref().expect("it was chosen for that");
        at(|| format!("{what}: madvise"), map.advise(libc::MADV_DONTNEED))?;
        if self.rng.random_bool(0.7) {
            file.iter().for_each(forget);
        }
        let bytes = if self.rng.random_bool(0.3) {
            same(map.bytes(), expected, 0, usize::MAX, || format!("{what}: mapped"))?;
            expected.len()
        } else {
            for _ in 0..8 {
                let from = self.rng.random_range(0..expected.len());
                let to = (from + 5000).min(expected.len());
                let got = &map.bytes()[from..to];
                same(got, expected, from as u64, to - from, || format!("{what}: mapped, from {from}"))?;
            }
            8 * 5000
        };
        self.compared(nr, bytes);
        Ok(())
    }

    fn close(&mut self) -> Looked {
        if let Some(nr) = self.choose(|_| true) {
            drop(self.open.swap_remove(nr));
        }
        Ok(())
    }

    /// Lists a run, and looks at each name.
    fn walk(&mut self) -> Looked {
        let run = self.rng.random_range(0..WRITERS);
        self.walk_run(run)
    }

    fn walk_run(&mut self, run: usize) -> Looked {
        let path = self.run_path(run);
        let what = || path.display().to_string();
        let before = self.told(run);
        let listed: io::Result<BTreeSet<String>> = fs::read_dir(&path).and_then(|entries| {
            entries.map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into_owned())).collect()
        });
        let after = self.told(run);
        let names = match listed {
            Err(error) if is_gone(&error) => BTreeSet::new(),
            listed => at(what, listed)?,
        };
        let (mut steps, mut links) = (BTreeSet::new(), 0);
        for name in &names {
            match name.strip_prefix("step-").and_then(|step| step.parse::<u64>().ok()) {
                Some(step) => _ = steps.insert(step),
                None if ["latest", "best", "kept"].contains(&name.as_str()) => links += 1,
                None => return Err(Bad::Other(format!("{}: holds {name}", what()))),
            }
            match fs::symlink_metadata(path.join(name)) {
                Err(error) if is_gone(&error) => {}
                about => at(|| format!("{}: stat {name}", what()), about).map(drop)?,
            }
        }
        if links > 0 && steps.is_empty() {
            return Err(Bad::Other(format!("{}: has links and no checkpoint: {names:?}", what())));
        }
        let all: BTreeSet<u64> = before.lines.keys().chain(after.lines.keys()).copied().chain(steps.clone()).collect();
        for step in all {
            judge([&before, &after], step, steps.contains(&step), || format!("{}: step {step} in the list", what()))?;
        }
        self.count("directories listed", 1);
        Ok(())
    }

    /// Follows the links of a run, and one by an id.
    fn links(&mut self) -> Looked {
        let run = self.rng.random_range(0..WRITERS);
        for name in ["latest", "best", "kept"] {
            let path = self.run_path(run).join(name);
            self.link(run, &path, "")?;
        }
        let by_id = self.place.at.join("by-id");
        let listed = at(|| "by-id".into(), fs::read_dir(&by_id).and_then(Iterator::collect::<io::Result<Vec<_>>>))?;
        if listed.is_empty() {
            return Ok(());
        }
        let path = listed[self.rng.random_range(0..listed.len())].path();
        match fs::read_link(&path) {
            Err(error) if is_gone(&error) => Ok(()),
            target => {
                let target = at(|| path.display().to_string(), target)?.to_string_lossy().into_owned();
                let run = target.strip_prefix("../w").and_then(|rest| rest.split_once('/')?.0.parse().ok());
                let run: usize = run.ok_or_else(|| Bad::Other(format!("{}: points to {target}", path.display())))?;
                self.link(run, &path, &format!("../w{run}/"))
            }
        }
    }

    fn link(&mut self, run: usize, path: &Path, prefix: &str) -> Looked {
        let before = self.told(run);
        let target = match fs::read_link(path) {
            Err(error) if is_gone(&error) => return Ok(()),
            target => at(|| path.display().to_string(), target)?,
        };
        let after = self.told(run);
        let text = target.to_string_lossy();
        let step = text.strip_prefix(prefix).and_then(|rest| rest.strip_prefix("step-")?.parse::<u64>().ok());
        let what = || format!("{}, which points to {text}", path.display());
        let step = step.ok_or_else(|| Bad::Other(what()))?;
        self.counts.entry("links read").and_modify(|count| *count += 1).or_insert(1);
        judge([&before, &after], step, true, what)
    }

    /// Asks what an open file belongs to, also when that was dropped.
    fn attributes(&mut self) -> Looked {
        let Some(nr) = self.choose(|open| open.file.is_some()) else { return Ok(()) };
        let Open { what, run, step, id, file, expected, .. } = &self.open[nr];
        let file = file.as_ref().expect("it was chosen for that");
        let run = format!("w{run}");
        for (name, wanted) in [("id", &id[..]), ("run", run.as_bytes()), ("step", step.to_string().as_bytes())] {
            let got = self.attribute(what, file, &format!("user.ckpt.{name}"))?;
            if got != wanted {
                return Err(Bad::Other(format!("{what}: {name} is {}", String::from_utf8_lossy(&got))));
            }
        }
        let size = at(|| format!("{what}: stat"), file.metadata())?.len();
        if size != expected.len() as u64 {
            return Err(Bad::Other(format!("{what}: has {size} bytes now")));
        }
        self.count("attributes asked for", 1);
        Ok(())
    }

    /// Closes what a server was killed under: it gives right bytes out of the page cache, or fails, and never hangs.
    pub fn bury(&mut self) -> Looked {
        for Open { what, file, expected, .. } in std::mem::take(&mut self.open) {
            let mut page = [0; 4096];
            if let Some(Ok(got)) = file.map(|file| file.read_at(&mut page, 0)) {
                same(&page[..got], &expected, 0, got, || format!("{what}: when its server was killed"))?;
            }
        }
        Ok(())
    }

    /// Looks at everything, when nothing changes any more: each checkpoint in every way, whole.
    pub fn all(&mut self) -> Looked {
        self.open.clear();
        for run in 0..WRITERS {
            self.walk_run(run)?;
            for step in self.told(run).there() {
                for kind in KINDS {
                    let opened = self.opened(run, step, kind)?;
                    let gone = || Bad::Other(format!("w{run}@{step} is not there"));
                    self.open.push(opened.ok_or_else(gone)?);
                    self.through()?;
                    self.attributes()?;
                    self.open.clear();
                }
            }
        }
        Ok(())
    }
}
