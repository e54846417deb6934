//! Whether a guest stands still, and why: its disk cannot answer, its user has paused it, or both. The two are apart. A
//! guest goes on by itself when its disk can answer again, unless its user has paused it; and its user lets it go on, but
//! ends no stall by that.

use std::time::{Duration, Instant};

use shale_view::WaitCause;

use super::stalls::{Change, Stall, StallCause, Stalls};

/// A read that waits so long is a stall. Shorter waits are what laziness costs, and are counted.
const STALLED_AFTER: Duration = Duration::from_secs(3);

/// How often a hypervisor is asked in any case: an earlier service may have answered a request with an error and not
/// have come to see what became of it.
const ASK_EVERY: Duration = Duration::from_secs(30);

/// How long it is asked at every look after a request failed; pausing a guest takes it milliseconds.
const ATTENTION: Duration = Duration::from_secs(5);

/// How often a guest goes on to try a request again that failed and is not late: there may be room again.
const RETRY_EVERY: Duration = Duration::from_secs(5);

/// How long a guest that goes on takes to ask again for what it stood still for, at most.
const ASKED_WITHIN: Duration = Duration::from_secs(1);

/// The same where the service is another one. Where the socket of the disk was lost with its keeper, QEMU waits longer and
/// longer before it tries to connect again, 16 s at most.
const CONNECTED_WITHIN: Duration = Duration::from_secs(20);

/// What is said of a stall while nothing is known to be wrong.
pub(crate) const NO_ANSWER: &str = "no answer yet";

/// What somebody wants of a guest's processors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    Paused,
    Running,
}

impl Wanted {
    /// As a record has it.
    pub(crate) fn of(paused: bool) -> Self {
        match paused {
            true => Self::Paused,
            false => Self::Running,
        }
    }
}

/// What a hypervisor says of a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Guest {
    /// It stands still because its disk failed, and asks again when it goes on.
    DiskFailed,
    /// It runs, or stands still for another reason.
    Otherwise,
}

/// What a look sees of a guest's disk.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sight {
    /// Whether content is on its way that requests were given up for.
    pub(crate) is_late: bool,
    /// The read that has waited longest, of those that wait now.
    pub(crate) waiting: Option<Stall>,
    /// Why the last request failed that was not late.
    pub(crate) error: Option<Stall>,
    /// Whether there seems to be room for what a guest writes.
    pub(crate) has_room: bool,
    /// Whether all of its content has come.
    pub(crate) is_whole: bool,
}

/// What is known of one guest, from looks.
#[derive(Debug, Default)]
pub(crate) struct Standstill {
    stalls: Stalls,
    questions: Questions,
    /// What its hypervisor said last.
    disk_failed: bool,
    /// Whether it was let go on just now, and nobody knows yet what came of it.
    tries: bool,
    /// Whether it is content that it stands still for or waits for, as this service has seen.
    was_late: bool,
    /// Whether all that is known of its stall is what an earlier service told.
    is_inherited: bool,
}

impl Standstill {
    /// Whether to ask its hypervisor now, that so many requests failed.
    pub(crate) fn is_to_be_asked(&mut self, failed: u64, now: Instant) -> bool {
        self.questions.are_due(failed, now)
    }

    /// Its hypervisor says this: whether to let it go on now.
    pub(crate) fn said(
        &mut self,
        guest: Guest,
        sight: &Sight,
        wanted: Wanted,
        now: Instant,
    ) -> bool {
        self.disk_failed = guest == Guest::DiskFailed;
        // What it stands still for after a try is found anew, where anything failed but late content, which may be there by
        // now; and one that runs stands still for nothing.
        let is_known = match guest {
            Guest::DiskFailed => self.tries && sight.error.is_some(),
            Guest::Otherwise => wanted == Wanted::Running,
        };
        self.was_late &= sight.is_late || !is_known;
        self.tries = self.disk_failed
            && wanted == Wanted::Running
            && self.questions.lets_go_on(sight.is_late, now);
        self.tries
    }

    /// Its user lets it go on. Whether it does is for the next looks to find.
    pub(crate) fn resumed(&mut self, now: Instant) {
        self.questions.resumed(now);
        self.tries = self.disk_failed;
    }

    /// The stall that an earlier service told of, while this one has seen nothing that ends it.
    pub(crate) fn inherited(&self) -> Option<&Stall> {
        self.stalls.now().filter(|_| self.is_inherited)
    }

    /// A look: what it changed.
    pub(crate) fn look(&mut self, sight: Sight, wanted: Wanted, now: Instant) -> Option<Change> {
        let found = self.found(sight, wanted, now);
        match self.stalls.look(found, now) {
            Some(Change::GoesOn(after)) if wanted == Wanted::Paused => Some(Change::Over(after)),
            change => change,
        }
    }

