//! Inodes. Source: Linux `Documentation/filesystems/ext4/inodes.rst`.

use shale_model::{Attrs, Mtime, Rdev};

use super::bytes::{put16, put32};
use super::checksum::crc32c;
use super::extent::Root;
use super::geometry::INODE_BYTES;
use super::profile::Profile;
use crate::error::NodeProblem;

/// Most names of one inode (`EXT4_LINK_MAX`). A directory with more subdirectories counts 1.
pub(crate) const MAX_LINKS: u32 = 65_000;
/// Largest major number of Linux, 12 bits.
pub(crate) const MAX_DEVICE_MAJOR: u32 = 0xFFF;
/// Largest minor number of Linux, 20 bits.
pub(crate) const MAX_DEVICE_MINOR: u32 = 0xF_FFFF;

/// The inode maps its blocks by an extent tree.
pub(super) const EXTENTS_FLAG: u32 = 0x8_0000;
/// The directory is a hash tree.
pub(super) const INDEX_FLAG: u32 = 0x1000;

/// Types of files in the mode.
pub(super) mod mode {
    pub(in crate::ext4) const TYPE: u16 = 0xF000;
    pub(in crate::ext4) const FIFO: u16 = 0x1000;
    pub(in crate::ext4) const CHAR: u16 = 0x2000;
    pub(in crate::ext4) const DIRECTORY: u16 = 0x4000;
    pub(in crate::ext4) const BLOCK: u16 = 0x6000;
    pub(in crate::ext4) const REGULAR: u16 = 0x8000;
    pub(in crate::ext4) const SYMLINK: u16 = 0xA000;
    pub(in crate::ext4) const SOCKET: u16 = 0xC000;
}

/// Bytes of an inode that are as in ext2.
pub(super) const BASE_BYTES: usize = 128;
/// Bytes after these that the inode's own fields take; attributes follow.
const EXTRA_BYTES: usize = 32;
/// Where the attributes inside the inode begin.
pub(super) const XATTR_START: usize = BASE_BYTES + EXTRA_BYTES;

/// First second, 2310-04-04, that `e2fsck` takes for a badly written time before 1970.
const TIME_END: i64 = (3 << 32) - (1 << 31);

/// What an inode says.
#[derive(Debug)]
pub(super) struct Inode {
    /// Type and permissions.
    pub(super) mode: u16,
    /// Names, already 1 for a directory that has too many.
    pub(super) links: u16,
    /// Bytes.
    pub(super) size: u64,
    /// Blocks of 4096 bytes: data, extent tree and attributes.
    pub(super) blocks: u64,
    /// Flags.
    pub(super) flags: u32,
    /// Extent tree, target of a short symbolic link, or device number.
    pub(super) block: Root,
    /// The block of further extended attributes, 0 for none.
    pub(super) xattr_block: u32,
    /// Extended attributes inside the inode; empty, or 96 bytes.
    pub(super) xattrs: Vec<u8>,
}

impl Inode {
    /// Writes the inode with this number into its 256 zero bytes.
    pub(super) fn encode(
        &self,
        profile: Profile,
        number: u32,
        attrs: &Attrs,
        to: &mut [u8],
    ) -> Result<(), NodeProblem> {
        let (seconds, extra) = time(attrs.mtime)?;
        put16(to, 0, self.mode);
        put16(to, 0x02, attrs.uid as u16);
        put32(to, 0x04, self.size as u32);
        for at in [0x08, 0x0C, 0x10, 0x90] {
            put32(to, at, seconds);
        }
        put16(to, 0x18, attrs.gid as u16);
        put16(to, 0x1A, self.links);
        // Sectors of 512 bytes; 48 bits hold those of any file that fits on a disk.
        put32(to, 0x1C, (self.blocks * 8) as u32);
        put16(to, 0x74, ((self.blocks * 8) >> 32) as u16);
        put32(to, 0x20, self.flags);
        to[0x28..0x64].copy_from_slice(&self.block);
        put32(to, 0x68, self.xattr_block);
        put32(to, 0x6C, (self.size >> 32) as u32);
        put16(to, 0x78, (attrs.uid >> 16) as u16);
        put16(to, 0x7A, (attrs.gid >> 16) as u16);
        put16(to, 0x80, EXTRA_BYTES as u16);
        for at in [0x84, 0x88, 0x8C, 0x94] {
            put32(to, at, extra);
        }
        to[XATTR_START..XATTR_START + self.xattrs.len()].copy_from_slice(&self.xattrs);
        if profile.has_checksums() {
            let checksum = crc32c(profile.inode_seed(number), &to[..INODE_BYTES]);
            put16(to, 0x7C, checksum as u16);
            put16(to, 0x82, (checksum >> 16) as u16);
        }
        Ok(())
    }
}

/// The two words of a time: seconds modulo 2^32, then 2 bits that extend them and nanoseconds.
fn time(time: Mtime) -> Result<(u32, u32), NodeProblem> {
    let Mtime { seconds, nanos } = time;
    if !(i64::from(i32::MIN)..TIME_END).contains(&seconds) || nanos >= 1_000_000_000 {
        return Err(NodeProblem::Time { seconds, nanos });
    }
    // The low word is signed: what it lacks to the full value is a multiple of 2^32.
    let epoch = (seconds - i64::from(seconds as i32)) >> 32;
    Ok((seconds as u32, nanos << 2 | epoch as u32))
}

/// `i_block` of a device: the old form where it fits, as the kernel writes it.
pub(super) fn device(rdev: Rdev) -> Result<Root, NodeProblem> {
    let Rdev { major, minor } = rdev;
    if major > MAX_DEVICE_MAJOR || minor > MAX_DEVICE_MINOR {
        return Err(NodeProblem::Device { major, minor });
    }
    let mut root = [0; 60];
    if major < 256 && minor < 256 {
        put32(&mut root, 0, major << 8 | minor);
    } else {
        let new = (minor & 0xFF) | major << 8 | (minor & !0xFF) << 12;
        put32(&mut root, 4, new);
    }
    Ok(root)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_read_back_from_34_bits() {
        let i32_min = i64::from(i32::MIN);
        for seconds in [
            i32_min,
            -1,
            0,
            i64::from(i32::MAX) + 1,
            1 << 32,
            TIME_END - 1,
        ] {
            let nanos = 999_999_999;
            let (low, extra) = time(Mtime { seconds, nanos }).unwrap();
            assert_eq!(
                i64::from(low as i32) + (i64::from(extra & 3) << 32),
                seconds
            );
            assert_eq!(extra >> 2, nanos);
        }
        for seconds in [i32_min - 1, TIME_END] {
            assert!(time(Mtime { seconds, nanos: 0 }).is_err());
        }
        let nanos = 1_000_000_000;
        assert!(time(Mtime { seconds: 0, nanos }).is_err());
    }
}
