//! What a tree layer says about one name: attributes, kind, content.

use std::sync::Arc;

use crate::id::ChunkId;
use crate::limits::{
    MAX_CHUNK_BYTES, MAX_FILE_BYTES, MAX_NAME_BYTES, MAX_SYMLINK_BYTES, MAX_XATTR_BYTES, MAX_XATTRS,
};
use crate::name::{Name, TreePath};

/// Permission bits, set-id bits and the sticky bit.
pub const MODE_BITS: u16 = 0o7777;

/// A point in time: seconds since 1970 (negative before it) and 0 to 999,999,999 nanoseconds after
/// that second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Mtime {
    /// Seconds since 1970-01-01T00:00:00Z.
    pub seconds: i64,
    /// Nanoseconds within the second.
    pub nanos: u32,
}

/// Extended attributes: full names as user space sees them (`security.capability`,
/// `system.posix_acl_access`) with their values, in order of name, each name once.
///
/// ACLs are kept in the form that `getxattr` returns (version 2 of `posix_acl_xattr`). Clones share them: many
/// entries have the same ones.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Xattrs(Arc<[XattrPair]>);

/// Name and value of one extended attribute.
pub type XattrPair = (Box<[u8]>, Box<[u8]>);

impl Xattrs {
    /// Sorts and checks `pairs` of name and value.
    pub fn new(mut pairs: Vec<XattrPair>) -> Result<Self, EntryError> {
        pairs.sort();
        let twice = pairs.windows(2).any(|pair| pair[0].0 == pair[1].0);
        let bad_name =
            |name: &[u8]| name.is_empty() || name.len() > MAX_NAME_BYTES || name.contains(&0);
        if pairs.len() > MAX_XATTRS {
            return Err(EntryError::XattrCount(pairs.len()));
        }
        if twice || pairs.iter().any(|(name, _)| bad_name(name)) {
            return Err(EntryError::XattrName);
        }
        let total = pairs
            .iter()
            .map(|(name, value)| name.len() + value.len())
            .sum();
        if total > MAX_XATTR_BYTES {
            return Err(EntryError::XattrBytes(total));
        }
        Ok(Self(pairs.into()))
    }

    /// Name and value of each attribute, in order of name.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&[u8], &[u8])> {
        self.0.iter().map(|(name, value)| (&**name, &**value))
    }

    /// The value of the attribute called `name`.
    pub fn get(&self, name: &[u8]) -> Option<&[u8]> {
        let found = self.0.binary_search_by(|(n, _)| (**n).cmp(name)).ok()?;
        Some(&self.0[found].1)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Bytes of all names and values.
    pub fn bytes(&self) -> usize {
        self.iter()
            .map(|(name, value)| name.len() + value.len())
            .sum()
    }
}

/// What every inode has.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Attrs {
    /// Permission, set-id and sticky bits: [`MODE_BITS`].
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Time of last change of content.
    pub mtime: Mtime,
    /// Extended attributes.
    pub xattrs: Xattrs,
}

/// Device number of a character or block special file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rdev {
    /// Major number, at most 12 bits in Linux.
    pub major: u32,
    /// Minor number, at most 20 bits in Linux.
    pub minor: u32,
}

/// A run of a file's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Extent {
    /// The bytes of one chunk.
    Chunk {
        /// The chunk that holds them, and nothing else.
        id: ChunkId,
        /// Its plain length, 1 to [`MAX_CHUNK_BYTES`].
        len: u32,
    },
    /// Zeros that are stored nowhere.
    Hole {
        /// How many, at least one.
        len: u64,
    },
}

impl Extent {
    /// Bytes of the file that this run covers.
    pub fn len(&self) -> u64 {
        match self {
            Extent::Chunk { len, .. } => u64::from(*len),
            Extent::Hole { len } => *len,
        }
    }

    /// Never: a run covers at least one byte.
    pub fn is_empty(&self) -> bool {
        false
    }
}

/// A file's bytes: runs in order, no two holes next to each other.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Content(Vec<Extent>);

impl Content {
    /// Checks lengths and that holes are not split.
    pub fn new(extents: Vec<Extent>) -> Result<Self, EntryError> {
        let hole = |e: &Extent| matches!(e, Extent::Hole { .. });
        let bad_len = |e: &Extent| match e {
            Extent::Chunk { len, .. } => *len == 0 || *len as usize > MAX_CHUNK_BYTES,
            Extent::Hole { len } => *len == 0 || *len > MAX_FILE_BYTES,
        };
        if extents.iter().any(bad_len) {
            return Err(EntryError::ExtentLength);
        }
        if extents
            .windows(2)
            .any(|pair| hole(&pair[0]) && hole(&pair[1]))
        {
            return Err(EntryError::SplitHole);
        }
        let mut size = 0u64;
        for extent in &extents {
            size += extent.len();
            if size > MAX_FILE_BYTES {
                return Err(EntryError::FileSize);
            }
        }
        Ok(Self(extents))
    }