    /// It was stalled when this service began, as an earlier one says.
    pub(crate) fn take_over(&mut self, stall: Stall, now: Instant) {
        self.stalls.take_over(stall, now);
        self.questions.again_until = Some(now + CONNECTED_WITHIN);
        self.is_inherited = true;
    }

    /// Its machine has ended: nothing goes on.
    pub(crate) fn end(&mut self, now: Instant) {
        self.stalls.end(now);
        (self.disk_failed, self.tries) = (false, false);
        (self.was_late, self.is_inherited) = (false, false);
    }

    /// Its stalls so far.
    pub(crate) fn stalls(&self) -> &Stalls {
        &self.stalls
    }

    /// The stall of now, if it is stalled.
    fn found(&mut self, sight: Sight, wanted: Wanted, now: Instant) -> Option<Stall> {
        let before = self.stalls.now().cloned();
        let at_all = |cause| Stall {
            since: now,
            cause,
            reason: NO_ANSWER.into(),
        };
        let late = || at_all(StallCause::Content(WaitCause::Transfer));
        let is_stalled = before.is_some();
        let waits = sight.waiting.filter(|waiting| {
            let long = now.saturating_duration_since(waiting.since) >= STALLED_AFTER;
            // What it is stalled for and asks for again waits no less than before.
            long || sight.is_late || is_stalled && self.questions.is_again(waiting.since)
        });
        self.was_late |= sight.is_late || waits.is_some();
        // What this service has seen itself counts more.
        self.is_inherited &= !sight.is_late && sight.error.is_none();
        if waits.is_some() {
            return waits;
        }
        if sight.is_late {
            // Late content is asked for again: between two of these reads, none waits.
            let content = before.filter(|stall| matches!(stall.cause, StallCause::Content(_)));
            return Some(content.unwrap_or_else(late));
        }
        // What another service told holds until the guest has had time to ask.
        self.is_inherited &= wanted == Wanted::Paused || self.questions.may_ask_again(now);
        let error = sight.error.filter(|_| self.disk_failed);
        if wanted == Wanted::Paused {
            // Nobody tries before its user lets it go on. So it is over when that is known: the content has come, or there
            // is room.
            let there = |stall: &Stall| match stall.cause {
                StallCause::DiskFull => sight.has_room,
                StallCause::Content(_) => sight.is_whole,
                StallCause::DiskFailed => false,
            };
            let stall = error.or(before);
            return stall.filter(|stall| !self.was_late && !there(stall));
        }
        if self.is_inherited {
            return before;
        }
        if !self.disk_failed {
            return None;
        }
        // Nobody knows yet what came of a try. Where there is no error, late requests are all that failed, here or with the
        // service before.
        let told = match self.tries || self.was_late {
            true => before.or(error),
            false => error.or(before),
        };
        Some(told.unwrap_or_else(late))
    }
}

/// When the hypervisor of a guest was asked whether that stands still, and when it was let go on.
#[derive(Debug, Default)]
struct Questions {
    /// Requests that had failed.
    failed: u64,
    /// Until when it is asked at every look.
    until: Option<Instant>,
    asked: Option<Instant>,
    resumed: Option<Instant>,
    /// Up to when it asks again for what it stood still for.
    again_until: Option<Instant>,
}

impl Questions {
    /// Whether to ask now, that so many requests failed.
    fn are_due(&mut self, failed: u64, now: Instant) -> bool {
        if failed != self.failed {
            self.failed = failed;
            self.until = Some(now + ATTENTION);
        }
        let due = self.until.is_some_and(|until| now < until)
            || self.asked.is_none_or(|asked| now - asked >= ASK_EVERY);
        if due {
            self.asked = Some(now);
        }
        due
    }

    /// The guest stands still: whether to let it go on now.
    fn lets_go_on(&mut self, is_late: bool, now: Instant) -> bool {
        self.until = Some(now + ATTENTION);
        let again = self.resumed.is_none_or(|at| now - at >= RETRY_EVERY);
        let goes_on = !is_late && again;
        if goes_on {
            self.goes_on(now);
        }
        goes_on
    }

    /// Somebody else lets it go on.
    fn resumed(&mut self, now: Instant) {
        self.until = Some(now + ATTENTION);
        self.goes_on(now);
    }

    fn goes_on(&mut self, now: Instant) {
        self.resumed = Some(now);
        self.again_until = self.again_until.max(Some(now + ASKED_WITHIN));
    }

    /// Whether a read that began then is one that was asked again when the guest went on.
    fn is_again(&self, began: Instant) -> bool {
        self.again_until.is_some_and(|until| began <= until)
    }

    /// Whether the guest, which goes on, may not have asked again yet.
    fn may_ask_again(&self, now: Instant) -> bool {
        self.again_until.is_some_and(|until| now < until)
    }
}

#[cfg(test)]
mod tests;
