//! What `make torture` runs: every call of every operation fails in turn, then a thousand kills at random over six
//! writers, gc loops and readers, then the same on a disk that is full half of the time, then with mounts of the store
//! that are read. Prints figures; writes nothing but, with `--write`, the block of docs/reliability.md that holds them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use ckpt_tests::faults::{self, MODES, OPERATIONS, try_calls};
use ckpt_tests::lab::Lab;
use ckpt_tests::mount::mountable;
use ckpt_tests::mounts::on_small_disk;
use ckpt_tests::stops::{self, stop_gcs, stop_gcs_beside_gets, stop_gets, stop_puts};
use ckpt_tests::storm::{Figures, Mounted, Plan, WRITERS, rage};

const USAGE: &str =
    "torture [--only PART,PART] [--kills N] [--rounds N] [--seed N] [--seconds N] [--storm N] [--like TEXT] [--date DATE] [--write]

  PART       calls (each fails in turn), stops (at each), kills (at random), full (on a disk that is full half of the time),
             mounts (with mounts that are read)
  --kills    kills of each round; of the part `full`, a fifth of that
  --rounds   how often, each time on a new store and with the next seed
  --seconds  the longest that one round may take
  --storm    of the part `mounts`, how many seconds each round takes
  --like     of the part `calls`, only operations with this in their name
  --date     the day that --write puts down";

/// What the command line asks for.
struct Options {
    only: Vec<String>,
    kills: usize,
    rounds: u64,
    seed: u64,
    seconds: u64,
    storm: u64,
    like: String,
    date: String,
    write: bool,
}

