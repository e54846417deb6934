//! The file that is a disk, once more: as a reflink where the file system has them, else what is not a hole of it.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;

use rustix::fs::{copy_file_range, ioctl_ficlone};
use rustix::io::Errno;

use crate::error::{HostResult, system};
use crate::holes::next_data;
use crate::overlay_copy::Copied;
use crate::patience::Patience;

/// Bytes that are copied at once: whoever waits no longer is heard between two of these.
const STEP_BYTES: u64 = 8 << 20;

/// Bytes of a block as stat(2) counts them.
const STAT_BLOCK: u64 = 512;

/// Copies the disk in the file `from`, which nobody writes to, into the file `target`, which must not exist, and makes that
/// durable, with its name. When all is read, before it is made durable, `all_read` is called: then `from` may be written to
/// again. Blocks.
///
/// # Errors
/// Whoever wants it loses `patience`, a file cannot be read or written, or there is no room. What is at `target` then is of
/// no use.
pub(crate) fn copy_file(
    from: &Path,
    target: &Path,
    patience: &Patience,
    copied: &Copied,
    all_read: impl FnOnce() -> HostResult<()>,
) -> HostResult<()> {
    let source = File::open(from).map_err(system("open", from))?;
    let mut options = OpenOptions::new();
    let options = options.read(true).write(true).create_new(true).mode(0o600);
    let to = options.open(target).map_err(system("make", target))?;
    let is_cloned = clone(&source, &to).map_err(system("write", target))?;
    if !is_cloned {
        let metadata = source.metadata().map_err(system("read", from))?;
        let has = (metadata.blocks() * STAT_BLOCK).min(metadata.len());
        copied.of.store(has, Relaxed);
        to.set_len(metadata.len())
            .map_err(system("write", target))?;
        let mut at = 0;
        while let Some((start, end)) =
            next_data(&source, at, metadata.len()).map_err(system("read", from))?
        {
            at = start;
            while at < end {
                if let Some(over) = patience.over() {
                    return Err(over);
                }
                let len = STEP_BYTES.min(end - at);
                let done = copy_some(&source, &to, at, len).map_err(system("write", target))?;
                copied.bytes.fetch_add(done, Relaxed);
                at += done;
            }
        }
    }
    all_read()?;
    sync_with_name(target)
}

/// Makes a file durable, with its name.
pub(crate) fn sync_with_name(path: &Path) -> HostResult<()> {
    let parent = path.parent().unwrap_or(path);
    for path in [path, parent] {
        let synced = File::open(path).and_then(|file| file.sync_all());
        synced.map_err(system("sync", path))?;
    }
    Ok(())
}

/// Has both files share their blocks until one is written to; whether the file system can do that.
fn clone(from: &File, to: &File) -> io::Result<bool> {
    match ioctl_ficlone(to, from) {
        Ok(()) => Ok(true),
        // ioctl_ficlone(2): it does not know them, or not for these two files.
        Err(Errno::OPNOTSUPP | Errno::NOTTY | Errno::INVAL | Errno::XDEV | Errno::NOSYS) => {
            Ok(false)
        }
        Err(error) => Err(error.into()),
    }
}

/// Copies `len` bytes at `at`, or some of them; how many.
fn copy_some(from: &File, to: &File, at: u64, len: u64) -> io::Result<u64> {
    let (mut off_in, mut off_out) = (at, at);
    match copy_file_range(
        from,
        Some(&mut off_in),
        to,
        Some(&mut off_out),
        len as usize,
    ) {
        Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
        Ok(done) => Ok(done as u64),
        // copy_file_range(2): the file system, or two of them, cannot.
        Err(Errno::NOSYS | Errno::XDEV | Errno::INVAL | Errno::OPNOTSUPP) => {
            let mut buffer = vec![0; len as usize];
            from.read_exact_at(&mut buffer, at)?;
            to.write_all_at(&buffer, at)?;
            Ok(len)
        }
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::error::HostError;
    use crate::patience::Hope;

    const SIZE: u64 = 64 << 20;

    /// A disk with data at its begin, in its middle and at its end, and holes between.
    fn disk(dir: &Path) -> std::path::PathBuf {
        let path = dir.join("disk.raw");
        let file = File::create(&path).unwrap();
        file.set_len(SIZE).unwrap();
        for (at, byte) in [(0, 1), (20 << 20, 2), (SIZE - 4096, 3)] {
            file.write_all_at(&[byte; 4096], at).unwrap();
        }
        path
    }

    #[test]
    fn a_copy_has_the_bytes_and_the_holes() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (disk(dir.path()), dir.path().join("copy.raw"));
        let (patience, copied) = (Patience::endless(), Copied::default());
        let mut is_read = false;
        copy_file(&from, &to, &patience, &copied, || {
            is_read = true;
            Ok(())
        })
        .unwrap();
        assert!(is_read);
        assert!(std::fs::read(&from).unwrap() == std::fs::read(&to).unwrap());
        let metadata = to.metadata().unwrap();
        assert!(metadata.blocks() * STAT_BLOCK < 1 << 20, "{metadata:?}");
        assert_eq!(metadata.mode() & 0o777, 0o600);
        let again = copy_file(&from, &to, &patience, &copied, || Ok(()));
        assert!(again.is_err(), "it is there");
    }

    #[test]
    fn a_copy_that_is_given_up_ends_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (disk(dir.path()), dir.path().join("copy.raw"));
        let hope = Hope::new();
        let patience = hope.patience("a", Duration::MAX);
        let _given_up = hope.give_up();
        let copied = Copied::default();
        let done = copy_file(&from, &to, &patience, &copied, || Ok(()));
        // Where it is a reflink, it is done before anybody can give it up.
        let is_reflink = done.is_ok() && copied.of.load(Relaxed) == 0;
        assert!(
            is_reflink || matches!(done, Err(HostError::GivenUp(_))),
            "{done:?}"
        );
    }
}
