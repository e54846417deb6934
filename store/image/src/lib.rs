//! From layers to a disk: a composed tree becomes an ext4 file system by arithmetic, as a plan; and from a plan
//! back to its tree. Pure: nothing here does I/O, and nothing is copied.
//!
//! ```
//! use shale_image::{Layout, lay_out};
//! use shale_model::{Filesystem, TemplateId, TreeLayer, compose};
//!
//! let tree = compose(&[TreeLayer::default()])?;
//! let options = Layout {
//!     template: TemplateId::of(b"example"),
//!     filesystem: Filesystem::Ext4V1,
//!     disk_bytes: 1 << 30,
//!     uuid: [1; 16],
//! };
//! let parts = lay_out(&tree, &options, &Default::default())?;
//! assert_eq!(parts.disk_bytes, 1 << 30);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod error;
mod ext4;
pub mod identity;
mod layout;
pub mod merge;

pub use error::*;
pub use ext4::{DirectoryEntry, Metadata, Replayed, TreeInode, TreeReader, TreeRun, TreeShape};
pub use layout::*;
