//! The zstd contexts of one thread, their parameters and their bounds. Frames carry no magic number, checksum, content size
//! or dictionary id: the record that holds them has all that. Never allocates for what a frame declares.

use super::DecodeError;
use zstd::zstd_safe::{CCtx, CParameter, DCtx, DParameter, FrameFormat, ParamSwitch, Strategy};

/// What to look for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum How {
    /// A plain Huffman coder: matches are sought so far apart that none is found.
    Entropy,
    /// Runs and near repeats inside a byte plane, fast.
    Matches,
    /// Text and other bytes, at the level that is worth its time.
    Bytes,
}

/// One context per way of compressing, made when first needed.
pub(super) struct Compressor {
    contexts: [Option<CCtx<'static>>; 3],
}

impl Compressor {
    pub(super) fn new() -> Self {
        Self { contexts: [None, None, None] }
    }

    /// Compresses `raw` into `out`; `None` if it does not fit there or zstd fails.
    pub(super) fn compress(&mut self, how: How, raw: &[u8], out: &mut [u8]) -> Option<usize> {
        let slot = &mut self.contexts[how as usize];
        if slot.is_none() {
            *slot = Some(context(how)?);
        }
        slot.as_mut()?.compress2(out, raw).ok()
    }
}

fn context(how: How) -> Option<CCtx<'static>> {
    let mut context = CCtx::try_create()?;
    let mut set = |parameter| context.set_parameter(parameter).ok().map(drop);
    set(CParameter::Format(FrameFormat::Magicless))?;
    set(CParameter::ContentSizeFlag(false))?;
    set(CParameter::ChecksumFlag(false))?;
    set(CParameter::DictIdFlag(false))?;
    match how {
        How::Bytes => set(CParameter::CompressionLevel(3))?,
        How::Matches => {
            set(CParameter::CompressionLevel(1))?;
            set(CParameter::LiteralCompressionMode(ParamSwitch::Enable))?;
        }
        How::Entropy => {
            set(CParameter::CompressionLevel(1))?;
            set(CParameter::Strategy(Strategy::ZSTD_fast))?;
            set(CParameter::MinMatch(7))?;
            set(CParameter::HashLog(6))?;
            set(CParameter::TargetLength(131_072))?;
            set(CParameter::LiteralCompressionMode(ParamSwitch::Enable))?;
        }
    }
    Some(context)
}

/// Decodes frames of this format. A failed frame does not spoil the context for the next.
pub(super) struct Decompressor {
    context: Option<DCtx<'static>>,
}

impl Decompressor {
    pub(super) fn new() -> Self {
        let mut context = DCtx::try_create();
        if let Some(made) = &mut context
            && made.set_parameter(DParameter::Format(FrameFormat::Magicless)).is_err()
        {
            context = None;
        }
        Self { context }
    }

    /// Decodes one frame into the start of `out` and returns its length.
    pub(super) fn decompress(&mut self, stored: &[u8], out: &mut [u8]) -> Result<usize, DecodeError> {
        let context = self.context.as_mut().ok_or(DecodeError("no memory for a zstd context"))?;
        context.decompress(out, stored).map_err(|_| DecodeError("damaged zstd frame"))
    }
}
