//! The directories of runs and what is in them, from the entries of the catalog. Pure: never reads a store, and never lets a name
//! of it be anything but a name in the directory where it belongs.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use ckpt_store::{CheckpointId, Entry};

use crate::names::{NAME_BYTES_MAX, Shown, show, show_apart, unique};
use crate::node::{Attributes, Link, Node};

/// The directory of checkpoints by their ids, in the root.
const BY_ID: &str = "by-id";

/// The last version of a directory before the first one comes again.
const VERSION_MAX: u32 = i32::MAX as u32;

/// All directories above those of checkpoints, at one moment.
pub struct Tree {
    directories: HashMap<Arc<str>, Arc<Directory>>,
    by_id: Arc<Directory>,
    places: HashMap<CheckpointId, Place>,
    entries: Vec<Entry>,
    /// Of the directories that are new in it.
    version: u32,
}

/// A directory of the tree.
#[derive(Debug)]
pub struct Directory {
    /// Another number for each that it was lately, none of them 0, below 2^31.
    pub version: u32,
    /// What it is.
    pub node: Node,
    /// What it is in.
    pub parent: Node,
    /// Its own.
    pub attributes: Attributes,
    /// Its name when that is not shown whole.
    pub whole_name: Option<Arc<str>>,
    /// What is in it.
    pub items: Vec<Item>,
    names: HashMap<Arc<str>, usize>,
}

/// One name in a directory.
#[derive(Debug, Clone, PartialEq)]
pub struct Item {
    /// As it is shown.
    pub name: Arc<str>,
    /// What it is.
    pub node: Node,
    /// As they are now.
    pub attributes: Attributes,
}

/// Where a checkpoint is.
struct Place {
    directory: Arc<str>,
    entry: usize,
}

impl Tree {
    /// The tree of these checkpoints, which are in the order in which they were stored. `best` chooses of those of one run;
    /// `made_ms` is the time of a root in which nothing is. Directories that are as they were in the tree `before` are the same.
    pub fn new(
        entries: Vec<Entry>,
        best: impl Fn(&[&Entry]) -> Option<CheckpointId>,
        made_ms: i64,
        before: Option<&Self>,
    ) -> Self {
        let mut drafts = drafts(&entries, made_ms);
        let version = before.map_or(0, |before| before.version) % VERSION_MAX + 1;
        let by_id = Arc::new(Directory::root(made_ms));
        let mut tree = Self { directories: HashMap::new(), by_id, places: HashMap::new(), entries, version };
        let mut ids = Directory { version, node: Node::ById, ..Directory::root(drafts[0].mtime_ms) };
        for at in 0..drafts.len() {
            let directory = tree.fill(&mut drafts, at, &best, &mut ids);
            let kept = before.and_then(|before| before.directories.get(&drafts[at].path));
            let kept = kept.filter(|kept| kept.is_as(&directory)).cloned();
            tree.directories.insert(Arc::clone(&drafts[at].path), kept.unwrap_or_else(|| Arc::new(directory)));
        }
        let kept = before.map(|before| &before.by_id).filter(|before| before.is_as(&ids));
        tree.by_id = kept.cloned().unwrap_or_else(|| Arc::new(ids));
        tree
    }

    /// The directory that a node is, if it is one of the tree and still there.
    pub fn directory(&self, node: &Node) -> Option<&Arc<Directory>> {
        match node {
            Node::Runs(path) => self.directories.get(path),
            Node::ById => Some(&self.by_id),
            _ => None,
        }
    }

