//! What a guest has on its disk, as a source of a layer.
//!
//! The guest may have written anything: every count is bounded, and nothing of it reaches this machine's file systems.

use std::collections::{HashMap, HashSet};
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use shale_image::{DirectoryEntry, Metadata, Replayed, TreeInode, TreeReader, TreeShape};
use shale_ingest::{FileBytes, PushError, Run, Source, SourceError, Visitor, keeps_xattr};
use shale_model::limits::BLOCK_BYTES;
use shale_model::{Attrs, Entry, Kind, Name, RootEntry, TreePath, XattrPair, Xattrs};

use crate::guest_disk::{GuestDisk, GuestDiskError};
use crate::unchanged::Unchanged;

const BLOCK: u64 = BLOCK_BYTES as u64;

/// Most bytes that are read at once of a file.
const MAX_READ_BYTES: u64 = 1 << 20;

/// Most names of one directory, which are sorted in memory: some 100 MB.
const MAX_NAMES: usize = 1 << 20;

/// Most names of all directories together: what differs from the template is held in memory, some 200 bytes of each.
const MAX_ENTRIES: u64 = 4 << 20;

/// Most bytes of all names with their paths, attributes and links together.
const MAX_DESCRIBED_BYTES: u64 = 1 << 30;

/// `S_IFMT` and what it says.
mod mode {
    pub(super) const FIFO: u16 = 0x1;
    pub(super) const CHAR: u16 = 0x2;
    pub(super) const DIRECTORY: u16 = 0x4;
    pub(super) const BLOCK: u16 = 0x6;
    pub(super) const REGULAR: u16 = 0x8;
    pub(super) const SYMLINK: u16 = 0xA;
    pub(super) const SOCKET: u16 = 0xC;
}

/// The tree of a guest's disk.
pub(crate) struct GuestTree<'a> {
    disk: Replayed<GuestDisk>,
    shape: TreeShape,
    unchanged: Option<Unchanged<'a>>,
}

impl<'a> GuestTree<'a> {
    /// The tree of a disk that nobody writes to. Files that are as `unchanged` knows them are not read.
    pub(crate) fn open(
        disk: GuestDisk,
        unchanged: Option<Unchanged<'a>>,
    ) -> Result<Self, GuestDiskError> {
        let disk = Replayed::new(disk)?;
        let shape = TreeShape::of(&disk)?;
        Ok(Self {
            disk,
            shape,
            unchanged,
        })
    }
}

impl Source for GuestTree<'_> {
    fn visit(&mut self, visitor: &mut dyn Visitor) -> Result<(), PushError> {
        let mut walk = Walk {
            disk: &self.disk,
            tree: self.shape.tree(&self.disk),
            unchanged: self.unchanged.as_ref(),
            visitor,
            links: HashMap::new(),
            met: HashSet::from([TreeShape::ROOT]),
            taken: Taken::default(),
        };
        walk.all()
    }
}

/// A walk in layer order: all entries of a directory in order of name, then its subdirectories.
struct Walk<'a> {
    disk: &'a Replayed<GuestDisk>,
    tree: TreeReader<'a, Replayed<GuestDisk>>,
    unchanged: Option<&'a Unchanged<'a>>,
    visitor: &'a mut dyn Visitor,
    /// The first path of each inode that has more names.
    links: HashMap<u32, TreePath>,
    /// What has one name and was met.
    met: HashSet<u32>,
    taken: Taken,
}

/// What was taken of the disk so far. Blocks belong to one file each, so that no file system has more than its disk.
#[derive(Default)]
struct Taken {
    names: u64,
    /// Bytes of names, attributes and links, which are held in memory where they differ from the template's.
    described: u64,
    /// Bytes of directories and of files.
    read: u64,
}

impl Taken {
    fn add(&mut self, names: u64, described: u64) -> Result<(), GuestDiskError> {
        self.names += names;
        self.described += described;
        let too_many = |what, limit| Err(GuestDiskError::TooMany { what, limit });
        match () {
            () if self.names > MAX_ENTRIES => too_many("names", MAX_ENTRIES),
            () if self.described > MAX_DESCRIBED_BYTES => {
                too_many("bytes of names, links and attributes", MAX_DESCRIBED_BYTES)
            }
            () => Ok(()),
        }
    }

