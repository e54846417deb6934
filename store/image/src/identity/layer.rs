//! A layer that changes single files of a composed tree.

use std::collections::BTreeMap;

use shale_model::{
    Attrs, ChunkId, Content, Entry, Extent, Kind, LayerDir, Mtime, Name, Node, NodeData, NodeId,
    Tree, TreeLayer, TreePath,
};

use super::{IdentityError, MAX_CHANGED_FILE_BYTES};
use crate::merge::{ChunkBytes, synthesise};

/// Most symbolic links on the way to a file: as in Linux.
const MAX_LINKS: usize = 40;

/// A layer in the making.
pub(super) struct Builder<'t> {
    pub(super) tree: &'t Tree,
    pub(super) time: Mtime,
    entries: BTreeMap<TreePath, Entry>,
    synthetic: ChunkBytes,
}

/// A path that this crate spells.
pub(super) fn known(path: &str) -> TreePath {
    TreePath::new(path.as_bytes()).unwrap_or_default()
}

/// The lines of a file without their ends.
pub(super) fn lines(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let whole = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    let any = !bytes.is_empty();
    whole.split(|&b| b == b'\n').filter(move |_| any)
}

impl<'t> Builder<'t> {
    pub(super) fn new(tree: &'t Tree, time: Mtime) -> Self {
        Self {
            tree,
            time,
            entries: BTreeMap::new(),
            synthetic: ChunkBytes::new(),
        }
    }

    /// The layer and the bytes of its files.
    pub(super) fn finish(self) -> (TreeLayer, ChunkBytes) {
        let mut dirs: BTreeMap<TreePath, Vec<Entry>> = BTreeMap::new();
        for (path, entry) in self.entries {
            if let Some((parent, _)) = path.split() {
                dirs.entry(parent).or_default().push(entry);
            }
        }
        let dir = |(path, mut entries): (TreePath, Vec<Entry>)| {
            entries.sort_by(|a, b| a.name.cmp(&b.name));
            LayerDir { path, entries }
        };
        let dirs = dirs.into_iter().map(dir).collect();
        (TreeLayer { root: None, dirs }, self.synthetic)
    }

