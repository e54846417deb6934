//! The disk of a guest that stands still, as its file system is read.

use std::borrow::Cow;
use std::cell::RefCell;
use std::sync::Arc;

use shale_image::Metadata;
use shale_model::{BlockDevice, FormatError};
use tokio::runtime::Handle;

use crate::patience::Patience;
use crate::read_ahead::ReadAhead;

/// Why the file system of a guest cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum GuestDiskError {
    /// It is damaged, or none that shale lays out.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// The disk cannot be read.
    #[error("read the disk: {0}")]
    Read(String),
    /// It holds more than a layer may take of it.
    #[error("{what} on the disk are more than {limit}")]
    TooMany {
        /// What.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
    /// Two names lead to an inode that has one: a directory could be its own parent, and a file be read without end.
    #[error("inode {0} has more names than it says")]
    TwoNames(u32),
    /// A name leads to an inode that is not in use.
    #[error("inode {0} has a name and is not in use")]
    NoInode(u32),
    /// An inode says that it is of a type that Linux does not have.
    #[error("inode {0} is of an unknown type")]
    Type(u32),
}

/// A disk that is read while nobody writes to it, by one thread that may block.
pub(crate) struct GuestDisk {
    disk: Arc<dyn BlockDevice>,
    runtime: Handle,
    patience: Patience,
    ahead: RefCell<ReadAhead>,
}

impl GuestDisk {
    /// A disk whose reads fail when `patience` ends. It must not be read by a thread of `runtime`.
    pub(crate) fn new(disk: Arc<dyn BlockDevice>, runtime: Handle, patience: Patience) -> Self {
        let ahead = RefCell::default();
        Self {
            disk,
            runtime,
            patience,
            ahead,
        }
    }
}

impl Metadata for GuestDisk {
    type Error = GuestDiskError;

    fn range(&self, offset: u64, len: usize) -> Result<Cow<'_, [u8]>, GuestDiskError> {
        let size = self.disk.size();
        let inside = offset.checked_add(len as u64).filter(|end| *end <= size);
        if inside.is_none() {
            return Err(GuestDiskError::Read("a read leaves it".into()));
        }
        // Reads of what is here come without a wait, in which it would show.
        if let Some(over) = self.patience.over() {
            return Err(GuestDiskError::Read(over.to_string()));
        }
        let mut ahead = self.ahead.borrow_mut();
        let mut bytes = vec![0; len];
        if ahead.read(offset, &mut bytes) {
            return Ok(bytes.into());
        }
        let window = ahead.window(offset, len as u64).min(size - offset);
        let mut read = vec![0; window as usize];
        self.runtime.block_on(async {
            tokio::select! {
                biased;
                done = self.disk.read(offset, &mut read) => {
                    done.map_err(|error| GuestDiskError::Read(error.to_string()))
                }
                error = self.patience.ended() => Err(GuestDiskError::Read(error.to_string())),
            }
        })?;
        bytes.copy_from_slice(&read[..len]);
        ahead.keep(offset, read);
        Ok(bytes.into())
    }

    fn disk_bytes(&self) -> u64 {
        self.disk.size()
    }
}
