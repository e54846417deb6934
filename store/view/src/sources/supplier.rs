//! One source of chunks, with what is known of it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use shale_model::{Fetch, Hearing, PackId};
use tokio::time::Instant;

use super::breaker::{Admission, Breaker, SourceState};

/// How long a mirror is not asked for a pack that it did not have: it may be filled meanwhile.
const LACKS_FOR: Duration = Duration::from_secs(300);

/// Most packs of which that is remembered; all are forgotten when there are more, and each costs a question again.
const MAX_LACKED: usize = 4096;

/// A source of chunks with its name, which is what people know it by: a URL or a directory.
#[derive(Clone)]
pub struct NamedFetch {
    /// The name.
    pub name: String,
    /// The source.
    pub fetch: Arc<dyn Fetch>,
    /// What is known of it while its answers are waited for, where it is one that can be silent.
    pub hearing: Option<Arc<dyn Hearing>>,
}

/// What a source did so far, and how it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceReport {
    /// Its name.
    pub name: String,
    /// Requests that were sent to it, those of which another source was faster included.
    pub requests: u64,
    /// Bytes that came from it.
    pub bytes: u64,
    /// Requests that it did not answer, or with wrong bytes.
    pub failures: u64,
    /// Whether it is asked.
    pub state: SourceState,
}

/// A mirror, or the registry itself.
pub(super) struct Supplier {
    pub(super) name: String,
    pub(super) fetch: Arc<dyn Fetch>,
    pub(super) hearing: Option<Arc<dyn Hearing>>,
    breaker: Mutex<Breaker>,
    lacked: Mutex<HashMap<PackId, Instant>>,
    requests: AtomicU64,
    bytes: AtomicU64,
    failures: AtomicU64,
}

impl Supplier {
    pub(super) fn new(named: NamedFetch) -> Self {
        Self {
            name: named.name,
            fetch: named.fetch,
            hearing: named.hearing,
            breaker: Mutex::default(),
            lacked: Mutex::default(),
            requests: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            failures: AtomicU64::new(0),
        }
    }

    pub(super) fn admit(&self) -> Admission {
        lock(&self.breaker).admit(Instant::now())
    }

    pub(super) fn state(&self) -> SourceState {
        lock(&self.breaker).state(Instant::now())
    }

    /// A request is sent to it. One that is dropped before its end is told was given up.
    pub(super) fn sent(&self, admission: Admission) -> Sent<'_> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        Sent {
            supplier: self,
            probes: admission == Admission::Probe,
        }
    }

    pub(super) fn failed(&self, random: f64) {
        self.failures.fetch_add(1, Ordering::Relaxed);
        lock(&self.breaker).failed(Instant::now(), random);
    }

    /// It does not have this pack.
    pub(super) fn lacks(&self, pack: PackId) {
        let mut lacked = lock(&self.lacked);
        if lacked.len() >= MAX_LACKED {
            lacked.clear();
        }
        lacked.insert(pack, Instant::now());
    }

    /// Whether it did not have this pack a while ago.
    pub(super) fn is_without(&self, pack: &PackId) -> bool {
        let lacked = lock(&self.lacked).get(pack).copied();
        lacked.is_some_and(|at| at.elapsed() < LACKS_FOR)
    }

    pub(super) fn report(&self) -> SourceReport {
        SourceReport {
            name: self.name.clone(),
            requests: self.requests.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            failures: self.failures.load(Ordering::Relaxed),
            state: self.state(),
        }
    }
}

/// A request on its way.
pub(super) struct Sent<'s> {
    supplier: &'s Supplier,
    /// Whether others wait for its end to know whether the source is there again.
    probes: bool,
}

impl Sent<'_> {
    /// There is an answer of so many bytes, and it is a good one.
    pub(super) fn succeeded(mut self, bytes: u64) {
        self.probes = false;
        self.supplier.bytes.fetch_add(bytes, Ordering::Relaxed);
        lock(&self.supplier.breaker).succeeded();
    }

    /// There is none, or one of so many bytes that are wrong.
    pub(super) fn failed(mut self, bytes: u64, random: f64) {
        self.probes = false;
        self.supplier.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.supplier.failed(random);
    }
}

impl Drop for Sent<'_> {
    fn drop(&mut self) {
        if self.probes {
            lock(&self.supplier.breaker).given_up();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
