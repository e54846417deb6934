//! Where entries and bytes come from.

mod attrs;
mod dir;
mod dir_file;
mod tar;

use shale_model::{Content, Entry, RootEntry, TreePath};

use crate::error::{PushError, SourceError};

pub use attrs::keeps_xattr;
pub use dir::DirSource;
pub use tar::TarSource;

/// Something that a layer is made from.
pub trait Source {
    /// Hands all that it holds to `visitor`: [`Visitor::root`] first, if at all, and entries in layer
    /// order ([`shale_model::TreeLayer`]); bytes in any order, before the entry that holds them.
    fn visit(&mut self, visitor: &mut dyn Visitor) -> Result<(), PushError>;
}

/// What takes the entries and bytes of a [`Source`].
pub trait Visitor {
    /// The root directory, where the source describes it.
    fn root(&mut self, root: RootEntry) -> Result<(), PushError>;

    /// The bytes of the file at `path`, cut; they become part of its entry.
    fn content(&mut self, path: &TreePath, bytes: &mut dyn FileBytes)
    -> Result<Content, PushError>;

    /// One entry of `dir`.
    fn entry(&mut self, dir: &TreePath, entry: Entry) -> Result<(), PushError>;
}

/// The bytes of one file, from its start to its end.
pub trait FileBytes {
    /// Fills the start of `buffer`, which is not empty, with the next bytes, or says that zeros or the end
    /// come next.
    fn read(&mut self, buffer: &mut [u8]) -> Result<Run, SourceError>;
}

/// What comes next in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Run {
    /// This many bytes, at least one, were written to the buffer.
    Data(usize),
    /// This many zeros, at least one, which were not written to the buffer.
    Zeros(u64),
    /// Nothing: the file is complete.
    End,
}
