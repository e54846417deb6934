//! The durable repository: packs, layers, templates and references below one directory, with the
//! chunk index that it is handed.
//!
//! [`Repository`] is opened on a [`shale_files::LockFiles`] and a [`shale_model::ChunkIndex`]; it is the
//! [`shale_model::Catalog`] and [`shale_model::Fetch`] of what it holds, and [`Repository::push`] gives
//! the [`shale_model::Sink`]. The durable order of a push is pack, index, layer, template, reference:
//! whatever dies on the way leaves nothing visible (I6). Everything is safe to share between threads.
//!
//! ```
//! use std::sync::Arc;
//! use shale_files::MemoryFiles;
//! use shale_model::{Catalog, MemoryIndex};
//! use shale_repo::{Access, Repository};
//!
//! let files = Arc::new(MemoryFiles::new());
//! Repository::init(&*files)?;
//! let repository = Repository::open(files, Arc::new(MemoryIndex::new()), Access::Shared)?;
//! assert!(repository.list_refs("")?.is_empty());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod conformance;
pub mod paths;

mod boot_sets;
mod format;
mod manifests;
mod packs;
mod push;
mod reconcile;
mod refs;
mod repository;
mod session;
mod trouble;

pub use format::{InitError, OpenError};
pub use packs::{PackFault, read_pack_contents, verify_pack};
pub use push::{PackReceiver, Push};
pub use reconcile::Reconciled;
pub use refs::{FileRefs, MemoryRefs, Refs, check_refs};
pub use repository::{Access, Repository};
