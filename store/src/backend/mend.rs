//! Puts a new FORMAT or HEAD in the place of one that is missing or damaged. Never throws away what was there: it is kept
//! beside it for people to look at.

use std::fs;
use std::path::PathBuf;

use super::local::{HEAD_LOCK, LocalBackend, TMP, lock_exclusive};
use super::{Key, read_whole};
use crate::error::{Error, Result};
use crate::id::SessionId;
use crate::limits::HEAD_BYTES_MAX;

/// FORMAT or HEAD as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Remains {
    /// There is nothing.
    Missing,
    /// These bytes, which are not what they should be.
    Bytes(Vec<u8>),
    /// More bytes than it can have.
    TooLarge,
}

impl LocalBackend {
    /// Reads FORMAT or HEAD, whatever it holds.
    pub fn remains(&self, key: Key) -> Result<Remains> {
        match read_whole(self, key, HEAD_BYTES_MAX) {
            Ok(Some(bytes)) => Ok(Remains::Bytes(bytes)),
            Ok(None) => Ok(Remains::Missing),
            Err(Error::Corrupt { .. }) => Ok(Remains::TooLarge),
            Err(error) => Err(error),
        }
    }

    /// Replaces FORMAT or HEAD by `new` if it is still what was found. Answers the name under which that is kept, if there
    /// was anything.
    pub fn mend(&self, key: Key, found: &Remains, new: &[u8]) -> Result<Option<String>> {
        let _lock = lock_exclusive(&self.root().join(HEAD_LOCK))?;
        if self.remains(key)? != *found {
            return Err(Error::Busy(format!("{key} was replaced meanwhile")));
        }
        let aside = match found {
            Remains::Missing => None,
            Remains::Bytes(bytes) => Some(self.keep_copy(key, bytes)?),
            Remains::TooLarge => {
                let name = aside_name(key);
                self.rename(&self.path(key), &self.root().join(&name))?;
                Some(name)
            }
        };
        self.replace(key, new)?;
        Ok(aside)
    }

    /// Keeps a copy of these bytes under a name beside `key`; the name that has them already when a repair that was killed
    /// came this far before.
    fn keep_copy(&self, key: Key, bytes: &[u8]) -> Result<String> {
        let root = self.root();
        for entry in fs::read_dir(root).map_err(|error| Error::io("list", root, error))? {
            let name = entry.map_err(|error| Error::io("list", root, error))?.file_name();
            let is_kept = |name: &&str| name.starts_with(&aside_prefix(key));
            if let Some(name) = name.to_str().filter(is_kept)
                && fs::read(root.join(name)).is_ok_and(|kept| kept == bytes)
            {
                return Ok(name.to_owned());
            }
        }
        let name = aside_name(key);
        let from: PathBuf = root.join(TMP).join(format!("aside.{name}"));
        let failed = |error| Error::io("write", &from, error);
        let write = || {
            let mut file = self.disk().create(&from)?;
            file.append(bytes)?;
            file.sync()
        };
        if let Err(error) = write() {
            let _ = self.disk().remove(&from);
            return Err(failed(error));
        }
        self.rename(&from, &root.join(&name))?;
        Ok(name)
    }

    fn rename(&self, from: &std::path::Path, to: &std::path::Path) -> Result<()> {
        let renamed = self.disk().rename(from, to).and_then(|()| self.disk().sync_dir(self.root()));
        renamed.map_err(|error| Error::io("write", to, error))
    }
}

fn aside_prefix(key: Key) -> String {
    format!("{key}.damaged-")
}

fn aside_name(key: Key) -> String {
    aside_prefix(key) + &SessionId::generate().to_string()
}
