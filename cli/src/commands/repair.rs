//! `ckpt repair`.

use std::process::ExitCode;

use ckpt_store::{RepairReport, RepairRequest, Store, name_of};
use serde::Serialize;

use super::verify::{DAMAGED, DamageJson, ObjectJson, damage_json, object_json};
use super::{Context, local};
use crate::args::Repair;
use crate::failure::Failure;
use crate::output::{CheckpointJson, print, print_json, printable, size, title};

#[derive(Serialize)]
struct RepairJson {
    dry_run: bool,
    packs: u64,
    bytes: u64,
    remade: Vec<ObjectJson>,
    kept_aside: Vec<String>,
    recovered: Vec<CheckpointJson>,
    unresolved: Vec<ObjectJson>,
    packs_mended: Vec<PackJson>,
    packs_left: Vec<ObjectJson>,
    healed_chunks: u64,
    damaged: Vec<DamageJson>,
    damaged_more: u64,
    damaged_manifests: Vec<ManifestJson>,
}

#[derive(Serialize)]
struct PackJson {
    pack: String,
    reason: String,
    saved_chunks: u64,
    lost_chunks: u64,
}

#[derive(Serialize)]
struct ManifestJson {
    #[serde(flatten)]
    checkpoint: CheckpointJson,
    reason: String,
}

pub fn run(context: &Context, args: &Repair) -> Result<ExitCode, Failure> {
    let root = context.locate()?;
    let from = args.from.as_deref().map(local).transpose()?;
    let request = RepairRequest { from, dry_run: args.dry_run };
    let bar = context.bar();
    let report = Store::repair(&root, &request, &bar)?;
    drop(bar);
    let code = if report.is_sound() { ExitCode::SUCCESS } else { ExitCode::from(DAMAGED) };
    if context.json {
        print_json(&json(report, &request))?;
        return Ok(code);
    }
    print(&text(&report, &request))?;
    hints(&report, &request);
    Ok(code)
}

fn text(report: &RepairReport, request: &RepairRequest) -> String {
    let (made, mended) =
        if request.dry_run { ("to be made anew", "to be rewritten") } else { ("made anew", "rewritten") };
    let mut text = String::new();
    for (what, reason) in &report.remade {
        text += &format!("{made}: {what}: {}\n", printable(reason));
    }
    for name in &report.kept_aside {
        text += &format!("kept: what was there before, as {name}\n");
    }
    for entry in &report.recovered {
        text += &format!("recovered: {} ({})\n", printable(&title(entry)), entry.id);
    }
    for (what, reason) in &report.unresolved {
        text += &format!("left alone: {what}: {}\n", printable(reason));
    }
    for pack in &report.mended {
        let chunks = format!("{} chunks saved, {} damaged", pack.saved, pack.lost);
        text += &format!("{mended}: pack {}: {}; {chunks}\n", pack.pack, printable(&pack.reason));
    }
    for (pack, reason) in &report.left {
        text += &format!("left alone: pack {pack}: {}\n", printable(reason));
    }
    if report.healed_chunks > 0 {
        let healed = if request.dry_run { "to be taken" } else { "taken" };
        text += &format!("{healed}: {} chunks from the other store\n", report.healed_chunks);
    }
    for (entry, reason) in &report.manifests {
        text += &format!("damaged: checkpoints/{}: {} ({})\n", entry.id, printable(reason), printable(&title(entry)));
    }
    for damage in &report.damaged {
        text += &format!("damaged: {}\n", printable(&damage.to_string()));
    }
    if report.damaged_more > 0 {
        text += &format!("damaged: {} more places\n", report.damaged_more);
    }
    let verdict = match (report.is_idle(), report.is_sound()) {
        (true, true) => "all sound, nothing to mend",
        (true, false) => "damage found that can't be mended",
        (false, true) if request.dry_run => "all of it can be mended",
        (false, true) => "all mended",
        (false, false) => "damage remains",
    };
    text + &format!("read {} of {} packs: {verdict}\n", size(report.bytes), report.packs)
}

fn hints(report: &RepairReport, request: &RepairRequest) {
    if !report.damaged.is_empty() {
        let from = if request.from.is_some() { "another" } else { "a" };
        eprintln!(
            "Hint: putting the same files again heals the damaged chunks, and so does `ckpt repair --from` {from} store \
             that has them"
        );
    }
    let unreadable: Vec<String> = report.manifests.iter().map(|(entry, _)| name_of(entry)).collect();
    if !unreadable.is_empty() {
        eprintln!(
            "Hint: a checkpoint whose manifest is lost can't be read: `ckpt rm {}` drops it",
            unreadable.join(" ")
        );
    }
    if !report.recovered.is_empty() {
        eprintln!("Hint: what was dropped and not yet collected is among the recovered: `ckpt rm` what you don't want");
    }
}

fn json(report: RepairReport, request: &RepairRequest) -> RepairJson {
    RepairJson {
        dry_run: request.dry_run,
        packs: report.packs,
        bytes: report.bytes,
        remade: report.remade.into_iter().map(object_json).collect(),
        kept_aside: report.kept_aside,
        recovered: report.recovered.iter().map(CheckpointJson::from).collect(),
        unresolved: report.unresolved.into_iter().map(object_json).collect(),
        packs_mended: report
            .mended
            .into_iter()
            .map(|pack| PackJson {
                pack: pack.pack.to_string(),
                reason: pack.reason,
                saved_chunks: pack.saved,
                lost_chunks: pack.lost,
            })
            .collect(),
        packs_left: report.left.into_iter().map(|(pack, reason)| object_json((pack.to_string(), reason))).collect(),
        healed_chunks: report.healed_chunks,
        damaged: report.damaged.iter().map(damage_json).collect(),
        damaged_more: report.damaged_more,
        damaged_manifests: report
            .manifests
            .iter()
            .map(|(entry, reason)| ManifestJson { checkpoint: CheckpointJson::from(entry), reason: reason.clone() })
            .collect(),
    }
}
