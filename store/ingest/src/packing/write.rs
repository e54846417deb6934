//! Writes packs: frames in order, hashed on the way.

use std::collections::BTreeMap;

use crossbeam_channel::{Receiver, Sender};
use sha2::{Digest, Sha256};
use shale_model::{PackContents, PackId, PackWriter, Sink, pack_header};

use super::batch::BatchKind;
use super::frame::{Message, Packed};
use crate::error::PushError;
use crate::progress::{Progress, ProgressEvent};

/// A pack is closed once it has this many bytes, 64 MiB: large enough that a template of 60 GiB needs less
/// than 1,000, small enough to send again.
const PACK_TARGET_BYTES: u64 = 64 * 1024 * 1024;

/// A pack is closed once it has this many chunks: its footer has 3 MiB then. It is in memory several times: of the
/// pack that is written, of those that are made durable, and as a batch of the index.
const PACK_TARGET_CHUNKS: usize = 64 * 1024;

/// Pages of the layer lie together after the content. Beyond this many stored bytes those that wait are
/// written where they are: the pages of some 400,000 entries wait.
const MAX_WAITING_PAGE_BYTES: usize = 16 * 1024 * 1024;

/// What was written.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Written {
    /// Packs.
    pub(crate) packs: u64,
    /// Their bytes.
    pub(crate) bytes: u64,
}

/// A pack that has all its bytes and is to be made durable.
pub(crate) struct ClosedPack<'a> {
    writer: Box<dyn PackWriter + 'a>,
    id: PackId,
    contents: PackContents,
}

/// Runs until `closed` ends: the sink makes packs durable while the next is written.
pub(crate) fn close_packs(closed: Receiver<ClosedPack<'_>>) -> Result<(), PushError> {
    for pack in closed {
        pack.writer.finish(pack.id, pack.contents)?;
    }
    Ok(())
}

struct OpenPack<'a> {
    writer: Box<dyn PackWriter + 'a>,
    hasher: Sha256,
    contents: PackContents,
}

/// Writes packs into a sink.
pub(crate) struct Writer<'a> {
    sink: &'a dyn Sink,
    progress: &'a dyn Progress,
    closed: Sender<ClosedPack<'a>>,
    open: Option<OpenPack<'a>>,
    pages: Vec<Packed>,
    page_bytes: usize,
    written: Written,
}

impl<'a> Writer<'a> {
    /// A writer that hands finished packs to `closed`.
    pub(crate) fn new(
        sink: &'a dyn Sink,
        progress: &'a dyn Progress,
        closed: Sender<ClosedPack<'a>>,
    ) -> Self {
        Self {
            sink,
            progress,
            closed,
            open: None,
            pages: Vec::new(),
            page_bytes: 0,
            written: Written::default(),
        }
    }

    /// Runs until all frames that the end mark of `packed` counts are written.
    pub(crate) fn run(mut self, packed: Receiver<Message>) -> Result<Written, PushError> {
        // Frames that came before their turn; tickets bound how many.
        let mut early = BTreeMap::new();
        let mut next = 0;
        let mut end = None;
        while end != Some(next) {
            match packed.recv().map_err(|_| PushError::Interrupted)? {
                Message::Failed(error) => return Err(error),
                Message::End(frames) => end = Some(frames),
                Message::Packed(frame, ticket) => {
                    early.insert(frame.number, (frame, ticket));
                }
            }
            while let Some((frame, ticket)) = early.remove(&next) {
                self.take(frame)?;
                drop(ticket);
                next += 1;
            }
        }
        self.write_pages()?;
        self.close()?;
        Ok(self.written)
    }

    fn take(&mut self, frame: Packed) -> Result<(), PushError> {
        match frame.kind {
            BatchKind::Content => self.write(&frame),
            BatchKind::Pages => {
                self.page_bytes += frame.stored.len();
                self.pages.push(frame);
                match self.page_bytes > MAX_WAITING_PAGE_BYTES {
                    true => self.write_pages(),
                    false => Ok(()),
                }
            }
        }
    }

    fn write_pages(&mut self) -> Result<(), PushError> {
        self.page_bytes = 0;
        for page in std::mem::take(&mut self.pages) {
            self.write(&page)?;
        }
        Ok(())
    }

    fn write(&mut self, frame: &Packed) -> Result<(), PushError> {
        if self.open.is_none() {
            self.open = Some(OpenPack {
                writer: self.sink.new_pack()?,
                hasher: Sha256::new(),
                contents: PackContents::default(),
            });
            self.append(&pack_header())?;
        }
        self.append(&frame.stored)?;
        let Some(open) = &mut self.open else {
            return Ok(());
        };
        let stored = frame.stored.len() as u32;
        open.contents.push_frame(frame.codec, stored, &frame.chunks);
        let is_full = open.contents.frames_end() >= PACK_TARGET_BYTES
            || open.contents.chunks().len() >= PACK_TARGET_CHUNKS;
        match is_full {
            true => self.close(),
            false => Ok(()),
        }
    }

    /// Appends bytes to the open pack.
    fn append(&mut self, bytes: &[u8]) -> Result<(), PushError> {
        if let Some(open) = &mut self.open {
            open.hasher.update(bytes);
            open.writer.write(bytes)?;
            let bytes = bytes.len() as u64;
            self.written.bytes += bytes;
            self.progress.report(ProgressEvent::Sent { bytes });
        }
        Ok(())
    }

    /// Ends the open pack, if there is one.
    fn close(&mut self) -> Result<(), PushError> {
        let Some(open) = &self.open else {
            return Ok(());
        };
        let tail = open.contents.encode_tail();
        self.append(&tail)?;
        let Some(open) = self.open.take() else {
            return Ok(());
        };
        self.written.packs += 1;
        let closed = ClosedPack {
            writer: open.writer,
            id: PackId::from_bytes(open.hasher.finalize().into()),
            contents: open.contents,
        };
        self.closed.send(closed).map_err(|_| PushError::Interrupted)
    }
}
