//! Directories: one name by its hash, and all of them in order of block.

use std::ops::ControlFlow;

use shale_model::FormatError;
use shale_model::limits::{BLOCK_BYTES, MAX_NAME_BYTES};

use super::{BLOCK, Metadata, TreeInode, TreeReader, TreeShape};
use crate::ext4::bytes::{get16, get32};
use crate::ext4::dir::DOTS_BYTES;
use crate::ext4::hash::half_md4;
use crate::ext4::htree::{HASH_VERSION, INDEX_ENTRY_BYTES, NODE_START, ROOT_START};
use crate::ext4::place::LOST_FOUND;
use crate::ext4::superblock::FIRST_INODE;

/// Most blocks of a directory: a root, and two levels below it of 511 entries at most.
const MAX_DIRECTORY_BLOCKS: u64 = 1 + 511 + 511 * 511;
/// Bytes of an entry before its name.
const HEADER: usize = 8;
const BAD: &str = "a damaged directory";

/// A name in a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DirectoryEntry<'a> {
    /// The name; `.` and `..` are there too.
    pub name: &'a [u8],
    /// Its inode.
    pub inode: u32,
    /// Its type as `getdents` has it: 4 directory, 8 file, 10 symbolic link and so on.
    pub kind: u8,
    /// Where [`TreeReader::entries`] goes on behind it.
    pub cookie: u64,
}

impl<'a, M: Metadata> TreeReader<'a, M> {
    /// The inode of a name in a directory.
    pub fn lookup(&self, directory: &TreeInode, name: &[u8]) -> Result<Option<u32>, M::Error> {
        if directory.number == TreeShape::ROOT && name == LOST_FOUND {
            return Ok(self
                .find(directory, name)?
                .filter(|inode| *inode != FIRST_INODE));
        }
        self.find(directory, name)
    }

    /// The same, with the layout's own `lost+found`.
    pub(super) fn find(&self, directory: &TreeInode, name: &[u8]) -> Result<Option<u32>, M::Error> {
        let blocks = self.directory_blocks(directory)?;
        if name.is_empty() || name.len() > MAX_NAME_BYTES {
            return Ok(None);
        }
        // `.` and `..` have no hash: they lie in the first block.
        if blocks == 1 || !directory.is_indexed() || matches!(name, b"." | b"..") {
            let last = if directory.is_indexed() { 1 } else { blocks };
            for logical in 0..last {
                let block = self.block_of(directory, logical as u32)?;
                if let Some(inode) = find_in(directory, &block, name)? {
                    return Ok(Some(inode));
                }
            }
            return Ok(None);
        }
        self.find_hashed(directory, name)
    }

    fn find_hashed(&self, directory: &TreeInode, name: &[u8]) -> Result<Option<u32>, M::Error> {
        let hash = half_md4(name).0;
        let bad = || directory.fault(BAD);
        let block = self.block_of(directory, 0)?;
        let is_ours = block[DOTS_BYTES + 4] == HASH_VERSION
            && usize::from(block[DOTS_BYTES + 5]) == ROOT_START - DOTS_BYTES;
        let root = Index::parse(&block, ROOT_START)
            .filter(|_| is_ours)
            .ok_or_else(bad)?;
        let levels = block[DOTS_BYTES + 6];
        let mut at = root.last_up_to(hash);
        loop {
            // One step per node: the next one is looked at only if it goes on with the same hash.
            let found = match levels {
                0 => self.find_in_leaves(directory, &root, at, hash, name)?,
                1 => {
                    let node = self.block_of(directory, root.block(at).ok_or_else(bad)?)?;
                    let node = Index::parse(&node, NODE_START).ok_or_else(bad)?;
                    // In a node that only goes on, the hash is that of its first leaf.
                    let leaf = node.last_up_to(hash);
                    self.find_in_leaves(directory, &node, leaf, hash, name)?
                }
                _ => return Err(bad().into()),
            };
            if found.is_some() || levels == 0 || !root.goes_on(at + 1, hash) {
                return Ok(found);
            }
            at += 1;
        }
    }

    /// Looks into the leaf at `at` of an index, and into those that go on with the same hash.
    fn find_in_leaves(
        &self,
        directory: &TreeInode,
        index: &Index<'_>,
        mut at: usize,
        hash: u32,
        name: &[u8],
    ) -> Result<Option<u32>, M::Error> {
        loop {
            let number = index.block(at).ok_or_else(|| directory.fault(BAD))?;
            let leaf = self.block_of(directory, number)?;
            let found = find_in(directory, &leaf, name)?;
            if found.is_some() || !index.goes_on(at + 1, hash) {
                return Ok(found);
            }
            at += 1;
        }
    }

