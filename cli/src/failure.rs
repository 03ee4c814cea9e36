//! What the command says and how it exits when something went wrong: `Error:`, `Caused by:`, `Hint:`, and the exit codes of
//! docs/cli.md. The only place where hints are written.

mod mounting;

use std::error::Error as _;
use std::fmt::Write as _;
use std::process::ExitCode;

use ckpt_store::{Error, Shortage, Thing};

use crate::output::{printable, size};

/// Why a command ends without having done what it was asked to.
#[derive(Debug)]
pub enum Failure {
    /// The library's word.
    Store(Error),
    /// The library's word on a checkpoint that is damaged, and what to take in its place.
    Damaged { error: Error, instead: Option<String> },
    /// Why a store can't be mounted or unmounted.
    Mount(ckpt_fuse::Error),
    /// A mistake in how the command was called.
    Usage { message: String, hint: Option<String> },
    /// What another process of this command said at its end, and its exit code.
    Told { text: String, code: u8 },
    /// Whoever reads stdout has gone away.
    BrokenPipe,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match &error {
            Error::Unavailable { source, .. } if source.kind() == std::io::ErrorKind::BrokenPipe => Self::BrokenPipe,
            _ => Self::Store(error),
        }
    }
}

impl From<ckpt_fuse::Error> for Failure {
    fn from(error: ckpt_fuse::Error) -> Self {
        match error {
            ckpt_fuse::Error::Store(error) => error.into(),
            error => Self::Mount(error),
        }
    }
}

impl Failure {
    /// A mistake in how the command was called.
    pub fn usage(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Usage { message: message.into(), hint: Some(hint.into()) }
    }

    /// Prints it to stderr and gives the exit code.
    pub fn report(&self) -> ExitCode {
        let (text, code) = self.told();
        eprint!("{text}");
        ExitCode::from(code)
    }

    /// What is printed to stderr, and the exit code.
    pub fn told(&self) -> (String, u8) {
        match self {
            Self::BrokenPipe => (String::new(), 0),
            Self::Usage { message, hint } => (lines(message, None, &[], hint.iter().cloned()), 2),
            Self::Store(error) => store(error, None),
            Self::Damaged { error, instead } => store(error, instead.clone()),
            Self::Mount(error) => {
                let more = mounting::more(error);
                (
                    lines(&printable(&error.to_string()), error.source(), &more, mounting::hint(error)),
                    mounting::code(error),
                )
            }
            Self::Told { text, code } => (text.clone(), *code),
        }
    }
}

fn store(error: &Error, instead: Option<String>) -> (String, u8) {
    let mut more = Vec::new();
    if let Error::Damaged(places) = error {
        more.extend(places.iter().skip(1).take(20).map(|place| format!("  also {place}")));
        if places.len() > 21 {
            more.push(format!("  and {} more", places.len() - 21));
        }
    }
    (lines(&message(error), error.source(), &more, hint(error).into_iter().chain(instead)), code(error))
}