    fn read(&mut self, bytes: u64, disk_bytes: u64) -> Result<(), GuestDiskError> {
        self.read += bytes;
        match self.read > disk_bytes {
            true => Err(GuestDiskError::TooMany {
                what: "bytes of files",
                limit: disk_bytes,
            }),
            false => Ok(()),
        }
    }
}

impl Walk<'_> {
    fn all(&mut self) -> Result<(), PushError> {
        let root = TreePath::root();
        let inode = self.inode(TreeShape::ROOT).map_err(failed(&root))?;
        let attrs = self.attrs(&root, &inode)?;
        let opaque = false;
        self.visitor.root(RootEntry { attrs, opaque })?;
        let mut pending = vec![(root, inode)];
        while let Some((path, inode)) = pending.pop() {
            let mut below = self.directory(&path, &inode)?;
            pending.extend(below.drain(..).rev());
        }
        Ok(())
    }

    /// Tells all of a directory; its subdirectories.
    fn directory(
        &mut self,
        path: &TreePath,
        inode: &TreeInode,
    ) -> Result<Vec<(TreePath, TreeInode)>, PushError> {
        let mut below = Vec::new();
        let names = self.names(inode).map_err(failed(path))?;
        for (name, number) in names {
            let shown = || shown(path).join(String::from_utf8_lossy(&name).as_ref());
            let name = Name::new(&name).map_err(|source| SourceError::Name {
                path: shown(),
                source,
            })?;
            let child = path.join(&name).map_err(|source| SourceError::Name {
                path: shown(),
                source,
            })?;
            let inode = self.inode(number).map_err(failed(&child))?;
            let has_one_name = inode.is_directory() || inode.links <= 1;
            if has_one_name && !self.met.insert(number) {
                return Err(failed(&child)(GuestDiskError::TwoNames(number)).into());
            }
            let entry = self.entry(&child, name, &inode)?;
            if inode.is_directory() {
                below.push((child, inode));
            }
            self.visitor.entry(path, entry)?;
        }
        Ok(below)
    }

    /// The names in a directory, in order.
    fn names(&mut self, inode: &TreeInode) -> Result<Vec<(Vec<u8>, u32)>, GuestDiskError> {
        let mut names = Vec::new();
        self.tree.entries(inode, 0, |entry: DirectoryEntry<'_>| {
            if !matches!(entry.name, b"." | b"..") {
                names.push((entry.name.to_vec(), entry.inode));
            }
            match names.len() > MAX_NAMES {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        })?;
        if names.len() > MAX_NAMES {
            return Err(GuestDiskError::TooMany {
                what: "names of a directory",
                limit: MAX_NAMES as u64,
            });
        }
        names.sort();
        Ok(names)
    }

    fn inode(&self, number: u32) -> Result<TreeInode, GuestDiskError> {
        let inode = self.tree.inode(number)?;
        inode.ok_or(GuestDiskError::NoInode(number))
    }

    fn entry(
        &mut self,
        path: &TreePath,
        name: Name,
        inode: &TreeInode,
    ) -> Result<Entry, PushError> {
        if inode.links > 1 && !inode.is_directory() {
            if let Some(first) = self.links.get(&inode.number) {
                let described = (path.as_bytes().len() + first.as_bytes().len()) as u64;
                self.taken.add(1, described).map_err(failed(path))?;
                let kind = Kind::HardLink(first.clone());
                let attrs = Attrs::default();
                return Ok(Entry { name, attrs, kind });
            }
            self.links.insert(inode.number, path.clone());
        }
        let attrs = self.attrs(path, inode)?;
        let link = if inode.is_symlink() { inode.size } else { 0 };
        let described = (path.as_bytes().len() + attrs.xattrs.bytes()) as u64 + link;
        self.taken.add(1, described).map_err(failed(path))?;
        let kind = self.kind(path, inode)?;
        Ok(Entry { name, attrs, kind })
    }

    fn kind(&mut self, path: &TreePath, inode: &TreeInode) -> Result<Kind, PushError> {
        let rdev = || {
            let unknown = || failed(path)(GuestDiskError::Type(inode.number));
            inode.rdev().ok_or_else(unknown)
        };
        Ok(match inode.mode() >> 12 {
            mode::DIRECTORY => Kind::Directory,
            mode::REGULAR => return self.file(path, inode),
            mode::SYMLINK => {
                let target = self.tree.link_target(inode).map_err(failed(path))?;
                Kind::symlink(&target).map_err(|source| SourceError::Entry {
                    path: shown(path),
                    source,
                })?
            }
            mode::CHAR => Kind::CharDevice(rdev()?),
            mode::BLOCK => Kind::BlockDevice(rdev()?),
            mode::FIFO => Kind::Fifo,
            mode::SOCKET => Kind::Socket,
            _ => return Err(failed(path)(GuestDiskError::Type(inode.number)).into()),
        })
    }

    fn file(&mut self, path: &TreePath, inode: &TreeInode) -> Result<Kind, PushError> {
        if let Some(unchanged) = self.unchanged {
            let known = unchanged.content(&self.tree, self.disk, inode);
            if let Some(content) = known.map_err(failed(path))? {
                return Ok(Kind::File(content.clone()));
            }
        }
        let mut bytes = GuestFile {
            disk: self.disk,
            tree: &self.tree,
            taken: &mut self.taken,
            inode,
            path,
            at: 0,
        };
        Ok(Kind::File(self.visitor.content(path, &mut bytes)?))
    }

    fn attrs(&self, path: &TreePath, inode: &TreeInode) -> Result<Attrs, SourceError> {
        let (uid, gid) = inode.owner();
        let xattrs = self.tree.xattrs(inode).map_err(failed(path))?;
        let kept = xattrs.iter().filter(|(name, _)| keeps_xattr(name));
        let pairs: Vec<XattrPair> = kept
            .map(|(name, value)| (name.into(), value.into()))
            .collect();
        Ok(Attrs {
            mode: inode.permissions(),
            uid,
            gid,
            mtime: inode.mtime(),
            xattrs: Xattrs::new(pairs).map_err(|source| SourceError::Entry {
                path: shown(path),
                source,
            })?,
        })
    }
}

