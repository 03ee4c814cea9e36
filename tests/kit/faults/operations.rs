//! What fails under the command, and how: a line for each operation and each way to fail.

use std::fs;

use ckpt_store::Store;

use crate::sample::{Node, Tree, noise, safetensors, torch_zip};
use crate::shim::{ALL, CHANGES, EIO, ENOSPC, Fault, Kind, NEED_ROOM};
use crate::world::{World, tensors};

/// One call of the command, and the store that it is tried on.
#[derive(Clone, Copy)]
pub struct Operation {
    /// What the report calls it.
    pub name: &'static str,
    /// What the store holds before.
    pub prepare: fn(&mut World, &Store),
    /// What a put stores, or what lies where an import looks.
    pub source: Option<fn() -> Tree>,
    /// What the new checkpoint is, if it isn't the source as it lies there.
    pub stores: Option<fn() -> Tree>,
    /// The call: `SOURCE` and `DEST` stand for paths.
    pub args: &'static [&'static str],
    /// A call whose answer belongs to what the operation changes, if the list of checkpoints doesn't show it.
    pub shows: &'static [&'static str],
    /// Whether it changes HEAD once at most, so that one that failed before has changed nothing.
    pub one_swap: bool,
}

/// A way to fail, and at which calls it is possible.
#[derive(Clone, Copy)]
pub struct Mode {
    /// What the report calls it.
    pub name: &'static str,
    /// Kinds of calls that can fail so.
    pub kinds: &'static [Kind],
    /// Only calls on paths with this in them.
    pub on: &'static str,
    /// What happens at the call.
    pub fault: fn(Fault) -> Fault,
    /// Exit codes with which the command may end; none when it is killed.
    pub codes: &'static [i32],
}

/// The ways to fail.
pub const MODES: &[Mode] = &[
    Mode { name: "EIO", kinds: ALL, on: "", fault: |fault| fault.errno(EIO), codes: &[0, 4, 6] },
    Mode { name: "ENOSPC once", kinds: NEED_ROOM, on: "", fault: |fault| fault.errno(ENOSPC), codes: &[0, 5] },
    Mode {
        name: "ENOSPC lasting",
        kinds: NEED_ROOM,
        on: "",
        fault: |fault| fault.errno(ENOSPC).lasting(),
        codes: &[0, 5],
    },
    Mode { name: "short write or read", kinds: &[Kind::Write, Kind::Read], on: "", fault: Fault::half, codes: &[0] },
    Mode {
        name: "half a write, then ENOSPC",
        kinds: &[Kind::Write],
        on: "",
        fault: |fault| fault.half_then(ENOSPC).lasting(),
        codes: &[0, 5],
    },
    Mode { name: "kill -9", kinds: CHANGES, on: "", fault: Fault::kill, codes: &[] },
    Mode { name: "kill -9 in a write", kinds: &[Kind::Write], on: "", fault: Fault::torn, codes: &[] },
];

