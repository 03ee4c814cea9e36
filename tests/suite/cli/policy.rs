//! `ckpt policy`, and what `ckpt gc` makes of policies.

use serde_json::{Value, json};

use super::{Desk, steps};

#[test]
fn policies_are_set_listed_and_removed() {
    let desk = Desk::six();
    assert_eq!(desk.ok(&["policy", "ls"]).text(), "no policies: every checkpoint is kept\n");
    assert_eq!(desk.json(&["policy", "ls"]), json!([]));
    let set = ["policy", "set", "a/*", "--keep-last", "2", "--keep-best", "1", "--metric", "val_loss"];
    assert_eq!(
        desk.ok(&set).text(),
        "a/*: keeps the last 2, the best 1 by val_loss (min)\n`ckpt gc --dry-run` shows what may go\n"
    );
    assert_eq!(
        desk.ok(&["policy", "set", "a/*", "--keep-every", "300", "--keep-within", "36h"]).text(),
        "a/*: keeps every 300 steps, those of the last 36h (before: the last 2, the best 1 by val_loss (min))\n\
         `ckpt gc --dry-run` shows what may go\n"
    );
    // One policy of a glob takes the place of the other, rule by rule and not in part.
    let wanted = json!({
        "policy": "a/*", "keep_last": null, "keep_best": null, "keep_every": 300, "keep_within_seconds": 129_600.0,
        "runs": ["a/b"]
    });
    assert_eq!(desk.json(&["policy", "ls"]), json!([wanted]));
    let set = ["policy", "set", "reward*", "--keep-best", "3", "--metric", "reward", "--mode", "max"];
    let told = desk.json(&set);
    assert_eq!(told["keep_best"], json!({"count": 3, "metric": "reward", "mode": "max"}));
    assert_eq!(told["runs"], Value::Null, "which runs it is for is what ls says");
    assert_eq!(
        desk.ok(&["policy", "ls"]).text(),
        "POLICY   KEEPS                                   FOR\n\
         a/*      every 300 steps, those of the last 36h  a/b\n\
         reward*  the best 3 by reward (max)              no run\n"
    );
    desk.fails(&["policy", "rm", "rewards*"], 3, "no policy rewards*", "did you mean reward*?");
    desk.fails(&["policy", "rm", "quite/another"], 3, "no policy quite/another", "`ckpt policy ls` lists the policies");
    assert_eq!(desk.ok(&["policy", "rm", "reward*"]).text(), "reward*: no policy of its own any more\n");
    assert_eq!(desk.json(&["policy", "rm", "a/*"]), json!({"policy": "a/*"}));
    assert_eq!(desk.json(&["policy", "ls"]), json!([]));
    desk.ok(&["verify"]);
}

