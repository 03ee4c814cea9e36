//! The stack machine that a pickle is a program for, with everything that it would call left undone.

use std::ops::Range;

use super::cursor::Cursor;
use super::node::{Id, NOWHERE, Node, Object, Pickle, Run, Span, Text};
use super::{Problem, text};
use crate::limits::{PICKLE_BYTES_MAX, PICKLE_NODES_MAX, PICKLE_TEXT_BYTES_MAX};

/// Values that every pickle begins with, so that the many of them cost no node each.
const NONE: Id = Id(0);
const FALSE: Id = Id(1);
const TRUE: Id = Id(2);
const EMPTY_TUPLE: Id = Id(3);
const OPAQUE: Id = Id(4);

/// A pickle that is being read.
pub(super) struct Machine<'a> {
    cursor: Cursor<'a>,
    out: Pickle<'a>,
    stack: Vec<Id>,
    /// Heights of the stack at its marks; nothing below the last one may be taken.
    marks: Vec<usize>,
    memo: Vec<u32>,
    memo_count: usize,
}

impl<'a> Machine<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        let bytes = &bytes[..bytes.len().min(PICKLE_BYTES_MAX)];
        let nodes =
            vec![Node::None, Node::Bool(false), Node::Bool(true), Node::Tuple(Span { start: 0, len: 0 }), Node::Opaque];
        let out = Pickle {
            bytes,
            decoded: String::new(),
            nodes,
            tuples: Vec::new(),
            links: Vec::new(),
            objects: Vec::new(),
            root: NONE,
            consumed: 0,
        };
        let cursor = Cursor::new(bytes);
        Self { cursor, out, stack: Vec::new(), marks: Vec::new(), memo: Vec::new(), memo_count: 0 }
    }

    pub(super) fn run(mut self) -> Result<Pickle<'a>, Problem> {
        loop {
            let opcode = self.next_opcode()?;
            if opcode == b'.' {
                self.out.root = self.pop()?;
                self.out.consumed = self.cursor.at();
                return Ok(self.out);
            }
            self.step(opcode)?;
        }
    }

    fn next_opcode(&mut self) -> Result<u8, Problem> {
        match self.cursor.u8() {
            Err(Problem::Ended) if self.cursor.at() == PICKLE_BYTES_MAX => Err(Problem::TooLarge),
            other => other,
        }
    }

    fn step(&mut self, opcode: u8) -> Result<(), Problem> {
        match opcode {
            b'(' => {
                self.marks.push(self.stack.len());
                if self.marks.len() > PICKLE_NODES_MAX { Err(Problem::TooLarge) } else { Ok(()) }
            }
            b'0' => match self.pop() {
                Ok(_) => Ok(()),
                // At a mark, the mark itself goes.
                Err(_) => self.marks.pop().map(drop).ok_or(Problem::Malformed),
            },
            b'1' => {
                let from = self.mark()?;
                self.stack.truncate(from);
                Ok(())
            }
            b'2' => {
                let top = self.top()?;
                self.push(top)
            }
            b'N' => self.push(NONE),
            0x88 => self.push(TRUE),
            0x89 => self.push(FALSE),
            b'I' | b'J' | b'K' | b'L' | b'M' | 0x8a | 0x8b | b'F' | b'G' => self.number(opcode),
            b'S' | b'V' | b'T' | b'U' | b'X' | 0x8c | 0x8d => self.string(opcode),
            b'B' | b'C' | 0x8e | 0x96 => {
                let len = match opcode {
                    b'B' => u64::from(self.cursor.u32()?),
                    b'C' => u64::from(self.cursor.u8()?),
                    _ => self.cursor.u64()?,
                };
                let span = self.cursor.span(len)?;
                self.push_new(Node::Bytes(span.len() as u32))
            }
            b')' => self.push(EMPTY_TUPLE),
            b't' | 0x91 => {
                let from = self.mark()?;
                self.push_tuple(from)
            }
            0x85..=0x87 => {
                let from = self.stack.len().checked_sub(usize::from(opcode - 0x84)).ok_or(Problem::Malformed)?;
                if from < self.floor() { Err(Problem::Malformed) } else { self.push_tuple(from) }
            }
            b']' | 0x8f => self.push_new(Node::List(Run::EMPTY)),
            b'}' => self.push_new(Node::Dict(Run::EMPTY)),
            b'l' | b'd' | b'a' | b'e' | 0x90 | b's' | b'u' => self.collection(opcode),
            b'c' | 0x93 | b'R' | 0x81 | 0x92 | b'i' | b'o' | b'b' => self.call(opcode),
            b'P' => {
                let line = self.cursor.line()?;
                let id = self.text_in_place(line)?;
                self.push_new(Node::Persistent(id))
            }
            b'Q' => {
                let id = self.pop()?;
                self.push_new(Node::Persistent(id))
            }
            b'g' | b'h' | b'j' | b'p' | b'q' | b'r' | 0x94 => self.memo(opcode),
            0x82 => self.extension(1),
            0x83 => self.extension(2),
            0x84 => self.extension(4),
            0x80 => {
                let version = self.cursor.u8()?;
                if version <= 5 { Ok(()) } else { Err(Problem::Malformed) }
            }
            // Frames only tell a reader how much to read at once.
            0x95 => self.cursor.u64().map(drop),
            0x97 => self.push(OPAQUE),
            0x98 => self.top().map(drop),
            _ => Err(Problem::Malformed),
        }
    }

    fn number(&mut self, opcode: u8) -> Result<(), Problem> {
        let node = match opcode {
            b'J' => Node::Int(i64::from(self.cursor.i32()?)),
            b'K' => Node::Int(i64::from(self.cursor.u8()?)),
            b'M' => Node::Int(i64::from(self.cursor.u16()?)),
            b'G' => Node::Float(f64::from_be_bytes(self.cursor.array()?)),
            0x8a | 0x8b => {
                let len = if opcode == 0x8a { u64::from(self.cursor.u8()?) } else { self.cursor.signed_len()? };
                let span = self.cursor.span(len)?;
                text::int(&self.out.bytes[span.clone()]).map_or(Node::Long(Span::of(span)), Node::Int)
            }
            _ => {
                let line = self.cursor.line()?;
                let line = str::from_utf8(&self.out.bytes[line]).map_err(|_| Problem::Malformed)?;
                match (opcode, line) {
                    (b'I', "00") => Node::Bool(false),
                    (b'I', "01") => Node::Bool(true),
                    (b'F', _) => Node::Float(line.trim().parse().map_err(|_| Problem::Malformed)?),
                    _ => {
                        let number = line.trim().trim_end_matches('L');
                        let digits = number.strip_prefix('-').unwrap_or(number);
                        if digits.is_empty() || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
                            return Err(Problem::Malformed);
                        }
                        // One that doesn't fit 64 bits is not of any interest.
                        number.parse().map_or(Node::Opaque, Node::Int)
                    }
                }
            }
        };
        self.push_new(node)
    }

    fn string(&mut self, opcode: u8) -> Result<(), Problem> {
        if opcode == b'S' || opcode == b'V' {
            let line = self.cursor.line()?;
            let start = self.out.decoded.len();
            let line = &self.out.bytes[line];
            let out = &mut self.out.decoded;
            let is_text = if opcode == b'S' { text::repr(line, out) } else { text::escaped(line, out) };
            if !is_text || out.len() - start > PICKLE_TEXT_BYTES_MAX {
                self.out.decoded.truncate(start);
                return self.push_new(Node::Bytes(line.len() as u32));
            }
            return self.push_new(Node::Text(Text::Decoded(Span::of(start..self.out.decoded.len()))));
        }
        let len = match opcode {
            b'U' | 0x8c => u64::from(self.cursor.u8()?),
            b'T' => self.cursor.signed_len()?,
            b'X' => u64::from(self.cursor.u32()?),
            _ => self.cursor.u64()?,
        };
        let span = self.cursor.span(len)?;
        let id = self.text_in_place(span)?;
        self.push(id)
    }

    /// A node for text that stands in the pickle; one of bytes if it is no UTF-8, or too long for a name.
    fn text_in_place(&mut self, range: Range<usize>) -> Result<Id, Problem> {
        let is_text = range.len() <= PICKLE_TEXT_BYTES_MAX && str::from_utf8(&self.out.bytes[range.clone()]).is_ok();
        self.new_node(if is_text {
            Node::Text(Text::InPlace(Span::of(range)))
        } else {
            Node::Bytes(range.len() as u32)
        })
    }

    fn collection(&mut self, opcode: u8) -> Result<(), Problem> {
        let from = match opcode {
            b'a' => self.stack.len().checked_sub(1).ok_or(Problem::Malformed)?,
            b's' => self.stack.len().checked_sub(2).ok_or(Problem::Malformed)?,
            _ => self.mark()?,
        };
        if from < self.floor() {
            return Err(Problem::Malformed);
        }
        let is_dict = matches!(opcode, b'd' | b's' | b'u');
        if is_dict && !(self.stack.len() - from).is_multiple_of(2) {
            return Err(Problem::Malformed);
        }
        let target = match opcode {
            b'l' => self.new_node(Node::List(Run::EMPTY))?,
            b'd' => self.new_node(Node::Dict(Run::EMPTY))?,
            _ if from > self.floor() => self.stack[from - 1],
            _ => return Err(Problem::Malformed),
        };
        if self.out.links.len() + (self.stack.len() - from) > PICKLE_NODES_MAX {
            return Err(Problem::TooLarge);
        }
        let mut run = match (self.out.node(target), is_dict) {
            (Node::Dict(run), true) | (Node::List(run), false) => Some(run),
            (Node::Object(at), true) => Some(self.out.objects[at as usize].pairs),
            (Node::Object(at), false) => Some(self.out.objects[at as usize].items),
            // What is done to something unknown changes nothing that we know.
            (Node::Opaque | Node::Persistent(_) | Node::Bytes(_), _) => None,
            _ => return Err(Problem::Malformed),
        };
        if let Some(run) = &mut run {
            let width = if is_dict { 2 } else { 1 };
            for at in (from..self.stack.len()).step_by(width) {
                *run = self.out.push_link(*run, self.stack[at], self.stack[at + width - 1]);
            }
        }
        self.stack.truncate(from);
        match (run, &mut self.out.nodes[target.0 as usize]) {
            (Some(run), Node::Dict(own) | Node::List(own)) => *own = run,
            (Some(run), Node::Object(at)) if is_dict => self.out.objects[*at as usize].pairs = run,
            (Some(run), Node::Object(at)) => self.out.objects[*at as usize].items = run,
            _ => {}
        }
        if matches!(opcode, b'l' | b'd') { self.push(target) } else { Ok(()) }
    }

    fn call(&mut self, opcode: u8) -> Result<(), Problem> {
        match opcode {
            b'c' => {
                let global = self.global()?;
                self.push(global)
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                self.push_new(Node::Global(module, name))
            }
            b'R' | 0x81 => {
                let (args, callee) = (self.pop()?, self.pop()?);
                self.push_object(callee, args)
            }
            0x92 => {
                let (_named, args, callee) = (self.pop()?, self.pop()?, self.pop()?);
                self.push_object(callee, args)
            }
            b'i' => {
                let callee = self.global()?;
                let from = self.mark()?;
                self.push_tuple(from)?;
                let args = self.pop()?;
                self.push_object(callee, args)
            }
            b'o' => {
                let from = self.mark()?;
                let callee = *self.stack.get(from).ok_or(Problem::Malformed)?;
                self.push_tuple(from + 1)?;
                let args = self.pop()?;
                self.stack.truncate(from);
                self.push_object(callee, args)
            }
            _ => {
                let state = self.pop()?;
                if let Node::Object(at) = self.out.node(self.top()?) {
                    self.out.objects[at as usize].state = Some(state);
                }
                Ok(())
            }
        }
    }

    /// The class or function that the next two lines name.
    fn global(&mut self) -> Result<Id, Problem> {
        let (module, name) = (self.cursor.line()?, self.cursor.line()?);
        let (module, name) = (self.text_in_place(module)?, self.text_in_place(name)?);
        self.new_node(Node::Global(module, name))
    }

    fn memo(&mut self, opcode: u8) -> Result<(), Problem> {
        let at = match opcode {
            b'h' | b'q' => u32::from(self.cursor.u8()?),
            b'j' | b'r' => self.cursor.u32()?,
            0x94 => self.memo_count as u32,
            _ => {
                let line = self.cursor.line()?;
                let line = str::from_utf8(&self.out.bytes[line]).map_err(|_| Problem::Malformed)?;
                line.trim().parse().map_err(|_| Problem::Malformed)?
            }
        } as usize;
        if matches!(opcode, b'g' | b'h' | b'j') {
            let kept = self.memo.get(at).filter(|id| **id != NOWHERE).ok_or(Problem::Malformed)?;
            return self.push(Id(*kept));
        }
        let top = self.top()?;
        // Pickles number what they keep from 0 on, so no number is above that of the bytes before it.
        if at >= PICKLE_NODES_MAX || at > self.cursor.at() {
            return Err(Problem::TooLarge);
        }
        if at >= self.memo.len() {
            self.memo.resize(at + 1, NOWHERE);
        }
        if self.memo[at] == NOWHERE {
            self.memo_count += 1;
        }
        self.memo[at] = top.0;
        Ok(())
    }

    fn extension(&mut self, len: u64) -> Result<(), Problem> {
        self.cursor.span(len)?;
        self.push(OPAQUE)
    }

    fn new_node(&mut self, node: Node) -> Result<Id, Problem> {
        if self.out.nodes.len() >= PICKLE_NODES_MAX {
            return Err(Problem::TooLarge);
        }
        self.out.nodes.push(node);
        Ok(Id(self.out.nodes.len() as u32 - 1))
    }

    fn push(&mut self, id: Id) -> Result<(), Problem> {
        if self.stack.len() >= PICKLE_NODES_MAX {
            return Err(Problem::TooLarge);
        }
        self.stack.push(id);
        Ok(())
    }

    fn push_new(&mut self, node: Node) -> Result<(), Problem> {
        let id = self.new_node(node)?;
        self.push(id)
    }

    /// Makes a tuple of what the stack has from this height on.
    fn push_tuple(&mut self, from: usize) -> Result<(), Problem> {
        let start = self.out.tuples.len();
        if start + (self.stack.len() - from) > PICKLE_NODES_MAX {
            return Err(Problem::TooLarge);
        }
        self.out.tuples.extend(self.stack.drain(from..));
        self.push_new(Node::Tuple(Span::of(start..self.out.tuples.len())))
    }

    fn push_object(&mut self, callee: Id, args: Id) -> Result<(), Problem> {
        let at = self.out.objects.len() as u32;
        self.push_new(Node::Object(at))?;
        self.out.objects.push(Object { callee, args, state: None, pairs: Run::EMPTY, items: Run::EMPTY });
        Ok(())
    }

    /// Below this height nothing may be taken from the stack.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn top(&self) -> Result<Id, Problem> {
        self.stack.last().copied().filter(|_| self.stack.len() > self.floor()).ok_or(Problem::Malformed)
    }

    fn pop(&mut self) -> Result<Id, Problem> {
        let top = self.top()?;
        self.stack.pop();
        Ok(top)
    }

    /// Removes the last mark and says where it was.
    fn mark(&mut self) -> Result<usize, Problem> {
        self.marks.pop().ok_or(Problem::Malformed)
    }
}
