//! The difference of a complete tree to a base: a source that tells only what differs.
//!
//! Told are: entries whose kind, attributes (time and extended attributes included) or content differ;
//! whiteouts for names that are gone; and all names of a group of hard links that is not the same group in
//! the base, because links stay within one layer. A directory that is the same is not told, though what
//! lies in it may be. So `compose([base, difference])` has the content, attributes and links of the tree.
//!
//! What differs is held in memory until the walk ends: whether a file is part of a changed group is known
//! only then.

use std::collections::{BTreeMap, HashMap, HashSet};

use shale_model::{Attrs, Content, Entry, Kind, Name, NodeData, NodeId, RootEntry, Tree, TreePath};

use crate::error::PushError;
use crate::source::{FileBytes, Source, Visitor};

/// `source`, less what `base` has.
///
/// The content of both must be cut by the same chunker: otherwise every file differs.
pub struct Difference<'a> {
    source: &'a mut dyn Source,
    base: &'a Tree,
}

impl<'a> Difference<'a> {
    /// The difference of `source`, a complete tree without whiteouts, to `base`.
    pub fn new(source: &'a mut dyn Source, base: &'a Tree) -> Self {
        Self { source, base }
    }
}

impl Source for Difference<'_> {
    fn visit(&mut self, visitor: &mut dyn Visitor) -> Result<(), PushError> {
        let mut compare = Compare {
            base: self.base,
            visitor,
            changed: BTreeMap::new(),
            groups: HashMap::new(),
            loose: HashSet::new(),
            unentered: HashMap::from([(TreePath::root(), NodeId::ROOT)]),
            current: None,
        };
        self.source.visit(&mut compare)?;
        compare.finish()
    }
}

/// Compares a tree with the base while it is walked.
struct Compare<'a> {
    base: &'a Tree,
    visitor: &'a mut dyn Visitor,
    changed: BTreeMap<TreePath, BTreeMap<Name, Entry>>,
    /// Hard links of the tree: the first path of each group, with the others.
    groups: HashMap<TreePath, Vec<TreePath>>,
    /// Paths that are the same as in the base, where they are one name of several.
    loose: HashSet<TreePath>,
    /// Directories that the base has, too, and whose entries have not been told yet.
    unentered: HashMap<TreePath, NodeId>,
    current: Option<Directory>,
}

/// The directory whose entries are being told.
struct Directory {
    path: TreePath,
    /// What the same directory holds in the base.
    names: Vec<(Name, NodeId)>,
    /// Position of the first of these that was not met.
    next: usize,
}

