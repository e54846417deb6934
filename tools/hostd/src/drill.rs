//! Faults on purpose: what is rehearsed before it happens. Each has a deadline and is over then, whatever became of
//! whoever wanted it.
//!
//! A link is that of a source, so that all of the stack above it is rehearsed: a drill is felt by every machine that
//! comes from the same repository and mirrors. A full disk is that of one machine.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use shale_model::{
    BlockDevice, BlockRun, BoxFuture, ChunkId, DeviceError, DeviceResult, Fetch, Location, PackId,
    SeamError, SeamResult, Trouble,
};

/// What counts as the size of the question where chunks lie.
const QUESTION_BYTES: u64 = 1024;

/// A fault of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LinkFault {
    /// Nobody is at its other end.
    Down,
    /// Every request takes longer.
    Slow {
        /// By this.
        delay: Duration,
        /// And by its bytes at this rate.
        bytes_per_second: u64,
    },
}

/// What is wrong on purpose, and until when.
#[derive(Debug)]
pub(crate) struct Drill<F>(Mutex<Option<(F, Instant)>>);

impl<F> Default for Drill<F> {
    fn default() -> Self {
        Self(Mutex::new(None))
    }
}

impl<F: Copy> Drill<F> {
    /// Begins a fault that is over after `time`; the one before it is over now.
    pub(crate) fn begin(&self, fault: F, time: Duration) {
        self.set(Some((fault, Instant::now() + time)));
    }

    /// There is no fault any more.
    pub(crate) fn end(&self) {
        self.set(None);
    }

    /// Whether something is wrong.
    pub(crate) fn is_on(&self) -> bool {
        self.now().is_some()
    }

    fn set(&self, fault: Option<(F, Instant)>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = fault;
    }

    /// What is wrong, and for how long.
    fn now(&self) -> Option<(F, Duration)> {
        let fault = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (fault, until) = fault?;
        let left = until.checked_duration_since(Instant::now())?;
        Some((fault, left))
    }
}

/// A source of chunks behind a link that can be at fault.
pub(crate) struct DrilledFetch {
    pub(crate) inner: Arc<dyn Fetch>,
    pub(crate) link: Arc<Drill<LinkFault>>,
}

impl DrilledFetch {
    /// Passes where the link lets a request through for this many bytes.
    async fn pass(&self, bytes: u64) -> SeamResult<()> {
        match self.link.now() {
            None => Ok(()),
            Some((LinkFault::Down, _)) => {
                let text = "a drill: nobody is there for a while";
                Err(SeamError::new(Trouble::Unavailable, text))
            }
            Some((
                LinkFault::Slow {
                    delay,
                    bytes_per_second,
                },
                left,
            )) => {
                let sending = Duration::from_secs_f64(bytes as f64 / bytes_per_second as f64);
                // The fault ends for what is under way too.
                tokio::time::sleep(delay.saturating_add(sending).min(left)).await;
                Ok(())
            }
        }
    }
}

impl Fetch for DrilledFetch {
    fn locate<'a>(
        &'a self,
        ids: &'a [ChunkId],
    ) -> BoxFuture<'a, SeamResult<Vec<Option<Location>>>> {
        Box::pin(async move {
            self.pass(QUESTION_BYTES).await?;
            self.inner.locate(ids).await
        })
    }

    fn read(&self, pack: PackId, offset: u64, len: u64) -> BoxFuture<'_, SeamResult<Vec<u8>>> {
        Box::pin(async move {
            self.pass(len).await?;
            self.inner.read(pack, offset, len).await
        })
    }
}

/// A disk that can be without room.
pub(crate) struct DrilledDisk {
    pub(crate) inner: Arc<dyn BlockDevice>,
    pub(crate) full: Arc<Drill<()>>,
}

impl DrilledDisk {
    fn room(&self) -> DeviceResult<()> {
        match self.full.now() {
            None => Ok(()),
            Some(_) => {
                let text = "a drill: it counts as full for a while";
                Err(DeviceError::NoSpace(text.into()))
            }
        }
    }
}

impl BlockDevice for DrilledDisk {
    fn size(&self) -> u64 {
        self.inner.size()
    }

    fn read<'a>(&'a self, offset: u64, buffer: &'a mut [u8]) -> BoxFuture<'a, DeviceResult<()>> {
        self.inner.read(offset, buffer)
    }

    fn write<'a>(&'a self, offset: u64, data: &'a [u8]) -> BoxFuture<'a, DeviceResult<()>> {
        match self.room() {
            Ok(()) => self.inner.write(offset, data),
            Err(error) => Box::pin(async { Err(error) }),
        }
    }

    fn zero(&self, offset: u64, len: u64) -> BoxFuture<'_, DeviceResult<()>> {
        match self.room() {
            Ok(()) => self.inner.zero(offset, len),
            Err(error) => Box::pin(async { Err(error) }),
        }
    }

    fn flush(&self) -> BoxFuture<'_, DeviceResult<()>> {
        self.inner.flush()
    }

    fn status(&self, offset: u64, len: u64) -> BoxFuture<'_, DeviceResult<Vec<BlockRun>>> {
        self.inner.status(offset, len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_over_at_its_deadline_and_when_it_is_ended() {
        let drill = Drill::default();
        assert_eq!(drill.now(), None);
        drill.begin(LinkFault::Down, Duration::from_secs(3600));
        assert_eq!(drill.now().map(|(fault, _)| fault), Some(LinkFault::Down));
        drill.end();
        assert_eq!(drill.now(), None);
        drill.begin(LinkFault::Down, Duration::ZERO);
        assert_eq!(drill.now(), None);
    }
}
