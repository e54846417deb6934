//! The fold: tree layers, bottom first, become one composed tree.
//!
//! The rules are those of overlayfs (Linux `Documentation/filesystems/overlayfs.rst`) and of the OCI
//! image specification (`layer.md`): the upper layer wins name by name; a whiteout removes a name; an
//! opaque directory hides what is below; a directory over a directory merges and takes the upper
//! attributes; any other change of type replaces. A hard-link group belongs to the layer that brings
//! it, and an upper entry replaces one name of it.
//!
//! The tree keeps the nodes and names that upper layers removed, with the layer that did it: a disk
//! laid out from it gives every inode and file the place that it has without the upper layers, so
//! that templates on one base share its layout.

use std::collections::{BTreeMap, HashMap};

use crate::entry::{Attrs, Content, Entry, Kind, LayerDir, Mtime, Rdev, TreeLayer};
use crate::limits::{MAX_ENTRIES, MAX_LAYERS};
use crate::name::{Name, TreePath};

/// Position of a node in [`Tree::nodes`], which orders inodes; the root directory is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(u32);

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
    nodes: Vec<Node>,
    layers: LayerNo,
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

/// Why layers do not compose.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ComposeError {
    /// An entry lies below something that is not a directory.
    #[error("layer {layer} has entries in {path}, which is not a directory")]
    NotDirectory {
        /// The layer.
        layer: LayerNo,
        /// The directory that it names.
        path: TreePath,
    },
    /// A hard link to a path that the layer does not bring before it, or that is a directory.
    #[error("layer {layer} has a hard link to {path}, which it does not hold before it")]
    LinkTarget {
        /// The layer.
        layer: LayerNo,
        /// The target.
        path: TreePath,
    },
    /// More than [`MAX_LAYERS`] layers.
    #[error("{0} layers; the limit is {MAX_LAYERS}")]
    TooManyLayers(usize),
    /// More than [`MAX_ENTRIES`] nodes.
    #[error("more than {MAX_ENTRIES} entries")]
    TooManyEntries,
}

