//! POSIX ACLs: the text that tar archives hold (`acl(5)`, long text form) becomes the value of the extended
//! attribute (Linux `include/uapi/linux/posix_acl_xattr.h`, version 2).

use crate::error::TarProblem;

const VERSION: u32 = 2;
/// The id of entries that name nobody.
const NO_ID: u32 = u32::MAX;
/// Entries that say no more than a mode does: owner, group, others.
const MINIMAL_ENTRIES: usize = 3;

const USER_OBJ: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

/// Whether an ACL rules access to a file or is inherited by what is made in a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AclUse {
    Access,
    Default,
}

impl AclUse {
    /// The attribute that holds it.
    pub(super) fn xattr(self) -> &'static [u8] {
        match self {
            AclUse::Access => b"system.posix_acl_access",
            AclUse::Default => b"system.posix_acl_default",
        }
    }
}

/// The attribute's value; `None` for an ACL that only repeats the mode.
pub(super) fn acl_value(text: &[u8], used: AclUse) -> Result<Option<Box<[u8]>>, TarProblem> {
    let mut entries = Vec::new();
    for line in text.split(|b| matches!(b, b',' | b'\n')) {
        // After `#` stands what the mask leaves of the permissions.
        let line = line.split(|b| *b == b'#').next().unwrap_or_default();
        let line = line.trim_ascii();
        if !line.is_empty() {
            entries.push(entry(line)?);
        }
    }
    // The order that the kernel wants, and the one that setfacl makes within it.
    entries.sort_unstable_by_key(|(tag, _, id)| (*tag, *id));
    let minimal = used == AclUse::Access && entries.len() <= MINIMAL_ENTRIES;
    if entries.is_empty() || minimal {
        return Ok(None);
    }
    let mut value = VERSION.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        value.extend_from_slice(&tag.to_le_bytes());
        value.extend_from_slice(&permissions.to_le_bytes());
        value.extend_from_slice(&id.to_le_bytes());
    }
    Ok(Some(value.into()))
}

/// Tag, permissions and id of `tag:name:permissions`, with the id as a fourth field where star wrote it.
fn entry(line: &[u8]) -> Result<(u16, u16, u32), TarProblem> {
    let malformed = || TarProblem::Malformed("ACL");
    let mut fields = line.split(|b| *b == b':');
    let mut field = || fields.next().ok_or_else(malformed);
    let (tag, name, text) = (field()?, field()?, field()?);
    let id_field = field().ok();
    let tag = match (tag, name) {
        (b"user" | b"u", b"") => USER_OBJ,
        (b"user" | b"u", _) => USER,
        (b"group" | b"g", b"") => GROUP_OBJ,
        (b"group" | b"g", _) => GROUP,
        (b"mask" | b"m", _) => MASK,
        (b"other" | b"o", _) => OTHER,
        _ => return Err(malformed()),
    };
    let mut permissions = 0;
    for letter in text {
        permissions |= match letter {
            b'r' => 4,
            b'w' => 2,
            b'x' => 1,
            b'-' => 0,
            _ => return Err(malformed()),
        };
    }
    if tag != USER && tag != GROUP {
        return Ok((tag, permissions, NO_ID));
    }
    let id = super::number::decimal(id_field.unwrap_or(name));
    let id = id.ok_or_else(|| TarProblem::AclName(super::escape(name)))?;
    let id = u32::try_from(id).map_err(|_| malformed())?;
    Ok((tag, permissions, id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_becomes_the_kernels_bytes() {
        let text = b"user::rw-,user:1000:rwx,group::r--,mask::rwx,other::---";
        let value = acl_value(text, AclUse::Access).unwrap().unwrap();
        let entries: Vec<_> = value[4..].chunks(8).map(|e| (e[0], e[2], e[4])).collect();
        assert_eq!(value[..4], [2, 0, 0, 0]);
        let expected = [
            (1, 6, 255),
            (2, 7, 232),
            (4, 4, 255),
            (16, 7, 255),
            (32, 0, 255),
        ];
        assert_eq!(entries, expected);
        let star =
            b"user::rw-\nuser:lisa:rwx:1000\ngroup::r--\nmask::rwx #effective:r--\nother::---\n";
        assert_eq!(acl_value(star, AclUse::Access).unwrap().unwrap(), value);
    }

    #[test]
    fn an_access_acl_that_repeats_the_mode_is_none() {
        let text = b"user::rw-,group::r--,other::r--";
        assert_eq!(acl_value(text, AclUse::Access).unwrap(), None);
        assert!(acl_value(text, AclUse::Default).unwrap().is_some());
    }

    #[test]
    fn unknown_names_and_nonsense_are_errors() {
        let named = acl_value(b"user:lisa:rwx", AclUse::Access);
        assert!(matches!(named, Err(TarProblem::AclName(name)) if name == "lisa"));
        for text in [
            &b"user"[..],
            b"user:",
            b"nobody::rwx",
            b"user::rwq",
            b"user:4294967296:r",
        ] {
            assert!(
                acl_value(text, AclUse::Access).is_err(),
                "{}",
                text.escape_ascii()
            );
        }
    }
}
