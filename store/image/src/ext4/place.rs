//! Which blocks everything gets: layer by layer, so that upper layers move nothing of lower ones.
//!
//! ```text
//! journal | lost+found | layer 0 | layer 1 | ... | rest
//! layer    what its names add to directories, targets of symbolic links, attribute blocks; then the
//!          data of each file with the blocks of its extent tree
//! rest     attribute and extent tree blocks of directories, which have only one state, the last
//! ```
//! Blocks of what an upper layer removed stay free. A directory has in each layer's part the blocks
//! that it needs with the layers up to there, beyond those it had.

use std::collections::HashMap;

use shale_model::{DirEntry, LayerNo, Node, NodeData, NodeId, Tree};

use super::content::segments;
use super::dir;
use super::extent;
use super::geometry::{Cursor, Full, Geometry, Piece, Span};
use super::journal::JOURNAL_BLOCKS;
use super::profile::Profile;
use super::superblock::FIRST_INODE;
use super::xattr;
use crate::error::{LayoutError, NodeProblem};

/// Blocks of `lost+found`, as `mke2fs` has them: room for what the check finds.
pub(super) const LOST_FOUND_BLOCKS: u64 = 4;
/// The name that the file system check looks for.
pub(super) const LOST_FOUND: &[u8] = b"lost+found";
/// Longest target of a symbolic link that lies in the inode.
pub(super) const MAX_FAST_SYMLINK: usize = 59;

/// Where everything is.
#[derive(Debug)]
pub(super) struct Places {
    geometry: Geometry,
    nodes: Vec<Place>,
    /// Further blocks of directories that grew in later layers.
    grown: HashMap<NodeId, Vec<Span>>,
    pub(super) journal: Span,
    pub(super) lost_found: Span,
    /// The block after the last that has an owner.
    pub(super) end: u64,
}

/// What a node has on the disk.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Place {
    /// Data of a file, the target of a long symbolic link, the first blocks of a directory.
    pub(super) data: Span,
    /// Blocks of the extent tree.
    pub(super) index: Span,
    /// The block of extended attributes, 0 for none.
    pub(super) xattrs: u32,
}

impl Places {
    pub(super) fn node(&self, id: NodeId) -> Place {
        self.nodes[id.index()]
    }

    /// The first `blocks` blocks of a directory.
    pub(super) fn directory(&self, id: NodeId, blocks: u64) -> Vec<Piece> {
        let first = self.node(id).data;
        let grown = self.grown.get(&id).into_iter().flatten().copied();
        let spans = std::iter::once(first).chain(grown);
        let mut left = blocks;
        let mut pieces: Vec<Piece> = Vec::new();
        for mut piece in spans.flat_map(|span| self.geometry.pieces(span)) {
            piece.blocks = piece.blocks.min(left);
            left -= piece.blocks;
            match pieces.last_mut() {
                _ if piece.blocks == 0 => break,
                Some(last) if last.start + last.blocks == piece.start => {
                    last.blocks += piece.blocks;
                }
                _ => pieces.push(piece),
            }
        }
        pieces
    }
}

/// The inode number of a node: it follows from the node's position alone.
pub(super) fn inode_number(id: NodeId) -> u32 {
    match id.index() as u32 {
        0 => 2,
        index => FIRST_INODE + index,
    }
}

/// Gives every node its blocks.
pub(super) fn place(tree: &Tree, profile: Profile) -> Result<Places, LayoutError> {
    if let Some(id) = tree.child(NodeId::ROOT, LOST_FOUND)
        && !matches!(tree.node(id).data, NodeData::Directory(_))
    {
        return Err(LayoutError::node(tree, id, NodeProblem::LostFound));
    }
    let geometry = profile.geometry();
    let mut cursor = Cursor::new(geometry);
    let journal = cursor.take(JOURNAL_BLOCKS)?;
    let lost_found = cursor.take(LOST_FOUND_BLOCKS)?;
    let places = Places {
        geometry,
        nodes: vec![Place::default(); tree.nodes().len()],
        grown: HashMap::new(),
        journal,
        lost_found,
        end: 0,
    };
    let mut placing = Placing {
        tree,
        profile,
        cursor,
        places,
    };
    let growth = placing.growth()?;
    let mut ids = tree.ids().peekable();
    for (layer, growth) in (0..).zip(growth) {
        let mut brought = Vec::new();
        while let Some(node) = ids.next_if(|(_, node)| node.born == layer) {
            brought.push(node);
        }
        placing.layer(&growth, &brought)?;
    }
    placing.rest()?;
    placing.places.end = placing.cursor.end();
    Ok(placing.places)
}

/// Blocks that one layer adds to a directory.
#[derive(Debug)]
struct Growth {
    directory: NodeId,
    blocks: u64,
}

struct Placing<'a> {
    tree: &'a Tree,
    profile: Profile,
    cursor: Cursor,
    places: Places,
}

