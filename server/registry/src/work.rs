//! Blocking work of the repository, on threads of its own and a bounded number at once.

use std::sync::Arc;

use shale_wire::Code;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{JoinError, JoinHandle};

use crate::failure::Failure;
use crate::limits::Limits;

/// Places for work, and for what is held in memory meanwhile.
#[derive(Clone)]
pub(crate) struct Work {
    short: Arc<Semaphore>,
    uploads: Arc<Semaphore>,
    verifying: Arc<Semaphore>,
    boot_sets: Arc<Semaphore>,
    listings: Arc<Semaphore>,
    layer_bytes: Arc<Semaphore>,
    small_bytes: Arc<Semaphore>,
    look_up_ids: Arc<Semaphore>,
    wait: std::time::Duration,
}

/// A place for work or memory, until it is dropped.
pub(crate) type WorkPlace = OwnedSemaphorePermit;

/// What a body that is read into memory has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BodyKind {
    /// A layer root: of their own kind, so that large ones that come slowly hold up no reader.
    Layer,
    /// Ids, a template, or what a reference points at.
    Small,
}

impl Work {
    pub(crate) fn new(limits: &Limits) -> Self {
        let places = |count| Arc::new(Semaphore::new(count));
        let (work, memory) = (&limits.work, &limits.memory);
        Self {
            short: places(work.work),
            uploads: places(work.uploads),
            verifying: places(memory.verifying),
            boot_sets: places(work.boot_sets),
            listings: places(memory.listings),
            layer_bytes: places(memory.layer_bodies_bytes),
            small_bytes: places(memory.small_bodies_bytes),
            look_up_ids: places(memory.look_up_ids),
            wait: work.wait,
        }
    }

    /// Does short work, when it is its turn. It goes on, and keeps its place, when the caller goes.
    pub(crate) async fn run<T, E>(
        &self,
        work: impl FnOnce() -> Result<T, E> + Send + 'static,
    ) -> Result<T, Failure>
    where
        T: Send + 'static,
        E: Into<Failure> + Send + 'static,
    {
        let place = self.place(&self.short, 1).await?;
        let done = tokio::task::spawn_blocking(move || {
            let _place = place;
            work()
        });
        ended(done.await)
    }

    /// Looks so many ids up, when it is their turn. What is made of their answers in `work` is bounded with them.
    pub(crate) async fn look_up<T, E>(
        &self,
        ids: usize,
        work: impl FnOnce() -> Result<T, E> + Send + 'static,
    ) -> Result<T, Failure>
    where
        T: Send + 'static,
        E: Into<Failure> + Send + 'static,
    {
        let count = u32::try_from(ids).unwrap_or(u32::MAX);
        let room = self.place(&self.look_up_ids, count).await?;
        self.run(move || {
            let _room = room;
            work()
        })
        .await
    }

    /// Starts to receive a pack, when it is its turn.
    pub(crate) async fn receive<T, E>(
        &self,
        work: impl FnOnce() -> Result<T, E> + Send + 'static,
    ) -> Result<Receiving<T, E>, Failure>
    where
        T: Send + 'static,
        E: Into<Failure> + Send + 'static,
    {
        let place = self.place(&self.uploads, 1).await?;
        Ok(Receiving(tokio::task::spawn_blocking(move || {
            let _place = place;
            work()
        })))
    }

    /// A place to verify a pack, however long that takes to be free.
    pub(crate) async fn verifying(&self) -> Result<WorkPlace, Failure> {
        let place = Arc::clone(&self.verifying).acquire_owned().await;
        place.map_err(|_| busy())
    }

    /// A place to make a boot set.
    pub(crate) async fn boot_set(&self) -> Result<WorkPlace, Failure> {
        self.place(&self.boot_sets, 1).await
    }

    /// A place to hold a listing in memory.
    pub(crate) async fn listing(&self) -> Result<WorkPlace, Failure> {
        self.place(&self.listings, 1).await
    }

    /// Room for `len` bytes of a body.
    pub(crate) async fn body(&self, kind: BodyKind, len: usize) -> Result<WorkPlace, Failure> {
        let room = match kind {
            BodyKind::Layer => &self.layer_bytes,
            BodyKind::Small => &self.small_bytes,
        };
        self.place(room, u32::try_from(len).unwrap_or(u32::MAX))
            .await
    }

    async fn place(&self, places: &Arc<Semaphore>, count: u32) -> Result<WorkPlace, Failure> {
        let place = Arc::clone(places).acquire_many_owned(count);
        match tokio::time::timeout(self.wait, place).await {
            Ok(Ok(place)) => Ok(place),
            // Nobody closes the semaphores.
            _ => Err(busy()),
        }
    }
}

fn busy() -> Failure {
    Failure::new(Code::Unavailable, "the registry is busy")
}

/// A pack being received.
pub(crate) struct Receiving<T, E>(JoinHandle<Result<T, E>>);

impl<T, E: Into<Failure>> Receiving<T, E> {
    /// Waits for its end.
    pub(crate) async fn end(self) -> Result<T, Failure> {
        ended(self.0.await)
    }
}

fn ended<T, E: Into<Failure>>(done: Result<Result<T, E>, JoinError>) -> Result<T, Failure> {
    match done {
        Ok(done) => done.map_err(Into::into),
        Err(error) => Err(Failure::internal(format!("work ended early: {error}"))),
    }
}