    /// What is at a path, after every symbolic link.
    pub(super) fn find(&self, path: &TreePath) -> Option<&'t Node> {
        let (_, node) = self.walk(path)?;
        Some(self.tree.node(node?))
    }

    /// Whether anything is at a path, after symbolic links.
    pub(super) fn exists(&self, path: &str) -> bool {
        self.find(&known(path)).is_some()
    }

    /// The names in a directory; none if it is none.
    pub(super) fn names_in(&self, path: &TreePath) -> Vec<Name> {
        let Some((_, Some(id))) = self.walk(path) else {
            return vec![];
        };
        let children = self.tree.children(id);
        children.map(|entry| entry.name.clone()).collect()
    }

    fn content(&self, path: &TreePath) -> Option<&'t Content> {
        match &self.find(path)?.data {
            NodeData::File(content) if content.size() <= MAX_CHANGED_FILE_BYTES => Some(content),
            _ => None,
        }
    }

    /// The chunks of a file that can be read; none for what cannot.
    pub(super) fn chunks_of(&self, path: &TreePath) -> Vec<ChunkId> {
        let extents = self.content(path).map_or(&[][..], Content::extents);
        let chunk = |extent: &Extent| match extent {
            Extent::Chunk { id, .. } => Some(*id),
            Extent::Hole { .. } => None,
        };
        extents.iter().filter_map(chunk).collect()
    }

    /// The bytes of a file; `None` if nothing is there.
    pub(super) fn read(
        &self,
        path: &str,
        bytes: &ChunkBytes,
    ) -> Result<Option<Vec<u8>>, IdentityError> {
        self.read_path(&known(path), bytes)
    }

    /// As [`Builder::read`].
    pub(super) fn read_path(
        &self,
        path: &TreePath,
        bytes: &ChunkBytes,
    ) -> Result<Option<Vec<u8>>, IdentityError> {
        if self.find(path).is_none() {
            return Ok(None);
        }
        let content = self.content(path);
        let content = content.ok_or_else(|| IdentityError::NotAFile(path.clone()))?;
        let mut file = Vec::with_capacity(content.size() as usize);
        for extent in content.extents() {
            match extent {
                Extent::Hole { len } => file.resize(file.len() + *len as usize, 0),
                Extent::Chunk { id, len } => {
                    let found = bytes.get(id).filter(|found| found.len() == *len as usize);
                    let missing = || IdentityError::Missing {
                        chunk: *id,
                        path: path.clone(),
                    };
                    file.extend_from_slice(found.ok_or_else(missing)?);
                }
            }
        }
        Ok(Some(file))
    }

    /// Writes a file, which keeps its attributes if it exists; else it is root's, with this mode.
    pub(super) fn write(
        &mut self,
        path: &str,
        bytes: &[u8],
        mode: u16,
    ) -> Result<(), IdentityError> {
        let found = self.find(&known(path));
        let file = found.filter(|node| matches!(node.data, NodeData::File(_)));
        let attrs = match file {
            Some(node) => Attrs {
                mtime: self.time,
                ..node.attrs.clone()
            },
            None => self.root_attrs(mode),
        };
        self.put_file(&known(path), bytes, attrs)
    }

    /// Writes a file of root's with this mode, whatever was there.
    pub(super) fn write_new(
        &mut self,
        path: &str,
        bytes: &[u8],
        mode: u16,
    ) -> Result<(), IdentityError> {
        self.put_file(&known(path), bytes, self.root_attrs(mode))
    }

    /// Writes a file with these attributes.
    pub(super) fn put_file(
        &mut self,
        path: &TreePath,
        bytes: &[u8],
        attrs: Attrs,
    ) -> Result<(), IdentityError> {
        let content = synthesise(bytes, &mut self.synthetic);
        self.put(path, attrs, Kind::File(content))
    }

    /// Makes a symbolic link.
    pub(super) fn link(&mut self, path: &str, target: &str) -> Result<(), IdentityError> {
        let attrs = self.root_attrs(0o777);
        self.put(&known(path), attrs, Kind::Symlink(target.as_bytes().into()))
    }

    /// Makes a directory, or gives one these attributes.
    pub(super) fn directory(&mut self, path: &TreePath, attrs: Attrs) -> Result<(), IdentityError> {
        self.put(path, attrs, Kind::Directory)
    }

    /// Removes what is at a path.
    pub(super) fn remove(&mut self, path: &TreePath) -> Result<(), IdentityError> {
        self.put(path, Attrs::default(), Kind::Whiteout)
    }

    /// Attributes of something of root's.
    pub(super) fn root_attrs(&self, mode: u16) -> Attrs {
        Attrs {
            mode,
            mtime: self.time,
            ..Attrs::default()
        }
    }

    /// Puts an entry where symbolic links in the directories of `path` lead; directories that are missing
    /// are root's, with mode 0755.
    pub(super) fn put(
        &mut self,
        path: &TreePath,
        attrs: Attrs,
        kind: Kind,
    ) -> Result<(), IdentityError> {
        let no_directory = || IdentityError::NotADirectory(path.clone());
        let (parent, name) = path.split().ok_or_else(no_directory)?;
        let (parent, node) = self.walk(&parent).ok_or_else(no_directory)?;
        match node.map(|node| &self.tree.node(node).data) {
            Some(NodeData::Directory(_)) => (),
            Some(_) => return Err(no_directory()),
            None => self.make_directories(&parent)?,
        }
        let path = parent.join(&name).map_err(|_| no_directory())?;
        let entry = Entry { name, attrs, kind };
        self.entries.insert(path, entry);
        Ok(())
    }

    fn make_directories(&mut self, path: &TreePath) -> Result<(), IdentityError> {
        let mut at = path.clone();
        while let Some((parent, name)) = at.split() {
            if self.tree.lookup(&at).is_some() || self.entries.contains_key(&at) {
                break;
            }
            let (attrs, kind) = (self.root_attrs(0o755), Kind::Directory);
            self.entries.insert(at, Entry { name, attrs, kind });
            at = parent;
        }
        Ok(())
    }

    /// Where a path leads: its spelling without symbolic links, and the node if something is there. `None`
    /// for too many links, and for a way through something that is not a directory.
    fn walk(&self, path: &TreePath) -> Option<(TreePath, Option<NodeId>)> {
        let mut rest: Vec<Vec<u8>> = path.components().map(<[u8]>::to_vec).collect();
        rest.reverse();
        let mut links = 0;
        let mut at: Vec<Vec<u8>> = Vec::new();
        while let Some(name) = rest.pop() {
            match &name[..] {
                b"" | b"." => continue,
                b".." => {
                    at.pop();
                    continue;
                }
                _ => at.push(name),
            }
            let here = TreePath::new(&at.join(&b'/')).ok()?;
            let Some(node) = self.tree.lookup(&here) else {
                // What is missing has no links in it: the rest is spelled as it is.
                at.extend(rest.into_iter().rev());
                return Some((TreePath::new(&at.join(&b'/')).ok()?, None));
            };
            if let NodeData::Symlink(target) = &self.tree.node(node).data {
                links += 1;
                if links > MAX_LINKS {
                    return None;
                }
                at.pop();
                if target.starts_with(b"/") {
                    at.clear();
                }
                rest.extend(target.split(|&b| b == b'/').rev().map(<[u8]>::to_vec));
            }
        }
        let path = TreePath::new(&at.join(&b'/')).ok()?;
        let node = self.tree.lookup(&path);
        Some((path, node))
    }
}