    /// The directories that are not as they were in the tree `before`: how they were, and how they are now. One is missing where
    /// it was not there.
    pub fn changed_since<'a>(
        &'a self,
        before: &'a Self,
    ) -> impl Iterator<Item = (Option<&'a Arc<Directory>>, Option<&'a Arc<Directory>>)> {
        let both = |tree: &'a Self| tree.directories.values().chain([&tree.by_id]);
        let of = |tree: &'a Self, directory: &Directory| tree.directory(&directory.node);
        let now = both(self).map(move |now| (of(before, now), Some(now)));
        let gone = both(before).filter(move |then| of(self, then).is_none()).map(|then| (Some(then), None));
        now.chain(gone).filter(|(then, now)| match (then, now) {
            (Some(then), Some(now)) => !Arc::ptr_eq(then, now),
            _ => true,
        })
    }

    /// The directory of runs that a checkpoint is in, and what the catalog says of it.
    pub fn checkpoint(&self, id: CheckpointId) -> Option<(Node, &Entry)> {
        let place = self.places.get(&id)?;
        Some((Node::Runs(Arc::clone(&place.directory)), &self.entries[place.entry]))
    }

    /// How many checkpoints there are.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Fills a directory: first the directories of runs, then the checkpoints, then links; who comes later gives way.
    fn fill(
        &mut self,
        drafts: &mut [Draft],
        at: usize,
        best: impl Fn(&[&Entry]) -> Option<CheckpointId>,
        ids: &mut Directory,
    ) -> Directory {
        let path = Arc::clone(&drafts[at].path);
        let mut directory = Directory {
            version: self.version,
            node: Node::Runs(Arc::clone(&path)),
            parent: Node::Runs(Arc::clone(&drafts[drafts[at].parent].path)),
            attributes: drafts[at].attributes(at),
            whole_name: drafts[at].whole_name.clone(),
            items: Vec::new(),
            names: HashMap::new(),
        };
        let is_root = at == 0;
        if is_root {
            directory.add(show(BY_ID, ""), |_| (Node::ById, Attributes::directory(2, drafts[0].mtime_ms)));
        }
        for (component, child) in std::mem::take(&mut drafts[at].children) {
            let shown = if is_taken(&component, is_root) { show_apart(&component, "") } else { show(&component, "") };
            let cut = shown.cut;
            directory.add(shown, |name| {
                let child = &mut drafts[child];
                child.path = if is_root { Arc::clone(name) } else { format!("{path}/{name}").into() };
                child.whole_name = cut.then(|| component.into());
                // Only the root is at 0.
                (Node::Runs(Arc::clone(&child.path)), child.attributes(1))
            });
        }
        let mut links: BTreeMap<&str, usize> = BTreeMap::new();
        let mut names: HashMap<usize, Arc<str>> = HashMap::new();
        let mut of_run: Vec<usize> = Vec::new();
        let mut steps: BTreeSet<u64> = BTreeSet::new();
        for nr in std::mem::take(&mut drafts[at].entries) {
            let entry = &self.entries[nr];
            if self.places.contains_key(&entry.id) {
                continue;
            }
            // A ref means the first of two that have one step.
            let name = match entry.step {
                Some(step) if steps.insert(step) => format!("step-{step}"),
                _ => entry.id.to_string(),
            };
            let name =
                directory.add(show(&name, ""), |_| (Node::Checkpoint(entry.id), Attributes::checkpoint(entry.time_ms)));
            let target = format!("../{path}/{name}");
            ids.add_link(show(&entry.id.to_string(), ""), BY_ID.into(), target.into(), entry.time_ms);
            self.places.insert(entry.id, Place { directory: Arc::clone(&path), entry: nr });
            names.insert(nr, name);
            of_run.push(nr);
            entry.tags.iter().for_each(|tag| _ = links.entry(tag).or_insert(nr));
            links.insert("latest", nr);
        }
        let of_run: Vec<&Entry> = of_run.into_iter().map(|nr| &self.entries[nr]).collect();
        if let Some(best) = best(&of_run).and_then(|id| self.places.get(&id)) {
            links.insert("best", best.entry);
        }
        for (name, nr) in links {
            let is_ours = ["latest", "best"].contains(&name);
            let plain = show(name, "");
            let apart = !is_ours && (is_taken(name, is_root) || directory.names.contains_key(&*plain.name));
            let shown = if apart { show_apart(name, "") } else { plain };
            if let Some(target) = names.get(&nr) {
                directory.add_link(shown, Arc::clone(&path), Arc::clone(target), self.entries[nr].time_ms);
            }
        }
        directory
    }
}

impl Directory {
    /// What is of this name in it.
    pub fn get(&self, name: &[u8]) -> Option<&Item> {
        // No name of a tree is other than UTF-8.
        self.names.get(std::str::from_utf8(name).ok()?).and_then(|at| self.items.get(*at))
    }

