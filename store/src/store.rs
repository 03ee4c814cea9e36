//! A store: where it is, what it is made of and which checkpoints it has; `ops` adds a method for each verb. Never holds a
//! lock or an open database between two calls.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::backend::disk::{Disk, OsDisk};
use crate::backend::local::LocalBackend;
use crate::backend::{Backend, Key, read_whole};
use crate::catalog::{State, refs};
use crate::error::{Error, Result, Thing};
use crate::format::catalog::Entry;
use crate::format::head::{Format, Head};
use crate::format::manifest::Manifest;
use crate::id::{CheckpointId, ChunkId, StoreId};
use crate::index::Index;
use crate::limits::{HEAD_BYTES_MAX, OBJECT_BYTES_MAX};
use crate::space::RESERVE;

/// A store that can be used.
pub struct Store {
    root: PathBuf,
    id: StoreId,
    backend: LocalBackend,
    index: Index,
}

impl Store {
    /// Makes a new store in `root`, which must not exist, be empty, or hold what an interrupted init left.
    ///
    /// # Errors
    /// [`Error::Exists`] when there is a store, [`Error::Invalid`] when there is anything else.
    pub fn init(root: &Path) -> Result<Self> {
        Self::init_on(root, Arc::new(OsDisk))
    }

    /// [`Store::init`] with all changes of the disk going through `disk`.
    pub fn init_on(root: &Path, disk: Arc<dyn Disk>) -> Result<Self> {
        match fs::metadata(root) {
            Ok(there) if !there.is_dir() => {
                return Err(Error::Invalid(format!("{} is not a directory", root.display())));
            }
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(Error::io("read", root, error)),
            _ => {}
        }
        fs::create_dir_all(root).map_err(|error| Error::io("create", root, error))?;
        let backend = LocalBackend::new(root.to_owned(), Arc::clone(&disk));
        if backend.open(Key::Format)?.is_none() {
            if was_used(root) {
                return Err(Error::corrupt(Key::Format, "it is missing"));
            }
            let allowed =
                |name: &str| crate::backend::local::DIRECTORIES.contains(&name) || ["HEAD", RESERVE].contains(&name);
            for entry in fs::read_dir(root).map_err(|error| Error::io("read", root, error))? {
                let name = entry.map_err(|error| Error::io("read", root, error))?.file_name();
                if !name.to_str().is_some_and(allowed) {
                    return Err(Error::Invalid(format!("{} holds other things than a store", root.display())));
                }
            }
        }
        refuse_links(root)?;
        let id = StoreId::generate();
        let bytes = |bytes: std::result::Result<Vec<u8>, crate::format::FormatError>| {
            bytes.map_err(|error| error.of(Key::Format))
        };
        backend.init(&bytes(Head::new(id).to_bytes())?, &bytes(Format::new(id).to_bytes())?)?;
        crate::space::keep(root, 0);
        Self::open_on(root, disk)
    }

    /// Opens the store in `root`.
    ///
    /// # Errors
    /// [`Error::NotFound`] when there is none, [`Error::Unsupported`] when it is of another version.
    pub fn open(root: &Path) -> Result<Self> {
        Self::open_on(root, Arc::new(OsDisk))
    }

    /// [`Store::open`] with all changes of the disk going through `disk`.
    pub fn open_on(root: &Path, disk: Arc<dyn Disk>) -> Result<Self> {
        let backend = LocalBackend::new(root.to_owned(), disk);
        let Some(bytes) = read_whole(&backend, Key::Format, HEAD_BYTES_MAX)? else {
            if was_used(root) {
                return Err(Error::corrupt(Key::Format, "it is missing"));
            }
            return Err(Error::NotFound {
                thing: Thing::Store,
                name: format!("in {}", root.display()),
                near: Vec::new(),
            });
        };
        let format = Format::from_bytes(&bytes).map_err(|error| error.of(Key::Format))?;
        let head = read_whole(&backend, Key::Head, HEAD_BYTES_MAX)?
            .ok_or_else(|| Error::corrupt(Key::Head, "it is missing"))?;
        if Head::from_bytes(&head).map_err(|error| error.of(Key::Head))?.store != format.store {
            return Err(Error::corrupt(Key::Format, "it names another store than HEAD"));
        }
        refuse_links(root)?;
        // Tools that copy objects leave empty directories behind. Where nothing can be written, reading needs none of them.
        for directory in crate::backend::local::DIRECTORIES.map(|name| root.join(name)) {
            if !directory.exists() {
                let _ = backend.disk().create_dir(&directory);
            }
        }
        let index = Index::new(root, format.store);
        Ok(Self { root: root.to_owned(), id: format.store, backend, index })
    }

