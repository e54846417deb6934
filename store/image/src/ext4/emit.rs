//! Writes a placed tree: inodes in order of number, and what each of them refers to.

use shale_model::limits::BLOCK_BYTES;
use shale_model::{Attrs, Content, MODE_BITS, Node, NodeData, NodeId, PlanParts, Tree};

use super::content::segments;
use super::dir::{self, Dir, DirName};
use super::extent::{self, Extent, Root};
use super::geometry::{GROUP_INODES, Geometry, INODE_BYTES, Piece, Span};
use super::group::Usage;
use super::inode::{self, EXTENTS_FLAG, INDEX_FLAG, Inode, MAX_LINKS, mode};
use super::journal::{self, JOURNAL_BLOCKS, JOURNAL_INODE};
use super::output::{Output, Synthetic};
use super::place::{LOST_FOUND, LOST_FOUND_BLOCKS, MAX_FAST_SYMLINK, Places, inode_number};
use super::profile::Profile;
use super::superblock::{FIRST_INODE, SUPERBLOCK_BYTES, Superblock};
use super::xattr;
use crate::error::{LayoutError, NodeProblem};
use crate::layout::Layout;

const BLOCK: u64 = BLOCK_BYTES as u64;

/// Writes `tree` at `places` on a file system of `blocks` blocks.
pub(super) fn emit(
    tree: &Tree,
    places: &Places,
    blocks: u64,
    options: &Layout,
    synthetic: &Synthetic,
) -> Result<PlanParts, LayoutError> {
    let profile = Profile(options.filesystem);
    let geometry = profile.geometry();
    let mut writer = Writer {
        tree,
        places,
        profile,
        geometry,
        out: Output::new(synthetic, synthesised_bytes(tree, synthetic)),
        usage: Usage::new(geometry, blocks),
        parents: parents(tree),
        directory: Vec::new(),
    };
    let journal = writer.inodes(&options.uuid)?;
    let Writer { mut out, usage, .. } = writer;
    let groups = usage.groups();
    let free = usage.write(profile, &options.uuid, &mut out);
    let superblock = Superblock {
        profile,
        uuid: &options.uuid,
        blocks,
        groups,
        free_blocks: free.blocks,
        free_inodes: free.inodes,
        overhead: free.overhead,
        journal,
    };
    for group in (0..groups).filter(|group| geometry.has_superblock(*group)) {
        // The first block begins with room for a boot loader.
        let start = if group == 0 { SUPERBLOCK_BYTES } else { 0 };
        let mut block = [0; BLOCK_BYTES];
        block[start..start + SUPERBLOCK_BYTES].copy_from_slice(&superblock.encode(group));
        out.block(geometry.first_block(group), &block);
    }
    Ok(out.finish(options.template, options.disk_bytes))
}

/// About as many bytes as will be synthesised: inodes, directories, merged files, and some blocks of the file system's
/// own.
fn synthesised_bytes(tree: &Tree, synthetic: &Synthetic) -> usize {
    const OTHERS: usize = 64 * BLOCK_BYTES;
    let directory = |(_, node): &(NodeId, &Node)| matches!(node.data, NodeData::Directory(_));
    let directories = tree.ids().filter(directory).count();
    let merged: usize = synthetic.values().map(Vec::len).sum();
    tree.nodes().len() * INODE_BYTES + directories * BLOCK_BYTES + merged + OTHERS
}

struct Writer<'a> {
    tree: &'a Tree,
    places: &'a Places,
    profile: Profile,
    geometry: Geometry,
    out: Output<'a>,
    usage: Usage,
    /// The inode of the directory that each directory is in, by position of node.
    parents: Vec<u32>,
    /// The blocks of one directory; kept for its memory.
    directory: Vec<u8>,
}

