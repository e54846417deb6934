//! Hash trees: directories of more than one block.
//!
//! Leaves are blocks of names, in order of hash. One or two levels of index above them say with which
//! hash each leaf begins. Source: Linux `Documentation/filesystems/ext4/directory.rst`, "Hash Tree
//! Directories".

use shale_model::limits::BLOCK_BYTES;

use super::bytes::{put16, put32};
use super::checksum::crc32c;
use super::dir::{DOTS_BYTES, Dir, DirName, add_block, entry_bytes};
use super::hash::half_md4;
use super::profile::Profile;

/// Bytes of names in a leaf, about five sixths: room for what the guest adds before it splits leaves.
/// A leaf exceeds it by less than one entry of 264 bytes.
const LEAF_BYTES: u64 = 3400;
/// Entries of the root, which is full at 508, or 507 if it ends with a checksum.
const ROOT_ENTRIES: u64 = 507;
/// Entries of a node below the root: three quarters of 510, with the same intent.
const NODE_ENTRIES: u64 = 382;

pub(super) const INDEX_ENTRY_BYTES: usize = 8;
const INDEX_TAIL_BYTES: usize = 8;
/// Where the entries of the root begin: after `.`, `..` and the root's own 8 bytes.
pub(super) const ROOT_START: usize = DOTS_BYTES + 8;
/// Where the entries of a node begin: after an unused entry, so that it looks like an empty block.
pub(super) const NODE_START: usize = 8;
/// Half MD4, signed or unsigned as the superblock says.
pub(super) const HASH_VERSION: u8 = 1;

/// How many blocks of which kind a tree has: the root, then nodes, then leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shape {
    /// Index blocks between root and leaves; 0 for a tree of one level.
    nodes: u64,
    leaves: u64,
}

impl Shape {
    /// The shape for names of so many bytes, at least a block full, if there is one.
    pub(super) fn of(entries: u64) -> Option<Self> {
        let leaves = entries.div_ceil(LEAF_BYTES);
        let nodes = match leaves {
            0..=ROOT_ENTRIES => 0,
            _ => leaves.div_ceil(NODE_ENTRIES),
        };
        (nodes <= ROOT_ENTRIES).then_some(Self { nodes, leaves })
    }

    pub(super) fn blocks(self) -> u64 {
        1 + self.nodes + self.leaves
    }
}

/// An entry of an index: the hash that a block begins with, its lowest bit set if the block before it
/// ends with the same; and the block's number within the directory.
type IndexEntry = (u32, u32);

struct Hashed<'a> {
    hash: u32,
    minor: u32,
    name: DirName<'a>,
}

/// Appends the blocks of a tree of this shape; `entries` is the sum of the names' bytes.
pub(super) fn write(dir: Dir, shape: Shape, entries: u64, names: &[DirName<'_>], to: &mut Vec<u8>) {
    let mut hashed: Vec<Hashed<'_>> = names
        .iter()
        .map(|name| {
            let (hash, minor) = half_md4(name.name);
            let name = *name;
            Hashed { hash, minor, name }
        })
        .collect();
    hashed.sort_unstable_by_key(|h| (h.hash, h.minor, h.name.name));
    let leaves = leaves(&hashed, shape.leaves, entries);
    let first_leaf = 1 + shape.nodes as u32;
    let level: Vec<IndexEntry> = hashes(&leaves).zip(first_leaf..).collect();
    let per_node = level.len().div_ceil(shape.nodes.max(1) as usize);
    let nodes: Vec<&[IndexEntry]> = match shape.nodes {
        0 => Vec::new(),
        _ => level.chunks(per_node).collect(),
    };
    let top: Vec<IndexEntry> = match shape.nodes {
        0 => level.clone(),
        _ => nodes.iter().map(|node| node[0].0).zip(1..).collect(),
    };
    root(dir, add_block(to), &top, shape);
    for node in nodes {
        let block = add_block(to);
        put16(block, 4, BLOCK_BYTES as u16);
        index(dir, block, NODE_START, node);
    }
    for leaf in leaves {
        dir.fill(add_block(to), 0, leaf.iter().map(|h| h.name));
    }
}

/// Cuts names, in order of hash, into `count` parts of about as many bytes.
fn leaves<'a, 'b>(hashed: &'a [Hashed<'b>], count: u64, bytes: u64) -> Vec<&'a [Hashed<'b>]> {
    let mut leaves = Vec::with_capacity(count as usize);
    let (mut start, mut before) = (0, 0);
    for (at, entry) in hashed.iter().enumerate() {
        if before * count / bytes > leaves.len() as u64 {
            leaves.push(&hashed[start..at]);
            start = at;
        }
        before += entry_bytes(entry.name.name.len()) as u64;
    }
    leaves.push(&hashed[start..]);
    leaves
}

