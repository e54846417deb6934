//! A layer written down by system calls, and archived by tar.

use std::fs::{self, File, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt, lchown, symlink};
use std::path::Path;

use anyhow::{Context, Result, bail};
use harness::{run, tool};
use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, makedev, mknodat, utimensat};
use shale_model::{Attrs, Content, Entry, Extent, Kind, Mtime, Rdev, TreeLayer, TreePath};

use super::{Chunks, below};

/// How whiteouts and opaque directories are written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// Character devices 0:0, and an attribute (Linux `Documentation/filesystems/overlayfs.rst`).
    Overlay,
    /// Files whose names begin with `.wh.` (OCI image specification, `layer.md`).
    Oci,
}

/// Fills the empty directory `root` with `layer`.
pub(crate) fn write_layer(
    layer: &TreeLayer,
    chunks: &Chunks,
    root: &Path,
    form: Form,
) -> Result<()> {
    for dir in &layer.dirs {
        // Not every directory is described by its layer.
        fs::create_dir_all(below(root, dir.path.as_bytes()))?;
        for entry in &dir.entries {
            make(root, &dir.path, entry, chunks, form)
                .with_context(|| format!("make {:?} of {} in {root:?}", entry.name, dir.path))?;
        }
    }
    // What is made in a directory changes its time, and inherits its ACL: so attributes come last.
    for (dir, entry) in layer.entries() {
        if !matches!(entry.kind, Kind::Whiteout | Kind::HardLink(_)) {
            let path = dir.join(&entry.name)?;
            set_attrs(&below(root, path.as_bytes()), &entry.attrs, &entry.kind)?;
        }
    }
    if layer.root.as_ref().is_some_and(|root| root.opaque) {
        fs::write(root.join(".wh..wh..opq"), "")?;
    }
    match &layer.root {
        Some(described) => set_attrs(root, &described.attrs, &Kind::Directory),
        None => Ok(()),
    }
}

fn make(root: &Path, dir: &TreePath, entry: &Entry, chunks: &Chunks, form: Form) -> Result<()> {
    let path = dir.join(&entry.name)?;
    let full = below(root, path.as_bytes());
    match &entry.kind {
        Kind::File(content) => write_file(&full, content, chunks),
        Kind::Directory => Ok(fs::create_dir(full)?),
        Kind::OpaqueDirectory => {
            fs::create_dir(&full)?;
            match form {
                Form::Overlay => Ok(xattr::set(full, "trusted.overlay.opaque", b"y")?),
                Form::Oci => Ok(fs::write(below(root, &opaque_member(&path)?), "")?),
            }
        }
        Kind::Symlink(target) => Ok(symlink(std::ffi::OsStr::from_bytes(target), full)?),
        Kind::HardLink(target) => Ok(fs::hard_link(below(root, target.as_bytes()), full)?),
        Kind::CharDevice(rdev) => node(&full, FileType::CharacterDevice, *rdev),
        Kind::BlockDevice(rdev) => node(&full, FileType::BlockDevice, *rdev),
        Kind::Fifo => node(&full, FileType::Fifo, NO_DEVICE),
        Kind::Socket => node(&full, FileType::Socket, NO_DEVICE),
        Kind::Whiteout => match form {
            Form::Overlay => node(&full, FileType::CharacterDevice, NO_DEVICE),
            Form::Oci => Ok(fs::write(below(root, &white_member(&path)?), "")?),
        },
    }
}

const NO_DEVICE: Rdev = Rdev { major: 0, minor: 0 };

fn node(path: &Path, kind: FileType, rdev: Rdev) -> Result<()> {
    let device = makedev(rdev.major, rdev.minor);
    mknodat(CWD, path, kind, Mode::from(0o600), device).context("make a node")
}

fn write_file(path: &Path, content: &Content, chunks: &Chunks) -> Result<()> {
    let file = File::create_new(path)?;
    file.set_len(content.size())?;
    let mut at = 0;
    for extent in content.extents() {
        if let Extent::Chunk { id, .. } = extent {
            file.write_all_at(chunks.get(id).context("its bytes")?, at)?;
        }
        at += extent.len();
    }
    Ok(())
}

fn set_attrs(path: &Path, attrs: &Attrs, kind: &Kind) -> Result<()> {
    // In this order: a new owner takes set-id bits and capabilities away.
    lchown(path, Some(attrs.uid), Some(attrs.gid))?;
    if !matches!(kind, Kind::Symlink(_)) {
        fs::set_permissions(path, Permissions::from_mode(attrs.mode.into()))?;
    }
    for (name, value) in attrs.xattrs.iter() {
        let name = std::ffi::OsStr::from_bytes(name);
        xattr::set(path, name, value).with_context(|| format!("set {name:?} of {path:?}"))?;
    }
    set_time(path, attrs.mtime)
}

/// Sets the time of last change.
pub(super) fn set_time(path: &Path, mtime: Mtime) -> Result<()> {
    let time = Timespec {
        tv_sec: mtime.seconds,
        tv_nsec: mtime.nanos.into(),
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)
        .with_context(|| format!("set the time of {path:?}"))
}

/// `dir/.wh.name` for `dir/name`.
fn white_member(path: &TreePath) -> Result<Vec<u8>> {
    let Some((dir, name)) = path.split() else {
        bail!("the root cannot be removed");
    };
    let name = [b".wh.", name.as_bytes()].concat();
    Ok(inside(&dir, &name))
}

/// What makes the directory at `path` opaque: mostly a file in it; for some a file beside it, which says that
/// what was below is gone and means the same.
fn opaque_member(path: &TreePath) -> Result<Vec<u8>> {
    match path.as_bytes().len() % 3 {
        0 => white_member(path),
        _ => Ok(inside(path, b".wh..wh..opq")),
    }
}

fn inside(dir: &TreePath, name: &[u8]) -> Vec<u8> {
    match dir.is_root() {
        true => name.to_vec(),
        false => [dir.as_bytes(), b"/", name].concat(),
    }
}

/// The members that an archive of the layer has, in order, the root as the empty one.
pub(crate) fn members(layer: &TreeLayer) -> Result<Vec<Vec<u8>>> {
    let mut members = Vec::new();
    if let Some(root) = &layer.root {
        members.push(Vec::new());
        if root.opaque {
            members.push(inside(&TreePath::root(), b".wh..wh..opq"));
        }
    }
    for (dir, entry) in layer.entries() {
        let path = dir.join(&entry.name)?;
        match entry.kind {
            Kind::Whiteout => members.push(white_member(&path)?),
            Kind::OpaqueDirectory => {
                members.push(path.as_bytes().to_vec());
                members.push(opaque_member(&path)?);
            }
            _ => members.push(path.as_bytes().to_vec()),
        }
    }
    Ok(members)
}

/// Archives `members` of `root` with GNU tar.
pub(crate) fn archive(root: &Path, members: &[Vec<u8>], archive: &Path) -> Result<()> {
    let list = archive.with_extension("list");
    let lines = members
        .iter()
        .flat_map(|member| [b"./", &member[..], b"\0"].concat());
    fs::write(&list, lines.collect::<Vec<u8>>())?;
    let options = [
        "--create",
        "--format=pax",
        "--numeric-owner",
        "--xattrs",
        "--xattrs-include=*",
        "--acls",
        "--sparse",
        "--no-recursion",
        "--null",
        "--verbatim-files-from",
    ];
    let mut command = tool("tar")?;
    command.args(options).arg("--file").arg(archive);
    command
        .arg("--directory")
        .arg(root)
        .arg("--files-from")
        .arg(&list);
    run(&mut command).map(drop)
}
