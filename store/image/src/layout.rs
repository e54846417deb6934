//! From a tree and the size of a disk to its plan.

use std::collections::BTreeMap;

use shale_model::limits::{BLOCK_BYTES, MAX_FILE_BYTES};
use shale_model::{ChunkId, Filesystem, PlanParts, TemplateId, Tree};

use crate::error::LayoutError;
use crate::ext4::Placed;

/// Smallest disk that is made by default: sparse, it costs nothing, and an installed system wants room
/// for logs and packages.
pub const DEFAULT_DISK_BYTES: u64 = 2 << 30;

/// Default sizes are multiples of this.
const DEFAULT_STEP_BYTES: u64 = 1 << 30;

/// What a disk is made to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// The template that the tree is of, for the plan to name.
    pub template: TemplateId,
    /// Which features the file system has.
    pub filesystem: Filesystem,
    /// Bytes of the disk, a multiple of 4096 up to [`MAX_FILE_BYTES`]; 0 for [`default_bytes`].
    pub disk_bytes: u64,
    /// UUID of the file system.
    pub uuid: [u8; 16],
}

/// Lays `tree` out as a disk. `synthetic` holds the bytes of the chunks that merging made: they become
/// part of the plan, and all other chunks its content.
///
/// The plan depends on nothing but the arguments. A larger disk differs in superblocks, group
/// descriptors and the groups after the last of the smaller one. A tree with more layers differs in
/// what these bring and change. Time and memory are linear in entries and chunks, and in the groups of
/// 128 MiB that the disk has.
pub fn lay_out(
    tree: &Tree,
    options: &Layout,
    synthetic: &BTreeMap<ChunkId, Vec<u8>>,
) -> Result<PlanParts, LayoutError> {
    let placed = Placed::new(tree, options.filesystem)?;
    let minimum = placed.minimum_bytes();
    let disk_bytes = match options.disk_bytes {
        0 => default_size(minimum),
        asked if !asked.is_multiple_of(BLOCK_BYTES as u64) || asked > MAX_FILE_BYTES => {
            return Err(LayoutError::DiskSize(asked));
        }
        asked if asked < minimum => return Err(LayoutError::TooSmall { asked, minimum }),
        asked => asked,
    };
    let options = Layout {
        disk_bytes,
        ..options.clone()
    };
    placed.emit(&options, synthetic)
}

/// Bytes of the smallest disk that holds `tree`, its journal and its inodes, with no room left.
pub fn minimum_bytes(tree: &Tree, filesystem: Filesystem) -> Result<u64, LayoutError> {
    Ok(Placed::new(tree, filesystem)?.minimum_bytes())
}

/// Bytes of the disk that `tree` gets if none are asked for: a quarter more than the minimum, in whole
/// GiB, and at least [`DEFAULT_DISK_BYTES`].
pub fn default_bytes(tree: &Tree, filesystem: Filesystem) -> Result<u64, LayoutError> {
    minimum_bytes(tree, filesystem).map(default_size)
}

fn default_size(minimum: u64) -> u64 {
    // At most 16 TiB, so that nothing overflows.
    (minimum + minimum / 4)
        .next_multiple_of(DEFAULT_STEP_BYTES)
        .clamp(DEFAULT_DISK_BYTES, MAX_FILE_BYTES)
}
