//! A tar archive as a source: POSIX ustar and pax, GNU, with their sparse files, ACLs and attributes,
//! and with the whiteouts of OCI layers.
//!
//! ```text
//! reader  headers and bytes, one member after the other    member  what the headers of a member say
//! pax     the records of extended headers                  number  the numbers in headers
//! sparse  the maps of sparse files                         acl     ACLs as text
//! collect all names, in layer order at the end
//! ```
//! The `tar` crate knows the layout of headers. Its iterator is not used: it reads extended headers of any
//! length into memory, splits binary attributes at newlines and then ignores the rest, and takes the sparse
//! maps of pax for content.
//!
//! Members may come in any order, so content is cut as it streams by, and names wait until the end: some
//! 130 bytes of memory for each.

mod acl;
mod collect;
mod member;
mod number;
mod pax;
mod reader;
mod sparse;

use std::io::Read;

use shale_model::{Kind, Name, NameError, TreePath};

use self::collect::{Collected, Data};
use self::member::{Member, MemberKind};
use self::reader::Members;
use super::{Source, Visitor};
use crate::error::{PushError, TarError, TarProblem};

/// Begins the name of a whiteout (OCI image specification, `layer.md`).
const WHITEOUT: &[u8] = b".wh.";
/// Begins names that AUFS kept for itself; of these only [`OPAQUE`] has a meaning.
const RESERVED: &[u8] = b".wh..wh.";
/// Makes the directory that it lies in opaque.
const OPAQUE: &[u8] = b".wh..wh..opq";

/// Errors show at most this many bytes of a member's name.
const SHOWN_NAME_BYTES: usize = 200;

/// A tar archive, read once from start to end.
pub struct TarSource<R> {
    members: Members<R>,
}

impl<R: Read> TarSource<R> {
    /// A source of the archive that `input` reads. It need not be buffered.
    pub fn new(input: R) -> Self {
        Self {
            members: Members::new(input),
        }
    }

    fn take(
        &mut self,
        member: &Member,
        all: &mut Collected,
        visitor: &mut dyn Visitor,
    ) -> Result<(), PushError> {
        let fault = |problem| fault(member, problem);
        let path = tree_path(&member.path).map_err(fault)?;
        let Some((dir, name)) = path.split() else {
            return match &member.kind {
                MemberKind::Directory => {
                    all.set_root(member.owner, member.xattrs.clone(), member.mtime);
                    Ok(())
                }
                _ => Err(fault(TarProblem::Path(NameError::Dots)).into()),
            };
        };
        if name.as_bytes().starts_with(WHITEOUT) {
            return Ok(whiteout(dir, &name, all).map_err(fault)?);
        }
        let data = match &member.kind {
            MemberKind::HardLink => {
                let target = tree_path(&member.link).map_err(fault)?;
                return match all.link(dir, name, &target).map_err(fault)? {
                    true => Ok(()),
                    false => Err(fault(TarProblem::LinkTarget(escape(&member.link))).into()),
                };
            }
            MemberKind::File => {
                let mut bytes = self.members.bytes(member);
                Data::from(Kind::File(visitor.content(&path, &mut bytes)?))
            }
            MemberKind::Symlink => {
                Data::from(Kind::symlink(&member.link).map_err(|e| fault(e.into()))?)
            }
            MemberKind::Directory => Data::Directory,
            MemberKind::CharDevice(rdev) => Data::CharDevice(*rdev),
            MemberKind::BlockDevice(rdev) => Data::BlockDevice(*rdev),
            MemberKind::Fifo => Data::Fifo,
        };
        let attrs = (member.owner, member.xattrs.clone(), member.mtime);
        let added = all.add(dir, name, attrs, data);
        Ok(added.map_err(fault)?)
    }
}

impl<R: Read> Source for TarSource<R> {
    fn visit(&mut self, visitor: &mut dyn Visitor) -> Result<(), PushError> {
        let mut all = Collected::default();
        while let Some(member) = self.members.next_member()? {
            self.take(&member, &mut all, visitor)?;
        }
        self.members.drain();
        all.finish(visitor)
    }
}

/// The path in the tree that a member's name means: `./a//b/` is `a/b`.
fn tree_path(name: &[u8]) -> Result<TreePath, TarProblem> {
    if name.starts_with(b"/") {
        return Err(TarProblem::Absolute);
    }
    if name.is_empty() {
        return Err(TarProblem::Path(NameError::Empty));
    }
    let parts: Vec<&[u8]> = name
        .split(|&b| b == b'/')
        .filter(|part| !part.is_empty() && *part != b".")
        .collect();
    Ok(TreePath::new(&parts.join(&b'/'))?)
}

fn whiteout(dir: TreePath, name: &Name, all: &mut Collected) -> Result<(), TarProblem> {
    let name = name.as_bytes();
    if name == OPAQUE {
        return all.set_opaque(dir);
    }
    if name.starts_with(RESERVED) {
        return Err(TarProblem::Whiteout(
            "names that begin with .wh..wh. are reserved",
        ));
    }
    all.white_out(dir, Name::new(&name[WHITEOUT.len()..])?)
}

fn fault(member: &Member, problem: TarProblem) -> TarError {
    TarError {
        member: escape(&member.path),
        problem,
    }
}

/// A name for people.
fn escape(name: &[u8]) -> String {
    name[..name.len().min(SHOWN_NAME_BYTES)]
        .escape_ascii()
        .to_string()
}