    /// Gives `visit` every name from `cookie` on, 0 for the start, until it breaks. Names are in order of
    /// block, as readers without hash trees see them; a cookie stays good as long as the plan.
    pub fn entries(
        &self,
        directory: &TreeInode,
        cookie: u64,
        mut visit: impl FnMut(DirectoryEntry<'_>) -> ControlFlow<()>,
    ) -> Result<(), M::Error> {
        let blocks = self.directory_blocks(directory)?;
        let hides = directory.number == TreeShape::ROOT;
        for logical in cookie / BLOCK..blocks {
            let block = self.block_of(directory, logical as u32)?;
            for entry in Entries::new(&block) {
                let Raw {
                    name,
                    inode,
                    kind,
                    end,
                } = entry.ok_or_else(|| directory.fault(BAD))?;
                let end = logical * BLOCK + end as u64;
                // What is not used, index blocks and checksums among it, has no inode.
                let is_hidden = hides && inode == FIRST_INODE && name == LOST_FOUND;
                if inode == 0 || end <= cookie || is_hidden {
                    continue;
                }
                let kind = DIRENT_TYPES[usize::from(kind & 7)];
                let entry = DirectoryEntry {
                    name,
                    inode,
                    kind,
                    cookie: end,
                };
                if visit(entry).is_break() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn directory_blocks(&self, directory: &TreeInode) -> Result<u64, M::Error> {
        let blocks = directory.size / BLOCK;
        let is_right = directory.is_directory()
            && directory.size.is_multiple_of(BLOCK)
            && (1..=MAX_DIRECTORY_BLOCKS).contains(&blocks);
        match is_right {
            true => Ok(blocks),
            false => Err(directory
                .fault("no directory, or one of an impossible size")
                .into()),
        }
    }
}

/// `d_type` of each type of an entry on the disk.
const DIRENT_TYPES: [u8; 8] = [0, 8, 4, 2, 6, 1, 12, 10];

fn find_in(directory: &TreeInode, block: &[u8], name: &[u8]) -> Result<Option<u32>, FormatError> {
    for entry in Entries::new(block) {
        let entry = entry.ok_or_else(|| directory.fault(BAD))?;
        if entry.name == name && entry.inode != 0 {
            return Ok(Some(entry.inode));
        }
    }
    Ok(None)
}

/// An entry as it lies in a block.
struct Raw<'b> {
    name: &'b [u8],
    inode: u32,
    kind: u8,
    /// The byte of the block after it.
    end: usize,
}

/// The entries of a block; `None` once, and then nothing, where they are damaged.
struct Entries<'b> {
    block: &'b [u8],
    at: usize,
}

impl<'b> Entries<'b> {
    fn new(block: &'b [u8]) -> Self {
        Self { block, at: 0 }
    }

    fn parse(&self) -> Option<Raw<'b>> {
        let len = usize::from(get16(self.block, self.at + 4));
        let end = self.at + len;
        let name = self.at + HEADER;
        let name_len = usize::from(*self.block.get(self.at + 6)?);
        let name_end = name + name_len;
        if len < HEADER || !len.is_multiple_of(4) || end > BLOCK_BYTES || name_end > end {
            return None;
        }
        Some(Raw {
            name: self.block.get(name..name_end)?,
            inode: get32(self.block, self.at),
            kind: *self.block.get(self.at + 7)?,
            end,
        })
    }
}

impl<'b> Iterator for Entries<'b> {
    type Item = Option<Raw<'b>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.block.len() {
            return None;
        }
        let entry = self.parse();
        self.at = entry.as_ref().map_or(self.block.len(), |entry| entry.end);
        Some(entry)
    }
}

/// An index block: hashes, and the blocks that begin with them.
struct Index<'b> {
    entries: &'b [[u8; INDEX_ENTRY_BYTES]],
}

impl<'b> Index<'b> {
    fn parse(block: &'b [u8], start: usize) -> Option<Self> {
        let count = usize::from(get16(block, start + 2));
        let (entries, _) = block.get(start..)?.as_chunks();
        let entries = entries.get(..count).filter(|entries| !entries.is_empty())?;
        Some(Self { entries })
    }

    /// The hash at `at`; that of the first is below all others, as count and limit lie in its place.
    fn hash(&self, at: usize) -> u32 {
        match at {
            0 => 0,
            _ => self.entries.get(at).map_or(0, |entry| get32(entry, 0)),
        }
    }

    /// Where the first name of a hash would be. A block that only goes on with it is not the first.
    fn last_up_to(&self, hash: u32) -> usize {
        let rest = &self.entries[1..];
        rest.partition_point(|entry| get32(entry, 0) <= hash)
    }

    /// Whether the block at `at` goes on with names of a hash.
    fn goes_on(&self, at: usize, hash: u32) -> bool {
        at < self.entries.len() && self.hash(at) == hash | 1
    }

    fn block(&self, at: usize) -> Option<u32> {
        self.entries.get(at).map(|entry| get32(entry, 4))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Leaves that begin with 2, with 4, in the midst of 4, and with 8: names of hash 4 lie in the second and third.
    #[test]
    fn a_hash_that_goes_on_is_looked_for_from_its_first_leaf() {
        let entry = |hash: u32, block: u32| {
            let mut entry = [0; INDEX_ENTRY_BYTES];
            entry[..4].copy_from_slice(&hash.to_le_bytes());
            entry[4..].copy_from_slice(&block.to_le_bytes());
            entry
        };
        let mut entries = [entry(0, 10), entry(4, 11), entry(5, 12), entry(8, 13)];
        // Count and limit take the place of the first hash.
        entries[0][..4].copy_from_slice(&[0xFF, 1, 4, 0]);
        let bytes = entries.concat();
        let index = Index::parse(&bytes, 0).unwrap();
        let places: Vec<usize> = [0, 2, 4, 6, 8, 10]
            .map(|hash| index.last_up_to(hash))
            .to_vec();
        assert_eq!(places, [0, 0, 1, 2, 3, 3]);
        assert!(index.goes_on(2, 4) && !index.goes_on(1, 4) && !index.goes_on(3, 4));
        assert!(!index.goes_on(4, 4) && !index.goes_on(0, 0));
        assert_eq!((index.block(1), index.block(4)), (Some(11), None));
        assert!(Index::parse(&bytes[..24], 0).is_none());
    }
}
