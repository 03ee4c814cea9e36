//! The command line as clap sees it. The doc comments are the help; docs/cli.md shows them and a test compares. Never runs
//! anything.

mod mount;
mod tensors;
mod values;

use std::path::PathBuf;

use clap::builder::TypedValueParser;
use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};

pub use mount::{Mount, Umount};
pub use tensors::{Diff, Log};
use values::{age, bytes, key_value, metric, seconds};

/// Options that every command has stand apart: among a command's own they would hide them.
const COMMON: &str = "Common options";

/// Keeps training checkpoints: cut at tensor borders, each chunk compressed and kept once.
///
/// A REF names a checkpoint: RUN@STEP, RUN@latest, RUN@best[:METRIC[:min|max]], RUN@TAG, RUN (the latest),
/// RUN@latest-good (the latest that reads back sound), or an id.
#[derive(Debug, Parser)]
#[command(name = "ckpt", version, max_term_width = 100)]
pub struct Args {
    /// Where the store is; otherwise the nearest directory `.ckpt` here or above
    // Read as text that may be empty: an empty CKPT_STORE gets our own message and not one about a flag that nobody gave.
    #[arg(long, global = true, value_name = "PATH", env = "CKPT_STORE", hide_env_values = true, help_heading = COMMON,
        value_parser = clap::builder::OsStringValueParser::new().map(PathBuf::from))]
    pub store: Option<PathBuf>,
    /// Print one JSON value on stdout instead of text
    #[arg(long, global = true, help_heading = COMMON)]
    pub json: bool,
    /// Show no progress
    #[arg(long, short, global = true, help_heading = COMMON)]
    pub quiet: bool,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a store: in --store, or in `.ckpt` here
    Init,
    /// Store files or directories as one checkpoint
    Put(Put),
    /// Give files back
    Get(Get),
    /// List the runs, or the checkpoints of one
    Ls(Ls),
    /// Show one checkpoint's files and tensors
    Show(Show),
    /// Show what differs between two checkpoints
    Diff(Diff),
    /// Follow one tensor over the checkpoints of a run
    Log(Log),
    /// Drop checkpoints; gc frees their room
    Rm(Rm),
    /// Name a checkpoint; tagged ones are kept by every rule
    Tag(Tag),
    /// Take a tag away
    Untag(Untag),
    /// Keep a checkpoint from rm, put --replace and every rule
    Pin(Reference),
    /// Undo pin
    Unpin(Reference),
    /// Say which checkpoints of which runs are kept
    #[command(subcommand)]
    Policy(Policy),
    /// Drop checkpoints by policies or rules, then free what nothing uses
    Gc(Gc),
    /// Show what the store holds and what is left of the disk
    Df,
    /// Read everything back and check it
    Verify(Verify),
    /// Mend what is damaged, as far as it can be
    Repair(Repair),
    /// Take over the checkpoints that lie in a directory
    Import(Import),
    /// Store each checkpoint that appears in a directory
    Watch(Watch),
    /// Show the checkpoints as files in a directory
    Mount(Mount),
    /// Take a mount away
    Umount(Umount),
    /// Print a completion script for a shell
    Completions(Completions),
}

#[derive(Debug, ClapArgs)]
pub struct Put {
    /// Files or directories
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<PathBuf>,
    /// The run that the checkpoint belongs to, such as `se-st/40k`
    #[arg(long)]
    pub run: String,
    /// The training step; otherwise read from names such as step=35000, checkpoint-500, model_step_10000.pt
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub step: Option<u64>,
    /// A number to remember, such as val_loss=0.31
    #[arg(long = "metric", value_name = "K=V", value_parser = metric)]
    pub metrics: Vec<(String, f64)>,
    /// A text to remember, such as commit=abc123
    #[arg(long, value_name = "K=V", value_parser = key_value)]
    pub meta: Vec<(String, String)>,
    /// A name for the checkpoint
    #[arg(long = "tag", value_name = "T")]
    pub tags: Vec<String>,
    /// Take the place of the checkpoint of the same run and step, unless that is pinned
    #[arg(long)]
    pub replace: bool,
    #[command(flatten)]
    pub room: Room,
}

#[derive(Debug, ClapArgs)]
pub struct Room {
    /// Make room by a gc as the policies say, when there is too little
    #[arg(long)]
    pub gc: bool,
    /// Room on the disk to leave free, such as 500MB, 2GB or 0; by default the smaller of 1 GB and 1 % of the disk
    #[arg(long, value_name = "SIZE", value_parser = bytes, env = "CKPT_RESERVE", hide_env_values = true)]
    pub reserve: Option<u64>,
}