/// `Error:`, `Caused by:`, what more there is, `Hint:`.
fn lines(
    message: &str,
    mut cause: Option<&(dyn std::error::Error + 'static)>,
    more: &[String],
    hints: impl IntoIterator<Item = String>,
) -> String {
    let mut text = format!("Error: {message}\n");
    while let Some(source) = cause {
        let _ = writeln!(text, "Caused by: {source}");
        cause = source.source();
    }
    more.iter().for_each(|line| text += &format!("{line}\n"));
    hints.into_iter().for_each(|hint| text += &format!("Hint: {hint}\n"));
    text
}

/// What mends damaged chunks.
pub const HEALS: &str = "Putting the same files again heals every checkpoint that shares them, and so does `ckpt repair \
                         --from` a copy of the store";

/// Whether repair can do something about this object of a store.
fn is_mended(what: &str) -> bool {
    ["FORMAT", "HEAD", "index"].contains(&what) || what.starts_with("packs/") || what.starts_with("catalog/")
}

/// The library's word, with sizes as people read them.
fn message(error: &Error) -> String {
    match error {
        Error::WontFit(shortage) => {
            let needs =
                shortage.needs_bytes.map_or_else(|| "more".to_owned(), |needs| format!("about {}", size(needs)));
            format!("no room left for {}: it needs {needs}, {}", shortage.what, left(shortage))
        }
        _ => error.to_string(),
    }
}

fn left(shortage: &Shortage) -> String {
    if shortage.is_quota {
        return "a quota is used up, which `df` doesn't show; `quota -s` does on most machines".into();
    }
    let reserve = match shortage.reserve_bytes {
        0 => String::new(),
        bytes => format!(" and {} are to stay free", size(bytes)),
    };
    match shortage.free_bytes {
        u64::MAX => format!("how much is free is not known{reserve}"),
        bytes => format!("{} are free{reserve}", size(bytes)),
    }
}

/// What makes room for a put.
fn room(shortage: &Shortage) -> String {
    let mut hints = Vec::new();
    let drops = match shortage.gc_drops {
        0 => String::new(),
        1 => " by dropping 1 checkpoint as the policies say".into(),
        count => format!(" by dropping {count} checkpoints as the policies say"),
    };
    match shortage.gc_frees {
        Some(frees) if frees > 0 => {
            hints.push(format!("`ckpt gc` frees {} now{drops}, and `put --gc` does that first", size(frees)));
        }
        Some(_) => hints.push("`ckpt gc` frees nothing now".into()),
        // The store is damaged: gc says where.
        None => hints.push("`ckpt gc --dry-run` says why gc can't free anything".into()),
    }
    if !shortage.has_policies {
        hints.push("`ckpt policy set` says which checkpoints may go".into());
    }
    if !shortage.is_quota
        && shortage.reserve_bytes > 0
        && shortage.needs_bytes.is_some_and(|needs| needs <= shortage.free_bytes)
    {
        hints.push("with `--reserve 0` it fits".into());
    }
    hints.join("; ")
}

fn code(error: &Error) -> u8 {
    match error {
        Error::NotFound { .. } => 3,
        Error::Exists { .. } => 7,
        Error::Busy(_) | Error::Unavailable { .. } => 6,
        Error::Invalid(_) => 2,
        Error::NoSpace { .. } | Error::WontFit(_) => 5,
        Error::Corrupt { .. } | Error::Damaged(_) => 4,
        // As shells count a process that Ctrl-C ended.
        Error::Interrupted => 130,
        _ => 1,
    }
}

fn hint(error: &Error) -> Option<String> {
    let hint = match error {
        Error::NotFound { near, .. } if !near.is_empty() => format!("did you mean {}?", near.join(" or ")),
        Error::NotFound { thing: Thing::Store, .. } => {
            "`ckpt init` makes one; `--store` or CKPT_STORE says where it is".into()
        }
        Error::NotFound { thing: Thing::Policy, .. } => "`ckpt policy ls` lists the policies".into(),
        Error::NotFound { thing: Thing::Run, .. } => "`ckpt ls` lists the runs".into(),
        Error::NotFound { thing: Thing::Checkpoint, name, .. } => match name.split_once('@') {
            Some((run, _)) => format!("`ckpt ls {run}` lists its checkpoints"),
            None => "`ckpt ls RUN` lists a run's checkpoints, with `--json` their ids".into(),
        },
        Error::NotFound { thing: Thing::Destination, .. } => "make the directory first".into(),
        Error::NotFound { thing: Thing::Tensor, .. } => "`ckpt show REF --tensors` lists the tensors".into(),
        Error::UnsuitedTensor { .. } => {
            "`--tensor` chooses others; `ckpt get` without `--tensor` and `--as` gives the files as they were".into()
        }
        Error::Exists { thing: Thing::Checkpoint, .. } => {
            "`--replace` takes its place; another `--run` or `--step` keeps both".into()
        }
        Error::Exists { thing: Thing::Destination, .. } => "`--force` replaces it".into(),
        Error::Exists { thing: Thing::Store, .. } => "it can be used as it is".into(),
        Error::WontFit(shortage) => format!("nothing was changed. {}", room(shortage)),
        Error::NoSpace { shortage: Some(shortage), .. } => {
            let needs =
                shortage.needs_bytes.map_or_else(String::new, |needs| format!("it needs about {}, ", size(needs)));
            format!("nothing was changed: {needs}{}. {}", left(shortage), room(shortage))
        }
        Error::NoSpace { .. } => {
            "nothing was changed. `ckpt df` shows what takes the room, `ckpt gc --keep-last 3 --dry-run` what could go"
                .into()
        }
        Error::Changed { .. } => "nothing was stored. Put it again once it is no longer written to".into(),
        Error::Damaged(_) => format!("`ckpt verify` names all damage. {HEALS}"),
        Error::Corrupt { what, .. } if what.starts_with("checkpoints/") => {
            "`ckpt verify` names all damage. A checkpoint whose manifest is lost can't be read: `ckpt rm` drops it"
                .into()
        }
        Error::Corrupt { what, .. } if is_mended(what) => {
            "`ckpt repair` mends what can be mended; with `--dry-run` it says what that would be".into()
        }
        Error::Corrupt { what, .. } if what.starts_with("the policy for ") => {
            "`ckpt policy rm` takes it away, `ckpt policy set` replaces it".into()
        }
        Error::Corrupt { .. } => "`ckpt verify` names all damage".into(),
        Error::Invalid(message) if message.ends_with("has no rule") => "add --keep-last 3, for instance".into(),
        Error::Invalid(message) if message.ends_with("is pinned") => "`ckpt unpin` it first".into(),
        Error::Unsupported(_) => "use the version of ckpt that wrote the store, or a newer one".into(),
        Error::Unavailable { source, .. } => match source.kind() {
            std::io::ErrorKind::PermissionDenied => "check who owns the files and what they allow".into(),
            std::io::ErrorKind::ReadOnlyFilesystem => "the file system is mounted read-only".into(),
            _ => return None,
        },
        Error::Interrupted => "nothing was changed; what was half written goes with the next `ckpt gc`".into(),
        _ => return None,
    };
    Some(hint)
}
