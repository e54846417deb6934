//! The plan as it grows: runs, chunks and synthesised bytes.

use std::collections::BTreeMap;
use std::ops::Range;

use shale_model::limits::BLOCK_BYTES;
use shale_model::{ChunkId, Extent, PlanParts, Run, RunSource, TemplateId};

use super::geometry::Pieces;
use crate::error::NodeProblem;

const BLOCK: u64 = BLOCK_BYTES as u64;

/// Chunks whose bytes were made by merging, so that no layer holds them.
pub(super) type Synthetic = BTreeMap<ChunkId, Vec<u8>>;

/// Parts of a plan.
#[derive(Debug)]
pub(super) struct Output<'a> {
    synthetic: &'a Synthetic,
    runs: Vec<Run>,
    chunks: Vec<(ChunkId, u32)>,
    /// Bytes of `chunks`.
    content: u64,
    synthesised: Vec<u8>,
}

impl<'a> Output<'a> {
    /// An empty plan with room for `bytes` of synthesised bytes: what is not used is never touched, and growing would
    /// copy what is there already.
    pub(super) fn new(synthetic: &'a Synthetic, bytes: usize) -> Self {
        Self {
            synthetic,
            runs: Vec::new(),
            chunks: Vec::new(),
            content: 0,
            synthesised: Vec::with_capacity(bytes),
        }
    }

    /// Puts `bytes` into blocks from `number` on. Blocks of zeros need no place in a plan.
    pub(super) fn block(&mut self, number: u64, bytes: &[u8]) {
        for (number, block) in (number..).zip(bytes.chunks(BLOCK_BYTES)) {
            if block.iter().all(|byte| *byte == 0) {
                continue;
            }
            let at = self.synthesised.len() as u64;
            self.synthesised.extend_from_slice(block);
            self.synthesised.resize(at as usize + BLOCK_BYTES, 0);
            let run = Run {
                block: number as u32,
                bytes: BLOCK_BYTES as u64,
                source: RunSource::Synthesised(at),
            };
            add(&mut self.runs, run);
        }
    }

    /// Puts the bytes of neighbouring chunks into the next of `pieces`.
    pub(super) fn chunks(
        &mut self,
        chunks: &[Extent],
        pieces: &mut Pieces,
    ) -> Result<(), NodeProblem> {
        let synthetic = self.synthetic;
        let made = |extent: &Extent| match extent {
            Extent::Chunk { id, .. } => synthetic.get(id),
            Extent::Hole { .. } => None,
        };
        let is_made = |extent: &Extent| made(extent).is_some();
        let parts = chunks.chunk_by(|a, b| synthetic.is_empty() || is_made(a) == is_made(b));
        let mut is_block_end = true;
        for part in parts {
            if !is_block_end {
                return Err(NodeProblem::MixedBlock);
            }
            let (from, until);
            let source: fn(u64) -> RunSource = if is_made(&part[0]) {
                from = self.synthesised.len() as u64;
                for extent in part {
                    self.merged(extent, made(extent))?;
                }
                until = self.synthesised.len() as u64;
                RunSource::Synthesised
            } else {
                from = self.content;
                part.iter().for_each(|extent| self.chunk(extent));
                until = self.content;
                RunSource::Content
            };
            self.runs(source, from..until, pieces);
            is_block_end = (until - from).is_multiple_of(BLOCK);
        }
        Ok(())
    }

    fn chunk(&mut self, extent: &Extent) {
        if let Extent::Chunk { id, len } = extent {
            self.chunks.push((*id, *len));
            self.content += u64::from(*len);
        }
    }

    fn merged(&mut self, extent: &Extent, bytes: Option<&Vec<u8>>) -> Result<(), NodeProblem> {
        let (Extent::Chunk { len, .. }, Some(bytes)) = (extent, bytes) else {
            return Ok(());
        };
        if bytes.len() != *len as usize {
            return Err(NodeProblem::MergedLength {
                expected: *len,
                found: bytes.len(),
            });
        }
        self.synthesised.extend_from_slice(bytes);
        Ok(())
    }

    /// Runs for a range of a source over the next of `pieces`.
    fn runs(&mut self, source: fn(u64) -> RunSource, mut range: Range<u64>, pieces: &mut Pieces) {
        while let Some(piece) = pieces.up_to((range.end - range.start).div_ceil(BLOCK)) {
            let bytes = (range.end - range.start).min(piece.blocks * BLOCK);
            let run = Run {
                block: piece.start as u32,
                bytes,
                source: source(range.start),
            };
            add(&mut self.runs, run);
            range.start += bytes;
        }
    }

    /// The plan: runs in order of block.
    pub(super) fn finish(mut self, template: TemplateId, disk_bytes: u64) -> PlanParts {
        self.runs.sort_unstable_by_key(|run| run.block);
        let mut runs = Vec::with_capacity(self.runs.len());
        for run in self.runs {
            add(&mut runs, run);
        }
        PlanParts {
            template,
            disk_bytes,
            runs,
            chunks: self.chunks,
            synthesised: self.synthesised,
        }
    }
}

/// Appends `run`, or lengthens the last run if `run` goes on with its blocks and its source.
fn add(runs: &mut Vec<Run>, run: Run) {
    if let Some(last) = runs.last_mut()
        && last.bytes.is_multiple_of(BLOCK)
        && last.end_block() == u64::from(run.block)
        && goes_on(last, run.source)
    {
        last.bytes += run.bytes;
        return;
    }
    runs.push(run);
}

fn goes_on(last: &Run, source: RunSource) -> bool {
    match (last.source, source) {
        (RunSource::Content(at), RunSource::Content(next))
        | (RunSource::Synthesised(at), RunSource::Synthesised(next)) => at + last.bytes == next,
        _ => false,
    }
}