/// What is tried. An operation that comes to the command is a line more here.
pub const OPERATIONS: &[Operation] = &[
    Operation {
        name: "put",
        prepare: three,
        source: Some(|| folder(10)),
        stores: None,
        args: &["put", "SOURCE", "--run", "b", "--step", "1"],
        shows: &[],
        one_swap: true,
    },
    Operation {
        name: "put --replace, chunks shared",
        prepare: three,
        source: Some(|| tensors(&[2, 30, 1])),
        stores: None,
        args: &["put", "SOURCE", "--run", "a", "--step", "2", "--replace", "--tag", "good"],
        shows: &[],
        one_swap: true,
    },
    Operation {
        name: "put without index",
        prepare: |world, store| {
            three(world, store);
            fs::remove_dir_all(store.root().join("index")).expect("the index can be removed");
        },
        source: Some(|| tensors(&[3, 20, 1])),
        stores: None,
        args: &["put", "SOURCE", "--run", "b", "--step", "1"],
        shows: &[],
        one_swap: true,
    },
    Operation {
        name: "put, catalog folded",
        prepare: |world, store| {
            three(world, store);
            (0..62).for_each(|nr| drop(store.tag("a@3", &format!("tag-{nr}")).expect("a tag can be set")));
        },
        source: Some(|| tensors(&[1, 40])),
        stores: None,
        args: &["put", "SOURCE", "--run", "b", "--step", "1", "--tag", "first"],
        shows: &[],
        one_swap: true,
    },
    Operation {
        name: "gc --keep-last 1",
        prepare: |world, store| {
            three(world, store);
            world.put_tree(store, "a", 4, &tensors(&[4, 5]));
            world.put_tree(store, "a", 5, &tensors(&[60]));
            world.put_tree(store, "b", 1, &tensors(&[50, 2]));
        },
        source: None,
        stores: None,
        args: &["gc", "--keep-last", "1"],
        shows: &[],
        one_swap: false,
    },
    Operation {
        name: "rm",
        prepare: three,
        source: None,
        stores: None,
        args: &["rm", "a@1", "a@3"],
        shows: &[],
        one_swap: true,
    },
    Operation {
        name: "tag",
        prepare: |world, store| {
            three(world, store);
            store.tag("a@1", "good").expect("a tag can be set");
        },
        source: None,
        stores: None,
        args: &["tag", "a@2", "good"],
        shows: &[],
        one_swap: true,
    },
    Operation {
        name: "import --delete-source",
        prepare: three,
        source: Some(|| Tree::directory().with("model_step_7.safetensors", Node::File(imported(), 0o644))),
        stores: Some(|| Tree::file(imported())),
        args: &["import", "SOURCE", "--run", "b", "--delete-source"],
        shows: &[],
        // What was stored is read back, and that may fail once it is done.
        one_swap: false,
    },
    Operation {
        name: "policy set",
        prepare: three,
        source: None,
        stores: None,
        args: &["policy", "set", "a", "--keep-last", "2"],
        shows: &["policy", "ls"],
        one_swap: true,
    },
    Operation {
        name: "repair without index",
        prepare: |world, store| {
            three(world, store);
            fs::remove_dir_all(store.root().join("index")).expect("the index can be removed");
        },
        source: None,
        stores: None,
        args: &["repair"],
        shows: &[],
        one_swap: true,
    },
    Operation {
        name: "gc that rewrites a pack",
        prepare: |world, store| {
            world.put_tree(store, "a", 1, &tensors(&[1, 2, 3, 4, 5]));
            world.put_tree(store, "a", 2, &tensors(&[1, 6]));
            store.remove(&["a@1".into()]).expect("a checkpoint can be dropped");
        },
        source: None,
        stores: None,
        args: &["gc"],
        shows: &[],
        one_swap: false,
    },
    Operation {
        name: "get",
        prepare: three,
        source: None,
        stores: None,
        args: &["get", "a@3", "DEST"],
        shows: &[],
        one_swap: true,
    },
    Operation {
        name: "get as safetensors",
        prepare: three,
        source: None,
        stores: None,
        args: &["get", "a@2", "DEST", "--as", "safetensors"],
        shows: &[],
        one_swap: true,
    },
    Operation {
        name: "diff",
        prepare: three,
        source: None,
        stores: None,
        args: &["diff", "a@1", "a@2", "--tensors"],
        shows: &[],
        one_swap: true,
    },
    Operation {
        name: "log",
        prepare: three,
        source: None,
        stores: None,
        args: &["log", "a", "--tensor", "layer.0.weight"],
        shows: &[],
        one_swap: true,
    },
    Operation {
        name: "verify",
        prepare: three,
        source: None,
        stores: None,
        args: &["verify"],
        shows: &[],
        one_swap: true,
    },
    Operation {
        name: "init of a store",
        prepare: three,
        source: None,
        stores: None,
        args: &["init"],
        shows: &[],
        one_swap: true,
    },
];

fn folder(seed: u64) -> Tree {
    Tree::directory()
        .with("model.pt", Node::File(torch_zip(&[(1, 9000), (seed, 9000)]), 0o640))
        .with("notes", Node::Directory(0o755))
        .with("notes/log.txt", Node::File(noise(seed, 30), 0o600))
        .with("optimizer.bin", Node::File(noise(seed + 1, 100_000), 0o644))
        .with("last", Node::Link("model.pt".into()))
}

fn imported() -> Vec<u8> {
    safetensors(&[("a", 1, 9000), ("b", 70, 9000)])
}

/// Three checkpoints of one run; the first two share a tensor.
fn three(world: &mut World, store: &Store) {
    world.put_tree(store, "a", 1, &tensors(&[1, 2]));
    world.put_tree(store, "a", 2, &tensors(&[1, 3]));
    world.put_tree(store, "a", 3, &folder(4));
}
