//! A frame, fetched until its bytes are right.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use shale_model::{
    ChunkId, FrameLocation, Location, MAX_MISSING_IDS, SeamError, Trouble, decode_frame,
    with_causes,
};

use super::backoff::Backoff;
use super::{ChunkReader, Chunks, Landed, ReadError, RetrySettings, lock};
use crate::observe::{Checked, Purpose};
use crate::sources::{NotRead, PackRange, Whom};

/// What a fetch that failed does next: a source that is slow or gone is waited for, as long as it takes.
pub(super) struct Persistence {
    chunk: ChunkId,
    backoff: Backoff,
    bad: u32,
    most_bad: u32,
}

impl Persistence {
    pub(super) fn begin(retry: &RetrySettings, chunk: ChunkId) -> Self {
        Self {
            chunk,
            backoff: Backoff::begin(retry, chunk),
            bad: 0,
            most_bad: retry.bad_bytes,
        }
    }

    /// Waits until it can be tried again after this error.
    pub(super) async fn after(
        &mut self,
        error: SeamError,
        reader: &ChunkReader,
    ) -> Result<(), ReadError> {
        match error.trouble {
            Trouble::NotFound => return Err(ReadError::Missing(self.chunk)),
            // What is damaged at its source, such as a repository's index, or broken, such as the disk
            // that it lies on, does not heal by waiting. What fails in a registry is unavailable here.
            Trouble::Integrity | Trouble::Failed if self.bad + 1 < self.most_bad => self.bad += 1,
            Trouble::Unavailable | Trouble::NoSpace => {}
            Trouble::Integrity
            | Trouble::Failed
            | Trouble::Denied
            | Trouble::Conflict
            | Trouble::Invalid => {
                let (chunk, source) = (self.chunk, error);
                return Err(ReadError::Refused { chunk, source });
            }
        }
        reader.retried(error.trouble, &with_causes(&error));
        self.backoff.wait().await;
        Ok(())
    }
}

/// What is right of a frame that came.
#[derive(Clone)]
pub(super) struct Unpacked {
    /// The chunks that were said to lie in it, and do.
    chunks: Chunks,
    /// Those that do not: they lie elsewhere, or the bytes are wrong.
    wrong: Vec<ChunkId>,
}

impl Unpacked {
    /// All its chunks, if they are right and `chunk` is one of them.
    pub(super) fn holding(self, chunk: ChunkId) -> Result<Chunks, String> {
        match self.wrong.first() {
            Some(id) => Err(format!("its bytes are not those of chunk {}", id.short())),
            None if !self.chunks.contains_key(&chunk) => {
                Err("the frame does not hold the chunk".to_owned())
            }
            None => Ok(self.chunks),
        }
    }
}

/// What a source does not have where it was thought to lie.
#[derive(Debug, Clone, Copy)]
enum Lost {
    /// One chunk.
    Chunk,
    /// A pack with all its chunks.
    Pack,
}

impl ChunkReader {
    /// Asks where `ids` lie; the first is the one that a reader waits for.
    pub(super) async fn fetch_locations(
        &self,
        whom: Whom,
        ids: &[ChunkId],
        purpose: Purpose,
    ) -> Result<(), ReadError> {
        let mut persistence = Persistence::begin(&self.retry, ids[0]);
        let found = loop {
            match self.supply.locate_from(whom, ids, purpose).await {
                Ok(found) => break found,
                Err(why) => {
                    persistence
                        .after(why.into_seam("locate chunks"), self)
                        .await?
                }
            }
        };
        let mut locations = lock(&self.locations);
        for (id, at) in ids.iter().zip(found) {
            if let Some(at) = at {
                locations.insert(*id, at);
            }
        }
        Ok(())
    }

