//! A source's entries as a layer in memory, its content as chunks of one run each.

use std::collections::HashMap;

use anyhow::Result;
use shale_ingest::{FileBytes, PushError, Run, Source, SourceError, Visitor};
use shale_model::{ChunkId, Content, Entry, Extent, LayerDir, RootEntry, TreeLayer, TreePath};

/// The bytes of every chunk that a test made or met.
pub(crate) type Chunks = HashMap<ChunkId, Vec<u8>>;

/// The layer that `source` is; the bytes of its files go to `chunks`. Files are small: a run is one chunk.
pub(crate) fn collect(source: &mut dyn Source, chunks: &mut Chunks) -> Result<TreeLayer> {
    let layer = TreeLayer::default();
    let mut collector = Collector { layer, chunks };
    source.visit(&mut collector)?;
    Ok(collector.layer)
}

struct Collector<'a> {
    layer: TreeLayer,
    chunks: &'a mut Chunks,
}

impl Visitor for Collector<'_> {
    fn root(&mut self, root: RootEntry) -> Result<(), PushError> {
        self.layer.root = Some(root);
        Ok(())
    }

    fn content(
        &mut self,
        path: &TreePath,
        bytes: &mut dyn FileBytes,
    ) -> Result<Content, PushError> {
        let mut extents = Vec::new();
        let mut buffer = vec![0; 1 << 16];
        let mut data = Vec::new();
        let mut hole = 0;
        loop {
            let run = bytes.read(&mut buffer)?;
            if hole > 0 && !matches!(run, Run::Zeros(_)) {
                extents.push(Extent::Hole { len: hole });
                hole = 0;
            }
            if !data.is_empty() && !matches!(run, Run::Data(_)) {
                extents.push(chunk(self.chunks, std::mem::take(&mut data)));
            }
            match run {
                Run::Data(len) => data.extend_from_slice(&buffer[..len]),
                Run::Zeros(len) => hole += len,
                Run::End => break,
            }
        }
        Content::new(extents).map_err(|source| {
            let path = path.to_string().into();
            SourceError::Entry { path, source }.into()
        })
    }

    fn entry(&mut self, dir: &TreePath, entry: Entry) -> Result<(), PushError> {
        match self.layer.dirs.last_mut().filter(|last| last.path == *dir) {
            Some(last) => last.entries.push(entry),
            None => self.layer.dirs.push(LayerDir {
                path: dir.clone(),
                entries: vec![entry],
            }),
        }
        Ok(())
    }
}

/// One chunk of `bytes`, of which there is at least one.
pub(super) fn chunk(chunks: &mut Chunks, bytes: Vec<u8>) -> Extent {
    let (id, len) = (ChunkId::of(&bytes), bytes.len() as u32);
    chunks.insert(id, bytes);
    Extent::Chunk { id, len }
}
