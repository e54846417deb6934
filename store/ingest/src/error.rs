//! Why a push fails.

use std::io;
use std::path::PathBuf;

use shale_model::{EntryError, LayerError, NameError, SeamError, TreePath};

/// Why a push failed. Nothing that it did is visible.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// The source cannot be read, or holds what no layer can.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The repository or registry refused or failed. Not transparent: who walks the causes must find this error itself,
    /// which says what kind of trouble it is.
    #[error("the repository or registry does not take the push")]
    Sink(#[from] SeamError),
    /// The entries do not make a layer.
    #[error("the source does not make a layer")]
    Layer(#[from] LayerError),
    /// A compressor could not be made or failed.
    #[error("cannot compress")]
    Compress(#[source] io::Error),
    /// The difference to a base was asked of a source that holds whiteouts: it is a difference itself.
    #[error("{path} is a whiteout: a difference to a base is made from a complete tree")]
    NotComplete {
        /// The whiteout.
        path: TreePath,
    },
    /// Another part of the push failed, and its error is the one that is returned.
    #[error("another part of the push failed")]
    Interrupted,
}

impl From<TarError> for PushError {
    fn from(error: TarError) -> Self {
        PushError::Source(error.into())
    }
}

/// Why a source cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// A call to the system failed.
    #[error("{action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The file is another one, or has other content, than when the push came to it.
    #[error("{} changed while it was read", path.display())]
    Changed {
        /// The file or directory.
        path: PathBuf,
    },
    /// The file was listed, and is no longer there.
    #[error("{} vanished while its directory was read", path.display())]
    Vanished {
        /// The file or directory.
        path: PathBuf,
    },
    /// A name or path that no layer can hold.
    #[error("{} cannot be in a layer", path.display())]
    Name {
        /// The file.
        path: PathBuf,
        /// The rule that it breaks.
        source: NameError,
    },
    /// Attributes or content that no layer can hold.
    #[error("{} cannot be in a layer", path.display())]
    Entry {
        /// The file.
        path: PathBuf,
        /// The rule that it breaks.
        source: EntryError,
    },
    /// A file of a type, or with a device number, that Linux does not have.
    #[error("{} is of an unknown type", path.display())]
    Type {
        /// The file.
        path: PathBuf,
    },
    /// A tar archive is damaged, or holds what no layer can.
    #[error(transparent)]
    Tar(#[from] TarError),
}

/// What is wrong with a tar archive, and where.
#[derive(Debug, thiserror::Error)]
#[error("tar member {member}: {problem}")]
pub struct TarError {
    /// Name of the member with odd bytes escaped, or its number where it has no name yet.
    pub member: String,
    /// What is wrong.
    pub problem: TarProblem,
}

/// What is wrong with a member of a tar archive.
#[derive(Debug, thiserror::Error)]
pub enum TarProblem {
    /// Reading the archive failed.
    #[error("reading the archive failed: {0}")]
    Io(#[from] io::Error),
    /// The archive ends before its end mark, two blocks of zeros.
    #[error("the archive is truncated")]
    Truncated,
    /// The header's checksum is wrong: this is no tar archive, or it is damaged.
    #[error("the header's checksum does not match: damaged, or not a tar archive")]
    Checksum,
    /// A field of a header, or a record of an extended header, that cannot be read.
    #[error("the {0} is malformed")]
    Malformed(&'static str),
    /// A part that is longer than it may be.
    #[error("the {what} has {found} bytes; the limit is {max}")]
    TooLong {
        /// The part.
        what: &'static str,
        /// Its bytes.
        found: u64,
        /// Most bytes allowed.
        max: u64,
    },
    /// A name from the root of a machine, which says nothing in an image.
    #[error("absolute names are refused")]
    Absolute,
    /// A name with `..`, or one that no tree can hold.
    #[error("not a path inside the tree: {0}")]
    Path(#[from] NameError),
    /// Attributes or content that no layer can hold.
    #[error("{0}")]
    Entry(#[from] EntryError),
    /// A type of member, or a use of one, that cannot become an entry.
    #[error("{0} are not supported")]
    Unsupported(&'static str),
    /// A hard link to something that does not come before it in the archive.
    #[error("hard link to {0}, which is no file that comes before it in the archive")]
    LinkTarget(String),
    /// The member lies in something that the same archive says is not a directory.
    #[error("it lies in {0}, which is not a directory")]
    NotDirectory(TreePath),
    /// An ACL names a user or group that only the machine knows where the archive was made.
    #[error("an ACL names `{0}` without its number; make the archive with --xattrs, too")]
    AclName(String),
    /// A rule of whiteouts (OCI image specification, `layer.md`) is broken.
    #[error("{0}")]
    Whiteout(&'static str),
    /// More members than a layer can hold.
    #[error("too many members")]
    TooMany,
}
