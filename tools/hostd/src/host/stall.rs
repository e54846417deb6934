//! Guests whose disk cannot answer: content does not come, or what they write has no room. Their hypervisor pauses
//! them when a request fails, and here they are let go on.

use std::time::{Duration, Instant};

use shale_hvplug::{Vm, VmState};

use crate::error::{HostError, HostResult};
use crate::served::Served;

use super::Host;
use super::instance::Instance;
use super::looks::NO_ANSWER;

/// How often a hypervisor is asked in any case: an earlier service may have answered a request with an error and not
/// have come to see what became of it.
const ASK_EVERY: Duration = Duration::from_secs(30);

/// How long it is asked at every look after a request failed; pausing a guest takes it milliseconds.
const ATTENTION: Duration = Duration::from_secs(5);

/// How often a guest goes on to try a request again that failed and is not late: there may be room again.
const RETRY_EVERY: Duration = Duration::from_secs(5);

/// When the hypervisor of an instance was asked whether its guest stands still, and when it was let go on.
#[derive(Debug, Default)]
pub(super) struct Questions {
    /// Requests that had failed.
    failed: u64,
    /// Until when it is asked at every look.
    until: Option<Instant>,
    asked: Option<Instant>,
    resumed: Option<Instant>,
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
            self.resumed = Some(now);
        }
        goes_on
    }
}

impl Host {
    /// Lets a guest go on whose disk failed and can answer again, unless somebody wants it paused. Whoever calls holds
    /// the right to change the instance. Blocks.
    pub(super) fn look_at_stall(&self, instance: &Instance, vm: &Vm) -> HostResult<()> {
        {
            let mut live = instance.live();
            let paused = live.record.as_ref().is_some_and(|record| record.paused);
            let failed = live.disk.as_ref().map_or(0, |disk| disk.failed().count);
            if paused || !live.questions.are_due(failed, Instant::now()) {
                return Ok(());
            }
        }
        let stands_still = self.driver.state(vm)? == VmState::DiskFailed;
        instance.live().stands_still = stands_still;
        if !stands_still {
            return Ok(());
        }
        let goes_on = {
            let mut live = instance.live();
            let is_late = live.disk.as_ref().is_some_and(Served::is_late);
            live.questions.lets_go_on(is_late, Instant::now())
        };
        match goes_on {
            true => Ok(self.driver.resume(vm)?),
            false => Ok(()),
        }
    }

    /// Keeps whether somebody wants the guest to stand still. Blocks.
    pub(super) fn keep_paused(&self, instance: &Instance, paused: bool) -> HostResult<()> {
        let record = instance.live().record.clone();
        match record.filter(|record| record.paused != paused) {
            None => Ok(()),
            Some(mut record) => {
                record.paused = paused;
                self.keep(&instance.name, &record)?;
                instance.live().record = Some(record);
                Ok(())
            }
        }
    }

    /// Somebody wants a guest to run, which it cannot while its content does not come.
    pub(super) fn check_no_stall(&self, instance: &Instance) -> HostResult<()> {
        let is_late = instance.live().disk.as_ref().is_some_and(Served::is_late);
        match is_late {
            true => Err(HostError::Stalled {
                name: instance.name.to_string(),
                reason: stall_reason(instance),
            }),
            false => Ok(()),
        }
    }

    /// Why a guest stands still whose disk failed.
    pub(super) fn why_failed(&self, instance: &Instance) -> String {
        let (late, failed) = match &instance.live().disk {
            Some(disk) => (disk.is_late(), disk.failed().reason),
            None => (false, None),
        };
        match failed {
            _ if late => format!("until its content comes: {}", stall_reason(instance)),
            Some(error) => format!("its disk failed and is tried again: {error}"),
            None => "its disk is tried again".into(),
        }
    }
}

/// Why reads of an instance wait.
fn stall_reason(instance: &Instance) -> String {
    let waiting = instance.live().disk.as_ref().and_then(Served::waiting);
    let reason = waiting.and_then(|waiting| waiting.reason);
    reason.unwrap_or_else(|| NO_ANSWER.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hypervisor_is_asked_after_errors_and_now_and_then() {
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        let mut questions = Questions::default();
        // One that was just taken over.
        assert!(questions.are_due(0, at(0)));
        assert!(!questions.are_due(0, at(1)));
        assert!(questions.are_due(1, at(2)));
        assert!(questions.are_due(1, at(6)));
        assert!(!questions.are_due(1, at(7)));
        assert!(questions.are_due(1, at(36)));
        // One that stands still is asked on.
        assert!(!questions.lets_go_on(true, at(36)));
        assert!(questions.are_due(1, at(40)));
        assert!(questions.lets_go_on(false, at(40)));
        assert!(!questions.lets_go_on(false, at(44)));
        assert!(questions.lets_go_on(false, at(45)));
    }
}
