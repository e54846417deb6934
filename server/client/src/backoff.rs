//! Pauses between attempts: longer each time, and of random length, so that many hosts do not come back
//! at the same moment.

use std::time::Duration;

/// Longest first pause.
const FIRST: Duration = Duration::from_millis(100);

/// Longest pause: what a registry that returned is noticed after.
const LONGEST: Duration = Duration::from_secs(3);

/// The pause after attempt number `attempt`, from 0; `random` is in 0..1. At least as long as the
/// registry asked for. `None` once it would not end within `left`.
pub(crate) fn pause(
    attempt: u32,
    random: f64,
    asked: Option<Duration>,
    left: Duration,
) -> Option<Duration> {
    let longest = FIRST.saturating_mul(1 << attempt.min(10)).min(LONGEST);
    let pause = longest.mul_f64(0.5 + random.clamp(0.0, 1.0) / 2.0);
    let pause = pause.max(asked.unwrap_or_default());
    (pause < left).then_some(pause)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(100);

    #[test]
    fn pauses_grow_to_a_limit_and_end() {
        let of = |attempt, random| pause(attempt, random, None, LONG).unwrap();
        assert_eq!(of(0, 0.0), Duration::from_millis(50));
        assert_eq!(of(0, 1.0), Duration::from_millis(100));
        assert_eq!(of(2, 1.0), Duration::from_millis(400));
        assert_eq!(of(u32::MAX, 1.0), LONGEST);
        assert_eq!(pause(0, 1.0, None, Duration::from_millis(100)), None);
    }

    #[test]
    fn the_registry_may_ask_for_more() {
        let asked = Some(Duration::from_secs(7));
        assert_eq!(pause(0, 1.0, asked, LONG), asked);
        assert_eq!(pause(0, 1.0, asked, Duration::from_secs(6)), None);
    }
}