/// Folds `layers`, bottom first, into one tree.
///
/// A directory that no layer describes has mode 0755, owner root and time 0. Time and memory are
/// linear in the number of entries.
pub fn compose<'a>(layers: impl IntoIterator<Item = &'a TreeLayer>) -> Result<Tree, ComposeError> {
    let mut fold = Fold::new();
    for (layer, tree) in layers.into_iter().enumerate() {
        if layer >= MAX_LAYERS {
            return Err(ComposeError::TooManyLayers(layer + 1));
        }
        fold.layer = layer as LayerNo;
        fold.apply(tree)?;
    }
    Ok(fold.finish())
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
fn find_alive(entries: &[DirEntry], name: &[u8]) -> Option<usize> {
    let end = entries.partition_point(|entry| entry.name.as_bytes() <= name);
    let last = end.checked_sub(1)?;
    let found = &entries[last];
    (found.name.as_bytes() == name && found.died.is_none()).then_some(last)
}

/// The state of a fold between entries.
struct Fold {
    nodes: Vec<Node>,
    layer: LayerNo,
    /// The directory entries that the next layer directory appends, before they are sorted in.
    added: Vec<DirEntry>,
    /// Directories that the layer implied, by the one that holds them: they are sorted in when the layer ends, because
    /// sorting for each would take the square of their number.
    implied: HashMap<NodeId, BTreeMap<Name, DirEntry>>,
}

/// Hard-link targets of one layer by directory, filled with nodes as they appear.
type LinkTargets<'a> = HashMap<TreePath, HashMap<Name, Option<NodeId>>>;

impl Fold {
    fn new() -> Self {
        Self {
            nodes: vec![implied_directory(0)],
            layer: 0,
            added: Vec::new(),
            implied: HashMap::new(),
        }
    }

    fn apply(&mut self, tree: &TreeLayer) -> Result<(), ComposeError> {
        if let Some(root) = &tree.root {
            self.describe(NodeId::ROOT, &root.attrs);
            if root.opaque {
                self.remove_children(NodeId::ROOT);
            }
        }
        let mut targets = link_targets(tree);
        for dir in &tree.dirs {
            let id = self.directory(&dir.path)?;
            self.merge(id, dir, &mut targets)?;
        }
        let implied: Vec<NodeId> = self.implied.keys().copied().collect();
        for dir in implied {
            self.settle_implied(dir);
        }
        Ok(())
    }

    /// The directory at `path`, made if nothing is there.
    fn directory(&mut self, path: &TreePath) -> Result<NodeId, ComposeError> {
        let layer = self.layer;
        let not_directory = || ComposeError::NotDirectory {
            layer,
            path: path.clone(),
        };
        let mut at = NodeId::ROOT;
        let mut missing = None;
        for (depth, name) in path.components().enumerate() {
            let NodeData::Directory(entries) = &self.nodes[at.index()].data else {
                return Err(not_directory());
            };
            let known = find_alive(entries, name).map(|found| entries[found].node);
            match known.or_else(|| self.implied_at(at, name)) {
                Some(found) => at = found,
                None => {
                    missing = Some(depth);
                    break;
                }
            }
        }
        if !matches!(self.nodes[at.index()].data, NodeData::Directory(_)) {
            return Err(not_directory());
        }
        for name in path.components().skip(missing.unwrap_or(usize::MAX)) {
            let name = Name::new(name).map_err(|_| not_directory())?;
            let made = self.add(implied_directory(layer))?;
            let entry = self.named(name.clone(), made);
            self.implied.entry(at).or_default().insert(name, entry);
            at = made;
        }
        Ok(at)
    }

    fn merge(
        &mut self,
        id: NodeId,
        dir: &LayerDir,
        targets: &mut LinkTargets<'_>,
    ) -> Result<(), ComposeError> {
        self.settle_implied(id);
        let mut linked = targets.remove(&dir.path);
        for entry in &dir.entries {
            let NodeData::Directory(entries) = &self.nodes[id.index()].data else {
                continue;
            };
            let below = find_alive(entries, entry.name.as_bytes());
            let below = below.map(|at| (at, entries[at].node));
            let merged = below.filter(|(_, node)| {
                let over = &self.nodes[node.index()].data;
                entry.kind.is_directory() && matches!(over, NodeData::Directory(_))
            });
            if let Some((_, node)) = merged {
                self.describe(node, &entry.attrs);
                if entry.kind == Kind::OpaqueDirectory {
                    self.remove_children(node);
                }
                continue;
            }
            if let Some((at, _)) = below {
                self.remove(id, at);
            }
            let node = match &entry.kind {
                Kind::Whiteout => continue,
                Kind::HardLink(target) => self.link_target(target, dir, &linked, targets)?,
                _ => self.add(new_node(self.layer, entry))?,
            };
            if let Some(wanted) = linked.as_mut().and_then(|l| l.get_mut(&entry.name)) {
                let is_target = !entry.kind.is_directory() && !is_link(&entry.kind);
                *wanted = is_target.then_some(node);
            }
            self.link(entry.name.clone(), node);
        }
        self.settle(id);
        if let Some(linked) = linked {
            targets.insert(dir.path.clone(), linked);
        }
        Ok(())
    }

    /// The node that a hard link of the current layer names.
    fn link_target(
        &self,
        target: &TreePath,
        dir: &LayerDir,
        here: &Option<HashMap<Name, Option<NodeId>>>,
        targets: &LinkTargets<'_>,
    ) -> Result<NodeId, ComposeError> {
        let found = target.split().and_then(|(parent, name)| {
            let linked = if parent == dir.path {
                here.as_ref()
            } else {
                targets.get(&parent)
            };
            linked?.get(&name).copied().flatten()
        });
        found.ok_or_else(|| ComposeError::LinkTarget {
            layer: self.layer,
            path: target.clone(),
        })
    }

    /// A directory that the current layer describes again.
    fn describe(&mut self, id: NodeId, attrs: &Attrs) {
        let node = &mut self.nodes[id.index()];
        node.attrs = attrs.clone();
        node.attrs_from = self.layer;
    }

    fn add(&mut self, node: Node) -> Result<NodeId, ComposeError> {
        if self.nodes.len() as u64 >= MAX_ENTRIES {
            return Err(ComposeError::TooManyEntries);
        }
        self.nodes.push(node);
        Ok(NodeId(self.nodes.len() as u32 - 1))
    }

    /// Gives `node` a name; [`Fold::settle`] sorts it in.
    fn link(&mut self, name: Name, node: NodeId) {
        let entry = self.named(name, node);
        self.added.push(entry);
    }

    /// One more name of `node`.
    fn named(&mut self, name: Name, node: NodeId) -> DirEntry {
        self.nodes[node.index()].links += 1;
        DirEntry {
            name,
            node,
            born: self.layer,
            died: None,
        }
    }

    /// The directory that the current layer implied as `name` in `dir`.
    fn implied_at(&self, dir: NodeId, name: &[u8]) -> Option<NodeId> {
        let implied = self.implied.get(&dir)?;
        Some(implied.get(&Name::new(name).ok()?)?.node)
    }

    /// Sorts the directories into `dir` that the current layer implied there.
    fn settle_implied(&mut self, dir: NodeId) {
        if let Some(implied) = self.implied.remove(&dir) {
            self.sort_in(dir, &mut implied.into_values().collect());
        }
    }

    /// Sorts the names that were added into their directory.
    fn settle(&mut self, dir: NodeId) {
        let mut added = std::mem::take(&mut self.added);
        self.sort_in(dir, &mut added);
        self.added = added;
    }

    fn sort_in(&mut self, dir: NodeId, added: &mut Vec<DirEntry>) {
        if let NodeData::Directory(entries) = &mut self.nodes[dir.index()].data {
            let was_empty = entries.is_empty();
            entries.append(added);
            if !was_empty {
                entries.sort_by(|a, b| (&a.name, a.born).cmp(&(&b.name, b.born)));
            }
        }
    }

    /// Removes the entry at position `at` of `dir`, and everything that only it leads to.
    fn remove(&mut self, dir: NodeId, at: usize) {
        let mut removed = Vec::new();
        if let NodeData::Directory(entries) = &mut self.nodes[dir.index()].data {
            entries[at].died = Some(self.layer);
            removed.push(entries[at].node);
        }
        self.unlink(removed);
    }

    fn remove_children(&mut self, dir: NodeId) {
        let removed = self.end_names(dir);
        self.unlink(removed);
    }

    /// Ends every name in `dir`; the nodes that they named.
    fn end_names(&mut self, dir: NodeId) -> Vec<NodeId> {
        self.settle_implied(dir);
        let layer = self.layer;
        let mut ended = Vec::new();
        if let NodeData::Directory(entries) = &mut self.nodes[dir.index()].data {
            for entry in entries.iter_mut().filter(|entry| entry.died.is_none()) {
                entry.died = Some(layer);
                ended.push(entry.node);
            }
        }
        ended
    }

    /// Takes one name from each node, and from all that lies below those that were directories. A
    /// worklist, not recursion: depth comes from the input.
    fn unlink(&mut self, mut nodes: Vec<NodeId>) {
        while let Some(id) = nodes.pop() {
            self.nodes[id.index()].links -= 1;
            nodes.append(&mut self.end_names(id));
        }
    }

    /// Counts the links of directories, which their subdirectories give them.
    fn finish(mut self) -> Tree {
        let is_dir = |id: NodeId| matches!(self.nodes[id.index()].data, NodeData::Directory(_));
        let links: Vec<u32> = (0..self.nodes.len() as u32)
            .map(|index| match &self.nodes[index as usize] {
                Node {
                    data: NodeData::Directory(entries),
                    links,
                    ..
                } if *links > 0 || index == 0 => {
                    let alive = entries.iter().filter(|e| e.died.is_none());
                    2 + alive.filter(|e| is_dir(e.node)).count() as u32
                }
                node => node.links,
            })
            .collect();
        for (node, links) in self.nodes.iter_mut().zip(links) {
            node.links = links;
        }
        Tree {
            nodes: self.nodes,
            layers: self.layer + 1,
        }
    }
}

fn is_link(kind: &Kind) -> bool {
    matches!(kind, Kind::HardLink(_) | Kind::Whiteout)
}

fn link_targets(tree: &TreeLayer) -> LinkTargets<'_> {
    let mut targets = LinkTargets::new();
    for (_, entry) in tree.entries() {
        if let Kind::HardLink(target) = &entry.kind
            && let Some((parent, name)) = target.split()
        {
            targets.entry(parent).or_default().insert(name, None);
        }
    }
    targets
}

fn implied_directory(layer: LayerNo) -> Node {
    Node {
        born: layer,
        attrs_from: layer,
        links: 0,
        attrs: Attrs {
            mode: 0o755,
            uid: 0,
            gid: 0,
            mtime: Mtime::default(),
            xattrs: Default::default(),
        },
        data: NodeData::Directory(Vec::new()),
    }
}

/// A node for an entry that is neither a whiteout nor a hard link.
fn new_node(layer: LayerNo, entry: &Entry) -> Node {
    let data = match &entry.kind {
        Kind::File(content) => NodeData::File(content.clone()),
        Kind::Symlink(target) => NodeData::Symlink(target.clone()),
        Kind::CharDevice(rdev) => NodeData::CharDevice(*rdev),
        Kind::BlockDevice(rdev) => NodeData::BlockDevice(*rdev),
        Kind::Fifo => NodeData::Fifo,
        Kind::Socket => NodeData::Socket,
        Kind::Directory | Kind::OpaqueDirectory | Kind::HardLink(_) | Kind::Whiteout => {
            NodeData::Directory(Vec::new())
        }
    };
    Node {
        born: layer,
        attrs_from: layer,
        links: 0,
        attrs: entry.attrs.clone(),
        data,
    }
}
