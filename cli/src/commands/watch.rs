//! `ckpt watch`.

use std::process::ExitCode;

use ckpt_store::{ImportDone, WatchEvent, WatchRequest};

use super::Context;
use super::import::{ResultJson, done_text, request};
use crate::args::Watch;
use crate::failure::Failure;
use crate::output::{print, print_json_line, printable};

/// Exit code when something could not be stored.
const FAILED: u8 = 1;

pub fn run(context: &Context, args: Watch) -> Result<ExitCode, Failure> {
    let store = context.open()?;
    let Watch { sources, settle, once } = args;
    let import = request(sources);
    let bar = context.bar();
    let mut printed = Ok(());
    let mut tell = |event: WatchEvent<'_>| {
        let (text, json) = match event {
            WatchEvent::Done(name, done, removed) => {
                // What a restart finds in its place is no news.
                let is_news = removed || !matches!(done, ImportDone::AlreadyStored(_));
                (
                    is_news.then(|| done_text(name, done, removed)),
                    is_news.then(|| ResultJson::done(name, done, removed)),
                )
            }
            WatchEvent::Failed(name, error) => {
                bar.say(&format!("Error: {}: {error}", printable(&name.to_string_lossy())));
                (None, Some(ResultJson::not(name, "failed", error.to_string())))
            }
            WatchEvent::Passed(name, reason) => {
                bar.say(&format!("Note: {}: {}", printable(&name.to_string_lossy()), printable(reason)));
                (None, None)
            }
            WatchEvent::Waiting(error, time) => {
                bar.say(&format!("Note: {error}; trying again in {} s", time.as_secs()));
                (None, None)
            }
        };
        if printed.is_ok() {
            printed = bar.aside(|| match (context.json, text, json) {
                (true, _, Some(json)) => print_json_line(&json),
                (false, Some(text), _) => print(&text),
                _ => Ok(()),
            });
        }
    };
    let report = store.watch(&WatchRequest { import, settle, once }, &mut tell, &bar)?;
    drop(bar);
    printed?;
    // A watch that was told to stop did what it was for; with --once a script wants to know.
    Ok(if once && report.failed > 0 { ExitCode::from(FAILED) } else { ExitCode::SUCCESS })
}
