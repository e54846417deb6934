//! Asks the sink what it lacks, and makes frames of that.

use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender};
use shale_model::{ChunkId, MAX_MISSING_IDS, SeamError, Sink, Trouble};

use super::batch::{Batch, BatchKind};
use super::frame::{Frame, Message, OpenFrame, Tickets, tickets};
use crate::error::PushError;
use crate::progress::{Progress, ProgressEvent};

/// What selection counted.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Selected {
    /// Chunks that the sink lacked.
    pub(crate) missing: u64,
    /// Their plain bytes.
    pub(crate) missing_bytes: u64,
}

/// Makes frames of what the sink lacks.
pub(crate) struct Selector<'a> {
    sink: &'a dyn Sink,
    progress: &'a dyn Progress,
    frames: Sender<Frame>,
    packed: Sender<Message>,
    tickets: Tickets,
    content: OpenFrame,
    pages: OpenFrame,
    counts: Counts,
}

#[derive(Default)]
struct Counts {
    frames: u64,
    selected: Selected,
}

impl<'a> Selector<'a> {
    /// A selector that sends frames to the compressors, and their number to the writer, `packed`.
    pub(crate) fn new(
        sink: &'a dyn Sink,
        progress: &'a dyn Progress,
        frames: Sender<Frame>,
        packed: Sender<Message>,
    ) -> Self {
        Self {
            sink,
            progress,
            frames,
            packed,
            tickets: tickets(),
            content: OpenFrame::default(),
            pages: OpenFrame::default(),
            counts: Counts::default(),
        }
    }

    /// Runs until the end mark of `batches`.
    pub(crate) fn run(mut self, batches: Receiver<Option<Batch>>) -> Result<Selected, PushError> {
        while let Some(batch) = batches.recv().map_err(|_| PushError::Interrupted)? {
            self.select(&Arc::new(batch))?;
        }
        self.end_frame(BatchKind::Content)?;
        self.end_frame(BatchKind::Pages)?;
        let end = Message::End(self.counts.frames);
        self.packed.send(end).map_err(|_| PushError::Interrupted)?;
        Ok(self.counts.selected)
    }

    fn select(&mut self, batch: &Arc<Batch>) -> Result<(), PushError> {
        let ids: Vec<ChunkId> = batch.chunks.iter().map(|cut| cut.id).collect();
        let mut present = (0, 0);
        for (part, ids) in ids.chunks(MAX_MISSING_IDS).enumerate() {
            let missing = self.sink.missing(ids)?;
            if missing.len() != ids.len() {
                let action = "ask which chunks are missing: not one answer for each";
                return Err(SeamError::new(Trouble::Failed, action).into());
            }
            for (at, missing) in missing.into_iter().enumerate() {
                let at = part * MAX_MISSING_IDS + at;
                let len = u64::from(batch.chunks[at].len);
                if !missing {
                    present = (present.0 + 1, present.1 + len);
                    continue;
                }
                self.counts.selected.missing += 1;
                self.counts.selected.missing_bytes += len;
                if self.open(batch.kind).push(batch, at) {
                    self.end_frame(batch.kind)?;
                }
            }
        }
        self.open(batch.kind).let_go();
        let (chunks, bytes) = present;
        if chunks > 0 {
            self.progress
                .report(ProgressEvent::Present { chunks, bytes });
        }
        Ok(())
    }

    fn open(&mut self, kind: BatchKind) -> &mut OpenFrame {
        match kind {
            BatchKind::Content => &mut self.content,
            BatchKind::Pages => &mut self.pages,
        }
    }

    fn end_frame(&mut self, kind: BatchKind) -> Result<(), PushError> {
        let Some((plain, chunks)) = self.open(kind).take() else {
            return Ok(());
        };
        let ticket = self.tickets.take()?;
        let number = self.counts.frames;
        self.counts.frames += 1;
        let frame = Frame {
            kind,
            number,
            plain,
            chunks,
            ticket,
        };
        self.frames.send(frame).map_err(|_| PushError::Interrupted)
    }
}
