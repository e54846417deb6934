//! Chunks by id: from the cache, or by one flight for each missing frame, verified on arrival.

mod backoff;
mod batch;
mod frame;
mod locations;

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use shale_model::{ChunkId, Location, MAX_MISSING_IDS, PackId, SeamError, Trouble, with_causes};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::cache::Cache;
use crate::observe::{Observer, Purpose};
use crate::ongoing::Ongoing;
use crate::sources::{Supply, Whom};
use crate::waits::Waits;
use backoff::Backoff;
pub(crate) use batch::Batch;
pub use batch::BootSetError;
use locations::Locations;

/// How often it is looked whether anything is heard of sources, while somebody waits for them.
const LISTEN_EVERY: Duration = Duration::from_secs(1);

/// When a fetch is tried again.
#[derive(Debug, Clone, Copy)]
pub struct RetrySettings {
    /// Wait before the second try; it doubles with each further one.
    pub first_wait: Duration,
    /// Longest wait between tries.
    pub longest_wait: Duration,
    /// Fetches of the same bytes that may be wrong, or fail where the source itself is broken, before a read
    /// fails. Slow or absent sources do not count: they are waited for (I8).
    pub bad_bytes: u32,
}

impl Default for RetrySettings {
    fn default() -> Self {
        Self {
            first_wait: Duration::from_millis(50),
            longest_wait: Duration::from_secs(2),
            bad_bytes: 3,
        }
    }
}

/// Why a chunk cannot be read, however long one waits.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ReadError {
    /// The source answers that it does not have the chunk.
    #[error("no source has chunk {0}")]
    Missing(ChunkId),
    /// What the source sends for the frame that holds it is wrong, also after fetching it again.
    #[error("the bytes fetched for chunk {chunk} are wrong, {tries} times: {reason}")]
    Corrupt {
        /// The chunk.
        chunk: ChunkId,
        /// How often its frame was fetched.
        tries: u32,
        /// What was wrong the last time.
        reason: String,
    },
    /// The source refuses for good.
    #[error("chunk {chunk} cannot be fetched")]
    Refused {
        /// The chunk.
        chunk: ChunkId,
        /// The source's reason.
        #[source]
        source: SeamError,
    },
}

/// What a read does when its source denies it, which a new token or permission can end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WhenDenied {
    /// It fails: somebody waits for the command that reads.
    Fail,
    /// It waits, as for a source that is gone: credentials that end never touch a guest (I8).
    Wait,
}

/// Most chunks that [`ChunkReader::each_chunk`] has in memory or on their way: pages of a layer take 64 MiB, and
/// of a file's chunks, four to a frame, 16 frames are fetched side by side.
const MAX_SIDE_BY_SIDE: usize = 64;

/// Longest wait for the turn to ask: most questions take a round trip and a look-up for each of 10,000 chunks.
const TURN_WITHIN: Duration = Duration::from_millis(500);

/// Reads chunks through a cache. One for a host and source, shared by all views.
pub struct ChunkReader {
    supply: Arc<Supply>,
    cache: Arc<Cache>,
    retry: RetrySettings,
    runtime: Handle,
    locations: Mutex<Locations>,
    /// One question at a time, while they are answered: the answer to the first holds what most of those behind it want
    /// to know.
    asking: tokio::sync::Mutex<()>,
    flights: Mutex<HashMap<FrameKey, Landing>>,
    /// How many readers wait for a flight.
    demand: Ongoing,
    /// The waits of its views, which are told why fetches fail.
    waits: Mutex<Vec<Weak<Waits>>>,
}

/// A frame: its pack and its offset there.
type FrameKey = (PackId, u64);

/// How a flight ended: the chunks that it brought.
type Landed = Result<Arc<Chunks>, ReadError>;
/// Chunks of a frame.
type Chunks = HashMap<ChunkId, Vec<u8>>;
type Landing = watch::Receiver<Option<Landed>>;

impl ChunkReader {
    /// A reader of what `supply` has, keeping chunks in `cache`. Flights run on `runtime`, so that a
    /// reader that goes away does not end the fetch that others wait for.
    pub fn new(
        supply: Arc<Supply>,
        cache: Arc<Cache>,
        retry: RetrySettings,
        runtime: Handle,
    ) -> Arc<Self> {
        Arc::new(Self {
            supply,
            cache,
            retry,
            runtime,
            locations: Mutex::default(),
            asking: tokio::sync::Mutex::default(),
            flights: Mutex::default(),
            demand: Ongoing::new(),
            waits: Mutex::default(),
        })
    }

    /// The cache.
    pub fn cache(&self) -> &Cache {
        &self.cache
    }

    /// Where chunks come from.
    pub fn supply(&self) -> &Arc<Supply> {
        &self.supply
    }

    /// Who is told about reads.
    pub fn observer(&self) -> &dyn Observer {
        &**self.supply.observer()
    }