impl Compare<'_> {
    /// Goes on to another directory.
    fn enter(&mut self, path: &TreePath) {
        if self.current.as_ref().is_some_and(|dir| dir.path == *path) {
            return;
        }
        self.leave();
        let base = match self.unentered.remove(path) {
            Some(base) => Some(base),
            None => self.imply(path),
        };
        let names = base.map_or(Vec::new(), |base| {
            let children = self.base.children(base);
            children.map(|c| (c.name.clone(), c.node)).collect()
        });
        self.current = Some(Directory {
            path: path.clone(),
            names,
            next: 0,
        });
    }

    /// Whites out what is left of the current directory.
    fn leave(&mut self) {
        if let Some(dir) = self.current.take() {
            for (name, _) in dir.names.into_iter().skip(dir.next) {
                self.white_out(&dir.path, name);
            }
        }
    }

    fn white_out_all(&mut self, dir: &TreePath, base: NodeId) {
        let names: Vec<_> = self.base.children(base).map(|c| c.name.clone()).collect();
        for name in names {
            self.white_out(dir, name);
        }
    }

    fn white_out(&mut self, dir: &TreePath, name: Name) {
        let kind = Kind::Whiteout;
        let attrs = Attrs::default();
        self.change(dir, Entry { name, attrs, kind });
    }

    fn change(&mut self, dir: &TreePath, entry: Entry) {
        let names = self.changed.entry(dir.clone()).or_default();
        names.insert(entry.name.clone(), entry);
    }

    /// The directory of the base at `path`, whose entries come though it was not met: it is new, or nobody
    /// described it and those above it, and then it was taken for gone.
    fn imply(&mut self, path: &TreePath) -> Option<NodeId> {
        let mut way = Vec::new();
        let mut below = path.clone();
        while let Some((dir, name)) = below.split() {
            way.push((below, name));
            below = dir;
        }
        let mut dir = TreePath::root();
        for (below, name) in way.into_iter().rev() {
            if let Some(base) = self.unentered.remove(&dir) {
                self.white_out_all(&dir, base);
            }
            let names = self.changed.get_mut(&dir);
            let told = names.filter(|names| {
                let told = names.get(&name);
                told.is_some_and(|entry| entry.kind == Kind::Whiteout)
            });
            if let Some(names) = told {
                names.remove(&name);
                match self
                    .base
                    .lookup(&below)
                    .filter(|node| is_dir(self.base, *node))
                {
                    Some(node) if below != *path => {
                        self.unentered.insert(below.clone(), node);
                    }
                    Some(_) => {}
                    None => self.change(&dir, implied(name)),
                }
            }
            dir = below;
        }
        self.base
            .lookup(path)
            .filter(|node| is_dir(self.base, *node))
    }

    /// The node of the base that the name stands for; names before it are gone.
    fn meet(&mut self, dir: &TreePath, name: &Name) -> Option<NodeId> {
        self.enter(dir);
        let current = self.current.as_mut()?;
        let rest = &current.names[current.next..];
        let gone = rest.partition_point(|(other, _)| other < name);
        let found = rest.get(gone).filter(|(other, _)| other == name);
        let node = found.map(|(_, node)| *node);
        let gone = current.next..current.next + gone;
        current.next = gone.end + usize::from(node.is_some());
        for name in current.names[gone]
            .iter()
            .map(|(name, _)| name.clone())
            .collect::<Vec<_>>()
        {
            self.white_out(dir, name);
        }
        node
    }

    fn directory(
        &mut self,
        dir: &TreePath,
        entry: Entry,
        base: Option<NodeId>,
    ) -> Result<(), PushError> {
        let path = join(dir, &entry.name)?;
        if let Some(base) = base.filter(|base| is_dir(self.base, *base)) {
            self.unentered.insert(path, base);
            if self.base.node(base).attrs == entry.attrs {
                return Ok(());
            }
        }
        let kind = Kind::Directory;
        self.change(dir, Entry { kind, ..entry });
        Ok(())
    }

    fn finish(mut self) -> Result<(), PushError> {
        self.leave();
        for (path, base) in std::mem::take(&mut self.unentered) {
            // The tree has nothing in this directory any more.
            self.white_out_all(&path, base);
        }
        for (first, others) in std::mem::take(&mut self.groups) {
            self.group(first, others)?;
        }
        // They share their node with names that are gone or that are something else now.
        for path in std::mem::take(&mut self.loose) {
            self.tell_again(&path);
        }
        for (dir, names) in std::mem::take(&mut self.changed) {
            for entry in names.into_values() {
                self.visitor.entry(&dir, entry)?;
            }
        }
        Ok(())
    }

    /// Tells a group of hard links, unless the base has the very same.
    fn group(&mut self, first: TreePath, others: Vec<TreePath>) -> Result<(), PushError> {
        let node = self.base.lookup(&first);
        let is_same = self.loose.remove(&first)
            && node.is_some_and(|node| {
                let links = self.base.node(node).links as usize;
                links == 1 + others.len()
                    && others
                        .iter()
                        .all(|other| self.base.lookup(other) == Some(node))
            });
        if is_same {
            return Ok(());
        }
        self.tell_again(&first);
        for other in others {
            if let Some((dir, name)) = other.split() {
                let kind = Kind::HardLink(first.clone());
                let attrs = Attrs::default();
                self.change(&dir, Entry { name, attrs, kind });
            }
        }
        Ok(())
    }

    /// Tells a path that is the same in the base, unless it was told.
    fn tell_again(&mut self, path: &TreePath) {
        let Some((dir, name)) = path.split() else {
            return;
        };
        let told = self
            .changed
            .get(&dir)
            .is_some_and(|names| names.contains_key(&name));
        let Some(node) = self.base.lookup(path).filter(|_| !told) else {
            return;
        };
        let node = self.base.node(node);
        let kind = match &node.data {
            NodeData::File(content) => Kind::File(content.clone()),
            NodeData::Directory(_) => return,
            NodeData::Symlink(target) => Kind::Symlink(target.clone()),
            NodeData::CharDevice(rdev) => Kind::CharDevice(*rdev),
            NodeData::BlockDevice(rdev) => Kind::BlockDevice(*rdev),
            NodeData::Fifo => Kind::Fifo,
            NodeData::Socket => Kind::Socket,
        };
        let attrs = node.attrs.clone();
        self.change(&dir, Entry { name, attrs, kind });
    }
}