#[test]
fn policies_that_can_not_be_meant_are_refused() {
    let desk = Desk::new();
    let set = |more: &[&'static str]| -> Vec<&'static str> { [&["policy", "set"], more].concat() };
    desk.fails(&set(&["a"]), 2, "the policy for a has no rule", "add --keep-last 3, for instance");
    for rule in ["--keep-last", "--keep-every"] {
        let message = format!("{} 0 keeps nothing; leave the rule away instead", &rule[2..]);
        desk.fails(&set(&["a", rule, "0"]), 2, &message, "");
    }
    desk.fails(
        &set(&["a", "--keep-best", "0", "--metric", "loss"]),
        2,
        "keep-best 0 keeps nothing; leave the rule away instead",
        "",
    );
    desk.fails(&set(&["a", "--keep-within", "0s"]), 2, "keep-within 0 keeps nothing; leave the rule away instead", "");
    desk.fails(
        &set(&["a", "--keep-best", "1", "--metric", "reward"]),
        2,
        "whether small or large reward is good can't be told from its name",
        "add --mode min or --mode max",
    );
    let unclosed = "\"a[\" is no glob: unclosed character class; missing ']'";
    desk.fails(&set(&["a[", "--keep-last", "1"]), 2, unclosed, "");
    let name = "\"\" can't name a policy: 1 to 255 bytes, no control characters, no space at its ends";
    desk.fails(&set(&["", "--keep-last", "1"]), 2, name, "");
    assert_eq!(desk.json(&["policy", "ls"]), json!([]));
}

/// Three runs with six checkpoints each.
fn three_runs() -> Desk {
    let desk = Desk::six();
    for run in ["a/c", "other"] {
        for step in 1..=6 {
            let (name, step) = (format!("step={step}00.bin"), format!("{step}00"));
            desk.ok(&["put", &name, "--run", run, "--step", &step, "--metric", &format!("val_acc={step}")]);
        }
    }
    desk
}

fn of_run(list: &Value, run: &str) -> Vec<u64> {
    let all = list.as_array().expect("a list").iter().filter(|checkpoint| checkpoint["run"] == run);
    steps(&all.cloned().collect())
}

#[test]
fn the_closest_policy_is_for_a_run() {
    let desk = three_runs();
    desk.ok(&["policy", "set", "*", "--keep-last", "1"]);
    desk.ok(&["policy", "set", "a/*", "--keep-every", "300"]);
    desk.ok(&["policy", "set", "a/c", "--keep-best", "2", "--metric", "val_loss", "--keep-last", "2"]);
    let plan = desk.json(&["gc", "--dry-run"]);
    assert_eq!(of_run(&plan["kept"], "a/b"), [300, 600]);
    assert_eq!(of_run(&plan["kept"], "a/c"), [500, 600]);
    assert_eq!(of_run(&plan["kept"], "other"), [600]);
    let why = |checkpoint: &Value| (checkpoint["policy"].clone(), checkpoint["reasons"].clone());
    let dropped = plan["dropped"].as_array().expect("a list");
    let of = |run: &str| why(dropped.iter().find(|checkpoint| checkpoint["run"] == run).expect("one of the run"));
    assert_eq!(of("a/b"), (json!("a/*"), json!(["no rule keeps it"])));
    assert_eq!(of("a/c"), (json!("a/c"), json!(["no rule keeps it, and it has no val_loss"])));
    assert_eq!(of("other"), (json!("*"), json!(["no rule keeps it"])));

    // The command's own rules come before the policies, for the runs that it names.
    let plan = desk.json(&["gc", "--dry-run", "--run", "a/*", "--keep-last", "3"]);
    assert_eq!(of_run(&plan["kept"], "a/b"), [400, 500, 600]);
    assert_eq!(of_run(&plan["kept"], "a/c"), [400, 500, 600]);
    assert_eq!(of_run(&plan["kept"], "other"), [0; 0], "it is not judged");
    assert_eq!(plan["kept"][0]["policy"], Value::Null);
    // Without rules --run limits what the policies are applied to.
    let done = desk.json(&["gc", "--run", "oth*"]);
    assert_eq!(steps(&done["dropped"]), [100, 200, 300, 400, 500]);
    assert_eq!(desk.json(&["ls", "a/b"]).as_array().map(Vec::len), Some(6));
    desk.ok(&["policy", "rm", "a/*"]);
    assert_eq!(of_run(&desk.json(&["gc", "--dry-run"])["kept"], "a/b"), [600], "the next closest is for it now");
}

#[test]
fn a_gc_by_policies_does_what_its_dry_run_says() {
    let desk = three_runs();
    desk.ok(&["policy", "set", "a/b", "--keep-best", "1", "--metric", "val_loss"]);
    desk.ok(&["tag", "a/b@200", "good"]);
    let shown = desk.ok(&["gc", "--dry-run"]).text().to_owned();
    let lines: Vec<Vec<&str>> =
        shown.lines().map(|line| line.split("  ").filter(|part| !part.is_empty()).collect()).collect();
    let told = |nr: usize| {
        lines[nr].iter().map(|part| part.trim()).filter(|part| !part.ends_with("ago")).collect::<Vec<_>>().join("|")
    };
    assert_eq!(told(0), "CHECKPOINT|STORED|POLICY|WHY");
    let told: Vec<String> = (1..=7).map(told).collect();
    assert_eq!(
        told,
        [
            "drop|a/b@100|a/b|no rule keeps it",
            "keep|a/b@200|a/b|tagged good",
            "drop|a/b@300|a/b|no rule keeps it, and its val_loss is no number",
            "drop|a/b@400|a/b|no rule keeps it",
            "keep|a/b@500|a/b|number 1 by val_loss",
            "keep|a/b@600|a/b|the newest",
            "keep|a/c@100|no policy for this run",
        ]
    );
    assert_eq!(lines.len(), 20, "every checkpoint is there: {shown}");
    let planned = desk.json(&["gc", "--dry-run"]);
    // The other runs share all chunks: dropping three frees their manifests alone.
    let last = shown.lines().last().expect("a line");
    assert!(last.starts_with("would drop 3 of 18 checkpoints, would free "), "{last}");
    let done = desk.ok(&["gc"]).text().to_owned();
    assert_eq!(done.lines().count(), 5, "what is gone and a sum: {done}");
    assert_eq!(done.lines().last(), Some(&*last.replace("would drop", "dropped").replace("would free", "freed")));
    assert_eq!(steps(&desk.json(&["ls", "a/b"])), [200, 500, 600]);
    assert_eq!(steps(&planned["dropped"]), [100, 300, 400]);
    assert_eq!(desk.json(&["gc"])["dropped"], json!([]));
    desk.ok(&["verify"]);
}

#[test]
fn sizes_are_given_as_people_give_them() {
    let desk = Desk::new();
    desk.file("a", 10);
    for (nr, size) in ["0", "1", "1000B", "500kB", "1.5MB", "2 MiB", "0.001GB"].into_iter().enumerate() {
        desk.ok(&["put", "a", "--run", "r", "--step", &nr.to_string(), "--reserve", size]);
    }
    for size in ["", "1XB", "MB", "1.2.3MB", "99999999999999999999", "99999999TB"] {
        let ran = ckpt_tests::run::ckpt_fails(&desk.store(), ["put", "a", "--run", "r", "--reserve", size], 2);
        assert!(ran.stderr.contains("'--reserve"), "{ran:?}");
    }
}
