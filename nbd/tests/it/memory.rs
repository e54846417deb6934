//! The in-memory twin of a disk: a byte vector with 4 KiB allocation units, a log of calls, and faults.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use shale_model::{BlockDevice, BlockRun, BoxFuture, DeviceError, DeviceResult};
use tokio::sync::Semaphore;

/// Bytes of one allocation unit.
pub(crate) const UNIT: usize = 4096;

/// One call of the device, as it began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Call {
    Read(u64, usize),
    Write(u64, usize),
    Zero(u64, u64),
    Flush,
    Status(u64, u64),
}

/// What a call does that touches a faulty range.
#[derive(Debug, Clone)]
pub(crate) enum Fault {
    /// It waits until [`Memory::release`] lets one go.
    Hold,
    Fail(DeviceError),
    Panic,
}

#[derive(Default)]
struct State {
    bytes: Vec<u8>,
    allocated: Vec<bool>,
    calls: Vec<Call>,
    faults: Vec<(Range<u64>, Fault)>,
}

/// The disk.
pub(crate) struct Memory {
    size: u64,
    state: Mutex<State>,
    gate: Semaphore,
    /// Calls that began and neither ended nor were dropped.
    open: AtomicUsize,
}

struct OpenCall<'a>(&'a Memory);

impl Drop for OpenCall<'_> {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Memory {
    pub(crate) fn new(size: usize) -> Arc<Self> {
        let state = State {
            bytes: vec![0; size],
            allocated: vec![false; size.div_ceil(UNIT)],
            ..State::default()
        };
        Arc::new(Self {
            size: size as u64,
            state: Mutex::new(state),
            gate: Semaphore::new(0),
            open: AtomicUsize::new(0),
        })
    }

    /// Some units of bytes that no other unit has, and holes between them.
    pub(crate) fn patterned(size: usize) -> Arc<Self> {
        let memory = Self::new(size);
        for unit in (0..size / UNIT).filter(|unit| unit % 7 < 3 && unit / 64 % 2 == 0) {
            let data: Vec<u8> = (0..UNIT)
                .map(|i| (i / 8 * (unit + 1) + i + unit) as u8)
                .collect();
            memory.fill(unit * UNIT, &data);
        }
        memory
    }

    pub(crate) fn fill(&self, offset: usize, data: &[u8]) {
        let mut state = self.state();
        let end = offset + data.len();
        state.bytes[offset..end].copy_from_slice(data);
        state.allocated[offset / UNIT..end.div_ceil(UNIT)].fill(true);
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.state().bytes.clone()
    }

    pub(crate) fn is_allocated(&self, offset: usize) -> bool {
        self.state().allocated[offset / UNIT]
    }

    /// The calls since this was asked last.
    pub(crate) fn calls(&self) -> Vec<Call> {
        std::mem::take(&mut self.state().calls)
    }

    pub(crate) fn open_calls(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }

    pub(crate) fn fault(&self, range: Range<u64>, fault: Fault) {
        self.state().faults.push((range, fault));
    }

    /// Lets `count` held calls go, now or when they come.
    pub(crate) fn release(&self, count: usize) {
        self.gate.add_permits(count);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    async fn begin(&self, call: Call, range: Range<u64>) -> DeviceResult<OpenCall<'_>> {
        self.open.fetch_add(1, Ordering::SeqCst);
        let open = OpenCall(self);
        assert!(range.end <= self.size, "{call:?} reaches beyond the disk");
        let fault = {
            let mut state = self.state();
            state.calls.push(call);
            let mut faults = state.faults.iter();
            faults
                .find(|(faulty, _)| faulty.start < range.end && range.start < faulty.end)
                .map(|(_, fault)| fault.clone())
        };
        match fault {
            None => Ok(open),
            Some(Fault::Hold) => {
                self.gate.acquire().await.unwrap().forget();
                Ok(open)
            }
            Some(Fault::Fail(error)) => Err(error),
            Some(Fault::Panic) => panic!("as the test wants"),
        }
    }
}

impl BlockDevice for Memory {
    fn size(&self) -> u64 {
        self.size
    }

    fn read<'a>(&'a self, offset: u64, buffer: &'a mut [u8]) -> BoxFuture<'a, DeviceResult<()>> {
        Box::pin(async move {
            let end = offset + buffer.len() as u64;
            let _open = self
                .begin(Call::Read(offset, buffer.len()), offset..end)
                .await?;
            buffer.copy_from_slice(&self.state().bytes[offset as usize..end as usize]);
            Ok(())
        })
    }

    fn write<'a>(&'a self, offset: u64, data: &'a [u8]) -> BoxFuture<'a, DeviceResult<()>> {
        Box::pin(async move {
            let end = offset + data.len() as u64;
            let _open = self
                .begin(Call::Write(offset, data.len()), offset..end)
                .await?;
            self.fill(offset as usize, data);
            Ok(())
        })
    }

    fn zero(&self, offset: u64, len: u64) -> BoxFuture<'_, DeviceResult<()>> {
        Box::pin(async move {
            let end = offset + len;
            let _open = self.begin(Call::Zero(offset, len), offset..end).await?;
            let mut state = self.state();
            let (start, end) = (offset as usize, end as usize);
            state.bytes[start..end].fill(0);
            // Only whole units become holes.
            let units = start.div_ceil(UNIT)..end / UNIT;
            if units.start < units.end {
                state.allocated[units].fill(false);
            }
            Ok(())
        })
    }

    fn flush(&self) -> BoxFuture<'_, DeviceResult<()>> {
        Box::pin(async move { self.begin(Call::Flush, 0..0).await.map(drop) })
    }

    fn status(&self, offset: u64, len: u64) -> BoxFuture<'_, DeviceResult<Vec<BlockRun>>> {
        Box::pin(async move {
            let end = offset + len;
            let _open = self.begin(Call::Status(offset, len), offset..end).await?;
            let state = self.state();
            let mut at = offset;
            let mut runs = Vec::new();
            while at < end {
                let unit = at as usize / UNIT;
                let next = ((unit + 1) * UNIT) as u64;
                runs.push(BlockRun {
                    len: next.min(end) - at,
                    zero: !state.allocated[unit],
                });
                at = next;
            }
            Ok(runs)
        })
    }
}
