//! Which files are laid down whole, which are to be, and in which way each is open. Pure: never touches a file, and
//! never knows what the kernel takes for one.

use std::collections::HashMap;
use std::sync::Arc;

/// Files that are remembered though they are not open and not laid down.
const REMEMBERED_MAX: usize = 1 << 16;

/// The files that were opened so far, by inode. `B` is what the kernel calls a file that it reads by itself.
pub struct Laid<B> {
    files: HashMap<u64, File<B>>,
    bytes: u64,
    bytes_max: u64,
    clock: u64,
}

struct File<B> {
    /// How often it was opened.
    opens: u64,
    /// Bytes that were read of it, by all.
    read: u64,
    len: u64,
    /// Handles that are read by way of the server.
    cached: u32,
    /// Handles that the kernel reads by itself.
    through: u32,
    /// What all of these share.
    backing: Option<Arc<B>>,
    state: State,
    /// The clock when it was opened last.
    used: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// As the store has it.
    Away,
    /// Somebody is about to lay it down.
    Coming,
    /// Laid down whole.
    Here,
    /// It can't be.
    Never,
}

/// How a file is to be opened. The kernel refuses to read a file by itself that is open by way of the server, and the
/// other way round; and all that it reads by itself of one inode must be one file.
#[derive(Debug, PartialEq, Eq)]
pub enum Way<B> {
    /// As those that are open already.
    Through(Arc<B>),
    /// It is laid down, and nothing keeps the kernel from reading it. Nothing is counted yet.
    Free,
    /// By way of the server, which is counted.
    Cached {
        /// Whether it is to be laid down, by whoever asks.
        lay_down: bool,
    },
    /// By way of the server, which is counted: it would be laid down, and is larger than all that may be.
    TooLarge,
}

impl<B> Laid<B> {
    /// None yet, and never more than `bytes_max` bytes of them.
    pub fn new(bytes_max: u64) -> Self {
        Self { files: HashMap::new(), bytes: 0, bytes_max, clock: 0 }
    }

    /// Opens a file of `len` bytes. One that was read through and is opened again is to be laid down.
    pub fn open(&mut self, ino: u64, len: u64) -> Way<B> {
        self.clock += 1;
        if self.files.len() >= REMEMBERED_MAX && !self.files.contains_key(&ino) {
            self.files
                .retain(|_, file| file.cached + file.through > 0 || matches!(file.state, State::Coming | State::Here));
        }
        let new = File { opens: 0, read: 0, len, cached: 0, through: 0, backing: None, state: State::Away, used: 0 };
        let file = self.files.entry(ino).or_insert(new);
        file.opens += 1;
        file.used = self.clock;
        if let Some(backing) = &file.backing {
            file.through += 1;
            return Way::Through(Arc::clone(backing));
        }
        if file.state == State::Here && file.cached == 0 {
            return Way::Free;
        }
        file.cached += 1;
        let lay_down = file.state == State::Away && file.opens > 1 && file.read >= len && len > 0;
        if lay_down && len > self.bytes_max {
            file.state = State::Never;
            return Way::TooLarge;
        }
        if lay_down {
            file.state = State::Coming;
        }
        Way::Cached { lay_down }
    }

    /// Counts a handle that was free to be read by the kernel and is.
    pub fn through(&mut self, ino: u64, backing: B) -> Arc<B> {
        let backing = Arc::new(backing);
        if let Some(file) = self.files.get_mut(&ino) {
            file.through += 1;
            file.backing = Some(Arc::clone(&backing));
        }
        backing
    }

    /// Counts a handle that was free to be read by the kernel and is read by way of the server all the same.
    pub fn cached(&mut self, ino: u64) {
        if let Some(file) = self.files.get_mut(&ino) {
            file.cached += 1;
        }
    }

    /// Takes note of bytes that were read by way of the server.
    pub fn read(&mut self, ino: u64, bytes: u64) {
        if let Some(file) = self.files.get_mut(&ino) {
            file.read = file.read.saturating_add(bytes);
        }
    }

    /// Closes a handle. Answers what the kernel need not know any longer, for the caller to drop.
    pub fn close(&mut self, ino: u64, is_through: bool) -> Option<Arc<B>> {
        let file = self.files.get_mut(&ino)?;
        let count = if is_through { &mut file.through } else { &mut file.cached };
        *count = count.saturating_sub(1);
        if file.through == 0 { file.backing.take() } else { None }
    }

