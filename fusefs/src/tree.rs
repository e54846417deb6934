//! The composed tree as a read-only file system.
//!
//! Everything but the content of files is in the plan, and is answered at once. Content is read from the disk that the
//! plan is of, by the one read path that all faces share. As nothing ever changes, the kernel keeps names, attributes,
//! links, directories and pages as long as it likes, and opens files without asking.

use std::marker::PhantomData;
use std::ops::{ControlFlow, Deref};
use std::sync::Arc;

use rustix::io::Errno;
use shale_image::{DirectoryEntry, TreeInode, TreeReader, TreeShape};
use shale_model::limits::BLOCK_BYTES;
use shale_model::{BlockDevice, FormatError, Plan, Rdev};

use crate::face::{Face, FaceKind, Outcome, errno};
use crate::limits::{MAX_DIRECTORY_BYTES, MAX_IO_BYTES, MAX_XATTR_LIST_BYTES};
use crate::mount::Permissions;
use crate::proto::{ROOT_NODE, seek};
use crate::reply::{Attributes, Body, DirectoryItem, Sizes};
use crate::request::{Detail, Op, Request};

const BLOCK: u64 = BLOCK_BYTES as u64;

/// The tree of a plan. `P` holds the plan, over bytes `B`.
pub struct TreeFace<P, B> {
    plan: P,
    shape: TreeShape,
    disk: Arc<dyn BlockDevice>,
    permissions: Permissions,
    bytes: PhantomData<fn() -> B>,
}

