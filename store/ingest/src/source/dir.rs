//! A directory tree as a source.
//!
//! The walk goes in layer order: all entries of a directory in order of name, then its subdirectories.
//! It holds the names of one directory and the subdirectories that are still to come. Like `tar`, it
//! follows no symbolic link, opens nothing but files and directories, and goes into whatever is mounted
//! in the tree. Everything it finds is taken; names such as `.wh.x` mean nothing here.
//!
//! A tree that changes while it is read has no right content: files and directories are looked at before
//! and after, and a difference is an error.

use std::collections::HashMap;
use std::ffi::{CString, OsStr};
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;
use shale_model::{Attrs, Entry, Kind, Name, RootEntry, TreePath, Xattrs};

use super::attrs::{Version, XattrReader, XattrTrouble, attrs, file_type, rdev};
use super::dir_file::DirFile;
use super::{Source, Visitor};
use crate::error::{PushError, SourceError};

/// Flags for everything that is opened: never a link's target, never a terminal, never waiting.
const OPEN: OFlags = OFlags::RDONLY
    .union(OFlags::NOFOLLOW)
    .union(OFlags::NONBLOCK)
    .union(OFlags::NOCTTY)
    .union(OFlags::CLOEXEC);

/// A directory of this machine, with all that is below it.
pub struct DirSource {
    path: PathBuf,
    root: OwnedFd,
    xattrs: XattrReader,
    /// The first path of each inode that has more names, with the number of names still to come.
    links: HashMap<(u64, u64), (TreePath, u64)>,
}

/// A directory that the walk has met and not entered.
struct Pending {
    path: TreePath,
    version: Version,
}