impl Visitor for Compare<'_> {
    fn root(&mut self, root: RootEntry) -> Result<(), PushError> {
        match self.base.node(NodeId::ROOT).attrs == root.attrs {
            true => Ok(()),
            false => self.visitor.root(RootEntry {
                opaque: false,
                ..root
            }),
        }
    }

    fn content(
        &mut self,
        path: &TreePath,
        bytes: &mut dyn FileBytes,
    ) -> Result<Content, PushError> {
        self.visitor.content(path, bytes)
    }

    fn entry(&mut self, dir: &TreePath, entry: Entry) -> Result<(), PushError> {
        let base = self.meet(dir, &entry.name);
        let path = join(dir, &entry.name)?;
        match &entry.kind {
            Kind::Whiteout => Err(PushError::NotComplete { path }),
            Kind::Directory | Kind::OpaqueDirectory => self.directory(dir, entry, base),
            Kind::HardLink(first) => {
                self.groups.entry(first.clone()).or_default().push(path);
                Ok(())
            }
            kind => {
                let node = base.map(|base| self.base.node(base));
                match node.filter(|node| node.attrs == entry.attrs && is_same(kind, &node.data)) {
                    None => self.change(dir, entry),
                    Some(node) if node.links > 1 => {
                        self.loose.insert(path);
                    }
                    Some(_) => {}
                }
                Ok(())
            }
        }
    }
}

/// A directory that nobody described, as `compose` makes it.
fn implied(name: Name) -> Entry {
    Entry {
        name,
        attrs: Attrs {
            mode: 0o755,
            ..Attrs::default()
        },
        kind: Kind::Directory,
    }
}

fn is_dir(tree: &Tree, node: NodeId) -> bool {
    matches!(tree.node(node).data, NodeData::Directory(_))
}

/// Whether an entry is the same thing, with the same content, as a node.
fn is_same(kind: &Kind, data: &NodeData) -> bool {
    match (kind, data) {
        (Kind::File(new), NodeData::File(old)) => new == old,
        (Kind::Symlink(new), NodeData::Symlink(old)) => new == old,
        (Kind::CharDevice(new), NodeData::CharDevice(old)) => new == old,
        (Kind::BlockDevice(new), NodeData::BlockDevice(old)) => new == old,
        (Kind::Fifo, NodeData::Fifo) | (Kind::Socket, NodeData::Socket) => true,
        _ => false,
    }
}

fn join(dir: &TreePath, name: &Name) -> Result<TreePath, PushError> {
    let path = std::path::PathBuf::from(dir.to_string());
    dir.join(name)
        .map_err(|source| crate::error::SourceError::Name { path, source }.into())
}
