//! Progress bars on stderr when that is a terminal, and the flag that Ctrl-C sets. Never prints to stdout.

use std::io::IsTerminal;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use ckpt_store::{Notice, Progress, Stage};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::output::{printable, size};

static SIGNALS: AtomicU32 = AtomicU32::new(0);

/// Whether a second signal does not end the process.
static OUTLIVES: AtomicBool = AtomicBool::new(false);

/// Makes Ctrl-C and SIGTERM ask the work to stop; a second one ends the process at once, which is safe as well.
pub fn watch_signals() {
    let handler = || {
        if SIGNALS.fetch_add(1, Ordering::SeqCst) > 0 && !OUTLIVES.load(Ordering::SeqCst) {
            std::process::exit(130);
        }
    };
    // Without a handler the signal ends the process, and the store stays sound all the same.
    let _ = ctrlc::set_handler(handler);
}

/// Leaves it to the command what a second signal means: to end at once would leave something behind.
pub fn outlive_signals() {
    OUTLIVES.store(true, Ordering::SeqCst);
}

/// How many signals have asked to stop.
pub fn signals() -> u32 {
    SIGNALS.load(Ordering::Relaxed)
}

/// Progress for a person.
pub struct Bar {
    bar: ProgressBar,
}

impl Bar {
    /// A bar, invisible when `quiet` or when stderr is no terminal.
    pub fn new(quiet: bool) -> Self {
        let shown = !quiet && std::io::stderr().is_terminal();
        let target = if shown { ProgressDrawTarget::stderr_with_hz(10) } else { ProgressDrawTarget::hidden() };
        Self { bar: ProgressBar::with_draw_target(Some(0), target) }
    }

    /// Says before each stage which part of a longer work it belongs to.
    pub fn part(&self, text: String) {
        self.bar.set_prefix(text);
    }

    /// Prints a line to stderr above the bar.
    pub fn say(&self, text: &str) {
        self.bar.suspend(|| eprintln!("{text}"));
    }

    /// Does something to stdout without the bar in between.
    pub fn aside<T>(&self, print: impl FnOnce() -> T) -> T {
        self.bar.suspend(print)
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

impl Progress for Bar {
    fn begin(&self, stage: Stage, bytes: u64) {
        let (name, counted) = match stage {
            Stage::Hash => ("reading", false),
            Stage::Write => ("storing", false),
            Stage::Read => ("restoring", false),
            Stage::Verify => ("verifying", false),
            Stage::Mark => ("marking", true),
            Stage::Copy => ("rewriting", false),
            Stage::Index => ("indexing", true),
            Stage::Follow => ("following", true),
            Stage::Compare => ("comparing", false),
            _ => ("working", true),
        };
        let numbers = if counted {
            "{pos}/{len}"
        } else {
            "{decimal_bytes}/{decimal_total_bytes}  {decimal_bytes_per_sec}  {eta} left"
        };
        let template = format!("{{prefix}}{name:<10} {{bar:30}} {numbers}");
        if let Ok(style) = ProgressStyle::with_template(&template) {
            self.bar.set_style(style);
        }
        self.bar.reset();
        self.bar.set_length(bytes);
        self.bar.enable_steady_tick(Duration::from_millis(200));
    }

    fn advance(&self, bytes: u64) {
        self.bar.inc(bytes);
    }

    fn notice(&self, notice: Notice) {
        let text = match notice {
            // For people a size is no long number.
            Notice::MadeRoom { dropped, freed_bytes } => {
                let which = if dropped.is_empty() {
                    "dropped no checkpoint".to_owned()
                } else {
                    format!("dropped {}, as the policies say", dropped.join(", "))
                };
                format!("room was short; a gc {which}, and freed {}", size(freed_bytes))
            }
            other => printable(&other.to_string()),
        };
        self.bar.suspend(|| eprintln!("Note: {text}"));
    }

    fn interrupted(&self) -> bool {
        signals() > 0
    }
}
