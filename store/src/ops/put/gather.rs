//! What is to be stored: walks files and directories, opens the files, and takes in those that are given in memory. Never
//! reads content, and never follows a link inside a tree.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::source::SourceFile;
use crate::catalog::refs::distance;
use crate::error::{Error, Result, Thing};
use crate::format::manifest::{check_component, check_path, link_stays_inside, parent_of};
use crate::limits::{FILES_MAX, PATH_BYTES_MAX};
use crate::split::Source;

/// Files kept open while they are stored; more are opened again for each read.
const OPEN_MAX: usize = 128;

/// The mode of a directory that only a given file's path names.
const DIRECTORY_MODE: u32 = 0o755;

/// A file of a checkpoint that lies in memory, or wherever else its source reads it from.
#[derive(Clone)]
pub struct Given {
    /// Its path inside the checkpoint: relative, components separated by `/`.
    pub path: String,
    /// Permission bits, at most `0o777`.
    pub mode: u32,
    /// Its bytes.
    pub source: Arc<dyn Source>,
}

impl fmt::Debug for Given {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, mode, source } = self;
        write!(f, "Given({path:?}, {mode:o}, {} bytes)", source.size())
    }
}

/// Everything that one checkpoint is made of, directories before what is in them.
pub struct Gathered {
    /// The directory's name when the checkpoint is one directory.
    pub root: Option<Vec<u8>>,
    /// Members in the order of the manifest.
    pub members: Vec<Member>,
}

/// One member: where it goes and what it is.
pub struct Member {
    /// Path inside the checkpoint.
    pub path: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
    /// Time of the last change, milliseconds since 1970.
    pub mtime_ms: i64,
    /// What it is.
    pub kind: MemberKind,
}

/// What a member is.
pub enum MemberKind {
    /// A regular file.
    File(Arc<SourceFile>),
    /// A directory.
    Directory,
    /// A symbolic link and where it points.
    Link(Vec<u8>),
}

impl Gathered {
    /// Adds files that are not on the disk as `paths` are, and the directories that their paths need; their time is `now_ms`.
    pub fn add(&mut self, given: &[Given], now_ms: i64) -> Result<()> {
        if given.is_empty() {
            return Ok(());
        }
        let mut by_path: BTreeMap<Vec<u8>, Member> =
            std::mem::take(&mut self.members).into_iter().map(|member| (member.path.clone(), member)).collect();
        for Given { path, mode, source } in given {
            check_path(path.as_bytes()).map_err(|error| Error::Invalid(error.to_string()))?;
            if *mode > 0o777 {
                return Err(Error::Invalid(format!("{path:?} is given with the mode {mode:o}, which no file has")));
            }
            let mut above = parent_of(path.as_bytes());
            while !above.is_empty() {
                let directory = by_path.entry(above.to_vec()).or_insert_with(|| Member {
                    path: above.to_vec(),
                    mode: DIRECTORY_MODE,
                    mtime_ms: now_ms,
                    kind: MemberKind::Directory,
                });
                if !matches!(directory.kind, MemberKind::Directory) {
                    let above = String::from_utf8_lossy(above);
                    return Err(Error::Invalid(format!("{path:?} is in {above:?}, which is no directory")));
                }
                above = parent_of(above);
            }
            let kind = MemberKind::File(Arc::new(SourceFile::given(path, source)));
            let member = Member { path: path.clone().into_bytes(), mode: *mode, mtime_ms: now_ms, kind };
            if by_path.insert(member.path.clone(), member).is_some() {
                return Err(Error::Invalid(format!("two members of the checkpoint are both named {path:?}")));
            }
            if by_path.len() > FILES_MAX {
                return Err(Error::Invalid(format!("{path:?} is more than a checkpoint can hold")));
            }
        }
        self.members = by_path.into_values().collect();
        Ok(())
    }

    /// Makes the checkpoint one directory of this name.
    pub fn name_root(&mut self, root: &str) -> Result<()> {
        check_component(root.as_bytes()).map_err(|error| Error::Invalid(error.to_string()))?;
        self.root = Some(root.as_bytes().to_vec());
        Ok(())
    }
}

/// Walks `paths`. One directory becomes the checkpoint's root; otherwise each path becomes a member by its own name. The
/// store itself, when it lies in one of them, is left out.
pub fn gather(paths: &[PathBuf], store: &Path) -> Result<Gathered> {
    let store = fs::metadata(store).map_err(|error| Error::io("read", store, error))?;
    let store = (store.dev(), store.ino());
    let mut by_path = BTreeMap::new();
    let mut root = None;
    let mut open = 0;
    for path in paths {
        // A path that the caller names may be a link, such as Lightning's last.ckpt; inside a tree links stay links.
        let metadata = fs::metadata(path).map_err(|error| missing(path, error))?;
        let name = name_of(path)?;
        if metadata.is_dir() && paths.len() == 1 {
            walk(path, &[], store, &mut by_path, &mut open)?;
            root = Some(name);
            continue;
        }
        if by_path.contains_key(&name) {
            return Err(Error::Invalid(format!(
                "two of the paths are both named {:?}",
                String::from_utf8_lossy(&name)
            )));
        }
        let is_dir = metadata.is_dir();
        let member = member_of(path, name.clone(), &metadata, &mut open)?;
        by_path.insert(name.clone(), member);
        if is_dir {
            walk(path, &name, store, &mut by_path, &mut open)?;
        }
    }
    Ok(Gathered { root, members: by_path.into_values().collect() })
}