    /// The runs in order.
    pub fn extents(&self) -> &[Extent] {
        &self.0
    }

    /// The runs themselves.
    pub(crate) fn into_extents(self) -> Vec<Extent> {
        self.0
    }

    /// Bytes of the file.
    pub fn size(&self) -> u64 {
        self.0.iter().map(Extent::len).sum()
    }
}

/// What a name is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A regular file.
    File(Content),
    /// A directory; what lower layers hold in it stays visible.
    Directory,
    /// A directory that hides what lower layers hold in it.
    OpaqueDirectory,
    /// A symbolic link to these bytes.
    Symlink(Box<[u8]>),
    /// One more name of the inode that the entry at this path of the *same layer* brings; that entry
    /// comes earlier in the layer and is no hard link itself. The attributes of this entry are unused.
    HardLink(TreePath),
    /// A character special file.
    CharDevice(Rdev),
    /// A block special file.
    BlockDevice(Rdev),
    /// A named pipe.
    Fifo,
    /// A unix socket.
    Socket,
    /// The name, and all below it, does not exist above the lower layers. Attributes are unused.
    Whiteout,
}

impl Kind {
    /// A symbolic link, checked: 1 to [`MAX_SYMLINK_BYTES`] bytes without NUL.
    pub fn symlink(target: &[u8]) -> Result<Self, EntryError> {
        let fits = (1..=MAX_SYMLINK_BYTES).contains(&target.len()) && !target.contains(&0);
        if fits {
            Ok(Kind::Symlink(target.into()))
        } else {
            Err(EntryError::Symlink(target.len()))
        }
    }

    /// Whether entries can be below it.
    pub fn is_directory(&self) -> bool {
        matches!(self, Kind::Directory | Kind::OpaqueDirectory)
    }
}

/// One name in a directory of a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The name.
    pub name: Name,
    /// Owner, mode, times, extended attributes.
    pub attrs: Attrs,
    /// What it is.
    pub kind: Kind,
}

/// All that a layer says about the names in one directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerDir {
    /// The directory. The layer need not describe it itself: then its attributes come from below.
    pub path: TreePath,
    /// At least one entry, in order of name, each name once.
    pub entries: Vec<Entry>,
}

/// A tree layer as a value: directories in order of [`TreePath`], each with its own entries.
///
/// The content of a directory is together, and a directory's block comes before those of its
/// subdirectories, which is also the order in which content is packed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TreeLayer {
    /// Attributes of the root directory, and whether it is opaque, where the layer describes it.
    pub root: Option<RootEntry>,
    /// Directories in order of path, each path once.
    pub dirs: Vec<LayerDir>,
}

/// What a layer says about the root directory, which has no name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootEntry {
    /// Its attributes.
    pub attrs: Attrs,
    /// Whether everything of the lower layers is hidden.
    pub opaque: bool,
}

impl TreeLayer {
    /// Every entry with the directory that holds it, in layer order.
    pub fn entries(&self) -> impl Iterator<Item = (&TreePath, &Entry)> {
        self.dirs
            .iter()
            .flat_map(|dir| dir.entries.iter().map(move |entry| (&dir.path, entry)))
    }

    /// Every chunk of file content in layer order, with repetitions.
    pub fn chunks(&self) -> impl Iterator<Item = (ChunkId, u32)> {
        self.entries()
            .filter_map(|(_, entry)| match &entry.kind {
                Kind::File(content) => Some(content.extents()),
                _ => None,
            })
            .flatten()
            .filter_map(|extent| match extent {
                Extent::Chunk { id, len } => Some((*id, *len)),
                Extent::Hole { .. } => None,
            })
    }
}

/// Why something cannot be an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    /// More than [`MAX_XATTRS`].
    #[error("{0} extended attributes; the limit is {MAX_XATTRS}")]
    XattrCount(usize),
    /// An attribute name that is empty, too long, holds a NUL, or stands twice.
    #[error("an extended attribute's name is empty, too long or there twice")]
    XattrName,
    /// Names and values of more than [`MAX_XATTR_BYTES`] together.
    #[error("the extended attributes have {0} bytes; the limit is {MAX_XATTR_BYTES}")]
    XattrBytes(usize),
    /// A run of no bytes, or a chunk of more than [`MAX_CHUNK_BYTES`].
    #[error("a run of a file's content has an impossible length")]
    ExtentLength,
    /// Two holes next to each other: they are one.
    #[error("two holes follow each other")]
    SplitHole,
    /// More than [`MAX_FILE_BYTES`].
    #[error("a file is larger than {MAX_FILE_BYTES} bytes")]
    FileSize,
    /// A symbolic link without target, too long, or with a NUL.
    #[error(
        "a symbolic link's target has {0} bytes, or a NUL; 1 to {MAX_SYMLINK_BYTES} are possible"
    )]
    Symlink(usize),
}