/// The hash in the index for each leaf. Below the first all hashes lie in it.
fn hashes<'a>(leaves: &'a [&'a [Hashed<'_>]]) -> impl Iterator<Item = u32> {
    let rest = leaves.windows(2).map(|pair| {
        let last = pair[0].last().map(|h| h.hash);
        let first = pair[1][0].hash;
        first | u32::from(last == Some(first))
    });
    std::iter::once(0).chain(rest)
}

fn root(dir: Dir, block: &mut [u8], entries: &[IndexEntry], shape: Shape) {
    dir.dots(block, DOTS_BYTES);
    // To a reader without hash trees the index is the rest of the entry `..`.
    put16(block, 12 + 4, (BLOCK_BYTES - 12) as u16);
    block[DOTS_BYTES + 4] = HASH_VERSION;
    block[DOTS_BYTES + 5] = (ROOT_START - DOTS_BYTES) as u8;
    block[DOTS_BYTES + 6] = u8::from(shape.nodes > 0); // levels between root and leaves
    index(dir, block, ROOT_START, entries);
}

/// Writes the entries of an index block from byte `start`, and its checksum. Limit and count take the
/// place of the first entry's hash.
fn index(dir: Dir, block: &mut [u8], start: usize, entries: &[IndexEntry]) {
    let limit = index_limit(dir.profile, start);
    for (at, (hash, number)) in entries.iter().enumerate() {
        put32(block, start + at * INDEX_ENTRY_BYTES, *hash);
        put32(block, start + at * INDEX_ENTRY_BYTES + 4, *number);
    }
    put16(block, start, limit as u16);
    put16(block, start + 2, entries.len() as u16);
    if dir.profile.has_checksums() {
        let used = start + entries.len() * INDEX_ENTRY_BYTES;
        // The checksum is the second word of the tail; it counts as zero, as the first is.
        let checksum = crc32c(crc32c(dir.seed(), &block[..used]), &[0; INDEX_TAIL_BYTES]);
        put32(block, start + limit * INDEX_ENTRY_BYTES + 4, checksum);
    }
}

fn index_limit(profile: Profile, start: usize) -> usize {
    let tail = if profile.has_checksums() {
        INDEX_TAIL_BYTES
    } else {
        0
    };
    (BLOCK_BYTES - start - tail) / INDEX_ENTRY_BYTES
}

#[cfg(test)]
mod tests {
    use shale_model::Filesystem;

    use super::*;

    #[test]
    fn shapes_grow_from_one_level_to_two_and_end() {
        let shape = |leaves: u64| Shape::of(leaves * LEAF_BYTES);
        let of = |nodes, leaves| Some(Shape { nodes, leaves });
        assert_eq!(shape(2), of(0, 2));
        assert_eq!(shape(507), of(0, 507));
        assert_eq!(shape(508), of(2, 508));
        assert_eq!(shape(507 * 382), of(507, 507 * 382));
        assert_eq!(shape(507 * 382 + 1), None);
    }

    #[test]
    fn a_leaf_that_goes_on_with_the_same_hash_is_marked() {
        let name = DirName {
            name: b"x",
            inode: 1,
            kind: 1,
        };
        let of = |hash| Hashed {
            hash,
            minor: 0,
            name,
        };
        let hashed = [of(2), of(4), of(4), of(4), of(6), of(8)];
        let cut = [&hashed[..2], &hashed[2..3], &hashed[3..5], &hashed[5..]];
        let found: Vec<u32> = hashes(&cut).collect();
        assert_eq!(found, [0, 5, 5, 8]);
    }

    /// Leaves never overflow and are as many as announced, whatever the lengths of names.
    #[test]
    fn leaves_hold_about_the_same() {
        let long = [b'n'; 255];
        for seed in 1usize..60 {
            let hashed: Vec<Hashed<'_>> = (0..400 + seed * 7)
                .map(|at| Hashed {
                    hash: 2 * at as u32,
                    minor: 0,
                    name: DirName {
                        name: &long[..1 + (at * seed * 37) % 255],
                        inode: 1,
                        kind: 1,
                    },
                })
                .collect();
            let sum = |part: &[Hashed<'_>]| -> usize {
                part.iter().map(|h| entry_bytes(h.name.name.len())).sum()
            };
            let bytes = sum(&hashed) as u64;
            let shape = Shape::of(bytes).unwrap();
            let cut = leaves(&hashed, shape.leaves, bytes);
            assert_eq!(cut.len() as u64, shape.leaves);
            let room = super::super::dir::block_room(Profile(Filesystem::Ext4V1));
            assert!(cut.iter().all(|leaf| sum(leaf) <= room && !leaf.is_empty()));
        }
    }
}
