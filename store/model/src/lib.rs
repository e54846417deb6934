//! The vocabulary of Shale: ids, names, trees, layers, templates, packs, plans, their byte formats and
//! limits, and the seams between the parts. Pure: nothing here does I/O.
//!
//! ```
//! use shale_model::{ChunkId, Reference};
//!
//! let reference: Reference = "demo/base:12".parse()?;
//! assert_eq!(reference.name.tag(), "12");
//! assert_eq!(ChunkId::of(b"").short(), "af1349b9f5f9");
//! # Ok::<(), shale_model::ReferenceError>(())
//! ```

pub mod limits;

mod boot_set;
mod bytes;
mod compose;
mod entry;
mod frame;
mod id;
mod layer;
mod memory_index;
mod name;
mod pack;
mod plan;
mod reference;
mod seam;
mod template;

pub use boot_set::*;
pub use bytes::*;
pub use compose::*;
pub use entry::*;
pub use frame::*;
pub use id::*;
pub use layer::*;
pub use memory_index::*;
pub use name::*;
pub use pack::*;
pub use plan::*;
pub use reference::*;
pub use seam::*;
pub use template::*;
