//! A tar archive: whatever is accepted makes a layer that can be written, read and composed.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shale_ingest::{FileBytes, PushError, Run, Source, TarSource, Visitor};
use shale_model::limits::MAX_CHUNK_BYTES;
use shale_model::{
    ChunkId, Chunker, Content, Entry, Extent, LayerDecoder, LayerDir, LayerEncoder, RootEntry,
    TreeLayer, TreePath, compose,
};

fuzz_target!(|data: &[u8]| {
    let mut taken = Taken::default();
    if TarSource::new(data).visit(&mut taken).is_err() {
        return;
    }
    let tree = taken.0;
    let (pages, root) =
        LayerEncoder::encode(&tree, Chunker::FastCdc).expect("entries are in order");
    let again = LayerDecoder::decode(&root, pages.iter().map(|page| &page.bytes[..]));
    assert_eq!(again.as_ref(), Ok(&tree));
    let composed = compose(&[tree]).expect("an archive that is accepted composes");
    composed.walk().for_each(drop);
});

#[derive(Default)]
struct Taken(TreeLayer);

impl Visitor for Taken {
    fn root(&mut self, root: RootEntry) -> Result<(), PushError> {
        assert!(self.0.root.is_none() && self.0.dirs.is_empty());
        self.0.root = Some(root);
        Ok(())
    }

    fn content(&mut self, _: &TreePath, bytes: &mut dyn FileBytes) -> Result<Content, PushError> {
        let mut extents = Vec::new();
        let mut buffer = [0; 4096];
        loop {
            match bytes.read(&mut buffer)? {
                Run::End => break,
                Run::Data(len) => {
                    assert!((1..=buffer.len()).contains(&len));
                    let (id, len) = (ChunkId::of(&buffer[..len]), len as u32);
                    assert!(len as usize <= MAX_CHUNK_BYTES);
                    extents.push(Extent::Chunk { id, len });
                }
                Run::Zeros(more) => {
                    assert!(more > 0);
                    match extents.last_mut() {
                        Some(Extent::Hole { len }) => *len += more,
                        _ => extents.push(Extent::Hole { len: more }),
                    }
                }
            }
        }
        Ok(Content::new(extents).expect("a source hands out files that are possible"))
    }

    fn entry(&mut self, dir: &TreePath, entry: Entry) -> Result<(), PushError> {
        match self.0.dirs.last_mut() {
            Some(last) if last.path == *dir => last.entries.push(entry),
            _ => self.0.dirs.push(LayerDir {
                path: dir.clone(),
                entries: vec![entry],
            }),
        }
        Ok(())
    }
}
