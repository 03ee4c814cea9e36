//! Tells the kernel what changed in the store, so that it may believe everything else for as long as it likes. Never answers the
//! kernel: it may have to wait for those who do.

use std::ffi::OsStr;
use std::sync::Arc;

use fuser::{INodeNo, Notifier};

use crate::answers::Change;
use crate::limits::LOOK;
use crate::metadata::Metadata;

/// Begins to look; ends when nobody has the metadata any more.
///
/// # Errors
/// When no thread can be started.
pub fn start(metadata: &Arc<Metadata>, notifier: Notifier) -> std::io::Result<()> {
    let metadata = Arc::downgrade(metadata);
    let watch = move || {
        loop {
            std::thread::sleep(LOOK);
            let Some(metadata) = metadata.upgrade() else { return };
            // What the kernel does not know it can't have wrong.
            metadata.look(|change| {
                _ = match change {
                    Change::Name { parent, name } => notifier.inval_entry(INodeNo(parent), OsStr::new(name)),
                    // With all of its pages, in which the kernel keeps what it has read of the directory. A name that it has
                    // never looked up makes it doubt nothing.
                    Change::Directory(inode) => notifier.inval_inode(INodeNo(inode), 0, 0),
                }
            });
        }
    };
    std::thread::Builder::new().name("ckpt-watch".into()).spawn(watch).map(drop)
}
