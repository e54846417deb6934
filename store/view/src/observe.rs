//! What reads tell whoever wants to know: metrics, boot traces, progress.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use shale_model::{ChunkId, Trouble};

use crate::waits::Waits;

/// Where the bytes of a read came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Source {
    /// The cache of this host.
    Cache,
    /// A fetch that this read waited for.
    Fetched,
}

/// Why bytes are fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// A read waits for them.
    Demand,
    /// Reads of a boot will want them.
    BootSet,
    /// Somebody wants all of them here.
    Asked,
    /// They come before anybody asks.
    Fill,
}

/// What becomes of second requests, for what a first one has not brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Hedge {
    /// One is sent.
    Sent,
    /// It was faster than the first.
    Won,
}

/// What became of hashing chunks that arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Checked {
    /// They are the right ones.
    Right,
    /// They are not, or the frame around them cannot be unpacked.
    Wrong,
}

/// Is told about reads as they happen. Called from many threads; must not block.
pub trait Observer: Send + Sync {
    /// A read touched `len` bytes of `chunk`.
    fn touched(&self, chunk: ChunkId, len: u32, source: Source);

    /// `bytes` of a pack arrived.
    fn fetched(&self, bytes: u64, purpose: Purpose);

    /// So many chunks of a pack were hashed.
    fn checked(&self, chunks: u64, found: Checked);

    /// A fetch failed and is tried again.
    fn retried(&self, trouble: Trouble, reason: &str);

    /// A second request is sent, or was faster.
    fn hedged(&self, hedge: Hedge);

    /// What is told how long reads wait, and for what.
    fn waits(&self) -> &Waits;
}

/// Sums over reads.
#[derive(Debug, Default)]
pub struct Counters {
    cache_bytes: AtomicU64,
    waited_bytes: AtomicU64,
    fetched_bytes: AtomicU64,
    boot_set_bytes: AtomicU64,
    filled_bytes: AtomicU64,
    fetches: AtomicU64,
    retries: AtomicU64,
    hedges: AtomicU64,
    hedges_won: AtomicU64,
    right_chunks: AtomicU64,
    wrong_chunks: AtomicU64,
    waits: Waits,
    last_failure: Mutex<Option<String>>,
}

impl Counters {
    /// Bytes of chunks that reads took from the cache.
    pub fn cache_bytes(&self) -> u64 {
        self.cache_bytes.load(Ordering::Relaxed)
    }

    /// Bytes of chunks that reads waited for.
    pub fn waited_bytes(&self) -> u64 {
        self.waited_bytes.load(Ordering::Relaxed)
    }

    /// Bytes of packs that arrived because a read waited for them.
    pub fn fetched_bytes(&self) -> u64 {
        self.fetched_bytes.load(Ordering::Relaxed)
    }

    /// Bytes of boot sets that arrived.
    pub fn boot_set_bytes(&self) -> u64 {
        self.boot_set_bytes.load(Ordering::Relaxed)
    }

    /// Bytes of packs that arrived before a read asked for them.
    pub fn filled_bytes(&self) -> u64 {
        self.filled_bytes.load(Ordering::Relaxed)
    }

    /// Fetches that arrived.
    pub fn fetches(&self) -> u64 {
        self.fetches.load(Ordering::Relaxed)
    }

    /// Fetches that failed and were tried again.
    pub fn retries(&self) -> u64 {
        self.retries.load(Ordering::Relaxed)
    }

    /// Second requests that were sent because a first one was slow.
    pub fn hedges(&self) -> u64 {
        self.hedges.load(Ordering::Relaxed)
    }

    /// Second requests that were faster than the first.
    pub fn hedges_won(&self) -> u64 {
        self.hedges_won.load(Ordering::Relaxed)
    }

    /// Chunks of packs that were hashed when they arrived.
    pub fn checked_chunks(&self, found: Checked) -> u64 {
        match found {
            Checked::Right => self.right_chunks.load(Ordering::Relaxed),
            Checked::Wrong => self.wrong_chunks.load(Ordering::Relaxed),
        }
    }

    /// Time during which at least one read waited for a fetch.
    pub fn waited(&self) -> Duration {
        self.waits.total()
    }

    /// What the last fetch that failed said, whoever waited for it.
    pub fn last_failure(&self) -> Option<String> {
        self.last().clone()
    }

    fn last(&self) -> MutexGuard<'_, Option<String>> {
        self.last_failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Observer for Counters {
    fn touched(&self, _: ChunkId, len: u32, source: Source) {
        let counter = match source {
            Source::Cache => &self.cache_bytes,
            Source::Fetched => &self.waited_bytes,
        };
        counter.fetch_add(len.into(), Ordering::Relaxed);
    }

    fn fetched(&self, bytes: u64, purpose: Purpose) {
        let counter = match purpose {
            Purpose::Demand => &self.fetched_bytes,
            Purpose::BootSet => &self.boot_set_bytes,
            Purpose::Asked | Purpose::Fill => &self.filled_bytes,
        };
        counter.fetch_add(bytes, Ordering::Relaxed);
        self.fetches.fetch_add(1, Ordering::Relaxed);
        self.waits.came();
    }

    fn checked(&self, chunks: u64, found: Checked) {
        let counter = match found {
            Checked::Right => &self.right_chunks,
            Checked::Wrong => &self.wrong_chunks,
        };
        counter.fetch_add(chunks, Ordering::Relaxed);
    }

    fn retried(&self, trouble: Trouble, reason: &str) {
        self.retries.fetch_add(1, Ordering::Relaxed);
        self.waits.failed(trouble, reason);
        *self.last() = Some(reason.to_owned());
    }

    fn hedged(&self, hedge: Hedge) {
        let counter = match hedge {
            Hedge::Sent => &self.hedges,
            Hedge::Won => &self.hedges_won,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    fn waits(&self) -> &Waits {
        &self.waits
    }
}

/// A read that waits: tells the observer and its view that it waits no longer, also where its future is dropped.
pub(crate) struct WaitGuard<'a> {
    observer: &'a dyn Observer,
    observed: u64,
    waits: Arc<Waits>,
    number: u64,
}

impl<'a> WaitGuard<'a> {
    pub(crate) fn begin(observer: &'a dyn Observer, waits: Arc<Waits>) -> Self {
        Self {
            observed: observer.waits().begins(),
            observer,
            number: waits.begins(),
            waits,
        }
    }
}

impl Drop for WaitGuard<'_> {
    fn drop(&mut self) {
        self.observer.waits().ends(self.observed);
        self.waits.ends(self.number);
    }
}
