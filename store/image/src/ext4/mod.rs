//! ext4 by arithmetic: every block of the file system follows from the tree.

mod acl;
mod bytes;
mod checksum;
mod content;
mod dir;
mod emit;
mod extent;
mod geometry;
mod group;
mod hash;
mod htree;
mod inode;
mod journal;
mod output;
mod place;
mod profile;
mod read;
mod superblock;
mod xattr;

use std::collections::BTreeMap;

use shale_model::limits::BLOCK_BYTES;
use shale_model::{ChunkId, Filesystem, NodeId, PlanParts, Tree};

use crate::error::LayoutError;
use crate::layout::Layout;
use geometry::{GROUP_BLOCKS, GROUP_INODES};
use place::Places;
use profile::Profile;

pub use read::*;

pub(crate) use inode::{MAX_DEVICE_MAJOR, MAX_DEVICE_MINOR, MAX_LINKS};

const BLOCK: u64 = BLOCK_BYTES as u64;

/// A tree whose parts all have their place.
pub(crate) struct Placed<'a> {
    tree: &'a Tree,
    profile: Profile,
    places: Places,
}

impl<'a> Placed<'a> {
    pub(crate) fn new(tree: &'a Tree, filesystem: Filesystem) -> Result<Self, LayoutError> {
        let profile = Profile(filesystem);
        let places = place::place(tree, profile)?;
        let placed = Self {
            tree,
            profile,
            places,
        };
        if placed.minimum_bytes() > profile.max_blocks() * BLOCK {
            return Err(LayoutError::TooLarge);
        }
        Ok(placed)
    }

    /// Bytes of the smallest disk that holds everything.
    pub(crate) fn minimum_bytes(&self) -> u64 {
        let last = NodeId::ROOT.index().max(self.tree.nodes().len() - 1) as u32;
        let inodes = last + superblock::FIRST_INODE;
        let inode_groups = u64::from(inodes.div_ceil(GROUP_INODES));
        let tables = (inode_groups - 1) * GROUP_BLOCKS + 1;
        let end = self.places.end.max(tables);
        self.profile.geometry().at_least(end) * BLOCK
    }

    /// The plan of a disk of `options.disk_bytes`, which are enough.
    pub(crate) fn emit(
        &self,
        options: &Layout,
        synthetic: &BTreeMap<ChunkId, Vec<u8>>,
    ) -> Result<PlanParts, LayoutError> {
        let blocks = (options.disk_bytes / BLOCK).min(self.profile.max_blocks());
        let blocks = self.profile.geometry().at_most(blocks);
        emit::emit(self.tree, &self.places, blocks, options, synthetic)
    }
}
