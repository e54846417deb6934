//! Files that other processes append to without end, kept bounded.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Bytes of a log after which it is begun anew: a guest that prints without end must not fill the host's
/// disk. The part before is kept, so that a log takes twice as much.
pub(crate) const MAX_LOG_BYTES: u64 = 8 << 20;

/// Begins a log anew that has grown too long. Its writer appends to the file, which therefore stays the
/// same one; what it writes during the copy is lost.
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

/// Where the older part of a log is kept.
fn older(log: &Path) -> PathBuf {
    let mut name = log.as_os_str().to_owned();
    name.push(".1");
    name.into()
}

/// Fills `buffer` with the bytes of a log from `offset`.
pub(crate) fn read_at(log: &Path, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
    File::open(log)?.read_exact_at(buffer, offset)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_stays_bounded_and_keeps_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        rotate(&log).unwrap();
        let mut text = vec![b'a'; MAX_LOG_BYTES as usize];
        fs::write(&log, &text).unwrap();
        rotate(&log).unwrap();
        assert!(!older(&log).exists());
        text.extend_from_slice(b"the end");
        fs::write(&log, &text).unwrap();
        rotate(&log).unwrap();
        assert_eq!(fs::metadata(&log).unwrap().len(), 0);
        let kept = fs::read(older(&log)).unwrap();
        assert_eq!(kept.len() as u64, MAX_LOG_BYTES);
        assert!(kept.ends_with(b"the end"));
    }
}
