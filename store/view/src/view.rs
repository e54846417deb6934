//! A plan read lazily: the read-only disk under every instance made from it.

use std::ops::Range;
use std::sync::Arc;

use shale_model::{
    BlockRun, ChunkId, ChunkSlice, DeviceError, DeviceResult, FormatError, Piece, Problem,
};

use crate::observe::{Source, WaitGuard};
use crate::plan_file::PlanFile;
use crate::reader::{ChunkReader, ReadError, WhenDenied};
use crate::trace::Trace;
use crate::waits::Waits;

/// Chunks before a missing one whose locations are asked for with it: they lie in the same frame, and
/// only chunks whose place in a frame is known are kept when it arrives.
const CHUNKS_BEFORE: usize = 128;

/// Chunks after a missing one whose locations are asked for with it: a boot asks a registry a few times,
/// not once a file.
const CHUNKS_AFTER: usize = 4096;

/// A plan and where its chunks come from.
pub struct View {
    plan: Arc<PlanFile>,
    reader: Arc<ChunkReader>,
    when_denied: WhenDenied,
    trace: Option<Arc<Trace>>,
    waits: Arc<Waits>,
}

/// A part of a read that is not in the cache.
struct Miss {
    /// Where its bytes go in the caller's buffer.
    target: Range<usize>,
    slice: ChunkSlice,
}

impl View {
    /// A view of `plan` for a guest, which waits for a source that denies.
    pub fn new(plan: PlanFile, reader: Arc<ChunkReader>) -> Self {
        Self {
            plan: Arc::new(plan),
            waits: reader.new_waits(),
            reader,
            when_denied: WhenDenied::Wait,
            trace: None,
        }
    }

    /// A view of `plan` for a command, which fails when a source denies: whoever called it can do something about that.
    pub fn for_command(plan: PlanFile, reader: Arc<ChunkReader>) -> Self {
        Self {
            when_denied: WhenDenied::Fail,
            ..Self::new(plan, reader)
        }
    }

    /// The same view, which notes in `trace` what is read, if there is one.
    pub fn traced(self, trace: Option<Arc<Trace>>) -> Self {
        Self { trace, ..self }
    }

    /// How long its reads waited, and for what.
    pub fn waits(&self) -> &Waits {
        &self.waits
    }

    /// The plan.
    pub fn plan(&self) -> &PlanFile {
        &self.plan
    }

    /// Where its chunks come from.
    pub fn reader(&self) -> &Arc<ChunkReader> {
        &self.reader
    }

    /// Bytes of the disk.
    pub fn size(&self) -> u64 {
        self.plan.disk_bytes()
    }

    /// Fills `buffer` from `offset`; what the cache has is there without waiting, and the rest is
    /// fetched side by side.
    pub async fn read(&self, offset: u64, buffer: &mut [u8]) -> DeviceResult<()> {
        let misses = self.read_cached(offset, buffer)?;
        if misses.is_empty() {
            return Ok(());
        }
        let observer = self.reader.observer();
        let _waiting = WaitGuard::begin(observer, self.waits.clone());
        let fetched = self.fetch(&misses, buffer);
        self.reader.listening(fetched).await
    }

    /// Brings what is not here.
    async fn fetch(&self, misses: &[Miss], buffer: &mut [u8]) -> DeviceResult<()> {
        // All but the first fly on their own; awaiting them in order waits for the slowest only.
        let flights: Vec<_> = misses[1..]
            .iter()
            .map(|miss| {
                let (reader, plan) = (self.reader.clone(), self.plan.clone());
                let (slice, denied) = (miss.slice, self.when_denied);
                tokio::spawn(async move {
                    let nearby = || nearby(&plan, slice.index);
                    reader.chunk_or_wait(slice.id, nearby, denied).await
                })
            })
            .collect();
        let first = &misses[0];
        let nearby = || nearby(&self.plan, first.slice.index);
        let (id, denied) = (first.slice.id, self.when_denied);
        let chunk = self.reader.chunk_or_wait(id, nearby, denied).await;
        self.deliver(first, chunk, buffer)?;
        for (miss, flight) in misses[1..].iter().zip(flights) {
            let lost = |_| Err(ReadError::Missing(miss.slice.id));
            let chunk = flight.await.unwrap_or_else(lost);
            self.deliver(miss, chunk, buffer)?;
        }
        Ok(())
    }

    /// Where zeros are known from the plan alone, for at most `len` bytes from `offset`.
    pub fn status(&self, offset: u64, len: u64) -> DeviceResult<Vec<BlockRun>> {
        let mut runs: Vec<BlockRun> = Vec::new();
        let pieces = self.plan.pieces(offset, len, |piece| {
            let (len, zero) = (piece.len(), matches!(piece, Piece::Zero(_)));
            match runs.last_mut() {
                Some(last) if last.zero == zero => last.len += len,
                _ => runs.push(BlockRun { len, zero }),
            }
            Ok::<(), FormatError>(())
        });
        pieces.map_err(DeviceError::below)?;
        Ok(runs)
    }

    /// Copies what needs no waiting; what does is returned.
    fn read_cached(&self, offset: u64, buffer: &mut [u8]) -> DeviceResult<Vec<Miss>> {
        let observer = self.reader.observer();
        let mut misses = Vec::new();
        let mut at = 0;
        let len = buffer.len() as u64;
        let pieces = self.plan.pieces(offset, len, |piece| {
            let target = at..at + piece.len() as usize;
            at = target.end;
            let part = &mut buffer[target.clone()];
            match piece {
                Piece::Zero(_) => part.fill(0),
                Piece::Bytes(bytes) => part.copy_from_slice(bytes),
                Piece::Chunk(slice) => {
                    let source = match self.reader.cache().read(&slice.id, slice.offset, part) {
                        true => Source::Cache,
                        false => Source::Fetched,
                    };
                    if let Some(trace) = &self.trace {
                        trace.touch(slice.id, source);
                    }
                    match source {
                        Source::Cache => observer.touched(slice.id, slice.len, source),
                        Source::Fetched => misses.push(Miss { target, slice }),
                    }
                }
            }
            Ok::<(), FormatError>(())
        });
        pieces.map_err(DeviceError::below)?;
        Ok(misses)
    }

    fn deliver(
        &self,
        miss: &Miss,
        chunk: Result<Vec<u8>, ReadError>,
        buffer: &mut [u8],
    ) -> DeviceResult<()> {
        let chunk = chunk.map_err(DeviceError::below)?;
        let ChunkSlice { offset, len, .. } = miss.slice;
        let part = chunk.get(offset as usize..offset as usize + len as usize);
        let shorter = || {
            DeviceError::below(FormatError {
                what: "plan",
                at: 0,
                problem: Problem::Rule("a chunk is shorter than the plan says"),
            })
        };
        buffer[miss.target.clone()].copy_from_slice(part.ok_or_else(shorter)?);
        let observer = self.reader.observer();
        observer.touched(miss.slice.id, len, Source::Fetched);
        Ok(())
    }
}

/// Ids of the chunks of a plan around `index`.
fn nearby(plan: &PlanFile, index: usize) -> Vec<ChunkId> {
    let end = plan.chunk_count().min(index + CHUNKS_AFTER);
    let ids = (index.saturating_sub(CHUNKS_BEFORE)..end).filter_map(|index| plan.chunk(index).ok());
    ids.map(|(id, _)| id).collect()
}