/// A plan whose tree cannot be shown.
#[derive(Debug, thiserror::Error)]
#[error("read the tree of a plan")]
pub struct TreeError(#[from] FormatError);

type Done = Result<(), Errno>;

impl<P, B> TreeFace<P, B>
where
    P: Deref<Target = Plan<B>> + Send + Sync + 'static,
    B: AsRef<[u8]> + 'static,
{
    /// The tree of `plan`, whose disk is `disk`. It is to be mounted with the same `permissions`.
    pub fn new(
        plan: P,
        disk: Arc<dyn BlockDevice>,
        permissions: Permissions,
    ) -> Result<Self, TreeError> {
        let shape = TreeShape::of(&*plan)?;
        Ok(Self {
            plan,
            shape,
            disk,
            permissions,
            bytes: PhantomData,
        })
    }

    fn tree(&self) -> TreeReader<'_, Plan<B>> {
        self.shape.tree(&self.plan)
    }

    /// The inode of a node.
    fn inode(&self, node: u64) -> Result<TreeInode, Errno> {
        let number = match node {
            ROOT_NODE => TreeShape::ROOT,
            node => u32::try_from(node).map_err(|_| Errno::STALE)?,
        };
        self.tree()
            .inode(number)
            .map_err(damaged)?
            .ok_or(Errno::STALE)
    }

    fn lookup(&self, node: u64, name: &[u8], body: &mut Body) -> Done {
        let inode = self.inode(node)?;
        // So a node is found again by its number alone, which NFS does.
        if name == b"." {
            body.entry(node_of(inode.number), &attributes(&inode));
            return Ok(());
        }
        if !inode.is_directory() {
            return Err(Errno::NOTDIR);
        }
        match self.tree().lookup(&inode, name).map_err(damaged)? {
            Some(number) => {
                let found = self.inode(node_of(number))?;
                body.entry(node_of(number), &attributes(&found));
            }
            None => body.no_entry(),
        }
        Ok(())
    }

    fn read_dir(&self, node: u64, cookie: u64, size: u32, detail: Detail, body: &mut Body) -> Done {
        let directory = self.inode(node)?;
        let room = size.min(MAX_DIRECTORY_BYTES) as usize;
        let mut result = Ok(());
        let read = self.tree().entries(&directory, cookie, |entry| {
            match self.item(&entry, detail) {
                Ok(item) if body.directory_entry(room, &item) => ControlFlow::Continue(()),
                Ok(_) => ControlFlow::Break(()),
                Err(error) => {
                    result = Err(error);
                    ControlFlow::Break(())
                }
            }
        });
        read.map_err(damaged)?;
        // What was read before an error is given first; the error comes again.
        match body.bytes().is_empty() {
            true => result,
            false => Ok(()),
        }
    }

    fn item<'e>(
        &self,
        of: &DirectoryEntry<'e>,
        detail: Detail,
    ) -> Result<DirectoryItem<'e>, Errno> {
        let entry = match detail {
            Detail::Plain => None,
            // The kernel must not know these by another way.
            Detail::Full if matches!(of.name, b"." | b"..") => Some((0, Attributes::default())),
            Detail::Full => {
                let inode = self.inode(node_of(of.inode))?;
                Some((node_of(of.inode), attributes(&inode)))
            }
        };
        Ok(DirectoryItem {
            name: of.name,
            inode: u64::from(of.inode),
            kind: of.kind,
            cookie: of.cookie,
            entry,
        })
    }

    fn get_xattr(&self, node: u64, name: &[u8], size: u32, body: &mut Body) -> Done {
        let inode = self.inode(node)?;
        if !inode.has_xattrs() {
            return Err(Errno::NODATA);
        }
        let xattrs = self.tree().xattrs(&inode).map_err(damaged)?;
        sized(xattrs.get(name).ok_or(Errno::NODATA)?, size, body)
    }

    fn list_xattr(&self, request: &Request<'_>, size: u32, body: &mut Body) -> Done {
        let inode = self.inode(request.node)?;
        let xattrs = self.tree().xattrs(&inode).map_err(damaged)?;
        let mut names = Vec::new();
        for (name, _) in xattrs.iter() {
            // ext4 shows these to the administrator only, too.
            if request.uid == 0 || !name.starts_with(b"trusted.") {
                names.extend_from_slice(name);
                names.push(0);
            }
        }
        if names.len() > MAX_XATTR_LIST_BYTES {
            return Err(Errno::TOOBIG);
        }
        sized(&names, size, body)
    }

    /// The first byte of data, or of a hole, from `offset` on.
    fn seek(&self, node: u64, offset: u64, whence: u32, body: &mut Body) -> Done {
        let inode = self.inode(node)?;
        let wants_data = match whence {
            seek::DATA => true,
            seek::HOLE => false,
            _ => return Err(Errno::INVAL),
        };
        if !inode.is_file() {
            return Err(Errno::INVAL);
        }
        let mut at = offset;
        while at < inode.size {
            let run = self.run(&inode, at)?;
            if run.start.is_some() == wants_data {
                body.offset(at);
                return Ok(());
            }
            at = (at / BLOCK + run.blocks) * BLOCK;
        }
        if offset >= inode.size || wants_data {
            return Err(Errno::NXIO);
        }
        body.offset(inode.size);
        Ok(())
    }

    fn run(&self, inode: &TreeInode, at: u64) -> Result<shale_image::TreeRun, Errno> {
        let logical = u32::try_from(at / BLOCK).map_err(|_| Errno::FBIG)?;
        self.tree().run(inode, logical).map_err(damaged)
    }

    async fn read(&self, inode: TreeInode, offset: u64, into: &mut [u8]) -> Done {
        let (mut at, mut rest) = (offset, into);
        while !rest.is_empty() {
            let run = self.run(&inode, at)?;
            let inside = at % BLOCK;
            let here = (run.blocks * BLOCK - inside).min(rest.len() as u64);
            let (part, after) = rest.split_at_mut(here as usize);
            match run.start {
                None => part.fill(0),
                Some(start) => {
                    let read = self.disk.read(start * BLOCK + inside, part).await;
                    read.map_err(|error| errno(&error))?;
                }
            }
            at += here;
            rest = after;
        }
        Ok(())
    }

    fn answer_now(&self, request: &Request<'_>, body: &mut Body) -> Done {
        let node = request.node;
        match request.op {
            Op::Lookup(name) => self.lookup(node, name, body),
            Op::GetAttr => {
                body.attributes_out(&attributes(&self.inode(node)?));
                Ok(())
            }
            Op::ReadLink => {
                let inode = self.inode(node)?;
                let target = self.tree().link_target(&inode).map_err(damaged)?;
                body.push(&target);
                Ok(())
            }
            Op::ReadDir {
                cookie,
                size,
                detail,
            } => self.read_dir(node, cookie, size, detail, body),
            Op::GetXattr { name, size } => self.get_xattr(node, name, size, body),
            Op::ListXattr { size } => self.list_xattr(request, size, body),
            Op::Seek { offset, whence } => self.seek(node, offset, whence, body),
            Op::StatFs => {
                let ((blocks, free_blocks), (inodes, free_inodes)) =
                    (self.shape.blocks(), self.shape.inodes());
                body.sizes(&Sizes {
                    blocks,
                    free_blocks,
                    inodes: inodes.into(),
                    free_inodes: free_inodes.into(),
                });
                Ok(())
            }
            Op::Write { .. } | Op::SetAttr { .. } | Op::Fallocate { .. } | Op::Change => {
                Err(Errno::ROFS)
            }
            Op::Sync | Op::Release | Op::Destroy => Ok(()),
            // The kernel asks for each once, then opens and closes without asking, and keeps what it read.
            Op::Open | Op::OpenDir | Op::Flush => Err(Errno::NOSYS),
            Op::Init { .. } | Op::Interrupt(_) | Op::Forget | Op::Read { .. } | Op::Unknown(_) => {
                Err(Errno::NOSYS)
            }
        }
    }
}

