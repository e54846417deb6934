//! When a second request is sent for what the first has not brought, and whether it may be. (The idea is that of
//! Dean and Barroso, "The Tail at Scale", 2013: a few more requests for a much shorter tail.)

use std::collections::VecDeque;
use std::time::Duration;

/// Answers whose times are remembered: some seconds of a boot.
const REMEMBERED: usize = 128;

/// Fewer tell nothing of their slowest twentieth.
const TELLING: usize = 20;

/// Of a hundred answers, so many come before a second request is sent.
const PERCENTILE: usize = 95;

/// And nobody is asked before so many times the median: where answers differ because of their sizes, or because they
/// share a link that is full, a second one only fills it more.
const MEDIANS: u32 = 3;

/// Shortest time after which one is sent: it saves nobody anything where all answers are faster, and answers are
/// spread by as much when a machine is busy.
const SHORTEST: Duration = Duration::from_millis(50);

/// The time while too few answers are known to tell.
const AT_FIRST: Duration = Duration::from_millis(500);

/// Requests for each second one: a tenth, which is twice what the percentile lets through, so that those who need one
/// mostly find the allowance unused.
const REQUESTS_EACH: u32 = 10;

/// Most second requests that are saved up, for when all requests on their way get stuck together.
const MOST_SAVED: u32 = 8;

/// A source that has not answered in so many times the hedging time is late.
const LATE_TIMES: u32 = 4;

/// And no source is late before this time: a frame of a mebibyte comes at 4 Mbit/s in it.
const NEVER_LATE: Duration = Duration::from_secs(2);

/// What nobody waits for may come so many times later: it asks for a mebibyte, and yields to what is waited for.
const AHEAD_TIMES: u32 = 4;

/// Decides on second requests. It is told of requests, and how long answers took.
#[derive(Debug)]
pub(super) struct Hedging {
    recent: VecDeque<Duration>,
    /// Requests that no second one was sent for, up to a limit.
    saved: u32,
}

impl Default for Hedging {
    fn default() -> Self {
        Self {
            recent: VecDeque::with_capacity(REMEMBERED),
            // So that the first reads of a boot may have one.
            saved: REQUESTS_EACH,
        }
    }
}

impl Hedging {
    /// A request is sent that somebody waits for.
    pub(super) fn begins(&mut self) {
        self.saved = (self.saved + 1).min(MOST_SAVED * REQUESTS_EACH);
    }

    /// An answer came after this time, or had not come yet when another one made it needless.
    pub(super) fn took(&mut self, time: Duration) {
        if self.recent.len() == REMEMBERED {
            self.recent.pop_front();
        }
        self.recent.push_back(time);
    }

    /// How long an answer is waited for before a second request.
    pub(super) fn delay(&self) -> Duration {
        if self.recent.len() < TELLING {
            return AT_FIRST;
        }
        let mut times: Vec<Duration> = self.recent.iter().copied().collect();
        let mut of_hundred = |share| {
            let at = times.len() * share / 100;
            *times.select_nth_unstable(at).1
        };
        let (median, slow) = (of_hundred(50), of_hundred(PERCENTILE));
        slow.max(median.saturating_mul(MEDIANS)).max(SHORTEST)
    }

    /// How long an answer is waited for until the next source is asked whatever it costs, and this one counts as not
    /// answering.
    pub(super) fn late(&self) -> Duration {
        self.delay().saturating_mul(LATE_TIMES).max(NEVER_LATE)
    }

    /// The same for what nobody waits for yet: a read may come to wait for it.
    pub(super) fn late_ahead(&self) -> Duration {
        self.late().saturating_mul(AHEAD_TIMES)
    }

    /// Whether a second request may be sent, which is then counted.
    pub(super) fn may_send(&mut self) -> bool {
        let left = self.saved.checked_sub(REQUESTS_EACH);
        self.saved = left.unwrap_or(self.saved);
        left.is_some()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn second_requests_are_a_tenth_at_most(
            wanted in prop::collection::vec(any::<bool>(), 0..2000)
        ) {
            let mut hedging = Hedging::default();
            let (mut requests, mut sent) = (0, 0);
            for wanted in wanted {
                requests += 1;
                hedging.begins();
                if wanted && hedging.may_send() {
                    sent += 1;
                }
                prop_assert!(sent <= 1 + requests / REQUESTS_EACH);
            }
        }

        #[test]
        fn the_time_is_that_of_the_slowest_twentieth(
            times in prop::collection::vec(0..5000u64, 0..400)
        ) {
            let mut hedging = Hedging::default();
            for time in &times {
                hedging.took(Duration::from_millis(*time));
            }
            let recent = &times[times.len().saturating_sub(128)..];
            let expected = match recent.len() {
                0..20 => 500,
                len => {
                    // The shortest that more than so many are faster than, or as fast as, counted one by one.
                    let faster = |limit: u64| recent.iter().filter(|time| **time <= limit).count();
                    let of_hundred = |share: usize| {
                        let slow = recent.iter().filter(|time| faster(**time) > len * share / 100);
                        slow.copied().min().unwrap_or_default()
                    };
                    of_hundred(95).max(3 * of_hundred(50)).max(50)
                }
            };
            prop_assert_eq!(hedging.delay(), Duration::from_millis(expected));
            prop_assert!(hedging.late() >= Duration::from_millis((4 * expected).max(2000)));
        }
    }
}
