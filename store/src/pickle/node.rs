//! What a pickle holds, as nodes that name each other by number, so that cycles and depth cost nothing. Never owns a string
//! that stands in the pickle itself.

use std::ops::Range;

/// A node of a [`Pickle`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id(pub(super) u32);

/// One value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Node {
    /// `None`.
    None,
    /// `True` or `False`.
    Bool(bool),
    /// An integer of at most 64 bits.
    Int(i64),
    /// A longer one; [`Pickle::long`] has its bytes if the pickle gives them.
    Long(Span),
    /// A float.
    Float(f64),
    /// Text; [`Pickle::text`] has it.
    Text(Text),
    /// Bytes, text that is no UTF-8, or text that is too long for a name: so many.
    Bytes(u32),
    /// A tuple or frozen set.
    Tuple(Span),
    /// A list or set.
    List(Run),
    /// A dict.
    Dict(Run),
    /// A class or function, by the texts of its module and its name.
    Global(Id, Id),
    /// What calling something gives; [`Pickle::object`] has the parts.
    Object(u32),
    /// Something that stands outside of the pickle, by this.
    Persistent(Id),
    /// Something that we can't know: an extension's code, a buffer outside of the pickle.
    Opaque,
}

/// A range of bytes or of the table of items.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    pub(super) start: u32,
    pub(super) len: u32,
}

impl Span {
    /// The limits of a pickle keep every number in it far below 32 bits.
    pub(super) fn of(range: Range<usize>) -> Self {
        Self { start: range.start as u32, len: range.len() as u32 }
    }

    fn range(self) -> Range<usize> {
        self.start as usize..self.start as usize + self.len as usize
    }
}

/// Where a text stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Text {
    /// In the pickle, as it is.
    InPlace(Span),
    /// Among those that were written with escapes.
    Decoded(Span),
}

/// The first and last of a chain of links; both [`NOWHERE`] when it is empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    first: u32,
    last: u32,
}

/// No link.
pub(super) const NOWHERE: u32 = u32::MAX;

impl Run {
    pub(super) const EMPTY: Self = Self { first: NOWHERE, last: NOWHERE };
}

/// One item of a list, or one key and value of a dict.
#[derive(Debug, Clone, Copy)]
pub(super) struct Link {
    key: Id,
    value: Id,
    next: u32,
}

/// What calling something gave, and what was done to it.
#[derive(Debug, Clone, Copy)]
pub struct Object {
    /// What was called.
    pub callee: Id,
    /// With which arguments; a tuple if the pickle is in order.
    pub args: Id,
    /// What it was told to take as its state.
    pub state: Option<Id>,
    pub(super) pairs: Run,
    pub(super) items: Run,
}

/// A pickle that was read.
#[derive(Debug)]
pub struct Pickle<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) decoded: String,
    pub(super) nodes: Vec<Node>,
    pub(super) tuples: Vec<Id>,
    pub(super) links: Vec<Link>,
    pub(super) objects: Vec<Object>,
    pub(super) root: Id,
    pub(super) consumed: usize,
}

impl Pickle<'_> {
    /// The value that the pickle stands for.
    pub fn root(&self) -> Id {
        self.root
    }

    /// Bytes of the pickle.
    pub fn consumed(&self) -> usize {
        self.consumed
    }

    /// One value.
    pub fn node(&self, id: Id) -> Node {
        self.nodes[id.0 as usize]
    }

    /// Every value, in the order of the pickle.
    pub fn nodes(&self) -> impl Iterator<Item = Node> {
        self.nodes.iter().copied()
    }

    /// The text that a node is.
    pub fn text(&self, id: Id) -> Option<&str> {
        match self.node(id) {
            Node::Text(Text::InPlace(span)) => str::from_utf8(self.bytes.get(span.range())?).ok(),
            Node::Text(Text::Decoded(span)) => self.decoded.get(span.range()),
            _ => None,
        }
    }

    /// The integer that a node is.
    pub fn int(&self, id: Id) -> Option<i64> {
        if let Node::Int(int) = self.node(id) { Some(int) } else { None }
    }

    /// The integer that a node is, if it is a size.
    pub fn size(&self, id: Id) -> Option<u64> {
        self.int(id).and_then(|int| u64::try_from(int).ok())
    }

    /// The little-endian bytes of an integer of more than 64 bits.
    pub fn long(&self, id: Id) -> Option<&[u8]> {
        if let Node::Long(span) = self.node(id) { self.bytes.get(span.range()) } else { None }
    }

    /// The items of a tuple.
    pub fn tuple(&self, id: Id) -> Option<&[Id]> {
        if let Node::Tuple(span) = self.node(id) { self.tuples.get(span.range()) } else { None }
    }

    /// The items of a list, of a set, or that an object was told to append; none of anything else.
    pub fn items(&self, id: Id) -> impl Iterator<Item = Id> {
        let run = match self.node(id) {
            Node::List(run) => run,
            Node::Object(at) => self.objects[at as usize].items,
            _ => Run::EMPTY,
        };
        self.chain(run).map(|link| link.value)
    }

    /// The keys and values of a dict, or of an object that is one; none of anything else.
    pub fn pairs(&self, id: Id) -> impl Iterator<Item = (Id, Id)> {
        let run = match self.node(id) {
            Node::Dict(run) => run,
            Node::Object(at) => self.objects[at as usize].pairs,
            _ => Run::EMPTY,
        };
        self.chain(run).map(|link| (link.key, link.value))
    }

    /// The value under a key of a dict; the last, should there be several.
    pub fn get(&self, dict: Id, key: &str) -> Option<Id> {
        self.pairs(dict).filter(|(own, _)| self.text(*own) == Some(key)).last().map(|(_, value)| value)
    }

    /// Module and name of a class or function.
    pub fn global(&self, id: Id) -> Option<(&str, &str)> {
        let Node::Global(module, name) = self.node(id) else { return None };
        Some((self.text(module)?, self.text(name)?))
    }

    /// The parts of an object.
    pub fn object(&self, id: Id) -> Option<Object> {
        if let Node::Object(at) = self.node(id) { self.objects.get(at as usize).copied() } else { None }
    }

    fn chain(&self, run: Run) -> impl Iterator<Item = Link> {
        let mut at = run.first;
        std::iter::from_fn(move || {
            let link = *self.links.get(at as usize)?;
            at = link.next;
            Some(link)
        })
    }

    /// Adds to a chain.
    pub(super) fn push_link(&mut self, mut run: Run, key: Id, value: Id) -> Run {
        let at = self.links.len() as u32;
        self.links.push(Link { key, value, next: NOWHERE });
        match self.links.get_mut(run.last as usize) {
            Some(last) => last.next = at,
            None => run.first = at,
        }
        run.last = at;
        run
    }
}