    /// Waits of a view, which are told why fetches fail for as long as it has them.
    pub(crate) fn new_waits(&self) -> Arc<Waits> {
        let new = Arc::<Waits>::default();
        let mut all = lock(&self.waits);
        all.retain(|waits| waits.strong_count() > 0);
        all.push(Arc::downgrade(&new));
        new
    }

    /// A fetch failed and is tried again. Which of the reads that wait want what it was to bring is not known; what
    /// is wrong with a source matters to all that wait for it.
    fn retried(&self, trouble: Trouble, reason: &str) {
        self.observer().retried(trouble, reason);
        self.each_waits(|waits| waits.failed(trouble, reason));
    }

    /// Bytes of a pack arrived.
    fn arrived(&self, bytes: u64, purpose: Purpose) {
        self.observer().fetched(bytes, purpose);
        self.each_waits(Waits::came);
    }

    /// Does `work`, which waits for sources, and tells meanwhile whether anything is heard of them.
    pub(crate) async fn listening<T>(&self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        // Others may wait for longer already.
        if let Some(silence) = self.supply.silence() {
            self.silent(Some(&silence));
        }
        loop {
            match timeout(LISTEN_EVERY, &mut work).await {
                Ok(done) => return done,
                Err(_) => self.silent(self.supply.silence().as_deref()),
            }
        }
    }

    fn silent(&self, reason: Option<&str>) {
        self.observer().waits().silent(reason);
        self.each_waits(|waits| waits.silent(reason));
    }

    fn each_waits(&self, tell: impl Fn(&Waits)) {
        let all: Vec<_> = lock(&self.waits).iter().filter_map(Weak::upgrade).collect();
        all.iter().for_each(|waits| tell(waits));
    }

    /// The whole chunk `id`, verified. `nearby` are ids that will probably be asked for next, whose
    /// locations are asked for in the same request; at most [`MAX_MISSING_IDS`] are taken.
    pub async fn chunk(
        self: &Arc<Self>,
        id: ChunkId,
        nearby: impl FnOnce() -> Vec<ChunkId>,
    ) -> Result<Vec<u8>, ReadError> {
        let location = self.locate(id, nearby).await?;
        let key = (location.pack, location.frame.offset);
        loop {
            let chunks = self
                .fly(key, id, || self.clone().fetch_frame(id, location))
                .await?;
            // A flight that was under way for another chunk of the frame may not have known of this
            // one; the next is this reader's own.
            if let Some(chunk) = chunks.get(&id) {
                return Ok(chunk.clone());
            }
        }
    }

    /// As [`ChunkReader::chunk`], and again while the source denies it, if that is to be waited for. The wait is the
    /// reader's own: others may share its flights who do not wait.
    pub(crate) async fn chunk_or_wait(
        self: &Arc<Self>,
        id: ChunkId,
        nearby: impl Fn() -> Vec<ChunkId>,
        when_denied: WhenDenied,
    ) -> Result<Vec<u8>, ReadError> {
        let mut backoff = Backoff::begin(&self.retry, id);
        loop {
            match self.chunk(id, &nearby).await {
                Err(ReadError::Refused { source, .. })
                    if when_denied == WhenDenied::Wait && source.trouble == Trouble::Denied =>
                {
                    self.retried(source.trouble, &with_causes(&source));
                    backoff.wait().await;
                }
                done => return done,
            }
        }
    }

    /// All `wanted` chunks (id and plain length), in order, verified: for reading files while composing.
    /// Fetches run side by side. A source that denies fails this at once.
    pub async fn chunks(
        self: &Arc<Self>,
        wanted: &[(ChunkId, u32)],
    ) -> Result<Vec<Vec<u8>>, ReadError> {
        let mut chunks = Vec::new();
        let keep = |chunk| -> Result<(), ReadError> {
            chunks.push(chunk);
            Ok(())
        };
        self.each_chunk(wanted, keep).await?;
        Ok(chunks)
    }

    /// As [`ChunkReader::chunks`], but hands one chunk after the other to `take`, so that few of them are
    /// in memory: a layer has tens of thousands of pages. Ends with the first error.
    pub async fn each_chunk<E: From<ReadError>>(
        self: &Arc<Self>,
        wanted: &[(ChunkId, u32)],
        mut take: impl FnMut(Vec<u8>) -> Result<(), E>,
    ) -> Result<(), E> {
        let ids: Arc<[ChunkId]> = wanted.iter().map(|(id, _)| *id).collect();
        let mut coming = VecDeque::new();
        let mut lens = wanted.iter().map(|(_, len)| *len).enumerate();
        loop {
            let free = MAX_SIDE_BY_SIDE - coming.len();
            coming.extend(
                lens.by_ref()
                    .take(free)
                    .map(|(n, len)| self.begin(&ids, n, len)),
            );
            let chunk = match coming.pop_front() {
                None => return Ok(()),
                Some(Coming::Here(chunk)) => chunk,
                Some(Coming::Flying(id, task)) => {
                    task.await.unwrap_or(Err(ReadError::Missing(id)))?
                }
            };
            take(chunk)?;
        }
    }

