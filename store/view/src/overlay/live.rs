//! Bits that outlive the process, but not the machine.
//!
//! A guest must not notice that its server died: what it wrote and was told is written has to be there, flushed or
//! not. The data is, in the system's page cache; the bits that name it are written to a second file of
//! bits, which is never synced after it was made and therefore only means something until the machine
//! restarts. It ends with the id of the boot in which it was begun.

use std::collections::BTreeSet;
use std::ops::Range;

use shale_files::{File, FileError, FilePath, FileResult, LockFiles, OpenMode, put_durably};

use super::bits::Bits;
use super::{OverlayError, check_len, named};

/// Names one run of the machine's kernel: Linux shows it in `/proc/sys/kernel/random/boot_id`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BootId(pub [u8; 16]);

/// The file of bits that is not synced.
pub(super) struct Live {
    file: Box<dyn File>,
    /// Pages that are in the file with every bit that only it can keep, and that its upper level names. Any other is
    /// written as a whole: it is new to this boot, or a write of it failed, and nobody knows how far that came.
    complete: BTreeSet<u64>,
}

impl Live {
    /// A file without bits, in place of any that an earlier boot left: what is in that means nothing, as its
    /// data may not have reached the disk.
    pub(super) fn begin(files: &dyn LockFiles, units: u64, boot: BootId) -> FileResult<Self> {
        let (temp, path) = (named("live.new"), named("live"));
        let boot_at = Bits::file_bytes(units);
        let _ = files.remove(&temp);
        // Durably, so that it has its length whatever happens later, and another one is damage.
        put_durably(files, &temp, &path, |file| {
            file.set_size(boot_at)?;
            file.write_at(boot_at, &boot.0)
        })?;
        Self::at(files, &path)
    }

    /// Opens the file in `files`, and reads the bits in it if they are of this boot.
    pub(super) fn open(
        files: &dyn LockFiles,
        units: u64,
        boot: BootId,
    ) -> Result<(Self, Option<Bits>), OverlayError> {
        let mut this = Self::at(files, &named("live"))?;
        let mut found = BootId([0; 16]);
        let boot_at = Bits::file_bytes(units);
        check_len(
            "overlay's live bits",
            &*this.file,
            boot_at + found.0.len() as u64,
        )?;
        this.file.read_at(boot_at, &mut found.0)?;
        if found != boot {
            return Ok((Self::begin(files, units, boot)?, None));
        }
        let bits = Bits::load(&*this.file, units)?;
        this.complete = bits.pages().collect();
        Ok((this, Some(bits)))
    }

    fn at(files: &dyn LockFiles, path: &FilePath) -> Result<Self, FileError> {
        Ok(Self {
            file: files.open(path, OpenMode::Write)?,
            complete: BTreeSet::new(),
        })
    }

    /// Whether the bits of `units` are in the file, once they are set.
    pub(super) fn has(&self, units: Range<u64>) -> bool {
        Bits::places(units).all(|(number, _)| self.complete.contains(&number))
    }

    /// Writes what `bits` has of `units`. After an error, the next call for the same pages writes all of them.
    pub(super) fn write(&mut self, bits: &Bits, units: Range<u64>) -> FileResult<()> {
        let places: Vec<_> = Bits::places(units)
            .map(|(number, bytes)| (number, bytes, self.complete.remove(&number)))
            .collect();
        for (number, bytes, was_complete) in places {
            let (offset, part) = match was_complete {
                true => bits.part(number, bytes),
                false => bits.part(number, Bits::WHOLE),
            };
            self.file.write_at(offset, part)?;
            if !was_complete {
                let (offset, byte) = bits.upper(number);
                self.file.write_at(offset, &[byte])?;
            }
            self.complete.insert(number);
        }
        Ok(())
    }
}
