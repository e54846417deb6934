//! Blocking work of the repository, on threads of its own and a bounded number at once.

use std::sync::Arc;

use shale_wire::Code;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{JoinError, JoinHandle};

use crate::failure::Failure;
use crate::limits::WorkLimits;

/// Places for work.
#[derive(Clone)]
pub(crate) struct Work {
    short: Arc<Semaphore>,
    uploads: Arc<Semaphore>,
    wait: std::time::Duration,
}

impl Work {
    pub(crate) fn new(limits: &WorkLimits) -> Self {
        Self {
            short: Arc::new(Semaphore::new(limits.work)),
            uploads: Arc::new(Semaphore::new(limits.uploads)),
            wait: limits.wait,
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
        let place = self.place(&self.short).await?;
        let done = tokio::task::spawn_blocking(move || {
            let _place = place;
            work()
        });
        ended(done.await)
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
        let place = self.place(&self.uploads).await?;
        Ok(Receiving(tokio::task::spawn_blocking(move || {
            let _place = place;
            work()
        })))
    }

    async fn place(&self, places: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, Failure> {
        let place = tokio::time::timeout(self.wait, Arc::clone(places).acquire_owned());
        match place.await {
            Ok(Ok(place)) => Ok(place),
            // Nobody closes the semaphores.
            _ => Err(Failure::new(Code::Unavailable, "the registry is busy")),
        }
    }
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
