//! How long a command waits for content whose source is slow or gone.

use std::future::Future;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use crate::error::{HostError, HostResult};

/// Longest wait that a command can ask for, a year: clocks cannot count any number of seconds.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 60 * 60);

/// Tells whoever waits for an instance's content that there is no use in it any more.
#[derive(Debug)]
pub(crate) struct Hope(watch::Sender<usize>);

/// While this is there, nobody waits for the instance's content.
#[derive(Debug)]
pub(crate) struct GivenUp<'a>(&'a Hope);

impl Hope {
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(0))
    }

    /// Ends every wait, and those that are begun before the answer is dropped.
    pub(crate) fn give_up(&self) -> GivenUp<'_> {
        self.0.send_modify(|count| *count += 1);
        GivenUp(self)
    }

    /// The patience of a command that works on `name` and may take `limit` from now on.
    pub(crate) fn patience(&self, name: &str, limit: Duration) -> Patience {
        let limit = limit.min(LONGEST);
        Patience {
            name: name.to_owned(),
            limit,
            deadline: Some(Instant::now() + limit),
            given_up: self.0.subscribe(),
        }
    }
}

impl Drop for GivenUp<'_> {
    fn drop(&mut self) {
        self.0.0.send_modify(|count| *count -= 1);
    }
}

/// How long a command waits.
#[derive(Debug, Clone)]
pub(crate) struct Patience {
    name: String,
    limit: Duration,
    /// `None`: as long as it takes.
    deadline: Option<Instant>,
    given_up: watch::Receiver<usize>,
}

impl Patience {
    /// For who waits as long as it takes.
    pub(crate) fn endless() -> Self {
        Self {
            name: String::new(),
            limit: LONGEST,
            deadline: None,
            given_up: watch::Sender::new(0).subscribe(),
        }
    }

    /// How long the command may take, and when that is over.
    pub(crate) fn limit(&self) -> (Duration, Instant) {
        let end = self.deadline.unwrap_or_else(|| Instant::now() + LONGEST);
        (self.limit, end)
    }

    /// Does `work` as long as there is patience.
    pub(crate) async fn wait<T>(&self, work: impl Future<Output = HostResult<T>>) -> HostResult<T> {
        tokio::select! {
            // What is done is done, also if time is up.
            biased;
            done = work => done,
            error = self.ended() => Err(error),
        }
    }

    /// Resolves when there is no patience left, to what that means.
    pub(crate) async fn ended(&self) -> HostError {
        let time_is_up = async {
            match self.deadline {
                Some(deadline) => sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        let mut given_up = self.given_up.clone();
        let given_up = async {
            if given_up.wait_for(|count| *count > 0).await.is_err() {
                // Nobody is left who could.
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = given_up => HostError::GivenUp(self.name.clone()),
            () = time_is_up => self.no_content(),
        }
    }

    /// What it means, if there is no patience left.
    pub(crate) fn over(&self) -> Option<HostError> {
        if *self.given_up.borrow() > 0 {
            return Some(HostError::GivenUp(self.name.clone()));
        }
        let late = self.deadline.is_some_and(|end| Instant::now() >= end);
        late.then(|| self.no_content())
    }

    fn no_content(&self) -> HostError {
        HostError::NoContent {
            name: self.name.clone(),
            limit: self.limit,
            stall: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_millis(50);

    async fn never() -> HostResult<()> {
        std::future::pending().await
    }

    #[tokio::test]
    async fn patience_ends_when_time_is_up_or_it_is_given_up() {
        let hope = Hope::new();
        let patience = hope.patience("a", SHORT);
        let ended = patience.wait(never()).await;
        assert!(
            matches!(ended, Err(HostError::NoContent { .. })),
            "{ended:?}"
        );
        let done = patience.wait(async { Ok(()) }).await;
        assert!(done.is_ok(), "what is done is done");

        // No clock counts so far.
        let patience = hope.patience("a", Duration::MAX);
        let given_up = hope.give_up();
        let ended = patience.wait(never()).await;
        assert!(matches!(ended, Err(HostError::GivenUp(_))), "{ended:?}");
        drop(given_up);
        let ended = tokio::time::timeout(SHORT, patience.wait(never())).await;
        assert!(ended.is_err(), "nobody has given up any more");
    }

    #[tokio::test]
    async fn endless_patience_does_not_end() {
        let patience = Patience::endless();
        let ended = tokio::time::timeout(SHORT, patience.ended()).await;
        assert!(ended.is_err());
    }
}
