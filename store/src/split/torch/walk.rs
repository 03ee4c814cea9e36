//! Goes through the objects of a pickle from the top one and gives each tensor its name. Never recursive, and never for long:
//! looks are counted, so lists that hold each other cost no more than they may.

use std::collections::{HashMap, HashSet};

use super::parts::{self, Word};
use super::rebuild::{StorageRef, Tensor};
use crate::limits::{PICKLE_DEPTH_MAX, PICKLE_LOOKS_MAX, PICKLE_NAMES_BYTES_MAX, PICKLE_TENSORS_MAX};
use crate::pickle::{Id, Node, Pickle};

/// What a tensor is called that is not in anything.
pub(in super::super) const BARE: &str = "tensor";

/// Every tensor with its name, in the order of the pickle. Nothing if that takes more than the limits allow.
pub(super) fn find(pickle: &Pickle<'_>) -> Option<Vec<(String, Tensor)>> {
    let mut walk = Walk {
        pickle,
        places: Vec::new(),
        todo: Vec::new(),
        later: Vec::new(),
        children: Vec::new(),
        found: Vec::new(),
        named: HashSet::new(),
        looks: 0,
    };
    walk.places.push(Place { parent: 0, depth: 0, node: pickle.root(), step: Step::Stay });
    walk.todo.push(0);
    walk.run(false)?;
    // What modules hold besides what is in their state_dict, as far as it is anything else.
    walk.later.reverse();
    while let Some(place) = walk.later.pop() {
        walk.todo.push(place);
        walk.run(true)?;
    }
    walk.names()
}

/// A value at one of the places where the walk came to it.
#[derive(Clone, Copy)]
struct Place {
    parent: u32,
    depth: u32,
    node: Id,
    step: Step,
}

/// How a name goes on from a container's to that of a value in it.
#[derive(Clone, Copy)]
enum Step {
    /// It is the same.
    Stay,
    /// By the key of a dict.
    Key(Id),
    /// By a position.
    Position(u32),
    /// By what torch calls it.
    Word(&'static str),
}

impl From<Word> for Step {
    fn from(word: Word) -> Self {
        word.map_or(Self::Stay, Self::Word)
    }
}

struct Walk<'p, 'b> {
    pickle: &'p Pickle<'b>,
    places: Vec<Place>,
    todo: Vec<u32>,
    later: Vec<u32>,
    /// Those of the value that is looked at, in order; here so that it is one allocation.
    children: Vec<(Step, Id)>,
    found: Vec<(u32, Word, Tensor)>,
    /// The tensors that have a name.
    named: HashSet<Id>,
    looks: usize,
}

impl<'p> Walk<'p, '_> {
    fn run(&mut self, only_unnamed: bool) -> Option<()> {
        while let Some(at) = self.todo.pop() {
            let place = self.places[at as usize];
            if only_unnamed && self.named.contains(&place.node) {
                continue;
            }
            match self.pickle.node(place.node) {
                Node::Dict(_) | Node::List(_) => self.look_into(place.node)?,
                Node::Tuple(_) => self.look_into_tuple(place.node)?,
                Node::Persistent(id) => {
                    if let Some(tensor) = StorageRef::bare(self.pickle, id) {
                        self.add(at, None, tensor)?;
                    }
                }
                Node::Object(_) => self.look_into_object(at, place.node)?,
                _ => {}
            }
            let children = std::mem::take(&mut self.children);
            for (step, node) in children.iter().rev() {
                if let Some(place) = self.place(at, *step, *node)? {
                    self.todo.push(place);
                }
            }
            self.children = children;
            self.children.clear();
        }
        Some(())
    }

    /// Counts so many looks; nothing when there were too many.
    fn look(&mut self, count: usize) -> Option<()> {
        self.looks += count;
        (self.looks <= PICKLE_LOOKS_MAX).then_some(())
    }

    /// Notes a child, if there may be tensors in it.
    fn child(&mut self, step: Step, node: Id) -> Option<()> {
        self.look(1)?;
        let may_hold = matches!(
            self.pickle.node(node),
            Node::Dict(_) | Node::List(_) | Node::Tuple(_) | Node::Persistent(_) | Node::Object(_)
        );
        if may_hold {
            self.children.push((step, node));
        }
        Some(())
    }

    /// Makes a place for a child; none for a value that is in itself, or too deep.
    fn place(&mut self, parent: u32, step: Step, node: Id) -> Option<Option<u32>> {
        let depth = self.places[parent as usize].depth + 1;
        if depth as usize > PICKLE_DEPTH_MAX {
            return Some(None);
        }
        let mut above = parent;
        loop {
            let place = self.places[above as usize];
            if place.node == node {
                return Some(None);
            }
            if place.depth == 0 {
                break;
            }
            above = place.parent;
        }
        self.look(1)?;
        self.places.push(Place { parent, depth, node, step });
        Some(Some(self.places.len() as u32 - 1))
    }

