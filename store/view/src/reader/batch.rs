//! Neighbouring frames fetched in one request, for those who want many chunks and are in no hurry.

use std::collections::HashSet;
use std::sync::Arc;

use shale_model::{
    BootSet, ChunkId, FormatError, Location, MAX_MISSING_IDS, MAX_TRACE_CHUNKS, PACK_TRAILER_BYTES,
    PackContents, PackId, PackTrailer, SeamError, with_causes,
};

use super::frame::Persistence;
use super::{ChunkReader, Chunks, Flight, ReadError, lock};
use crate::observe::Purpose;
use crate::sources::{NotRead, PackRange, Whom};

/// Stored bytes that one request brings, unless a single frame has more: at 100 Mbit/s it keeps a read that a
/// guest waits for from the link for 80 ms.
const BATCH_BYTES: u64 = 1 << 20;

/// Largest footer of a boot set: that of the longest trace, in frames of one chunk each.
const MAX_FOOTER_BYTES: u64 = 68 * MAX_TRACE_CHUNKS as u64 + PACK_TRAILER_BYTES as u64;

/// Why a boot set cannot be used. The boot does without.
#[derive(Debug, thiserror::Error)]
pub enum BootSetError {
    /// It cannot be read.
    #[error(transparent)]
    Seam(#[from] SeamError),
    /// Its footer is damaged.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// Its footer has a size that none has.
    #[error("the footer of a boot set has {0} bytes")]
    Footer(u64),
    /// Its chunks cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// Frames that lie one after the other in a pack, each with a chunk that it holds.
#[derive(Debug)]
pub(crate) struct Batch {
    frames: Vec<(ChunkId, Location)>,
    /// Plain bytes of all frames.
    plain: u64,
}

impl Batch {
    fn new(chunk: ChunkId, at: Location) -> Self {
        let frames = vec![(chunk, at)];
        let plain = at.frame.plain.into();
        Self { frames, plain }
    }

    /// Stored bytes, which a request for it brings.
    pub(crate) fn stored_bytes(&self) -> u64 {
        let (_, start, end) = range(&self.frames);
        end - start
    }

    /// Plain bytes, which it takes in the cache.
    pub(crate) fn plain_bytes(&self) -> u64 {
        self.plain
    }

    /// Appends the frame of `at`, if it follows and there is room for it.
    fn extend(&mut self, chunk: ChunkId, at: Location) -> bool {
        let (pack, start, end) = range(&self.frames);
        let follows = pack == at.pack && end == at.frame.offset;
        let fits = end - start + u64::from(at.frame.stored) <= BATCH_BYTES;
        if follows && fits {
            self.frames.push((chunk, at));
            self.plain += u64::from(at.frame.plain);
        }
        follows && fits
    }
}

/// Where neighbouring frames begin and end in their pack.
fn range(frames: &[(ChunkId, Location)]) -> (PackId, u64, u64) {
    let (first, last) = (&frames[0].1, &frames[frames.len() - 1].1);
    let end = last.frame.offset + u64::from(last.frame.stored);
    (first.pack, first.frame.offset, end)
}

impl ChunkReader {
    /// The chunks of a boot set with their bytes, in its order. From now on they are read from its pack.
    ///
    /// # Errors
    /// It cannot be read, or is damaged.
    pub async fn boot_set_chunks(
        &self,
        set: &BootSet,
    ) -> Result<Vec<(ChunkId, u32)>, BootSetError> {
        let contents = self.open_boot_set(set).await?;
        let chunks = contents.chunks().iter();
        Ok(chunks.map(|chunk| (chunk.id, chunk.len)).collect())
    }

    /// What a boot set holds. From now on its chunks are read from its pack.
    pub(crate) async fn open_boot_set(&self, set: &BootSet) -> Result<PackContents, BootSetError> {
        let bytes = set.pack_bytes.saturating_sub(set.footer_offset);
        if bytes > MAX_FOOTER_BYTES {
            return Err(BootSetError::Footer(bytes));
        }
        let range = PackRange {
            pack: set.pack,
            offset: set.footer_offset,
            len: bytes,
        };
        let check = |tail: Vec<u8>| contents(set, &tail).map_err(|error| with_causes(&error));
        let read = self
            .supply
            .read_checked(range, Purpose::BootSet, check)
            .await;
        let contents = read.map_err(|why| why.into_seam("read the footer of a boot set"))?;
        lock(&self.locations).take_boot_set(set.pack, &contents);
        Ok(contents)
    }

    /// The frames that hold `ids`, in that order, as few batches. Chunks that no source has are left out.
    pub(crate) async fn batches(
        self: &Arc<Self>,
        ids: &[ChunkId],
    ) -> Result<Vec<Batch>, ReadError> {
        let unknown = ids.iter().copied().filter(|id| self.known(*id).is_none());
        let unknown: Vec<ChunkId> = unknown.collect();
        for part in unknown.chunks(MAX_MISSING_IDS) {
            self.locate_all(part.to_vec()).await?;
        }
        let mut batches: Vec<Batch> = Vec::new();
        let mut seen = HashSet::new();
        for id in ids {
            let Some(at) = self.known(*id) else { continue };
            if !seen.insert((at.pack, at.frame.offset)) {
                continue;
            }
            let extended = batches.last_mut().is_some_and(|last| last.extend(*id, at));
            if !extended {
                batches.push(Batch::new(*id, at));
            }
        }
        Ok(batches)
    }

    /// Asks where chunks lie, until all sources that may know were asked.
    async fn locate_all(&self, mut ids: Vec<ChunkId>) -> Result<(), ReadError> {
        let _turn = self.turn().await;
        while let Some(first) = ids.first().copied() {
            self.fetch_locations(Whom::Anybody, &ids, Purpose::Fill)
                .await?;
            ids.retain(|id| self.known(*id).is_none());
            // Nobody has it, and everybody has told of the others.
            if ids.first() == Some(&first) {
                break;
            }
        }
        Ok(())
    }

    /// Brings a batch into the cache, but for the frames that came meanwhile, or that somebody fetches already; the
    /// bytes that it asked for.
    pub(crate) async fn fly_batch(
        self: &Arc<Self>,
        batch: Batch,
        purpose: Purpose,
    ) -> Result<u64, ReadError> {
        let mut flights = Vec::with_capacity(batch.frames.len());
        {
            let mut flying = lock(&self.flights);
            for (chunk, at) in batch.frames {
                let key = (at.pack, at.frame.offset);
                if !flying.contains_key(&key) && !self.cache.contains(&chunk) {
                    let (flight, _) = Flight::begin(self.clone(), &mut flying, key);
                    flights.push((flight, (chunk, at)));
                }
            }
        }
        let Some((_, (chunk, _))) = flights.first() else {
            return Ok(0);
        };
        let (this, chunk) = (self.clone(), *chunk);
        let bytes = flights
            .iter()
            .map(|(_, (_, at))| u64::from(at.frame.stored));
        let bytes: u64 = bytes.sum();
        // A task of its own: readers that wait for it must not lose it when whoever fills goes away.
        let task = self.runtime.spawn(async move {
            let mut done = Ok(());
            for flights in neighbours(flights) {
                done = done.and(this.land_together(flights, purpose).await);
            }
            done
        });
        let done = task.await.unwrap_or(Err(ReadError::Missing(chunk)));
        done.map(|()| bytes)
    }

    /// Fetches frames that lie one after the other.
    async fn land_together(
        self: &Arc<Self>,
        flights: Vec<(Flight, (ChunkId, Location))>,
        purpose: Purpose,
    ) -> Result<(), ReadError> {
        let frames: Vec<_> = flights.iter().map(|(_, frame)| *frame).collect();
        let unpacked = match self.read_together(&frames, purpose).await {
            Ok(unpacked) => unpacked,
            Err(error) => {
                for (flight, _) in flights {
                    flight.land(Err(error.clone()));
                }
                return Err(error);
            }
        };
        let mut unpacked = unpacked.into_iter();
        let mut failed = None;
        for (flight, (chunk, at)) in flights {
            let landed = match unpacked.next() {
                Some(chunks) => Ok(Arc::new(chunks)),
                None => self.clone().fetch_frame(chunk, at).await,
            };
            if let Err(error) = &landed {
                failed = Some(error.clone());
            }
            flight.land(landed);
        }
        failed.map_or(Ok(()), Err)
    }

    /// The chunks of frames that lie one after the other; nothing where no source has them all right: frame by frame
    /// it is found out what is wrong, the pack is gone, or its bytes are.
    async fn read_together(
        &self,
        frames: &[(ChunkId, Location)],
        purpose: Purpose,
    ) -> Result<Vec<Chunks>, ReadError> {
        let (pack, offset, end) = range(frames);
        let len = end - offset;
        let check = |bytes: Vec<u8>| {
            self.arrived(bytes.len() as u64, purpose);
            let unpacked = frames.iter().map(|(chunk, at)| {
                let from = (at.frame.offset - offset) as usize;
                let stored = bytes.get(from..from + at.frame.stored as usize);
                let unpacked = self.unpack(*at, stored.unwrap_or_default().to_vec())?;
                unpacked.holding(*chunk)
            });
            // Every one, so that those that are right are kept.
            let unpacked: Vec<_> = unpacked.collect();
            unpacked.into_iter().collect()
        };
        let mut persistence = Persistence::begin(&self.retry, frames[0].0);
        loop {
            let range = PackRange { pack, offset, len };
            match self.supply.read_checked(range, purpose, &check).await {
                Ok(unpacked) => return Ok(unpacked),
                Err(NotRead::Failed(error)) => persistence.after(error, self).await?,
                Err(NotRead::Gone | NotRead::Elsewhere(_) | NotRead::Wrong { .. }) => {
                    return Ok(Vec::new());
                }
            }
        }
    }
}

/// What the end of a boot set says of it.
fn contents(set: &BootSet, tail: &[u8]) -> Result<PackContents, BootSetError> {
    let Some((footer, trailer)) = tail
        .len()
        .checked_sub(PACK_TRAILER_BYTES)
        .map(|at| tail.split_at(at))
    else {
        return Err(BootSetError::Footer(tail.len() as u64));
    };
    let trailer = PackTrailer::decode(trailer, set.pack_bytes)?;
    Ok(PackContents::decode(&trailer, footer)?)
}

/// Cuts flights where frames between them are left out.
fn neighbours(
    flights: Vec<(Flight, (ChunkId, Location))>,
) -> Vec<Vec<(Flight, (ChunkId, Location))>> {
    let mut parts: Vec<Vec<_>> = Vec::new();
    let mut end = None;
    for (flight, (chunk, at)) in flights {
        if end != Some(at.frame.offset) {
            parts.push(Vec::new());
        }
        end = Some(at.frame.offset + u64::from(at.frame.stored));
        if let Some(part) = parts.last_mut() {
            part.push((flight, (chunk, at)));
        }
    }
    parts
}
