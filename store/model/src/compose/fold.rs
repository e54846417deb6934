//! The fold itself: the layers are applied one after the other to a tree that grows.

use std::collections::{BTreeMap, HashMap};

use crate::entry::{Attrs, Entry, Kind, LayerDir, Mtime, TreeLayer};
use crate::limits::MAX_ENTRIES;
use crate::name::{Name, TreePath};

use super::ComposeError;
use super::tree::{DirEntry, LayerNo, Node, NodeData, NodeId, Tree, find_alive};

/// The state of a fold between entries.
pub(super) struct Fold {
    nodes: Vec<Node>,
    pub(super) layer: LayerNo,
    /// The directory entries that the next layer directory appends, before they are sorted in.
    added: Vec<DirEntry>,
    /// Directories that the layer implied, by the one that holds them: they are sorted in when the layer ends, because
    /// sorting for each would take the square of their number.
    implied: HashMap<NodeId, BTreeMap<Name, DirEntry>>,
}

/// Hard-link targets of one layer by directory, filled with nodes as they appear.
type LinkTargets<'a> = HashMap<TreePath, HashMap<Name, Option<NodeId>>>;

impl Fold {
    pub(super) fn new() -> Self {
        Self {
            nodes: vec![implied_directory(0)],
            layer: 0,
            added: Vec::new(),
            implied: HashMap::new(),
        }
    }

    pub(super) fn apply(&mut self, tree: &TreeLayer) -> Result<(), ComposeError> {
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
    pub(super) fn finish(mut self) -> Tree {
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