fn main() -> ExitCode {
    let options = match Options::parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(message) => {
            eprintln!("{message}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let mut failed = false;
    let parts = [
        ("calls", calls as fn(&Options) -> String),
        ("stops", stops),
        ("kills", kills),
        ("full", full),
        ("mounts", mounts),
    ];
    for (part, run) in parts {
        if options.only.is_empty() || options.only.iter().any(|only| only == part) {
            // What went wrong has been told; the other parts are worth a look all the same.
            let Ok(found) = std::panic::catch_unwind(|| run(&options)) else {
                failed = true;
                continue;
            };
            println!("{found}");
            if options.write {
                let day = format!("Measured on {}; again with `make torture ONLY={part}`.", options.date);
                write_down(part, &format!("{found}\n{day}\n"));
            }
        }
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

impl Options {
    fn parse(mut words: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut options = Self {
            only: Vec::new(),
            kills: 1000,
            rounds: 1,
            seed: 1,
            seconds: 1200,
            storm: 120,
            like: String::new(),
            date: "an unknown day".into(),
            write: false,
        };
        while let Some(word) = words.next() {
            if word == "--write" {
                options.write = true;
                continue;
            }
            let value = words.next().ok_or_else(|| format!("{word} needs a value"))?;
            let number = || value.parse::<u64>().map_err(|error| format!("{word} {value}: {error}"));
            match word.as_str() {
                "--only" => options.only = value.split(',').map(str::to_owned).collect(),
                "--kills" => options.kills = usize::try_from(number()?).map_err(|error| error.to_string())?,
                "--rounds" => options.rounds = number()?,
                "--seed" => options.seed = number()?,
                "--seconds" => options.seconds = number()?,
                "--storm" => options.storm = number()?,
                "--like" => options.like = value,
                "--date" => options.date = value,
                _ => return Err(format!("no such option: {word}")),
            }
        }
        Ok(options)
    }
}

/// Every call of every operation, in every way.
fn calls(options: &Options) -> String {
    let started = Instant::now();
    let mut text = String::from("### Every call fails in turn\n\n");
    text += "| operation | calls | faults | borne, exit 0 | refused, as the cause demands | killed |\n";
    text += "| --- | --- | --- | --- | --- | --- |\n";
    let mut all = faults::Figures::default();
    let row = |name: &str, figures: &faults::Figures| {
        let faults::Figures { calls, faults, borne, refused, killed } = figures;
        format!("| {name} | {calls} | {faults} | {borne} | {refused} | {killed} |\n")
    };
    for operation in OPERATIONS.iter().filter(|operation| operation.name.contains(&options.like)) {
        let mut sum = faults::Figures::default();
        for mode in MODES {
            let figures = try_calls(operation, mode, |_, _| true);
            eprintln!("{}, {}: {figures:?}", operation.name, mode.name);
            // All kinds of calls count in the first mode, and only some in the others.
            sum.add(&faults::Figures { calls: figures.calls * u64::from(sum.faults == 0), ..figures });
        }
        text += &row(&format!("`{}`", operation.name), &sum);
        all.add(&sum);
    }
    text += &row("all", &all);
    let modes: Vec<&str> = MODES.iter().map(|mode| mode.name).collect();
    let _ = writeln!(
        text,
        "\nWays to fail: {}. {:.0} s; nothing was lost, half done or left behind.",
        modes.join("; "),
        started.elapsed().as_secs_f64()
    );
    text
}

/// A put and a get stand still at each of their calls, a gc at each of its swaps.
fn stops(_: &Options) -> String {
    let started = Instant::now();
    let mut text = String::from("### Stopped at every call\n\n");
    text +=
        "| stopped | meanwhile | stops | done | refused | somebody waited |\n| --- | --- | --- | --- | --- | --- |\n";
    let mut row = |name: &str, meanwhile: &str, figures: stops::Figures| {
        let stops::Figures { stops, done, failed, waited } = figures;
        let _ = writeln!(text, "| {name} | {meanwhile} | {stops} | {done} | {failed} | {waited} |");
    };
    row("`put`", "two gcs take what it relies on", stop_puts(false, |_| true));
    row("`put`, in the index", "two gcs take what it relies on", stop_puts(true, |nr| nr % 8 == 0));
    row("`get`", "rm of its checkpoint, two gcs", stop_gets(false, |_| true));
    row("`get`, in the index", "rm of its checkpoint, two gcs", stop_gets(true, |nr| nr % 4 == 0));
    row("`gc`, around each swap", "another gc, a put of what is collected", stop_gcs());
    row("`gc`", "a get pins, rm of its checkpoint", stop_gcs_beside_gets(|_| true));
    let seconds = started.elapsed().as_secs_f64();
    let _ = writeln!(text, "\n{seconds:.0} s; every checkpoint that was committed came back bit-exact.");
    text
}

/// Kills at random, on a disk.
fn kills(options: &Options) -> String {
    let figures = rounds(options, options.kills, |plan| {
        let lab = Lab::new();
        rage(&lab, plan)
    });
    told("### Killed at random", &figures)
}

/// Kills at random, on a disk that is full half of the time.
fn full(options: &Options) -> String {
    let figures = rounds(options, options.kills / 5, |plan| on_full_disk(24 << 20, plan));
    told("### On a disk that is full half of the time", &figures)
}

/// The figures of a storm on a small disk that is full half of the time.
fn on_full_disk(bytes: u64, plan: Plan) -> Figures {
    let mut figures = Figures::default();
    on_small_disk(bytes, |lab| figures = rage(lab, Plan { full: true, ..plan }));
    figures
}

/// Kills at random, and mounts of the store that are read all the time: on a disk, and on one that is full half of the
/// time.
fn mounts(options: &Options) -> String {
    let title = "### Mounted and read meanwhile";
    if !mountable() {
        return format!("{title}\n\nNot here: this machine lets nobody mount by FUSE.\n");
    }
    let shortest = Duration::from_secs(options.storm);
    let of = |plan: Plan| Plan { shortest, longest: shortest * 2, mounts: true, ..plan };
    let roomy = rounds(options, 0, |plan| rage(&Lab::new(), of(plan)));
    let full = rounds(options, 0, |plan| on_full_disk(160 << 20, of(plan)));
    told_of_mounts(title, &roomy)
        + "\n"
        + &told_of_mounts(&format!("{title}, on a disk that is full half of the time"), &full)
}

/// What a storm with mounts was.
fn told_of_mounts(title: &str, figures: &Figures) -> String {
    let Mounted { kills, signals, faults, held_kb, descriptors, descriptors_left, laid_down, .. } = &figures.mounted;
    let mut text = told(title, figures);
    let counts = [
        "opened",
        "gone when opened",
        "reads",
        "reads of what was dropped",
        "directories listed",
        "links read",
        "attributes asked for",
        "cut off by a kill",
        "failed with the disk",
    ];
    text += "\n| three mounts, each read by a process of three threads | times |\n| --- | --- |\n";
    for name in counts {
        let _ = writeln!(text, "| {name} | {} |", figures.mounted.count(name));
    }
    let _ = writeln!(
        text,
        "\nOne server was killed {kills} times, and a call on its disk failed {faults} times; {signals} readers died of a mapping that was \
         cut off. All {:.1} GB that were read were right. What came or went was seen within {} ms in half of {} times, {} ms in 99 \
         of 100, {} ms at most. The servers, each with a cache of 4 MB, held at most {:.0} MB and {descriptors} descriptors, \
         {descriptors_left} at the end; {laid_down} files were laid down then. No call hung, no server panicked, and nothing stayed of them.",
        figures.mounted.count("bytes") as f64 / 1e9,
        figures.mounted.lag(500),
        figures.mounted.lags.len(),
        figures.mounted.lag(990),
        figures.mounted.lag(1000),
        *held_kb as f64 / 1e3,
    );
    text
}

fn rounds(options: &Options, kills: usize, run: impl Fn(Plan) -> Figures) -> Figures {
    let mut all = Figures::default();
    for round in 0..options.rounds {
        let seed = options.seed + round;
        let figures = run(Plan { seed, kills, longest: Duration::from_secs(options.seconds), ..Plan::default() });
        eprintln!("seed {seed}: {} kills in {:.0} s", figures.killed(), figures.seconds);
        all.add(&figures);
    }
    all
}

fn told(title: &str, figures: &Figures) -> String {
    let sum = |counts: &BTreeMap<&str, usize>| -> String {
        let each: Vec<String> = counts.iter().map(|(name, count)| format!("{count} {name}")).collect();
        each.join(", ")
    };
    let mut text = format!("{title}\n\n");
    let _ = write!(
        text,
        "{WRITERS} writers, two gc loops, a reader and a verifier: {} kills in {:.0} s, of which {} came after the work was done. \
         Not killed: {}. ",
        figures.killed(),
        figures.seconds,
        figures.late,
        sum(&figures.done),
    );
    if !figures.refused.is_empty() {
        let _ = write!(text, "Refused for lack of room: {}. ", sum(&figures.refused));
    }
    let _ = writeln!(
        text,
        "{} checkpoints were committed, 0 were lost; {} came back and were compared, {} were left at the end, and \
         after two more gcs nothing else.\n",
        figures.committed, figures.compared, figures.left
    );
    let mut by_command: BTreeMap<&str, Vec<(usize, &str)>> = BTreeMap::new();
    figures
        .kills
        .iter()
        .for_each(|((command, stage), count)| by_command.entry(command).or_default().push((*count, stage)));
    text += "| killed | times | at what |\n| --- | --- | --- |\n";
    for (command, mut stages) in by_command {
        stages.sort_unstable_by(|a, b| b.cmp(a));
        let total: usize = stages.iter().map(|(count, _)| count).sum();
        let stages: Vec<String> = stages.iter().map(|(count, stage)| format!("{stage} {count}")).collect();
        let _ = writeln!(text, "| {command} | {total} | {} |", stages.join(", "));
    }
    text
}

/// Puts the figures of a part into the page.
fn write_down(part: &str, text: &str) {
    let (begin, end) = (format!("<!-- torture {part}: generated -->\n"), format!("<!-- end of {part} -->"));
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reliability.md");
    let page = fs::read_to_string(&path).expect("docs/reliability.md can be read");
    let (before, rest) = page.split_once(&begin).expect("the page has the block");
    let (_, after) = rest.split_once(&end).expect("the block has an end");
    fs::write(&path, format!("{before}{begin}{text}{end}{after}")).expect("the page can be written");
}