    fn add(&mut self, at: u32, word: Word, tensor: Tensor) -> Option<()> {
        if self.found.len() >= PICKLE_TENSORS_MAX {
            return None;
        }
        self.named.insert(self.places[at as usize].node);
        self.found.push((at, word, tensor));
        Some(())
    }

    /// The values of a dict or an object that is one, and the items of a list.
    fn look_into(&mut self, node: Id) -> Option<()> {
        let pickle = self.pickle;
        for (at, (key, value)) in pickle.pairs(node).enumerate() {
            let has_name =
                pickle.text(key).is_some() || matches!(pickle.node(key), Node::Int(_) | Node::Bool(_) | Node::None);
            self.child(if has_name { Step::Key(key) } else { Step::Position(at as u32) }, value)?;
        }
        for (at, item) in pickle.items(node).enumerate() {
            self.child(Step::Position(at as u32), item)?;
        }
        Some(())
    }

    fn look_into_tuple(&mut self, node: Id) -> Option<()> {
        let pickle = self.pickle;
        for (at, item) in pickle.tuple(node).unwrap_or_default().iter().enumerate() {
            self.child(Step::Position(at as u32), *item)?;
        }
        Some(())
    }

    fn look_into_object(&mut self, at: u32, node: Id) -> Option<()> {
        let pickle = self.pickle;
        let Some(object) = pickle.object(node) else { return Some(()) };
        let (mut callee, mut args) = (object.callee, object.args);
        // A tensor of another class: (function, class, arguments, state). Classes of classes of classes are not.
        for _ in 0..4 {
            match (pickle.global(callee), pickle.tuple(args).unwrap_or_default()) {
                (Some((_, "_rebuild_from_type" | "_rebuild_from_type_v2")), [function, _class, inner, state]) => {
                    (callee, args) = (*function, *inner);
                    self.look_into_state(at, *state)?;
                }
                _ => break,
            }
        }
        let of_torch = pickle.global(callee).filter(|(module, _)| module.split('.').next() == Some("torch"));
        let inner = pickle.tuple(args).unwrap_or_default();
        match of_torch {
            Some((_, function @ ("_rebuild_tensor" | "_rebuild_tensor_v2" | "_rebuild_tensor_v3"))) => {
                if let Some(tensor) = Tensor::rebuilt(pickle, function, inner) {
                    self.add(at, None, tensor)?;
                }
            }
            Some((_, function @ "_rebuild_qtensor")) => {
                if let Some(tensor) = Tensor::rebuilt(pickle, function, inner) {
                    self.add(at, Some("int_repr"), tensor)?;
                }
                for (word, part) in parts::of_quantizer(pickle, inner) {
                    self.child(word.into(), part)?;
                }
            }
            Some((_, function)) => match parts::of_call(pickle, function, inner) {
                Some(parts) => {
                    for (word, part) in parts {
                        self.child(word.into(), part)?;
                    }
                }
                None => self.look_into_args(callee, args)?,
            },
            None => self.look_into_args(callee, args)?,
        }
        self.look_into(node)?;
        object.state.map_or(Some(()), |state| self.look_into_state(at, state))
    }

    /// What an object of a class that we don't know was made of.
    fn look_into_args(&mut self, callee: Id, args: Id) -> Option<()> {
        let pickle = self.pickle;
        match (pickle.global(callee).map(|(_, name)| name), pickle.tuple(args).unwrap_or_default()) {
            (Some("_reconstructor"), [_class, _base, state]) => self.child(Step::Stay, *state),
            (Some("OrderedDict"), [list]) => {
                // Python 2 gave it a list of keys and values.
                for pair in pickle.items(*list) {
                    let mut items = pickle.tuple(pair).unwrap_or_default().iter().copied().chain(pickle.items(pair));
                    match (items.next(), items.next()) {
                        (Some(key), Some(value)) if pickle.text(key).is_some() => self.child(Step::Key(key), value)?,
                        _ => self.look(1)?,
                    }
                }
                Some(())
            }
            (_, [only]) => self.child(Step::Stay, *only),
            _ => self.look_into_tuple(args),
        }
    }

    /// The attributes that an object was given: a dict, or one and another of slots.
    fn look_into_state(&mut self, at: u32, state: Id) -> Option<()> {
        let pickle = self.pickle;
        let is_attributes = |node: Id| matches!(pickle.node(node), Node::Dict(_) | Node::None);
        match (pickle.node(state), pickle.tuple(state)) {
            (Node::Dict(_), _) => self.look_into_attributes(at, state),
            (_, Some([dict, slots])) if is_attributes(*dict) && is_attributes(*slots) => {
                self.look_into_attributes(at, *dict)?;
                self.look_into_attributes(at, *slots)
            }
            _ => self.child(Step::Stay, state),
        }
    }

