//! A disk for a hypervisor that pauses its guest when a request fails for want of room, and asks again when the guest
//! goes on: QEMU with `rerror=enospc` (its manual, "Device properties"). Nothing else can pause a guest whose
//! requests wait: QEMU's `stop` waits for them.

use std::future::pending;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use shale_model::{BlockDevice, BlockRun, BoxFuture, DeviceError, DeviceResult};
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::ongoing::Ongoing;
use crate::overlay::UNIT_BYTES;

/// Most bytes that are read at once to bring what a request was given up for.
const BRING_BYTES: u64 = 1 << 20;

/// Answers requests whose content does not come with [`DeviceError::Late`], and goes on bringing it. While one is late
/// all that wait are, so that the guest stands still at once.
pub struct ImpatientDisk {
    disk: Arc<dyn BlockDevice>,
    patience: Option<Duration>,
    late: Ongoing,
    /// What brings the content of late requests.
    bringing: Mutex<JoinSet<()>>,
    /// Where they read to, one after the other: so many requests as a hypervisor has on their way take no more memory.
    buffer: Arc<tokio::sync::Mutex<Vec<u8>>>,
    failed: Mutex<Failed>,
}

/// The requests that failed.
#[derive(Debug, Clone, Default)]
pub struct Failed {
    /// How many, those included that were late.
    pub count: u64,
    /// Why the last of those that were not late did.
    pub reason: Option<DeviceError>,
}

impl ImpatientDisk {
    /// Requests to `disk` wait for `patience`, or for as long as it takes.
    pub fn new(disk: Arc<dyn BlockDevice>, patience: Option<Duration>) -> Self {
        Self {
            disk,
            patience,
            late: Ongoing::new(),
            bringing: Mutex::default(),
            buffer: Arc::default(),
            failed: Mutex::default(),
        }
    }

    /// Whether the content of requests that were answered as late is still on its way.
    pub fn is_late(&self) -> bool {
        !self.late.is_none()
    }

    /// Ends what brings late content, and lets go of the disk below when that has happened.
    pub async fn end(&self) {
        let mut bringing = {
            let mut bringing = self.bringing.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *bringing)
        };
        bringing.shutdown().await;
    }

    /// The requests that failed so far.
    pub fn failed(&self) -> Failed {
        let failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        failed.clone()
    }

    /// Waits for `request`, which needs what lies in `content`.
    async fn within<T>(
        &self,
        request: impl Future<Output = DeviceResult<T>>,
        content: [Range<u64>; 2],
    ) -> DeviceResult<T> {
        let late = async {
            tokio::select! {
                () = self.patience_ends() => {}
                () = self.late.some() => {}
            }
        };
        let done = tokio::select! {
            biased;
            done = request => done,
            () = late => {
                self.bring(content);
                Err(DeviceError::Late)
            }
        };
        done.inspect_err(|error| self.note(error))
    }

    fn note(&self, error: &DeviceError) {
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        failed.count += 1;
        if !matches!(error, DeviceError::Late) {
            failed.reason = Some(error.clone());
        }
    }

    async fn patience_ends(&self) {
        match self.patience {
            Some(patience) => sleep(patience).await,
            None => pending().await,
        }
    }

    /// Reads what lies in `content`, so that the next request for it need not wait.
    fn bring(&self, content: [Range<u64>; 2]) {
        let (disk, late) = (self.disk.clone(), self.late.begin());
        let buffer = self.buffer.clone();
        let mut bringing = self.bringing.lock().unwrap_or_else(PoisonError::into_inner);
        // Those that have ended take no room.
        while bringing.try_join_next().is_some() {}
        bringing.spawn(async move {
            let mut buffer = buffer.lock().await;
            for range in content {
                let mut at = range.start;
                while at < range.end {
                    let len = BRING_BYTES.min(range.end - at);
                    buffer.resize(len as usize, 0);
                    // The next request for it gets the error.
                    let _ = disk.read(at, &mut buffer).await;
                    at += len;
                }
            }
            drop(late);
        });
    }

    /// What a change of `len` bytes needs: the units that it changes in part.
    fn ends(&self, offset: u64, len: u64) -> [Range<u64>; 2] {
        let size = self.disk.size();
        let unit = |at: u64| {
            let start = at / UNIT_BYTES * UNIT_BYTES;
            start..(start + UNIT_BYTES).min(size)
        };
        [unit(offset), unit((offset + len).saturating_sub(1))]
    }
}

impl BlockDevice for ImpatientDisk {
    fn size(&self) -> u64 {
        self.disk.size()
    }

    fn read<'a>(&'a self, offset: u64, buffer: &'a mut [u8]) -> BoxFuture<'a, DeviceResult<()>> {
        let content = [offset..offset + buffer.len() as u64, 0..0];
        Box::pin(self.within(self.disk.read(offset, buffer), content))
    }

    fn write<'a>(&'a self, offset: u64, data: &'a [u8]) -> BoxFuture<'a, DeviceResult<()>> {
        let content = self.ends(offset, data.len() as u64);
        Box::pin(self.within(self.disk.write(offset, data), content))
    }

    fn zero(&self, offset: u64, len: u64) -> BoxFuture<'_, DeviceResult<()>> {
        let content = self.ends(offset, len);
        Box::pin(self.within(self.disk.zero(offset, len), content))
    }

    fn flush(&self) -> BoxFuture<'_, DeviceResult<()>> {
        // Waits for no content, and may take its time.
        Box::pin(async {
            self.disk
                .flush()
                .await
                .inspect_err(|error| self.note(error))
        })
    }

    fn status(&self, offset: u64, len: u64) -> BoxFuture<'_, DeviceResult<Vec<BlockRun>>> {
        self.disk.status(offset, len)
    }
}