impl DirSource {
    /// Opens the directory at `path`, following a link that `path` itself may be.
    pub fn open(path: &Path) -> Result<Self, SourceError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(path, flags, Mode::empty());
        let root = root.map_err(|errno| SourceError::Io {
            action: "open",
            path: path.into(),
            source: errno.into(),
        })?;
        Ok(Self {
            path: path.into(),
            root,
            xattrs: XattrReader::new(),
            links: HashMap::new(),
        })
    }

    /// A path for errors.
    fn full(&self, path: &TreePath) -> PathBuf {
        self.path.join(OsStr::from_bytes(path.as_bytes()))
    }

    fn open_dir(&self, path: &TreePath) -> Result<OwnedFd, SourceError> {
        let bytes = match path.as_bytes() {
            b"" => b".",
            bytes => bytes,
        };
        // One call from the root, so that depth costs no descriptors; no link on the way is followed.
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let flags = OPEN | OFlags::DIRECTORY;
        rustix::fs::openat2(&self.root, bytes, flags, Mode::empty(), resolve)
            .map_err(|errno| self.error("open", path, errno))
    }

    /// The names in a directory, in order.
    fn names(&self, dir: BorrowedFd<'_>, path: &TreePath) -> Result<Vec<Name>, SourceError> {
        let error = |errno| self.error("list", path, errno);
        let mut names = Vec::new();
        for entry in Dir::read_from(dir).map_err(error)? {
            let entry = entry.map_err(error)?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            let checked = Name::new(name).map_err(|source| SourceError::Name {
                path: self.full(path).join(OsStr::from_bytes(name)),
                source,
            })?;
            names.push(checked);
        }
        names.sort();
        Ok(names)
    }

    fn visit_dir(
        &mut self,
        pending: &Pending,
        visitor: &mut dyn Visitor,
    ) -> Result<Vec<Pending>, PushError> {
        let path = &pending.path;
        let dir = self.open_dir(path)?;
        self.unchanged(path, &dir, &pending.version)?;
        let mut below = Vec::new();
        for name in self.names(dir.as_fd(), path)? {
            let child = path.join(&name).map_err(|source| SourceError::Name {
                path: self.full(path).join(OsStr::from_bytes(name.as_bytes())),
                source,
            })?;
            let (entry, version) = self.entry(dir.as_fd(), &child, name, visitor)?;
            if entry.kind.is_directory() {
                below.push(Pending {
                    path: child,
                    version,
                });
            }
            visitor.entry(path, entry)?;
        }
        self.unchanged(path, &dir, &pending.version)?;
        Ok(below)
    }

    fn entry(
        &mut self,
        dir: BorrowedFd<'_>,
        path: &TreePath,
        name: Name,
        visitor: &mut dyn Visitor,
    ) -> Result<(Entry, Version), PushError> {
        let c_name = CString::new(name.as_bytes()).map_err(|_| SourceError::Type {
            path: self.full(path),
        })?;
        let stat = rustix::fs::statat(dir, &c_name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|errno| self.error("look at", path, errno))?;
        let version = Version::of(&stat);
        let file_type = file_type(&stat);
        let is_dir = file_type == FileType::Directory;
        if let Some(target) = self.link_target(&stat, path).filter(|_| !is_dir) {
            let entry = Entry {
                name,
                attrs: Attrs::default(),
                kind: Kind::HardLink(target),
            };
            return Ok((entry, version));
        }
        let (attrs, kind) = match file_type {
            FileType::RegularFile => self.file(dir, &c_name, path, &version, visitor)?,
            FileType::Directory => {
                let opened =
                    rustix::fs::openat(dir, &c_name, OPEN | OFlags::DIRECTORY, Mode::empty())
                        .map_err(|errno| self.error("open", path, errno))?;
                let xattrs = self.xattrs.of_open(opened.as_fd());
                (self.attrs(path, &stat, xattrs)?, Kind::Directory)
            }
            other => {
                let xattrs = self.xattrs.of_name(dir, &c_name);
                let attrs = self.attrs(path, &stat, xattrs)?;
                (attrs, self.special(dir, &c_name, path, other, &stat)?)
            }
        };
        Ok((Entry { name, attrs, kind }, version))
    }

    /// The path that this inode was met at before.
    fn link_target(&mut self, stat: &Stat, path: &TreePath) -> Option<TreePath> {
        if stat.st_nlink < 2 || file_type(stat) == FileType::Directory {
            return None;
        }
        let inode = (stat.st_dev, stat.st_ino);
        let Some((first, left)) = self.links.get_mut(&inode) else {
            self.links.insert(inode, (path.clone(), stat.st_nlink - 1));
            return None;
        };
        let first = first.clone();
        *left = left.saturating_sub(1);
        if *left == 0 {
            self.links.remove(&inode);
        }
        Some(first)
    }

    fn file(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &CString,
        path: &TreePath,
        seen: &Version,
        visitor: &mut dyn Visitor,
    ) -> Result<(Attrs, Kind), PushError> {
        let opened = rustix::fs::openat(dir, name, OPEN, Mode::empty())
            .map_err(|errno| self.error("open", path, errno))?;
        let stat = self.unchanged(path, &opened, seen)?;
        let xattrs = self.xattrs.of_open(opened.as_fd());
        let attrs = self.attrs(path, &stat, xattrs)?;
        let mut file = DirFile::new(File::from(opened), &stat, self.full(path));
        let content = visitor.content(path, &mut file)?;
        self.unchanged(path, file.file(), seen)?;
        Ok((attrs, Kind::File(content)))
    }

    fn special(
        &self,
        dir: BorrowedFd<'_>,
        name: &CString,
        path: &TreePath,
        file_type: FileType,
        stat: &Stat,
    ) -> Result<Kind, SourceError> {
        Ok(match file_type {
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(dir, name, Vec::new())
                    .map_err(|errno| self.error("read the link", path, errno))?;
                Kind::symlink(target.as_bytes()).map_err(|source| SourceError::Entry {
                    path: self.full(path),
                    source,
                })?
            }
            FileType::CharacterDevice => Kind::CharDevice(rdev(stat)),
            FileType::BlockDevice => Kind::BlockDevice(rdev(stat)),
            FileType::Fifo => Kind::Fifo,
            FileType::Socket => Kind::Socket,
            _ => {
                let path = self.full(path);
                return Err(SourceError::Type { path });
            }
        })
    }

    /// Looks at an open file again; it must be the one that was seen before, as it was.
    fn unchanged(
        &self,
        path: &TreePath,
        file: impl AsFd,
        seen: &Version,
    ) -> Result<Stat, SourceError> {
        let stat = rustix::fs::fstat(file).map_err(|errno| self.error("look at", path, errno))?;
        if Version::of(&stat) == *seen {
            Ok(stat)
        } else {
            let path = self.full(path);
            Err(SourceError::Changed { path })
        }
    }

    fn attrs(
        &self,
        path: &TreePath,
        stat: &Stat,
        xattrs: Result<Xattrs, XattrTrouble>,
    ) -> Result<Attrs, SourceError> {
        let path = || self.full(path);
        match xattrs {
            Ok(xattrs) => Ok(attrs(stat, xattrs)),
            Err(XattrTrouble::Io(source)) => Err(SourceError::Io {
                action: "read the extended attributes of",
                path: path(),
                source,
            }),
            Err(XattrTrouble::Entry(source)) => Err(SourceError::Entry {
                path: path(),
                source,
            }),
        }
    }

    fn error(&self, action: &'static str, path: &TreePath, errno: Errno) -> SourceError {
        let full = self.full(path);
        match errno {
            Errno::NOENT => SourceError::Vanished { path: full },
            // What was a directory or a file is now a link, or the other way round.
            Errno::LOOP | Errno::NOTDIR => SourceError::Changed { path: full },
            _ => SourceError::Io {
                action,
                path: full,
                source: errno.into(),
            },
        }
    }
}

impl Source for DirSource {
    fn visit(&mut self, visitor: &mut dyn Visitor) -> Result<(), PushError> {
        self.links.clear();
        let root = TreePath::root();
        let stat = rustix::fs::fstat(&self.root).map_err(|e| self.error("look at", &root, e))?;
        let xattrs = self.xattrs.of_open(self.root.as_fd());
        let attrs = self.attrs(&root, &stat, xattrs)?;
        let opaque = false;
        visitor.root(RootEntry { attrs, opaque })?;
        let version = Version::of(&stat);
        let mut pending = vec![Pending {
            path: root,
            version,
        }];
        while let Some(next) = pending.pop() {
            let mut below = self.visit_dir(&next, visitor)?;
            pending.extend(below.drain(..).rev());
        }
        Ok(())
    }
}
