//! Where chunks come from: mirrors in the order in which they were named, and then the registry itself.
//!
//! ```text
//! Supply              what a reader asks
//!   Race              one question: whose turn it is, who is asked besides, who is waited for
//!     Hedging         when a second request is sent, and whether it may be (pure)
//!     Verdicts        what several bad answers mean together (pure)
//!   Supplier          one source: what it lacks, what it did
//!     Breaker         whether it is asked (pure)
//!     Fetch (seam)    its client, with whatever its owner put around that
//! ```
//! A mirror is never needed and never believed: what it lacks, sends wrong or does not send comes from the next one.

mod breaker;
mod hedging;
mod race;
mod supplier;
mod verdict;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use shale_model::{
    BoxFuture, ChunkId, Fetch, Location, MAX_MISSING_IDS, PackId, SeamError, SeamResult, Trouble,
};

use crate::observe::{Observer, Purpose};
pub use breaker::SourceState;
use hedging::Hedging;
use race::{Judged, Question, Race, Urgency};
use supplier::Supplier;
pub use supplier::{NamedFetch, SourceReport};
pub(crate) use verdict::NotRead;

/// A source that has said nothing for so long is called silent. Less than what makes a wait a stall, so that this is told with
/// its cause.
const SILENT_AFTER: Duration = Duration::from_secs(2);

/// The sources of one repository's chunks.
pub struct Supply {
    /// Mirrors, and the registry last.
    suppliers: Vec<Supplier>,
    hedging: Mutex<Hedging>,
    random: fn() -> f64,
    observer: Arc<dyn Observer>,
}

/// Who is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Whom {
    /// Mirrors first.
    Anybody,
    /// The registry alone, which knows what its names mean.
    Registry,
}

/// Bytes of a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PackRange {
    pub(crate) pack: PackId,
    pub(crate) offset: u64,
    pub(crate) len: u64,
}

impl Supply {
    /// Chunks of `registry`, or of `mirrors`, which are asked before it in this order. `random` gives numbers in 0..1;
    /// `observer` is told of reads.
    pub fn new(
        mirrors: Vec<NamedFetch>,
        registry: NamedFetch,
        random: fn() -> f64,
        observer: Arc<dyn Observer>,
    ) -> Self {
        let suppliers = mirrors.into_iter().chain([registry]);
        Self {
            suppliers: suppliers.map(Supplier::new).collect(),
            hedging: Mutex::default(),
            random,
            observer,
        }
    }

    /// Chunks of one source, which has no mirrors.
    pub fn of(registry: NamedFetch, observer: Arc<dyn Observer>) -> Self {
        // Only of a source that others stand beside it matters when it is asked again.
        Self::new(Vec::new(), registry, || 0.5, observer)
    }

    /// What each source did so far, mirrors first.
    pub fn report(&self) -> Vec<SourceReport> {
        self.suppliers.iter().map(Supplier::report).collect()
    }

    /// Why nothing comes, if it is for a while that no source says anything which is asked.
    pub(crate) fn silence(&self) -> Option<String> {
        let suppliers = self.suppliers.iter();
        let asked = suppliers.filter_map(|it| Some((&it.name, it.hearing.as_ref()?.silence()?)));
        let asked: Vec<_> = asked.collect();
        let least = asked.iter().map(|(_, silence)| silence.time).min()?;
        let texts = asked.iter().map(|(name, silence)| {
            let seconds = silence.time.as_secs();
            match &silence.failure {
                None => format!("{name} is silent for {seconds} s"),
                Some(failure) => format!("nothing from {name} for {seconds} s: {failure}"),
            }
        });
        (least >= SILENT_AFTER).then(|| texts.collect::<Vec<_>>().join("; "))
    }

    pub(crate) fn observer(&self) -> &Arc<dyn Observer> {
        &self.observer
    }

    /// Where chunks lie; `None` for those that are not there. An answer that tells of the first may leave out others
    /// that a source has which was not asked, or does not answer.
    pub(crate) async fn locate_from(
        &self,
        whom: Whom,
        ids: &[ChunkId],
        purpose: Purpose,
    ) -> Result<Vec<Option<Location>>, NotRead> {
        if ids.len() > MAX_MISSING_IDS {
            let text = format!(
                "locate {} chunks; the limit is {MAX_MISSING_IDS}",
                ids.len()
            );
            return Err(NotRead::Failed(SeamError::new(Trouble::Invalid, text)));
        }
        let found = Mutex::new(vec![None; ids.len()]);
        let question = Locate { ids, found };
        let answer = match Race::new(self, &question, whom, urgency(purpose))
            .run()
            .await
        {
            // The first is nowhere; of the others everybody has said what there is to say.
            Ok(()) | Err(NotRead::Gone) => Ok(()),
            // Somebody who may have it does not answer.
            Err(NotRead::Elsewhere(error)) => Err(NotRead::Failed(error)),
            Err(error) => Err(error),
        };
        let found = question.found.into_inner();
        answer.map(|()| found.unwrap_or_else(PoisonError::into_inner))
    }

