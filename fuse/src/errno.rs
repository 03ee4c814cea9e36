//! What the kernel is told when the store says no. Never hides why: what people should know goes to the log.

use ckpt_store::Error;
use fuser::Errno;

/// The number for an error of the store.
pub fn errno(error: &Error) -> Errno {
    match error {
        // What was there when the path was looked up.
        Error::NotFound { .. } => Errno::ESTALE,
        Error::Invalid(_) | Error::UnsuitedTensor { .. } | Error::Unsupported(_) => Errno::EOPNOTSUPP,
        Error::Interrupted => Errno::EINTR,
        // Not EAGAIN, which readers take for no bytes yet: Python's files then end without an error.
        Error::Busy(_) => Errno::EBUSY,
        Error::Unavailable { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => Errno::EACCES,
        _ => Errno::EIO,
    }
}
