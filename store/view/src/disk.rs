//! A disk: a view, and on top of it what the guest wrote.

use std::ops::Range;
use std::sync::Arc;

use shale_model::{BlockDevice, BlockRun, BoxFuture, DeviceError, DeviceResult};

use crate::overlay::{Overlay, OverlayError, UNIT_BYTES};
use crate::view::View;

/// Most bytes that one answer about zeros covers; clients ask again for the rest. Bounds the answer to 16,384
/// runs.
const STATUS_BYTES: u64 = 64 << 20;

/// What a face shows: a read-only view, or a view under an overlay.
///
/// With an overlay, the disk has the overlay's size: what lies behind the end of the view is zeros.
pub struct Disk {
    view: Arc<View>,
    overlay: Option<Arc<Overlay>>,
}

impl Disk {
    /// The view itself; writes fail with [`DeviceError::ReadOnly`].
    pub fn read_only(view: Arc<View>) -> Self {
        let overlay = None;
        Self { view, overlay }
    }

    /// The view with the writes in `overlay`, which was opened over its plan.
    pub fn writable(view: Arc<View>, overlay: Arc<Overlay>) -> Self {
        let overlay = Some(overlay);
        Self { view, overlay }
    }

    fn overlay(&self) -> DeviceResult<&Arc<Overlay>> {
        self.overlay.as_ref().ok_or(DeviceError::ReadOnly)
    }

    /// Reads from the view; zeros behind its end.
    async fn read_base(&self, offset: u64, buffer: &mut [u8]) -> DeviceResult<()> {
        let inside = self
            .view
            .size()
            .saturating_sub(offset)
            .min(buffer.len() as u64);
        let (inside, behind) = buffer.split_at_mut(inside as usize);
        behind.fill(0);
        match inside.is_empty() {
            true => Ok(()),
            false => self.view.read(offset, inside).await,
        }
    }

    async fn read_at(&self, offset: u64, buffer: &mut [u8]) -> DeviceResult<()> {
        let Some(overlay) = &self.overlay else {
            return self.read_base(offset, buffer).await;
        };
        for (range, here) in overlay.runs(offset, buffer.len() as u64) {
            let part = &mut buffer[(range.start - offset) as usize..(range.end - offset) as usize];
            match here {
                true => overlay.read(range.start, part).map_err(device_error)?,
                false => self.read_base(range.start, part).await?,
            }
        }
        Ok(())
    }

    async fn write_at(&self, offset: u64, data: &[u8]) -> DeviceResult<()> {
        let overlay = self.overlay()?;
        for (range, whole) in whole_units(offset, data.len() as u64) {
            let part = &data[(range.start - offset) as usize..(range.end - offset) as usize];
            if !whole {
                self.fill(range.start / UNIT_BYTES).await?;
            }
            overlay.write(range.start, part).map_err(device_error)?;
        }
        Ok(())
    }

