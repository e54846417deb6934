//! When the content of a machine will be here, at the rate at which it comes.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How far back the rate is looked at: long enough that a pause between requests does not matter, short enough to
/// follow a link that changes.
const LOOK_BACK: Duration = Duration::from_secs(30);

/// Shortest time that tells a rate: some requests of a fill.
const TELLING: Duration = Duration::from_secs(2);

/// Bytes that tell a rate in that time, a request of a fill: with fewer it has hardly begun, and longer is waited.
const TELLING_BYTES: u64 = 1 << 20;

/// Time that tells a rate however little came.
const TELLING_ANYWAY: Duration = Duration::from_secs(10);

/// How often it is looked again: all chunks of a plan are looked up for that, which takes some milliseconds.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// How many bytes of some content were here at what time.
#[derive(Debug, Default)]
pub(crate) struct Arrival(VecDeque<(Instant, u64)>);

impl Arrival {
    /// Whether it is time to look again.
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        self.0.back().is_none_or(|(at, _)| now - *at >= LOOK_EVERY)
    }

    /// So many bytes are here now.
    pub(crate) fn note(&mut self, now: Instant, here: u64) {
        let is_old = |(at, _): &(Instant, u64)| now - *at > LOOK_BACK;
        while self.0.front().is_some_and(is_old) {
            self.0.pop_front();
        }
        self.0.push_back((now, here));
    }

    /// How long the rest takes; `None` if nothing comes, or it is too early to tell.
    pub(crate) fn left(&self, bytes: u64) -> Option<Duration> {
        if bytes == 0 {
            return Some(Duration::ZERO);
        }
        let (begun, before) = self.0.front()?;
        let (now, here) = self.0.back()?;
        let time = *now - *begun;
        let came = here.saturating_sub(*before);
        let is_much = came >= TELLING_BYTES || time >= TELLING_ANYWAY;
        if time < TELLING || came == 0 || !is_much {
            return None;
        }
        let seconds = time.as_secs_f64() * bytes as f64 / came as f64;
        // More seconds than there are is no time that anybody waits for.
        Duration::try_from_secs_f64(seconds).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn the_rest_takes_as_long_as_the_rate_of_the_last_half_minute_says() {
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        let mut arrival = Arrival::default();
        assert!(arrival.is_due(begun));
        assert_eq!(arrival.left(1000 * MIB), None, "nothing is known");
        assert_eq!(arrival.left(0), Some(Duration::ZERO), "all is here");
        arrival.note(at(0), 500 * MIB);
        assert!(!arrival.is_due(at(1)) && arrival.is_due(at(2)));
        assert_eq!(arrival.left(1000 * MIB), None, "no rate yet");
        arrival.note(at(2), 700 * MIB);
        assert_eq!(arrival.left(1000 * MIB), Some(Duration::from_secs(10)));
        // It comes at half the rate from then on.
        for seconds in (4..=60).step_by(2) {
            arrival.note(at(seconds), (600 + 50 * seconds) * MIB);
        }
        assert_eq!(arrival.left(1000 * MIB), Some(Duration::from_secs(20)));
        // Nothing comes any more, or it left the cache.
        for seconds in (62..=100).step_by(2) {
            arrival.note(at(seconds), 3000 * MIB);
        }
        assert_eq!(arrival.left(1000 * MIB), None);
        assert!(arrival.0.len() <= 16, "what is old is forgotten");
    }

    #[test]
    fn a_fill_that_has_hardly_begun_says_no_time() {
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        let mut arrival = Arrival::default();
        arrival.note(at(0), 16 * MIB);
        arrival.note(at(2), 16 * MIB + 300_000);
        assert_eq!(arrival.left(20 * MIB), None);
        arrival.note(at(4), 24 * MIB);
        assert_eq!(arrival.left(20 * MIB), Some(Duration::from_secs(10)));
        // Over a link so slow, it is told late.
        let mut slow = Arrival::default();
        slow.note(at(0), 0);
        slow.note(at(8), 8000);
        assert_eq!(slow.left(8000), None);
        slow.note(at(10), 10_000);
        assert_eq!(slow.left(8000), Some(Duration::from_secs(8)));
    }
}