/// The bytes of one file, run by run.
struct GuestFile<'a> {
    disk: &'a Replayed<GuestDisk>,
    tree: &'a TreeReader<'a, Replayed<GuestDisk>>,
    taken: &'a mut Taken,
    inode: &'a TreeInode,
    path: &'a TreePath,
    at: u64,
}

impl FileBytes for GuestFile<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> Result<Run, SourceError> {
        let left = self.inode.size.saturating_sub(self.at);
        if left == 0 {
            return Ok(Run::End);
        }
        let fail = failed(self.path);
        let Ok(logical) = u32::try_from(self.at / BLOCK) else {
            return Err(fail(GuestDiskError::Read("a file is too long".into())));
        };
        let run = match self.tree.run(self.inode, logical) {
            Ok(run) => run,
            Err(error) => return Err(fail(error)),
        };
        let inside = self.at % BLOCK;
        let len = (run.blocks * BLOCK - inside).min(left);
        let Some(start) = run.start else {
            self.at += len;
            return Ok(Run::Zeros(len));
        };
        let len = len.min(buffer.len() as u64).min(MAX_READ_BYTES) as usize;
        let taken = self.taken.read(len as u64, self.disk.disk_bytes());
        let bytes = taken.and_then(|()| self.disk.range(start * BLOCK + inside, len));
        buffer[..len].copy_from_slice(&bytes.map_err(fail)?);
        self.at += len as u64;
        Ok(Run::Data(len))
    }
}

/// A path of the guest in errors.
fn shown(path: &TreePath) -> PathBuf {
    Path::new("/").join(path.to_string())
}

fn failed(path: &TreePath) -> impl FnOnce(GuestDiskError) -> SourceError + use<> {
    let path = shown(path);
    move |error| SourceError::Io {
        action: "read the guest's",
        path,
        source: io::Error::other(error),
    }
}
