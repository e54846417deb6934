//! Bits that outlive the process, but not the machine.
//!
//! A guest must not notice that its server died: what it wrote and was told is written has to be there, flushed or
//! not. The data is, in the system's page cache; the bits that name it are written to a second file of
//! bits, which is never synced and therefore only means something until the machine restarts. It ends
//! with the id of the boot in which it was begun.

use std::sync::Arc;

use shale_files::{File, FileResult, LockFiles, OpenMode};

use super::bits::{BitWrite, Bits};
use super::named;

/// Names one run of the machine's kernel: Linux shows it in `/proc/sys/kernel/random/boot_id`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BootId(pub [u8; 16]);

/// The file of bits that is not synced.
pub(super) struct Live {
    file: Arc<dyn File>,
}

impl Live {
    /// Opens the file in `files`, and reads the bits in it if they are of this boot.
    pub(super) fn open(
        files: &dyn LockFiles,
        units: u64,
        boot: BootId,
    ) -> FileResult<(Self, Option<Bits>)> {
        let path = named("live");
        let boot_at = Bits::file_bytes(units);
        let file = match files.open(&path, OpenMode::Write) {
            Err(error) if error.is_missing() => files.open(&path, OpenMode::CreateNew)?,
            opened => opened?,
        };
        let this = Self { file: file.into() };
        let mut found = BootId([0; 16]);
        let complete = this.file.size()? == boot_at + found.0.len() as u64;
        if complete {
            this.file.read_at(boot_at, &mut found.0)?;
        }
        if complete && found == boot {
            let bits = Bits::load(&*this.file, units)?;
            return Ok((this, Some(bits)));
        }
        // What an earlier boot left means nothing now: its data may not have reached the disk.
        this.file.set_size(0)?;
        this.file.set_size(boot_at)?;
        this.file.write_at(boot_at, &boot.0)?;
        Ok((this, None))
    }

    /// Writes bits that were set.
    pub(super) fn write(&self, writes: &[BitWrite]) -> FileResult<()> {
        writes
            .iter()
            .try_for_each(|write| self.file.write_at(write.offset, &write.bytes))
    }
}