#[derive(Debug, ClapArgs)]
pub struct Get {
    /// The checkpoint
    #[arg(value_name = "REF")]
    pub reference: String,
    /// Where to, as with cp: into a directory that exists, else it becomes the file or directory; `-` is stdout
    pub dest: PathBuf,
    /// Only files whose path matches
    #[arg(long = "file", value_name = "GLOB")]
    pub files: Vec<String>,
    /// Only tensors whose name matches, as one safetensors file
    #[arg(long = "tensor", value_name = "GLOB")]
    pub tensors: Vec<String>,
    /// All tensors as one file of this format, whatever they were stored as
    #[arg(long = "as", value_name = "FORMAT")]
    pub as_format: Option<ExportFormat>,
    /// Replace what is there
    #[arg(long)]
    pub force: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ExportFormat {
    /// Hugging Face's safetensors
    Safetensors,
}

#[derive(Debug, ClapArgs)]
pub struct Ls {
    /// List this run's checkpoints
    pub run: Option<String>,
}

#[derive(Debug, ClapArgs)]
pub struct Show {
    /// The checkpoint
    #[arg(value_name = "REF")]
    pub reference: String,
    /// List the tensors as well
    #[arg(long)]
    pub tensors: bool,
}

#[derive(Debug, ClapArgs)]
pub struct Rm {
    /// The checkpoints
    #[arg(required = true, value_name = "REF")]
    pub references: Vec<String>,
}

#[derive(Debug, ClapArgs)]
pub struct Tag {
    /// The checkpoint
    #[arg(value_name = "REF")]
    pub reference: String,
    /// The tag
    pub name: String,
}

#[derive(Debug, ClapArgs)]
pub struct Untag {
    /// The checkpoint; RUN@TAG says both
    #[arg(value_name = "REF")]
    pub reference: String,
    /// The tag
    pub name: Option<String>,
}

#[derive(Debug, ClapArgs)]
pub struct Reference {
    /// The checkpoint
    #[arg(value_name = "REF")]
    pub reference: String,
}

#[derive(Debug, Subcommand)]
pub enum Policy {
    /// Give the runs of a glob a policy, in place of the one that this glob had
    Set(PolicySet),
    /// List the policies and the runs that each is for
    Ls,
    /// Take a policy away
    Rm(PolicyRm),
}

#[derive(Debug, ClapArgs)]
#[command(
    after_help = "Rules are independent: a checkpoint stays when any rule keeps it. The newest of a run, tagged and \
                        pinned ones always stay. Of several globs that match a run, the one that says most of its name \
                        is for it. `ckpt gc` does what the policies say."
)]
pub struct PolicySet {
    /// The runs: a name, or a glob such as 'se-st/*'
    #[arg(value_name = "RUN_GLOB")]
    pub runs: String,
    #[command(flatten)]
    pub keep: Keep,
}

#[derive(Debug, ClapArgs)]
pub struct PolicyRm {
    /// The glob, as `policy ls` shows it
    #[arg(value_name = "RUN_GLOB")]
    pub runs: String,
}

#[derive(Debug, ClapArgs)]
#[command(
    after_help = "Rules are independent: a checkpoint stays when any rule keeps it. The newest of a run, tagged and \
                        pinned ones always stay. Without any rule here the policies apply, and a run without policy \
                        keeps all."
)]
pub struct Gc {
    /// Only runs whose name matches
    #[arg(long, value_name = "GLOB")]
    pub run: Option<String>,
    #[command(flatten)]
    pub keep: Keep,
    /// Only say what would be done
    #[arg(long)]
    pub dry_run: bool,
}

/// Rules of retention.
#[derive(Debug, ClapArgs)]
pub struct Keep {
    /// Keep the N that were stored last
    #[arg(long, value_name = "N")]
    pub keep_last: Option<u64>,
    /// Keep the best K by --metric
    #[arg(long, value_name = "K", requires = "metric")]
    pub keep_best: Option<u64>,
    /// The metric for --keep-best
    #[arg(long, value_name = "M", requires = "keep_best")]
    pub metric: Option<String>,
    /// Which end of the metric is good; otherwise told from its name, as for loss or accuracy
    #[arg(long, requires = "keep_best")]
    pub mode: Option<Mode>,
    /// Keep those whose step is a multiple of STEPS
    #[arg(long, value_name = "STEPS")]
    pub keep_every: Option<u64>,
    /// Keep those not older than this, such as 7d or 12h
    #[arg(long, value_name = "AGE", value_parser = age)]
    pub keep_within: Option<i64>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Mode {
    Min,
    Max,
}

#[derive(Debug, ClapArgs)]
pub struct Verify {
    /// Only this checkpoint
    #[arg(value_name = "REF")]
    pub reference: Option<String>,
    /// Check what there is without reading the chunks
    #[arg(long)]
    pub quick: bool,
    /// Don't read again what was found sound within this time, such as 7d; so an interrupted one goes on
    #[arg(long, value_name = "AGE", value_parser = age, conflicts_with = "quick")]
    pub not_since: Option<i64>,
}

#[derive(Debug, ClapArgs)]
#[command(
    after_help = "Mends what can be mended: the index, packs that were cut short or have damaged parts, a lost FORMAT, \
                        HEAD or catalog. A sound store is left as it is. Nothing that might still be saved is deleted."
)]
pub struct Repair {
    /// Take chunks that are lost here from this store, such as a backup
    #[arg(long, value_name = "STORE")]
    pub from: Option<PathBuf>,
    /// Only say what would be done
    #[arg(long)]
    pub dry_run: bool,
}

#[derive(Debug, ClapArgs)]
#[command(after_help = "Files without a step in their name get none; best.pt and last.ckpt get a tag of that name.")]
pub struct Import {
    #[command(flatten)]
    pub sources: Sources,
    /// Only say what would be done
    #[arg(long)]
    pub dry_run: bool,
}

#[derive(Debug, ClapArgs)]
pub struct Watch {
    #[command(flatten)]
    pub sources: Sources,
    /// How long a checkpoint has to have been quiet
    #[arg(long, value_name = "SECS", default_value = "2", value_parser = seconds)]
    pub settle: std::time::Duration,
    /// Store what is complete now and leave
    #[arg(long)]
    pub once: bool,
}

#[derive(Debug, ClapArgs)]
pub struct Sources {
    /// The directory
    pub dir: PathBuf,
    /// The run that the checkpoints belong to
    #[arg(long)]
    pub run: String,
    /// Take what matches, by its path in DIR, instead of what looks like a checkpoint
    #[arg(long, value_name = "GLOB")]
    pub pattern: Option<String>,
    /// Remove each source once what is stored was read back and is the same
    #[arg(long)]
    pub delete_source: bool,
    #[command(flatten)]
    pub room: Room,
}

#[derive(Debug, ClapArgs)]
pub struct Completions {
    /// The shell
    pub shell: clap_complete::Shell,
}
