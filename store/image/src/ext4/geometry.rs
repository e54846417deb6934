//! Where everything of a block group lies: the same on a disk of any size.
//!
//! ```text
//! group    [superblock] [descriptors] block bitmap | inode bitmap | 512 blocks of inodes | data
//! ```
//! Groups 0, 1 and the powers of 3, 5, 7 hold a copy of the superblock (`sparse_super`). With `meta_bg`
//! the descriptors of a metagroup, as many groups as one block describes, lie in its first, second and
//! last group. So no table grows with the disk, and a larger disk only has more groups.

use shale_model::limits::{BLOCK_BYTES, MAX_FILE_BYTES};

/// Blocks of one group: one block of bitmap describes them.
pub(super) const GROUP_BLOCKS: u64 = 8 * BLOCK_BYTES as u64;
/// Inodes of one group: one for each 16 KiB of disk, as `mke2fs` has it.
pub(super) const GROUP_INODES: u32 = 8192;
/// Bytes of an inode: 128, and room for nanoseconds, a checksum and small extended attributes.
pub(super) const INODE_BYTES: usize = 256;
/// Inodes in one block.
pub(super) const BLOCK_INODES: usize = BLOCK_BYTES / INODE_BYTES;
/// Blocks of one group's inode table.
pub(super) const TABLE_BLOCKS: u64 = GROUP_INODES as u64 / BLOCK_INODES as u64;
/// Most blocks of a disk: block numbers of plans and of files have 32 bits.
pub(super) const MAX_BLOCKS: u64 = MAX_FILE_BYTES / BLOCK_BYTES as u64;
/// Fewest blocks that a last group has beyond its metadata, as `mke2fs` has it: a smaller rest of the
/// disk stays unused.
const MIN_GROUP_DATA: u64 = 50;

/// A run of data blocks. It steps over the metadata of the groups that it crosses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Span {
    /// First block.
    pub(super) start: u32,
    /// Blocks of data.
    pub(super) blocks: u32,
}

/// Neighbouring blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Piece {
    /// First block.
    pub(super) start: u64,
    /// Blocks, at least one.
    pub(super) blocks: u64,
}

/// The arithmetic of groups.
#[derive(Debug, Clone, Copy)]
pub(super) struct Geometry {
    /// Groups whose descriptors fill one block.
    pub(super) metagroup: u64,
}

impl Geometry {
    /// Whether a group begins with a copy of the superblock.
    pub(super) fn has_superblock(self, group: u64) -> bool {
        let power_of = |base: u64| {
            let mut power = base;
            while power < group {
                power *= base;
            }
            power == group
        };
        group <= 1 || [3, 5, 7].into_iter().any(power_of)
    }

    /// Whether a group holds a copy of its metagroup's descriptors.
    pub(super) fn has_descriptors(self, group: u64) -> bool {
        let place = group % self.metagroup;
        place <= 1 || place == self.metagroup - 1
    }

    /// The first block of a group.
    pub(super) fn first_block(self, group: u64) -> u64 {
        group * GROUP_BLOCKS
    }

    /// The block of a group's copy of the descriptors, if it has one.
    pub(super) fn descriptors(self, group: u64) -> u64 {
        self.first_block(group) + u64::from(self.has_superblock(group))
    }

    /// The block of a group's block bitmap; the inode bitmap and the inode table follow it.
    pub(super) fn block_bitmap(self, group: u64) -> u64 {
        self.descriptors(group) + u64::from(self.has_descriptors(group))
    }

    /// The first block of a group's inode table.
    pub(super) fn inode_table(self, group: u64) -> u64 {
        self.block_bitmap(group) + 2
    }

    /// The first data block of a group.
    pub(super) fn data_start(self, group: u64) -> u64 {
        self.inode_table(group) + TABLE_BLOCKS
    }

    /// Blocks of metadata at the start of a group.
    pub(super) fn overhead(self, group: u64) -> u64 {
        self.data_start(group) - self.first_block(group)
    }

    /// The first end of a disk, in blocks, at or after `end` with a last group that is large enough.
    pub(super) fn at_least(self, end: u64) -> u64 {
        let last = end.saturating_sub(1) / GROUP_BLOCKS;
        end.max(self.data_start(last) + MIN_GROUP_DATA)
    }

    /// The last end of a file system, in blocks, at or before `end` with a last group that is large
    /// enough.
    pub(super) fn at_most(self, end: u64) -> u64 {
        if end == self.at_least(end) {
            end
        } else {
            (end - 1) / GROUP_BLOCKS * GROUP_BLOCKS
        }
    }

    /// The neighbouring blocks that `span` is made of.
    pub(super) fn pieces(self, span: Span) -> Pieces {
        Pieces {
            geometry: self,
            next: u64::from(span.start),
            left: u64::from(span.blocks),
        }
    }
}

