//! The other way: a tree read back from its disk.
//!
//! A plan holds the tree as the metadata that the layout made, so whoever shows files needs no second copy
//! of it. A guest goes on writing to that file system, and what it left is read by the same code, behind
//! [`Replayed`]. Inode numbers are those of the disk; two inodes that are the file system's own and no part of the
//! template, its journal and the `lost+found` that it makes, do not exist here. Only file systems that this crate
//! lays out are read. Damaged ones cost bounded time and memory and give a [`FormatError`].

mod dir;
mod extent;
mod inode;
mod replay;
mod xattr;

use std::borrow::Cow;

use shale_model::limits::BLOCK_BYTES;
use shale_model::{Filesystem, FormatError, Plan, Problem};

use super::bytes::{get_split, get16, get32};
use super::geometry::{GROUP_BLOCKS, GROUP_INODES, Geometry, INODE_BYTES};
use super::profile::Profile;
use super::superblock::SUPERBLOCK_BYTES;

pub use dir::DirectoryEntry;
pub use extent::TreeRun;
pub use inode::TreeInode;
pub use replay::Replayed;

const BLOCK: u64 = BLOCK_BYTES as u64;
/// Where the superblock is, in bytes.
const SUPERBLOCK_AT: u64 = 1024;
const WHAT: &str = "file system of a disk";

/// Where the metadata of a file system is read from.
pub trait Metadata {
    /// Why it cannot be read.
    type Error: From<FormatError>;

    /// `len` bytes of the disk from `offset`.
    fn range(&self, offset: u64, len: usize) -> Result<Cow<'_, [u8]>, Self::Error>;

    /// Bytes of the disk.
    fn disk_bytes(&self) -> u64;
}

/// A plan's metadata is what the layout made; the content of files is not.
impl<B: AsRef<[u8]>> Metadata for Plan<B> {
    type Error = FormatError;

    fn range(&self, offset: u64, len: usize) -> Result<Cow<'_, [u8]>, FormatError> {
        self.synthesised_range(offset, len)
    }

    fn disk_bytes(&self) -> u64 {
        Plan::disk_bytes(self)
    }
}

/// What a superblock says about where everything is: small, and good for as long as nobody writes to the disk.
///
/// ```
/// # use shale_image::{Layout, TreeShape, lay_out};
/// # use shale_model::{Filesystem, Plan, TemplateId, TreeLayer, compose};
/// # let options = Layout { template: TemplateId::of(b""), filesystem: Filesystem::Ext4V1, disk_bytes: 0, uuid: [1; 16] };
/// # let parts = lay_out(&compose(&[TreeLayer::default()])?, &options, &Default::default())?;
/// let plan = Plan::open(parts.encode().1)?;
/// let tree = TreeShape::of(&plan)?.tree(&plan);
/// let root = tree.inode(TreeShape::ROOT)?.ok_or("no root")?;
/// assert!(root.is_directory());
/// assert_eq!(tree.lookup(&root, b"etc")?, None);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy)]
pub struct TreeShape {
    geometry: Geometry,
    /// Inode numbers end after this.
    inodes: u32,
    /// Blocks of the disk.
    blocks: u64,
    free_blocks: u64,
    free_inodes: u32,
}

impl TreeShape {
    /// Inode number of the root directory.
    pub const ROOT: u32 = 2;

    /// Reads the superblock of a disk.
    ///
    /// # Errors
    /// The disk cannot be read, or holds no file system of this crate that is whole without its journal.
    pub fn of<M: Metadata>(disk: &M) -> Result<Self, M::Error> {
        let sb = disk.range(SUPERBLOCK_AT, SUPERBLOCK_BYTES)?;
        Ok(Self::parse(&sb, disk.disk_bytes())?)
    }

    fn parse(sb: &[u8], disk_bytes: u64) -> Result<Self, FormatError> {
        let features = [0x5C, 0x60, 0x64].map(|at| get32(sb, at));
        let profile = [Filesystem::Ext4V1, Filesystem::Ext4Old]
            .map(Profile)
            .into_iter()
            .find(|profile| {
                let known = profile.features();
                features == [known.compat, known.incompat, known.ro_compat]
            });
        let profile = match profile {
            Some(profile) if get16(sb, 0x38) == 0xEF53 => profile,
            _ => return Err(fault(SUPERBLOCK_AT, "no file system that shale lays out")),
        };
        let blocks = get_split(sb, 0x04, 0x150);
        let inodes = get32(sb, 0x00);
        let fits = blocks <= disk_bytes / BLOCK
            && u64::from(inodes.div_ceil(GROUP_INODES)) <= blocks.div_ceil(GROUP_BLOCKS);
        if !fits {
            let rule = "the file system is larger than its disk";
            return Err(fault(SUPERBLOCK_AT, rule));
        }
        Ok(Self {
            geometry: profile.geometry(),
            inodes,
            blocks,
            free_blocks: get_split(sb, 0x0C, 0x158).min(blocks),
            free_inodes: get32(sb, 0x10).min(inodes),
        })
    }

    /// The tree of the disk that this is of.
    pub fn tree<M: Metadata>(self, disk: &M) -> TreeReader<'_, M> {
        TreeReader { shape: self, disk }
    }

    /// Blocks of 4096 bytes of the file system, and how many of them are free.
    pub fn blocks(&self) -> (u64, u64) {
        (self.blocks, self.free_blocks)
    }

    /// Inodes of the file system, and how many of them are free.
    pub fn inodes(&self) -> (u32, u32) {
        (self.inodes, self.free_inodes)
    }
}

/// A disk's tree.
#[derive(Debug)]
pub struct TreeReader<'a, M> {
    shape: TreeShape,
    disk: &'a M,
}

impl<'a, M: Metadata> TreeReader<'a, M> {
    /// Where an inode lies on the disk, in bytes, if there is one with this number.
    fn place(&self, number: u32) -> Option<u64> {
        let index = number
            .checked_sub(1)
            .filter(|_| number <= self.shape.inodes)?;
        let (group, at) = (index / GROUP_INODES, index % GROUP_INODES);
        let table = self.shape.geometry.inode_table(u64::from(group)) * BLOCK;
        Some(table + u64::from(at) * INODE_BYTES as u64)
    }

    /// A block of metadata.
    fn block(&self, number: u64) -> Result<Cow<'a, [u8]>, M::Error> {
        if number == 0 || number >= self.shape.blocks {
            let at = number.saturating_mul(BLOCK);
            return Err(fault(at, "a block leaves the disk").into());
        }
        self.disk.range(number * BLOCK, BLOCK_BYTES)
    }
}

/// What is wrong at a byte of the disk.
fn fault(at: u64, rule: &'static str) -> FormatError {
    FormatError {
        what: WHAT,
        at: usize::try_from(at).unwrap_or(usize::MAX),
        problem: Problem::Rule(rule),
    }
}
