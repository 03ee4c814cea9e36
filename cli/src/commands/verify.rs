//! `ckpt verify`.

use std::process::ExitCode;

use ckpt_store::{Damage, VerifyRequest};
use serde::Serialize;

use super::{Context, sound_instead};
use crate::args::Verify;
use crate::failure::{Failure, HEALS};
use crate::output::{print, print_json, printable, size};

#[derive(Serialize)]
struct VerifyJson {
    checkpoints: u64,
    chunks: u64,
    bytes: u64,
    skipped_bytes: u64,
    damaged: Vec<DamageJson>,
    damaged_more: u64,
    damaged_objects: Vec<ObjectJson>,
    harmless: Vec<ObjectJson>,
}

#[derive(Serialize)]
pub struct DamageJson {
    checkpoint: String,
    file: String,
    tensor: Option<String>,
    chunk: String,
    pack: Option<String>,
    reason: String,
}

#[derive(Serialize)]
pub struct ObjectJson {
    object: String,
    reason: String,
}

/// Exit code for damage.
pub const DAMAGED: u8 = 4;

pub fn run(context: &Context, args: Verify) -> Result<ExitCode, Failure> {
    let store = context.open()?;
    let bar = context.bar();
    let reference = args.reference.as_deref().map(|reference| store.settle(reference, &bar)).transpose()?;
    let request = VerifyRequest { reference: reference.clone(), quick: args.quick, not_since_ms: args.not_since };
    let report = store.verify(&request, &bar)?;
    let other = match &reference {
        Some(reference) if !report.is_sound() => sound_instead(&store, reference, &bar),
        _ => None,
    };
    drop(bar);
    let code = if report.is_sound() { ExitCode::SUCCESS } else { ExitCode::from(DAMAGED) };
    if context.json {
        print_json(&VerifyJson {
            checkpoints: report.checkpoints,
            chunks: report.chunks,
            bytes: report.bytes,
            skipped_bytes: report.skipped_bytes,
            damaged_more: report.damaged_more,
            damaged: report.damaged.iter().map(damage_json).collect(),
            damaged_objects: report.objects.into_iter().map(object_json).collect(),
            harmless: report.harmless.into_iter().map(object_json).collect(),
        })?;
        return Ok(code);
    }
    let mut text = String::new();
    for (object, reason) in &report.objects {
        text += &format!("damaged: {object}: {}\n", printable(reason));
    }
    for damage in &report.damaged {
        text += &format!("damaged: {}\n", printable(&damage.to_string()));
    }
    if report.damaged_more > 0 {
        text += &format!("damaged: {} more places\n", report.damaged_more);
    }
    for (object, reason) in &report.harmless {
        text += &format!("harmless: {object}: {}\n", printable(reason));
    }
    let read = if args.quick { "looked at".to_owned() } else { format!("read {} of", size(report.bytes)) };
    let skipped = match report.skipped_bytes {
        0 => String::new(),
        bytes => format!(", {} found sound not long ago and not read", size(bytes)),
    };
    let noun = if report.checkpoints == 1 { "checkpoint" } else { "checkpoints" };
    let verdict = if report.is_sound() { "all sound" } else { "damage found" };
    text += &format!("{read} {} chunks of {} {noun}{skipped}: {verdict}\n", report.chunks, report.checkpoints);
    print(&text)?;
    if !report.is_sound() {
        if report.damaged.is_empty() {
            eprintln!("Hint: `ckpt repair` mends what can be mended");
        } else {
            eprintln!("Hint: {HEALS}. `ckpt repair` saves what is sound in damaged packs");
        }
    }
    if let Some(hint) = other {
        eprintln!("Hint: {hint}");
    }
    Ok(code)
}

pub fn object_json((object, reason): (String, String)) -> ObjectJson {
    ObjectJson { object, reason }
}

pub fn damage_json(damage: &Damage) -> DamageJson {
    DamageJson {
        checkpoint: damage.checkpoint.clone(),
        file: damage.file.clone(),
        tensor: damage.tensor.clone(),
        chunk: damage.chunk.to_string(),
        pack: damage.pack.map(|pack| pack.to_string()),
        reason: damage.reason.clone(),
    }
}
