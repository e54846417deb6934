//! What guests print on their serial consoles.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::{Instant, sleep};

/// How often a console is looked at: the precision of a time to login.
const POLL: Duration = Duration::from_millis(20);

/// Bytes of a console's log after which it is begun anew: a guest that prints without end must not fill
/// the host's disk. The part before is kept, so that a console takes twice as much.
const MAX_LOG_BYTES: u64 = 8 << 20;

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

/// Waits until `pattern` is printed behind the first `from` bytes of `log`, as long as `runs`.
pub(crate) async fn wait_for(
    log: &Path,
    mut from: u64,
    pattern: &[u8],
    limit: Duration,
    runs: impl Fn() -> bool,
) -> Waited {
    let deadline = Instant::now() + limit;
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

/// Where the older part of a log is kept.
pub(crate) fn older(log: &Path) -> PathBuf {
    let mut name = log.as_os_str().to_owned();
    name.push(".1");
    name.into()
}

/// Begins a log anew that has grown too long. The hypervisor appends to the file, which therefore stays
/// the same one; what it prints during the copy is lost.
pub(crate) fn rotate(log: &Path) -> io::Result<()> {
    let size = match fs::metadata(log) {
        Ok(metadata) => metadata.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if size <= MAX_LOG_BYTES {
        return Ok(());
    }
    // Between two looks it may have grown by any amount; the end is what is of use.
    let mut end = vec![0; MAX_LOG_BYTES as usize];
    read_at(log, size - MAX_LOG_BYTES, &mut end)?;
    fs::write(older(log), end)?;
    OpenOptions::new().write(true).open(log)?.set_len(0)
}

fn read_at(path: &Path, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
    File::open(path)?.read_exact_at(buffer, offset)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[tokio::test]
    async fn a_pattern_is_found_behind_what_was_there() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let soon = Duration::from_millis(50);
        assert_eq!(wait_for(&log, 0, b"x", soon, || false).await, Waited::Ended);
        fs::write(&log, "old login: ").unwrap();
        let from = 11;
        assert_eq!(
            wait_for(&log, 0, b"login:", soon, || true).await,
            Waited::Found
        );
        assert_eq!(
            wait_for(&log, from, b"login:", soon, || true).await,
            Waited::TimedOut
        );
        let writer = async {
            let mut file = OpenOptions::new().append(true).open(&log).unwrap();
            for part in ["host lo", "gin", ": "] {
                sleep(POLL * 2).await;
                file.write_all(part.as_bytes()).unwrap();
            }
        };
        let long = Duration::from_secs(10);
        let (waited, ()) = tokio::join!(wait_for(&log, from, b"login:", long, || true), writer);
        assert_eq!(waited, Waited::Found);
    }

    #[test]
    fn a_log_stays_bounded_and_keeps_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        rotate(&log).unwrap();
        let mut text = vec![b'a'; MAX_LOG_BYTES as usize];
        fs::write(&log, &text).unwrap();
        rotate(&log).unwrap();
        assert!(!older(&log).exists());
        text.extend_from_slice(b"the\r\nend\x1b[0m");
        fs::write(&log, &text).unwrap();
        assert!(tail(&log).ends_with("the\nend[0m"));
        rotate(&log).unwrap();
        assert_eq!(fs::metadata(&log).unwrap().len(), 0);
        let kept = fs::read(older(&log)).unwrap();
        assert_eq!(kept.len() as u64, MAX_LOG_BYTES);
        assert!(kept.ends_with(b"the\r\nend\x1b[0m"));
    }
}