impl Writer<'_> {
    /// Writes all inodes and what they refer to, gives the root of the journal's extent tree.
    fn inodes(&mut self, uuid: &[u8; 16]) -> Result<Root, LayoutError> {
        let mut ids = self.tree.ids();
        let root = ids.next();
        let journal = self.journal(uuid);
        let journal_root = journal.block;
        let mut table = Table::new();
        for number in 1..FIRST_INODE {
            self.usage.use_inode(number);
        }
        if let Some((id, node)) = root {
            self.node(id, node, &mut table)?;
        }
        self.own(JOURNAL_INODE, &journal, &mut table)?;
        if self.makes_lost_found() {
            let lost_found = self.lost_found();
            self.usage.use_inode(FIRST_INODE);
            self.own(FIRST_INODE, &lost_found, &mut table)?;
        }
        for (id, node) in ids.filter(|(_, node)| node.links > 0) {
            self.usage.use_inode(inode_number(id));
            self.node(id, node, &mut table)?;
        }
        table.write(self.geometry, &mut self.out);
        Ok(journal_root)
    }

    fn node(&mut self, id: NodeId, node: &Node, table: &mut Table) -> Result<(), LayoutError> {
        let number = inode_number(id);
        let written = self
            .inode(id, node)
            .and_then(|inode| self.put(number, &inode, &node.attrs, table));
        written.map_err(|problem| LayoutError::node(self.tree, id, problem))
    }

    fn put(
        &mut self,
        number: u32,
        inode: &Inode,
        attrs: &Attrs,
        table: &mut Table,
    ) -> Result<(), NodeProblem> {
        let to = table.inode(number, self.geometry, &mut self.out);
        inode.encode(self.profile, number, attrs, to)
    }

    /// An inode of the file system's own.
    fn own(&mut self, number: u32, inode: &Inode, table: &mut Table) -> Result<(), LayoutError> {
        let written = self.put(number, inode, &Attrs::default(), table);
        written.map_err(|problem| LayoutError::node(self.tree, NodeId::ROOT, problem))
    }

    fn inode(&mut self, id: NodeId, node: &Node) -> Result<Inode, NodeProblem> {
        let mut inode = match &node.data {
            NodeData::File(content) => self.file(id, content)?,
            NodeData::Directory(_) => self.directory(id),
            NodeData::Symlink(target) => self.symlink(id, target),
            NodeData::CharDevice(rdev) => special(mode::CHAR, inode::device(*rdev)?),
            NodeData::BlockDevice(rdev) => special(mode::BLOCK, inode::device(*rdev)?),
            NodeData::Fifo => special(mode::FIFO, [0; 60]),
            NodeData::Socket => special(mode::SOCKET, [0; 60]),
        };
        inode.mode |= node.attrs.mode & MODE_BITS;
        let own = u32::from(id == NodeId::ROOT && self.makes_lost_found());
        inode.links = match node.links + own {
            links if links <= MAX_LINKS => links as u16,
            _ if inode.mode & mode::TYPE == mode::DIRECTORY => 1,
            links => return Err(NodeProblem::Links(links)),
        };
        let stored = xattr::store(&node.attrs.xattrs)?;
        inode.xattrs = stored.inline;
        if let Some(mut block) = stored.block {
            let start = u64::from(self.places.node(id).xattrs);
            xattr::sign(self.profile, start, &mut block);
            self.out.block(start, &block[..]);
            self.usage.use_blocks(Piece { start, blocks: 1 });
            inode.xattr_block = start as u32;
            inode.blocks += 1;
        }
        Ok(inode)
    }

    fn file(&mut self, id: NodeId, content: &Content) -> Result<Inode, NodeProblem> {
        let (size, segments) = segments(content)?;
        let place = self.places.node(id);
        let mut pieces = self.geometry.pieces(place.data);
        for segment in &segments {
            let chunks = &content.extents()[segment.chunks.clone()];
            self.out.chunks(chunks, &mut pieces)?;
        }
        let runs = segments.iter().map(|s| (s.logical, s.blocks()));
        let extents = extent::map(runs, self.geometry.pieces(place.data));
        let number = inode_number(id);
        Ok(self.mapped(number, mode::REGULAR, size, &extents, place.index))
    }

    fn symlink(&mut self, id: NodeId, target: &[u8]) -> Inode {
        let size = target.len() as u64;
        if target.len() <= MAX_FAST_SYMLINK {
            let mut root = [0; 60];
            root[..target.len()].copy_from_slice(target);
            let mut inode = special(mode::SYMLINK, root);
            inode.size = size;
            return inode;
        }
        let place = self.places.node(id);
        let extents = extent::map([(0, 1)], self.geometry.pieces(place.data));
        self.out.block(extents[0].piece.start, target);
        self.mapped(inode_number(id), mode::SYMLINK, size, &extents, place.index)
    }

    fn directory(&mut self, id: NodeId) -> Inode {
        let tree = self.tree;
        let mut names: Vec<DirName<'_>> = tree
            .children(id)
            .map(|entry| DirName {
                name: entry.name.as_bytes(),
                inode: inode_number(entry.node),
                kind: entry_type(&tree.node(entry.node).data),
            })
            .collect();
        if id == NodeId::ROOT && self.makes_lost_found() {
            names.push(DirName {
                name: LOST_FOUND,
                inode: FIRST_INODE,
                kind: dir::DIRECTORY_TYPE,
            });
        }
        let number = inode_number(id);
        let dir = Dir {
            profile: self.profile,
            inode: number,
            parent: self.parents[id.index()],
        };
        let mut bytes = std::mem::take(&mut self.directory);
        bytes.clear();
        dir.write(&names, &mut bytes);
        let pieces = self.places.directory(id, bytes.len() as u64 / BLOCK);
        let index = self.places.node(id).index;
        let inode = self.directory_inode(number, &bytes, pieces, index);
        self.directory = bytes;
        inode
    }

    /// Whether the tree has no `lost+found` of its own.
    fn makes_lost_found(&self) -> bool {
        self.tree.child(NodeId::ROOT, LOST_FOUND).is_none()
    }

    /// The directory that the file system check puts things into, empty.
    fn lost_found(&mut self) -> Inode {
        let dir = Dir {
            profile: self.profile,
            inode: FIRST_INODE,
            parent: inode_number(NodeId::ROOT),
        };
        let mut bytes = Vec::new();
        dir.write(&[], &mut bytes);
        for _ in 1..LOST_FOUND_BLOCKS {
            dir.fill(dir::add_block(&mut bytes), 0, []);
        }
        let pieces = self.geometry.pieces(self.places.lost_found).collect();
        let mut inode = self.directory_inode(FIRST_INODE, &bytes, pieces, Span::default());
        (inode.mode, inode.links) = (mode::DIRECTORY | 0o700, 2);
        inode
    }

    fn directory_inode(
        &mut self,
        number: u32,
        bytes: &[u8],
        pieces: Vec<Piece>,
        index: Span,
    ) -> Inode {
        let mut extents = Vec::with_capacity(pieces.len());
        let mut rest = bytes;
        let mut logical = 0;
        for piece in pieces {
            let (here, after) = rest.split_at((piece.blocks * BLOCK) as usize);
            self.out.block(piece.start, here);
            extents.push(Extent { logical, piece });
            logical += piece.blocks as u32;
            rest = after;
        }
        self.usage.count_directory(number);
        let size = bytes.len() as u64;
        let mut inode = self.mapped(number, mode::DIRECTORY, size, &extents, index);
        if size > BLOCK && number != FIRST_INODE {
            inode.flags |= INDEX_FLAG;
        }
        inode
    }

    fn journal(&mut self, uuid: &[u8; 16]) -> Inode {
        let span = self.places.journal;
        let extents = extent::map([(0, JOURNAL_BLOCKS)], self.geometry.pieces(span));
        self.out
            .block(u64::from(span.start), &journal::superblock(uuid));
        let size = JOURNAL_BLOCKS * BLOCK;
        let mut inode = self.mapped(
            JOURNAL_INODE,
            mode::REGULAR | 0o600,
            size,
            &extents,
            Span::default(),
        );
        inode.links = 1;
        inode
    }

    /// An inode over `extents`, whose tree lies in `index`; takes the blocks of both into use.
    fn mapped(
        &mut self,
        number: u32,
        mode: u16,
        size: u64,
        extents: &[Extent],
        index: Span,
    ) -> Inode {
        let seed = self
            .profile
            .has_checksums()
            .then(|| self.profile.inode_seed(number));
        let index = Span {
            blocks: extent::index_blocks(extents.len()) as u32,
            ..index
        };
        let numbers = self.geometry.pieces(index);
        let numbers = numbers.flat_map(|piece| piece.start..piece.start + piece.blocks);
        let out = &mut self.out;
        let root = extent::tree(extents, numbers, seed, |at, block| out.block(at, block));
        let data = extents.iter().map(|extent| extent.piece);
        let mut blocks = 0;
        for piece in data.chain(self.geometry.pieces(index)) {
            self.usage.use_blocks(piece);
            blocks += piece.blocks;
        }
        Inode {
            size,
            blocks,
            flags: EXTENTS_FLAG,
            ..special(mode, root)
        }
    }
}

