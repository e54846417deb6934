//! New numbers of users and groups in a whole layer: owners and access control lists.

use shale_model::{Attrs, Entry, Kind, TreeLayer, Xattrs};

use super::ids::{IdKind, IdMap};

/// The attributes that hold numbers (Linux `posix_acl_xattr.h`).
const ACLS: [&[u8]; 2] = [b"system.posix_acl_access", b"system.posix_acl_default"];
/// Version of an access control list: its first four bytes.
const ACL_VERSION: [u8; 4] = [2, 0, 0, 0];
/// Bytes of an entry: tag 2, permissions 2, number 4.
const ACL_ENTRY_BYTES: usize = 8;
/// Tag of an entry for one user.
const ACL_USER: u16 = 0x02;
/// Tag of an entry for one group.
const ACL_GROUP: u16 = 0x08;

/// `tree` with the numbers that `map` gives.
pub(super) fn remap(tree: &TreeLayer, map: &IdMap) -> TreeLayer {
    let mut tree = tree.clone();
    if let Some(root) = &mut tree.root {
        root.attrs = remap_attrs(&root.attrs, map);
    }
    let entries = tree.dirs.iter_mut().flat_map(|dir| &mut dir.entries);
    for entry in entries.filter(|entry| has_attrs(entry)) {
        entry.attrs = remap_attrs(&entry.attrs, map);
    }
    tree
}

fn has_attrs(entry: &Entry) -> bool {
    !matches!(entry.kind, Kind::HardLink(_) | Kind::Whiteout)
}

/// `attrs` with the numbers that `map` gives.
pub(super) fn remap_attrs(attrs: &Attrs, map: &IdMap) -> Attrs {
    let value = |name: &[u8], value: &[u8]| {
        let acl = ACLS.contains(&name);
        let mapped = acl.then(|| remap_acl(value, map)).flatten();
        mapped.unwrap_or_else(|| value.to_vec())
    };
    let pairs = attrs.xattrs.iter();
    let pairs = pairs.map(|(name, bytes)| (name.into(), value(name, bytes).into()));
    Attrs {
        uid: map.get(IdKind::User, attrs.uid),
        gid: map.get(IdKind::Group, attrs.gid),
        // Names and lengths stay, so that they are within the limits as before.
        xattrs: Xattrs::new(pairs.collect()).unwrap_or_else(|_| attrs.xattrs.clone()),
        ..attrs.clone()
    }
}

/// `None` for what is no access control list: the kernel would not read it either.
fn remap_acl(value: &[u8], map: &IdMap) -> Option<Vec<u8>> {
    let entries = value.strip_prefix(&ACL_VERSION)?;
    if entries.len() % ACL_ENTRY_BYTES != 0 {
        return None;
    }
    let mut mapped: Vec<(u16, u32, [u8; 2])> = Vec::new();
    for entry in entries.chunks_exact(ACL_ENTRY_BYTES) {
        let tag = u16::from_le_bytes([entry[0], entry[1]]);
        let id = u32::from_le_bytes([entry[4], entry[5], entry[6], entry[7]]);
        let id = match tag {
            ACL_USER => map.get(IdKind::User, id),
            ACL_GROUP => map.get(IdKind::Group, id),
            _ => id,
        };
        mapped.push((tag, id, [entry[2], entry[3]]));
    }
    // As setfacl writes them: by tag, then by number.
    mapped.sort_by_key(|(tag, id, _)| (*tag, *id));
    let mut acl = ACL_VERSION.to_vec();
    for (tag, id, permissions) in mapped {
        acl.extend_from_slice(&tag.to_le_bytes());
        acl.extend_from_slice(&permissions);
        acl.extend_from_slice(&id.to_le_bytes());
    }
    Some(acl)
}