    /// Sets room aside for a file that is to be laid down; answers those that go for it, or nothing when there is none
    /// to be had: one that is open stays.
    pub fn make_room(&mut self, ino: u64) -> Option<Vec<u64>> {
        let len = self.files.get(&ino).filter(|file| file.state == State::Coming)?.len;
        let is_idle = |file: &File<B>| file.state == State::Here && file.cached + file.through == 0;
        let mut idle: Vec<(u64, u64, u64)> = self
            .files
            .iter()
            .filter(|(_, file)| is_idle(file))
            .map(|(ino, file)| (file.used, *ino, file.len))
            .collect();
        idle.sort_unstable();
        let free = self.bytes_max.saturating_sub(self.bytes);
        let mut freed = 0;
        let going: Vec<u64> = idle
            .into_iter()
            .take_while(|(.., len_of)| {
                let is_needed = free + freed < len;
                freed += if is_needed { *len_of } else { 0 };
                is_needed
            })
            .map(|(_, ino, _)| ino)
            .collect();
        if free + freed < len {
            return None;
        }
        going.iter().for_each(|ino| self.gone(*ino));
        self.bytes += len;
        Some(going)
    }

    /// A file for which there was room is laid down.
    pub fn here(&mut self, ino: u64) {
        if let Some(file) = self.files.get_mut(&ino) {
            file.state = State::Here;
        }
    }

    /// A file for which there was room could not be laid down, or had none. It is not tried again before it was read
    /// through once more.
    pub fn failed(&mut self, ino: u64, had_room: bool) {
        let Some(file) = self.files.get_mut(&ino) else { return };
        if had_room {
            self.bytes = self.bytes.saturating_sub(file.len);
        }
        (file.state, file.read, file.opens) = (State::Away, 0, 0);
    }

    /// A file that was laid down is no more.
    pub fn gone(&mut self, ino: u64) {
        if self.files.get(&ino).is_some_and(|file| file.state == State::Here) {
            self.failed(ino, true);
        }
    }