/// An inode without blocks.
fn special(mode: u16, block: Root) -> Inode {
    Inode {
        mode,
        links: 0,
        size: 0,
        blocks: 0,
        flags: 0,
        block,
        xattr_block: 0,
        xattrs: Vec::new(),
    }
}

fn entry_type(data: &NodeData) -> u8 {
    match data {
        NodeData::File(_) => 1,
        NodeData::Directory(_) => dir::DIRECTORY_TYPE,
        NodeData::CharDevice(_) => 3,
        NodeData::BlockDevice(_) => 4,
        NodeData::Fifo => 5,
        NodeData::Socket => 6,
        NodeData::Symlink(_) => 7,
    }
}

fn parents(tree: &Tree) -> Vec<u32> {
    let mut parents = vec![inode_number(NodeId::ROOT); tree.nodes().len()];
    for (id, _) in tree.ids() {
        for entry in tree.children(id) {
            parents[entry.node.index()] = inode_number(id);
        }
    }
    parents
}

/// The inode table of one group as it fills.
struct Table {
    group: u64,
    bytes: Vec<u8>,
}

impl Table {
    fn new() -> Self {
        let (group, bytes) = (0, Vec::new());
        Self { group, bytes }
    }

    /// The bytes of an inode, which are still zero. Numbers only rise.
    fn inode(&mut self, number: u32, geometry: Geometry, out: &mut Output<'_>) -> &mut [u8] {
        let group = u64::from((number - 1) / GROUP_INODES);
        if group != self.group {
            self.write(geometry, out);
            self.group = group;
        }
        let start = ((number - 1) % GROUP_INODES) as usize * INODE_BYTES;
        self.bytes.resize(start + INODE_BYTES, 0);
        &mut self.bytes[start..]
    }

    fn write(&mut self, geometry: Geometry, out: &mut Output<'_>) {
        out.block(geometry.inode_table(self.group), &self.bytes);
        self.bytes.clear();
    }
}
