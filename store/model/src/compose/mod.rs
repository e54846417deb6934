//! The fold: tree layers, bottom first, become one composed tree.
//!
//! The rules are those of overlayfs (Linux `Documentation/filesystems/overlayfs.rst`) and of the OCI
//! image specification (`layer.md`): the upper layer wins name by name; a whiteout removes a name; an
//! opaque directory hides what is below; a directory over a directory merges and takes the upper
//! attributes; any other change of type replaces. A hard-link group belongs to the layer that brings
//! it, and an upper entry replaces one name of it.
//!
//! The tree keeps the nodes and names that upper layers removed, with the layer that did it: a disk
//! laid out from it gives every inode and file the place that it has without the upper layers, so
//! that templates on one base share its layout.

mod fold;
mod tree;

use crate::entry::TreeLayer;
use crate::limits::{MAX_ENTRIES, MAX_LAYERS};
use crate::name::TreePath;

use fold::Fold;
pub use tree::{DirEntry, LayerNo, Node, NodeData, NodeId, Tree, Walk};

/// Why layers do not compose.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ComposeError {
    /// An entry lies below something that is not a directory.
    #[error("layer {layer} has entries in {path}, which is not a directory")]
    NotDirectory {
        /// The layer.
        layer: LayerNo,
        /// The directory that it names.
        path: TreePath,
    },
    /// A hard link to a path that the layer does not bring before it, or that is a directory.
    #[error("layer {layer} has a hard link to {path}, which it does not hold before it")]
    LinkTarget {
        /// The layer.
        layer: LayerNo,
        /// The target.
        path: TreePath,
    },
    /// More than [`MAX_LAYERS`] layers.
    #[error("{0} layers; the limit is {MAX_LAYERS}")]
    TooManyLayers(usize),
    /// More than [`MAX_ENTRIES`] nodes.
    #[error("more than {MAX_ENTRIES} entries")]
    TooManyEntries,
}

/// Folds `layers`, bottom first, into one tree.
///
/// A directory that no layer describes has mode 0755, owner root and time 0. Time and memory are
/// linear in the number of entries.
pub fn compose<'a>(layers: impl IntoIterator<Item = &'a TreeLayer>) -> Result<Tree, ComposeError> {
    let mut fold = Fold::new();
    for (layer, tree) in layers.into_iter().enumerate() {
        if layer >= MAX_LAYERS {
            return Err(ComposeError::TooManyLayers(layer + 1));
        }
        fold.layer = layer as LayerNo;
        fold.apply(tree)?;
    }
    Ok(fold.finish())
}
