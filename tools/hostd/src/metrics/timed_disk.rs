//! A disk whose reads are timed.

use std::sync::Arc;
use std::time::Instant;

use prometheus_client::metrics::histogram::Histogram;
use shale_model::{BlockDevice, BlockRun, BoxFuture, DeviceResult};

/// Notes how long reads of a face take, failed ones included. One that its client gives up is none.
pub(crate) struct TimedDisk {
    pub(crate) inner: Arc<dyn BlockDevice>,
    pub(crate) reads: Histogram,
}

impl BlockDevice for TimedDisk {
    fn size(&self) -> u64 {
        self.inner.size()
    }

    fn read<'a>(&'a self, offset: u64, buffer: &'a mut [u8]) -> BoxFuture<'a, DeviceResult<()>> {
        Box::pin(async move {
            let begun = Instant::now();
            let done = self.inner.read(offset, buffer).await;
            self.reads.observe(begun.elapsed().as_secs_f64());
            done
        })
    }

    fn write<'a>(&'a self, offset: u64, data: &'a [u8]) -> BoxFuture<'a, DeviceResult<()>> {
        self.inner.write(offset, data)
    }

    fn zero(&self, offset: u64, len: u64) -> BoxFuture<'_, DeviceResult<()>> {
        self.inner.zero(offset, len)
    }

    fn flush(&self) -> BoxFuture<'_, DeviceResult<()>> {
        self.inner.flush()
    }

    fn status(&self, offset: u64, len: u64) -> BoxFuture<'_, DeviceResult<Vec<BlockRun>>> {
        self.inner.status(offset, len)
    }
}
