//! Directory blocks: names in one block as a list, in more as a hash tree.
//!
//! Source: Linux `Documentation/filesystems/ext4/directory.rst`.

use shale_model::limits::BLOCK_BYTES;

use super::bytes::{put16, put32};
use super::checksum::crc32c;
use super::htree;
use super::profile::Profile;

/// Bytes of the entries `.` and `..`, which begin the first block.
pub(super) const DOTS_BYTES: usize = 24;
/// Bytes of the record that ends a block with its checksum.
const TAIL_BYTES: usize = 12;
/// Type of that record, which is none of a file.
const TAIL_TYPE: u8 = 0xDE;
/// Type of a directory in an entry.
pub(super) const DIRECTORY_TYPE: u8 = 2;

/// A name that goes into a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DirName<'a> {
    /// The name.
    pub(super) name: &'a [u8],
    /// Its inode.
    pub(super) inode: u32,
    /// Its type, as `getdents` has it: 1 file, 2 directory, 3 to 7 the others.
    pub(super) kind: u8,
}

/// Bytes that a name of so many bytes takes in a directory.
pub(super) fn entry_bytes(name_len: usize) -> usize {
    (8 + name_len).next_multiple_of(4)
}

/// Bytes for names in a block that holds nothing else.
pub(super) fn block_room(profile: Profile) -> usize {
    BLOCK_BYTES
        - if profile.has_checksums() {
            TAIL_BYTES
        } else {
            0
        }
}

/// Blocks of a directory whose names take so many bytes, or none if it is too large for ext4. It
/// depends on nothing else, so that blocks can be handed out before names are hashed.
pub(super) fn blocks(profile: Profile, entries: u64) -> Option<u64> {
    if entries <= (block_room(profile) - DOTS_BYTES) as u64 {
        Some(1)
    } else {
        htree::Shape::of(entries).map(|shape| shape.blocks())
    }
}

/// The inode numbers that a directory's blocks hold.
#[derive(Debug, Clone, Copy)]
pub(super) struct Dir {
    pub(super) profile: Profile,
    pub(super) inode: u32,
    pub(super) parent: u32,
}

impl Dir {
    /// Appends the blocks of a directory with `names`, as many as [`blocks`] says, to `to`.
    pub(super) fn write(self, names: &[DirName<'_>], to: &mut Vec<u8>) {
        let entries = names.iter().map(|n| entry_bytes(n.name.len()) as u64);
        let entries: u64 = entries.sum();
        if entries <= (block_room(self.profile) - DOTS_BYTES) as u64 {
            let block = add_block(to);
            let used = self.dots(block, DOTS_BYTES);
            self.fill(block, used, names.iter().copied());
        } else if let Some(shape) = htree::Shape::of(entries) {
            htree::write(self, shape, entries, names, to);
        }
    }

    /// Writes `.` and `..`, the second of them up to `end`.
    pub(super) fn dots(self, block: &mut [u8], end: usize) -> usize {
        let dot = |name, inode| DirName {
            name,
            inode,
            kind: DIRECTORY_TYPE,
        };
        put_entry(&mut block[..12], dot(b".", self.inode));
        put_entry(&mut block[12..end], dot(b"..", self.parent));
        end
    }

    /// Writes names from byte `at` of a block to its end, with the checksum that ends it.
    pub(super) fn fill<'a>(
        self,
        block: &mut [u8],
        mut at: usize,
        names: impl IntoIterator<Item = DirName<'a>>,
    ) {
        let end = block_room(self.profile);
        let mut last = at.saturating_sub(12);
        for name in names {
            let next = at + entry_bytes(name.name.len());
            put_entry(&mut block[at..next], name);
            last = at;
            at = next;
        }
        // The last entry reaches to the end; a block without names has one that is not used.
        put16(block, last + 4, (end - last) as u16);
        if self.profile.has_checksums() {
            put16(block, end + 4, TAIL_BYTES as u16);
            block[end + 7] = TAIL_TYPE;
            let checksum = crc32c(self.seed(), &block[..end]);
            put32(block, end + 8, checksum);
        }
    }

    /// Seed of the checksums in this directory's blocks.
    pub(super) fn seed(self) -> u32 {
        self.profile.inode_seed(self.inode)
    }
}

/// Appends a block of zeros.
pub(super) fn add_block(to: &mut Vec<u8>) -> &mut [u8] {
    let start = to.len();
    to.resize(start + BLOCK_BYTES, 0);
    &mut to[start..]
}

/// Writes an entry that takes all of `to`.
fn put_entry(to: &mut [u8], name: DirName<'_>) {
    put32(to, 0, name.inode);
    put16(to, 4, to.len() as u16);
    to[6] = name.name.len() as u8;
    to[7] = name.kind;
    to[8..8 + name.name.len()].copy_from_slice(name.name);
}
