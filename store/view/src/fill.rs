//! What comes before anybody asks: the boot set of a template while its machine starts, and then, while no read
//! waits, all that its plan names, so that a guest soon depends on no registry.

use std::collections::HashSet;
use std::future::Future;
use std::num::NonZeroU64;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use shale_model::{BootSet, ChunkId, FormatError, with_causes};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::observe::Purpose;
use crate::ongoing::Ongoing;
use crate::reader::{Batch, BootSetError, ChunkReader, ReadError};
use crate::view::View;

/// Chunks of a plan that are looked at together: their locations are one question to a registry.
const WINDOW_CHUNKS: usize = 4096;

/// How often what is asked for is gone through.
const PASSES: usize = 3;

/// Requests on their way at once: while one is unpacked, the link carries the other.
const REQUESTS: usize = 2;

/// Bytes of the cache that a fill leaves free beside its own: for what reads bring meanwhile, so that nothing leaves
/// for a fill.
const ROOM_FOR_READS: u64 = 4 << 20;

/// How fast a host fills its cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FillRate {
    /// Not at all: chunks come when they are read.
    Off,
    /// At most so many bytes a second.
    PerSecond(NonZeroU64),
    /// As fast as the source sends.
    Unlimited,
}

/// How fills go about it.
#[derive(Debug, Clone, Copy)]
pub struct FillSettings {
    /// How fast.
    pub rate: FillRate,
    /// How long a source that denies, or sends wrong bytes, is left alone.
    pub after_failure: Duration,
}

/// Why the content of a plan cannot be brought.
#[derive(Debug, thiserror::Error)]
pub enum BringError {
    /// It cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The plan is damaged.
    #[error(transparent)]
    Plan(#[from] FormatError),
    /// The cache has no room for all of it beside what is pinned.
    #[error("the cache has room for {room} bytes beside what is pinned, and {needs} are to come")]
    Full {
        /// Bytes that there is room for.
        room: u64,
        /// Bytes of what is not here.
        needs: u64,
    },
    /// Not all of it came, for no reason that was told: no source has it, or the cache could not keep it.
    #[error("{0} bytes of it do not come: no source has them, or the cache cannot keep them")]
    Missing(u64),
}

impl FillSettings {
    /// Fills at `rate`.
    pub fn at(rate: FillRate) -> Self {
        Self {
            rate,
            after_failure: Duration::from_secs(30),
        }
    }
}

/// How far a fill is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FillState {
    /// Fills are off.
    Off,
    /// It brings chunks.
    Running,
    /// Its source failed, for this reason; it is asked again later.
    Waiting(String),
    /// Every chunk of the plan that a source has is there.
    Whole,
    /// The cache has no room for more; nothing leaves it for a fill.
    CacheFull,
    /// The plan is damaged.
    Damaged(String),
}

/// Fills the cache of a host from one source, for all its views together.
pub struct Filler {
    rate: watch::Sender<FillRate>,
    after_failure: Duration,
    requests: Arc<Semaphore>,
    /// Boot sets on their way.
    boot_sets: Ongoing,
    /// When the next request may begin.
    next: Mutex<Option<Instant>>,
}

impl Filler {
    /// A filler for one source.
    pub fn new(settings: FillSettings) -> Self {
        Self {
            rate: watch::Sender::new(settings.rate),
            after_failure: settings.after_failure,
            requests: Arc::new(Semaphore::new(REQUESTS)),
            boot_sets: Ongoing::new(),
            next: Mutex::new(None),
        }
    }

    /// Sets another rate. Fills on their way go on with it, or end where it is [`FillRate::Off`].
    pub fn set_rate(&self, rate: FillRate) {
        // What the rate before has put off may begin.
        *self.next.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.rate.send_replace(rate);
    }

