//! The other way: the composed tree read back from the plan of its disk.
//!
//! A plan holds the tree as the metadata that the layout made, so whoever shows files needs no second copy
//! of it. Inode numbers are those of the disk; two inodes that are the file system's own and no part of the
//! template, its journal and the `lost+found` that it makes, do not exist here. Only disks that this crate
//! lays out are read. Damaged plans cost bounded time and memory and give a [`FormatError`].

mod dir;
mod extent;
mod inode;
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

const BLOCK: u64 = BLOCK_BYTES as u64;
const WHAT: &str = "file system of a plan";

/// What a superblock says about where everything is: small, and good for as long as its plan.
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

    /// Reads the superblock of a plan's disk.
    ///
    /// # Errors
    /// The disk holds no file system of this crate.
    pub fn of<B: AsRef<[u8]>>(plan: &Plan<B>) -> Result<Self, FormatError> {
        let start = SUPERBLOCK_BYTES as u64;
        let sb = plan.synthesised_range(start, SUPERBLOCK_BYTES)?;
        let features = [0x5C, 0x60, 0x64].map(|at| get32(&sb, at));
        let profile = [Filesystem::Ext4V1, Filesystem::Ext4Old]
            .map(Profile)
            .into_iter()
            .find(|profile| {
                let known = profile.features();
                features == [known.compat, known.incompat, known.ro_compat]
            });
        let profile = match profile {
            Some(profile) if get16(&sb, 0x38) == 0xEF53 => profile,
            _ => return Err(fault(start, "no file system that shale lays out")),
        };
        let blocks = get_split(&sb, 0x04, 0x150);
        let inodes = get32(&sb, 0x00);
        let fits = blocks <= plan.disk_bytes() / BLOCK
            && u64::from(inodes.div_ceil(GROUP_INODES)) <= blocks.div_ceil(GROUP_BLOCKS);
        if !fits {
            return Err(fault(start, "the file system is larger than its disk"));
        }
        Ok(Self {
            geometry: profile.geometry(),
            inodes,
            blocks,
            free_blocks: get_split(&sb, 0x0C, 0x158).min(blocks),
            free_inodes: get32(&sb, 0x10).min(inodes),
        })
    }

    /// The tree of the plan that this is of.
    pub fn tree<B: AsRef<[u8]>>(self, plan: &Plan<B>) -> TreeReader<'_, B> {
        TreeReader { shape: self, plan }
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

/// A plan's tree.
#[derive(Debug)]
pub struct TreeReader<'a, B> {
    shape: TreeShape,
    plan: &'a Plan<B>,
}

impl<'a, B: AsRef<[u8]>> TreeReader<'a, B> {
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
    fn block(&self, number: u64) -> Result<Cow<'a, [u8]>, FormatError> {
        if number == 0 || number >= self.shape.blocks {
            return Err(fault(
                number.saturating_mul(BLOCK),
                "a block leaves the disk",
            ));
        }
        self.plan.synthesised_range(number * BLOCK, BLOCK_BYTES)
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