    /// How many are laid down, and their bytes with those that are being.
    pub fn usage(&self) -> (u64, u64) {
        (self.files.values().filter(|file| file.state == State::Here).count() as u64, self.bytes)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail by panicking")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CACHED: Way<u32> = Way::Cached { lay_down: false };

    /// A file that was opened, read through, closed, opened again and laid down.
    fn lay_down(laid: &mut Laid<u32>, ino: u64, len: u64) -> Option<Vec<u64>> {
        assert_eq!(laid.open(ino, len), CACHED);
        laid.read(ino, len);
        assert_eq!(laid.close(ino, false), None);
        assert_eq!(laid.open(ino, len), Way::Cached { lay_down: true });
        let going = laid.make_room(ino);
        match going {
            Some(_) => laid.here(ino),
            None => laid.failed(ino, false),
        }
        laid.close(ino, false);
        going
    }

    #[test]
    fn a_file_is_laid_down_that_is_opened_again_when_it_was_read_through() {
        let mut laid = Laid::<u32>::new(1000);
        assert_eq!(laid.open(1, 100), CACHED);
        laid.read(1, 99);
        assert_eq!(laid.open(1, 100), CACHED, "not all of it was read");
        laid.read(1, 1);
        assert_eq!(laid.open(1, 100), Way::Cached { lay_down: true });
        assert_eq!(laid.open(1, 100), CACHED, "it is coming already");
        assert_eq!(laid.make_room(1), Some(vec![]));
        laid.here(1);
        assert_eq!((laid.open(1, 100), laid.usage()), (CACHED, (1, 100)), "others have it open by way of the server");
        (0..5).for_each(|_| assert_eq!(laid.close(1, false), None));
        assert_eq!(laid.open(1, 100), Way::Free);
        assert_eq!(*laid.through(1, 7), 7);
        assert_eq!(laid.open(1, 100), Way::Through(Arc::new(7)), "as the one that is open");
        assert_eq!(laid.close(1, true), None);
        assert_eq!(laid.close(1, true).as_deref(), Some(&7));
        assert_eq!(laid.open(1, 100), Way::Free);
        laid.cached(1);
        assert_eq!(laid.open(1, 100), CACHED, "one is open by way of the server");
    }

    #[test]
    fn the_one_that_was_opened_longest_ago_goes_and_none_that_is_open() {
        let mut laid = Laid::new(100);
        (1..=3).for_each(|ino| assert_eq!(lay_down(&mut laid, ino, 30), Some(vec![])));
        assert_eq!(laid.open(1, 30), Way::Free);
        laid.through(1, 1);
        assert_eq!(lay_down(&mut laid, 4, 40), Some(vec![2]));
        assert_eq!(laid.usage(), (3, 100));
        assert_eq!(lay_down(&mut laid, 5, 71), None, "the open one stays");
        assert_eq!(laid.usage(), (3, 100));
        assert_eq!(lay_down(&mut laid, 6, 70), Some(vec![3, 4]));
        laid.close(1, true);
        assert_eq!(laid.open(9, 101), CACHED);
        laid.read(9, 101);
        assert_eq!(laid.open(9, 101), Way::TooLarge);
        laid.read(9, 101);
        assert_eq!(laid.open(9, 101), CACHED, "which is said once");
        assert_eq!(laid.open(2, 30), CACHED, "it went, and begins anew");
    }

    #[test]
    fn what_fails_leaves_its_room_and_is_tried_when_it_was_read_again() {
        let mut laid = Laid::<u32>::new(100);
        laid.open(1, 60);
        laid.read(1, 60);
        assert_eq!(laid.open(1, 60), Way::Cached { lay_down: true });
        assert_eq!((laid.make_room(1), laid.usage()), (Some(vec![]), (0, 60)));
        laid.failed(1, true);
        assert_eq!((laid.open(1, 60), laid.usage()), (CACHED, (0, 0)));
        laid.read(1, 60);
        assert_eq!(laid.open(1, 60), Way::Cached { lay_down: true });
        assert_eq!(laid.open(2, 0), CACHED);
        assert_eq!(laid.open(2, 0), CACHED, "there is nothing to lay down");
    }

    proptest! {
        /// However files are opened, closed, laid down and lost: no file is open in both ways, all that the kernel
        /// reads of one inode is one file, and there is never more than there may be.
        #[test]
        fn no_file_is_open_in_both_ways(steps in proptest::collection::vec((0..6_u64, 0..7_u8, any::<bool>()), 0..300)) {
            let mut laid = Laid::<u64>::new(100);
            let mut open: HashMap<u64, Vec<Option<u64>>> = HashMap::new();
            let mut coming: Vec<u64> = Vec::new();
            let mut next = 0;
            for (ino, step, flag) in steps {
                let len = 20 + ino * 7;
                let handles = open.entry(ino).or_default();
                match step {
                    0..3 => match laid.open(ino, len) {
                        Way::Through(backing) => handles.push(Some(*backing)),
                        Way::Free if flag => {
                            next += 1;
                            handles.push(Some(*laid.through(ino, next)));
                        }
                        Way::Free => {
                            laid.cached(ino);
                            handles.push(None);
                        }
                        Way::TooLarge => prop_assert!(false, "none is"),
                        Way::Cached { lay_down } => {
                            handles.push(None);
                            coming.extend(lay_down.then_some(ino));
                        }
                    },
                    3 => laid.read(ino, len),
                    4 => {
                        if let Some(handle) = handles.pop() {
                            let last = laid.close(ino, handle.is_some());
                            let others = handles.iter().flatten().count();
                            prop_assert_eq!(last.map(|backing| *backing), handle.filter(|_| others == 0));
                        }
                    }
                    5 => if let Some(ino) = coming.pop() {
                        let room = laid.make_room(ino);
                        for gone in room.iter().flatten() {
                            prop_assert!(open.get(gone).is_none_or(Vec::is_empty));
                        }
                        match room {
                            Some(_) if flag => laid.here(ino),
                            room => laid.failed(ino, room.is_some()),
                        }
                    },
                    _ => if handles.is_empty() { laid.gone(ino) },
                }
                let handles = &open[&ino];
                let distinct: std::collections::HashSet<_> = handles.iter().collect();
                prop_assert!(distinct.len() <= 1, "{:?}", handles);
                prop_assert!(laid.bytes <= 100);
            }
        }
    }
}
