//! Layers from lists of paths, and trees back to maps.

use std::collections::BTreeMap;

use shale_image::merge::{ChunkBytes, Merged, NamedLayer, StackLayer, merge, need};
use shale_model::{
    Attrs, ChunkId, Content, Entry, Extent, Kind, LayerDir, LayerId, Mtime, Node, NodeData, Tree,
    TreeLayer, TreePath, Xattrs, compose, limits::MAX_CHUNK_BYTES,
};

pub(crate) fn path(text: &str) -> TreePath {
    TreePath::new(text.as_bytes()).unwrap()
}

/// One entry of a layer.
#[derive(Debug, Clone)]
pub(crate) struct Item {
    pub(crate) attrs: Attrs,
    pub(crate) what: What,
}

#[derive(Debug, Clone)]
pub(crate) enum What {
    File(Vec<u8>),
    Other(Kind),
}

fn item(mode: u16, what: What) -> Item {
    let attrs = Attrs {
        mode,
        ..Attrs::default()
    };
    Item { attrs, what }
}

pub(crate) fn file(bytes: impl AsRef<[u8]>) -> Item {
    item(0o644, What::File(bytes.as_ref().to_vec()))
}

pub(crate) fn dir() -> Item {
    item(0o755, What::Other(Kind::Directory))
}

pub(crate) fn link(target: &str) -> Item {
    item(
        0o777,
        What::Other(Kind::symlink(target.as_bytes()).unwrap()),
    )
}

pub(crate) fn gone() -> Item {
    item(0, What::Other(Kind::Whiteout))
}

impl Item {
    pub(crate) fn owner(mut self, uid: u32, gid: u32) -> Self {
        (self.attrs.uid, self.attrs.gid) = (uid, gid);
        self
    }

    pub(crate) fn mode(mut self, mode: u16) -> Self {
        self.attrs.mode = mode;
        self
    }

    pub(crate) fn time(mut self, seconds: i64) -> Self {
        self.attrs.mtime = Mtime { seconds, nanos: 0 };
        self
    }

    pub(crate) fn xattr(mut self, name: &str, value: &[u8]) -> Self {
        self.attrs.xattrs = Xattrs::new(vec![(name.as_bytes().into(), value.into())]).unwrap();
        self
    }
}

/// Layers and the bytes of their files.
#[derive(Debug, Default)]
pub(crate) struct World {
    pub(crate) bytes: ChunkBytes,
}

/// A layer with its id.
#[derive(Debug, Clone)]
pub(crate) struct Layer {
    pub(crate) id: LayerId,
    pub(crate) tree: TreeLayer,
}

impl World {
    pub(crate) fn layer<P: AsRef<str>>(
        &mut self,
        id: &str,
        items: impl IntoIterator<Item = (P, Item)>,
    ) -> Layer {
        let mut dirs: BTreeMap<TreePath, Vec<Entry>> = BTreeMap::new();
        for (at, item) in items {
            let (parent, name) = path(at.as_ref()).split().unwrap();
            let kind = match item.what {
                What::File(bytes) => Kind::File(self.content(&bytes)),
                What::Other(kind) => kind,
            };
            let attrs = item.attrs;
            dirs.entry(parent)
                .or_default()
                .push(Entry { name, attrs, kind });
        }
        let dir = |(path, mut entries): (TreePath, Vec<Entry>)| {
            entries.sort_by(|a, b| a.name.cmp(&b.name));
            LayerDir { path, entries }
        };
        let dirs = dirs.into_iter().map(dir).collect();
        let tree = TreeLayer { root: None, dirs };
        let id = LayerId::of(id.as_bytes());
        Layer { id, tree }
    }

    fn content(&mut self, bytes: &[u8]) -> Content {
        let extent = |chunk: &[u8]| {
            let id = ChunkId::of(chunk);
            self.bytes.insert(id, chunk.to_vec());
            let len = chunk.len() as u32;
            Extent::Chunk { id, len }
        };
        Content::new(bytes.chunks(MAX_CHUNK_BYTES).map(extent).collect()).unwrap()
    }

    /// Merges with no other bytes than those that were said to be needed.
    pub(crate) fn merge<'a>(&self, stack: &[StackLayer<'a>]) -> Merged<'a> {
        self.try_merge(stack).unwrap()
    }

    pub(crate) fn try_merge<'a>(
        &self,
        stack: &[StackLayer<'a>],
    ) -> Result<Merged<'a>, shale_image::merge::MergeError> {
        let wanted = need(stack).into_iter();
        let bytes = wanted.map(|id| (id, self.bytes[&id].clone())).collect();
        merge(stack, &bytes)
    }

    pub(crate) fn tree(&self, merged: &Merged<'_>) -> Composed {
        let mut bytes = self.bytes.clone();
        bytes.extend(merged.synthetic.clone());
        let tree = compose(merged.trees()).unwrap();
        Composed { tree, bytes }
    }
}

impl Layer {
    pub(crate) fn named(&self) -> NamedLayer<'_> {
        let (id, tree) = (self.id, &self.tree);
        NamedLayer { id, tree }
    }

    pub(crate) fn on<'a>(&'a self, made_on: &[&'a Layer]) -> StackLayer<'a> {
        StackLayer {
            layer: self.named(),
            made_on: made_on.iter().map(|layer| layer.named()).collect(),
        }
    }
}

/// A composed tree with bytes.
pub(crate) struct Composed {
    pub(crate) tree: Tree,
    pub(crate) bytes: ChunkBytes,
}

impl Composed {
    pub(crate) fn node(&self, at: &str) -> Option<&Node> {
        Some(self.tree.node(self.tree.lookup(&path(at))?))
    }

    pub(crate) fn text(&self, at: &str) -> Option<String> {
        match &self.node(at)?.data {
            NodeData::File(content) => Some(self.read(content)),
            _ => None,
        }
    }

    pub(crate) fn owner(&self, at: &str) -> (u32, u32) {
        let attrs = &self.node(at).unwrap().attrs;
        (attrs.uid, attrs.gid)
    }

    fn read(&self, content: &Content) -> String {
        let mut file = Vec::new();
        for extent in content.extents() {
            match extent {
                Extent::Chunk { id, .. } => file.extend_from_slice(&self.bytes[id]),
                Extent::Hole { len } => file.resize(file.len() + *len as usize, 0),
            }
        }
        String::from_utf8_lossy(&file).into_owned()
    }

    /// Every regular file.
    pub(crate) fn files(&self) -> BTreeMap<String, String> {
        let text = |(at, _, node): (TreePath, _, &Node)| match &node.data {
            NodeData::File(content) => {
                let at = String::from_utf8_lossy(at.as_bytes()).into_owned();
                Some((at, self.read(content)))
            }
            _ => None,
        };
        self.tree.walk().filter_map(text).collect()
    }
}
