//! The disk of an instance that is a plain file, to read.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use shale_model::{BlockDevice, BlockRun, BoxFuture, DeviceError, DeviceResult};

use crate::holes::next_data;

/// A file with the plain bytes of a disk, which nobody writes to meanwhile.
pub(crate) struct FileDisk {
    file: File,
    bytes: u64,
}

impl FileDisk {
    /// The disk in the file at `path`.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let bytes = file.metadata()?.len();
        Ok(Self { file, bytes })
    }

    /// Cuts a range into data and holes; a file system that does not know has data only.
    fn runs(&self, offset: u64, len: u64) -> io::Result<Vec<BlockRun>> {
        let (mut runs, mut at, end) = (Vec::new(), offset, offset + len);
        while at < end {
            let (data, hole) = next_data(&self.file, at, end)?.unwrap_or((end, end));
            for (next, zero) in [(data, true), (hole, false)] {
                if next > at {
                    let len = next - at;
                    runs.push(BlockRun { len, zero });
                    at = next;
                }
            }
        }
        Ok(runs)
    }
}

impl BlockDevice for FileDisk {
    fn size(&self) -> u64 {
        self.bytes
    }

    fn read<'a>(&'a self, offset: u64, buffer: &'a mut [u8]) -> BoxFuture<'a, DeviceResult<()>> {
        let read = self.file.read_exact_at(buffer, offset);
        Box::pin(async { read.map_err(DeviceError::below) })
    }

    fn write<'a>(&'a self, _: u64, _: &'a [u8]) -> BoxFuture<'a, DeviceResult<()>> {
        Box::pin(async { Err(DeviceError::ReadOnly) })
    }

    fn zero(&self, _: u64, _: u64) -> BoxFuture<'_, DeviceResult<()>> {
        Box::pin(async { Err(DeviceError::ReadOnly) })
    }

    fn flush(&self) -> BoxFuture<'_, DeviceResult<()>> {
        Box::pin(async { Ok(()) })
    }

    fn status(&self, offset: u64, len: u64) -> BoxFuture<'_, DeviceResult<Vec<BlockRun>>> {
        let runs = self.runs(offset, len);
        Box::pin(async { runs.map_err(DeviceError::below) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn holes_are_zeros_and_data_is_data() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        let file = File::create(&path).unwrap();
        file.set_len(1 << 20).unwrap();
        file.write_all_at(&[7; 5000], 65_536).unwrap();
        let disk = FileDisk::open(&path).unwrap();
        assert_eq!(disk.size(), 1 << 20);
        let mut seen = vec![0; 1 << 20];
        disk.read(0, &mut seen).await.unwrap();
        let mut at = 0;
        for run in disk.status(0, 1 << 20).await.unwrap() {
            let bytes = &seen[at..at + run.len as usize];
            assert!(!run.zero || bytes.iter().all(|byte| *byte == 0));
            at += run.len as usize;
        }
        assert_eq!(at, 1 << 20);
        assert_eq!(seen.iter().filter(|byte| **byte == 7).count(), 5000);
        assert!(disk.read((1 << 20) - 1, &mut [0; 2]).await.is_err());
        assert!(disk.write(0, &[1]).await.is_err());
    }
}
