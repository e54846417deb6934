//! All names of an archive, held compactly until they can be told in layer order.
//!
//! As in a file system, names lead to nodes: a member that comes again replaces its name, and a hard link
//! keeps the node that its target had when it came.

use std::collections::{BTreeMap, HashMap, HashSet};

use shale_model::limits::MAX_ENTRIES;
use shale_model::{
    Attrs, ChunkId, Content, Entry, Extent, Kind, Mtime, Name, Rdev, RootEntry, TreePath, Xattrs,
};

use super::member::Owner;
use crate::error::{PushError, TarError, TarProblem};
use crate::source::Visitor;

/// What a node is and holds.
#[derive(Debug)]
pub(super) enum Data {
    Directory,
    /// A file of one chunk, as most are.
    Chunk(ChunkId, u32),
    Content(Content),
    Symlink(Box<[u8]>),
    CharDevice(Rdev),
    BlockDevice(Rdev),
    Fifo,
}

impl From<Kind> for Data {
    /// From a file or a symbolic link.
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::File(content) => match content.extents() {
                [Extent::Chunk { id, len }] => Data::Chunk(*id, *len),
                _ => Data::Content(content),
            },
            Kind::Symlink(target) => Data::Symlink(target),
            _ => Data::Directory,
        }
    }
}

#[derive(Debug)]
struct Node {
    /// Number of its mode, owner and extended attributes, which many nodes share.
    row: u32,
    /// The parts of its time, which together would take four bytes more.
    seconds: i64,
    nanos: u32,
    data: Data,
}

/// A name: a node, a whiteout, or both, which hides the lower layers and shows the node. In one word, which lies beside
/// a name without a gap.
#[derive(Debug, Clone, Copy)]
struct Slot(u32);

impl Slot {
    const WHITEOUT: u32 = 1 << 31;
    /// In place of a node's number.
    const NO_NODE: u32 = Self::WHITEOUT - 1;

    fn node(self) -> Option<u32> {
        Some(self.0 & !Self::WHITEOUT).filter(|node| *node != Self::NO_NODE)
    }

    fn set_node(&mut self, node: u32) {
        self.0 = self.0 & Self::WHITEOUT | node;
    }

    fn is_whiteout(self) -> bool {
        self.0 & Self::WHITEOUT != 0
    }

    fn set_whiteout(&mut self) {
        self.0 |= Self::WHITEOUT;
    }
}

impl Default for Slot {
    fn default() -> Self {
        Self(Self::NO_NODE)
    }
}

/// Each node is of a member of its own.
const _: () = assert!(MAX_ENTRIES < Slot::NO_NODE as u64);

/// The names in one directory. Most archives have them in order, and then they lie side by side: a map that is filled
/// in order is half empty.
#[derive(Debug, Default)]
struct Names {
    in_order: Vec<(Name, Slot)>,
    /// Those that came after one that is larger.
    late: BTreeMap<Name, Slot>,
}

impl Names {
    /// The slot of `name`, an empty one if it is new.
    fn slot(&mut self, name: Name) -> &mut Slot {
        let is_next = self.in_order.last().is_none_or(|(last, _)| *last < name);
        let at = match self.position(&name) {
            Ok(at) => at,
            Err(at) if is_next => {
                self.in_order.push((name, Slot::default()));
                at
            }
            Err(_) => return self.late.entry(name).or_default(),
        };
        &mut self.in_order[at].1
    }

    fn get(&self, name: &Name) -> Option<Slot> {
        match self.position(name) {
            Ok(at) => Some(self.in_order[at].1),
            Err(_) => self.late.get(name).copied(),
        }
    }

    /// Where it is in those that came in order, or would be.
    fn position(&self, name: &Name) -> Result<usize, usize> {
        self.in_order.binary_search_by(|(other, _)| other.cmp(name))
    }

    fn first(&self) -> Option<&Name> {
        let in_order = self.in_order.first().map(|(name, _)| name);
        in_order.into_iter().chain(self.late.keys().next()).min()
    }

    /// All of them, in order.
    fn sorted(mut self) -> Vec<(Name, Slot)> {
        if !self.late.is_empty() {
            self.in_order.extend(self.late);
            // Two runs in order, which the sort only merges.
            self.in_order.sort_by(|a, b| a.0.cmp(&b.0));
        }
        self.in_order
    }
}

/// The names of an archive.
#[derive(Debug, Default)]
pub(super) struct Collected {
    root: Option<Attrs>,
    opaque: HashSet<TreePath>,
    dirs: HashMap<TreePath, Names>,
    /// Members of the archive so far, also those whose name comes again.
    members: u64,
    nodes: Vec<Node>,
    rows: Vec<(Owner, Xattrs)>,
    row_numbers: HashMap<(Owner, Xattrs), u32>,
    /// Nodes with more than one name, with the first in layer order once it was told.
    linked: HashMap<u32, Option<TreePath>>,
}

