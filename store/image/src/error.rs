//! Why a tree cannot be laid out, naming what is to blame.

use shale_model::limits::{MAX_FILE_BYTES, MAX_XATTR_BYTES};
use shale_model::{NodeData, NodeId, Tree, TreePath};

use crate::ext4::{MAX_DEVICE_MAJOR, MAX_DEVICE_MINOR, MAX_LINKS};

/// Why a tree has no layout on this disk.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// One file, directory or other node is what ext4 cannot hold.
    #[error("{path}: {problem}")]
    Node {
        /// Where it is; one of its names if it has several.
        path: TreePath,
        /// What about it.
        problem: NodeProblem,
    },
    /// The tree needs more than [`MAX_FILE_BYTES`] of disk.
    #[error("the tree does not fit on a disk of {MAX_FILE_BYTES} bytes")]
    TooLarge,
    /// The disk that was asked for is too small.
    #[error("a disk of {asked} bytes is too small for this tree; it needs {minimum} bytes")]
    TooSmall {
        /// What was asked for, in bytes.
        asked: u64,
        /// The least that does, in bytes.
        minimum: u64,
    },
    /// A size that is not a multiple of 4096 bytes, or above [`MAX_FILE_BYTES`].
    #[error(
        "a disk of {0} bytes is impossible: multiples of 4096 up to {MAX_FILE_BYTES} are possible"
    )]
    DiskSize(u64),
}

/// What ext4 cannot hold about one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NodeProblem {
    /// More names than an inode counts.
    #[error("{0} hard links; ext4 has at most {MAX_LINKS}")]
    Links(u32),
    /// A file that ends at or after the last block number.
    #[error("a file of {0} bytes; ext4 holds less than {MAX_FILE_BYTES}")]
    FileSize(u64),
    /// A hole that begins inside a block, or ends in one before the end of the file.
    #[error("a hole is not aligned to 4096 bytes")]
    HoleAlignment,
    /// Bytes that merging made and bytes of a layer meet inside a block.
    #[error("merged bytes and bytes of a layer share a block")]
    MixedBlock,
    /// Merged bytes that do not have the length that the tree gives them.
    #[error("a merged chunk has {found} bytes instead of {expected}")]
    MergedLength {
        /// What the tree says, in bytes.
        expected: u32,
        /// What there is, in bytes.
        found: usize,
    },
    /// A time outside of what an inode holds, or with an impossible part of a second.
    #[error("its time, {seconds} s and {nanos} ns after 1970, is outside 1901-12-13 to 2310-04-03")]
    Time {
        /// Seconds since 1970.
        seconds: i64,
        /// Nanoseconds after that second.
        nanos: u32,
    },
    /// A device number with more bits than Linux has.
    #[error("device {major}:{minor}; Linux has at most {MAX_DEVICE_MAJOR}:{MAX_DEVICE_MINOR}")]
    Device {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// More than the inode and one block hold.
    #[error("its extended attributes need {0} bytes; ext4 has one block of 4096 bytes for them")]
    XattrSize(usize),
    /// An attribute that ext4 has no name space for.
    #[error("an extended attribute lies outside user, trusted, security and the POSIX ACLs")]
    XattrName,
    /// An ACL that `getxattr` would not return.
    #[error("a POSIX ACL is malformed")]
    Acl,
    /// More names than a directory of 193,000 blocks holds.
    #[error("a directory with {0} names is too large for a hash tree of two levels")]
    DirectorySize(usize),
    /// `lost+found` belongs to the file system check and must be a directory.
    #[error("lost+found is not a directory")]
    LostFound,
}

impl LayoutError {
    /// `problem` with node `id` of `tree`.
    pub(crate) fn node(tree: &Tree, id: NodeId, problem: NodeProblem) -> Self {
        let path = path_of(tree, id);
        Self::Node { path, problem }
    }
}

// Attributes are bounded by the model, so that their sizes never overflow.
const _: () = assert!(MAX_XATTR_BYTES < 1 << 20);

/// A path of `id`, also if no name of it is left: looked for only when an error names it.
fn path_of(tree: &Tree, id: NodeId) -> TreePath {
    let mut up = vec![None; tree.nodes().len()];
    for (dir, node) in tree.ids() {
        if let NodeData::Directory(entries) = &node.data {
            for entry in entries {
                up[entry.node.index()] = Some((dir, &entry.name));
            }
        }
    }
    let mut names = Vec::new();
    let mut at = id;
    while let Some((dir, name)) = up[at.index()] {
        names.push(name);
        at = dir;
    }
    // A path that is too long to be one is cut, which still says where to look.
    let joined = names.iter().rev().try_fold(TreePath::root(), |path, name| {
        path.join(name).map_err(|_| path)
    });
    joined.unwrap_or_else(|path| path)
}