    /// The names that mean something else in `other`, or are in one of them only.
    pub fn changed_names<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = &'a str> {
        let is_other = |name: &str| {
            other
                .get(name.as_bytes())
                .is_none_or(|there| self.get(name.as_bytes()).is_none_or(|here| here.node != there.node))
        };
        let mine = self.items.iter().map(|item| &*item.name).filter(move |name| is_other(name));
        let theirs = other.items.iter().map(|item| &*item.name);
        mine.chain(theirs.filter(|name| !self.names.contains_key(*name)))
    }

    /// Whether it is as `other` is.
    fn is_as(&self, other: &Self) -> bool {
        (&self.parent, self.attributes, &self.whole_name, &self.items)
            == (&other.parent, other.attributes, &other.whole_name, &other.items)
    }

    /// One that is no longer in the tree: nothing is in it.
    pub fn gone(node: Node) -> Self {
        Self { node, ..Self::root(0) }
    }

    fn root(mtime_ms: i64) -> Self {
        let attributes = Attributes::directory(2, mtime_ms);
        let (node, parent) = (Node::root(), Node::root());
        Self { version: 0, node, parent, attributes, whole_name: None, items: Vec::new(), names: HashMap::new() }
    }

    /// Adds what `make` makes of the name that is given: that which is shown, or when it is there already one that is not.
    fn add(&mut self, shown: Shown, make: impl FnOnce(&Arc<str>) -> (Node, Attributes)) -> Arc<str> {
        let name: Arc<str> = unique(&shown, "", |name| self.names.contains_key(name)).into();
        let (node, attributes) = make(&name);
        self.names.insert(Arc::clone(&name), self.items.len());
        self.items.push(Item { name: Arc::clone(&name), node, attributes });
        name
    }

    fn add_link(&mut self, shown: Shown, directory: Arc<str>, target: Arc<str>, mtime_ms: i64) {
        self.add(shown, |name| {
            let attributes = Attributes::link(target.as_bytes(), mtime_ms);
            (Node::Link(Arc::new(Link { directory, name: Arc::clone(name), target })), attributes)
        });
    }
}

/// A directory of runs before its names are given.
struct Draft {
    parent: usize,
    /// Known when its parent was filled.
    path: Arc<str>,
    whole_name: Option<Arc<str>>,
    children: BTreeMap<String, usize>,
    entries: Vec<usize>,
    mtime_ms: i64,
}

impl Draft {
    fn new(parent: usize) -> Self {
        let (path, mtime_ms) = ("".into(), i64::MIN);
        Self { parent, path, whole_name: None, children: BTreeMap::new(), entries: Vec::new(), mtime_ms }
    }

    fn attributes(&self, at: usize) -> Attributes {
        let by_id = usize::from(at == 0);
        let links = u32::try_from(2 + by_id + self.children.len() + self.entries.len()).unwrap_or(u32::MAX);
        Attributes::directory(links, self.mtime_ms)
    }
}

/// The directories of runs, each after the one that it is in.
fn drafts(entries: &[Entry], made_ms: i64) -> Vec<Draft> {
    let mut drafts = vec![Draft::new(0)];
    let mut known: HashMap<&str, usize> = HashMap::new();
    let mut seen = BTreeSet::new();
    for (nr, entry) in entries.iter().enumerate() {
        if !seen.insert(entry.id) {
            continue;
        }
        let at = *known.entry(&entry.run).or_insert_with(|| {
            // No store takes a longer one; cut at each `/` it could be deeper than any path.
            let whole = entry.run.len() > NAME_BYTES_MAX;
            let components = entry.run.split(|c| c == '/' && !whole);
            components.fold(0, |at, component| {
                if let Some(child) = drafts[at].children.get(component) {
                    return *child;
                }
                let child = drafts.len();
                drafts.push(Draft::new(at));
                drafts[at].children.insert(component.to_owned(), child);
                child
            })
        });
        drafts[at].entries.push(nr);
        drafts[at].mtime_ms = drafts[at].mtime_ms.max(entry.time_ms);
    }
    for at in (1..drafts.len()).rev() {
        let parent = drafts[at].parent;
        drafts[parent].mtime_ms = drafts[parent].mtime_ms.max(drafts[at].mtime_ms);
    }
    if entries.is_empty() {
        drafts[0].mtime_ms = made_ms;
    }
    drafts
}

/// Whether a name means something in a directory of runs, or is hidden there.
fn is_taken(name: &str, in_root: bool) -> bool {
    let is_step = |digits: &str| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    name.starts_with('.')
        || name == "latest"
        || name == "best"
        || (in_root && name == BY_ID)
        || name.strip_prefix("step-").is_some_and(is_step)
        || name.parse::<CheckpointId>().is_ok()
}
