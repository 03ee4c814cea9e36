//! Who is using the store now. A session is a file under `sessions/` that its process holds locked: a dead process
//! leaves a file that anybody can lock, and so nobody ever has to guess by a clock. Never decides what a session
//! protects.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use serde::{Deserialize, Serialize};

use crate::backend::local::{Lock, is_odd, lock_exclusive, open_lock, open_plain};
use crate::error::{Error, Result};
use crate::id::{CheckpointId, PackId, SessionId};
use crate::limits::{RESERVE_LENT_TIMES, SESSION_BYTES_MAX};
use crate::space::Lent;

/// The use of a store by one process; ends when dropped.
pub struct Session {
    id: SessionId,
    path: PathBuf,
    lock: Mutex<Lock>,
    /// The room that its file takes on a full disk; given back after that is gone.
    room: Option<Lent>,
}

/// A session of a process that is alive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Live {
    /// Its id.
    pub id: SessionId,
    /// Checkpoints that it reads.
    pub pins: Vec<CheckpointId>,
    /// Packs that a checkpoint will rely on which it prepares a part of.
    pub packs: Vec<PackId>,
}

/// What the lines of a session's file keep.
pub type Pins = (Vec<CheckpointId>, Vec<PackId>);

/// One line of a session's file. The first tells people who it is, the others pin checkpoints or packs.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Record {
    Session { what: String, pid: u32 },
    Pin(CheckpointId),
    PinPacks(Vec<PackId>),
}

impl Session {
    /// Registers a session that does `what`.
    pub fn register(root: &Path, what: &str) -> Result<Self> {
        // The file is locked before it has a name under `sessions/`, so that nobody ever sees it unlocked while we
        // live. Until then a gc may take it for a leftover of the dead and remove it: then try again.
        for _ in 0..100 {
            let id = SessionId::generate();
            let from = root.join("tmp").join(format!("{id}.session"));
            let path = root.join("sessions").join(id.to_string());
            let file = open_lock(&from).map_err(|error| {
                // Made it may be, and then refused a look.
                let _ = fs::remove_file(&from);
                Error::io("create", &from, error)
            })?;
            let record = line(&Record::Session { what: what.to_owned(), pid: std::process::id() })?;
            let written = file.try_lock().map_err(io::Error::from).and_then(|()| (&file).write_all(&record));
            match written.and_then(|()| fs::rename(&from, &path)) {
                Ok(()) => {
                    let lock = Mutex::new(Lock::held(file));
                    return Ok(Self { id, path, lock, room: None });
                }
                Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::WouldBlock) => {}
                Err(error) => {
                    let _ = fs::remove_file(&from);
                    return Err(Error::io("create", &path, error));
                }
            }
        }
        Err(Error::Busy("the store's sessions are being cleared away all the time".into()))
    }

    /// Registers the session of a reader that does `what`; none where it can't be: who can't write to a store can read
    /// it all the same. On a full disk it takes a little of what the store keeps for gc.
    ///
    /// # Errors
    /// [`Error::Busy`].
    pub fn of_reader(root: &Path, what: &str) -> Result<Option<Self>> {
        let mut room = Lent::take(root);
        let mut registered = Self::register(root, what);
        for _ in 0..RESERVE_LENT_TIMES {
            if !matches!(registered, Err(Error::NoSpace { .. })) || !room.take_more() {
                break;
            }
            registered = Self::register(root, what);
        }
        let mut session = if_possible(registered)?;
        if let Some(session) = &mut session {
            session.room = Some(room);
        }
        Ok(session)
    }

    /// The session's id.
    pub fn id(&self) -> SessionId {
        self.id
    }

    /// Keeps gc from taking away what `checkpoint` needs, from the next time that gc looks on.
    pub fn pin(&self, checkpoint: CheckpointId) -> Result<()> {
        self.write(&Record::Pin(checkpoint))
    }

    /// Keeps gc from taking away packs, from the next time that gc looks on. What is on gc's lists by then goes all the
    /// same.
    pub fn pin_packs(&self, packs: Vec<PackId>) -> Result<()> {
        self.write(&Record::PinPacks(packs))
    }

    fn write(&self, record: &Record) -> Result<()> {
        let record = line(record)?;
        let lock = self.lock.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        lock.file().write_all(&record).map_err(|error| Error::io("write", &self.path, error))
    }
}

