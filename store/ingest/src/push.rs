//! One push, from a source to a layer in a sink.

use std::thread::{self, ScopedJoinHandle};

use crossbeam_channel::{Sender, bounded, unbounded};
use shale_model::{
    Chunker, Content, EncodedPage, Entry, EntryError, LayerEncoder, LayerId, LayerRoot, RootEntry,
    Sink, TreePath,
};

use crate::cutter::{BATCH_BYTES, Cut, Cutter};
use crate::error::{PushError, SourceError};
use crate::packing::{
    Batch, BatchKind, BufferPool, ClosedPack, Selected, Selector, Writer, Written, close_packs,
    compress,
};
use crate::progress::{Progress, ProgressEvent};
use crate::source::{FileBytes, Run, Source, Visitor};

/// Batches that wait for the sink's answer. With the one that is filled, the one that is asked for, and
/// those that frames in flight lie in, some 30 MB.
const BATCHES_WAITING: usize = 2;

/// Packs that wait to be made durable while the next is written: their footers are in memory.
const PACKS_CLOSING: usize = 1;

/// Most threads that compress. Cutting and hashing, in one thread, keep no more than this busy.
const MAX_COMPRESSORS: usize = 8;

/// A finished push.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pushed {
    /// The layer, as the sink has it now.
    pub layer: LayerId,
    /// Its root.
    pub root: LayerRoot,
    /// What it took.
    pub stats: PushStats,
}

/// What a push read, found present, and wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PushStats {
    /// Bytes of file content that the source handed over, holes included.
    pub read_bytes: u64,
    /// Chunks, pages included, that the sink lacked.
    pub sent_chunks: u64,
    /// Their plain bytes.
    pub sent_chunk_bytes: u64,
    /// Packs written.
    pub packs: u64,
    /// Bytes of these packs.
    pub pack_bytes: u64,
}

/// Pushes all of `source` as one layer: cuts its files by `chunker`, sends what `sink` lacks, and stores
/// the layer root. Blocks until `sink` has made the layer durable.
///
/// Takes some 100 MB of memory at most, and what the source needs. Runs in threads of its own that end
/// before it returns; `progress` is called from them.
pub fn push_tree(
    source: &mut dyn Source,
    sink: &dyn Sink,
    chunker: Chunker,
    progress: &dyn Progress,
) -> Result<Pushed, PushError> {
    let (root, stats) = thread::scope(|scope| {
        let (send_batch, batches) = bounded(BATCHES_WAITING);
        // Tickets bound the frames in these two.
        let (send_frame, frames) = unbounded();
        let (send_packed, packed) = unbounded();
        let (send_closed, closed) = bounded::<ClosedPack<'_>>(PACKS_CLOSING);
        let selector = Selector::new(sink, progress, send_frame, send_packed.clone());
        let selector = scope.spawn(move || selector.run(batches));
        let threads = thread::available_parallelism().map_or(1, |n| n.get().min(MAX_COMPRESSORS));
        let compressors: Vec<_> = (0..threads)
            .map(|_| {
                let (frames, send_packed) = (frames.clone(), send_packed.clone());
                scope.spawn(move || compress(frames, send_packed))
            })
            .collect();
        drop((frames, send_packed));
        let writer = Writer::new(sink, progress, send_closed);
        let writer = scope.spawn(move || writer.run(packed));
        let closer = scope.spawn(move || close_packs(closed));
        let read = read(source, chunker, send_batch, progress);
        compressors.into_iter().for_each(join);
        finish(read, join(selector), join(writer), join(closer))
    })?;
    let layer = sink.put_layer(&root.encode())?;
    Ok(Pushed { layer, root, stats })
}

/// The result of a thread; its panic goes on in this one.
fn join<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    match thread.join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// The results of all stages as one: of their errors, the one that made the others fail.
fn finish(
    read: Result<(LayerRoot, u64), PushError>,
    selected: Result<Selected, PushError>,
    written: Result<Written, PushError>,
    closed: Result<(), PushError>,
) -> Result<(LayerRoot, PushStats), PushError> {
    let mut errors = Vec::new();
    let read = read.map_err(|error| errors.push(error));
    let selected = selected.map_err(|error| errors.push(error));
    let written = written.map_err(|error| errors.push(error));
    errors.extend(closed.err());
    let cause = errors
        .iter()
        .position(|error| !matches!(error, PushError::Interrupted));
    if !errors.is_empty() {
        return Err(errors.swap_remove(cause.unwrap_or(0)));
    }
    match (read, selected, written) {
        (Ok((root, read_bytes)), Ok(selected), Ok(written)) => {
            let stats = PushStats {
                read_bytes,
                sent_chunks: selected.missing,
                sent_chunk_bytes: selected.missing_bytes,
                packs: written.packs,
                pack_bytes: written.bytes,
            };
            Ok((root, stats))
        }
        _ => Err(PushError::Interrupted),
    }
}