    /// The store of this name in `root`, whose FORMAT and HEAD may be lost.
    pub(crate) fn of(root: &Path, disk: Arc<dyn Disk>, id: StoreId) -> Self {
        let backend = LocalBackend::new(root.to_owned(), disk);
        Self { root: root.to_owned(), id, backend, index: Index::new(root, id) }
    }

    /// All checkpoints in the order in which they were stored.
    pub fn checkpoints(&self) -> Result<Vec<Entry>> {
        Ok(State::load(&self.backend)?.entries)
    }

    /// The checkpoints of one run, in the order in which they were stored.
    pub fn checkpoints_of(&self, run: &str) -> Result<Vec<Entry>> {
        let mut state = State::load(&self.backend)?;
        if refs::newest(&state, run).is_none() {
            return Err(refs::no_run(&state, run));
        }
        state.entries.retain(|entry| entry.run == run);
        Ok(state.entries)
    }

    /// A number that is another one after each change of what the store holds. Cheap: nothing but HEAD is read, and not what it
    /// says.
    pub fn changes(&self) -> Result<u64> {
        let head = read_whole(&self.backend, Key::Head, HEAD_BYTES_MAX)?
            .ok_or_else(|| Error::corrupt(Key::Head, "it is missing"))?;
        let hash = ChunkId::of(&head).0;
        Ok(hash.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    /// The description of a checkpoint.
    pub fn manifest(&self, id: CheckpointId) -> Result<Manifest> {
        let key = Key::Manifest(id);
        let bytes =
            read_whole(&self.backend, key, OBJECT_BYTES_MAX)?.ok_or_else(|| Error::corrupt(key, "it is missing"))?;
        let manifest = Manifest::from_bytes(id, &bytes).map_err(|error| error.of(key))?;
        if manifest.store == self.id { Ok(manifest) } else { Err(Error::corrupt(key, "it belongs to another store")) }
    }

    /// The store's directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The store's own name.
    pub fn id(&self) -> StoreId {
        self.id
    }

    pub(crate) fn backend(&self) -> &dyn Backend {
        &self.backend
    }

    /// What changes the disk.
    pub(crate) fn disk(&self) -> &dyn Disk {
        self.backend.disk()
    }

    pub(crate) fn index(&self) -> &Index {
        &self.index
    }

    /// The time for people, in milliseconds since 1970; nothing that must be safe depends on it.
    pub(crate) fn now_ms(&self) -> i64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    }
}

/// Refuses a store one of whose directories is a link: what is written, swept or unlinked there would be somebody else's.
fn refuse_links(root: &Path) -> Result<()> {
    match crate::backend::local::DIRECTORIES.into_iter().find(|name| root.join(name).is_symlink()) {
        Some(name) => Err(Error::corrupt(format!("{name}/"), "it is a link, which no directory of a store is")),
        None => Ok(()),
    }
}

/// Whether a directory without FORMAT is a store that lost it, which init must not make anew: an interrupted init leaves
/// nothing in these.
fn was_used(root: &Path) -> bool {
    let holds_any = |folder| match fs::read_dir(root.join(folder)) {
        Ok(mut entries) => entries.next().is_some(),
        // What can't be looked at may hold anything.
        Err(error) => !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory),
    };
    ["checkpoints", "packs", "catalog"].into_iter().any(holds_any)
}