impl Collected {
    /// The attributes of the root directory.
    pub(super) fn set_root(&mut self, owner: Owner, xattrs: Xattrs, mtime: Mtime) {
        self.root = Some(attrs(&(owner, xattrs), mtime));
    }

    /// The lower layers' names in `dir` are hidden.
    pub(super) fn set_opaque(&mut self, dir: TreePath) -> Result<(), TarProblem> {
        self.count()?;
        self.opaque.insert(dir);
        Ok(())
    }

    /// The lower layers' `name` in `dir` is hidden.
    pub(super) fn white_out(&mut self, dir: TreePath, name: Name) -> Result<(), TarProblem> {
        self.slot(dir, name)?.set_whiteout();
        Ok(())
    }

    /// Gives `name` in `dir` a new node.
    pub(super) fn add(
        &mut self,
        dir: TreePath,
        name: Name,
        (owner, xattrs, mtime): (Owner, Xattrs, Mtime),
        data: Data,
    ) -> Result<(), TarProblem> {
        let node = self.nodes.len() as u32;
        self.slot(dir, name)?.set_node(node);
        let row = (owner, xattrs);
        let next = self.rows.len() as u32;
        let number = match self.row_numbers.get(&row) {
            Some(number) => *number,
            None => {
                self.rows.push(row.clone());
                self.row_numbers.insert(row, next);
                next
            }
        };
        let Mtime { seconds, nanos } = mtime;
        self.nodes.push(Node {
            row: number,
            seconds,
            nanos,
            data,
        });
        Ok(())
    }

    /// Gives `name` in `dir` the node of `target`; whether there is one that can have more names.
    pub(super) fn link(
        &mut self,
        dir: TreePath,
        name: Name,
        target: &TreePath,
    ) -> Result<bool, TarProblem> {
        let Some(node) = self.node(target).filter(|node| !self.is_dir(*node)) else {
            return Ok(false);
        };
        self.slot(dir, name)?.set_node(node);
        self.linked.insert(node, None);
        Ok(true)
    }

    /// The slot of one more member.
    fn slot(&mut self, dir: TreePath, name: Name) -> Result<&mut Slot, TarProblem> {
        self.count()?;
        Ok(self.dirs.entry(dir).or_default().slot(name))
    }

    fn count(&mut self) -> Result<(), TarProblem> {
        if self.members >= MAX_ENTRIES {
            return Err(TarProblem::TooMany);
        }
        self.members += 1;
        Ok(())
    }

    /// Hands everything to `visitor`, in layer order.
    pub(super) fn finish(mut self, visitor: &mut dyn Visitor) -> Result<(), PushError> {
        self.check_tree()?;
        if let Some(attrs) = self.root.take() {
            let opaque = self.opaque.contains(&TreePath::root());
            visitor.root(RootEntry { attrs, opaque })?;
        }
        let mut dirs: Vec<_> = std::mem::take(&mut self.dirs).into_iter().collect();
        dirs.sort_by(|a, b| a.0.cmp(&b.0));
        for (dir, names) in dirs {
            for (name, slot) in names.sorted() {
                let entry = self.entry(&dir, name, slot)?;
                visitor.entry(&dir, entry)?;
            }
        }
        Ok(())
    }

    fn entry(&mut self, dir: &TreePath, name: Name, slot: Slot) -> Result<Entry, TarError> {
        let empty = |name, kind| Entry {
            name,
            attrs: Attrs::default(),
            kind,
        };
        let Some(number) = slot.node() else {
            return Ok(empty(name, Kind::Whiteout));
        };
        let path = || dir.join(&name).map_err(|e| fault(dir, e.into()));
        if let Some(first) = self.linked.get_mut(&number) {
            match first {
                Some(first) => return Ok(empty(name, Kind::HardLink(first.clone()))),
                None => *first = Some(path()?),
            }
        }
        let node = &self.nodes[number as usize];
        let kind = match &node.data {
            Data::Directory => {
                let is_opaque = slot.is_whiteout() || self.opaque.contains(&path()?);
                match is_opaque {
                    true => Kind::OpaqueDirectory,
                    false => Kind::Directory,
                }
            }
            Data::Chunk(id, len) => {
                let content = Content::new(vec![Extent::Chunk { id: *id, len: *len }]);
                Kind::File(content.map_err(|e| fault(dir, e.into()))?)
            }
            Data::Content(content) => Kind::File(content.clone()),
            Data::Symlink(target) => Kind::Symlink(target.clone()),
            Data::CharDevice(rdev) => Kind::CharDevice(*rdev),
            Data::BlockDevice(rdev) => Kind::BlockDevice(*rdev),
            Data::Fifo => Kind::Fifo,
        };
        let (seconds, nanos) = (node.seconds, node.nanos);
        let attrs = attrs(&self.rows[node.row as usize], Mtime { seconds, nanos });
        Ok(Entry { name, attrs, kind })
    }

