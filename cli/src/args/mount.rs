//! The command line of mount and umount. Never runs anything.

use std::path::PathBuf;

use clap::Args as ClapArgs;

use super::values::bytes;

#[derive(Debug, ClapArgs)]
#[command(
    after_help = "A process in the background serves the mount until `ckpt umount DIR` or SIGTERM. A mount whose \
                        process was killed is found and mounted anew. docs/mount.md says what is where."
)]
pub struct Mount {
    /// Where: a directory that is there and empty
    #[arg(required_unless_present = "status")]
    pub dir: Option<PathBuf>,
    /// Show only runs whose name matches
    #[arg(long, value_name = "GLOB")]
    pub run: Option<String>,
    /// Stay, and log to stderr
    #[arg(long)]
    pub foreground: bool,
    /// Let other users look as well
    #[arg(long)]
    pub allow_other: bool,
    /// Mount on a directory that is not empty; what is in it is hidden meanwhile
    #[arg(long)]
    pub nonempty: bool,
    /// The most memory for chunks that are decoded
    #[arg(long, value_name = "SIZE", value_parser = bytes, default_value = "256MB")]
    pub cache_size: u64,
    /// Bring this checkpoint into the page cache ahead; may be given several times
    #[arg(long, value_name = "REF")]
    pub warm: Vec<String>,
    /// Lay files that are read again and again down whole in this directory, for the kernel to read them itself; as
    /// root
    #[arg(long, value_name = "DIR")]
    pub materialize: Option<PathBuf>,
    /// The most room that they may take there
    #[arg(long, value_name = "SIZE", value_parser = bytes, default_value = "50GB", requires = "materialize")]
    pub materialize_limit: u64,
    /// Where the log goes; in the background otherwise to ckpt/mount.log in $XDG_STATE_HOME or ~/.local/state
    #[arg(long, value_name = "FILE")]
    pub log: Option<PathBuf>,
    /// Show the mounts that there are, or the one on DIR, and how they are
    #[arg(long, conflicts_with_all = ["run", "foreground", "allow_other", "nonempty", "warm", "materialize", "log"])]
    pub status: bool,
    /// Serves in the background: what this command starts itself as.
    #[arg(long, hide = true, conflicts_with = "foreground")]
    pub server: bool,
    /// Looks at a mount, in a process that may hang: what this command starts itself as. `warm` has ids.
    #[arg(long, hide = true)]
    pub look: bool,
}

#[derive(Debug, ClapArgs)]
pub struct Umount {
    /// Where it is mounted
    pub dir: PathBuf,
    /// Take it away although it is in use; what is open is served until it is closed
    #[arg(long)]
    pub lazy: bool,
}
