//! Extended attributes: inside the inode while there is room, then in one block.
//!
//! Source: Linux `Documentation/filesystems/ext4/attributes.rst`, hashes from `fs/ext4/xattr.c`.

use shale_model::Xattrs;
use shale_model::limits::BLOCK_BYTES;

use super::acl;
use super::bytes::{put16, put32};
use super::checksum::crc32c;
use super::geometry::INODE_BYTES;
use super::inode::XATTR_START;
use super::profile::{CHECKSUM_SEED, Profile};
use crate::error::NodeProblem;

pub(super) const MAGIC: u32 = 0xEA02_0000;
/// Bytes inside the inode: magic, then attributes.
const INLINE_BYTES: usize = INODE_BYTES - XATTR_START;
pub(super) const INLINE_HEADER: usize = 4;
pub(super) const BLOCK_HEADER: usize = 32;
pub(super) const ENTRY_HEADER: usize = 16;
/// Zeros that end the entries.
const END_BYTES: usize = 4;

/// Prefixes that are stored as a number.
pub(super) const PREFIXES: [(&[u8], u8); 3] = [(b"user.", 1), (b"trusted.", 4), (b"security.", 6)];
/// ACLs: their number stands for the whole name.
pub(super) const ACLS: [(&[u8], u8); 2] = [
    (b"system.posix_acl_access", 2),
    (b"system.posix_acl_default", 3),
];

/// Attributes as they are stored.
#[derive(Debug, Default)]
pub(super) struct Stored {
    /// The end of the inode; empty if no attribute is there.
    pub(super) inline: Vec<u8>,
    /// The block of the others, if there are any, without its checksum.
    pub(super) block: Option<Box<[u8; BLOCK_BYTES]>>,
}

/// An attribute as ext4 knows it.
struct Attribute<'a> {
    prefix: u8,
    name: &'a [u8],
    value: Vec<u8>,
}

impl Attribute<'_> {
    fn entry_bytes(&self) -> usize {
        (ENTRY_HEADER + self.name.len()).next_multiple_of(4)
    }

    fn value_bytes(&self) -> usize {
        self.value.len().next_multiple_of(4)
    }

    /// `ext4_xattr_hash_entry`: of the name as unsigned bytes, then of the value's words.
    fn hash(&self) -> u32 {
        let name = self
            .name
            .iter()
            .fold(0u32, |hash, byte| hash.rotate_left(5) ^ u32::from(*byte));
        self.value.chunks(4).fold(name, |hash, bytes| {
            let mut word = [0; 4];
            word[..bytes.len()].copy_from_slice(bytes);
            hash.rotate_left(16) ^ u32::from_le_bytes(word)
        })
    }
}

/// Stores `xattrs`: in the order in which a block has them, each inside the inode if it still fits.
pub(super) fn store(xattrs: &Xattrs) -> Result<Stored, NodeProblem> {
    if xattrs.is_empty() {
        return Ok(Stored::default());
    }
    let mut attributes = xattrs
        .iter()
        .map(|(name, value)| attribute(name, value))
        .collect::<Result<Vec<_>, _>>()?;
    attributes.sort_by_key(|a| (a.prefix, a.name.len(), a.name));
    let mut left = INLINE_BYTES - INLINE_HEADER - END_BYTES;
    let (inside, outside): (Vec<_>, Vec<_>) = attributes.into_iter().partition(|a| {
        let bytes = a.entry_bytes() + a.value_bytes();
        let fits = bytes <= left;
        if fits {
            left -= bytes;
        }
        fits
    });
    let inline = match inside.is_empty() {
        true => Vec::new(),
        false => {
            let mut inline = vec![0; INLINE_BYTES];
            put32(&mut inline, 0, MAGIC);
            // Inside an inode, entries have no hash, and values count from the first entry.
            put_all(&mut inline[INLINE_HEADER..], 0, &inside, |_| 0);
            inline
        }
    };
    let block = match outside.is_empty() {
        true => None,
        false => Some(block(&outside)?),
    };
    Ok(Stored { inline, block })
}

/// Puts the checksum of an attribute block, which depends on where it is.
pub(super) fn sign(profile: Profile, number: u64, block: &mut [u8; BLOCK_BYTES]) {
    if profile.has_checksums() {
        let seed = crc32c(CHECKSUM_SEED, &number.to_le_bytes());
        let checksum = crc32c(seed, &block[..]);
        put32(block, 0x10, checksum);
    }
}

fn attribute<'a>(name: &'a [u8], value: &[u8]) -> Result<Attribute<'a>, NodeProblem> {
    if let Some((_, prefix)) = ACLS.into_iter().find(|(acl, _)| *acl == name) {
        return Ok(Attribute {
            prefix,
            name: b"",
            value: acl::to_disk(value).ok_or(NodeProblem::Acl)?,
        });
    }
    let known = PREFIXES.into_iter().find_map(|(prefix, number)| {
        let name = name.strip_prefix(prefix).filter(|name| !name.is_empty())?;
        Some((number, name))
    });
    let (prefix, name) = known.ok_or(NodeProblem::XattrName)?;
    let value = value.to_vec();
    Ok(Attribute {
        prefix,
        name,
        value,
    })
}

fn block(attributes: &[Attribute<'_>]) -> Result<Box<[u8; BLOCK_BYTES]>, NodeProblem> {
    let bytes = attributes.iter().map(|a| a.entry_bytes() + a.value_bytes());
    let bytes = bytes.sum::<usize>() + BLOCK_HEADER + END_BYTES;
    if bytes > BLOCK_BYTES {
        return Err(NodeProblem::XattrSize(bytes));
    }
    let mut block = Box::new([0; BLOCK_BYTES]);
    put32(&mut block[..], 0x00, MAGIC);
    put32(&mut block[..], 0x04, 1); // inodes that refer to it
    put32(&mut block[..], 0x08, 1); // blocks
    let hash = attributes.iter().fold(0u32, |hash, attribute| {
        hash.rotate_left(16) ^ attribute.hash()
    });
    put32(&mut block[..], 0x0C, hash);
    put_all(&mut block[..], BLOCK_HEADER, attributes, |a| a.hash());
    Ok(block)
}

/// Writes entries from byte `at` on, and their values from the end downwards.
fn put_all(
    to: &mut [u8],
    mut at: usize,
    attributes: &[Attribute<'_>],
    hash: impl Fn(&Attribute<'_>) -> u32,
) {
    let mut end = to.len();
    for attribute in attributes {
        let len = attribute.value.len();
        to[at] = attribute.name.len() as u8;
        to[at + 1] = attribute.prefix;
        if len > 0 {
            end -= attribute.value_bytes();
            put16(to, at + 2, end as u16);
            to[end..end + len].copy_from_slice(&attribute.value);
        }
        put32(to, at + 8, len as u32);
        put32(to, at + 12, hash(attribute));
        let name = at + ENTRY_HEADER;
        to[name..name + attribute.name.len()].copy_from_slice(attribute.name);
        at += attribute.entry_bytes();
    }
}