    /// Checks that names lie in directories, and that opaque directories are described.
    fn check_tree(&self) -> Result<(), TarError> {
        self.check_dirs()?;
        for dir in &self.opaque {
            let described = match dir.is_root() {
                true => self.root.is_some(),
                false => self.node(dir).is_some_and(|node| self.is_dir(node)),
            };
            if !described {
                let rule = "an opaque directory must be in the archive itself";
                return Err(fault(dir, TarProblem::Whiteout(rule)));
            }
        }
        Ok(())
    }

    /// Checks that names lie in directories. In order of path, what holds a directory comes before it, and its names are
    /// still at hand: each component is looked at once, however deep trees are.
    fn check_dirs(&self) -> Result<(), TarError> {
        let mut dirs: Vec<_> = self.dirs.iter().collect();
        dirs.sort_by(|a, b| a.0.cmp(b.0));
        let mut last: Vec<&[u8]> = Vec::new();
        // The names in the root, and in what each component of the last path leads to.
        let mut above: Vec<Option<&Names>> = vec![None];
        for (dir, names) in dirs {
            let path: Vec<&[u8]> = dir.components().collect();
            let shared = path.iter().zip(&last).take_while(|(a, b)| a == b).count();
            above.truncate(shared + 1);
            for (depth, name) in path.iter().enumerate().skip(shared) {
                let slot = above[depth].and_then(|names| names.get(&Name::new(name).ok()?));
                if slot.is_some_and(|slot| slot.node().is_none_or(|node| !self.is_dir(node))) {
                    let first = names.first().and_then(|name| dir.join(name).ok());
                    let member = first.unwrap_or_else(|| dir.clone());
                    let other = TreePath::new(&path[..=depth].join(&b'/')).unwrap_or_default();
                    return Err(fault(&member, TarProblem::NotDirectory(other)));
                }
                above.push(None);
            }
            above[path.len()] = Some(names);
            last = path;
        }
        Ok(())
    }

    fn node(&self, path: &TreePath) -> Option<u32> {
        let (dir, name) = path.split()?;
        self.dirs.get(&dir)?.get(&name)?.node()
    }

    fn is_dir(&self, node: u32) -> bool {
        matches!(self.nodes[node as usize].data, Data::Directory)
    }
}

fn attrs(((mode, uid, gid), xattrs): &(Owner, Xattrs), mtime: Mtime) -> Attrs {
    Attrs {
        mode: *mode,
        uid: *uid,
        gid: *gid,
        mtime,
        xattrs: xattrs.clone(),
    }
}

fn fault(path: &TreePath, problem: TarProblem) -> TarError {
    TarError {
        member: super::escape(path.as_bytes()),
        problem,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In whatever order names come, they are those of a map.
    #[test]
    fn names_are_those_of_a_map() {
        let name = |number: usize| Name::new(format!("{number:02}").as_bytes()).unwrap();
        for (step, count) in [(1, 40), (39, 40), (7, 40), (13, 25)] {
            let (mut names, mut map) = (Names::default(), BTreeMap::new());
            for at in 0..2 * count {
                // The second time around every name is there already.
                let (name, node) = (name(at * step % count), at as u32);
                names.slot(name.clone()).set_node(node);
                map.insert(name, node);
            }
            names.slot(name(3)).set_whiteout();
            assert_eq!(names.first(), map.keys().next());
            for (name, node) in &map {
                assert_eq!(names.get(name).and_then(Slot::node), Some(*node));
            }
            assert!(names.get(&name(count)).is_none());
            let (whiteouts, sorted): (Vec<_>, Vec<_>) = names
                .sorted()
                .into_iter()
                .map(|(name, slot)| (slot.is_whiteout(), (name, slot.node().unwrap())))
                .unzip();
            assert_eq!(sorted, map.into_iter().collect::<Vec<_>>());
            assert_eq!(whiteouts.iter().filter(|out| **out).count(), 1);
            assert!(whiteouts[3]);
        }
    }

    #[test]
    fn every_kind_of_member_counts() {
        let dir = TreePath::root;
        let name = |text: &str| Name::new(text.as_bytes()).unwrap();
        let mut all = Collected::default();
        let attrs = || Default::default();
        all.add(dir(), name("a"), attrs(), Data::Fifo).unwrap();
        let target = dir().join(&name("a")).unwrap();
        all.link(dir(), name("b"), &target).unwrap();
        all.white_out(dir(), name("c")).unwrap();
        all.set_opaque(dir()).unwrap();
        assert_eq!(all.members, 4);
        all.members = MAX_ENTRIES;
        let full = [
            all.add(dir(), name("d"), attrs(), Data::Fifo),
            all.link(dir(), name("d"), &target).map(drop),
            all.white_out(dir(), name("d")),
            all.set_opaque(dir()),
        ];
        for result in full {
            assert!(matches!(result, Err(TarProblem::TooMany)), "{result:?}");
        }
    }
}
