//! POSIX ACLs: from the form that `getxattr` returns to the one that ext4 stores, and back.
//!
//! Sources: Linux `include/uapi/linux/posix_acl_xattr.h` (version 2) and `fs/ext4/acl.h` (version 1).
//! The kernel tells the forms apart by their length, and derives the number of entries from it, so that
//! an ACL that the kernel would refuse must not get onto a disk.

const ATTRIBUTE_VERSION: u32 = 2;
const DISK_VERSION: u32 = 1;
const ENTRY_BYTES: usize = 8;
/// The id of an entry that names nobody, `ACL_UNDEFINED_ID`.
const NO_ID: u32 = u32::MAX;

const USER_OBJ: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

/// The form on disk, or nothing for an ACL that is malformed.
pub(super) fn to_disk(attribute: &[u8]) -> Option<Vec<u8>> {
    let (version, entries) = attribute.split_first_chunk::<4>()?;
    let (entries, rest) = entries.as_chunks::<ENTRY_BYTES>();
    if u32::from_le_bytes(*version) != ATTRIBUTE_VERSION || !rest.is_empty() {
        return None;
    }
    let tag = |entry: &[u8; ENTRY_BYTES]| u16::from_le_bytes([entry[0], entry[1]]);
    let count = |wanted| entries.iter().filter(|entry| tag(entry) == wanted).count();
    let is_named = |tag| tag == USER || tag == GROUP;
    let named = count(USER) + count(GROUP);
    let single = [USER_OBJ, GROUP_OBJ, OTHER]
        .into_iter()
        .all(|t| count(t) == 1);
    let masked = count(MASK) == 1 || (count(MASK) == 0 && named == 0);
    let known = entries.len() == named + 3 + count(MASK);
    if !(single && masked && known && entries.is_sorted_by_key(tag)) {
        return None;
    }
    let mut disk = DISK_VERSION.to_le_bytes().to_vec();
    for entry in entries {
        let len = if is_named(tag(entry)) { 8 } else { 4 };
        disk.extend_from_slice(&entry[..len]);
    }
    Some(disk)
}

/// The form that `getxattr` returns of what [`to_disk`] made, or nothing for anything else.
pub(super) fn from_disk(disk: &[u8]) -> Option<Vec<u8>> {
    let (version, mut rest) = disk.split_first_chunk::<4>()?;
    if u32::from_le_bytes(*version) != DISK_VERSION {
        return None;
    }
    let mut attribute = ATTRIBUTE_VERSION.to_le_bytes().to_vec();
    while let Some((entry, after)) = rest.split_first_chunk::<4>() {
        attribute.extend_from_slice(entry);
        match u16::from_le_bytes([entry[0], entry[1]]) {
            USER | GROUP => {
                let (id, after) = after.split_first_chunk::<4>()?;
                attribute.extend_from_slice(id);
                rest = after;
            }
            _ => {
                attribute.extend_from_slice(&NO_ID.to_le_bytes());
                rest = after;
            }
        }
    }
    // What goes there and back is what the kernel accepts, and nothing is left over.
    (to_disk(&attribute)? == disk).then_some(attribute)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
        let mut bytes = ATTRIBUTE_VERSION.to_le_bytes().to_vec();
        for (tag, permissions, id) in entries {
            bytes.extend_from_slice(&tag.to_le_bytes());
            bytes.extend_from_slice(&permissions.to_le_bytes());
            bytes.extend_from_slice(&id.to_le_bytes());
        }
        bytes
    }

    #[test]
    fn what_the_kernel_refuses_is_refused() {
        let none = u32::MAX;
        let (user, group, other) = ((USER_OBJ, 7, none), (GROUP_OBJ, 5, none), (OTHER, 0, none));
        let (named, mask) = ((USER, 6, 1000), (MASK, 7, none));
        let good = acl(&[user, named, group, mask, other]);
        assert_eq!(
            to_disk(&good).unwrap(),
            [
                1, 0, 0, 0, 1, 0, 7, 0, 2, 0, 6, 0, 0xE8, 3, 0, 0, 4, 0, 5, 0, 0x10, 0, 7, 0, 0x20,
                0, 0, 0
            ]
        );
        let plain = acl(&[user, group, other]);
        for acl in [&good, &plain] {
            let disk = to_disk(acl).unwrap();
            assert_eq!(from_disk(&disk).as_ref(), Some(acl));
            for len in 0..disk.len() {
                assert_eq!(from_disk(&disk[..len]), None);
            }
            assert_eq!(from_disk(&[&disk[..], &[0]].concat()), None);
            assert_eq!(from_disk(acl), None);
        }
        let bad = [
            acl(&[user, named, group, other]),
            acl(&[named, user, group, mask, other]),
            acl(&[user, user, group, other]),
            acl(&[user, group]),
            acl(&[]),
            acl(&[user, group, other, (0x40, 0, none)]),
            good[..good.len() - 1].to_vec(),
            good[1..].to_vec(),
            vec![],
        ];
        for bytes in bad {
            assert_eq!(to_disk(&bytes), None, "{bytes:?}");
        }
    }
}
