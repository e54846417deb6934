//! Extended attributes, read back into the form that `getxattr` returns.

use shale_model::limits::MAX_NAME_BYTES;
use shale_model::{XattrPair, Xattrs};

use super::{Metadata, TreeInode, TreeReader};
use crate::ext4::acl;
use crate::ext4::bytes::{get16, get32};
use crate::ext4::xattr::{ACLS, BLOCK_HEADER, ENTRY_HEADER, INLINE_HEADER, MAGIC, PREFIXES};

const BAD: &str = "damaged extended attributes";

impl TreeInode {
    /// Whether it may have extended attributes; without, there is nothing to read.
    pub fn has_xattrs(&self) -> bool {
        get32(self.inline(), 0) == MAGIC || self.xattr_block() != 0
    }
}

impl<'a, M: Metadata> TreeReader<'a, M> {
    /// The extended attributes of an inode.
    pub fn xattrs(&self, inode: &TreeInode) -> Result<Xattrs, M::Error> {
        let mut pairs = Vec::new();
        let bad = || inode.fault(BAD);
        if get32(inode.inline(), 0) == MAGIC {
            collect(&inode.inline()[INLINE_HEADER..], 0, &mut pairs).ok_or_else(bad)?;
        }
        if inode.xattr_block() != 0 {
            let block = self.block(inode.xattr_block())?;
            if get32(&block, 0) != MAGIC {
                return Err(bad().into());
            }
            collect(&block, BLOCK_HEADER, &mut pairs).ok_or_else(bad)?;
        }
        Ok(Xattrs::new(pairs).map_err(|_| bad())?)
    }
}

/// Adds the attributes whose entries begin at byte `at`; nothing where they are damaged.
fn collect(bytes: &[u8], mut at: usize, pairs: &mut Vec<XattrPair>) -> Option<()> {
    // An entry takes 16 bytes and more, so that a block ends this.
    while bytes.len() - at >= 4 && get32(bytes, at) != 0 {
        let entry = bytes.get(at..at + ENTRY_HEADER)?;
        let name_len = usize::from(entry[0]);
        let name = bytes.get(at + ENTRY_HEADER..at + ENTRY_HEADER + name_len)?;
        let start = usize::from(get16(entry, 2));
        // Values in inodes of their own are not made.
        let is_here = get32(entry, 4) == 0;
        let len = usize::try_from(get32(entry, 8)).ok()?;
        let value = match len {
            0 => &[],
            _ => bytes
                .get(start..start.checked_add(len)?)
                .filter(|_| is_here)?,
        };
        pairs.push(pair(entry[1], name, value)?);
        at = (at + ENTRY_HEADER + name_len).next_multiple_of(4);
        if at > bytes.len() {
            return None;
        }
    }
    Some(())
}

fn pair(prefix: u8, name: &[u8], value: &[u8]) -> Option<XattrPair> {
    if let Some((acl, _)) = ACLS.into_iter().find(|(_, number)| *number == prefix) {
        let value = acl::from_disk(value).filter(|_| name.is_empty())?;
        return Some((acl.into(), value.into()));
    }
    let (text, _) = PREFIXES.into_iter().find(|(_, number)| *number == prefix)?;
    let name = [text, name].concat();
    (name.len() <= MAX_NAME_BYTES).then(|| (name.into(), value.into()))
}