    /// Begins to read `ids[index]`, of `len` bytes. Those behind it are nearby.
    fn begin(self: &Arc<Self>, ids: &Arc<[ChunkId]>, index: usize, len: u32) -> Coming {
        let id = ids[index];
        let mut chunk = vec![0; len as usize];
        if self.cache.read(&id, 0, &mut chunk) {
            return Coming::Here(chunk);
        }
        let (this, ids) = (self.clone(), ids.clone());
        let nearby = move || ids[index..].iter().take(MAX_MISSING_IDS).copied().collect();
        let task = self
            .runtime
            .spawn(async move { this.chunk(id, nearby).await });
        Coming::Flying(id, task)
    }

    /// Where `id` lies, asking for it and those nearby if it is not known.
    async fn locate(
        self: &Arc<Self>,
        id: ChunkId,
        nearby: impl FnOnce() -> Vec<ChunkId>,
    ) -> Result<Location, ReadError> {
        if let Some(location) = self.known(id) {
            return Ok(location);
        }
        let _turn = self.turn().await;
        if let Some(location) = self.known(id) {
            return Ok(location);
        }
        let mut ids = vec![id];
        ids.extend(nearby().into_iter().filter(|other| *other != id));
        ids.truncate(MAX_MISSING_IDS);
        self.fetch_locations(Whom::Anybody, &ids, Purpose::Demand)
            .await?;
        self.known(id).ok_or(ReadError::Missing(id))
    }

    /// The turn to ask where chunks lie. Who has it may wait for a source that is gone, for as long as that is: then it
    /// goes without, as what it wants to know may be told by a source that is there.
    async fn turn(&self) -> Option<tokio::sync::MutexGuard<'_, ()>> {
        timeout(TURN_WITHIN, self.asking.lock()).await.ok()
    }

    fn known(&self, id: ChunkId) -> Option<Location> {
        lock(&self.locations).by_id.get(&id).copied()
    }

    /// Joins the flight with this key, or starts it; `id` is the chunk that the caller wants.
    async fn fly<F>(
        self: &Arc<Self>,
        key: FrameKey,
        id: ChunkId,
        start: impl FnOnce() -> F,
    ) -> Landed
    where
        F: Future<Output = Landed> + Send + 'static,
    {
        let (flight, mut landing) = {
            let mut flights = lock(&self.flights);
            match flights.get(&key) {
                Some(landing) => (None, landing.clone()),
                None => {
                    let (flight, landing) = Flight::begin(self.clone(), &mut flights, key);
                    (Some(flight), landing)
                }
            }
        };
        if let Some(flight) = flight {
            let work = start();
            // A runtime that ends drops what it is given at once, and the flight with it, which takes the lock.
            self.runtime.spawn(async move { flight.land(work.await) });
        }
        let _waiting = self.demand.begin();
        let landed = landing.wait_for(Option::is_some).await;
        let landed = landed.ok().and_then(|landed| landed.clone());
        landed.unwrap_or_else(|| {
            let source = SeamError::new(Trouble::Failed, "the fetch ended without an answer");
            Err(ReadError::Refused { chunk: id, source })
        })
    }

    /// Reads that wait for a flight.
    pub(crate) fn demand(&self) -> &Ongoing {
        &self.demand
    }
}

/// A fetch of one frame that is under way. Whoever wants the frame meanwhile waits for it.
struct Flight {
    reader: Arc<ChunkReader>,
    key: FrameKey,
    landing: watch::Sender<Option<Landed>>,
    landed: Option<Landed>,
}

impl Flight {
    fn begin(
        reader: Arc<ChunkReader>,
        flights: &mut HashMap<FrameKey, Landing>,
        key: FrameKey,
    ) -> (Self, Landing) {
        let (sender, landing) = watch::channel(None);
        flights.insert(key, landing.clone());
        let flight = Self {
            reader,
            key,
            landing: sender,
            landed: None,
        };
        (flight, landing)
    }

    fn land(mut self, landed: Landed) {
        self.landed = Some(landed);
    }
}

impl Drop for Flight {
    /// Also where the fetch panicked: those who wait are told, and the next reader flies again.
    fn drop(&mut self) {
        lock(&self.reader.flights).remove(&self.key);
        if let Some(landed) = self.landed.take() {
            self.landing.send_replace(Some(landed));
        }
    }
}

/// A chunk of [`ChunkReader::each_chunk`].
enum Coming {
    /// The cache had it.
    Here(Vec<u8>),
    /// It is fetched.
    Flying(ChunkId, JoinHandle<Result<Vec<u8>, ReadError>>),
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
