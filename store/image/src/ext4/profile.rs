//! What the two file-system profiles differ in.

use shale_model::Filesystem;

use super::checksum::crc32c;
use super::geometry::Geometry;

/// Seed of every metadata checksum of `ext4-1`, in place of one made of the UUID: blocks of two disks
/// are then equal wherever what they describe is. The ASCII bytes of `Shal`.
pub(super) const CHECKSUM_SEED: u32 = 0x6C61_6853;

/// Seed of directory hashes, the same for all disks for the same reason: `Shale dir hash 1`.
pub(super) const HASH_SEED: [u32; 4] = [0x6C61_6853, 0x6964_2065, 0x6168_2072, 0x3120_6873];

// Bits of the superblock's three feature words (Linux `fs/ext4/ext4.h`).
const HAS_JOURNAL: u32 = 0x4;
const EXT_ATTR: u32 = 0x8;
const DIR_INDEX: u32 = 0x20;

const FILETYPE: u32 = 0x2;
const META_BG: u32 = 0x10;
const EXTENTS: u32 = 0x40;
const SIXTY_FOUR_BIT: u32 = 0x80;
const CSUM_SEED: u32 = 0x2000;

const SPARSE_SUPER: u32 = 0x1;
const LARGE_FILE: u32 = 0x2;
const HUGE_FILE: u32 = 0x8;
const GDT_CSUM: u32 = 0x10;
const DIR_NLINK: u32 = 0x20;
const EXTRA_ISIZE: u32 = 0x40;
const METADATA_CSUM: u32 = 0x400;

/// The features of a superblock.
pub(super) struct Features {
    pub(super) compat: u32,
    pub(super) incompat: u32,
    pub(super) ro_compat: u32,
}

/// A profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Profile(pub(super) Filesystem);

impl Profile {
    pub(super) fn features(self) -> Features {
        let (incompat, ro_compat) = match self.0 {
            Filesystem::Ext4V1 => (SIXTY_FOUR_BIT | CSUM_SEED, METADATA_CSUM),
            Filesystem::Ext4Old => (0, GDT_CSUM),
        };
        Features {
            compat: HAS_JOURNAL | EXT_ATTR | DIR_INDEX,
            incompat: FILETYPE | META_BG | EXTENTS | incompat,
            ro_compat: SPARSE_SUPER | LARGE_FILE | HUGE_FILE | DIR_NLINK | EXTRA_ISIZE | ro_compat,
        }
    }

    /// Bytes of a group descriptor.
    pub(super) fn descriptor_bytes(self) -> usize {
        match self.0 {
            Filesystem::Ext4V1 => 64,
            Filesystem::Ext4Old => 32,
        }
    }

    pub(super) fn geometry(self) -> Geometry {
        let metagroup = (shale_model::limits::BLOCK_BYTES / self.descriptor_bytes()) as u64;
        Geometry { metagroup }
    }

    /// Whether metadata blocks and inodes have checksums.
    pub(super) fn has_checksums(self) -> bool {
        self.0 == Filesystem::Ext4V1
    }

    /// Most blocks of a file system: without `64bit`, their count has 32 bits.
    pub(super) fn max_blocks(self) -> u64 {
        match self.0 {
            Filesystem::Ext4V1 => super::geometry::MAX_BLOCKS,
            Filesystem::Ext4Old => super::geometry::MAX_BLOCKS - 1,
        }
    }

    /// Seed of the checksums of what belongs to an inode. Generations are all 0.
    pub(super) fn inode_seed(self, inode: u32) -> u32 {
        crc32c(crc32c(CHECKSUM_SEED, &inode.to_le_bytes()), &[0; 4])
    }
}
