//! Inodes, and what links say.

use std::borrow::Cow;

use shale_model::limits::MAX_SYMLINK_BYTES;
use shale_model::{FormatError, MODE_BITS, Mtime, Rdev};

use super::{Metadata, TreeReader, TreeShape, fault};
use crate::ext4::bytes::{get16, get32};
use crate::ext4::geometry::INODE_BYTES;
use crate::ext4::inode::{BASE_BYTES, EXTENTS_FLAG, INDEX_FLAG, mode};
use crate::ext4::place::{LOST_FOUND, MAX_FAST_SYMLINK};
use crate::ext4::superblock::FIRST_INODE;

/// An inode of a [`TreeReader`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TreeInode {
    /// Its number.
    pub number: u32,
    /// Names, 1 for a directory with too many subdirectories to count.
    pub links: u32,
    /// Bytes.
    pub size: u64,
    /// Where it lies on the disk, in bytes.
    place: u64,
    /// Its 256 bytes.
    raw: [u8; INODE_BYTES],
}

impl TreeInode {
    /// Type and permissions, as `st_mode` has them.
    pub fn mode(&self) -> u16 {
        get16(&self.raw, 0)
    }

    /// Permissions alone.
    pub fn permissions(&self) -> u16 {
        self.mode() & MODE_BITS
    }

    /// Whether it is a directory.
    pub fn is_directory(&self) -> bool {
        self.kind() == mode::DIRECTORY
    }

    /// Whether it is a regular file.
    pub fn is_file(&self) -> bool {
        self.kind() == mode::REGULAR
    }

    /// Whether it is a symbolic link.
    pub fn is_symlink(&self) -> bool {
        self.kind() == mode::SYMLINK
    }

    /// User and group.
    pub fn owner(&self) -> (u32, u32) {
        let id =
            |low, high| u32::from(get16(&self.raw, low)) | u32::from(get16(&self.raw, high)) << 16;
        (id(0x02, 0x78), id(0x18, 0x7A))
    }

    /// Its one time.
    pub fn mtime(&self) -> Mtime {
        let (low, extra) = (get32(&self.raw, 0x10), get32(&self.raw, 0x88));
        Mtime {
            seconds: i64::from(low as i32) + (i64::from(extra & 3) << 32),
            nanos: (extra >> 2).min(999_999_999),
        }
    }

    /// Sectors of 512 bytes, as `st_blocks` has them.
    pub fn sectors(&self) -> u64 {
        u64::from(get32(&self.raw, 0x1C)) | u64::from(get16(&self.raw, 0x74)) << 32
    }

    /// Which device it is; none for what is no device.
    pub fn rdev(&self) -> Option<Rdev> {
        if !matches!(self.kind(), mode::CHAR | mode::BLOCK) {
            return None;
        }
        let (old, new) = (get32(&self.raw, 0x28), get32(&self.raw, 0x2C));
        Some(match old {
            0 => Rdev {
                major: new >> 8 & 0xFFF,
                minor: new & 0xFF | new >> 12 & 0xF_FF00,
            },
            _ => Rdev {
                major: old >> 8 & 0xFF,
                minor: old & 0xFF,
            },
        })
    }

    fn kind(&self) -> u16 {
        self.mode() & mode::TYPE
    }

    fn has_flag(&self, flag: u32) -> bool {
        get32(&self.raw, 0x20) & flag != 0
    }

    pub(super) fn is_mapped(&self) -> bool {
        self.has_flag(EXTENTS_FLAG)
    }

    pub(super) fn is_indexed(&self) -> bool {
        self.has_flag(INDEX_FLAG)
    }

    /// Extent tree, target of a short link, or device number.
    pub(super) fn i_block(&self) -> &[u8] {
        &self.raw[0x28..0x64]
    }

    /// What lies behind its fields.
    pub(super) fn inline(&self) -> &[u8] {
        let start = usize::from(get16(&self.raw, 0x80)) + BASE_BYTES;
        self.raw.get(start..).unwrap_or_default()
    }

    /// The block of further extended attributes, 0 for none.
    pub(super) fn xattr_block(&self) -> u64 {
        u64::from(get32(&self.raw, 0x68))
    }

    /// An error of this inode.
    pub(super) fn fault(&self, rule: &'static str) -> FormatError {
        fault(self.place, rule)
    }
}

impl<'a, M: Metadata> TreeReader<'a, M> {
    /// The inode with this number, if the template has one.
    pub fn inode(&self, number: u32) -> Result<Option<TreeInode>, M::Error> {
        let inode = match self.any_inode(number)? {
            Some(inode) if number != TreeShape::ROOT => return Ok(Some(inode)),
            inode => inode,
        };
        let Some(mut root) = inode else {
            return Ok(None);
        };
        if !root.is_directory() {
            return Err(root.fault("the root is no directory").into());
        }
        // A `lost+found` that the layout made is not in the tree, so its `..` does not count.
        if root.links > 2 && self.find(&root, LOST_FOUND)? == Some(FIRST_INODE) {
            root.links -= 1;
        }
        Ok(Some(root))
    }

    fn any_inode(&self, number: u32) -> Result<Option<TreeInode>, M::Error> {
        match number {
            // A guest that removes the layout's own `lost+found` gives its inode to something else.
            FIRST_INODE if self.has_own_lost_found()? => Ok(None),
            // The journal among them.
            reserved if reserved < FIRST_INODE && reserved != TreeShape::ROOT => Ok(None),
            number => self.any_number(number),
        }
    }

    fn has_own_lost_found(&self) -> Result<bool, M::Error> {
        let root = self.any_number(TreeShape::ROOT)?;
        let root = root.filter(TreeInode::is_directory);
        Ok(match root {
            Some(root) => self.find(&root, LOST_FOUND)? == Some(FIRST_INODE),
            None => false,
        })
    }

    /// The inode with this number, be it in the tree or not.
    pub(super) fn any_number(&self, number: u32) -> Result<Option<TreeInode>, M::Error> {
        let Some(place) = self.place(number) else {
            return Ok(None);
        };
        let bytes = self.disk.range(place, INODE_BYTES)?;
        let mut raw = [0; INODE_BYTES];
        raw.copy_from_slice(&bytes);
        let links = u32::from(get16(&raw, 0x1A));
        let size = u64::from(get32(&raw, 0x04)) | u64::from(get32(&raw, 0x6C)) << 32;
        let inode = TreeInode {
            number,
            links,
            size,
            place,
            raw,
        };
        Ok((links > 0).then_some(inode))
    }

    /// Where a symbolic link points.
    pub fn link_target(&self, inode: &'a TreeInode) -> Result<Cow<'a, [u8]>, M::Error> {
        let len = match usize::try_from(inode.size) {
            Ok(len @ 1..=MAX_SYMLINK_BYTES) if inode.is_symlink() => len,
            _ => {
                let rule = "no symbolic link, or one of an impossible length";
                return Err(inode.fault(rule).into());
            }
        };
        if !inode.is_mapped() {
            let target = inode.i_block().get(..len.min(MAX_FAST_SYMLINK));
            let target = target.filter(|target| target.len() == len);
            return target.map(Cow::Borrowed).ok_or_else(|| {
                inode
                    .fault("a symbolic link is longer than its inode")
                    .into()
            });
        }
        let block = self.block_of(inode, 0)?;
        Ok(match block {
            Cow::Borrowed(block) => Cow::Borrowed(&block[..len]),
            Cow::Owned(mut block) => {
                block.truncate(len);
                Cow::Owned(block)
            }
        })
    }
}
