//! Which inode is which node, as long as the kernel knows of it. Numbers are the same after every mount: they are hashes of the
//! nodes. Pure: never asks what a node is.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use ckpt_store::ChunkId;

use crate::node::{Attributes, Node};

/// The inode of the root.
pub const ROOT: u64 = 1;
/// The first number that a node can have: 0 is none.
const FIRST: u64 = 2;

/// The inodes that the kernel knows.
pub struct Inodes {
    hash: fn(&Node) -> u64,
    inside: Mutex<Inside>,
}

#[derive(Default)]
struct Inside {
    known: HashMap<u64, Known>,
    /// Those that are not where their hash says, because another one was there.
    displaced: HashMap<Node, u64>,
}

struct Known {
    node: Node,
    attributes: Attributes,
    lookups: u64,
}

impl Inodes {
    /// Knows nothing but the root.
    pub fn new() -> Self {
        Self::with(|node| {
            let hash = ChunkId::of(&node.to_bytes()).0;
            hash.iter().take(8).rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
        })
    }

    fn with(hash: fn(&Node) -> u64) -> Self {
        Self { hash, inside: Mutex::default() }
    }

    /// The node of an inode that the kernel knows, and its attributes when it was looked up last; those of the root are with
    /// whoever asks.
    pub fn get(&self, inode: u64) -> Option<(Node, Option<Attributes>)> {
        if inode == ROOT {
            return Some((Node::root(), None));
        }
        let inside = self.lock();
        let known = inside.known.get(&inode)?;
        Some((known.node.clone(), Some(known.attributes)))
    }

    /// The number of a node, if the kernel knows it.
    pub fn known(&self, node: &Node) -> Option<u64> {
        let number = self.number(node);
        (number == ROOT || self.lock().known.contains_key(&number)).then_some(number)
    }

    /// The number that a node has, or would have if somebody looked it up now.
    pub fn number(&self, node: &Node) -> u64 {
        if *node == Node::root() { ROOT } else { self.lock().number(self.first(node), node) }
    }

    /// Counts a lookup of a node; its number.
    pub fn look_up(&self, node: &Node, attributes: Attributes) -> u64 {
        if *node == Node::root() {
            return ROOT;
        }
        let first = self.first(node);
        let mut inside = self.lock();
        let number = inside.number(first, node);
        let known = inside.known.entry(number).or_insert_with(|| Known { node: node.clone(), attributes, lookups: 0 });
        known.attributes = attributes;
        known.lookups = known.lookups.saturating_add(1);
        if number != first {
            inside.displaced.insert(node.clone(), number);
        }
        number
    }

    /// Takes lookups back; after the last one nothing is known of the inode, which it answers.
    pub fn forget(&self, inode: u64, lookups: u64) -> bool {
        let mut inside = self.lock();
        let Some(known) = inside.known.get_mut(&inode) else { return false };
        known.lookups = known.lookups.saturating_sub(lookups);
        if known.lookups > 0 {
            return false;
        }
        if let Some(known) = inside.known.remove(&inode) {
            inside.displaced.remove(&known.node);
        }
        true
    }

    /// How many the kernel knows, the root not counted.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.lock().known.len()
    }

    fn first(&self, node: &Node) -> u64 {
        (self.hash)(node).max(FIRST)
    }

    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inside {
    fn number(&self, first: u64, node: &Node) -> u64 {
        if let Some(number) = self.displaced.get(node) {
            return *number;
        }
        let mut number = first;
        // Ends: there is never so much memory as numbers.
        while self.known.get(&number).is_some_and(|known| known.node != *node) {
            number = number.wrapping_add(1).max(FIRST);
        }
        number
    }
}

#[cfg(test)]
mod tests {
    use ckpt_store::CheckpointId;

    use super::*;

    const ATTRIBUTES: Attributes =
        Attributes { kind: crate::node::Kind::File, mode: 0o444, links: 1, size: 0, mtime_ms: 0 };

    fn node(number: u32) -> Node {
        Node::Member(CheckpointId::from_bytes([7; 16]), number)
    }

    #[test]
    fn numbers_are_the_same_after_every_mount() {
        let id = CheckpointId::from_bytes([1; 16]);
        let nodes = [Node::ById, Node::Runs("a".into()), Node::Checkpoint(id), Node::Tensors(id), Node::Tensor(id, 0)];
        let numbers = |inodes: &Inodes| nodes.each_ref().map(|node| inodes.look_up(node, ATTRIBUTES));
        let first = numbers(&Inodes::new());
        assert_eq!(first, numbers(&Inodes::new()));
        // Told to whoever keeps inode numbers: a change of these is a change for them.
        assert_eq!(first[2], 3_455_815_567_998_780_388);
    }

    #[test]
    fn the_last_forget_ends_it() {
        let inodes = Inodes::new();
        let number = inodes.look_up(&node(1), ATTRIBUTES);
        assert_eq!(inodes.look_up(&node(1), ATTRIBUTES), number);
        inodes.forget(number, 1);
        assert_eq!(inodes.get(number).map(|(node, _)| node), Some(node(1)));
        inodes.forget(number, 1);
        assert!(inodes.get(number).is_none());
        inodes.forget(number, 1);
        inodes.forget(ROOT, 5);
        assert_eq!(inodes.get(ROOT).map(|(node, _)| node), Some(Node::root()));
        inodes.look_up(&node(1), ATTRIBUTES);
        inodes.forget(number, u64::MAX);
        assert_eq!(inodes.len(), 0);
    }

    #[test]
    fn nodes_of_one_hash_have_numbers_of_their_own() {
        for hash in [0, 1, 77, u64::MAX] {
            let inodes = Inodes::with(match hash {
                0 => |_| 0,
                1 => |_| 1,
                77 => |_| 77,
                _ => |_| u64::MAX,
            });
            let numbers: Vec<u64> = (0..4).map(|at| inodes.look_up(&node(at), ATTRIBUTES)).collect();
            let mut unique = numbers.clone();
            unique.sort_unstable();
            unique.dedup();
            assert_eq!(unique.len(), 4, "{numbers:?}");
            assert!(unique[0] > ROOT, "{numbers:?}");
            // The others stay where they are when the one at the front goes, and its number is taken again.
            inodes.forget(numbers[0], 1);
            for at in 1..4 {
                assert_eq!(inodes.look_up(&node(at), ATTRIBUTES), numbers[at as usize]);
                assert_eq!(inodes.get(numbers[at as usize]).map(|(node, _)| node), Some(node(at)));
            }
            assert_eq!(inodes.number(&node(9)), numbers[0]);
            assert_eq!(inodes.look_up(&node(9), ATTRIBUTES), numbers[0]);
            assert!((1..4).all(|at| inodes.forget(numbers[at], 2)));
            assert_eq!(inodes.len(), 1);
            assert_eq!(inodes.number(&node(3)), inodes.number(&node(2)), "nothing is kept of what is forgotten");
        }
    }
}
