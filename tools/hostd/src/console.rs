//! What guests print on their serial consoles.

use std::fs;
use std::path::Path;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::logs::{MAX_LOG_BYTES, read_at};

/// How often a console is looked at: the precision of a time to login.
const POLL: Duration = Duration::from_millis(20);

/// Lines of a console that an error shows.
const TAIL_LINES: usize = 12;

/// Bytes of a console that are looked at for its last lines.
const TAIL_BYTES: u64 = 8 << 10;

/// How a wait for a pattern ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Waited {
    /// The pattern was printed.
    Found,
    /// The guest is gone.
    Ended,
    /// Time is up.
    TimedOut,
}

/// Waits until `pattern` is printed behind the first `from` bytes of `log`, as long as `runs`, and until
/// `deadline`.
pub(crate) async fn wait_for(
    log: &Path,
    mut from: u64,
    pattern: &[u8],
    deadline: Instant,
    runs: impl Fn() -> bool,
) -> Waited {
    let mut seen = Vec::new();
    loop {
        // The order matters: what was printed before the end is still looked at.
        let running = runs();
        let size = fs::metadata(log).map_or(0, |metadata| metadata.len());
        if size < from {
            from = 0;
        }
        let mut new = vec![0; (size - from).min(MAX_LOG_BYTES) as usize];
        if !new.is_empty() && read_at(log, from, &mut new).is_ok() {
            from += new.len() as u64;
            seen.extend_from_slice(&new);
            if seen.windows(pattern.len()).any(|window| window == pattern) {
                return Waited::Found;
            }
            // The pattern may be cut in two.
            seen.drain(..seen.len().saturating_sub(pattern.len()));
        }
        if !running {
            return Waited::Ended;
        }
        if Instant::now() > deadline {
            return Waited::TimedOut;
        }
        sleep(POLL).await;
    }
}

/// The last lines that were printed, without control characters.
pub(crate) fn tail(log: &Path) -> String {
    let size = fs::metadata(log).map_or(0, |metadata| metadata.len());
    let mut bytes = vec![0; size.min(TAIL_BYTES) as usize];
    if read_at(log, size - bytes.len() as u64, &mut bytes).is_err() {
        return String::new();
    }
    let text = String::from_utf8_lossy(&bytes);
    let text: String = text
        .chars()
        .filter(|c| *c == '\n' || !c.is_control())
        .collect();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;
    use std::io::Write;

    use super::*;

    #[tokio::test]
    async fn a_pattern_is_found_behind_what_was_there() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let soon = || Instant::now() + Duration::from_millis(50);
        assert_eq!(
            wait_for(&log, 0, b"x", soon(), || false).await,
            Waited::Ended
        );
        fs::write(&log, "old login: ").unwrap();
        let from = 11;
        assert_eq!(
            wait_for(&log, 0, b"login:", soon(), || true).await,
            Waited::Found
        );
        assert_eq!(
            wait_for(&log, from, b"login:", soon(), || true).await,
            Waited::TimedOut
        );
        let writer = async {
            let mut file = OpenOptions::new().append(true).open(&log).unwrap();
            for part in ["host lo", "gin", ": "] {
                sleep(POLL * 2).await;
                file.write_all(part.as_bytes()).unwrap();
            }
        };
        let long = Instant::now() + Duration::from_secs(10);
        let (waited, ()) = tokio::join!(wait_for(&log, from, b"login:", long, || true), writer);
        assert_eq!(waited, Waited::Found);
    }

    #[test]
    fn the_last_lines_are_shown_without_control_characters() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        assert_eq!(tail(&log), "");
        let long = "line\n".repeat(TAIL_BYTES as usize);
        fs::write(&log, format!("{long}the\r\nend\x1b[0m")).unwrap();
        let shown = tail(&log);
        assert!(shown.ends_with("line\nthe\nend[0m"), "{shown}");
        assert_eq!(shown.lines().count(), TAIL_LINES);
    }
}
