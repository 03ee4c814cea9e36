//! The tree against lists of checkpoints, given ones and any. Opens no store and mounts nothing.

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
