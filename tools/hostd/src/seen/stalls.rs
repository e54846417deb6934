//! When a machine is stalled, and for how long it was.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use shale_view::WaitCause;

/// Why a machine is stalled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum StallCause {
    /// Its content does not come.
    Content(WaitCause),
    /// What it writes has no room.
    DiskFull,
    /// Its disk failed.
    DiskFailed,
}

impl StallCause {
    /// The one of this name. That of another version counts as an answer that is on its way.
    pub(crate) fn named(name: &str) -> Self {
        let content = [
            WaitCause::Unavailable,
            WaitCause::Denied,
            WaitCause::Integrity,
            WaitCause::NoSpace,
            WaitCause::Failed,
        ];
        let all = content.map(Self::Content).into_iter();
        let mut all = all.chain([Self::DiskFull, Self::DiskFailed]);
        let found = all.find(|cause| cause.name() == name);
        found.unwrap_or(Self::Content(WaitCause::Transfer))
    }

    /// Its name in metrics and events.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Content(cause) => cause.name(),
            Self::DiskFull => "disk_full",
            Self::DiskFailed => "disk_failed",
        }
    }
}

/// A stall as a look finds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stall {
    pub(crate) since: Instant,
    pub(crate) cause: StallCause,
    /// For people.
    pub(crate) reason: String,
}

/// What a look changed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// It is stalled now, or for another cause.
    Stalled(Stall),
    /// It goes on, after this time.
    GoesOn(Duration),
    /// It could go on, after this time; but its user has it paused.
    Over(Duration),
}

/// The stalls of a machine.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stalls {
    count: u64,
    sums: BTreeMap<StallCause, Duration>,
    /// Now, and up to when its time is in the sums.
    now: Option<(Stall, Instant)>,
}

impl Stalls {
    /// A look found this.
    pub(crate) fn look(&mut self, found: Option<Stall>, now: Instant) -> Option<Change> {
        if let Some((stall, counted)) = &mut self.now {
            *self.sums.entry(stall.cause).or_default() += now.saturating_duration_since(*counted);
            *counted = now;
        }
        match (found, self.now.take()) {
            (None, None) => None,
            (None, Some((stall, _))) => Some(Change::GoesOn(now - stall.since)),
            (Some(found), None) => {
                self.count += 1;
                // What it waited before a look found it counts, too.
                *self.sums.entry(found.cause).or_default() += now - found.since;
                self.now = Some((found.clone(), now));
                Some(Change::Stalled(found))
            }
            (Some(mut found), Some((stall, _))) => {
                // It is the same one, though other reads may wait by now.
                found.since = stall.since;
                let is_other = found.cause != stall.cause;
                self.now = Some((found.clone(), now));
                is_other.then_some(Change::Stalled(found))
            }
        }
    }

    /// It was stalled when this service began, for as long as an earlier one says. Only what comes is counted.
    pub(crate) fn take_over(&mut self, stall: Stall, now: Instant) {
        self.count += 1;
        self.now = Some((stall, now));
    }

    /// Its machine has ended: nothing goes on.
    pub(crate) fn end(&mut self, now: Instant) {
        self.look(None, now);
    }

    /// The one of now.
    pub(crate) fn now(&self) -> Option<&Stall> {
        self.now.as_ref().map(|(stall, _)| stall)
    }

    /// How many there were.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// Their time by cause, up to the last look.
    pub(crate) fn sums(&self) -> &BTreeMap<StallCause, Duration> {
        &self.sums
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stall_of_an_earlier_service_ends_in_this_one() {
        let began = Instant::now();
        let now = began + Duration::from_secs(30);
        let cause = StallCause::Content(WaitCause::Transfer);
        let mut stalls = Stalls::default();
        let stall = Stall {
            since: began,
            cause,
            reason: "a".into(),
        };
        stalls.take_over(stall.clone(), now);
        assert_eq!(stalls.look(Some(stall), now + Duration::from_secs(1)), None);
        let told = stalls.look(None, now + Duration::from_secs(2));
        assert_eq!(told, Some(Change::GoesOn(Duration::from_secs(32))));
        assert_eq!(stalls.count(), 1);
        let counted = BTreeMap::from([(cause, Duration::from_secs(2))]);
        assert_eq!(stalls.sums(), &counted);
    }

    #[test]
    fn a_stall_is_told_once_for_each_cause_and_so_is_its_end() {
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        let stall = |since, cause, reason: &str| {
            let (since, reason) = (at(since), reason.to_owned());
            Some(Stall {
                since,
                cause,
                reason,
            })
        };
        let slow = StallCause::Content(WaitCause::Transfer);
        let gone = StallCause::Content(WaitCause::Unavailable);
        let mut stalls = Stalls::default();
        assert_eq!(stalls.look(None, at(0)), None);
        let told = stalls.look(stall(1, slow, "a"), at(4));
        assert_eq!(told, stall(1, slow, "a").map(Change::Stalled));
        // Another read, the same stall.
        assert_eq!(stalls.look(stall(3, slow, "b"), at(5)), None);
        assert_eq!(stalls.now(), stall(1, slow, "b").as_ref());
        let told = stalls.look(stall(5, gone, "c"), at(6));
        assert_eq!(told, stall(1, gone, "c").map(Change::Stalled));
        let told = stalls.look(None, at(10));
        assert_eq!(told, Some(Change::GoesOn(Duration::from_secs(9))));
        assert_eq!((stalls.count(), stalls.now()), (1, None));
        for cause in [slow, gone, StallCause::DiskFull, StallCause::DiskFailed] {
            assert_eq!(StallCause::named(cause.name()), cause);
        }
        let sums = [(slow, 5), (gone, 4)];
        let sums = sums.map(|(cause, seconds)| (cause, Duration::from_secs(seconds)));
        assert_eq!(stalls.sums(), &BTreeMap::from(sums));
        assert_eq!(stalls.look(None, at(11)), None);
        stalls.look(stall(12, StallCause::DiskFull, "d"), at(12));
        assert_eq!(stalls.count(), 2);
    }
}
