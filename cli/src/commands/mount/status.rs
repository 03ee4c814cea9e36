//! `ckpt mount --status`: the mounts of this machine and what each says of itself. A mount that hangs or is dead is
//! said to be.

use std::io::ErrorKind;
use std::path::Path;
use std::process::ExitCode;

use ckpt_fuse::{Look, Mount, Status};
use serde::Serialize;

use super::super::Context;
use super::hung::{self, Server};
use super::{look, mounted};
use crate::failure::Failure;
use crate::output::{age, counted, print, print_json, printable, size, table, time};

/// A mount as scripts see it. Documented in docs/cli.md; fields are added, never changed.
#[derive(Debug, Serialize)]
struct MountJson {
    directory: String,
    store: String,
    /// `alive`, `stale`, `silent`, `refused` or `failed`.
    state: &'static str,
    why: Option<String>,
    user: Option<u32>,
    pid: Option<u32>,
    since: Option<String>,
    version: Option<String>,
    runs: Option<String>,
    allow_other: Option<bool>,
    cache_bytes: Option<u64>,
    cache_bytes_max: Option<u64>,
    chunks_decoded: Option<u64>,
    open_files: Option<u64>,
    open_checkpoints: Option<u64>,
    read_ahead_kb: Option<u64>,
    damaged_chunks: Option<u64>,
    materialized: Option<MaterializedJson>,
    materialize_why_not: Option<String>,
    warm: Option<WarmJson>,
    log: Option<String>,
}

#[derive(Debug, Serialize)]
struct MaterializedJson {
    directory: String,
    files: u64,
    bytes: u64,
    bytes_max: u64,
}

#[derive(Debug, Serialize)]
struct WarmJson {
    files: u64,
    bytes: u64,
    bytes_all: u64,
    done: bool,
    failed: Option<String>,
}