/// Reads the source to its end; the layer's root and the bytes read.
fn read(
    source: &mut dyn Source,
    chunker: Chunker,
    batches: Sender<Option<Batch>>,
    progress: &dyn Progress,
) -> Result<(LayerRoot, u64), PushError> {
    let pool = BufferPool::default();
    let mut ingest = Ingest {
        cutter: Cutter::new(chunker, pool.take()),
        chunker,
        encoder: None,
        pages: Pages::default(),
        out: Batches { pool, batches },
        progress,
        read_bytes: 0,
    };
    source.visit(&mut ingest)?;
    ingest.finish()
}

/// Where batches go.
struct Batches {
    pool: BufferPool,
    batches: Sender<Option<Batch>>,
}

impl Batches {
    fn send(&self, kind: BatchKind, bytes: Vec<u8>, chunks: Vec<Cut>) -> Result<(), PushError> {
        let batch = Batch::new(kind, bytes, chunks, &self.pool);
        self.batches
            .send(Some(batch))
            .map_err(|_| PushError::Interrupted)
    }
}

/// Pages that wait to be sent together.
#[derive(Default)]
struct Pages {
    bytes: Vec<u8>,
    chunks: Vec<Cut>,
}

/// The visitor of a push: bytes to the cutter, entries to the encoder, batches onwards.
struct Ingest<'a> {
    cutter: Cutter,
    chunker: Chunker,
    /// Made with the first entry, because it begins with what the source says of the root.
    encoder: Option<LayerEncoder>,
    pages: Pages,
    out: Batches,
    progress: &'a dyn Progress,
    read_bytes: u64,
}

impl Ingest<'_> {
    /// Sends the batch if it is full.
    fn make_room(&mut self) -> Result<(), PushError> {
        match self.cutter.is_full() {
            true => self.send_content(),
            false => Ok(()),
        }
    }

    fn send_content(&mut self) -> Result<(), PushError> {
        match self.cutter.take_batch(|| self.out.pool.take()) {
            Some((bytes, cuts)) => self.out.send(BatchKind::Content, bytes, cuts),
            None => Ok(()),
        }
    }

    fn read_content(&mut self, bytes: &mut dyn FileBytes) -> Result<u64, PushError> {
        let mut size = 0u64;
        loop {
            self.make_room()?;
            match bytes.read(self.cutter.room())? {
                Run::End => return Ok(size),
                Run::Data(len) => {
                    self.cutter.filled(len);
                    size = size.saturating_add(len as u64);
                }
                Run::Zeros(len) => {
                    size = size.saturating_add(len);
                    let mut left = len;
                    while left > 0 {
                        self.make_room()?;
                        left -= self.cutter.zeros(left);
                    }
                }
            }
        }
    }

    fn add_pages(&mut self, pages: Vec<EncodedPage>) -> Result<(), PushError> {
        for page in pages {
            self.pages.chunks.push(Cut {
                id: page.id,
                start: self.pages.bytes.len(),
                len: page.bytes.len() as u32,
            });
            self.pages.bytes.extend_from_slice(&page.bytes);
            if self.pages.bytes.len() >= BATCH_BYTES {
                self.send_pages()?;
            }
        }
        Ok(())
    }

    fn send_pages(&mut self) -> Result<(), PushError> {
        let pages = std::mem::take(&mut self.pages);
        match pages.chunks.is_empty() {
            true => Ok(()),
            false => self.out.send(BatchKind::Pages, pages.bytes, pages.chunks),
        }
    }

    fn finish(mut self) -> Result<(LayerRoot, u64), PushError> {
        self.send_content()?;
        let encoder = self.encoder.take();
        let encoder = encoder.unwrap_or_else(|| LayerEncoder::new(self.chunker, None));
        let (last, root) = encoder.finish();
        self.add_pages(last.into_iter().collect())?;
        self.send_pages()?;
        let end = self.out.batches.send(None);
        end.map_err(|_| PushError::Interrupted)?;
        Ok((root, self.read_bytes))
    }
}

impl Visitor for Ingest<'_> {
    fn root(&mut self, root: RootEntry) -> Result<(), PushError> {
        self.encoder = Some(LayerEncoder::new(self.chunker, Some(root)));
        Ok(())
    }

    fn content(
        &mut self,
        path: &TreePath,
        bytes: &mut dyn FileBytes,
    ) -> Result<Content, PushError> {
        let size = self.read_content(bytes)?;
        let (extents, repeated) = self.cutter.end_file();
        self.read_bytes = self.read_bytes.saturating_add(size);
        self.progress.report(ProgressEvent::Read { bytes: size });
        if repeated.chunks > 0 {
            let (chunks, bytes) = (repeated.chunks, repeated.bytes);
            self.progress
                .report(ProgressEvent::Present { chunks, bytes });
        }
        Content::new(extents).map_err(|source: EntryError| {
            let path = std::path::PathBuf::from(path.to_string());
            SourceError::Entry { path, source }.into()
        })
    }

    fn entry(&mut self, dir: &TreePath, entry: Entry) -> Result<(), PushError> {
        let chunker = self.chunker;
        let encoder = self
            .encoder
            .get_or_insert_with(|| LayerEncoder::new(chunker, None));
        let pages = encoder.push(dir, &entry)?;
        self.progress.report(ProgressEvent::Entry);
        self.add_pages(pages)
    }
}
