//! What the kernel is answered: bytes after the header of a reply.

use crate::limits::{MAX_IO_BYTES, VALID_SECONDS};
use crate::proto::OUT_HEADER_BYTES;

/// What is known about an inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Attributes {
    /// The number that programs see.
    pub inode: u64,
    /// Type and permissions.
    pub mode: u32,
    /// Names.
    pub links: u32,
    /// Bytes.
    pub size: u64,
    /// Sectors of 512 bytes.
    pub sectors: u64,
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Seconds since 1970, of all times.
    pub seconds: i64,
    /// Nanoseconds within the second.
    pub nanos: u32,
    /// Device number as the kernel encodes it.
    pub rdev: u32,
}

/// Sizes of a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sizes {
    /// Blocks of 4096 bytes.
    pub blocks: u64,
    /// Blocks that are free.
    pub free_blocks: u64,
    /// Inodes.
    pub inodes: u64,
    /// Inodes that are free.
    pub free_inodes: u64,
}

/// The body of a reply, at most [`MAX_IO_BYTES`]. It keeps its memory from one reply to the next.
#[derive(Debug, Default)]
pub struct Body {
    /// Initialised up to its length, so that a buffer for reading need not be filled with zeros each time.
    bytes: Vec<u8>,
    len: usize,
}

impl Body {
    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// Makes it `len` bytes of any value, which are to be filled.
    pub fn fill(&mut self, len: usize) -> &mut [u8] {
        let len = len.min(MAX_IO_BYTES as usize);
        if self.bytes.len() < len {
            self.bytes.resize(len, 0);
        }
        self.len = len;
        &mut self.bytes[..len]
    }

    /// Makes it empty.
    pub fn clear(&mut self) {
        self.len = 0;
    }

    /// Appends bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        let end = self.len + bytes.len();
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        self.bytes[self.len..end].copy_from_slice(bytes);
        self.len = end;
    }

    fn u32(&mut self, value: u32) {
        self.push(&value.to_ne_bytes());
    }

    fn u64(&mut self, value: u64) {
        self.push(&value.to_ne_bytes());
    }

    fn zeros(&mut self, len: usize) {
        self.push(&[0; 48][..len]);
    }

    /// A node that was found, with its attributes: `fuse_entry_out`.
    pub fn entry(&mut self, node: u64, attributes: &Attributes) {
        self.u64(node);
        self.u64(0); // generation: numbers are never used again
        self.u64(VALID_SECONDS);
        self.u64(VALID_SECONDS);
        self.u64(0); // nanoseconds of both
        self.attributes(attributes);
    }

    /// That there is no such name, which the kernel may keep: `fuse_entry_out` of no node.
    pub fn no_entry(&mut self) {
        self.entry(0, &Attributes::default());
    }

    /// Attributes and how long they are good: `fuse_attr_out`.
    pub fn attributes_out(&mut self, attributes: &Attributes) {
        self.u64(VALID_SECONDS);
        self.u64(0);
        self.attributes(attributes);
    }

    fn attributes(&mut self, of: &Attributes) {
        for value in [of.inode, of.size, of.sectors] {
            self.u64(value);
        }
        for _ in 0..3 {
            self.u64(of.seconds as u64);
        }
        for _ in 0..3 {
            self.u32(of.nanos);
        }
        let block_bytes = 4096;
        for value in [of.mode, of.links, of.uid, of.gid, of.rdev, block_bytes, 0] {
            self.u32(value);
        }
    }

    /// An opened file: `fuse_open_out`.
    pub fn opened(&mut self, flags: u32) {
        self.u64(0); // no handle, as there is no state
        self.u32(flags);
        self.u32(0);
    }

    /// How many bytes were written: `fuse_write_out`; or how long an attribute is: `fuse_getxattr_out`.
    pub fn count(&mut self, bytes: u32) {
        self.u32(bytes);
        self.u32(0);
    }

    /// Where data or a hole is: `fuse_lseek_out`.
    pub fn offset(&mut self, offset: u64) {
        self.u64(offset);
    }

    /// Sizes: `fuse_statfs_out`.
    pub fn sizes(&mut self, sizes: &Sizes) {
        self.u64(sizes.blocks);
        self.u64(sizes.free_blocks);
        self.u64(sizes.free_blocks);
        self.u64(sizes.inodes);
        self.u64(sizes.free_inodes);
        for value in [4096, 255, 4096, 0] {
            self.u32(value);
        }
        self.zeros(24);
    }

    /// A name of a directory: `fuse_dirent`, after an entry where all attributes are wanted. Whether it fits into
    /// `room` bytes; if not, nothing is added.
    pub fn directory_entry(&mut self, room: usize, of: &DirectoryItem<'_>) -> bool {
        let full = of.entry.map_or(0, |_| 128);
        let bytes = full + (24 + of.name.len()).next_multiple_of(8);
        if self.len + bytes > room {
            return false;
        }
        let end = self.len + bytes;
        if let Some((node, attributes)) = &of.entry {
            self.entry(*node, attributes);
        }
        self.u64(of.inode);
        self.u64(of.cookie);
        self.u32(of.name.len() as u32);
        self.u32(u32::from(of.kind));
        self.push(of.name);
        self.zeros(end - self.len);
        true
    }

    /// What the server can do: `fuse_init_out`.
    pub(crate) fn init(&mut self, of: &InitReply) {
        for value in [of.major, of.minor, of.max_readahead, of.flags] {
            self.u32(value);
        }
        self.push(&of.max_background.to_ne_bytes());
        self.push(&of.congestion_threshold.to_ne_bytes());
        self.u32(of.max_write);
        self.u32(1); // granularity of times in nanoseconds
        self.push(&of.max_pages.to_ne_bytes());
        self.zeros(34);
    }
}

