//! A tree as facts, name by name, whether a kernel or the fold tells them.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use rustix::fs::{major, minor};
use shale_model::{Extent, NodeData, Tree};

use super::Chunks;
use super::below;

/// Every path of a tree, the root as the empty one, with what there is to say about it.
pub(crate) type Facts = BTreeMap<Vec<u8>, Fact>;

/// What there is to say about one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fact {
    mode: u32,
    owner: (u32, u32),
    mtime: (i64, i64),
    xattrs: BTreeMap<Bytes, Bytes>,
    data: Data,
    /// The first name in order of path that the inode of this name has.
    first_name: Bytes,
}

/// Bytes that are shown as text where they are some.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Bytes(Vec<u8>);

impl std::fmt::Debug for Bytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "\"{}\"", self.0.escape_ascii())
    }
}

/// What a name is and holds.
#[derive(Clone, PartialEq, Eq)]
enum Data {
    File(Vec<u8>),
    Directory,
    Symlink(Vec<u8>),
    CharDevice(u32, u32),
    BlockDevice(u32, u32),
    Fifo,
    Socket,
}

impl std::fmt::Debug for Data {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Data::File(bytes) => {
                let start = bytes[..bytes.len().min(12)].escape_ascii();
                write!(f, "file of {} bytes, {start}..", bytes.len())
            }
            Data::Directory => write!(f, "directory"),
            Data::Symlink(target) => write!(f, "link to {}", target.escape_ascii()),
            Data::CharDevice(major, minor) => write!(f, "character device {major}:{minor}"),
            Data::BlockDevice(major, minor) => write!(f, "block device {major}:{minor}"),
            Data::Fifo => write!(f, "fifo"),
            Data::Socket => write!(f, "socket"),
        }
    }
}

/// What the kernel tells about the tree at `root`.
pub(crate) fn mounted(root: &Path) -> Result<Facts> {
    let mut facts = Facts::new();
    let mut first_names = HashMap::new();
    let mut todo = vec![Vec::new()];
    while let Some(path) = todo.pop() {
        let full = below(root, &path);
        let meta = match fs::symlink_metadata(&full) {
            // A whiteout in a directory that only one layer has: overlayfs lists its name, and nothing is there.
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            meta => meta.with_context(|| format!("stat {full:?}"))?,
        };
        let kind = meta.file_type();
        let device = (major(meta.rdev()), minor(meta.rdev()));
        let data = if kind.is_dir() {
            let mut names = Vec::new();
            for entry in fs::read_dir(&full).with_context(|| format!("list {full:?}"))? {
                names.push(entry?.file_name().as_bytes().to_vec());
            }
            names.sort();
            let paths = names.into_iter().rev().map(|name| match &path[..] {
                [] => name,
                path => [path, b"/", &name].concat(),
            });
            todo.extend(paths);
            Data::Directory
        } else if kind.is_file() {
            Data::File(fs::read(&full).with_context(|| format!("read {full:?}"))?)
        } else if kind.is_symlink() {
            Data::Symlink(fs::read_link(&full)?.as_os_str().as_bytes().to_vec())
        } else if kind.is_char_device() {
            Data::CharDevice(device.0, device.1)
        } else if kind.is_block_device() {
            Data::BlockDevice(device.0, device.1)
        } else if kind.is_fifo() {
            Data::Fifo
        } else {
            Data::Socket
        };
        let names = first_names.entry((meta.dev(), meta.ino()));
        let first_name = Bytes(names.or_insert_with(|| path.clone()).clone());
        let fact = Fact {
            mode: meta.mode() & 0o7777,
            owner: (meta.uid(), meta.gid()),
            mtime: (meta.mtime(), meta.mtime_nsec()),
            xattrs: xattrs(&full)?,
            data,
            first_name,
        };
        facts.insert(path, fact);
    }
    Ok(facts)
}

fn xattrs(path: &Path) -> Result<BTreeMap<Bytes, Bytes>> {
    let names = xattr::list(path).with_context(|| format!("list attributes of {path:?}"))?;
    let kept = names.filter(|name| name != "security.selinux");
    kept.map(|name| {
        let value =
            xattr::get(path, &name).with_context(|| format!("read {name:?} of {path:?}"))?;
        Ok((
            Bytes(name.as_bytes().to_vec()),
            Bytes(value.unwrap_or_default()),
        ))
    })
    .collect()
}

/// What the fold tells about a tree of small files.
pub(crate) fn composed(tree: &Tree, chunks: &Chunks) -> Result<Facts> {
    let mut facts = Facts::new();
    let mut first_names = HashMap::new();
    for (path, id, node) in tree.walk() {
        let data = match &node.data {
            NodeData::File(content) => Data::File(bytes(content.extents(), chunks)?),
            NodeData::Directory(_) => Data::Directory,
            NodeData::Symlink(target) => Data::Symlink(target.to_vec()),
            NodeData::CharDevice(rdev) => Data::CharDevice(rdev.major, rdev.minor),
            NodeData::BlockDevice(rdev) => Data::BlockDevice(rdev.major, rdev.minor),
            NodeData::Fifo => Data::Fifo,
            NodeData::Socket => Data::Socket,
        };
        let path = path.as_bytes().to_vec();
        let first_name = first_names.entry(id).or_insert_with(|| path.clone());
        let first_name = Bytes(first_name.clone());
        let attrs = &node.attrs;
        let xattrs = attrs.xattrs.iter();
        let fact = Fact {
            mode: u32::from(attrs.mode),
            owner: (attrs.uid, attrs.gid),
            mtime: (attrs.mtime.seconds, i64::from(attrs.mtime.nanos)),
            xattrs: xattrs
                .map(|(name, value)| (Bytes(name.to_vec()), Bytes(value.to_vec())))
                .collect(),
            data,
            first_name,
        };
        facts.insert(path, fact);
    }
    Ok(facts)
}

fn bytes(extents: &[Extent], chunks: &Chunks) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    for extent in extents {
        match extent {
            Extent::Chunk { id, .. } => {
                bytes.extend_from_slice(chunks.get(id).context("a chunk that nobody made")?);
            }
            Extent::Hole { len } => bytes.resize(bytes.len() + *len as usize, 0),
        }
    }
    Ok(bytes)
}

/// Fails, with the differences, where two trees differ.
pub(crate) fn compare(real: &Facts, ours: &Facts) -> Result<()> {
    let mut found = Vec::new();
    let paths = real
        .keys()
        .chain(ours.keys().filter(|path| !real.contains_key(*path)));
    for path in paths {
        let (real, ours) = (real.get(path), ours.get(path));
        if real != ours {
            found.push(format!(
                "/{}:\n    {real:?}\n    {ours:?}",
                path.escape_ascii()
            ));
        }
    }
    ensure!(
        found.is_empty(),
        "{} names differ, really and in ours:\n  {}",
        found.len(),
        found.join("\n  ")
    );
    Ok(())
}
