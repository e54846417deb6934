//! A disk for tests: bytes in a file, so that a later process finds them, with reads that wait until they are let go.

use std::fs::File;
use std::future::pending;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use shale_model::{BlockDevice, BlockRun, BoxFuture, DeviceError, DeviceResult};

/// Bytes of the disk.
pub(crate) const DISK_BYTES: u64 = 32 << 20;

pub(crate) struct FileDisk {
    file: File,
    /// Reads from here on never end; the whole disk's size for none.
    pub(crate) stalls_from: AtomicU64,
    /// Whether every request waits a little, so that kills find some under way.
    pub(crate) is_slow: AtomicBool,
    pub(crate) writes: AtomicU64,
}

impl FileDisk {
    pub(crate) fn new(file: File) -> Arc<Self> {
        file.set_len(DISK_BYTES).unwrap();
        Arc::new(Self {
            file,
            stalls_from: AtomicU64::new(DISK_BYTES),
            is_slow: AtomicBool::new(false),
            writes: AtomicU64::new(0),
        })
    }

    async fn wait(&self, offset: u64) {
        if offset >= self.stalls_from.load(Ordering::Relaxed) {
            pending::<()>().await;
        }
        // Every third is at hand at once.
        if self.is_slow.load(Ordering::Relaxed) && !(offset / 4096).is_multiple_of(3) {
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
    }
}

fn io(result: std::io::Result<()>) -> DeviceResult<()> {
    result.map_err(DeviceError::below)
}

impl BlockDevice for FileDisk {
    fn size(&self) -> u64 {
        DISK_BYTES
    }

    fn read<'a>(&'a self, offset: u64, buffer: &'a mut [u8]) -> BoxFuture<'a, DeviceResult<()>> {
        Box::pin(async move {
            self.wait(offset).await;
            assert!(offset + buffer.len() as u64 <= DISK_BYTES && !buffer.is_empty());
            io(self.file.read_exact_at(buffer, offset))
        })
    }

    fn write<'a>(&'a self, offset: u64, data: &'a [u8]) -> BoxFuture<'a, DeviceResult<()>> {
        Box::pin(async move {
            self.wait(offset).await;
            assert!(offset + data.len() as u64 <= DISK_BYTES && !data.is_empty());
            self.writes.fetch_add(1, Ordering::Relaxed);
            io(self.file.write_all_at(data, offset))
        })
    }

    fn zero(&self, offset: u64, len: u64) -> BoxFuture<'_, DeviceResult<()>> {
        Box::pin(async move { io(self.file.write_all_at(&vec![0; len as usize], offset)) })
    }

    fn flush(&self) -> BoxFuture<'_, DeviceResult<()>> {
        Box::pin(async move { io(self.file.sync_data()) })
    }

    fn status(&self, offset: u64, len: u64) -> BoxFuture<'_, DeviceResult<Vec<BlockRun>>> {
        // The first half is data.
        Box::pin(async move {
            let half = DISK_BYTES / 2;
            let zero = offset >= half;
            let len = if zero { len } else { len.min(half - offset) };
            Ok(vec![BlockRun { len, zero }])
        })
    }
}