/// A name in a directory, for [`Body::directory_entry`].
#[derive(Debug)]
pub struct DirectoryItem<'a> {
    /// The name.
    pub name: &'a [u8],
    /// The number that programs see.
    pub inode: u64,
    /// Its `d_type`.
    pub kind: u8,
    /// Where to go on behind it.
    pub cookie: u64,
    /// Its node and attributes, where they are wanted; node 0 keeps the kernel from knowing the node, as `.` and
    /// `..` must.
    pub entry: Option<(u64, Attributes)>,
}

/// The fields of `fuse_init_out` that are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct InitReply {
    pub(crate) major: u32,
    pub(crate) minor: u32,
    pub(crate) max_readahead: u32,
    pub(crate) flags: u32,
    pub(crate) max_background: u16,
    pub(crate) congestion_threshold: u16,
    pub(crate) max_write: u32,
    pub(crate) max_pages: u16,
}

/// The header of a reply with `body` bytes after it; `error` is 0 or the number of an error.
pub(crate) fn header(unique: u64, error: i32, body: usize) -> [u8; OUT_HEADER_BYTES] {
    let mut header = [0; OUT_HEADER_BYTES];
    let len = (OUT_HEADER_BYTES + body) as u32;
    header[..4].copy_from_slice(&len.to_ne_bytes());
    header[4..8].copy_from_slice(&(-error).to_ne_bytes());
    header[8..].copy_from_slice(&unique.to_ne_bytes());
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sizes of the structures in `fuse.h`.
    #[test]
    fn structures_have_the_kernels_sizes() {
        let len = |write: &dyn Fn(&mut Body)| {
            let mut body = Body::default();
            write(&mut body);
            body.bytes().len()
        };
        assert_eq!(len(&|b| b.entry(1, &Attributes::default())), 128);
        assert_eq!(len(&|b| b.attributes_out(&Attributes::default())), 104);
        assert_eq!(len(&|b| b.opened(0)), 16);
        assert_eq!(len(&|b| b.count(0)), 8);
        assert_eq!(len(&|b| b.sizes(&Sizes::default())), 80);
        let init = InitReply {
            major: 7,
            minor: 31,
            max_readahead: 0,
            flags: 0,
            max_background: 0,
            congestion_threshold: 0,
            max_write: 0,
            max_pages: 0,
        };
        assert_eq!(len(&|b| b.init(&init)), 64);
    }

    #[test]
    fn directory_entries_fill_the_room_and_no_more() {
        let mut body = Body::default();
        let mut item = DirectoryItem {
            name: b"seven-7",
            inode: 5,
            kind: 8,
            cookie: 9,
            entry: None,
        };
        assert!(!body.directory_entry(31, &item));
        assert!(body.directory_entry(32, &item));
        assert_eq!(body.bytes().len(), 32);
        item.entry = Some((5, Attributes::default()));
        assert!(!body.directory_entry(32 + 159, &item));
        assert!(body.directory_entry(32 + 160, &item));
        item.entry = None;
        item.name = b"eight-88";
        assert!(!body.directory_entry(192 + 31, &item));
        assert!(body.directory_entry(192 + 32, &item));
        item.name = b"nine-9999";
        assert!(!body.directory_entry(224 + 39, &item));
        assert!(body.directory_entry(224 + 40, &item));
        assert_eq!(&body.bytes()[body.bytes().len() - 16..][..9], b"nine-9999");
    }

    #[test]
    fn a_body_for_reading_keeps_its_memory() {
        let mut body = Body::default();
        body.fill(5000).fill(7);
        body.clear();
        assert!(body.bytes().is_empty());
        body.push(b"ab");
        assert_eq!(body.bytes(), b"ab");
        assert_eq!(
            body.fill(MAX_IO_BYTES as usize + 1).len(),
            MAX_IO_BYTES as usize
        );
    }
}
