//! Extent trees walked: where a block of a file lies.

use std::borrow::Cow;

use super::{Metadata, TreeInode, TreeReader};
use crate::ext4::bytes::{get16, get32};
use crate::ext4::extent::{ENTRY_BYTES, MAGIC};

/// Deepest tree, as the kernel has it: four entries, then five blocks of 340, map all of 2^32 blocks.
const MAX_DEPTH: u16 = 5;
/// Longest extent of blocks that were written. A length above it means as many blocks less this one that have a place
/// and were not written: zeros. The layout makes none of them.
const MAX_EXTENT_BLOCKS: u16 = 0x8000;
/// One more than the last block of a file.
const END: u64 = 1 << 32;

/// Neighbouring blocks of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TreeRun {
    /// Blocks of 4096 bytes, at least one; those of a last hole reach beyond the end of the file.
    pub blocks: u64,
    /// The first of them on the disk; none for zeros, with or without a place there.
    pub start: Option<u64>,
}

impl<'a, M: Metadata> TreeReader<'a, M> {
    /// What a file has from its block `logical` on.
    pub fn run(&self, inode: &TreeInode, logical: u32) -> Result<TreeRun, M::Error> {
        if !inode.is_mapped() {
            return Err(inode.fault("an inode has no blocks").into());
        }
        let mut node = Cow::Borrowed(inode.i_block());
        let mut depth = None;
        // The first block of the file that belongs to a later node.
        let mut end = END;
        loop {
            let here = Node::parse(&node, depth).ok_or_else(|| inode.fault(BAD))?;
            let index = here.last_up_to(logical);
            if let Some(next) = here.entry(index.map_or(0, |index| index + 1)) {
                end = end.min(u64::from(get32(next, 0)));
            }
            let entry = index.and_then(|index| here.entry(index));
            let hole = || {
                let blocks = end
                    .checked_sub(u64::from(logical))
                    .filter(|blocks| *blocks > 0);
                let blocks = blocks.ok_or_else(|| inode.fault(BAD))?;
                let start = None;
                Ok(TreeRun { blocks, start })
            };
            let Some(entry) = entry else {
                return hole();
            };
            if here.depth > 0 {
                let child = u64::from(get32(entry, 4)) | u64::from(get16(entry, 8)) << 32;
                depth = Some(here.depth - 1);
                node = self.block(child)?;
                continue;
            }
            let inside = u64::from(logical - get32(entry, 0));
            let (len, written) = match get16(entry, 4) {
                0 => return Err(inode.fault(BAD).into()),
                len @ ..=MAX_EXTENT_BLOCKS => (len, true),
                len => (len - MAX_EXTENT_BLOCKS, false),
            };
            let Some(blocks) = u64::from(len).checked_sub(inside).filter(|left| *left > 0) else {
                return hole();
            };
            let first = u64::from(get32(entry, 8)) | u64::from(get16(entry, 6)) << 32;
            let start = first + inside;
            if first == 0 || start + blocks > self.shape.blocks {
                return Err(inode.fault("an extent leaves the disk").into());
            }
            let start = written.then_some(start);
            return Ok(TreeRun { blocks, start });
        }
    }

    /// The metadata in block `logical` of a directory or a symbolic link.
    pub(super) fn block_of(
        &self,
        inode: &TreeInode,
        logical: u32,
    ) -> Result<Cow<'a, [u8]>, M::Error> {
        let start = self.run(inode, logical)?.start;
        let start = start.ok_or_else(|| inode.fault("metadata lies in a hole"));
        self.block(start?)
    }
}

const BAD: &str = "a damaged extent tree";

/// A node of the tree, in the inode or in a block.
struct Node<'n> {
    /// Levels below it.
    depth: u16,
    entries: &'n [[u8; ENTRY_BYTES]],
}

impl<'n> Node<'n> {
    /// The node, if it is one, of the depth that its parent says.
    fn parse(bytes: &'n [u8], depth: Option<u16>) -> Option<Self> {
        let count = usize::from(get16(bytes, 2));
        let found = get16(bytes, 6);
        let is_node = get16(bytes, 0) == MAGIC && depth.is_none_or(|depth| depth == found);
        if !is_node || found > MAX_DEPTH {
            return None;
        }
        let (entries, _) = bytes.get(ENTRY_BYTES..)?.as_chunks();
        let entries = entries.get(..count)?;
        let depth = found;
        Some(Self { depth, entries })
    }

    fn entry(&self, index: usize) -> Option<&'n [u8; ENTRY_BYTES]> {
        self.entries.get(index)
    }

    /// The last entry that begins at or before a block of the file.
    fn last_up_to(&self, logical: u32) -> Option<usize> {
        let after = self
            .entries
            .partition_point(|entry| get32(entry, 0) <= logical);
        after.checked_sub(1)
    }
}
