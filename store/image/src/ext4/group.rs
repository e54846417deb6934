//! Block groups: what is in use, bitmaps and descriptors.
//!
//! A group that holds nothing is marked as not initialised: it costs its descriptor only. Source: Linux
//! `Documentation/filesystems/ext4/group_descr.rst`, `bitmaps.rst`.

use shale_model::limits::BLOCK_BYTES;

use super::bytes::{put16, put32};
use super::checksum::{crc16, crc32c};
use super::geometry::{GROUP_BLOCKS, GROUP_INODES, Geometry, Piece};
use super::output::Output;
use super::profile::{CHECKSUM_SEED, Profile};

// Flags of a descriptor: what is not there on the disk, and that inode tables need no zeroing.
const INODE_UNINIT: u16 = 1;
const BLOCK_UNINIT: u16 = 2;
const INODE_ZEROED: u16 = 4;

/// Where the checksum of a descriptor is.
const CHECKSUM_AT: usize = 0x1E;
/// Bytes of an inode bitmap that stand for inodes; the rest of its block is ones.
const INODE_BITMAP_BYTES: usize = GROUP_INODES as usize / 8;

/// What is in use.
#[derive(Debug)]
pub(super) struct Usage {
    geometry: Geometry,
    /// Blocks of the file system.
    blocks: u64,
    groups: Vec<Group>,
}

#[derive(Debug, Clone, Default)]
struct Group {
    /// Data blocks in use.
    data_blocks: u32,
    inodes: u32,
    directories: u32,
    /// One more than the position of the last inode in use.
    inodes_end: u32,
    /// One bit for each block; there once a data block is in use.
    block_bits: Option<Box<[u8; BLOCK_BYTES]>>,
    inode_bits: Option<Box<[u8; INODE_BITMAP_BYTES]>>,
}

/// What is left, for the superblock.
#[derive(Debug, Default)]
pub(super) struct Free {
    pub(super) blocks: u64,
    pub(super) inodes: u32,
    /// Blocks of metadata at the start of groups.
    pub(super) overhead: u64,
}

impl Usage {
    pub(super) fn new(geometry: Geometry, blocks: u64) -> Self {
        let groups = vec![Group::default(); blocks.div_ceil(GROUP_BLOCKS) as usize];
        Self {
            geometry,
            blocks,
            groups,
        }
    }

    /// How many groups there are.
    pub(super) fn groups(&self) -> u64 {
        self.groups.len() as u64
    }

    /// Marks neighbouring data blocks of one group as in use.
    pub(super) fn use_blocks(&mut self, piece: Piece) {
        let group = &mut self.groups[(piece.start / GROUP_BLOCKS) as usize];
        group.data_blocks += piece.blocks as u32;
        let bits = group
            .block_bits
            .get_or_insert_with(|| Box::new([0; BLOCK_BYTES]));
        let start = (piece.start % GROUP_BLOCKS) as usize;
        set_bits(&mut bits[..], start, start + piece.blocks as usize);
    }

    /// Marks an inode as in use.
    pub(super) fn use_inode(&mut self, number: u32) {
        let (index, group) = self.inode(number);
        group.inodes += 1;
        group.inodes_end = group.inodes_end.max(index + 1);
        let bits = group
            .inode_bits
            .get_or_insert_with(|| Box::new([0; INODE_BITMAP_BYTES]));
        bits[index as usize / 8] |= 1 << (index % 8);
    }

    /// Counts an inode in use as a directory.
    pub(super) fn count_directory(&mut self, number: u32) {
        self.inode(number).1.directories += 1;
    }

    fn inode(&mut self, number: u32) -> (u32, &mut Group) {
        let index = number - 1;
        let group = &mut self.groups[(index / GROUP_INODES) as usize];
        (index % GROUP_INODES, group)
    }

    /// Writes bitmaps and all copies of the descriptors.
    pub(super) fn write(self, profile: Profile, uuid: &[u8; 16], out: &mut Output<'_>) -> Free {
        let geometry = self.geometry;
        let count = self.groups();
        let mut free = Free::default();
        let mut metagroup = Vec::with_capacity(BLOCK_BYTES);
        for (number, group) in (0..).zip(&self.groups) {
            let end = (self.blocks - number * GROUP_BLOCKS).min(GROUP_BLOCKS);
            let is_last = number + 1 == count;
            let described = Described {
                profile,
                geometry,
                number,
                end: end as usize,
                is_last,
            };
            let descriptor = described.write(group, uuid, &mut free, out);
            metagroup.extend_from_slice(&descriptor[..profile.descriptor_bytes()]);
            if metagroup.len() == BLOCK_BYTES || is_last {
                let first = number / geometry.metagroup * geometry.metagroup;
                let copies = [first, first + 1, first + geometry.metagroup - 1];
                for copy in copies.into_iter().filter(|copy| *copy < count) {
                    out.block(geometry.descriptors(copy), &metagroup);
                }
                metagroup.clear();
            }
        }
        free
    }
}