fn walk(
    top: &Path,
    prefix: &[u8],
    store: (u64, u64),
    found: &mut BTreeMap<Vec<u8>, Member>,
    open: &mut usize,
) -> Result<()> {
    let is_store = |entry: &walkdir::DirEntry| {
        entry.file_type().is_dir() && entry.metadata().is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == store)
    };
    for entry in walkdir::WalkDir::new(top).min_depth(1).into_iter().filter_entry(|entry| !is_store(entry)) {
        let entry = entry.map_err(|error| {
            let path = error.path().unwrap_or(top).to_owned();
            Error::io("read", &path, error.into())
        })?;
        let relative = entry.path().strip_prefix(top).map_err(|error| Error::Internal(error.to_string()))?;
        let mut path = prefix.to_vec();
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(relative.as_os_str().as_bytes());
        if path.len() > PATH_BYTES_MAX || found.len() >= FILES_MAX {
            return Err(Error::Invalid(format!("{} is more than a checkpoint can hold", entry.path().display())));
        }
        let metadata = fs::symlink_metadata(entry.path()).map_err(|error| Error::io("read", entry.path(), error))?;
        let member = member_of(entry.path(), path.clone(), &metadata, open)?;
        if let MemberKind::Link(target) = &member.kind
            && !link_stays_inside(relative.as_os_str().as_bytes(), target)
        {
            return Err(Error::Invalid(format!(
                "{} is a link to {:?}, outside of what is being stored",
                entry.path().display(),
                String::from_utf8_lossy(target)
            )));
        }
        found.insert(path, member);
    }
    Ok(())
}

fn member_of(at: &Path, path: Vec<u8>, metadata: &Metadata, open: &mut usize) -> Result<Member> {
    let kind = if metadata.is_symlink() {
        let target = fs::read_link(at).map_err(|error| Error::io("read", at, error))?;
        MemberKind::Link(target.into_os_string().into_vec())
    } else if metadata.is_dir() {
        MemberKind::Directory
    } else if metadata.is_file() {
        let file = File::open(at).map_err(|error| Error::io("open", at, error))?;
        *open += 1;
        MemberKind::File(Arc::new(SourceFile::open(at, file, *open <= OPEN_MAX)?))
    } else {
        return Err(Error::Invalid(format!("{} is neither file, directory nor link", at.display())));
    };
    let mtime_ms = metadata.mtime().saturating_mul(1000).saturating_add(metadata.mtime_nsec() / 1_000_000);
    Ok(Member { path, mode: metadata.permissions().mode() & 0o777, mtime_ms, kind })
}

/// The name that a path's member or root gets: its last component, also for `.` and `dir/..`.
fn name_of(path: &Path) -> Result<Vec<u8>> {
    let name = match path.file_name() {
        Some(name) => Some(name.to_owned()),
        None => path.canonicalize().ok().and_then(|path| path.file_name().map(ToOwned::to_owned)),
    };
    name.map(OsStringExt::into_vec)
        .ok_or_else(|| Error::Invalid(format!("{} has no name to store it by", path.display())))
}

fn missing(path: &Path, error: io::Error) -> Error {
    if error.kind() == io::ErrorKind::NotFound {
        let near =
            fs::read_dir(path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new(".")))
                .map(|entries| similar(path, entries.filter_map(|entry| entry.ok().map(|entry| entry.path()))))
                .unwrap_or_default();
        return Error::NotFound { thing: Thing::Source, name: path.display().to_string(), near };
    }
    Error::io("read", path, error)
}

/// Names beside a missing path that begin the same or differ by a slip: a step mistyped is the usual reason.
fn similar(path: &Path, beside: impl Iterator<Item = PathBuf>) -> Vec<String> {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let stem: String = name.chars().take_while(|c| !c.is_ascii_digit()).collect();
    let mut near: Vec<String> = beside
        .filter_map(|path| path.file_name().map(|name| name.to_string_lossy().into_owned()))
        .filter(|other| {
            (stem.len() >= 3 && other.starts_with(&stem)) || distance(&name, other) <= name.len().min(8) / 4
        })
        .collect();
    near.sort_unstable();
    near.truncate(3);
    near
}

impl Member {
    /// The file it is read from, when it is a regular file.
    pub fn source(&self) -> Option<&Arc<SourceFile>> {
        if let MemberKind::File(source) = &self.kind { Some(source) } else { None }
    }
}
