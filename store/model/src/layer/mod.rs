//! The bytes of a tree layer: a root that lists pages, and pages of entries in columns.
//!
//! ```text
//! root
//!    0  8  magic "SHALELYR"
//!    8  2  version, 1
//!   10  1  kind: 1 tree
//!   11  1  chunker, see [`Chunker`]
//!   12  4  zero
//!   16  8  feature flags a reader must know, 0
//!   24  8  entries
//!   32  8  bytes of all files, holes included
//!   40  8  chunks, with repetitions
//!   48  4  pages
//!   52  4  zero
//!   56     root directory: 0 not described, 1 described, 2 opaque; then, if described, mode, uid, gid
//!          (varints), seconds (zigzag), nanoseconds, attributes (count, then name and value, each with
//!          its length)
//!          each page: id[32], length u32, entries u32, chunks u32, path of its first directory and
//!          name of its first entry, each with its length as varint
//! ```
//! A page is a chunk like any other: named by the BLAKE3 of its bytes, packed, cached and verified alike.
//! Pages are cut where the content says so, so that a small change rewrites few of them; the layer's id
//! is the BLAKE3 of the root. The page's columns are described in the page module.

mod check;
mod decode;
mod encode;
mod page;
mod root;

pub use check::LayerChecker;
pub use decode::LayerDecoder;
pub use encode::{EncodedPage, LayerEncoder, LayerError};
pub use root::{Chunker, LayerRoot, LayerTotals, PageRef};
