//! Whether a checkpoint in a directory is complete, as far as can be seen from outside: nobody has it open for writing, and
//! its files end where their containers say. Never waits and never changes anything.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use super::find::{Candidate, TRAINER_STATE};
use crate::names;
use crate::split::{Source, cut_short};

/// A file that is only looked at.
struct Look {
    file: File,
    size: u64,
}

impl Source for Look {
    fn size(&self) -> u64 {
        self.size
    }
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buf, offset)
    }
}

/// Why a candidate, whose files have not changed for a while, is not complete all the same.
pub fn incomplete(dir: &Path, candidate: &Candidate) -> io::Result<Option<String>> {
    let top = dir.join(&candidate.name);
    let is_hf = candidate.name.to_str().is_some_and(|name| name.starts_with("checkpoint-"));
    if candidate.stamp.is_tree {
        if candidate.stamp.files().next().is_none() {
            return Ok(Some("it is empty".into()));
        }
        // Transformers writes it last; folders of such a name that other tools write hold none of these files.
        let has = |name: &str| candidate.stamp.files().any(|(path, _)| path == Path::new(name));
        let is_hf =
            is_hf && ["config.json", "adapter_config.json", "training_args.bin", "optimizer.pt"].into_iter().any(has);
        if is_hf && !has(TRAINER_STATE) {
            return Ok(Some(format!("its {TRAINER_STATE} is not there yet")));
        }
    }
    for (relative, _) in candidate.stamp.files() {
        let path = if relative.as_os_str().is_empty() { top.clone() } else { top.join(relative) };
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if !names::has_checkpoint_ending(&name) && candidate.stamp.is_tree {
            continue;
        }
        let file = File::open(&path)?;
        let size = file.metadata()?.len();
        match cut_short(&Look { file, size }, &name) {
            Ok(None) => {}
            Ok(Some(reason)) if candidate.stamp.is_tree => return Ok(Some(format!("{name}: {reason}"))),
            Ok(Some(reason)) => return Ok(Some(reason.into())),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(Some("it became shorter".into())),
            Err(error) => return Err(error),
        }
    }
    let mut files = HashSet::new();
    for (relative, inode) in candidate.stamp.files() {
        let path = if relative.as_os_str().is_empty() { top.clone() } else { top.join(relative) };
        files.insert((fs::symlink_metadata(&path)?.dev(), inode));
    }
    Ok(is_open_for_writing(&files).then(|| "a process has it open for writing".into()))
}

/// Whether a process of this machine that we may look at has one of these files open for writing. Of those that we may not
/// look at, or that run elsewhere, only the quiet of the file tells.
fn is_open_for_writing(files: &HashSet<(u64, u64)>) -> bool {
    let Ok(processes) = fs::read_dir("/proc") else { return false };
    let numbers = processes.flatten().filter(|entry| entry.file_name().to_string_lossy().parse::<u32>().is_ok());
    numbers.into_iter().any(|process| {
        let Ok(open) = fs::read_dir(process.path().join("fd")) else { return false };
        open.flatten().any(|entry| {
            let is_one = fs::metadata(entry.path()).is_ok_and(|it| files.contains(&(it.dev(), it.ino())));
            is_one && writes(&process.path().join("fdinfo").join(entry.file_name()))
        })
    })
}

/// Whether the flags of an open file, octal in its line `flags:`, allow writing.
fn writes(fdinfo: &Path) -> bool {
    const ACCESS_MODE: u32 = 0o3;
    let Ok(text) = fs::read_to_string(fdinfo) else { return false };
    let flags = text.lines().find_map(|line| line.strip_prefix("flags:"));
    flags.and_then(|flags| u32::from_str_radix(flags.trim(), 8).ok()).is_some_and(|flags| flags & ACCESS_MODE != 0)
}
