//! One member of an archive: what its headers say.

use shale_model::{MODE_BITS, Mtime, Rdev, Xattrs};
use tar::{EntryType, Header};

use super::number::{number, unsigned};
use super::pax::Pax;
use super::sparse::SparseMap;
use crate::error::TarProblem;

/// One member: what its headers say.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) path: Vec<u8>,
    pub(super) link: Vec<u8>,
    pub(super) kind: MemberKind,
    pub(super) owner: Owner,
    pub(super) mtime: Mtime,
    pub(super) xattrs: Xattrs,
    pub(super) map: SparseMap,
}

/// Mode, uid and gid.
pub(super) type Owner = (u16, u32, u32);

/// What a member is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MemberKind {
    File,
    Directory,
    Symlink,
    HardLink,
    CharDevice(Rdev),
    BlockDevice(Rdev),
    Fifo,
}

/// Names that stand outside the header: in extended headers, or in the members that GNU tar puts before
/// one whose names are long.
#[derive(Debug, Clone, Default)]
pub(super) struct Names {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
}

/// A member with its names.
pub(super) fn name(header: &Header, long: Names, pax: &Pax) -> Member {
    let path = pax.sparse.name.clone().or_else(|| pax.names.path.clone());
    let path = path.or(long.path);
    let link = pax.names.link.clone().or(long.link);
    Member {
        path: path.unwrap_or_else(|| header.path_bytes().into_owned()),
        link: link.unwrap_or_else(|| {
            let link = header.link_name_bytes();
            link.map(|link| link.into_owned()).unwrap_or_default()
        }),
        kind: MemberKind::File,
        owner: (0, 0, 0),
        mtime: Mtime::default(),
        xattrs: Xattrs::default(),
        map: SparseMap::default(),
    }
}

/// Sets everything that headers say about a member, but its names and where its bytes lie.
pub(super) fn describe(
    header: &Header,
    pax: &mut Pax,
    member: &mut Member,
) -> Result<(), TarProblem> {
    let old = header.as_old();
    let id = |pax: Option<u64>, field: &[u8], what| {
        let id = pax.or_else(|| unsigned(field));
        let id = id.and_then(|id| u32::try_from(id).ok());
        id.ok_or(TarProblem::Malformed(what))
    };
    let mode = number(&old.mode).ok_or(TarProblem::Malformed("mode"))?;
    let (uid, gid) = (id(pax.uid, &old.uid, "uid")?, id(pax.gid, &old.gid, "gid")?);
    member.owner = (mode as u16 & MODE_BITS, uid, gid);
    member.mtime = match pax.mtime {
        Some(mtime) => mtime,
        None => Mtime {
            seconds: number(&old.mtime).ok_or(TarProblem::Malformed("mtime"))?,
            nanos: 0,
        },
    };
    member.kind = kind(header, &member.path)?;
    member.xattrs = Xattrs::new(pax.take_xattrs()?)?;
    Ok(())
}

fn kind(header: &Header, path: &[u8]) -> Result<MemberKind, TarProblem> {
    Ok(match header.entry_type() {
        // Archives from before directories had a type.
        EntryType::Regular if path.ends_with(b"/") => MemberKind::Directory,
        EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => MemberKind::File,
        EntryType::Directory => MemberKind::Directory,
        EntryType::Symlink => MemberKind::Symlink,
        EntryType::Link => MemberKind::HardLink,
        EntryType::Char => MemberKind::CharDevice(rdev(header)?),
        EntryType::Block => MemberKind::BlockDevice(rdev(header)?),
        EntryType::Fifo => MemberKind::Fifo,
        other => {
            return Err(match other.as_byte() {
                b'M' => TarProblem::Unsupported("archives of several volumes"),
                b'D' | b'N' => TarProblem::Unsupported("incremental archives"),
                _ => TarProblem::Unsupported("members of its type"),
            });
        }
    })
}

fn rdev(header: &Header) -> Result<Rdev, TarProblem> {
    // Both forms of a header have the fields at the same place.
    let bytes = header.as_bytes();
    let is_ustar = bytes[257..262] == *b"ustar";
    let field = |at: usize, max: u64| {
        let value = unsigned(&bytes[at..at + 8]).filter(|value| is_ustar && *value <= max);
        let value = value.ok_or(TarProblem::Malformed("device number"));
        value.map(|value| value as u32)
    };
    Ok(Rdev {
        major: field(329, (1 << 12) - 1)?,
        minor: field(337, (1 << 20) - 1)?,
    })
}
