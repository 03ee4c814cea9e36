//! A content-addressed, deduplicating store for training checkpoints.
//!
//! A checkpoint is cut at its tensors' borders into chunks, each named by the BLAKE3 of its bytes and kept once; what comes
//! back is byte for byte what went in. This file is the whole public API. The library never touches the terminal, the home
//! directory or the environment.

#![deny(clippy::print_stdout, clippy::print_stderr, unsafe_code)]

mod archive;
mod backend;
mod catalog;
// The one room with code for single processors; each use says why it is sound.
#[allow(unsafe_code)]
#[doc(hidden)]
pub mod codec;
mod error;
mod format;
mod id;
mod index;
#[doc(hidden)]
pub mod limits;
mod names;
mod ops;
mod packs;
mod parallel;
mod pickle;
mod progress;
mod session;
mod space;
#[doc(hidden)]
pub mod split;
mod store;

pub use archive::{Joined, Literal, Record, Sums, torch_archive};
pub use backend::disk::{Disk, DiskFile, OsDisk};
pub use catalog::policies::{Policy, PolicyUse};
pub use catalog::refs::{Mode, best_of, mode_of, name_of};
pub use catalog::rules::{Best, Reason, Rules, Verdict};
pub use error::{Damage, Error, Result, Shortage, Thing};
pub use format::catalog::Entry;
pub use format::manifest::{Content, File, Manifest, Segment, Tensor, View};
pub use format::tensors::TensorRef;
pub use id::{CatalogId, CheckpointId, ChunkId, InvalidId, PackId, SessionId, StoreId};
pub use names::step_of;
pub use ops::gc::{GcReport, GcRequest};
pub use ops::get::{GetReport, GetRequest};
pub use ops::import::watch::{WatchEvent, WatchReport, WatchRequest};
pub use ops::import::{
    ImportAction, ImportDone, ImportEvent, ImportItem, ImportPlan, ImportReport, ImportRequest, ImportResult,
};
pub use ops::open::{Body, OpenCheckpoint, OpenTensor, ReadCache, Slice};
pub use ops::put::parts::{PartRequest, Prepared};
pub use ops::put::{Given, PutReport, PutRequest};
pub use ops::repair::{MendedPack, RepairReport, RepairRequest};
pub use ops::stats::{RunStats, Stats};
pub use ops::stream::Span;
pub use ops::tensors::diff::{DiffReport, DiffRequest, TensorChange, TensorChanges};
pub use ops::tensors::difference::Difference;
pub use ops::tensors::elements::Value;
pub use ops::tensors::export::{ExportReport, ExportRequest};
pub use ops::tensors::files::{FileChange, Member};
pub use ops::tensors::list::{ListedTensor, Since, TensorList};
pub use ops::tensors::log::{LogFigures, LogReport, LogRequest, LogRow, TensorFacts};
pub use ops::tensors::stats::TensorStats;
pub use ops::verify::{VerifyReport, VerifyRequest};
pub use progress::{Notice, Progress, Quiet, Stage};
pub use split::Source;
pub use store::Store;
