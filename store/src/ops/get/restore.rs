//! The files of a get while they are being written. Everything lies under a temporary name beside the target until it is
//! whole and durable. Never follows a link: it writes into a directory that it made itself, and makes links last.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{self, File, FileTimes, OpenOptions, Permissions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::format::manifest::{Content, File as Member, Manifest};
use crate::ops::place::{exists, parent_of, put_in_place, remove_tree, temporary_beside};

/// Files kept open while they are written; more are opened again for each piece.
const OPEN_MAX: usize = 128;

/// What a target becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// The one chosen file or link.
    File,
    /// A directory that holds what was chosen.
    Tree,
    /// It is a directory already, of other things too, and gets each chosen member that is in no other.
    Members,
}

/// Files on their way to a target.
pub struct Restore<'a> {
    manifest: &'a Manifest,
    chosen: &'a [u32],
    target: PathBuf,
    temporary: PathBuf,
    shape: Shape,
    /// Whether what has the name already is replaced.
    force: bool,
    open: HashMap<u32, File>,
    finished: bool,
}

impl<'a> Restore<'a> {
    /// Makes the directories and the files in their full size, with what the manifest holds of them inline.
    pub fn begin(manifest: &'a Manifest, chosen: &'a [u32], shape: Shape, target: &Path, force: bool) -> Result<Self> {
        let mut restore = Self {
            manifest,
            chosen,
            target: target.to_owned(),
            temporary: PathBuf::new(),
            shape,
            force,
            open: HashMap::new(),
            // So far there is nothing to clear away.
            finished: true,
        };
        let moves = restore.moves();
        for (_, to) in &moves {
            if !force && fs::symlink_metadata(to).is_ok() {
                return Err(exists(to));
            }
        }
        restore.temporary = temporary_beside(moves.first().map_or(target, |(_, to)| to))?;
        restore.finished = false;
        if shape != Shape::File {
            fs::create_dir(&restore.temporary).map_err(|error| restore.write_error(&restore.temporary, error))?;
        }
        for file in chosen {
            let member = &manifest.files[*file as usize];
            let path = restore.path_of(*file);
            match &member.content {
                Content::Directory => fs::create_dir(&path).map_err(|error| restore.write_error(&path, error))?,
                Content::Link { .. } => {}
                Content::File { size, .. } => {
                    // Private until it is whole; the real mode comes last.
                    let created = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
                    let opened = created.map_err(|error| restore.write_error(&path, error))?;
                    opened.set_len(*size).map_err(|error| restore.write_error(&path, error))?;
                    for (at, range) in manifest.inline_pieces(*file) {
                        opened
                            .write_all_at(&manifest.inline[range], at)
                            .map_err(|error| restore.write_error(&path, error))?;
                    }
                    if restore.open.len() < OPEN_MAX {
                        restore.open.insert(*file, opened);
                    }
                }
            }
        }
        Ok(restore)
    }

    /// Writes a piece of a file.
    pub fn write(&self, file: u32, at: u64, bytes: &[u8]) -> Result<()> {
        let written = match self.open.get(&file) {
            Some(open) => open.write_all_at(bytes, at),
            None => {
                OpenOptions::new().write(true).open(self.path_of(file)).and_then(|open| open.write_all_at(bytes, at))
            }
        };
        written.map_err(|error| self.write_error(&self.path_of(file), error))
    }

    /// Makes everything durable and gives it its name.
    pub fn finish(mut self) -> Result<()> {
        self.chosen.par_iter().try_for_each(|file| self.finish_file(*file))?;
        // Directories last and deepest first: a read-only one could not be filled, and filling it changes its time.
        for file in self.chosen.iter().rev() {
            let member = &self.manifest.files[*file as usize];
            if matches!(member.content, Content::Directory) {
                let path = self.path_of(*file);
                let done = File::open(&path).and_then(|directory| {
                    directory.set_permissions(Permissions::from_mode(member.mode))?;
                    directory.set_times(times(member))?;
                    directory.sync_all()
                });
                done.map_err(|error| self.write_error(&path, error))?;
            }
        }
        if self.shape != Shape::File {
            let synced = File::open(&self.temporary).and_then(|directory| directory.sync_all());
            synced.map_err(|error| self.write_error(&self.temporary, error))?;
        }
        for (from, to) in self.moves() {
            put_in_place(&from, &to, self.force).map_err(|error| match error.kind() {
                io::ErrorKind::AlreadyExists => exists(&to),
                _ => self.write_error(&to, error),
            })?;
        }
        self.finished = self.shape != Shape::Members;
        let parent = parent_of(&self.temporary);
        File::open(parent).and_then(|parent| parent.sync_all()).map_err(|error| Error::io("write", parent, error))
    }

    /// What gets which name at the end.
    fn moves(&self) -> Vec<(PathBuf, PathBuf)> {
        if self.shape != Shape::Members {
            return vec![(self.temporary.clone(), self.target.clone())];
        }
        let paths = self.chosen.iter().map(|file| &self.manifest.files[*file as usize].path);
        let tops = paths.filter(|path| !path.contains(&b'/')).map(|path| OsStr::from_bytes(path));
        tops.map(|name| (self.temporary.join(name), self.target.join(name))).collect()
    }

    fn finish_file(&self, file: u32) -> Result<()> {
        let member = &self.manifest.files[file as usize];
        let path = self.path_of(file);
        let done = match &member.content {
            Content::Directory => Ok(()),
            Content::Link { target } => symlink(OsStr::from_bytes(target), &path),
            Content::File { .. } => {
                let finish = |open: &File| {
                    open.set_permissions(Permissions::from_mode(member.mode))?;
                    open.set_times(times(member))?;
                    open.sync_all()
                };
                match self.open.get(&file) {
                    Some(open) => finish(open),
                    None => OpenOptions::new().write(true).open(&path).and_then(|open| finish(&open)),
                }
            }
        };
        done.map_err(|error| self.write_error(&path, error))
    }

    fn path_of(&self, file: u32) -> PathBuf {
        if self.shape == Shape::File {
            self.temporary.clone()
        } else {
            self.temporary.join(OsStr::from_bytes(&self.manifest.files[file as usize].path))
        }
    }

    /// An error of writing, told by the name that the user gave and not by the temporary one.
    fn write_error(&self, path: &Path, error: io::Error) -> Error {
        let told = path.strip_prefix(&self.temporary).ok().filter(|rest| !rest.as_os_str().is_empty());
        Error::io("write", &told.map_or_else(|| self.target.clone(), |rest| self.target.join(rest)), error)
    }
}

impl Drop for Restore<'_> {
    fn drop(&mut self) {
        if !self.finished {
            // Best effort; the name tells a person what it is.
            let _ = match self.shape {
                Shape::File => fs::remove_file(&self.temporary),
                Shape::Tree | Shape::Members => remove_tree(&self.temporary),
            };
        }
    }
}

fn times(member: &Member) -> FileTimes {
    let distance = Duration::from_millis(member.mtime_ms.unsigned_abs());
    let mtime = if member.mtime_ms >= 0 {
        SystemTime::UNIX_EPOCH.checked_add(distance)
    } else {
        SystemTime::UNIX_EPOCH.checked_sub(distance)
    };
    mtime.map_or_else(FileTimes::new, |mtime| FileTimes::new().set_modified(mtime))
}
