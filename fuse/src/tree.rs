//! The directories of runs and what is in them, from the entries of the catalog. Pure: never reads a store, and never lets a name
//! of it be anything but a name in the directory where it belongs.

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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::names::read;
    use crate::node::Kind;

    fn id(number: u64) -> CheckpointId {
        CheckpointId::from_bytes(u128::from(number).to_be_bytes())
    }

    fn entry(number: u64, run: &str, step: Option<u64>, tags: &[&str]) -> Entry {
        Entry {
            id: id(number),
            run: run.to_owned(),
            step,
            time_ms: 1000 * number as i64,
            metrics: BTreeMap::new(),
            tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
            pinned: false,
            files: 1,
            logical_bytes: 1,
            added_bytes: 1,
            written_bytes: 1,
        }
    }

    fn tree(entries: &[Entry]) -> Tree {
        Tree::new(entries.to_vec(), |of_run| of_run.first().map(|entry| entry.id), 77, None)
    }

    /// What a path from the root leads to, links not followed.
    fn at(tree: &Tree, path: &str) -> Option<Item> {
        let (directory, name) = path.rsplit_once('/').unwrap_or(("", path));
        let node = if directory == BY_ID { Node::ById } else { Node::Runs(directory.into()) };
        tree.directory(&node)?.get(name.as_bytes()).cloned()
    }

    fn names(tree: &Tree, directory: &str) -> Vec<String> {
        let directory = tree.directory(&Node::Runs(directory.into())).expect("a directory");
        directory.items.iter().map(|item| item.name.to_string()).collect()
    }

    /// Where a link leads, from the root.
    fn target(tree: &Tree, path: &str) -> Option<String> {
        let Node::Link(link) = at(tree, path)?.node else { return None };
        let mut parts: Vec<&str> = link.directory.split('/').filter(|part| !part.is_empty()).collect();
        for part in link.target.split('/') {
            if part == ".." {
                parts.pop()?;
            } else {
                parts.push(part);
            }
        }
        Some(parts.join("/"))
    }

    #[test]
    fn runs_steps_and_links_are_where_the_docs_say() {
        let tree = tree(&[
            entry(1, "se-st/40k", Some(5), &["good", "step-9", "40k"]),
            entry(2, "se-st/40k", Some(10), &["sub"]),
            entry(3, "se-st/40k", None, &[]),
            entry(4, "se-st/40k/sub", Some(1), &[]),
            entry(5, "by-id", Some(1), &[]),
            entry(6, "x/step-7/latest/by-id/.hidden", Some(1), &[]),
        ]);
        assert_eq!(names(&tree, ""), ["by-id", "%62y-id", "se-st", "x"]);
        let three = id(3).to_string();
        assert_eq!(
            names(&tree, "se-st/40k"),
            ["sub", "step-5", "step-10", &three, "40k", "best", "good", "latest", "%73tep-9", "%73ub"]
        );
        assert_eq!(target(&tree, "se-st/40k/latest"), Some(format!("se-st/40k/{three}")));
        assert_eq!(target(&tree, "se-st/40k/best").as_deref(), Some("se-st/40k/step-5"));
        assert_eq!(target(&tree, "se-st/40k/%73ub").as_deref(), Some("se-st/40k/step-10"));
        assert_eq!(target(&tree, &format!("by-id/{}", id(4))).as_deref(), Some("se-st/40k/sub/step-1"));
        assert_eq!(names(&tree, "x/%73tep-7/%6Catest/by-id/%2Ehidden"), ["step-1", "best", "latest"]);
        assert_eq!(at(&tree, "se-st/40k").map(|item| item.attributes), Some(Attributes::directory(6, 4000)));
        assert_eq!(at(&tree, "se-st").map(|item| item.attributes), Some(Attributes::directory(3, 4000)));
        assert_eq!(tree.directory(&Node::ById).map(|by_id| by_id.items.len()), Some(6));
        assert_eq!(tree.checkpoint(id(4)).map(|(node, _)| node), Some(Node::Runs("se-st/40k/sub".into())));
    }

    #[test]
    fn an_empty_store_is_a_root_of_its_time() {
        let tree = tree(&[]);
        assert_eq!(names(&tree, ""), ["by-id"]);
        let root = tree.directory(&Node::root()).map(|root| root.attributes);
        assert_eq!(root, Some(Attributes::directory(3, 77)));
    }

    #[test]
    fn of_two_with_one_step_the_first_has_its_name() {
        let tree = tree(&[entry(1, "a", Some(5), &["t"]), entry(2, "a", Some(5), &["t"]), entry(1, "b", Some(5), &[])]);
        assert_eq!(names(&tree, "a"), ["step-5", &id(2).to_string(), "best", "latest", "t"]);
        assert_eq!(target(&tree, "a/t").as_deref(), Some("a/step-5"));
        assert_eq!((names(&tree, "").len(), tree.len()), (2, 2), "an id that is there twice is the first");
    }

    #[test]
    fn a_run_longer_than_a_name_is_one_directory() {
        let run = "a/".repeat(200_000);
        let tree = tree(&[entry(1, &run, Some(1), &[&run])]);
        let shown = names(&tree, "").pop().expect("a directory");
        assert!(shown.starts_with("a%2Fa%2F") && shown.contains("%~"), "{shown}");
        let directory = tree.directory(&Node::Runs(shown.as_str().into())).expect("it");
        assert_eq!(directory.whole_name.as_deref(), Some(&*run));
        assert_eq!(directory.items.len(), 4);
    }

    #[test]
    fn names_that_are_equal_all_the_same_are_numbered() {
        let mut directory = Directory::root(0);
        let shown = Shown { name: "é".repeat(127), cut: true };
        let mut add = || directory.add(shown.clone(), |_| (Node::ById, Attributes::checkpoint(0)));
        let names: Vec<Arc<str>> = (0..12).map(|_| add()).collect();
        assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), 12);
        assert!(names.iter().all(|name| name.len() <= NAME_BYTES_MAX), "{names:?}");
        assert!(names[11].ends_with("%+12"));
    }

    /// Parts of names that mean something, alone or with others.
    fn component() -> impl Strategy<Value = String> {
        let words = vec!["a", "b", "step-5", "step-", "step-05", "latest", "best", "by-id", ".", "..", ""];
        prop_oneof![
            proptest::sample::select(words).prop_map(str::to_owned),
            (0..4_u64).prop_map(|number| id(number).to_string()),
            (0..4_u64).prop_map(|number| id(number).to_string().to_uppercase()),
            "[.%a\\x00é~+]{0,3}",
            "[ab]{254,260}",
        ]
    }

    fn entries() -> impl Strategy<Value = Vec<Entry>> {
        let run = proptest::collection::vec(component(), 1..4).prop_map(|parts| parts.join("/"));
        let step = prop_oneof![Just(None), (0..7_u64).prop_map(Some), Just(Some(u64::MAX))];
        let one = (0..40_u64, run, step, proptest::collection::vec(component(), 0..3));
        let entry = one.prop_map(|(number, run, step, tags)| {
            entry(number, &run, step, &tags.iter().map(String::as_str).collect::<Vec<_>>())
        });
        proptest::collection::vec(entry, 0..14)
    }

    proptest! {
        #[test]
        fn every_checkpoint_has_one_place_and_every_link_leads_to_one(entries in entries()) {
            let tree = tree(&entries);
            let mut wanted = BTreeMap::new();
            entries.iter().rev().for_each(|entry| _ = wanted.insert(entry.id, entry));
            let mut seen = BTreeSet::new();
            let mut left = vec![Node::root(), Node::ById];
            while let Some(node) = left.pop() {
                let directory = tree.directory(&node).expect("a directory that was listed");
                let path = match &node {
                    Node::Runs(path) => path.to_string(),
                    _ => BY_ID.to_owned(),
                };
                let mut directories = 0;
                let mut names = BTreeSet::new();
                for item in &directory.items {
                    let name = &*item.name;
                    prop_assert!(!["", ".", ".."].contains(&name) && name.len() <= NAME_BYTES_MAX, "{name:?}");
                    prop_assert!(!name.contains(['/', '\0']) && !name.starts_with('.'), "{name:?}");
                    prop_assert!(names.insert(name), "{name:?} is there twice");
                    prop_assert_eq!(directory.get(name.as_bytes()), Some(item));
                    let here = if path.is_empty() { name.to_owned() } else { format!("{path}/{name}") };
                    directories += u32::from(item.attributes.kind == Kind::Directory);
                    match &item.node {
                        Node::Runs(path) => {
                            prop_assert_eq!(&**path, &here);
                            let inside = tree.directory(&item.node).expect("it");
                            prop_assert_eq!((&inside.parent, inside.attributes), (&node, item.attributes));
                            left.push(item.node.clone());
                        }
                        Node::ById => prop_assert_eq!(here, BY_ID),
                        Node::Checkpoint(id) => {
                            prop_assert!(seen.insert(*id), "{id} is there twice");
                            prop_assert_eq!(tree.checkpoint(*id).map(|(place, _)| place), Some(node.clone()));
                            let parts: Option<Vec<String>> = path.split('/').map(read).collect();
                            if let Some(parts) = parts {
                                let run = &wanted[id].run;
                                prop_assert!(parts.join("/") == **run, "{path:?} is not of {run:?}");
                            }
                        }
                        Node::Link(_) => {
                            let to = target(&tree, &here).expect("a target inside");
                            let to = at(&tree, &to).map(|item| item.node);
                            prop_assert!(matches!(to, Some(Node::Checkpoint(_))), "{here} leads to {to:?}");
                            if node == Node::ById {
                                prop_assert_eq!(to, Some(Node::Checkpoint(name.parse().expect("an id"))));
                            }
                        }
                        other => prop_assert!(false, "{other:?}"),
                    }
                }
                prop_assert_eq!(directory.attributes.links, directories + 2);
            }
            prop_assert_eq!(seen, wanted.keys().copied().collect::<BTreeSet<_>>());
            // What did not change is the same.
            let again = Tree::new(entries.clone(), |of_run| of_run.first().map(|entry| entry.id), 77, Some(&tree));
            for (path, directory) in &tree.directories {
                prop_assert!(Arc::ptr_eq(directory, &again.directories[path]));
            }
            prop_assert!(Arc::ptr_eq(&tree.by_id, &again.by_id));
        }
    }
}