    /// What `check` makes of these bytes of a pack. Bytes that it refuses are asked of another source.
    pub(crate) async fn read_checked<T>(
        &self,
        range: PackRange,
        purpose: Purpose,
        check: impl Fn(Vec<u8>) -> Result<T, String> + Sync,
    ) -> Result<T, NotRead> {
        let question = Read { range, check };
        Race::new(self, &question, Whom::Anybody, urgency(purpose))
            .run()
            .await
    }

    fn hedging(&self) -> MutexGuard<'_, Hedging> {
        self.hedging.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn urgency(purpose: Purpose) -> Urgency {
    match purpose {
        Purpose::Demand => Urgency::Waited,
        Purpose::BootSet | Purpose::Asked | Purpose::Fill => Urgency::Ahead,
    }
}

/// Without verification, as the seam has it.
impl Fetch for Supply {
    fn locate<'a>(
        &'a self,
        ids: &'a [ChunkId],
    ) -> BoxFuture<'a, SeamResult<Vec<Option<Location>>>> {
        Box::pin(async move {
            let located = self.locate_from(Whom::Anybody, ids, Purpose::Demand).await;
            located.map_err(|why| why.into_seam("locate chunks"))
        })
    }

    fn read(&self, pack: PackId, offset: u64, len: u64) -> BoxFuture<'_, SeamResult<Vec<u8>>> {
        Box::pin(async move {
            let range = PackRange { pack, offset, len };
            let read = self.read_checked(range, Purpose::Demand, Ok).await;
            read.map_err(|why| why.into_seam(&format!("read pack {pack}")))
        })
    }
}

/// Where chunks lie.
struct Locate<'a> {
    ids: &'a [ChunkId],
    /// What the answers so far say together.
    found: Mutex<Vec<Option<Location>>>,
}

impl Question for Locate<'_> {
    type Answer = Vec<Option<Location>>;
    type Good = ();

    fn may_be_at(&self, _: &Supplier) -> bool {
        true
    }

    fn ask<'a>(&'a self, fetch: &'a dyn Fetch) -> BoxFuture<'a, SeamResult<Self::Answer>> {
        fetch.locate(self.ids)
    }

    fn judge(&self, answer: Self::Answer) -> (Judged<Self::Good>, u64) {
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        let judged = match answer.first() {
            Some(first) if answer.len() == found.len() => {
                let is_there = first.is_some();
                for (found, at) in found.iter_mut().zip(answer) {
                    *found = found.or(at);
                }
                match is_there {
                    true => Judged::Good(()),
                    false => Judged::Lacks,
                }
            }
            _ => Judged::Wrong("the answer is for other chunks".into()),
        };
        // Bytes that count are those of packs.
        (judged, 0)
    }

    fn is_not_at(&self, _: &Supplier) {}
}

/// Bytes of a pack, and what is made of them.
struct Read<F> {
    range: PackRange,
    check: F,
}

impl<T, F: Fn(Vec<u8>) -> Result<T, String> + Sync> Question for Read<F> {
    type Answer = Vec<u8>;
    type Good = T;

    fn may_be_at(&self, supplier: &Supplier) -> bool {
        !supplier.is_without(&self.range.pack)
    }

    fn ask<'a>(&'a self, fetch: &'a dyn Fetch) -> BoxFuture<'a, SeamResult<Vec<u8>>> {
        let PackRange { pack, offset, len } = self.range;
        fetch.read(pack, offset, len)
    }

    fn judge(&self, answer: Vec<u8>) -> (Judged<T>, u64) {
        let bytes = answer.len() as u64;
        let judged = match (self.check)(answer) {
            Ok(good) => Judged::Good(good),
            Err(reason) => Judged::Wrong(reason),
        };
        (judged, bytes)
    }

    fn is_not_at(&self, supplier: &Supplier) {
        supplier.lacks(self.range.pack);
    }
}
