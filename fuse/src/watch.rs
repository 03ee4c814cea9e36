//! Tells the kernel what changed in the store, so that it may believe everything else for as long as it likes. Never
//! answers the kernel: it may have to wait for those who do.

use std::ffi::OsStr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use fuser::{INodeNo, Notifier};

use crate::answers::Change;
use crate::limits::{LOOK, LOOK_AGAIN};
use crate::metadata::Metadata;

/// Begins to look; ends when nobody has the metadata any more.
///
/// # Errors
/// When no thread can be started.
pub fn start(metadata: &Arc<Metadata>, notifier: Notifier) -> std::io::Result<()> {
    let metadata = Arc::downgrade(metadata);
    let tell = move |change: Change<'_>| match change {
        Change::Name { parent, name } => notifier.inval_entry(INodeNo(parent), OsStr::new(name)),
        // With all of its pages, in which the kernel keeps what it has read of the directory. A name that it has never
        // looked up makes it doubt nothing.
        Change::Directory(inode) => notifier.inval_inode(INodeNo(inode), 0, 0),
    };
    let watch = move || {
        let mut pause = LOOK;
        loop {
            std::thread::sleep(pause);
            let Some(metadata) = metadata.upgrade() else { return };
            pause = if look(&metadata, &tell) { LOOK } else { LOOK_AGAIN };
        }
    };
    std::thread::Builder::new().name("ckpt-watch".into()).spawn(watch).map(drop)
}

/// Looks once; whether all is well. One that panics, which the log then has, is not the end of it: the kernel would
/// believe for a year what it was told.
fn look(metadata: &Metadata, tell: impl Fn(Change<'_>) -> std::io::Result<()>) -> bool {
    catch_unwind(AssertUnwindSafe(|| metadata.look(tell))).unwrap_or(false)
}
