//! The chunk index on RocksDB: where each chunk of a repository lies. The only crate that knows RocksDB.
//!
//! [`RocksIndex`] is open in one process, which changes it; [`IndexReader`] in any number beside that one.
//! It holds what pack footers hold (I9): one that is damaged or was made by another version is
//! discarded, and the repository fills a new one when it is opened.
//!
//! ```no_run
//! use shale_index::{OpenError, RocksIndex};
//!
//! let path = std::path::Path::new("repository/index");
//! let index = match RocksIndex::open(path) {
//!     Err(OpenError::Damaged { .. }) => {
//!         RocksIndex::discard(path)?;
//!         RocksIndex::open(path)?
//!     }
//!     opened => opened?,
//! };
//! # drop(index);
//! # Ok::<(), OpenError>(())
//! ```

mod damage;
mod error;
mod options;
mod reader;
mod rocks;
mod value;

pub use error::OpenError;
pub use reader::IndexReader;
pub use rocks::RocksIndex;
