//! What judges the fold: random stacks of layers, written down as overlayfs and as OCI have them, and trees told as
//! facts that can be compared.
//!
//! ```text
//! generate   random layers                       facts      a tree, mounted or composed, name by name
//! write      a layer by system calls, and as tar  unpack     OCI's rules for unpacking, by system calls
//! collect    a source's entries as a layer
//! ```

mod collect;
mod facts;
mod generate;
mod unpack;
mod write;

pub(crate) use collect::{Chunks, collect};
pub(crate) use facts::{compare, composed, mounted};
pub(crate) use generate::{Generator, Seen};
pub(crate) use unpack::{Unpacked, unpack};
pub(crate) use write::{Form, archive, members, write_layer};

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Where the bytes `path`, from the root of a tree, lie below `root`.
fn below(root: &Path, path: &[u8]) -> PathBuf {
    match path {
        [] => root.to_owned(),
        _ => root.join(OsStr::from_bytes(path)),
    }
}
