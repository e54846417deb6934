//! Extended headers of pax (POSIX.1-2001, `pax`, "pax Extended Header"): records `LENGTH KEY=VALUE\n`, whose
//! values may hold any byte.

use std::collections::BTreeMap;

use shale_model::{Mtime, XattrPair};

use super::acl::{AclUse, acl_value};
use super::member::Names;
use super::number::decimal;
use super::sparse::MAX_PARTS;
use crate::error::TarProblem;
use crate::source::attrs::keeps_xattr;

/// Most bytes of the extended headers of one member together: attributes of [`shale_model::limits::MAX_XATTR_BYTES`], a path, a link
/// and a long sparse map fit. Go's `archive/tar` has the same limit.
pub(super) const MAX_PAX_BYTES: u64 = 1024 * 1024;

/// Begins keys of extended attributes as star, GNU tar and bsdtar write them.
const XATTR: &[u8] = b"SCHILY.xattr.";

/// What extended headers say about one member. An empty value takes back what a global header said.
#[derive(Debug, Clone, Default)]
pub(super) struct Pax {
    pub(super) names: Names,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u64>,
    pub(super) gid: Option<u64>,
    pub(super) mtime: Option<Mtime>,
    /// Those that a layer keeps.
    xattrs: BTreeMap<Box<[u8]>, Box<[u8]>>,
    /// The access ACL and the default ACL, as text.
    acls: [Option<Vec<u8>>; 2],
    pub(super) sparse: PaxSparse,
}

/// The records of sparse files.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct PaxSparse {
    /// 1 for form 1.0; earlier forms do not tell.
    pub(super) major: u64,
    pub(super) minor: u64,
    pub(super) name: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    /// Offsets and lengths, one after the other, of forms 0.0 and 0.1.
    pub(super) map: Vec<u64>,
}

impl Pax {
    /// Adds the records in `bytes`, which replace earlier ones.
    pub(super) fn read(&mut self, bytes: &[u8]) -> Result<(), TarProblem> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let (key, value, after) =
                record(rest).ok_or(TarProblem::Malformed("extended header"))?;
            rest = after;
            self.set(key, value)?;
        }
        Ok(())
    }

    /// Whether it says what only one member can have.
    pub(super) fn is_of_one_member(&self) -> bool {
        let named = self.names.path.is_some() || self.names.link.is_some();
        let sized = self.size.is_some() || self.sparse != PaxSparse::default();
        named || sized || !self.xattrs.is_empty() || self.acls.iter().any(Option::is_some)
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<(), TarProblem> {
        let text = |value: &[u8]| (!value.is_empty()).then(|| value.to_vec());
        match key {
            b"path" => self.names.path = text(value),
            b"linkpath" => self.names.link = text(value),
            b"size" => self.size = optional(value, "size in an extended header")?,
            b"uid" => self.uid = optional(value, "uid in an extended header")?,
            b"gid" => self.gid = optional(value, "gid in an extended header")?,
            b"mtime" => self.mtime = mtime(value)?,
            b"SCHILY.acl.access" => self.acls[0] = text(value),
            b"SCHILY.acl.default" => self.acls[1] = text(value),
            b"SCHILY.realsize" => {
                return Err(TarProblem::Unsupported("sparse files as star writes them"));
            }
            b"RHT.security.selinux" => {
                // The kernel's value ends with a NUL, which the record leaves out.
                self.set_xattr(b"security.selinux", &[value, &[0]].concat());
            }
            _ if key.starts_with(b"GNU.sparse.") => self.sparse.set(&key[11..], value)?,
            _ => {
                if let Some(name) = key.strip_prefix(XATTR) {
                    self.set_xattr(&unescape(name), value);
                }
                // The rest repeats these in other words, or is a comment.
            }
        }
        Ok(())
    }

    /// The extended attributes that a layer keeps, ACLs among them. GNU tar can write an ACL as the attribute and as text;
    /// the text may name users that only the machine where the archive was made knows, so it is the
    /// second choice.
    pub(super) fn take_xattrs(&mut self) -> Result<Vec<XattrPair>, TarProblem> {
        for (used, text) in [AclUse::Access, AclUse::Default]
            .into_iter()
            .zip(self.acls.clone())
        {
            let is_there = self.xattrs.contains_key(used.xattr());
            if let Some(text) = text.filter(|_| !is_there)
                && let Some(value) = acl_value(&text, used)?
            {
                self.set_xattr(used.xattr(), &value);
            }
        }
        Ok(std::mem::take(&mut self.xattrs).into_iter().collect())
    }

    fn set_xattr(&mut self, name: &[u8], value: &[u8]) {
        if keeps_xattr(name) {
            self.xattrs.insert(name.into(), value.into());
        }
    }
}