    async fn zero_at(&self, offset: u64, len: u64) -> DeviceResult<()> {
        let overlay = self.overlay()?;
        for (range, whole) in whole_units(offset, len) {
            let zero =
                |start: u64, end: u64| overlay.zero(start, end - start).map_err(device_error);
            if !whole {
                self.fill(range.start / UNIT_BYTES).await?;
                zero(range.start, range.end)?;
                continue;
            }
            // What is zeros below and was never written stays so: a guest that discards its whole
            // disk must not fill the bitmap.
            for (run, zero_below) in self.zero_runs(range.start, range.end - range.start)? {
                for (part, here) in overlay.runs(run.start, run.end - run.start) {
                    if here || !zero_below {
                        zero(part.start, part.end)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Whole units from `offset`, cut where the view changes between zeros and anything else.
    fn zero_runs(&self, offset: u64, len: u64) -> DeviceResult<Vec<(Range<u64>, bool)>> {
        let mut runs = Vec::new();
        let mut at = offset;
        for run in self.base_status(offset, len)? {
            runs.push((at..at + run.len, run.zero));
            at += run.len;
        }
        Ok(runs)
    }

    /// Makes sure that the unit is in the overlay, taking its bytes from below.
    async fn fill(&self, unit: u64) -> DeviceResult<()> {
        let overlay = self.overlay()?;
        if overlay.contains(unit) {
            return Ok(());
        }
        let start = unit * UNIT_BYTES;
        let mut below = vec![0; UNIT_BYTES.min(overlay.disk_bytes() - start) as usize];
        self.read_base(start, &mut below).await?;
        overlay.fill(unit, &below).map_err(device_error)
    }

    fn base_status(&self, offset: u64, len: u64) -> DeviceResult<Vec<BlockRun>> {
        let inside = self.view.size().saturating_sub(offset).min(len);
        let mut runs = match inside {
            0 => Vec::new(),
            _ => self.view.status(offset, inside)?,
        };
        let behind = len - inside;
        match runs.last_mut() {
            _ if behind == 0 => {}
            Some(last) if last.zero => last.len += behind,
            _ => runs.push(BlockRun {
                len: behind,
                zero: true,
            }),
        }
        Ok(runs)
    }

    fn status_at(&self, offset: u64, len: u64) -> DeviceResult<Vec<BlockRun>> {
        let Some(overlay) = &self.overlay else {
            return self.base_status(offset, len);
        };
        let mut runs: Vec<BlockRun> = Vec::new();
        let mut add = |run: BlockRun| match runs.last_mut() {
            Some(last) if last.zero == run.zero => last.len += run.len,
            _ => runs.push(run),
        };
        for (range, here) in overlay.runs(offset, len) {
            let len = range.end - range.start;
            match here {
                true => add(BlockRun { len, zero: false }),
                false => self
                    .base_status(range.start, len)?
                    .into_iter()
                    .for_each(&mut add),
            }
        }
        Ok(runs)
    }
}

impl BlockDevice for Disk {
    fn size(&self) -> u64 {
        let overlay = self.overlay.as_ref();
        overlay.map_or_else(|| self.view.size(), |overlay| overlay.disk_bytes())
    }

    fn read<'a>(&'a self, offset: u64, buffer: &'a mut [u8]) -> BoxFuture<'a, DeviceResult<()>> {
        Box::pin(self.read_at(offset, buffer))
    }

    fn write<'a>(&'a self, offset: u64, data: &'a [u8]) -> BoxFuture<'a, DeviceResult<()>> {
        Box::pin(self.write_at(offset, data))
    }

    fn zero(&self, offset: u64, len: u64) -> BoxFuture<'_, DeviceResult<()>> {
        Box::pin(self.zero_at(offset, len))
    }

    fn flush(&self) -> BoxFuture<'_, DeviceResult<()>> {
        Box::pin(async move {
            let Some(overlay) = self.overlay.clone() else {
                return Ok(());
            };
            let flushed = tokio::task::spawn_blocking(move || overlay.flush()).await;
            let lost = |_| DeviceError::Io("the flush was interrupted".into());
            flushed.map_err(lost)?.map_err(device_error)
        })
    }

    fn status(&self, offset: u64, len: u64) -> BoxFuture<'_, DeviceResult<Vec<BlockRun>>> {
        Box::pin(async move { self.status_at(offset, len.min(STATUS_BYTES)) })
    }
}

/// Cuts a range into its whole units (`true`) and the parts of units at its ends.
fn whole_units(offset: u64, len: u64) -> Vec<(Range<u64>, bool)> {
    let end = offset + len;
    let first = offset.next_multiple_of(UNIT_BYTES).min(end);
    let last = (end / UNIT_BYTES * UNIT_BYTES).max(first);
    let parts = [
        (offset..first, false),
        (first..last, true),
        (last..end, false),
    ];
    parts
        .into_iter()
        .filter(|(range, _)| range.start < range.end)
        .collect()
}

fn device_error(error: OverlayError) -> DeviceError {
    match error.is_full() {
        true => DeviceError::NoSpace(error.to_string()),
        false => DeviceError::below(error),
    }
}
