//! A small push: a layer of a few files in three packs, a template, a name.

use sha2::{Digest, Sha256};
use shale_model::{
    Attrs, Catalog, ChunkId, Chunker, Codec, Content, Entry, Extent, Fetch, FrameEncoder, Kind,
    LayerDir, LayerEncoder, LayerId, Machine, Name, PackContents, PackId, Platform, RefName,
    SeamResult, Sink, Template, TemplateId, TemplateIndex, TemplateLayer, TreeLayer, TreePath,
    decode_frame, pack_header,
};

use super::wait::wait_for;

/// All that one push brings.
pub struct Sample {
    /// Where the template's index is put.
    pub name: RefName,
    /// The packs: two with content, and one with the pages of the layer.
    pub packs: Vec<SamplePack>,
    /// The layer's root.
    pub root: Vec<u8>,
    /// The template's canonical JSON.
    pub template: Vec<u8>,
    /// What the name will point at.
    pub index: TemplateIndex,
    /// Every chunk, pages too.
    chunks: Vec<Vec<u8>>,
}

/// One pack of a [`Sample`].
pub struct SamplePack {
    /// Its id.
    pub id: PackId,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// What its footer says.
    pub contents: PackContents,
}

/// Bytes of one call of a pack's writer.
const PIECE_BYTES: usize = 20_000;

impl Sample {
    /// A push of content that depends on `seed` alone.
    pub fn new(name: &str, seed: u64) -> Self {
        let noise = |number: u64, len: usize| -> Vec<u8> {
            let seeds = [seed, number].map(u64::to_le_bytes).concat();
            let digests = (0u64..).flat_map(|block| {
                let block = block.to_le_bytes();
                *ChunkId::of(&[&seeds[..], &block].concat()).as_bytes()
            });
            digests.take(len).collect()
        };
        let text = format!("Shale {seed} ").repeat(2000).into_bytes();
        let content = vec![noise(1, 30_000), text, noise(2, 17), noise(3, 9_000)];
        let tree = tree_of(&content);
        let (pages, root) =
            LayerEncoder::encode(&tree, Chunker::FastCdc).expect("entries in order");
        let pages: Vec<Vec<u8>> = pages.into_iter().map(|page| page.bytes).collect();
        let layer = TemplateLayer {
            id: root.id(),
            made_on: Vec::new(),
        };
        let template = Template::new(Platform::default(), vec![layer], Machine::default());
        Self {
            name: name.parse().expect("a name"),
            packs: vec![
                SamplePack::of(&content[..2]),
                SamplePack::of(&content[2..]),
                SamplePack::of(&pages),
            ],
            root: root.encode(),
            index: TemplateIndex::one(Platform::default(), template.id()),
            template: template.encode(),
            chunks: [content, pages].concat(),
        }
    }

    /// Every chunk, pages too.
    pub fn chunk_ids(&self) -> Vec<ChunkId> {
        self.chunks.iter().map(|bytes| ChunkId::of(bytes)).collect()
    }

    /// Pushes all of it. The name must not exist yet.
    pub fn push(&self, sink: &dyn Sink) -> SeamResult<()> {
        for pack in &self.packs {
            pack.push(sink)?;
        }
        let layer = sink.put_layer(&self.root)?;
        assert_eq!(layer, LayerId::of(&self.root));
        let template = sink.put_template(&self.template)?;
        assert_eq!(template, TemplateId::of(&self.template));
        sink.set_ref(&self.name, None, &self.index)
    }

    /// Checks that all of it is there, byte by byte, found by its name.
    pub fn check(&self, catalog: &dyn Catalog, fetch: &dyn Fetch) {
        let index = catalog.get_ref(&self.name).expect("the reference");
        assert_eq!(index.as_ref(), Some(&self.index), "{}", self.name);
        let id = self.index.get(&Platform::default()).expect("a template");
        assert_eq!(catalog.template(id).expect("the template"), self.template);
        let template = Template::decode(&self.template).expect("a template");
        let root = catalog.layer(template.layers[0].id).expect("the layer");
        assert_eq!(root, self.root);

        let located = wait_for(fetch.locate(&self.chunk_ids())).expect("locations");
        for (bytes, at) in self.chunks.iter().zip(located) {
            let at = at.expect("a location of every chunk");
            let read = fetch.read(at.pack, at.frame.offset, at.frame.stored.into());
            let stored = wait_for(read).expect("a frame");
            let plain = decode_frame(at.frame.codec, stored, at.frame.plain).expect("plain bytes");
            let (start, len) = (at.offset as usize, at.len as usize);
            assert!(
                plain[start..start + len] == bytes[..],
                "other bytes in {}",
                at.pack
            );
        }
    }
}

impl SamplePack {
    /// A pack of these chunks, each in a frame of its own.
    fn of(chunks: &[Vec<u8>]) -> Self {
        let mut encoder = FrameEncoder::new().expect("a zstd context");
        let mut contents = PackContents::default();
        let mut bytes = pack_header().to_vec();
        for plain in chunks {
            let compressed = encoder.compress(plain).expect("a frame");
            let (codec, stored) = match &compressed {
                Some(stored) => (Codec::Zstd, stored),
                None => (Codec::Plain, plain),
            };
            let chunk = (ChunkId::of(plain), plain.len() as u32);
            contents.push_frame(codec, stored.len() as u32, &[chunk]);
            bytes.extend_from_slice(stored);
        }
        bytes.extend_from_slice(&contents.encode_tail());
        Self {
            id: PackId::from_bytes(Sha256::digest(&bytes).into()),
            bytes,
            contents,
        }
    }

    /// Pushes it.
    pub fn push(&self, sink: &dyn Sink) -> SeamResult<()> {
        push_pack(sink, &self.bytes, self.id, self.contents.clone())
    }
}

/// Pushes `bytes` as a pack of this id and these contents.
pub(super) fn push_pack(
    sink: &dyn Sink,
    bytes: &[u8],
    id: PackId,
    contents: PackContents,
) -> SeamResult<()> {
    let mut pack = sink.new_pack()?;
    for piece in bytes.chunks(PIECE_BYTES) {
        pack.write(piece)?;
    }
    pack.finish(id, contents)
}

/// A file of all chunks with a hole between them, one with the last, and a directory.
fn tree_of(content: &[Vec<u8>]) -> TreeLayer {
    let chunk = |bytes: &Vec<u8>| Extent::Chunk {
        id: ChunkId::of(bytes),
        len: bytes.len() as u32,
    };
    let entry = |name: &str, kind| Entry {
        name: Name::new(name.as_bytes()).expect("a name"),
        attrs: Attrs {
            mode: 0o755,
            ..Attrs::default()
        },
        kind,
    };
    let file = |extents| Kind::File(Content::new(extents).expect("extents"));
    let mut all: Vec<_> = content.iter().map(chunk).collect();
    all.insert(1, Extent::Hole { len: 8192 });
    let dirs = [
        ("", vec![entry("bin", Kind::Directory)]),
        (
            "bin",
            vec![
                entry("all", file(all)),
                entry("last", file(vec![chunk(&content[3])])),
            ],
        ),
    ];
    TreeLayer {
        root: None,
        dirs: dirs
            .into_iter()
            .map(|(path, entries)| LayerDir {
                path: TreePath::new(path.as_bytes()).expect("a path"),
                entries,
            })
            .collect(),
    }
}
