//! The overlay of a disk, once more.

use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use shale_files::DirFiles;
use shale_model::PlanId;
use shale_view::{Overlay, UNIT_BYTES};

use crate::api::Brought;
use crate::dirs::current_boot;
use crate::error::HostResult;
use crate::patience::Patience;

/// Bytes that are read and written at once.
const STEP_BYTES: u64 = 1 << 20;

/// Bytes of the disk that are asked about at once: bounds the answer to 16,384 runs.
const ASK_BYTES: u64 = 64 << 20;

/// How much of an overlay is copied.
#[derive(Debug, Default)]
pub(crate) struct Copied {
    /// Bytes of the units in it; 0 until that is known.
    pub(crate) of: AtomicU64,
    /// Bytes of these that are done.
    pub(crate) bytes: AtomicU64,
}

impl Copied {
    /// What a client is told of it.
    pub(crate) fn brought(&self) -> Option<Brought> {
        let (bytes, of) = (self.bytes.load(Relaxed), self.of.load(Relaxed));
        (of > 0).then_some(Brought { bytes, of })
    }
}

/// Copies `from`, which is over `plan` and which nobody writes to, into the empty directory `dir`. Until all of it is
/// durable there is no overlay there. Only units that are in it are copied, and those of zeros stay holes. When all is read,
/// before it is made durable, `all_read` is called: then `from` may be written to again. Blocks.
///
/// # Errors
/// Whoever wants it loses `patience`, a file cannot be read or written, or there is no room.
pub(crate) fn copy_overlay(
    from: &Overlay,
    plan: PlanId,
    dir: &Path,
    patience: &Patience,
    copied: &Copied,
    all_read: impl FnOnce() -> HostResult<()>,
) -> HostResult<()> {
    let boot = current_boot()?;
    let size = from.disk_bytes();
    copied.of.store(from.units() * UNIT_BYTES, Relaxed);
    let files = DirFiles::open(dir)?;
    let write = |to: &Overlay| {
        let mut buffer = vec![0; STEP_BYTES as usize];
        for at in (0..size).step_by(ASK_BYTES as usize) {
            for (range, here) in from.runs(at, ASK_BYTES.min(size - at)) {
                if here {
                    copy_range(from, to, range, &mut buffer, |bytes| {
                        copied.bytes.fetch_add(bytes, Relaxed);
                        patience.over().map_or(Ok(()), Err)
                    })?;
                }
            }
        }
        all_read()
    };
    Overlay::create_with(&files, plan, size, boot, write).map(drop)
}

/// Copies a range of units. `done` is told of bytes that are, and may end it.
fn copy_range(
    from: &Overlay,
    to: &Overlay,
    range: Range<u64>,
    buffer: &mut [u8],
    done: impl Fn(u64) -> HostResult<()>,
) -> HostResult<()> {
    let mut at = range.start;
    while at < range.end {
        let part = &mut buffer[..STEP_BYTES.min(range.end - at) as usize];
        from.read(at, part)?;
        let is_zero = |unit: &[u8]| unit.iter().all(|byte| *byte == 0);
        let units: Vec<&[u8]> = part.chunks(UNIT_BYTES as usize).collect();
        let mut offset = at;
        for alike in units.chunk_by(|a, b| is_zero(a) == is_zero(b)) {
            let len: usize = alike.iter().map(|unit| unit.len()).sum();
            match is_zero(alike[0]) {
                true => to.zero(offset, len as u64)?,
                false => {
                    let start = (offset - at) as usize;
                    to.write(offset, &part[start..start + len])?;
                }
            }
            offset += len as u64;
        }
        done(offset - at)?;
        at = offset;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;
    use std::time::Duration;

    use super::*;
    use crate::error::HostError;
    use crate::patience::Hope;

    /// Bytes of a disk that ends in the middle of a unit.
    const DISK: u64 = (64 << 20) + (3 << 20) + 1000;

    fn dir_files(dir: &tempfile::TempDir) -> DirFiles {
        DirFiles::open(dir.path()).unwrap()
    }

    #[test]
    fn a_copy_has_what_was_written_and_nothing_else() {
        let plan = PlanId::of(b"p");
        let boot = current_boot().unwrap();
        let [one, two] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let from = Overlay::create(&dir_files(&one), plan, DISK, boot).unwrap();
        let last = DISK / UNIT_BYTES * UNIT_BYTES;
        // Over the border of what is asked about at once, then zeros between bytes, then the last, part of a unit.
        let mut pattern: Vec<u8> = (0..3 << 20).map(|n: u32| (n / 5000) as u8).collect();
        pattern[1 << 20..2 << 20].fill(0);
        from.write((63 << 20) - 4096, &pattern).unwrap();
        from.zero(8192, 4096).unwrap();
        from.write(last, &[7; 1000]).unwrap();

        let copied = Copied::default();
        let patience = Patience::endless();
        copy_overlay(&from, plan, two.path(), &patience, &copied, || Ok(())).unwrap();
        let to = Overlay::open(&dir_files(&two), plan, boot).unwrap();
        assert_eq!(to.runs(0, DISK), from.runs(0, DISK));
        assert_eq!(to.units(), from.units());
        let [mut a, mut b] = [(); 2].map(|()| vec![0; DISK as usize]);
        from.read(0, &mut a).unwrap();
        to.read(0, &mut b).unwrap();
        assert!(a == b);
        let room = std::fs::metadata(two.path().join("data")).unwrap().blocks() * 512;
        assert!(room <= 2 << 20 | 64 << 10, "{room} bytes for two megabytes");
        let bytes = copied.bytes.load(Relaxed);
        assert!(bytes > 3 << 20 && copied.of.load(Relaxed) - bytes < UNIT_BYTES);
    }

    #[test]
    fn a_copy_that_is_given_up_is_none() {
        let plan = PlanId::of(b"p");
        let boot = current_boot().unwrap();
        let [one, two] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let from = Overlay::create(&dir_files(&one), plan, DISK, boot).unwrap();
        from.write(0, &[1; 4096]).unwrap();
        let hope = Hope::new();
        let patience = hope.patience("a", Duration::MAX);
        let _given_up = hope.give_up();
        let copied = copy_overlay(
            &from,
            plan,
            two.path(),
            &patience,
            &Copied::default(),
            || Ok(()),
        );
        assert!(matches!(copied, Err(HostError::GivenUp(_))));
        assert!(Overlay::open(&dir_files(&two), plan, boot).is_err());
    }
}
