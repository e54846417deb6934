//! What a guest is told first: what time it is, and randomness that nobody else has.

use std::fmt::Write;
use std::io;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::keys::random;

/// Bytes of randomness that a guest gets: twice as many as its kernel's keys have.
const RANDOM_BYTES: usize = 64;

/// Time and randomness in the layout that the kernel takes.
///
/// ```text
///  0  8  seconds since 1970        struct timespec
///  8  8  nanoseconds
/// 16  4  bits of randomness        struct rand_pool_info
/// 20  4  bytes that hold them
/// 24 64  these bytes
/// ```
pub(crate) struct Wake([u8; 24 + RANDOM_BYTES]);

impl Wake {
    pub(crate) fn new(now: SystemTime) -> io::Result<Self> {
        let mut bytes = [0; RANDOM_BYTES];
        random(&mut bytes)?;
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut wake = [0; 24 + RANDOM_BYTES];
        wake[..8].copy_from_slice(&now.as_secs().to_le_bytes());
        wake[8..16].copy_from_slice(&u64::from(now.subsec_nanos()).to_le_bytes());
        wake[16..20].copy_from_slice(&(8 * RANDOM_BYTES as u32).to_le_bytes());
        wake[20..24].copy_from_slice(&(RANDOM_BYTES as u32).to_le_bytes());
        wake[24..].copy_from_slice(&bytes);
        Ok(Self(wake))
    }

    /// The line of a script that takes it up.
    pub(crate) fn script(&self) -> String {
        let mut octal = String::with_capacity(4 * self.0.len());
        for byte in self.0 {
            // Writing to a text does not fail.
            let _ = write!(octal, "\\{byte:03o}");
        }
        format!("printf '{octal}' | /usr/lib/shale/reseed || exit\n")
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_guest_gets_the_time_and_randomness_of_its_own() {
        let now = UNIX_EPOCH + Duration::new(1_700_000_000, 5);
        let (wake, other) = (Wake::new(now).unwrap(), Wake::new(now).unwrap());
        assert_eq!(wake.0[..24], other.0[..24]);
        assert_ne!(wake.0[24..], other.0[24..], "nobody else has it");
        let seconds = u64::from_le_bytes(*wake.0.first_chunk().unwrap());
        assert_eq!(seconds, 1_700_000_000);
        // As a shell understands it.
        let script = wake.script();
        let (print, _) = script.split_once('|').unwrap();
        let output = Command::new("sh").args(["-c", print]).output().unwrap();
        assert_eq!(output.stdout, wake.0);
    }
}
