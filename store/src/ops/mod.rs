//! The verbs of the store, one file each, and the method of [`Store`] for each. Never touches the terminal, the
//! environment or the home directory.

pub mod change;
pub mod copy;
pub mod gc;
pub mod get;
pub mod import;
pub mod open;
pub mod opened;
pub mod place;
pub mod put;
pub mod reading;
pub mod repair;
pub mod sound;
pub mod stats;
pub mod stream;
pub mod tensors;
pub mod verify;

use std::borrow::Cow;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use self::gc::{GcReport, GcRequest};
use self::get::{GetReport, GetRequest};
use self::import::watch::{WatchEvent, WatchReport, WatchRequest};
use self::import::{ImportEvent, ImportPlan, ImportReport, ImportRequest};
use self::open::{OpenCheckpoint, ReadCache};
use self::opened::Opened;
use self::put::parts::{self, PartRequest, Prepared};
use self::put::{PutReport, PutRequest};
use self::repair::{RepairReport, RepairRequest};
use self::stats::Stats;
use self::tensors::diff::{DiffReport, DiffRequest};
use self::tensors::export::{self, ExportReport, ExportRequest};
use self::tensors::list::{self, TensorList};
use self::tensors::log::{LogReport, LogRequest};
use self::verify::{VerifyReport, VerifyRequest};
use crate::backend::disk::{Disk, OsDisk};
use crate::catalog::policies::{Policy, PolicyUse};
use crate::catalog::{State, refs};
use crate::error::Result;
use crate::format::catalog::Entry;
use crate::id::CheckpointId;
use crate::limits::CACHE_BYTES;
use crate::progress::{Progress, Quiet};
use crate::store::Store;

/// The verbs.
impl Store {
    /// Stores files or directories as one checkpoint.
    pub fn put(&self, request: &PutRequest, progress: &dyn Progress) -> Result<PutReport> {
        put::put(self, request, progress)
    }

    /// Stores the chunks of a part of a checkpoint, for another process to commit; other parts are prepared elsewhere.
    /// The answer must live until then.
    pub fn prepare(&self, request: &PartRequest, progress: &dyn Progress) -> Result<Prepared> {
        parts::prepare(self, request, progress)
    }

    /// Stores one checkpoint of the parts that processes prepared, as [`Prepared::to_bytes`] gave them, and of what the
    /// request has besides. The tensors of a distributed checkpoint in the parts get their names when its `.metadata`
    /// is in the request.
    ///
    /// # Errors
    /// Those of [`Store::put`]; [`crate::Error::Busy`] when chunks of a part are gone because its process ended: it has
    /// to be prepared again.
    pub fn commit_parts(&self, request: &PutRequest, parts: &[Vec<u8>], progress: &dyn Progress) -> Result<PutReport> {
        parts::commit_parts(self, request, parts, progress)
    }

    /// Gives a checkpoint back as files.
    pub fn get(&self, request: &GetRequest, destination: &Path, progress: &dyn Progress) -> Result<GetReport> {
        get::get(self, request, destination, progress)
    }

    /// Writes one file of a checkpoint to a stream.
    pub fn get_stream(&self, request: &GetRequest, to: &mut dyn Write, progress: &dyn Progress) -> Result<GetReport> {
        get::get_stream(self, request, to, progress)
    }

    /// Opens a checkpoint, for reads of any bytes in any order.
    pub fn open_checkpoint(self: &Arc<Self>, reference: &str, progress: &dyn Progress) -> Result<OpenCheckpoint> {
        let opened = Opened::by_ref(self, "open", reference, progress)?;
        Ok(open::open(self, opened, Arc::new(ReadCache::new(CACHE_BYTES))))
    }

    /// Opens the checkpoint of an id, with its decoded chunks in a cache that others of this store may share.
    pub fn open_checkpoint_in(self: &Arc<Self>, id: CheckpointId, cache: Arc<ReadCache>) -> Result<OpenCheckpoint> {
        Ok(open::open(self, Opened::by_id(self, "open", id)?, cache))
    }

    /// The tensors of a checkpoint, and what others of its run have of them.
    pub fn tensors(&self, reference: &str, progress: &dyn Progress) -> Result<TensorList> {
        list::list(self, reference, progress)
    }

    /// Gives tensors of a checkpoint as one safetensors file.
    pub fn export(&self, request: &ExportRequest, destination: &Path, progress: &dyn Progress) -> Result<ExportReport> {
        export::export(self, request, destination, progress)
    }

    /// Writes tensors of a checkpoint to a stream, as one safetensors file.
    pub fn export_stream(
        &self,
        request: &ExportRequest,
        to: &mut dyn Write,
        progress: &dyn Progress,
    ) -> Result<ExportReport> {
        export::export_stream(self, request, to, progress)
    }

    /// A ref that names what `reference` names without reading a chunk: for `RUN@latest-good`, which reads checkpoints
    /// whole until one is sound, that one's id. The damaged ones before it are told by notices.
    pub fn settle(&self, reference: &str, progress: &dyn Progress) -> Result<String> {
        sound::settle(self, reference, progress).map(Cow::into_owned)
    }

    /// The checkpoint that a ref names; as [`Store::settle`], with nobody watching.
    pub fn resolve(&self, reference: &str) -> Result<Entry> {
        let reference = sound::settle(self, reference, &Quiet)?;
        refs::resolve(&State::load(self.backend())?, &reference).cloned()
    }

    /// The newest sound checkpoint of the run of one that is damaged, if there is another. Reads at most `reads_max` of
    /// them whole.
    pub fn sound_alternative(
        &self,
        damaged: &Entry,
        reads_max: usize,
        progress: &dyn Progress,
    ) -> Result<Option<Entry>> {
        sound::alternative(self, damaged, reads_max, progress)
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

    /// Gives the runs of a glob a policy; answers the one that the same glob had.
    pub fn set_policy(&self, policy: &Policy) -> Result<Option<Policy>> {
        change::set_policy(self, policy)
    }

    /// Takes a glob's policy away.
    pub fn remove_policy(&self, runs: &str) -> Result<()> {
        change::remove_policy(self, runs)
    }

    /// The policies, and the runs that each is for now.
    pub fn policies(&self) -> Result<Vec<PolicyUse>> {
        change::list_policies(self)
    }

    /// Drops checkpoints by rules and frees what nothing uses.
    pub fn gc(&self, request: &GcRequest, progress: &dyn Progress) -> Result<GcReport> {
        gc::gc(self, request, progress)
    }

    /// What the store holds and what is left of the disk.
    pub fn stats(&self, progress: &dyn Progress) -> Result<Stats> {
        stats::stats(self, progress)
    }

    /// Follows one tensor over the checkpoints of a run.
    pub fn log(&self, request: &LogRequest, progress: &dyn Progress) -> Result<LogReport> {
        tensors::log::log(self, request, progress)
    }

    /// What differs between two checkpoints.
    pub fn diff(&self, request: &DiffRequest, progress: &dyn Progress) -> Result<DiffReport> {
        tensors::diff::diff(self, request, progress)
    }

    /// Mends what is damaged of the store in `root`, which need not be one that opens.
    pub fn repair(root: &Path, request: &RepairRequest, progress: &dyn Progress) -> Result<RepairReport> {
        Self::repair_on(root, Arc::new(OsDisk), request, progress)
    }

    /// [`Store::repair`] with all changes of the disk going through `disk`.
    pub fn repair_on(
        root: &Path,
        disk: Arc<dyn Disk>,
        request: &RepairRequest,
        progress: &dyn Progress,
    ) -> Result<RepairReport> {
        repair::repair(root, disk, request, progress)
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
