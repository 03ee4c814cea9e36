//! Answers the kernel: hands each request on to what knows, and says no to all that would change something. Never
//! decides what a path is or how bytes are read.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use ckpt_store::Store;
use fuser::{
    BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, FopenFlags, Generation, INodeNo, InitFlags,
    KernelConfig, LockOwner, OpenAccMode, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, Session,
    TimeOrNow, WriteFlags,
};

use crate::errno::errno;
use crate::facts::{Facts, Sources};
use crate::files::Files;
use crate::handle::join;
use crate::limits::{BACKGROUND_REQUESTS, REQUEST_BYTES, THREADS};
use crate::materialize::{Materializer, Opening};
use crate::metadata::Metadata;
use crate::warm::Warmer;
use crate::{Error, Log, Mounted, Options, Result, place, status, watch};

/// What is mounted.
struct Server {
    metadata: Arc<Metadata>,
    files: Arc<Files>,
    facts: Facts,
    /// What is laid down whole, where that was asked for.
    materializer: Option<Arc<Materializer>>,
    /// Whether the kernel opens directories without asking, if it is told to.
    may_open_alone: bool,
}

/// Marks the handles of files that the kernel reads by itself.
const THROUGH: u64 = 1 << 63;

thread_local! {
    /// What an answer is put together in that lies in several chunks.
    static JOINED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Mounts and begins to answer.
pub fn start(store: Arc<Store>, directory: &Path, options: &Options, log: Arc<dyn Log>) -> Result<Mounted> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let owner = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    let metadata = Arc::new(Metadata::new(Arc::clone(&store), options.runs.as_deref(), owner, Arc::clone(&log))?);
    let files = Files::start(Arc::clone(&store), options.cache_bytes, cores, Arc::clone(&log))
        .map_err(|source| Error::Io { what: "can't start threads".into(), source })?;
    let mut config = place::config(store.root(), options.allow_other);
    config.n_threads = Some((2 * cores).clamp(*THREADS.start(), *THREADS.end()));
    config.clone_fd = place::may_open_device();
    let warmer = Arc::new(Warmer::new(Arc::clone(&metadata), Arc::clone(&files), Arc::clone(&log)));
    let materializer = options.materialize.as_ref();
    let materializer = materializer.map(|options| Materializer::start(options, Arc::clone(&files), Arc::clone(&log)));
    let materializer = materializer.transpose()?.map(Arc::new);
    let sources =
        Sources { files: Arc::clone(&files), warmer: Arc::clone(&warmer), materializer: materializer.clone() };
    let facts = Facts::new(store.root(), directory, options, sources);
    let server = Server {
        metadata: Arc::clone(&metadata),
        files: Arc::clone(&files),
        facts,
        materializer,
        may_open_alone: false,
    };
    let session = Session::new(server, directory, &config)
        .and_then(Session::spawn)
        .map_err(|error| place::refusal(directory, error))?;
    files.meet(session.notifier());
    watch::start(&metadata, session.notifier())
        .map_err(|source| Error::Io { what: "can't start a thread".into(), source })?;
    Ok(Mounted::new(session, directory, warmer, log))
}

