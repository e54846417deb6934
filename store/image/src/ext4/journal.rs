//! The journal: contiguous, empty. Source: Linux `Documentation/filesystems/ext4/journal.rst`.

use shale_model::limits::BLOCK_BYTES;

/// Blocks of the journal, 64 MiB: what `mke2fs` gives to disks of 2 to 16 GiB. A size that follows the
/// disk or the tree would move everything behind it.
pub(super) const JOURNAL_BLOCKS: u64 = 16_384;
/// Its inode.
pub(super) const JOURNAL_INODE: u32 = 8;

pub(super) const MAGIC: u32 = 0xC03B_3998;
pub(super) const SUPERBLOCK_V2: u32 = 4;

/// The journal's first block; the others are zeros. Fields are big-endian.
pub(super) fn superblock(uuid: &[u8; 16]) -> [u8; BLOCK_BYTES] {
    let mut block = [0; BLOCK_BYTES];
    let mut put = |at: usize, value: u32| block[at..at + 4].copy_from_slice(&value.to_be_bytes());
    put(0x00, MAGIC);
    put(0x04, SUPERBLOCK_V2);
    put(0x0C, BLOCK_BYTES as u32);
    put(0x10, JOURNAL_BLOCKS as u32);
    // The log begins in block 1 with transaction 1; its start 0 (at 0x1C) says that it is empty.
    put(0x14, 1);
    put(0x18, 1);
    // One user: this file system.
    put(0x40, 1);
    block[0x30..0x40].copy_from_slice(uuid);
    block
}
