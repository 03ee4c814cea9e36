//! Splits the files of a checkpoint, and gives tensors the names that another of its files has for them. Never reads a file
//! for its content's sake: what can't be understood has no segments or names, and is stored all the same.

use std::sync::Arc;

use rayon::prelude::*;

use super::gather::Member;
use super::source::SourceFile;
use crate::error::Result;
use crate::split::{self, DistributedNames, Source, Split};

/// The file in which `torch.distributed.checkpoint` says what the files beside it hold.
const METADATA: &[u8] = b".metadata";

/// Files that are split at once: a hostile pickle takes some 300 MB, and there may be many processors.
const AT_ONCE: usize = 4;

/// What the metadata in these folders calls tensors; each folder's path ends with `/`, but for the root's.
pub(super) type Names = Vec<(Vec<u8>, DistributedNames)>;

/// Splits the files in parallel, for a checkpoint of shards has many; one for each member that is a file. Gives the names as
/// well that they were given.
pub(super) fn split_all(members: &[Member]) -> Result<(Vec<Split>, Names)> {
    let files: Vec<(&[u8], &Arc<SourceFile>)> =
        members.iter().filter_map(|member| Some((&member.path[..], member.source()?))).collect();
    let split = |(_, source): &(&[u8], &Arc<SourceFile>)| {
        let reading: Arc<dyn Source> = Arc::<SourceFile>::clone(source);
        split::split(&reading).map_err(|error| source.read_error(error))
    };
    let mut splits = Vec::with_capacity(files.len());
    for some in files.chunks(AT_ONCE) {
        splits.extend(some.par_iter().map(split).collect::<Result<Vec<Split>>>()?);
    }
    let mut all_names = Names::new();
    for (path, source) in &files {
        let Some(folder) = path.strip_suffix(METADATA).filter(|folder| folder.is_empty() || folder.ends_with(b"/"))
        else {
            continue;
        };
        let names = DistributedNames::read(&***source).map_err(|error| source.read_error(error))?;
        let Some(names) = names else { continue };
        for ((path, _), split) in files.iter().zip(&mut splits) {
            if let Some(Ok(path)) = path.strip_prefix(folder).map(str::from_utf8) {
                names.apply(path, split);
            }
        }
        all_names.push((folder.to_vec(), names));
    }
    Ok((splits, all_names))
}
