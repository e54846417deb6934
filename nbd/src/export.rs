//! What a server offers: named exports over block devices.

use std::collections::BTreeMap;
use std::sync::Arc;

use shale_model::BlockDevice;

use crate::limits::{MAX_DISK_BYTES, MAX_STRING_BYTES};

/// Whether clients may change a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Every change is refused with `EPERM`, whatever the device thinks.
    ReadOnly,
    /// Changes go to the device.
    ReadWrite,
}

/// One disk on offer.
#[derive(Clone)]
pub struct Export {
    /// The disk. Its `size` must not change.
    pub device: Arc<dyn BlockDevice>,
    /// What clients may do.
    pub access: Access,
    /// A line for people, shown by tools that list exports; may be empty. At most
    /// [`MAX_STRING_BYTES`].
    pub description: String,
}

impl Export {
    /// A disk without a description.
    pub fn new(device: Arc<dyn BlockDevice>, access: Access) -> Self {
        Self {
            device,
            access,
            description: String::new(),
        }
    }
}

/// Why an export cannot be offered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExportError {
    /// Longer than [`MAX_STRING_BYTES`].
    #[error("the {what} of an export has {len} bytes, more than {MAX_STRING_BYTES}")]
    TooLong {
        /// Name or description.
        what: &'static str,
        /// Its bytes.
        len: usize,
    },
    /// A NUL byte, which the protocol forbids in strings.
    #[error("the {what} of an export holds a NUL byte")]
    Nul {
        /// Name or description.
        what: &'static str,
    },
    /// The name is taken.
    #[error("there are two exports of the name {0:?}")]
    Duplicate(String),
    /// Larger than [`MAX_DISK_BYTES`].
    #[error("a disk of {0} bytes is larger than NBD clients can address")]
    TooLarge(u64),
}

/// The exports of a server by name, listed in order of name. The empty name is the default export: the
/// one that clients get who name none.
#[derive(Default)]
pub struct Exports {
    by_name: BTreeMap<String, Export>,
}

impl Exports {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The default export alone, which is what a socket per VM needs.
    pub fn single(export: Export) -> Result<Self, ExportError> {
        let mut exports = Self::new();
        exports.add("", export)?;
        Ok(exports)
    }

    /// Adds one.
    pub fn add(&mut self, name: impl Into<String>, export: Export) -> Result<(), ExportError> {
        let name = name.into();
        check_string("name", &name)?;
        check_string("description", &export.description)?;
        let size = export.device.size();
        if size > MAX_DISK_BYTES {
            return Err(ExportError::TooLarge(size));
        }
        if self.by_name.contains_key(&name) {
            return Err(ExportError::Duplicate(name));
        }
        self.by_name.insert(name, export);
        Ok(())
    }

    /// The export of that name.
    pub fn get(&self, name: &str) -> Option<&Export> {
        self.by_name.get(name)
    }

    /// All of them, in order of name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Export)> {
        self.by_name
            .iter()
            .map(|(name, export)| (name.as_str(), export))
    }
}

fn check_string(what: &'static str, text: &str) -> Result<(), ExportError> {
    if text.len() > MAX_STRING_BYTES {
        return Err(ExportError::TooLong {
            what,
            len: text.len(),
        });
    }
    if text.contains('\0') {
        return Err(ExportError::Nul { what });
    }
    Ok(())
}
