//! A file's content as runs of blocks.

use std::ops::Range;

use shale_model::limits::{BLOCK_BYTES, MAX_FILE_BYTES};
use shale_model::{Content, Extent};

use crate::error::NodeProblem;

const BLOCK: u64 = BLOCK_BYTES as u64;

/// The part of a file between two holes: whole blocks, but for the last of them.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Segment {
    /// Number of its first block within the file.
    pub(super) logical: u32,
    /// Bytes, at least one.
    pub(super) bytes: u64,
    /// Positions of its chunks in the content's extents.
    pub(super) chunks: Range<usize>,
}

impl Segment {
    pub(super) fn blocks(&self) -> u64 {
        self.bytes.div_ceil(BLOCK)
    }
}

/// Size of a file in bytes and its segments in order.
///
/// A hole may begin inside a block, as zeros fill the block anyway; that it ends inside one before the
/// end of the file would leave a block with bytes from two places.
pub(super) fn segments(content: &Content) -> Result<(u64, Vec<Segment>), NodeProblem> {
    let size = content.size();
    if size > MAX_FILE_BYTES - BLOCK {
        return Err(NodeProblem::FileSize(size));
    }
    let mut segments: Vec<Segment> = Vec::new();
    let mut at = 0u64;
    let mut after_hole = true;
    for (index, extent) in content.extents().iter().enumerate() {
        let end = at + extent.len();
        match extent {
            Extent::Hole { .. } if end != size && !end.is_multiple_of(BLOCK) => {
                return Err(NodeProblem::HoleAlignment);
            }
            Extent::Hole { .. } => after_hole = true,
            Extent::Chunk { .. } => {
                match segments.last_mut().filter(|_| !after_hole) {
                    Some(segment) => {
                        segment.bytes += extent.len();
                        segment.chunks.end = index + 1;
                    }
                    None => segments.push(Segment {
                        logical: (at / BLOCK) as u32,
                        bytes: extent.len(),
                        chunks: index..index + 1,
                    }),
                }
                after_hole = false;
            }
        }
        at = end;
    }
    Ok((size, segments))
}

#[cfg(test)]
mod tests {
    use shale_model::ChunkId;

    use super::*;

    fn cut(lens: &[i64]) -> Result<(u64, Vec<Segment>), NodeProblem> {
        let extent = |len: &i64| match *len {
            len if len < 0 => Extent::Hole {
                len: len.unsigned_abs(),
            },
            len => Extent::Chunk {
                id: ChunkId::of(b"x"),
                len: len as u32,
            },
        };
        segments(&Content::new(lens.iter().map(extent).collect()).unwrap())
    }

    #[test]
    fn segments_lie_between_holes() {
        let segment = |logical, bytes, chunks| Segment {
            logical,
            bytes,
            chunks,
        };
        let sparse = cut(&[-8192, 100, 5000, -3092, 1, -77]).unwrap();
        assert_eq!(sparse.0, 8192 + 8192 + 1 + 77);
        assert_eq!(sparse.1, [segment(2, 5100, 1..3), segment(4, 1, 4..5)]);
        assert_eq!(cut(&[]).unwrap(), (0, vec![]));
        assert_eq!(cut(&[-5]).unwrap(), (5, vec![]));
    }

    #[test]
    fn a_hole_that_ends_inside_a_block_is_refused() {
        assert_eq!(cut(&[100, -100, 1]), Err(NodeProblem::HoleAlignment));
        assert_eq!(cut(&[-4095, 1]), Err(NodeProblem::HoleAlignment));
    }

    #[test]
    fn the_last_block_number_is_not_a_file_block() {
        let most = (MAX_FILE_BYTES - BLOCK) as i64;
        assert!(cut(&[-most]).is_ok());
        assert!(cut(&[-most - 1]).is_err());
    }
}