impl Placing<'_> {
    /// How directories grow in each layer, in order of node.
    fn growth(&self) -> Result<Vec<Vec<Growth>>, LayoutError> {
        let mut layers: Vec<Vec<Growth>> = Vec::new();
        layers.resize_with(usize::from(self.tree.layers()), Vec::new);
        for (directory, node) in self.tree.ids() {
            let NodeData::Directory(entries) = &node.data else {
                continue;
            };
            let mut had = 0;
            for layer in layers_of(node, entries) {
                let needs = self.directory_blocks(directory, entries, layer)?;
                if let Some(blocks) = needs.checked_sub(had).filter(|blocks| *blocks > 0) {
                    layers[usize::from(layer)].push(Growth { directory, blocks });
                    had = needs;
                }
            }
        }
        Ok(layers)
    }

    /// Blocks of a directory with the layers up to `layer`.
    fn directory_blocks(
        &self,
        id: NodeId,
        entries: &[DirEntry],
        layer: LayerNo,
    ) -> Result<u64, LayoutError> {
        let alive = entries.iter().filter(|entry| entry.alive_at(layer));
        let mut bytes: u64 = alive
            .map(|entry| dir::entry_bytes(entry.name.as_bytes().len()) as u64)
            .sum();
        if id == NodeId::ROOT {
            bytes += dir::entry_bytes(LOST_FOUND.len()) as u64;
        }
        dir::blocks(self.profile, bytes)
            .ok_or_else(|| self.error(id, NodeProblem::DirectorySize(entries.len())))
    }

    fn layer(&mut self, growth: &[Growth], brought: &[(NodeId, &Node)]) -> Result<(), LayoutError> {
        for Growth { directory, blocks } in growth {
            let span = self.cursor.take(*blocks)?;
            let first = &mut self.places.nodes[directory.index()].data;
            if first.blocks == 0 {
                *first = span;
            } else {
                self.places.grown.entry(*directory).or_default().push(span);
            }
        }
        for (id, node) in brought {
            match &node.data {
                NodeData::Symlink(target) if target.len() > MAX_FAST_SYMLINK => {
                    self.places.nodes[id.index()].data = self.cursor.take(1)?;
                }
                NodeData::Directory(_) => continue,
                _ => {}
            }
            self.xattrs(*id, node)?;
        }
        for (id, node) in brought {
            if let NodeData::File(content) = &node.data {
                let (_, segments) = segments(content).map_err(|p| self.error(*id, p))?;
                let blocks = segments.iter().map(|segment| segment.blocks()).sum();
                let data = self.cursor.take(blocks)?;
                let runs = segments.iter().map(|s| (s.logical, s.blocks()));
                let extents = extent::map(runs, self.places.geometry.pieces(data)).len();
                let index = self.cursor.take(extent::index_blocks(extents))?;
                let place = &mut self.places.nodes[id.index()];
                (place.data, place.index) = (data, index);
            }
        }
        Ok(())
    }

    /// What directories have beyond their blocks of names.
    fn rest(&mut self) -> Result<(), LayoutError> {
        let Some(last) = self.tree.layers().checked_sub(1) else {
            return Ok(());
        };
        for (id, node) in self.tree.ids() {
            let NodeData::Directory(entries) = &node.data else {
                continue;
            };
            if node.links == 0 {
                continue;
            }
            self.xattrs(id, node)?;
            let is_simple =
                self.places.node(id).data.blocks == 1 && !self.places.grown.contains_key(&id);
            if !is_simple {
                let blocks = self.directory_blocks(id, entries, last)?;
                let pieces = self.places.directory(id, blocks).len();
                let index = self.cursor.take(extent::index_blocks(pieces))?;
                self.places.nodes[id.index()].index = index;
            }
        }
        Ok(())
    }

    fn xattrs(&mut self, id: NodeId, node: &Node) -> Result<(), LayoutError> {
        let stored = xattr::store(&node.attrs.xattrs).map_err(|p| self.error(id, p))?;
        if stored.block.is_some() {
            self.places.nodes[id.index()].xattrs = self.cursor.take(1)?.start;
        }
        Ok(())
    }

    fn error(&self, id: NodeId, problem: NodeProblem) -> LayoutError {
        LayoutError::node(self.tree, id, problem)
    }
}

/// The layers in which a directory may need more blocks: the one that brought it, and each that
/// brought a name into it.
fn layers_of(node: &Node, entries: &[DirEntry]) -> impl Iterator<Item = LayerNo> {
    // A bit for each of at most 128 layers.
    let bits = entries
        .iter()
        .fold(1u128 << node.born, |bits, entry| bits | 1u128 << entry.born);
    (0..128).filter(move |layer| bits >> layer & 1 == 1)
}

const _: () = assert!(shale_model::limits::MAX_LAYERS <= 128);

impl From<Full> for LayoutError {
    fn from(_: Full) -> Self {
        LayoutError::TooLarge
    }
}