    /// Resolves when a rate was set after this call, be it the same: what ended may be begun again.
    pub fn changed(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut rate = self.rate.subscribe();
        async move {
            if rate.changed().await.is_err() {
                // Nobody is left who could.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Brings what `view` has not yet, in the order of its plan, and says in `state` how far it is. Requests begin
    /// only while no read waits for one. A source that fails is asked again later, without end: dropping the
    /// future ends the fill, and the next goes on where this one was.
    pub async fn fill(&self, view: &View, state: &watch::Sender<FillState>) {
        let mut rate = self.rate.subscribe();
        let ended = tokio::select! {
            biased;
            _ = rate.wait_for(|rate| *rate == FillRate::Off) => FillState::Off,
            ended = self.bring_all(view, state) => ended,
        };
        state.send_replace(ended);
    }

    async fn bring_all(&self, view: &View, state: &watch::Sender<FillState>) -> FillState {
        let chunks = view.plan().chunk_count();
        for start in (0..chunks).step_by(WINDOW_CHUNKS) {
            let mut missing = match missing(view, start..chunks.min(start + WINDOW_CHUNKS)) {
                Ok(missing) => missing,
                Err(error) => return FillState::Damaged(error.to_string()),
            };
            loop {
                state.send_replace(FillState::Running);
                let room = || view.reader().cache().room();
                match self
                    .bring(view.reader(), &missing, Purpose::Fill, room)
                    .await
                {
                    Ok(Room::Enough) => break,
                    Ok(Room::Full) => return FillState::CacheFull,
                    Err(error) => {
                        state.send_replace(FillState::Waiting(with_causes(&error)));
                        tokio::time::sleep(self.after_failure).await;
                    }
                }
                missing.retain(|id| !view.reader().cache().contains(id));
            }
        }
        FillState::Whole
    }

    /// Brings all that `view` has not yet, because somebody asked for that: as fast as the source sends, though below
    /// reads, and what is not pinned leaves the cache for it. A source that does not answer is waited for.
    ///
    /// # Errors
    /// There is no room, or something cannot be read.
    pub async fn bring_whole(&self, view: &View) -> Result<(), BringError> {
        let cache = view.reader().cache();
        let chunks = view.plan().chunk_count();
        let (room, needs) = (cache.room_beside_pins(), missing_bytes(view)?);
        if needs + ROOM_FOR_READS > room {
            return Err(BringError::Full { room, needs });
        }
        // Where a chunk lies may be forgotten before it is asked for: then it comes the next time.
        for _ in 0..PASSES {
            for start in (0..chunks).step_by(WINDOW_CHUNKS) {
                let missing = missing(view, start..chunks.min(start + WINDOW_CHUNKS))?;
                let room = || cache.room_beside_pins();
                let brought = self.bring(view.reader(), &missing, Purpose::Asked, room);
                if let Room::Full = brought.await? {
                    let (room, needs) = (room(), missing_bytes(view)?);
                    return Err(BringError::Full { room, needs });
                }
            }
            if missing_bytes(view)? == 0 {
                return Ok(());
            }
        }
        Err(BringError::Missing(missing_bytes(view)?))
    }

    /// Brings a boot set, in its order. Other than those of a fill, its requests do not wait for reads: the reads of
    /// a boot ask for what it brings. Fills wait for it. The answer is what it holds.
    ///
    /// # Errors
    /// It cannot be read, or is damaged. Reads go on without it.
    pub async fn bring_boot_set(
        &self,
        reader: &Arc<ChunkReader>,
        set: &BootSet,
    ) -> Result<Vec<(ChunkId, u32)>, BootSetError> {
        let _first = self.boot_sets.begin();
        let chunks = reader.boot_set_chunks(set).await?;
        let ids = chunks.iter().map(|(id, _)| *id);
        let missing: Vec<ChunkId> = ids.filter(|id| !reader.cache().contains(id)).collect();
        let room = || reader.cache().room();
        self.bring(reader, &missing, Purpose::BootSet, room).await?;
        Ok(chunks)
    }

    /// Brings chunks as long as there is `room` for them in bytes.
    async fn bring(
        &self,
        reader: &Arc<ChunkReader>,
        missing: &[ChunkId],
        purpose: Purpose,
        room: impl Fn() -> u64,
    ) -> Result<Room, ReadError> {
        let mut flying = JoinSet::new();
        let mut found = Room::Enough;
        let requests = match purpose {
            Purpose::Fill => self.requests.clone(),
            // Its own: it waits for no fill.
            _ => Arc::new(Semaphore::new(REQUESTS)),
        };
        for batch in reader.batches(missing).await? {
            // The semaphore is never closed.
            let turn = requests.clone().acquire_owned().await.ok();
            if purpose != Purpose::BootSet {
                self.boot_sets.none().await;
                reader.demand().none().await;
            }
            if purpose == Purpose::Fill {
                self.pace(&batch).await;
            }
            if room() < ROOM_FOR_READS + batch.plain_bytes() {
                found = Room::Full;
                break;
            }
            let reader = reader.clone();
            flying.spawn(async move {
                let landed = reader.fly_batch(batch, purpose).await;
                drop(turn);
                landed.map(drop)
            });
            while let Some(landed) = flying.try_join_next() {
                landed.unwrap_or(Ok(()))?;
            }
        }
        while let Some(landed) = flying.join_next().await {
            landed.unwrap_or(Ok(()))?;
        }
        Ok(found)
    }

    /// Waits until a batch may begin.
    async fn pace(&self, batch: &Batch) {
        let mut rate = self.rate.subscribe();
        loop {
            let FillRate::PerSecond(per_second) = *rate.borrow_and_update() else {
                return;
            };
            let takes = batch.stored_bytes() as f64 / per_second.get() as f64;
            let begin = {
                let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
                let begin = next.map_or_else(Instant::now, |next| next.max(Instant::now()));
                *next = Some(begin + Duration::from_secs_f64(takes));
                begin
            };
            tokio::select! {
                () = tokio::time::sleep_until(begin) => return,
                _ = rate.changed() => {}
            }
        }
    }
}

/// What a cache has for a fill.
enum Room {
    Enough,
    Full,
}

/// Bytes of the chunks that the cache has not, each once.
fn missing_bytes(view: &View) -> Result<u64, FormatError> {
    let mut seen = HashSet::new();
    let mut bytes = 0;
    for index in 0..view.plan().chunk_count() {
        let (id, len) = view.plan().chunk(index)?;
        if !view.reader().cache().contains(&id) && seen.insert(id) {
            bytes += u64::from(len);
        }
    }
    Ok(bytes)
}

/// The chunks of a part of the plan that the cache has not, each once.
fn missing(view: &View, part: Range<usize>) -> Result<Vec<ChunkId>, FormatError> {
    let mut seen = HashSet::new();
    let mut missing = Vec::new();
    for index in part {
        let (id, _) = view.plan().chunk(index)?;
        if !view.reader().cache().contains(&id) && seen.insert(id) {
            missing.push(id);
        }
    }
    Ok(missing)
}