/// Iterator of [`Geometry::pieces`].
#[derive(Debug)]
pub(super) struct Pieces {
    geometry: Geometry,
    next: u64,
    left: u64,
}

impl Pieces {
    /// The next neighbouring blocks, not more than `most`.
    pub(super) fn up_to(&mut self, most: u64) -> Option<Piece> {
        let start = match self.next {
            next if next % GROUP_BLOCKS == 0 => self.geometry.data_start(next / GROUP_BLOCKS),
            next => next,
        };
        let group_end = (start / GROUP_BLOCKS + 1) * GROUP_BLOCKS;
        let blocks = self.left.min(group_end - start).min(most);
        self.left -= blocks;
        self.next = start + blocks;
        (blocks > 0).then_some(Piece { start, blocks })
    }
}

impl Iterator for Pieces {
    type Item = Piece;

    fn next(&mut self) -> Option<Piece> {
        self.up_to(u64::MAX)
    }
}

/// Hands out data blocks in order.
#[derive(Debug)]
pub(super) struct Cursor {
    geometry: Geometry,
    /// The block after the last that was handed out.
    end: u64,
}

/// There are no more block numbers.
#[derive(Debug)]
pub(super) struct Full;

impl Cursor {
    pub(super) fn new(geometry: Geometry) -> Self {
        let end = geometry.data_start(0);
        Self { geometry, end }
    }

    /// The next `blocks` blocks; the empty span for none.
    pub(super) fn take(&mut self, blocks: u64) -> Result<Span, Full> {
        if blocks == 0 {
            return Ok(Span::default());
        }
        if blocks >= MAX_BLOCKS {
            return Err(Full);
        }
        if self.end.is_multiple_of(GROUP_BLOCKS) {
            self.end = self.geometry.data_start(self.end / GROUP_BLOCKS);
        }
        let span = Span {
            start: self.end as u32,
            blocks: blocks as u32,
        };
        let mut left = blocks;
        loop {
            let group_end = (self.end / GROUP_BLOCKS + 1) * GROUP_BLOCKS;
            let step = left.min(group_end - self.end);
            self.end += step;
            left -= step;
            if self.end > MAX_BLOCKS {
                return Err(Full);
            }
            if left == 0 {
                return Ok(span);
            }
            self.end = self.geometry.data_start(self.end / GROUP_BLOCKS);
        }
    }

    /// The block after the last that was handed out.
    pub(super) fn end(&self) -> u64 {
        self.end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GEOMETRY: Geometry = Geometry { metagroup: 64 };

    #[test]
    fn superblock_copies_are_at_powers_of_3_5_7() {
        let groups: Vec<u64> = (0..400).filter(|g| GEOMETRY.has_superblock(*g)).collect();
        assert_eq!(groups, [0, 1, 3, 5, 7, 9, 25, 27, 49, 81, 125, 243, 343]);
    }

    #[test]
    fn descriptors_are_in_the_first_second_and_last_group_of_a_metagroup() {
        let groups: Vec<u64> = (0..200).filter(|g| GEOMETRY.has_descriptors(*g)).collect();
        assert_eq!(groups, [0, 1, 63, 64, 65, 127, 128, 129, 191, 192, 193]);
    }

    #[test]
    fn spans_step_over_metadata_and_leave_nothing_out() {
        let mut cursor = Cursor::new(GEOMETRY);
        let mut next = GEOMETRY.data_start(0);
        for blocks in [1, 30_000, 2_251, 1, 100_000, 7] {
            let span = cursor.take(blocks).unwrap();
            let mut sum = 0;
            for piece in GEOMETRY.pieces(span) {
                if next.is_multiple_of(GROUP_BLOCKS) {
                    next = GEOMETRY.data_start(next / GROUP_BLOCKS);
                }
                assert_eq!(piece.start, next);
                next += piece.blocks;
                sum += piece.blocks;
            }
            assert_eq!(sum, blocks);
        }
        assert_eq!(cursor.end(), next);
        assert!(cursor.take(MAX_BLOCKS - 1).is_err());
    }

    #[test]
    fn a_small_rest_of_the_disk_is_not_a_group() {
        let full = 3 * GROUP_BLOCKS;
        let least = GEOMETRY.data_start(3) + MIN_GROUP_DATA;
        assert_eq!(GEOMETRY.at_most(full), full);
        assert_eq!(GEOMETRY.at_most(full + 1), full);
        assert_eq!(GEOMETRY.at_most(least - 1), full);
        assert_eq!(GEOMETRY.at_most(least), least);
        assert_eq!(GEOMETRY.at_least(full), full);
        assert_eq!(GEOMETRY.at_least(full + 1), least);
    }
}
