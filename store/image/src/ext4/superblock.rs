//! The superblock. Source: Linux `Documentation/filesystems/ext4/super.rst`.

use shale_model::limits::BLOCK_BYTES;

use super::bytes::{put_split, put16, put32};
use super::checksum::crc32c;
use super::extent::Root;
use super::geometry::{GROUP_BLOCKS, GROUP_INODES, INODE_BYTES};
use super::inode::XATTR_START;
use super::journal::{JOURNAL_BLOCKS, JOURNAL_INODE};
use super::profile::{CHECKSUM_SEED, HASH_SEED, Profile};

/// Bytes of a superblock.
pub(super) const SUPERBLOCK_BYTES: usize = 1024;

/// The first inode that is not reserved.
pub(super) const FIRST_INODE: u32 = 11;

/// One block of this many is kept for root, so that a full disk can still be repaired. `mke2fs` keeps
/// 5 %, which is much of a large disk.
const RESERVED_SHARE: u64 = 100;

/// What superblocks say of this disk.
pub(super) struct Superblock<'a> {
    pub(super) profile: Profile,
    pub(super) uuid: &'a [u8; 16],
    /// Blocks of the file system.
    pub(super) blocks: u64,
    pub(super) groups: u64,
    pub(super) free_blocks: u64,
    pub(super) free_inodes: u32,
    /// Blocks of the groups' metadata.
    pub(super) overhead: u64,
    /// `i_block` of the journal's inode, of which the superblock has a copy.
    pub(super) journal: Root,
}

impl Superblock<'_> {
    /// The copy in this group. It says that it was never mounted, written or checked at any time.
    pub(super) fn encode(&self, group: u64) -> [u8; SUPERBLOCK_BYTES] {
        let mut sb = [0; SUPERBLOCK_BYTES];
        self.sizes(&mut sb);
        put16(&mut sb, 0x36, u16::MAX); // never to be checked for the number of its mounts
        put16(&mut sb, 0x38, 0xEF53); // magic
        put16(&mut sb, 0x3A, 1); // clean
        put16(&mut sb, 0x3C, 1); // go on after errors, as mke2fs has it
        put32(&mut sb, 0x4C, 1); // revision with the fields below
        put32(&mut sb, 0x54, FIRST_INODE);
        put16(&mut sb, 0x58, INODE_BYTES as u16);
        put16(&mut sb, 0x5A, group as u16);
        let features = self.profile.features();
        put32(&mut sb, 0x5C, features.compat);
        put32(&mut sb, 0x60, features.incompat);
        put32(&mut sb, 0x64, features.ro_compat);
        sb[0x68..0x78].copy_from_slice(self.uuid);
        for (at, word) in HASH_SEED.into_iter().enumerate() {
            put32(&mut sb, 0xEC + 4 * at, word);
        }
        sb[0xFC] = 1; // directories are hashed by half MD4
        put32(&mut sb, 0x100, 0xC); // mount with user_xattr and acl
        let extra = (XATTR_START - 128) as u16;
        put16(&mut sb, 0x15C, extra); // s_min_extra_isize
        put16(&mut sb, 0x15E, extra); // s_want_extra_isize
        put32(&mut sb, 0x160, 2); // hashes are of unsigned bytes
        self.journal(&mut sb);
        if self.profile.has_checksums() {
            put16(&mut sb, 0xFE, self.profile.descriptor_bytes() as u16);
            sb[0x175] = 1; // CRC-32C
            put32(&mut sb, 0x270, CHECKSUM_SEED);
            let checksum = crc32c(!0, &sb[..0x3FC]);
            put32(&mut sb, 0x3FC, checksum);
        }
        sb
    }

    fn sizes(&self, sb: &mut [u8]) {
        // At most 2^17 groups of 2^13 inodes.
        put32(sb, 0x00, self.groups as u32 * GROUP_INODES);
        put_split(sb, 0x04, 0x150, self.blocks);
        put_split(sb, 0x08, 0x154, self.blocks / RESERVED_SHARE);
        put_split(sb, 0x0C, 0x158, self.free_blocks);
        put32(sb, 0x10, self.free_inodes);
        let block_size = BLOCK_BYTES.trailing_zeros() - 10;
        put32(sb, 0x18, block_size);
        put32(sb, 0x1C, block_size);
        put32(sb, 0x20, GROUP_BLOCKS as u32);
        put32(sb, 0x24, GROUP_BLOCKS as u32);
        put32(sb, 0x28, GROUP_INODES);
        put32(sb, 0x248, (self.overhead + JOURNAL_BLOCKS) as u32);
    }

    fn journal(&self, sb: &mut [u8]) {
        put32(sb, 0xE0, JOURNAL_INODE);
        sb[0xFD] = 1; // the following is a copy of the journal's inode
        sb[0x10C..0x10C + 60].copy_from_slice(&self.journal);
        let bytes = JOURNAL_BLOCKS * BLOCK_BYTES as u64;
        put_split(sb, 0x14C, 0x148, bytes);
    }
}