impl PaxSparse {
    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<(), TarProblem> {
        let malformed = TarProblem::Malformed("map of a sparse file");
        let number = decimal(value);
        match (key, number) {
            (b"major", Some(major)) => self.major = major,
            (b"minor", Some(minor)) => self.minor = minor,
            (b"size" | b"realsize", Some(size)) => self.size = Some(size),
            (b"name", _) => self.name = Some(value.to_vec()),
            (b"numblocks", Some(_)) => {}
            // Form 0.0: offset and length of each part are records of their own, in this order.
            (b"offset", Some(offset)) if self.map.len().is_multiple_of(2) => self.map.push(offset),
            (b"numbytes", Some(len)) if !self.map.len().is_multiple_of(2) => self.map.push(len),
            // Form 0.1: all in one record.
            (b"map", _) => {
                let numbers = value.split(|b| *b == b',').map(decimal);
                self.map = numbers.collect::<Option<_>>().ok_or(malformed)?;
            }
            _ => return Err(malformed),
        }
        match self.map.len() > 2 * MAX_PARTS {
            true => Err(TarProblem::Malformed("map of a sparse file")),
            false => Ok(()),
        }
    }
}

/// Key and value of the first record, and what follows it.
fn record(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = bytes.iter().position(|b| *b == b' ')?;
    let len = usize::try_from(decimal(&bytes[..space])?).ok()?;
    let record = bytes.get(space + 1..len)?;
    let pair = record.strip_suffix(b"\n")?;
    let equals = pair.iter().position(|b| *b == b'=')?;
    Some((&pair[..equals], &pair[equals + 1..], &bytes[len..]))
}

fn optional(value: &[u8], what: &'static str) -> Result<Option<u64>, TarProblem> {
    match value {
        [] => Ok(None),
        _ => decimal(value).map(Some).ok_or(TarProblem::Malformed(what)),
    }
}

/// Seconds with a sign and a fraction; what is finer than a nanosecond is dropped.
fn mtime(value: &[u8]) -> Result<Option<Mtime>, TarProblem> {
    if value.is_empty() {
        return Ok(None);
    }
    let malformed = || TarProblem::Malformed("mtime in an extended header");
    let (is_negative, digits) = match value.strip_prefix(b"-") {
        Some(digits) => (true, digits),
        None => (false, value),
    };
    let mut parts = digits.splitn(2, |b| *b == b'.');
    let seconds = decimal(parts.next().unwrap_or_default()).ok_or_else(malformed)?;
    let seconds = i64::try_from(seconds).map_err(|_| malformed())?;
    let fraction = parts.next().unwrap_or_default();
    if !fraction.iter().all(u8::is_ascii_digit) {
        return Err(malformed());
    }
    let digit = |at: usize| u32::from(fraction.get(at).map_or(0, |b| b - b'0'));
    let nanos = (0..9).fold(0, |nanos, at| 10 * nanos + digit(at));
    Ok(Some(match (is_negative, nanos) {
        (false, nanos) => Mtime { seconds, nanos },
        (true, 0) => Mtime {
            seconds: -seconds,
            nanos,
        },
        (true, nanos) => Mtime {
            seconds: -seconds - 1,
            nanos: 1_000_000_000 - nanos,
        },
    }))
}

/// GNU tar writes `=` and `%` in attribute names as `%3D` and `%25`.
fn unescape(name: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(name.len());
    let mut rest = name;
    while let Some((first, after)) = rest.split_first() {
        let (byte, after) = match rest {
            [b'%', b'3', b'D', after @ ..] => (b'=', after),
            [b'%', b'2', b'5', after @ ..] => (b'%', after),
            _ => (*first, after),
        };
        plain.push(byte);
        rest = after;
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_may_hold_newlines_and_what_follows_is_read() {
        let bytes = b"25 SCHILY.xattr.user.a=\n\n\n12 path=a/b\n";
        let mut pax = Pax::default();
        // The length of the first record covers three newlines, of which the last ends it.
        pax.read(&bytes[..]).unwrap_err();
        let bytes = b"27 SCHILY.xattr.user.a=\n\0\n\n12 path=a/b\n";
        pax.read(bytes).unwrap();
        assert_eq!(*pax.xattrs[&b"user.a"[..]], *b"\n\0\n");
        assert_eq!(pax.names.path.unwrap(), b"a/b");
    }

    #[test]
    fn malformed_records_are_errors() {
        for bytes in [
            &b"x"[..],
            b"5 a=b",
            b"7 a=b\n",
            b"6 ab\n\n",
            b"99999999999999999999 a=b\n",
            b"2 ",
            b" a=b\n",
            b"9 size=x\n",
            b"10 mtime=-\n",
        ] {
            assert!(
                Pax::default().read(bytes).is_err(),
                "{}",
                bytes.escape_ascii()
            );
        }
    }

    #[test]
    fn times_have_signs_and_fractions() {
        for (text, seconds, nanos) in [
            ("0", 0, 0),
            ("1700000000.123456789", 1_700_000_000, 123_456_789),
            ("1.5", 1, 500_000_000),
            ("1.0000000019", 1, 1),
            ("-1", -1, 0),
            ("-1.25", -2, 750_000_000),
        ] {
            let time = mtime(text.as_bytes()).unwrap().unwrap();
            assert_eq!(time, Mtime { seconds, nanos }, "{text}");
        }
    }

    #[test]
    fn attribute_names_are_unescaped() {
        assert_eq!(unescape(b"user.a%3Db%25%3d%"), b"user.a=b%%3d%");
    }
}