impl Filesystem for Server {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        // Each is the better of what an older kernel may lack.
        let _ = config.set_max_write(REQUEST_BYTES);
        let _ = config.set_max_background(BACKGROUND_REQUESTS);
        let wanted = InitFlags::FUSE_ASYNC_READ
            | InitFlags::FUSE_ASYNC_DIO
            | InitFlags::FUSE_PARALLEL_DIROPS
            | InitFlags::FUSE_NO_OPENDIR_SUPPORT
            | InitFlags::FUSE_DO_READDIRPLUS
            | InitFlags::FUSE_READDIRPLUS_AUTO
            | InitFlags::FUSE_CACHE_SYMLINKS
            | InitFlags::FUSE_EXPLICIT_INVAL_DATA
            // There are none, which `ls -l` then asks once of each file and not each time.
            | InitFlags::FUSE_POSIX_ACL;
        let _ = config.add_capabilities(wanted & config.capabilities());
        self.may_open_alone = config.capabilities().contains(InitFlags::FUSE_NO_OPENDIR_SUPPORT);
        if let Some(materializer) = &self.materializer {
            if !rustix::process::geteuid().is_root() {
                materializer.give_up("only root may hand files to the kernel");
            } else if config.add_capabilities(InitFlags::FUSE_PASSTHROUGH).is_err() {
                materializer.give_up("the kernel can't read files of a mount by itself, which Linux 6.9 and later can");
            } else {
                let _ = config.set_max_stack_depth(materializer.depth());
            }
        }
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        answer(|| match self.metadata.lookup(parent.0, name) {
            Ok(found) => reply.entry_with_ttls(&found.attr_ttl, &found.entry_ttl, &found.attr, Generation(0)),
            Err(error) => reply.error(error),
        });
    }

    fn forget(&self, _: &Request, inode: INodeNo, lookups: u64) {
        answer(|| {
            self.metadata.forget(inode.0, lookups);
        });
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        answer(|| match self.metadata.attributes(inode.0) {
            Ok((attributes, ttl)) => reply.attr(&ttl, &attributes),
            Err(error) => reply.error(error),
        });
    }

    fn readlink(&self, _: &Request, inode: INodeNo, reply: ReplyData) {
        answer(|| match self.metadata.read_link(inode.0) {
            Ok(target) => reply.data(&target),
            Err(error) => reply.error(error),
        });
    }

    fn open(&self, _: &Request, inode: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        answer(|| {
            if flags.acc_mode() != OpenAccMode::O_RDONLY {
                return reply.error(Errno::EROFS);
            }
            let source = match self.metadata.source(inode.0) {
                Ok(source) => source,
                Err(error) => return reply.error(error),
            };
            let ino = inode.0;
            if let Some(materializer) = &self.materializer {
                let name = || format!("{} of {}", source.file, source.name);
                let opening = Opening { ino, checkpoint: source.checkpoint, body: &source.body, name: &name };
                if let Some(backing) = materializer.open(&opening, |file| reply.open_backing(file)) {
                    let handle = FileHandle(self.files.number() | THROUGH);
                    return reply.opened_passthrough(handle, FopenFlags::FOPEN_NOFLUSH, &backing);
                }
            }
            // What it holds never changes: the kernel may keep what it has read of it.
            let flags = FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_NOFLUSH;
            match self.files.open(source.checkpoint, ino, source.body) {
                Ok(handle) => reply.opened(FileHandle(handle), flags),
                Err(error) => {
                    // The kernel asks once more for what has the name of one that is gone: another may be in its place.
                    self.metadata.catch_up();
                    self.materializer.iter().for_each(|materializer| materializer.close(ino, false));
                    reply.error(errno(&error));
                }
            }
        });
    }

    fn read(
        &self,
        _: &Request,
        inode: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        answer(|| {
            self.materializer.iter().for_each(|materializer| materializer.read(inode.0, size.into()));
            match self.files.read(handle.0, offset, size.into()) {
                None => reply.error(Errno::EBADF),
                Some(Err(error)) => reply.error(errno(&error)),
                Some(Ok(slices)) => match &slices[..] {
                    [] => reply.data(&[]),
                    [slice] => reply.data(slice),
                    slices => JOINED.with_borrow_mut(|joined| {
                        joined.clear();
                        join(slices, joined);
                        reply.data(joined);
                    }),
                },
            }
        });
    }

    fn release(
        &self,
        _: &Request,
        inode: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        answer(|| {
            let is_through = handle.0 & THROUGH != 0;
            if !is_through {
                self.files.close(handle.0);
            }
            self.materializer.iter().for_each(|materializer| materializer.close(inode.0, is_through));
            reply.ok();
        });
    }

    fn opendir(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        if self.may_open_alone {
            // The kernel never asks again, keeps what it has read of directories, and is told what changes.
            reply.error(Errno::ENOSYS);
        } else {
            reply.opened(FileHandle(0), FopenFlags::FOPEN_CACHE_DIR | FopenFlags::FOPEN_KEEP_CACHE);
        }
    }

    fn readdir(&self, _: &Request, inode: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        answer(|| match self.metadata.directory(inode.0, offset) {
            Ok(directory) => {
                self.metadata.entries(&directory, offset, |entry| {
                    reply.add(INodeNo(entry.ino), entry.next, entry.kind, entry.name)
                });
                reply.ok();
            }
            Err(error) => reply.error(error),
        });
    }

    fn readdirplus(&self, _: &Request, inode: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectoryPlus) {
        answer(|| match self.metadata.directory(inode.0, offset) {
            Ok(directory) => {
                self.metadata.entries_plus(&directory, offset, |entry| {
                    reply.add(entry.attr.ino, entry.next, entry.name, &entry.ttl, &entry.attr, Generation(0))
                });
                reply.ok();
            }
            Err(error) => reply.error(error),
        });
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        answer(|| match self.metadata.statfs() {
            Ok(space) => reply.statfs(
                space.blocks,
                space.free,
                space.available,
                space.files,
                0,
                space.block_bytes,
                space.name_bytes_max,
                space.block_bytes,
            ),
            Err(error) => reply.error(error),
        });
    }

    fn getxattr(&self, _: &Request, inode: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        answer(|| {
            let value = if inode == INodeNo::ROOT && name == status::ATTRIBUTE {
                Ok(self.facts.status().to_bytes())
            } else {
                let stored = |id, file| self.files.stored_bytes(id, file).map_err(|error| errno(&error));
                self.metadata.xattr(inode.0, name, stored)
            };
            answer_xattr(value, size, reply);
        });
    }

    fn listxattr(&self, _: &Request, inode: INodeNo, size: u32, reply: ReplyXattr) {
        answer(|| {
            answer_xattr(self.metadata.xattr_names(inode.0), size, reply);
        });
    }

    // The kernel asks none of the following of a file system that is mounted read-only; somebody may remount it.

    fn setattr(
        &self,
        _: &Request,
        _: INodeNo,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        reply.error(Errno::EROFS);
    }

    fn mknod(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, _: u32, _: u32, reply: ReplyEntry) {
        reply.error(Errno::EROFS);
    }

    fn mkdir(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, _: u32, reply: ReplyEntry) {
        reply.error(Errno::EROFS);
    }

    fn unlink(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::EROFS);
    }

    fn rmdir(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::EROFS);
    }

    fn symlink(&self, _: &Request, _: INodeNo, _: &OsStr, _: &Path, reply: ReplyEntry) {
        reply.error(Errno::EROFS);
    }

    fn rename(&self, _: &Request, _: INodeNo, _: &OsStr, _: INodeNo, _: &OsStr, _: RenameFlags, reply: ReplyEmpty) {
        reply.error(Errno::EROFS);
    }

    fn link(&self, _: &Request, _: INodeNo, _: INodeNo, _: &OsStr, reply: ReplyEntry) {
        reply.error(Errno::EROFS);
    }

    fn create(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, _: u32, _: i32, reply: ReplyCreate) {
        reply.error(Errno::EROFS);
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: u64,
        _: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        reply.error(Errno::EROFS);
    }

    fn fallocate(&self, _: &Request, _: INodeNo, _: FileHandle, _: u64, _: u64, _: i32, reply: ReplyEmpty) {
        reply.error(Errno::EROFS);
    }

    fn copy_file_range(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: u64,
        _: INodeNo,
        _: FileHandle,
        _: u64,
        _: u64,
        _: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        // Which of the two is ours the kernel doesn't say; it then copies by reading and writing.
        reply.error(Errno::EOPNOTSUPP);
    }

    fn setxattr(&self, _: &Request, _: INodeNo, _: &OsStr, _: &[u8], _: i32, _: u32, reply: ReplyEmpty) {
        reply.error(Errno::EROFS);
    }

    fn removexattr(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::EROFS);
    }
}

/// Answers a request. One that panics is an input/output error for whoever asked, and not the end of a thread, of which
/// there are few: by the first that ends, the mount does.
fn answer(request: impl FnOnce()) {
    // What it was is told by the panic itself, in the log.
    let _ = catch_unwind(AssertUnwindSafe(request));
}

/// Answers a value whose length was asked for with a size of 0, or that must fit into `size` bytes.
fn answer_xattr(value: std::result::Result<Vec<u8>, Errno>, size: u32, reply: ReplyXattr) {
    match value {
        Ok(value) if size == 0 => reply.size(u32::try_from(value.len()).unwrap_or(u32::MAX)),
        Ok(value) if value.len() > size as usize => reply.error(Errno::ERANGE),
        Ok(value) => reply.data(&value),
        Err(error) => reply.error(error),
    }
}