    fn look_into_attributes(&mut self, at: u32, state: Id) -> Option<()> {
        let pickle = self.pickle;
        let mut of_module = [None; 4];
        for (key, value) in pickle.pairs(state) {
            self.look(1)?;
            if let Some(nr) = MODULE.iter().position(|name| pickle.text(key) == Some(name)) {
                of_module[nr] = Some(value);
            }
        }
        let [Some(parameters), Some(buffers), Some(modules), hidden] = of_module else {
            for (key, value) in pickle.pairs(state) {
                // The part of a distributed tensor that is here.
                let step = if pickle.text(key) == Some("_local_tensor") { Step::Stay } else { Step::Key(key) };
                self.child(step, value)?;
            }
            return Some(());
        };
        let hidden = self.texts(hidden)?;
        for (key, value) in pickle.pairs(parameters) {
            self.child(Step::Key(key), value)?;
        }
        for (key, value) in pickle.pairs(buffers) {
            if pickle.text(key).is_some_and(|key| hidden.contains(key)) {
                self.put_off(at, key, value)?;
            } else {
                self.child(Step::Key(key), value)?;
            }
        }
        for (key, value) in pickle.pairs(modules) {
            self.child(Step::Key(key), value)?;
        }
        for (key, value) in pickle.pairs(state) {
            if !MODULE.iter().any(|name| pickle.text(key) == Some(name)) {
                self.put_off(at, key, value)?;
            }
        }
        Some(())
    }

    /// Leaves a child for when everything that has a name of its own has it.
    fn put_off(&mut self, at: u32, key: Id, value: Id) -> Option<()> {
        let before = self.children.len();
        self.child(Step::Key(key), value)?;
        let noted = self.children.get(before).copied();
        self.children.truncate(before);
        if let Some((step, node)) = noted
            && let Some(place) = self.place(at, step, node)?
        {
            self.later.push(place);
        }
        Some(())
    }

    /// The texts of a set; older protocols make it by a call with a list.
    fn texts(&mut self, set: Option<Id>) -> Option<HashSet<&'p str>> {
        let pickle = self.pickle;
        let Some(mut set) = set else { return Some(HashSet::new()) };
        if let Some([list]) = pickle.object(set).and_then(|object| pickle.tuple(object.args)) {
            set = *list;
        }
        let mut texts = HashSet::new();
        for item in pickle.items(set) {
            self.looks += 1;
            texts.extend(pickle.text(item));
        }
        self.look(0)?;
        Some(texts)
    }

    /// The names of what was found, all different.
    fn names(self) -> Option<Vec<(String, Tensor)>> {
        let mut taken: HashMap<String, u32> = HashMap::new();
        let mut bytes = 0;
        let mut named = Vec::with_capacity(self.found.len());
        for (at, word, tensor) in self.found {
            let mut steps: Vec<String> = word.map(str::to_owned).into_iter().collect();
            let mut place = self.places[at as usize];
            loop {
                match place.step {
                    Step::Stay => {}
                    Step::Key(key) => steps.push(match self.pickle.node(key) {
                        Node::Int(number) => number.to_string(),
                        Node::Bool(true) => "True".to_owned(),
                        Node::Bool(false) => "False".to_owned(),
                        _ => self.pickle.text(key).unwrap_or("None").to_owned(),
                    }),
                    Step::Position(number) => steps.push(number.to_string()),
                    Step::Word(word) => steps.push(word.to_owned()),
                }
                bytes += steps.last().map_or(0, String::len) + 1;
                if bytes > PICKLE_NAMES_BYTES_MAX {
                    return None;
                }
                if place.depth == 0 {
                    break;
                }
                place = self.places[place.parent as usize];
            }
            steps.reverse();
            let name = steps.join(".");
            let name = if name.is_empty() { BARE.to_owned() } else { name };
            named.push((distinct(&mut taken, name), tensor));
        }
        Some(named)
    }
}

/// The attributes by which a pickled `torch.nn.Module` is known, and the names of its buffers that its state_dict leaves out.
const MODULE: [&str; 4] = ["_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"];

/// The name, or the name with the first number from 2 on that makes it a new one.
fn distinct(taken: &mut HashMap<String, u32>, name: String) -> String {
    let mut own = name.clone();
    while taken.contains_key(&own) {
        let number = taken.entry(name.clone()).or_default();
        *number += 1;
        own = format!("{name}#{number}");
    }
    taken.insert(own.clone(), 1);
    own
}
