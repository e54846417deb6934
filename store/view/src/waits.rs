//! How long reads waited, and for what.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use shale_model::Trouble;
use tokio::time::Instant;

/// What reads wait for. Few, so that time can be summed up by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WaitCause {
    /// Nothing is known to be wrong: an answer is on its way.
    Transfer,
    /// Nobody answers.
    Unavailable,
    /// The source denies it.
    Denied,
    /// What came is wrong.
    Integrity,
    /// The source has no room to work.
    NoSpace,
    /// The source is broken.
    Failed,
}

impl WaitCause {
    /// Its name in metrics and events.
    pub fn name(self) -> &'static str {
        match self {
            Self::Transfer => "transfer",
            Self::Unavailable => "unavailable",
            Self::Denied => "denied",
            Self::Integrity => "integrity",
            Self::NoSpace => "no_space",
            Self::Failed => "failed",
        }
    }
}

impl From<Trouble> for WaitCause {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Unavailable => Self::Unavailable,
            Trouble::Denied => Self::Denied,
            Trouble::Integrity | Trouble::NotFound => Self::Integrity,
            Trouble::NoSpace => Self::NoSpace,
            Trouble::Conflict | Trouble::Invalid | Trouble::Failed => Self::Failed,
        }
    }
}

/// The reads that wait now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// When the one began to wait that has waited longest.
    pub since: Instant,
    /// What they wait for.
    pub cause: WaitCause,
    /// What the last fetch that failed said, if it is since then that nothing came; or that nobody says anything.
    pub reason: Option<String>,
}

/// Time during which at least one read waited. It goes by the cause that is known at each moment: a source that
/// does not answer, until something comes from it again.
#[derive(Debug, Default)]
pub struct Waits(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// When each read that waits began to; numbered in that order.
    begun: BTreeMap<u64, Instant>,
    next: u64,
    /// Up to when the time is in the sums, while one waits.
    counted: Option<Instant>,
    failure: Option<(WaitCause, String)>,
    /// What is said of sources that are silent, while they are.
    silence: Option<String>,
    sums: BTreeMap<WaitCause, Duration>,
}

impl State {
    fn cause(&self) -> WaitCause {
        match (&self.failure, &self.silence) {
            (Some((cause, _)), _) => *cause,
            (None, Some(_)) => WaitCause::Unavailable,
            (None, None) => WaitCause::Transfer,
        }
    }

    /// Adds the time since it was last done to the cause of now.
    fn count(&mut self) {
        if let Some(counted) = self.counted {
            let now = Instant::now();
            *self.sums.entry(self.cause()).or_default() += now - counted;
            self.counted = Some(now);
        }
    }
}

impl Waits {
    /// A read begins to wait; the number with which its end is told.
    pub fn begins(&self) -> u64 {
        let mut state = self.state();
        let (now, number) = (Instant::now(), state.next);
        state.begun.insert(number, now);
        state.next += 1;
        state.counted.get_or_insert(now);
        number
    }

    /// The read of this number waits no longer.
    pub fn ends(&self, number: u64) {
        let mut state = self.state();
        state.count();
        state.begun.remove(&number);
        if state.begun.is_empty() {
            state.counted = None;
            (state.failure, state.silence) = (None, None);
        }
    }

    /// A fetch failed, and is tried again.
    pub fn failed(&self, trouble: Trouble, reason: &str) {
        let mut state = self.state();
        // Nobody who waits, nobody who wants to know.
        if !state.begun.is_empty() {
            state.count();
            state.failure = Some((trouble.into(), reason.to_owned()));
        }
    }

    /// Something came.
    pub fn came(&self) {
        let mut state = self.state();
        if state.failure.is_some() || state.silence.is_some() {
            state.count();
            (state.failure, state.silence) = (None, None);
        }
    }

    /// No source that is asked says anything, for this reason; or one does.
    pub fn silent(&self, reason: Option<&str>) {
        let mut state = self.state();
        if !state.begun.is_empty() {
            state.count();
            state.silence = reason.map(str::to_owned);
        }
    }

    /// The reads that wait now, if any do.
    pub fn now(&self) -> Option<Waiting> {
        let state = self.state();
        let (_, since) = state.begun.first_key_value()?;
        Some(Waiting {
            since: *since,
            cause: state.cause(),
            reason: {
                let failure = state.failure.as_ref().map(|(_, reason)| reason);
                failure.or(state.silence.as_ref()).cloned()
            },
        })
    }

    /// The time by cause, up to now.
    pub fn sums(&self) -> BTreeMap<WaitCause, Duration> {
        let mut state = self.state();
        state.count();
        state.sums.clone()
    }

    /// The time, up to now.
    pub fn total(&self) -> Duration {
        self.sums().values().sum()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn time_is_summed_by_the_cause_that_was_known() {
        let waits = Waits::default();
        // Of a failure that nobody waits for, nobody is told later.
        waits.failed(Trouble::Denied, "no");
        let first = waits.begins();
        advance(SECOND).await;
        let second = waits.begins();
        waits.failed(Trouble::Unavailable, "nobody is there");
        advance(2 * SECOND).await;
        waits.ends(first);
        let now = waits.now().unwrap();
        assert_eq!(
            (now.cause, now.reason.as_deref()),
            (WaitCause::Unavailable, Some("nobody is there"))
        );
        assert_eq!(now.since.elapsed(), 2 * SECOND, "that of the second");
        waits.came();
        advance(4 * SECOND).await;
        assert_eq!(waits.now().unwrap().cause, WaitCause::Transfer);
        let sums = BTreeMap::from([
            (WaitCause::Transfer, 5 * SECOND),
            (WaitCause::Unavailable, 2 * SECOND),
        ]);
        assert_eq!(waits.sums(), sums);
        waits.ends(second);
        advance(8 * SECOND).await;
        assert_eq!(waits.now(), None);
        assert_eq!(waits.total(), 7 * SECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_a_cause_until_something_is_heard_or_known_to_be_wrong() {
        let waits = Waits::default();
        waits.silent(Some("nobody waits for it"));
        let read = waits.begins();
        assert_eq!(waits.now().unwrap().reason, None);
        advance(SECOND).await;
        waits.silent(Some("a is silent"));
        let now = waits.now().unwrap();
        assert_eq!(now.cause, WaitCause::Unavailable);
        assert_eq!(now.reason.as_deref(), Some("a is silent"));
        advance(SECOND).await;
        waits.failed(Trouble::Denied, "no");
        assert_eq!(waits.now().unwrap().reason.as_deref(), Some("no"));
        advance(SECOND).await;
        waits.came();
        assert_eq!(waits.now().unwrap().cause, WaitCause::Transfer);
        waits.silent(Some("again"));
        waits.silent(None);
        assert_eq!(waits.now().unwrap().cause, WaitCause::Transfer);
        waits.ends(read);
        let causes = [
            WaitCause::Transfer,
            WaitCause::Unavailable,
            WaitCause::Denied,
        ];
        assert_eq!(
            waits.sums(),
            BTreeMap::from(causes.map(|cause| (cause, SECOND)))
        );
    }
}