impl<P, B> Face for TreeFace<P, B>
where
    P: Deref<Target = Plan<B>> + Send + Sync + 'static,
    B: AsRef<[u8]> + 'static,
{
    fn kind(&self) -> FaceKind {
        match self.permissions {
            Permissions::Checked => FaceKind::Tree,
            Permissions::Unchecked => FaceKind::UncheckedTree,
        }
    }

    fn answer<'a>(&'a self, request: &Request<'a>, body: &'a mut Body) -> Outcome<'a> {
        let Op::Read { offset, size } = request.op else {
            return Outcome::Done(self.answer_now(request, body));
        };
        let inode = match self.inode(request.node) {
            Ok(inode) if inode.is_file() => inode,
            Ok(_) => return Outcome::Done(Err(Errno::INVAL)),
            Err(error) => return Outcome::Done(Err(error)),
        };
        let left = inode.size.saturating_sub(offset);
        let len = left.min(size.min(MAX_IO_BYTES).into()) as usize;
        let into = body.fill(len);
        match len {
            0 => Outcome::Done(Ok(())),
            _ => Outcome::Wait(Box::pin(self.read(inode, offset, into))),
        }
    }
}

/// The number by which the kernel knows an inode.
fn node_of(inode: u32) -> u64 {
    match inode {
        TreeShape::ROOT => ROOT_NODE,
        number => number.into(),
    }
}

fn attributes(inode: &TreeInode) -> Attributes {
    let (uid, gid) = inode.owner();
    let mtime = inode.mtime();
    let rdev = inode.rdev().map_or(0, |Rdev { major, minor }| {
        minor & 0xFF | (major & 0xFFF) << 8 | (minor & 0xF_FF00) << 12
    });
    Attributes {
        inode: inode.number.into(),
        mode: inode.mode().into(),
        links: inode.links,
        size: inode.size,
        sectors: inode.sectors(),
        uid,
        gid,
        seconds: mtime.seconds,
        nanos: mtime.nanos,
        rdev,
    }
}

/// A value, or its length where there is no room at all.
fn sized(value: &[u8], size: u32, body: &mut Body) -> Done {
    match size as usize {
        0 => body.count(value.len() as u32),
        room if room < value.len() => return Err(Errno::RANGE),
        _ => body.push(value),
    }
    Ok(())
}

/// A plan was verified when it was opened, so this is a bug or memory that broke.
fn damaged(_: FormatError) -> Errno {
    Errno::IO
}
