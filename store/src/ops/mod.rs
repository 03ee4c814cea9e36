//! The verbs of the store, one file each, and the method of [`Store`] for each. Never touches the terminal, the environment
//! or the home directory.

pub mod change;
pub mod copy;
pub mod gc;
pub mod get;
pub mod import;
pub mod put;
pub mod reading;
pub mod stats;
pub mod verify;

use std::io::Write;
use std::path::Path;

use self::gc::{GcReport, GcRequest};
use self::get::{GetReport, GetRequest};
use self::import::watch::{WatchEvent, WatchReport, WatchRequest};
use self::import::{ImportEvent, ImportPlan, ImportReport, ImportRequest};
use self::put::{PutReport, PutRequest};
use self::stats::Stats;
use self::verify::{VerifyReport, VerifyRequest};
use crate::error::Result;
use crate::format::catalog::Entry;
use crate::progress::Progress;
use crate::store::Store;

/// The verbs.
impl Store {
    /// Stores files or directories as one checkpoint.
    pub fn put(&self, request: &PutRequest, progress: &dyn Progress) -> Result<PutReport> {
        put::put(self, request, progress)
    }

    /// Gives a checkpoint back as files.
    pub fn get(&self, request: &GetRequest, destination: &Path, progress: &dyn Progress) -> Result<GetReport> {
        get::get(self, request, destination, progress)
    }

    /// Writes one file of a checkpoint to a stream.
    pub fn get_stream(&self, request: &GetRequest, to: &mut dyn Write, progress: &dyn Progress) -> Result<GetReport> {
        get::get_stream(self, request, to, progress)
    }

    /// Drops checkpoints; gc frees their room.
    pub fn remove(&self, references: &[String]) -> Result<Vec<Entry>> {
        change::remove(self, references)
    }

    /// Names a checkpoint.
    pub fn tag(&self, reference: &str, tag: &str) -> Result<Entry> {
        change::tag(self, reference, tag)
    }

    /// Takes a checkpoint's name away.
    pub fn untag(&self, reference: &str, tag: Option<&str>) -> Result<Entry> {
        change::untag(self, reference, tag)
    }

    /// Keeps a checkpoint from every policy, or no longer.
    pub fn pin(&self, reference: &str, pinned: bool) -> Result<Entry> {
        change::pin(self, reference, pinned)
    }

    /// Drops checkpoints by rules and frees what nothing uses.
    pub fn gc(&self, request: &GcRequest, progress: &dyn Progress) -> Result<GcReport> {
        gc::gc(self, request, progress)
    }

    /// What the store holds and what is left of the disk.
    pub fn stats(&self, progress: &dyn Progress) -> Result<Stats> {
        stats::stats(self, progress)
    }

    /// Reads everything back and checks it.
    pub fn verify(&self, request: &VerifyRequest, progress: &dyn Progress) -> Result<VerifyReport> {
        verify::verify(self, request, progress)
    }

    /// Looks into a directory and says what an import would take over.
    pub fn plan_import(&self, request: &ImportRequest) -> Result<ImportPlan> {
        import::plan(self, request)
    }

    /// Takes over what the plan says.
    pub fn import(
        &self,
        plan: ImportPlan,
        tell: &mut dyn FnMut(ImportEvent<'_>),
        progress: &dyn Progress,
    ) -> ImportReport {
        import::import(self, plan, tell, progress)
    }

    /// Stores each checkpoint that appears in a directory, until told to stop.
    pub fn watch(
        &self,
        request: &WatchRequest,
        tell: &mut dyn FnMut(WatchEvent<'_>),
        progress: &dyn Progress,
    ) -> Result<WatchReport> {
        import::watch::watch(self, request, tell, progress)
    }
}