pub fn run(context: &Context, dir: Option<&Path>) -> Result<ExitCode, Failure> {
    let mounts = match dir {
        None => ckpt_fuse::mounts()?,
        Some(dir) => vec![mounted(dir)?],
    };
    // Each looked at by a process of its own: one that hangs does not hold up the others.
    let looks: Vec<_> = std::thread::scope(|scope| {
        let looking = |mount: &Mount| {
            let point = mount.point.clone();
            scope.spawn(move || look::within(&point, &[], look::PATIENCE))
        };
        let looking: Vec<_> = mounts.iter().map(looking).collect();
        looking.into_iter().map(|one| one.join().unwrap_or(Ok(Look::Silent))).collect()
    });
    let mut rows = Vec::new();
    for (mount, look) in mounts.into_iter().zip(looks) {
        rows.push(Seen::new(mount, look?));
    }
    if context.json {
        let all: Vec<MountJson> = rows.iter().map(json).collect();
        match (dir, &all[..]) {
            (Some(_), [one]) => print_json(one)?,
            _ => print_json(&all)?,
        }
    } else if dir.is_some() {
        rows.iter().try_for_each(|seen| print(&detail(seen)))?;
    } else if rows.is_empty() {
        print("no store is mounted\n")?;
    } else {
        let head = ["directory", "store", "state", "process", "since", "cached", "open"];
        let rows = rows.iter().map(row).collect();
        print(&table(&head, &["process", "cached", "open"], rows))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The mount of ours on a place.
pub fn find(directory: &Path) -> Result<Mount, Failure> {
    if let Some(mount) = ckpt_fuse::mount_on(directory)?.filter(Mount::is_ours) {
        return Ok(mount);
    }
    let inside = ckpt_fuse::reached_by(directory)?.filter(Mount::is_ours).map(|mount| mount.point);
    Err(ckpt_fuse::Error::NotMounted { directory: directory.to_owned(), inside }.into())
}

/// A mount, and what could be found out about it.
struct Seen {
    mount: Mount,
    look: Look,
    /// Who serves it, as the system knows, where it doesn't say so itself.
    server: Option<Server>,
}

impl Seen {
    fn new(mount: Mount, look: Look) -> Self {
        let says_nothing = matches!(look, Look::Silent | Look::Failed(_) | Look::Refused | Look::Alive(None));
        let server = says_nothing.then(|| hung::server_of(&mount.point)).flatten();
        Self { mount, look, server }
    }

    fn status(&self) -> Option<&Status> {
        if let Look::Alive(Some(status)) = &self.look { Some(status) } else { None }
    }

    fn pid(&self) -> Option<u32> {
        self.status().map(|status| status.pid).or_else(|| self.server.as_ref().map(|server| server.pid))
    }

    fn log(&self) -> Option<&Path> {
        let of_server = || self.server.as_ref()?.log.as_deref();
        self.status().and_then(|status| status.log.as_deref()).or_else(of_server)
    }

    /// For scripts.
    fn state(&self) -> &'static str {
        match &self.look {
            Look::Alive(_) => "alive",
            Look::Stale => "stale",
            Look::Refused => "refused",
            Look::Failed(_) => "failed",
            _ => "silent",
        }
    }

    /// What is wrong with it.
    fn why(&self) -> Option<String> {
        match &self.look {
            Look::Failed(why) => {
                let store = Path::new(&self.mount.source);
                let is_gone = std::fs::metadata(store).is_err_and(|error| error.kind() == ErrorKind::NotFound);
                Some(if is_gone { format!("the store {} is gone", store.display()) } else { why.clone() })
            }
            Look::Silent => {
                self.server.as_ref().map(|server| format!("process {} {}", server.pid, hung::state(server.pid)))
            }
            _ => None,
        }
    }

    /// For people.
    fn says(&self) -> String {
        match &self.look {
            Look::Alive(Some(status)) if status.damaged_chunks > 0 => {
                format!("works, found {}: see the log", counted(status.damaged_chunks, "damaged chunk"))
            }
            Look::Alive(_) => "works".into(),
            Look::Stale => "stale: its process is gone".into(),
            Look::Refused => "is another user's".into(),
            Look::Failed(_) => "fails".into(),
            _ => "does not answer".into(),
        }
    }
}

fn json(seen: &Seen) -> MountJson {
    let (mount, status) = (&seen.mount, seen.status());
    let text = |path: &Path| path.display().to_string();
    MountJson {
        directory: text(&mount.point),
        store: status.map_or_else(|| mount.source.to_string_lossy().into_owned(), |status| text(&status.store)),
        state: seen.state(),
        why: seen.why(),
        user: mount.user,
        pid: seen.pid(),
        since: status.map(|status| time(status.since_ms)),
        version: status.map(|status| status.version.clone()),
        runs: status.and_then(|status| status.runs.clone()),
        allow_other: status.map(|status| status.allow_other),
        cache_bytes: status.map(|status| status.cache_bytes),
        cache_bytes_max: status.map(|status| status.cache_bytes_max),
        chunks_decoded: status.map(|status| status.chunks_decoded),
        open_files: status.map(|status| status.open_files),
        open_checkpoints: status.map(|status| status.open_checkpoints),
        read_ahead_kb: status.and_then(|status| status.read_ahead_kb),
        damaged_chunks: status.map(|status| status.damaged_chunks),
        materialized: status.and_then(|status| status.materialized.as_ref()).map(|all| MaterializedJson {
            directory: text(&all.directory),
            files: all.files,
            bytes: all.bytes,
            bytes_max: all.bytes_max,
        }),
        materialize_why_not: status.and_then(|status| status.materialize_why_not.clone()),
        warm: status.and_then(|status| status.warm.as_ref()).map(|warm| WarmJson {
            files: warm.files,
            bytes: warm.bytes,
            bytes_all: warm.bytes_all,
            done: warm.done,
            failed: warm.failed.clone(),
        }),
        log: seen.log().map(text),
    }
}

fn row(seen: &Seen) -> Vec<String> {
    let (mount, status) = (&seen.mount, seen.status());
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".into());
    vec![
        mount.point.display().to_string(),
        mount.source.to_string_lossy().into_owned(),
        seen.says(),
        or_dash(seen.pid().map(|pid| pid.to_string())),
        or_dash(status.map(|status| age(status.since_ms))),
        or_dash(status.map(|status| size(status.cache_bytes))),
        or_dash(status.map(|status| status.open_files.to_string())),
    ]
}

fn detail(seen: &Seen) -> String {
    let state = seen.why().map_or_else(|| seen.says(), |why| format!("{}: {why}", seen.says()));
    let mut lines = vec![
        ("directory", seen.mount.point.display().to_string()),
        ("store", seen.mount.source.to_string_lossy().into_owned()),
        ("state", state),
    ];
    if let Some(user) = seen.mount.user {
        lines.push(("user", user.to_string()));
    }
    match (seen.status(), seen.pid()) {
        (Some(status), _) => lines.extend(told(status)),
        (None, Some(pid)) => lines.push(("process", pid.to_string())),
        _ => {}
    }
    if let Some(log) = seen.log() {
        lines.push(("log", log.display().to_string()));
    }
    lines.iter().map(|(name, value)| format!("{name:<14} {}\n", printable(value))).collect()
}

fn told(status: &Status) -> Vec<(&'static str, String)> {
    let mut lines = vec![
        ("process", format!("{} (ckpt {})", status.pid, status.version)),
        ("since", format!("{} ({})", time(status.since_ms), age(status.since_ms))),
        ("runs", status.runs.clone().unwrap_or_else(|| "all".into())),
        ("other users", if status.allow_other { "may look" } else { "may not look" }.into()),
        ("open", format!("{}, {}", counted(status.open_files, "file"), counted(status.open_checkpoints, "checkpoint"))),
        (
            "cache",
            format!(
                "{} of {}, {} decoded so far",
                size(status.cache_bytes),
                size(status.cache_bytes_max),
                counted(status.chunks_decoded, "chunk")
            ),
        ),
    ];
    if let Some(kb) = status.read_ahead_kb {
        lines.push(("read ahead", format!("{kb} KiB by the kernel")));
    }
    if let Some(all) = &status.materialized {
        let room = format!("{} of {}", size(all.bytes), size(all.bytes_max));
        lines.push(("laid down", format!("{} in {}, {room}", counted(all.files, "file"), all.directory.display())));
    }
    if let Some(why) = &status.materialize_why_not {
        lines.push(("not laid down", why.clone()));
    }
    if let Some(warm) = &status.warm {
        let is_done = if warm.done { "" } else { ", at work" };
        let failed = warm.failed.as_ref().map(|failed| format!("; {failed}")).unwrap_or_default();
        let files = counted(warm.files, "file");
        lines.push(("warm", format!("{files}, {} of {}{is_done}{failed}", size(warm.bytes), size(warm.bytes_all))));
    }
    lines
}