/// Keeps what a reader needs. Where that can't be written down, a full disk for one, there is no session from here on:
/// reading goes on without, and a line that was half written must not be what gc waits for.
pub fn pin_if_possible(
    session: Option<Session>,
    checkpoints: impl IntoIterator<Item = CheckpointId>,
) -> Result<Option<Session>> {
    let Some(session) = session else { return Ok(None) };
    let pinned = if_possible(checkpoints.into_iter().try_for_each(|checkpoint| session.pin(checkpoint)))?;
    Ok(pinned.map(|()| session))
}

/// Nothing for what the disk refuses.
fn if_possible<T>(written: Result<T>) -> Result<Option<T>> {
    match written {
        Ok(written) => Ok(Some(written)),
        Err(Error::Unavailable { .. } | Error::NoSpace { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // A process that was forked since has a copy of this, and lets the one go on that registered.
        if self.lock.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner).is_own() {
            // Best effort: the lock goes with the process, and the next gc removes the file.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn line(record: &Record) -> Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec(record).map_err(|error| Error::Internal(error.to_string()))?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// All live sessions; files of dead ones are removed when `clear` is set.
pub fn live(root: &Path, clear: bool) -> Result<Vec<Live>> {
    let folder = root.join("sessions");
    let mut found = Vec::new();
    for entry in fs::read_dir(&folder).map_err(|error| Error::io("list", &folder, error))? {
        let entry = entry.map_err(|error| Error::io("list", &folder, error))?;
        let Some(id) = entry.file_name().to_str().and_then(|name| name.parse::<SessionId>().ok()) else { continue };
        let path = entry.path();
        let file = match open_plain(&path, File::options().read(true)) {
            Ok(file) => file,
            // Gone meanwhile, or nothing that a process of ours has made.
            Err(error) if error.kind() == io::ErrorKind::NotFound || is_odd(&error) => continue,
            Err(error) => return Err(Error::io("open", &path, error)),
        };
        match file.try_lock() {
            Ok(()) => {
                let _lock = Lock::held(file);
                if clear {
                    let _ = fs::remove_file(&path);
                }
            }
            Err(TryLockError::WouldBlock) => {
                if let Some((pins, packs)) = read_pins(&path)? {
                    found.push(Live { id, pins, packs });
                }
            }
            Err(TryLockError::Error(error)) => return Err(Error::io("lock", &path, error)),
        }
    }
    Ok(found)
}

/// The pins of a live session; none when it ended meanwhile. A line that is just being written is waited for: leaving a
/// pin out could lose what it protects.
fn read_pins(path: &Path) -> Result<Option<Pins>> {
    for _ in 0..100 {
        let mut text = String::new();
        let read = open_plain(path, File::options().read(true))
            .and_then(|file| file.take(SESSION_BYTES_MAX + 1).read_to_string(&mut text));
        match read {
            Ok(bytes) if bytes as u64 > SESSION_BYTES_MAX => break,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io("read", path, error)),
        }
        if let Some(pins) = pins_in(&text) {
            return Ok(Some(pins));
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    Err(Error::corrupt(path.display(), "a live session's file can't be read"))
}

/// The pins that the lines of a session's file state; none when one of them is not whole.
pub fn pins_in(text: &str) -> Option<Pins> {
    let records: Option<Vec<Record>> = text.lines().map(|line| serde_json::from_str(line).ok()).collect();
    let mut pins = Pins::default();
    for record in records.filter(|_| text.ends_with('\n'))? {
        match record {
            Record::Session { .. } => {}
            Record::Pin(checkpoint) => pins.0.push(checkpoint),
            Record::PinPacks(packs) => pins.1.extend(packs),
        }
    }
    Some(pins)
}

/// Takes the lock that only one gc at a time has; tells the caller when somebody else has it.
pub fn lock_gc(root: &Path) -> Result<Lock> {
    let path = root.join("locks/gc");
    let file = open_lock(&path).map_err(|error| Error::io("lock", &path, error))?;
    match file.try_lock() {
        Ok(()) => {
            // For people and for the other gc's message only.
            let _ = file.set_len(0).and_then(|()| (&file).write_all(std::process::id().to_string().as_bytes()));
            Ok(Lock::held(file))
        }
        Err(TryLockError::WouldBlock) => {
            let pid = fs::read_to_string(&path).unwrap_or_default();
            Err(Error::Busy(format!("another gc is at work on this store (process {})", pid.trim())))
        }
        Err(TryLockError::Error(error)) => Err(Error::io("lock", &path, error)),
    }
}

/// Takes the lock under which the index is changed.
pub fn lock_index(root: &Path) -> Result<Lock> {
    lock_exclusive(&root.join("locks/index"))
}
