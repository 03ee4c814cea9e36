//! The help, its copy in docs/cli.md, and completions.

use std::fs;
use std::path::{Path, PathBuf};

use ckpt_tests::run::{command, run};

fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/cli.md")
}

/// The commands that `--help` lists, and none for the help of `ckpt` itself.
fn commands() -> Vec<String> {
    let help = run(command().arg("-h"));
    let listed =
        help.text().lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    listed.filter_map(|line| line.split_whitespace().next().map(str::to_owned)).filter(|name| name != "help").collect()
}

/// All commands and the commands of commands, as they are called; the first is `ckpt` itself.
fn all_commands() -> Vec<String> {
    let mut all = vec![String::new()];
    for name in commands() {
        let help = help_of(&name);
        let inner = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
        let inner = inner.filter_map(|line| line.split_whitespace().next()).filter(|inner| *inner != "help");
        let inner: Vec<String> = inner.map(|inner| format!("{name} {inner}")).collect();
        all.push(name);
        all.extend(inner);
    }
    all
}

/// What `ckpt NAME --help` prints, as docs/cli.md shows it: without spaces at the ends of lines.
fn help_of(name: &str) -> String {
    let mut command = command();
    command.args(name.split_whitespace());
    let ran = run(command.arg("--help"));
    assert_eq!((ran.code, &*ran.stderr), (Some(0), ""), "{ran:?}");
    ran.text().lines().map(|line| line.trim_end().to_owned() + "\n").collect()
}

#[test]
fn docs_show_the_help_of_every_command() {
    let mut text = fs::read_to_string(docs()).expect("docs/cli.md can be read");
    let mut stale = Vec::new();
    for name in all_commands() {
        let title = format!("`ckpt {name}").trim_end().to_owned() + " --help`";
        let opening = format!("{title}\n\n```text\n");
        let begins =
            text.find(&opening).unwrap_or_else(|| panic!("docs/cli.md has no block for {title}")) + opening.len();
        let ends = begins + text[begins..].find("```\n").expect("a block that begins also ends");
        let help = help_of(&name);
        if text[begins..ends] != help {
            text.replace_range(begins..ends, &help);
            stale.push(title);
        }
    }
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(docs(), text).expect("docs/cli.md can be written");
    } else {
        assert!(stale.is_empty(), "docs/cli.md differs from {stale:?}; UPDATE_DOCS=1 writes it anew");
    }
}

#[test]
fn help_names_no_command_that_is_not_built() {
    let promised = "init put get ls show diff log rm tag untag pin unpin policy gc df verify repair import watch mount umount completions";
    assert_eq!(commands(), promised.split(' ').collect::<Vec<_>>());
    assert_eq!(run(command().arg("--version")).text(), format!("ckpt {}\n", env!("CARGO_PKG_VERSION")));
    assert_eq!(run(command().args(["help", "put"])).text(), run(command().args(["put", "--help"])).text());
}

#[test]
fn completions_know_the_commands() {
    for shell in ["bash", "zsh", "fish"] {
        let ran = run(command().args(["completions", shell]));
        assert_eq!((ran.code, &*ran.stderr), (Some(0), ""));
        assert!(ran.text().contains("verify") && ran.text().contains("keep-last"), "{shell}");
        // What the command gives itself is not for people.
        assert!(ran.text().contains("allow-other") && !ran.text().contains("--look"), "{shell}");
        assert!(!ran.text().contains("-l look") && !ran.text().contains("-l server"), "{shell}");
    }
}
