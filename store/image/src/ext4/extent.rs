//! Extent trees: which blocks of the disk hold which blocks of a file.
//!
//! Source: Linux `Documentation/filesystems/ext4/ifork.rst`. A tree is written bottom-up: nodes are full
//! but for the last of each level.

use shale_model::limits::BLOCK_BYTES;

use super::bytes::{put16, put32};
use super::checksum::crc32c;
use super::geometry::{Piece, Pieces};

pub(super) const MAGIC: u16 = 0xF30A;
pub(super) const ENTRY_BYTES: usize = 12;
/// Entries in the inode itself.
const ROOT_ENTRIES: usize = 4;
/// Entries in a block, which leaves 4 bytes for its checksum.
const BLOCK_ENTRIES: usize = (BLOCK_BYTES - ENTRY_BYTES) / ENTRY_BYTES;
const TAIL: usize = (BLOCK_ENTRIES + 1) * ENTRY_BYTES;

/// `i_block` of an inode.
pub(super) type Root = [u8; 60];

/// Blocks of a file that are neighbours on the disk too: never more than a group, so that `ee_len`
/// holds their number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Extent {
    /// First block within the file.
    pub(super) logical: u32,
    /// Where they are.
    pub(super) piece: Piece,
}

/// Lays runs of a file, as first block and number of blocks, on the blocks that were taken for all of
/// them together.
pub(super) fn map(runs: impl IntoIterator<Item = (u32, u64)>, mut pieces: Pieces) -> Vec<Extent> {
    let mut extents = Vec::new();
    for (mut logical, mut left) in runs {
        while let Some(piece) = pieces.up_to(left) {
            extents.push(Extent { logical, piece });
            logical += piece.blocks as u32;
            left -= piece.blocks;
        }
    }
    extents
}

/// Blocks beyond the inode that a tree over so many extents takes.
pub(super) fn index_blocks(extents: usize) -> u64 {
    let mut total = 0;
    let mut level = extents;
    while level > ROOT_ENTRIES {
        level = level.div_ceil(BLOCK_ENTRIES);
        total += level as u64;
    }
    total
}

/// Writes the tree over `extents`: its root is returned, each block goes to `write` with its number,
/// taken from `blocks`, which has [`index_blocks`] of them. `seed` is that of the inode's checksums.
pub(super) fn tree(
    extents: &[Extent],
    blocks: impl IntoIterator<Item = u64>,
    seed: Option<u32>,
    mut write: impl FnMut(u64, &[u8]),
) -> Root {
    let mut blocks = blocks.into_iter();
    let mut depth = 0;
    let mut level: Vec<[u8; ENTRY_BYTES]> = extents.iter().map(leaf_entry).collect();
    while level.len() > ROOT_ENTRIES {
        let nodes = level.chunks(BLOCK_ENTRIES).zip(blocks.by_ref());
        let parents = nodes.map(|(entries, number)| {
            let mut block = [0; BLOCK_BYTES];
            node(&mut block, entries, BLOCK_ENTRIES, depth);
            if let Some(seed) = seed {
                let checksum = crc32c(seed, &block[..TAIL]);
                put32(&mut block, TAIL, checksum);
            }
            write(number, &block);
            index_entry(&entries[0], number)
        });
        level = parents.collect();
        depth += 1;
    }
    let mut root = [0; 60];
    node(&mut root, &level, ROOT_ENTRIES, depth);
    root
}

fn node(to: &mut [u8], entries: &[[u8; ENTRY_BYTES]], most: usize, depth: u16) {
    put16(to, 0, MAGIC);
    put16(to, 2, entries.len() as u16);
    put16(to, 4, most as u16);
    put16(to, 6, depth);
    for (at, entry) in to[ENTRY_BYTES..].chunks_mut(ENTRY_BYTES).zip(entries) {
        at.copy_from_slice(entry);
    }
}

fn leaf_entry(extent: &Extent) -> [u8; ENTRY_BYTES] {
    let mut entry = [0; ENTRY_BYTES];
    put32(&mut entry, 0, extent.logical);
    put16(&mut entry, 4, extent.piece.blocks as u16);
    put16(&mut entry, 6, (extent.piece.start >> 32) as u16);
    put32(&mut entry, 8, extent.piece.start as u32);
    entry
}

/// The entry for the node in block `number`, whose first entry is `first`.
fn index_entry(first: &[u8; ENTRY_BYTES], number: u64) -> [u8; ENTRY_BYTES] {
    let mut entry = [0; ENTRY_BYTES];
    entry[..4].copy_from_slice(&first[..4]);
    put32(&mut entry, 4, number as u32);
    put16(&mut entry, 8, (number >> 32) as u16);
    entry
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ext4::geometry::{GROUP_BLOCKS, Geometry, Span};

    #[test]
    fn runs_are_cut_at_the_ends_of_groups() {
        let geometry = Geometry { metagroup: 64 };
        let (start, blocks) = (GROUP_BLOCKS as u32 - 5, 10);
        let extent = |logical, start, blocks| Extent {
            logical,
            piece: Piece { start, blocks },
        };
        let (end, next) = (GROUP_BLOCKS, geometry.data_start(1));
        assert_eq!(
            map(
                [(0, 3), (10, 4), (99, 3)],
                geometry.pieces(Span { start, blocks })
            ),
            [
                extent(0, end - 5, 3),
                extent(10, end - 2, 2),
                extent(12, next, 2),
                extent(99, next + 2, 3)
            ]
        );
    }

    #[test]
    fn a_tree_writes_as_many_blocks_as_it_announces() {
        for count in [0, 1, 4, 5, 340, 341, 1360, 1361, 340 * 340 * 4 + 1] {
            let extents: Vec<Extent> = (0..count)
                .map(|at| Extent {
                    logical: 2 * at as u32,
                    piece: Piece {
                        start: 4 * at as u64,
                        blocks: 1,
                    },
                })
                .collect();
            let mut written = 0;
            tree(&extents, 0.., None, |number, _| {
                assert_eq!(number, written);
                written += 1;
            });
            assert_eq!(written, index_blocks(count), "{count}");
        }
    }
}
