//! Frames on their way: plain, not yet gathered from their batches; then packed.

use std::ops::Range;
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, bounded};
use shale_model::limits::FRAME_TARGET_BYTES;
use shale_model::{ChunkId, Codec};

use super::batch::{Batch, BatchKind};
use crate::error::PushError;

/// Most frames between selection and writing: some 20 MB of plain and stored bytes.
const FRAMES_IN_FLIGHT: usize = 48;

/// The right to have a frame in flight; given back when dropped.
#[derive(Debug)]
pub(crate) struct Ticket(Sender<()>);

impl Drop for Ticket {
    fn drop(&mut self) {
        // Fails only when nobody takes tickets any more.
        let _ = self.0.send(());
    }
}

/// All tickets of a push.
#[derive(Debug)]
pub(crate) struct Tickets {
    give: Sender<()>,
    take: Receiver<()>,
}

/// As many tickets as frames may be in flight.
pub(crate) fn tickets() -> Tickets {
    let (give, take) = bounded(FRAMES_IN_FLIGHT);
    for _ in 0..FRAMES_IN_FLIGHT {
        // The channel holds exactly this many.
        let _ = give.send(());
    }
    Tickets { give, take }
}

impl Tickets {
    /// Waits for a ticket.
    pub(crate) fn take(&self) -> Result<Ticket, PushError> {
        self.take.recv().map_err(|_| PushError::Interrupted)?;
        Ok(Ticket(self.give.clone()))
    }
}

/// A frame to be compressed.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) kind: BatchKind,
    /// Its place in the order of all frames, from 0.
    pub(crate) number: u64,
    pub(crate) plain: FrameBytes,
    pub(crate) chunks: Vec<(ChunkId, u32)>,
    pub(crate) ticket: Ticket,
}

/// A compressed frame.
#[derive(Debug)]
pub(crate) struct Packed {
    pub(crate) kind: BatchKind,
    pub(crate) number: u64,
    pub(crate) codec: Codec,
    pub(crate) stored: Vec<u8>,
    pub(crate) chunks: Vec<(ChunkId, u32)>,
}

/// What the writer is told.
#[derive(Debug)]
pub(crate) enum Message {
    /// A frame, in any order; its ticket is given back once it is written.
    Packed(Packed, Ticket),
    /// There are this many frames, and no more.
    End(u64),
    /// A frame could not be made.
    Failed(PushError),
}

/// Plain bytes of a frame: some of their own, then parts of one batch.
#[derive(Debug, Default)]
pub(crate) struct FrameBytes {
    own: Vec<u8>,
    batch: Option<Arc<Batch>>,
    parts: Vec<Range<usize>>,
}

impl FrameBytes {
    /// Makes the bytes contiguous, in `space` where they are not, and hands them to `then`.
    pub(crate) fn with<T>(&self, space: &mut Vec<u8>, then: impl FnOnce(&[u8]) -> T) -> T {
        let batch = self.batch.as_ref().map_or(&[][..], |batch| &batch.bytes);
        if let (true, [part]) = (self.own.is_empty(), &self.parts[..]) {
            return then(&batch[part.clone()]);
        }
        space.clear();
        space.extend_from_slice(&self.own);
        for part in &self.parts {
            space.extend_from_slice(&batch[part.clone()]);
        }
        then(space)
    }

    fn push(&mut self, batch: &Arc<Batch>, part: Range<usize>) {
        if self.batch.is_none() {
            self.batch = Some(batch.clone());
        }
        match self.parts.last_mut() {
            Some(last) if last.end == part.start => last.end = part.end,
            _ => self.parts.push(part),
        }
    }

    /// Copies what lies in the batch, so that an unfinished frame does not keep it.
    fn let_go(&mut self) {
        if let Some(batch) = self.batch.take() {
            for part in self.parts.drain(..) {
                self.own.extend_from_slice(&batch.bytes[part]);
            }
        }
    }
}

/// A frame that chunks are added to, until it has [`FRAME_TARGET_BYTES`].
#[derive(Debug, Default)]
pub(crate) struct OpenFrame {
    plain: FrameBytes,
    len: usize,
    chunks: Vec<(ChunkId, u32)>,
}

impl OpenFrame {
    /// Adds chunk number `at` of `batch`; whether the frame is complete.
    pub(crate) fn push(&mut self, batch: &Arc<Batch>, at: usize) -> bool {
        let cut = &batch.chunks[at];
        let end = cut.start + cut.len as usize;
        self.plain.push(batch, cut.start..end);
        self.chunks.push((cut.id, cut.len));
        self.len += cut.len as usize;
        self.len >= FRAME_TARGET_BYTES
    }

    /// Ends a batch that the frame has parts of.
    pub(crate) fn let_go(&mut self) {
        self.plain.let_go();
    }

    /// The bytes and chunks, unless there are none; the frame is empty afterwards.
    pub(crate) fn take(&mut self) -> Option<(FrameBytes, Vec<(ChunkId, u32)>)> {
        let taken = std::mem::take(self);
        (!taken.chunks.is_empty()).then_some((taken.plain, taken.chunks))
    }
}