    /// Fetches the frame at `location`, until its bytes are right, and keeps its chunks.
    ///
    /// Where every source sends a frame that has `chunk` and lacks another one that was said to lie in it, it was a lie: a
    /// mirror can say that of any chunk of the registry.
    pub(super) async fn fetch_frame(self: Arc<Self>, chunk: ChunkId, location: Location) -> Landed {
        if let Some(landed) = self.landed_before(chunk, &location) {
            return Ok(landed);
        }
        let mut persistence = Persistence::begin(&self.retry, chunk);
        let (mut location, mut rounds, mut fetches) = (location, 0, 0);
        let without_others = Mutex::new(None);
        loop {
            let check = |stored: Vec<u8>| {
                let bytes = stored.len() as u64;
                self.arrived(bytes, Purpose::Demand);
                let unpacked = self.unpack(location, stored)?;
                if !unpacked.wrong.is_empty() && unpacked.chunks.contains_key(&chunk) {
                    *lock(&without_others) = Some(unpacked.clone());
                }
                unpacked.holding(chunk)
            };
            let read = self
                .supply
                .read_checked(range_of(&location), Purpose::Demand, check);
            let (reason, lost) = match read.await {
                Ok(chunks) => return Ok(Arc::new(chunks)),
                Err(NotRead::Failed(error)) => {
                    persistence.after(error, &self).await?;
                    continue;
                }
                // Another source may have packed the chunk otherwise.
                Err(NotRead::Elsewhere(error)) => {
                    persistence.after(error, &self).await?;
                    location = self
                        .relocate((chunk, &location), Lost::Pack, Whom::Anybody)
                        .await?;
                    continue;
                }
                // A pack that is gone was rewritten: its chunks lie elsewhere now (I9).
                Err(NotRead::Gone) => {
                    fetches += 1;
                    ("its pack is gone".to_owned(), Lost::Pack)
                }
                Err(NotRead::Wrong { error, answers }) => {
                    fetches += answers;
                    (with_causes(&error), Lost::Chunk)
                }
            };
            rounds += 1;
            self.retried(Trouble::Integrity, &reason);
            if let Some(part) = lock(&without_others).take() {
                if rounds < self.retry.bad_bytes {
                    continue;
                }
                lock(&self.locations).forget(&part.wrong, &location);
                return Ok(Arc::new(part.chunks));
            }
            if rounds >= self.retry.bad_bytes {
                return Err(ReadError::Corrupt {
                    chunk,
                    tries: fetches,
                    reason,
                });
            }
            // Not of a mirror: it may be wrong about where the chunk lies.
            location = self
                .relocate((chunk, &location), lost, Whom::Registry)
                .await?;
        }
    }

    /// Where a chunk lies else than it was thought to.
    async fn relocate(
        &self,
        (chunk, was): (ChunkId, &Location),
        lost: Lost,
        whom: Whom,
    ) -> Result<Location, ReadError> {
        let _turn = self.turn().await;
        // Whoever missed another frame of the pack may have asked for this one, too.
        if let Some(other) = self.known(chunk).filter(|at| at != was) {
            return Ok(other);
        }
        let mut ids = vec![chunk];
        {
            let mut locations = lock(&self.locations);
            if let Lost::Pack = lost {
                let others = locations.lost(was.pack);
                ids.extend(others.into_iter().filter(|id| *id != chunk));
            }
            locations.by_id.remove(&chunk);
        }
        ids.truncate(MAX_MISSING_IDS);
        self.fetch_locations(whom, &ids, Purpose::Demand).await?;
        self.known(chunk).ok_or(ReadError::Missing(chunk))
    }

    /// What a flight brought that landed after the reader missed the cache and before this began.
    fn landed_before(&self, chunk: ChunkId, location: &Location) -> Option<Arc<Chunks>> {
        let mut bytes = vec![0; location.len as usize];
        let there = self.cache.read(&chunk, 0, &mut bytes);
        there.then(|| Arc::new(HashMap::from([(chunk, bytes)])))
    }

    /// Decompresses a frame, and hashes and keeps every chunk that is known to lie in it.
    pub(super) fn unpack(&self, at: Location, stored: Vec<u8>) -> Result<Unpacked, String> {
        let unpacked = self.unpack_unseen(at, stored);
        let (right, wrong) = match &unpacked {
            Ok(unpacked) => (unpacked.chunks.len(), unpacked.wrong.len()),
            Err(_) => (0, 1),
        };
        for (chunks, found) in [(right, Checked::Right), (wrong, Checked::Wrong)] {
            if chunks > 0 {
                self.observer().checked(chunks as u64, found);
            }
        }
        unpacked
    }

    fn unpack_unseen(&self, at: Location, stored: Vec<u8>) -> Result<Unpacked, String> {
        let frame = at.frame;
        if stored.len() != frame.stored as usize {
            return Err(format!("{} bytes came for {}", stored.len(), frame.stored));
        }
        let plain = decode_frame(frame.codec, stored, frame.plain).map_err(|e| e.to_string())?;
        let known = lock(&self.locations).in_frame(&at);
        let mut unpacked = Unpacked {
            chunks: HashMap::with_capacity(known.len()),
            wrong: Vec::new(),
        };
        for (id, location) in known {
            let start = location.offset as usize;
            let bytes = start
                .checked_add(location.len as usize)
                .and_then(|end| plain.get(start..end));
            match bytes {
                Some(bytes) if ChunkId::of(bytes) == id => {
                    self.cache.store(id, bytes);
                    unpacked.chunks.insert(id, bytes.to_vec());
                }
                _ => unpacked.wrong.push(id),
            }
        }
        Ok(unpacked)
    }
}

fn range_of(location: &Location) -> PackRange {
    let FrameLocation { offset, stored, .. } = location.frame;
    PackRange {
        pack: location.pack,
        offset,
        len: stored.into(),
    }
}
