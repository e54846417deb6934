//! A composed tree.

use crate::entry::{Attrs, Content, Rdev};
use crate::name::{Name, TreePath};

/// Position of a node in [`Tree::nodes`], which orders inodes; the root directory is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub(super) u32);

impl NodeId {
    /// The root directory.
    pub const ROOT: NodeId = NodeId(0);

    /// The position.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// Position of a layer in the stack, bottom 0.
pub type LayerNo = u16;

/// A composed tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree {
    pub(super) nodes: Vec<Node>,
    pub(super) layers: LayerNo,
}

/// One inode of a composed tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// The layer that brought it.
    pub born: LayerNo,
    /// The layer whose attributes it has: above `born` only for directories that were merged.
    pub attrs_from: LayerNo,
    /// Names that it has in the composed tree, for a directory 2 and one for each subdirectory;
    /// 0 if upper layers removed it.
    pub links: u32,
    /// Owner, mode, time, extended attributes.
    pub attrs: Attrs,
    /// What it is and holds.
    pub data: NodeData,
}

/// What a node is and holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeData {
    /// A regular file.
    File(Content),
    /// A directory: every name that it has or had, in order of name, then of layer.
    Directory(Vec<DirEntry>),
    /// A symbolic link to these bytes.
    Symlink(Box<[u8]>),
    /// A character special file.
    CharDevice(Rdev),
    /// A block special file.
    BlockDevice(Rdev),
    /// A named pipe.
    Fifo,
    /// A unix socket.
    Socket,
}

/// A name in a directory of a composed tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirEntry {
    /// The name.
    pub name: Name,
    /// Its node.
    pub node: NodeId,
    /// The layer that brought this name.
    pub born: LayerNo,
    /// The layer that removed or replaced it, if one did.
    pub died: Option<LayerNo>,
}

impl DirEntry {
    /// Whether the name exists once layers up to and including `layer` are applied.
    pub fn alive_at(&self, layer: LayerNo) -> bool {
        self.born <= layer && self.died.is_none_or(|died| died > layer)
    }
}

impl Tree {
    /// Every node, in order of layer, then of layer order; also those with no name left.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The node with this id.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.index()]
    }

    /// Every node with its id, in order.
    pub fn ids(&self) -> impl Iterator<Item = (NodeId, &Node)> {
        self.nodes
            .iter()
            .enumerate()
            .map(|(index, node)| (NodeId(index as u32), node))
    }

    /// How many layers it was made of.
    pub fn layers(&self) -> LayerNo {
        self.layers
    }

    /// The names in a directory, in order; none for anything else.
    pub fn children(&self, id: NodeId) -> impl Iterator<Item = &DirEntry> {
        let entries = match &self.node(id).data {
            NodeData::Directory(entries) => &entries[..],
            _ => &[],
        };
        entries.iter().filter(|entry| entry.died.is_none())
    }

    /// The node called `name` in a directory.
    pub fn child(&self, id: NodeId, name: &[u8]) -> Option<NodeId> {
        match &self.node(id).data {
            NodeData::Directory(entries) => find_alive(entries, name).map(|at| entries[at].node),
            _ => None,
        }
    }

    /// The node at `path`; symbolic links are not followed.
    pub fn lookup(&self, path: &TreePath) -> Option<NodeId> {
        path.components()
            .try_fold(NodeId::ROOT, |dir, name| self.child(dir, name))
    }

    /// Every path with its node, a directory right before what it holds.
    pub fn walk(&self) -> Walk<'_> {
        Walk {
            tree: self,
            stack: vec![(TreePath::root(), NodeId::ROOT)],
        }
    }
}

/// Iterator of [`Tree::walk`].
#[derive(Debug)]
pub struct Walk<'a> {
    tree: &'a Tree,
    stack: Vec<(TreePath, NodeId)>,
}

impl<'a> Iterator for Walk<'a> {
    type Item = (TreePath, NodeId, &'a Node);

    fn next(&mut self) -> Option<Self::Item> {
        let (path, id) = self.stack.pop()?;
        if let NodeData::Directory(entries) = &self.tree.node(id).data {
            let alive = entries.iter().rev().filter(|e| e.died.is_none());
            // Paths in a tree were joined once before, so joining cannot fail here.
            self.stack
                .extend(alive.filter_map(|e| Some((path.join(&e.name).ok()?, e.node))));
        }
        Some((path, id, self.tree.node(id)))
    }
}

/// Position of the name that is alive in a directory's entries.
pub(super) fn find_alive(entries: &[DirEntry], name: &[u8]) -> Option<usize> {
    let end = entries.partition_point(|entry| entry.name.as_bytes() <= name);
    let last = end.checked_sub(1)?;
    let found = &entries[last];
    (found.name.as_bytes() == name && found.died.is_none()).then_some(last)
}
