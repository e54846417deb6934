//! Whether a source is asked at all: one that failed several times in a row is left alone for a while, and then one
//! request finds out whether it is there again. (The pattern is Nygard's, "Release It!", chapter 5.)
//!
//! ```text
//! closed --LIMIT failures in a row--> open --its pause is over, one request--> probing
//!   ^                                  ^                                          |
//!   |                                  +--the request fails: a longer pause-------+
//!   +-----------------any good answer---------------------------------------------+
//! ```

use std::time::Duration;

use tokio::time::Instant;

/// Failures in a row after which a source is left alone: one may be a connection that was closed while it was idle,
/// and another the one that was opened in its place.
const LIMIT: u32 = 3;

/// First pause: a registry that is restarted is back by then.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// Longest pause: how late it is noticed that a source has returned which was away for long.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// After this time a probe that nobody told the end of counts no more: whoever sent it has gone away.
const PROBE_TIME: Duration = Duration::from_secs(30);

/// Decides whether a source is asked. It is told the time, and what became of requests.
#[derive(Debug, Clone, Default)]
pub(super) struct Breaker {
    /// Failures since the last good answer, while it is closed.
    failures: u32,
    open: Option<Open>,
}

#[derive(Debug, Clone)]
struct Open {
    until: Instant,
    /// Pauses before this one, since the last good answer.
    before: u32,
    probing: Option<Instant>,
}

/// What a breaker says to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Admission {
    /// The source is well.
    Pass,
    /// It is not known to be well; this request finds out.
    Probe,
    /// It is left alone.
    Refuse,
}

/// How a source is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourceState {
    /// It is asked.
    Asked,
    /// It failed and is left alone for this time.
    LeftAlone(Duration),
    /// It failed, and the next request finds out whether it is there again.
    Probed,
}

impl Breaker {
    /// Whether a request may be sent. What becomes of it must be told if it may.
    pub(super) fn admit(&mut self, now: Instant) -> Admission {
        let Some(open) = &mut self.open else {
            return Admission::Pass;
        };
        let is_probed = open.probing.is_some_and(|since| now < since + PROBE_TIME);
        if now < open.until || is_probed {
            return Admission::Refuse;
        }
        open.probing = Some(now);
        Admission::Probe
    }

    /// There was an answer.
    pub(super) fn succeeded(&mut self) {
        *self = Self::default();
    }

    /// There was none, or a wrong one. `random` is in 0..1.
    pub(super) fn failed(&mut self, now: Instant, random: f64) {
        let before = match &self.open {
            None => {
                self.failures += 1;
                if self.failures < LIMIT {
                    return;
                }
                0
            }
            // A request that was sent before it opened: nothing new.
            Some(open) if now < open.until => return,
            Some(open) => open.before + 1,
        };
        self.open = Some(Open {
            until: now + pause(before, random),
            before,
            probing: None,
        });
    }

    /// A request was given up before it ended: somebody else was faster. It says nothing, and another may probe.
    pub(super) fn given_up(&mut self) {
        if let Some(open) = &mut self.open {
            open.probing = None;
        }
    }

    pub(super) fn state(&self, now: Instant) -> SourceState {
        match &self.open {
            None => SourceState::Asked,
            Some(open) if now < open.until => SourceState::LeftAlone(open.until - now),
            Some(_) => SourceState::Probed,
        }
    }
}

/// A pause after so many others: each twice as long, of random length, so that hosts do not come back together.
fn pause(before: u32, random: f64) -> Duration {
    let longest = FIRST_PAUSE.saturating_mul(1 << before.min(10));
    let longest = longest.min(LONGEST_PAUSE);
    longest.mul_f64(0.5 + random.clamp(0.0, 1.0) / 2.0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What happens to a breaker: time passes, and then somebody asks or tells.
    #[derive(Debug, Clone, Copy)]
    enum Event {
        Ask,
        Good,
        Bad,
        GivenUp,
    }

    /// Reads all that ever happened, for every question.
    #[derive(Default)]
    struct Model(Vec<(u64, Event)>);

    impl Model {
        /// What the question is answered that is the last event.
        fn answer(&self) -> Admission {
            // Milliseconds; the jitter of the test makes every pause three quarters of the longest.
            let pauses = [750, 1500, 3000, 6000, 12_000, 22_500];
            let since = self
                .0
                .iter()
                .rposition(|(_, event)| matches!(event, Event::Good));
            let story = &self.0[since.map_or(0, |at| at + 1)..];
            let (mut bad, mut until, mut pause, mut probe) = (0, 0, 0, None);
            let mut answer = Admission::Pass;
            for &(now, event) in story {
                match event {
                    Event::Ask if bad < 3 => answer = Admission::Pass,
                    Event::Ask if now < until => answer = Admission::Refuse,
                    Event::Ask if probe.is_some_and(|sent| now < sent + 30_000) => {
                        answer = Admission::Refuse;
                    }
                    Event::Ask => {
                        probe = Some(now);
                        answer = Admission::Probe;
                    }
                    Event::GivenUp => probe = None,
                    Event::Good => unreachable!("the story begins behind it"),
                    Event::Bad if bad < 3 || now >= until => {
                        bad += 1;
                        if bad >= 3 {
                            until = now + pauses[pause.min(5)];
                            pause += 1;
                            probe = None;
                        }
                    }
                    Event::Bad => {}
                }
            }
            answer
        }
    }

    fn event() -> impl Strategy<Value = (u64, Event)> {
        let gap = prop_oneof![0..20u64, 0..2000u64, 0..60_000u64];
        let event = prop_oneof![
            4 => Just(Event::Ask),
            1 => Just(Event::Good),
            4 => Just(Event::Bad),
            1 => Just(Event::GivenUp),
        ];
        (gap, event)
    }

    proptest! {
        #[test]
        fn a_breaker_decides_as_one_that_remembers_everything(
            events in prop::collection::vec(event(), 0..200)
        ) {
            let begun = Instant::now();
            let (mut breaker, mut model) = (Breaker::default(), Model::default());
            let mut millis = 0;
            for (gap, event) in events {
                millis += gap;
                let now = begun + Duration::from_millis(millis);
                model.0.push((millis, event));
                match event {
                    Event::Ask => prop_assert_eq!(breaker.admit(now), model.answer()),
                    Event::Good => breaker.succeeded(),
                    Event::Bad => breaker.failed(now, 0.5),
                    Event::GivenUp => breaker.given_up(),
                }
            }
        }

        #[test]
        fn a_source_is_asked_again_within_half_a_minute(
            failures in 3..60u32, random in 0.0..1.0f64
        ) {
            let mut now = Instant::now();
            let mut breaker = Breaker::default();
            for _ in 0..failures {
                now += Duration::from_secs(60);
                breaker.failed(now, random);
            }
            prop_assert_eq!(breaker.admit(now), Admission::Refuse);
            now += LONGEST_PAUSE;
            prop_assert_eq!(breaker.admit(now), Admission::Probe);
            prop_assert_eq!(breaker.admit(now), Admission::Refuse);
            prop_assert_eq!(breaker.state(now), SourceState::Probed);
            breaker.succeeded();
            prop_assert_eq!(breaker.admit(now), Admission::Pass);
        }
    }
}
