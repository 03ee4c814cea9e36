//! One file for each group of commands. Each reads its arguments, calls one verb of the library and prints the answer.

mod collect;
mod df;
mod diff;
mod get;
mod import;
mod list;
mod log;
mod mount;
mod policy;
mod put;
mod repair;
mod show;
mod umount;
mod verify;
mod watch;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use ckpt_store::{Entry, Store, name_of};
use clap::CommandFactory;

use crate::args::{Args, Command};
use crate::failure::Failure;
use crate::output::{CheckpointJson, print, print_json, title};
use crate::progress::{Bar, watch_signals};

/// What every command needs.
pub struct Context {
    store: Option<PathBuf>,
    json: bool,
    quiet: bool,
}

/// Runs the command.
pub fn run(args: Args) -> Result<ExitCode, Failure> {
    watch_signals();
    let context = Context { store: args.store, json: args.json, quiet: args.quiet };
    match args.command {
        Command::Init => init(&context)?,
        Command::Put(args) => put::run(&context, args)?,
        Command::Get(args) => get::run(&context, &args)?,
        Command::Ls(args) => list::ls(&context, &args)?,
        Command::Show(args) => show::show(&context, &args)?,
        Command::Diff(args) => diff::run(&context, &args)?,
        Command::Log(args) => log::run(&context, &args)?,
        Command::Rm(args) => collect::rm(&context, &args)?,
        Command::Tag(args) => {
            let (store, reference) = context.settle(&args.reference)?;
            context.changed(&store.tag(&reference, &args.name)?, &format!("tagged {}", args.name))?
        }
        Command::Untag(args) => {
            let (store, reference) = context.settle(&args.reference)?;
            context.changed(&store.untag(&reference, args.name.as_deref())?, "untagged")?
        }
        Command::Pin(args) => {
            let (store, reference) = context.settle(&args.reference)?;
            context.changed(&store.pin(&reference, true)?, "pinned")?
        }
        Command::Unpin(args) => {
            let (store, reference) = context.settle(&args.reference)?;
            context.changed(&store.pin(&reference, false)?, "unpinned")?
        }
        Command::Policy(args) => policy::run(&context, args)?,
        Command::Gc(args) => collect::gc(&context, args)?,
        Command::Df => df::run(&context)?,
        Command::Verify(args) => return verify::run(&context, args),
        Command::Repair(args) => return repair::run(&context, &args),
        Command::Import(args) => return import::run(&context, args),
        Command::Watch(args) => return watch::run(&context, args),
        Command::Mount(args) => return mount::run(&context, args),
        Command::Umount(args) => umount::run(&context, &args)?,
        Command::Completions(args) => {
            let mut script = Vec::new();
            clap_complete::generate(args.shell, &mut for_people(Args::command()), "ckpt", &mut script);
            print(&String::from_utf8_lossy(&script))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

impl Context {
    fn open(&self) -> Result<Store, Failure> {
        Ok(Store::open(&self.locate()?)?)
    }

    /// The store, and a ref that can be resolved in it without reading chunks.
    fn settle(&self, reference: &str) -> Result<(Store, String), Failure> {
        let store = self.open()?;
        let settled = store.settle(reference, &self.bar())?;
        Ok((store, settled))
    }

    fn bar(&self) -> Bar {
        Bar::new(self.quiet || self.json)
    }

    /// The store that was named, or the nearest `.ckpt` here or above.
    fn locate(&self) -> Result<PathBuf, Failure> {
        if let Some(store) = &self.store {
            return local(store);
        }
        let here = std::env::current_dir().map_err(|error| ckpt_store::Error::io("read", Path::new("."), error))?;
        // Either will do: that a store lost its FORMAT has to be said, not passed over.
        let is_store = |store: &PathBuf| store.join("FORMAT").exists() || store.join("HEAD").exists();
        let found = here.ancestors().map(|directory| directory.join(".ckpt")).find(is_store);
        // One that lost both is found when there is no other.
        let has_packs = |store: &PathBuf| store.join("packs").is_dir();
        let found = found.or_else(|| here.ancestors().map(|directory| directory.join(".ckpt")).find(has_packs));
        found.ok_or_else(|| {
            let name = format!("here or above ({})", here.display());
            ckpt_store::Error::NotFound { thing: ckpt_store::Thing::Store, name, near: Vec::new() }.into()
        })
    }

    /// Says what a command did to one checkpoint.
    fn changed(&self, entry: &Entry, what: &str) -> Result<(), Failure> {
        if self.json {
            // As it is now, not as it was when the command read it.
            let now = self.open()?.resolve(&entry.id.to_string())?;
            return print_json(&CheckpointJson::from(&now));
        }
        print(&format!("{}: {what}\n", name_of(entry)))
    }
}

/// The most checkpoints that are read whole to find one to name in a hint.
const HINT_READS_MAX: usize = 2;

/// What to take in place of a checkpoint that is damaged: the newest sound one of its run.
fn sound_instead(store: &Store, reference: &str, bar: &Bar) -> Option<String> {
    let damaged = store.resolve(reference).ok()?;
    let sound = store.sound_alternative(&damaged, HINT_READS_MAX, bar).ok()??;
    let run = &sound.run;
    Some(format!("{} is sound: `ckpt get {run}@latest-good DEST` gives the newest of {run} that is", title(&sound)))
}

/// Names another checkpoint where one turned out to be damaged.
fn or_instead<T>(
    outcome: Result<T, ckpt_store::Error>,
    store: &Store,
    reference: &str,
    bar: &Bar,
) -> Result<T, Failure> {
    outcome.map_err(|error| match &error {
        ckpt_store::Error::Damaged(_) | ckpt_store::Error::Corrupt { .. } => {
            Failure::Damaged { instead: sound_instead(store, reference, bar), error }
        }
        _ => error.into(),
    })
}

fn local(path: &Path) -> Result<PathBuf, Failure> {
    if path.as_os_str().is_empty() {
        return Err(Failure::usage("the name of the store is empty", "give --store a directory, or unset CKPT_STORE"));
    }
    match path.to_str().and_then(|text| text.split_once("://")) {
        Some((scheme, _)) => Err(Failure::usage(
            format!("{} is not a directory: this version has no {scheme} stores", path.display()),
            "give --store a directory",
        )),
        None => Ok(path.to_owned()),
    }
}

/// The command line without the arguments that are hidden, which this command gives itself: completions would show
/// them.
fn for_people(args: clap::Command) -> clap::Command {
    args.mut_subcommand("mount", |mount| {
        let shown = clap::Command::new("mount").args(mount.get_arguments().filter(|arg| !arg.is_hide_set()));
        match mount.get_about() {
            Some(about) => shown.about(about.clone()),
            None => shown,
        }
    })
}

fn init(context: &Context) -> Result<(), Failure> {
    let root = context.store.as_deref().map_or_else(|| Ok(PathBuf::from(".ckpt")), local)?;
    let store = Store::init(&root)?;
    if context.json {
        return print_json(&serde_json::json!({ "store": root.display().to_string(), "id": store.id().to_string() }));
    }
    print(&format!("made a store in {}\n", root.display()))
}
