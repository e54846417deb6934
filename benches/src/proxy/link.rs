//! What a link can do.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// Bytes that a connection may have under way besides twice what the link holds: room for the kernel's socket
/// buffers that a real connection has.
const EXTRA_WINDOW_BYTES: u64 = 1 << 20;

/// A link's rate and length. Written as `1000mbit,5ms`: the round trip is what is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    /// Bits a second, in each direction; at least one thousand.
    pub bits_a_second: u64,
    /// Time that a byte takes there and another one back.
    pub round_trip: Duration,
}

/// A text that is no link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParseLinkError(String);

impl fmt::Display for ParseLinkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` is no link: write it like `1000mbit,5ms`", self.0)
    }
}

impl std::error::Error for ParseLinkError {}

impl Link {
    /// How long `bytes` occupy one direction.
    pub fn time_to_send(&self, bytes: usize) -> Duration {
        let nanos = bytes as u128 * 8 * 1_000_000_000 / u128::from(self.bits_a_second.max(1));
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// How long a byte travels.
    pub fn delay(&self) -> Duration {
        self.round_trip / 2
    }

    /// Most bytes of one connection that are under way in one direction.
    pub fn window(&self) -> u32 {
        let held = u128::from(self.bits_a_second) * self.round_trip.as_nanos() / 8_000_000_000;
        let window = held * 2 + u128::from(EXTRA_WINDOW_BYTES);
        u32::try_from(window).unwrap_or(u32::MAX)
    }
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mbit = self.bits_a_second as f64 / 1e6;
        write!(f, "{mbit}mbit,{}ms", self.round_trip.as_secs_f64() * 1e3)
    }
}

impl FromStr for Link {
    type Err = ParseLinkError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let (rate, time) = text.split_once(',')?;
            let mbit: f64 = rate.trim().strip_suffix("mbit")?.parse().ok()?;
            let millis: f64 = time.trim().strip_suffix("ms")?.parse().ok()?;
            let fits = (0.001..=1e6).contains(&mbit) && (0.0..=60_000.0).contains(&millis);
            fits.then(|| Link {
                bits_a_second: (mbit * 1e6) as u64,
                round_trip: Duration::from_secs_f64(millis / 1e3),
            })
        };
        parse().ok_or_else(|| ParseLinkError(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_read_as_it_is_written() {
        for text in ["1000mbit,5ms", "100mbit,20ms", "0.5mbit,0ms"] {
            assert_eq!(text.parse::<Link>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "1000mbit",
            "1000,5",
            "-1mbit,5ms",
            "1mbit,1s",
            "0mbit,5ms",
            "1mbit,NaNms",
        ] {
            assert!(text.parse::<Link>().is_err(), "{text}");
        }
    }

    #[test]
    fn sending_takes_as_long_as_the_rate_says() {
        let link: Link = "8mbit,100ms".parse().unwrap();
        assert_eq!(link.time_to_send(1_000_000), Duration::from_secs(1));
        assert_eq!(link.delay(), Duration::from_millis(50));
        assert_eq!(link.window(), 200_000 + (1 << 20));
    }
}
