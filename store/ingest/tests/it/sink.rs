//! A sink in memory that believes nothing.

use std::collections::HashMap;
use std::sync::Mutex;

use sha2::{Digest, Sha256};
use shale_ingest::{PushError, Pushed, Source, push_tree};
use shale_model::*;

/// What a sink is to fail at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fail {
    Nowhere,
    Missing,
    NewPack,
    Write,
    Finish,
    PutLayer,
}

pub(crate) struct MemorySink {
    pub(crate) fail: Fail,
    chunks: Mutex<HashMap<ChunkId, Vec<u8>>>,
    packs: Mutex<Vec<(PackId, PackContents)>>,
}

struct MemoryPack<'a> {
    sink: &'a MemorySink,
    bytes: Vec<u8>,
}

impl MemorySink {
    pub(crate) fn new() -> Self {
        Self {
            fail: Fail::Nowhere,
            chunks: Mutex::default(),
            packs: Mutex::default(),
        }
    }

    pub(crate) fn packs(&self) -> Vec<(PackId, PackContents)> {
        self.packs.lock().unwrap().clone()
    }

    /// The entries of a layer that was pushed here.
    pub(crate) fn layer(&self, root: &LayerRoot) -> TreeLayer {
        let chunks = self.chunks.lock().unwrap();
        let pages = root.pages.iter().map(|page| &chunks[&page.id][..]);
        LayerDecoder::decode(root, pages).unwrap()
    }

    /// The bytes of a file.
    pub(crate) fn bytes(&self, content: &Content) -> Vec<u8> {
        let chunks = self.chunks.lock().unwrap();
        let mut bytes = Vec::new();
        for extent in content.extents() {
            match extent {
                Extent::Chunk { id, .. } => bytes.extend_from_slice(&chunks[id]),
                Extent::Hole { len } => bytes.resize(bytes.len() + *len as usize, 0),
            }
        }
        bytes
    }

    fn failing(&self, at: Fail) -> SeamResult<()> {
        match self.fail == at {
            true => Err(SeamError::new(Trouble::NoSpace, format!("{at:?}"))),
            false => Ok(()),
        }
    }
}

impl Sink for MemorySink {
    fn missing(&self, ids: &[ChunkId]) -> SeamResult<Vec<bool>> {
        self.failing(Fail::Missing)?;
        assert!(ids.len() <= MAX_MISSING_IDS);
        let chunks = self.chunks.lock().unwrap();
        Ok(ids.iter().map(|id| !chunks.contains_key(id)).collect())
    }

    fn new_pack(&self) -> SeamResult<Box<dyn PackWriter + '_>> {
        self.failing(Fail::NewPack)?;
        let bytes = Vec::new();
        Ok(Box::new(MemoryPack { sink: self, bytes }))
    }

    fn put_layer(&self, root: &[u8]) -> SeamResult<LayerId> {
        self.failing(Fail::PutLayer)?;
        let decoded = LayerRoot::decode(root).unwrap();
        let layer = self.layer(&decoded);
        let chunks = self.chunks.lock().unwrap();
        for (id, len) in layer.chunks() {
            assert_eq!(chunks[&id].len(), len as usize);
        }
        Ok(LayerId::of(root))
    }

    fn put_template(&self, _: &[u8]) -> SeamResult<TemplateId> {
        unreachable!("a push of a layer makes no template")
    }

    fn set_ref(&self, _: &RefName, _: Option<&TemplateIndex>, _: &TemplateIndex) -> SeamResult<()> {
        unreachable!("a push of a layer sets no reference")
    }
}

impl PackWriter for MemoryPack<'_> {
    fn write(&mut self, bytes: &[u8]) -> SeamResult<()> {
        self.sink.failing(Fail::Write)?;
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn finish(self: Box<Self>, id: PackId, contents: PackContents) -> SeamResult<()> {
        self.sink.failing(Fail::Finish)?;
        let pack = &self.bytes;
        assert_eq!(*id.as_bytes(), <[u8; 32]>::from(Sha256::digest(pack)));
        check_pack_header(&pack[..PACK_HEADER_BYTES]).unwrap();
        let tail = pack.len() - PACK_TRAILER_BYTES;
        let trailer = PackTrailer::decode(&pack[tail..], pack.len() as u64).unwrap();
        let footer = &pack[trailer.footer_offset as usize..tail];
        assert_eq!(PackContents::decode(&trailer, footer).unwrap(), contents);
        let frames: Vec<_> = contents
            .frames()
            .iter()
            .map(|frame| {
                let at = frame.offset as usize;
                let stored = pack[at..at + frame.stored as usize].to_vec();
                decode_frame(frame.codec, stored, frame.plain).unwrap()
            })
            .collect();
        let mut chunks = self.sink.chunks.lock().unwrap();
        for chunk in contents.chunks() {
            let (at, len) = (chunk.offset as usize, chunk.len as usize);
            let bytes = &frames[chunk.frame as usize][at..at + len];
            assert_eq!(ChunkId::of(bytes), chunk.id);
            let before = chunks.insert(chunk.id, bytes.to_vec());
            assert!(before.is_none(), "{} was packed twice", chunk.id);
        }
        self.sink.packs.lock().unwrap().push((id, contents));
        Ok(())
    }
}

/// Pushes into a new sink.
pub(crate) fn push(source: &mut dyn Source) -> Result<(MemorySink, Pushed), PushError> {
    let sink = MemorySink::new();
    let pushed = push_tree(source, &sink, Chunker::FastCdc, &())?;
    Ok((sink, pushed))
}

/// Pushes into a new sink; the layer's entries.
pub(crate) fn layer_of(source: &mut dyn Source) -> TreeLayer {
    let (sink, pushed) = push(source).unwrap();
    sink.layer(&pushed.root)
}

/// An error with all its causes.
pub(crate) fn text(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