/// A group as its descriptor is made.
struct Described {
    profile: Profile,
    geometry: Geometry,
    number: u64,
    /// Blocks that it has.
    end: usize,
    is_last: bool,
}

impl Described {
    /// Writes the bitmaps that the group needs, counts what it has free, gives the descriptor.
    fn write(
        &self,
        group: &Group,
        uuid: &[u8; 16],
        free: &mut Free,
        out: &mut Output<'_>,
    ) -> [u8; 64] {
        let overhead = self.geometry.overhead(self.number) as usize;
        let free_blocks = (self.end - overhead) as u32 - group.data_blocks;
        let free_inodes = GROUP_INODES - group.inodes;
        free.blocks += u64::from(free_blocks);
        free.inodes += free_inodes;
        free.overhead += overhead as u64;
        let block_bitmap = self.geometry.block_bitmap(self.number);
        let mut flags = INODE_ZEROED;
        let mut checksums = [0; 2];
        // Inodes without initialised blocks, and a last group without, are nothing mke2fs would make.
        if group.inodes == 0 && group.data_blocks == 0 && !self.is_last {
            flags |= BLOCK_UNINIT;
        } else {
            let mut bits = group
                .block_bits
                .clone()
                .unwrap_or_else(|| Box::new([0; BLOCK_BYTES]));
            set_bits(&mut bits[..], 0, overhead);
            set_bits(&mut bits[..], self.end, GROUP_BLOCKS as usize);
            checksums[0] = crc32c(CHECKSUM_SEED, &bits[..]);
            out.block(block_bitmap, &bits[..]);
        }
        match &group.inode_bits {
            None => flags |= INODE_UNINIT,
            Some(used) => {
                let mut bits = [0xFF; BLOCK_BYTES];
                bits[..INODE_BITMAP_BYTES].copy_from_slice(&used[..]);
                checksums[1] = crc32c(CHECKSUM_SEED, &used[..]);
                out.block(block_bitmap + 1, &bits);
            }
        }
        let mut to = [0; 64];
        let table = self.geometry.inode_table(self.number);
        for (at, block) in [block_bitmap, block_bitmap + 1, table]
            .into_iter()
            .enumerate()
        {
            put32(&mut to, 4 * at, block as u32);
        }
        put16(&mut to, 0x0C, free_blocks as u16);
        put16(&mut to, 0x0E, free_inodes as u16);
        put16(&mut to, 0x10, group.directories as u16);
        put16(&mut to, 0x12, flags);
        put16(&mut to, 0x1C, (GROUP_INODES - group.inodes_end) as u16);
        self.sign(&mut to, checksums, uuid);
        to
    }

    /// Puts the checksums of block and inode bitmap, and that of the descriptor itself.
    fn sign(&self, to: &mut [u8; 64], bitmaps: [u32; 2], uuid: &[u8; 16]) {
        let number = (self.number as u32).to_le_bytes();
        let checksum = if self.profile.has_checksums() {
            for (bitmap, (low, high)) in bitmaps.into_iter().zip([(0x18, 0x38), (0x1A, 0x3A)]) {
                put16(to, low, bitmap as u16);
                put16(to, high, (bitmap >> 16) as u16);
            }
            crc32c(crc32c(CHECKSUM_SEED, &number), &to[..]) as u16
        } else {
            crc16(crc16(crc16(!0, uuid), &number), &to[..CHECKSUM_AT])
        };
        put16(to, CHECKSUM_AT, checksum);
    }
}

/// Sets the bits from `start` up to `end`, lowest bit first.
fn set_bits(bits: &mut [u8], start: usize, end: usize) {
    let (first, last) = (start.next_multiple_of(8).min(end), end / 8 * 8);
    for at in (start..first).chain(last.max(first)..end) {
        bits[at / 8] |= 1 << (at % 8);
    }
    if first < last {
        bits[first / 8..last / 8].fill(0xFF);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_set_one_by_one_or_by_bytes() {
        for start in 0..40 {
            for end in start..40 {
                let mut bits = [0; 5];
                set_bits(&mut bits, start, end);
                let found: Vec<usize> = (0..40)
                    .filter(|at| bits[at / 8] >> (at % 8) & 1 == 1)
                    .collect();
                assert_eq!(found, (start..end).collect::<Vec<_>>());
            }
        }
    }
}
