//! The rules of the OCI image specification for applying a layer (`layer.md`, "Applying Changesets"), by system
//! calls on a directory.

use std::collections::BTreeMap;
use std::fs::{self, Metadata, Permissions};
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown};
use std::path::{Path, PathBuf};

use anyhow::Result;
use shale_model::Mtime;

use super::below;
use super::write::set_time;

/// What became of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unpacked {
    /// It is applied.
    Whole,
    /// It has a member below something that is not a directory.
    NotDirectory,
}

/// Applies the layer with these `members`, the root as the empty one, to `tree`. What they are lies below
/// `layer` and is moved away.
///
/// "Whiteout files MUST only apply to resources in lower layers": so they come first. "If the entry and the
/// existing path are both directories, the existing path's attributes MUST be replaced"; "in all other cases",
/// the path is removed and made anew. A directory that no layer describes gets mode 0755, root and time 0, which
/// the specification leaves open, and one that only this layer does not describe keeps its time. A whiteout
/// makes the directory that it lies in, as containerd and umoci have it.
pub(crate) fn unpack(members: &[Vec<u8>], layer: &Path, tree: &Path) -> Result<Unpacked> {
    let (mut times, mut described_times) = (BTreeMap::new(), BTreeMap::new());
    directory_times(tree, &mut times)?;
    // Moving what a directory holds changes its time.
    directory_times(layer, &mut described_times)?;
    for (dir, name) in members.iter().filter_map(|member| split(member)) {
        let Some(white) = name.strip_prefix(b".wh.") else {
            continue;
        };
        let Some(dir) = existing_directory(tree, dir)? else {
            continue;
        };
        match white {
            b".wh..opq" => {
                for entry in fs::read_dir(dir)? {
                    remove(&entry?.path())?;
                }
            }
            _ => remove(&below(&dir, white))?,
        }
    }
    let mut described = Vec::new();
    for member in members {
        let (from, to) = (below(layer, member), below(tree, member));
        let Some((dir, name)) = split(member) else {
            described.push((from, to));
            continue;
        };
        if !make_directories(tree, dir, &mut times)? {
            return Ok(Unpacked::NotDirectory);
        }
        if name.starts_with(b".wh.") {
            continue;
        }
        if from.symlink_metadata()?.is_dir() {
            if !is_directory(&to)? {
                remove(&to)?;
                fs::create_dir(&to)?;
            }
            described.push((from, to));
        } else {
            remove(&to)?;
            // Moving keeps everything, and what was linked stays linked.
            fs::rename(from, to)?;
        }
    }
    for (from, to) in described {
        copy_attributes(&from, &to)?;
        times.extend(described_times.get(&from).map(|time| (to, *time)));
    }
    for (path, time) in times {
        // It may be gone, with something else in the place of what led to it.
        let inside = path.strip_prefix(tree)?.as_os_str().as_bytes();
        if existing_directory(tree, inside)?.is_some() {
            set_time(&path, time)?;
        }
    }
    Ok(Unpacked::Whole)
}

/// The directory and the name of a member; none for the root.
fn split(member: &[u8]) -> Option<(&[u8], &[u8])> {
    match member.iter().rposition(|b| *b == b'/') {
        Some(slash) => Some((&member[..slash], &member[slash + 1..])),
        None => (!member.is_empty()).then_some((&[], member)),
    }
}

fn mtime(meta: &Metadata) -> Mtime {
    Mtime {
        seconds: meta.mtime(),
        nanos: meta.mtime_nsec() as u32,
    }
}

fn directory_times(path: &Path, times: &mut BTreeMap<PathBuf, Mtime>) -> Result<()> {
    times.insert(path.to_owned(), mtime(&path.symlink_metadata()?));
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            directory_times(&entry.path(), times)?;
        }
    }
    Ok(())
}

fn is_directory(path: &Path) -> Result<bool> {
    match path.symlink_metadata() {
        Ok(meta) => Ok(meta.is_dir()),
        Err(error) => match error.kind() {
            ErrorKind::NotFound | ErrorKind::NotADirectory => Ok(false),
            _ => Err(error.into()),
        },
    }
}

/// The directory at `path`, reached without following links, where there is one.
fn existing_directory(tree: &Path, path: &[u8]) -> Result<Option<PathBuf>> {
    let mut at = tree.to_owned();
    for name in path.split(|b| *b == b'/').filter(|name| !name.is_empty()) {
        at = below(&at, name);
        if !is_directory(&at)? {
            return Ok(None);
        }
    }
    Ok(Some(at))
}

/// Makes what is missing of `path`; `false` where something else is there.
fn make_directories(
    tree: &Path,
    path: &[u8],
    times: &mut BTreeMap<PathBuf, Mtime>,
) -> Result<bool> {
    let mut at = tree.to_owned();
    for name in path.split(|b| *b == b'/').filter(|name| !name.is_empty()) {
        at = below(&at, name);
        if is_directory(&at)? {
            continue;
        }
        if at.symlink_metadata().is_ok() {
            return Ok(false);
        }
        fs::create_dir(&at)?;
        clear_attributes(&at)?;
        lchown(&at, Some(0), Some(0))?;
        fs::set_permissions(&at, Permissions::from_mode(0o755))?;
        times.insert(at.clone(), Mtime::default());
    }
    Ok(true)
}

fn remove(path: &Path) -> Result<()> {
    match path.symlink_metadata() {
        Ok(meta) if meta.is_dir() => Ok(fs::remove_dir_all(path)?),
        Ok(_) => Ok(fs::remove_file(path)?),
        Err(_) => Ok(()),
    }
}

/// A directory inherits the ACL, and may inherit the group, of the one that it is made in.
fn clear_attributes(path: &Path) -> Result<()> {
    for name in xattr::list(path)? {
        xattr::remove(path, name)?;
    }
    Ok(())
}

fn copy_attributes(from: &Path, to: &Path) -> Result<()> {
    let meta = from.symlink_metadata()?;
    clear_attributes(to)?;
    lchown(to, Some(meta.uid()), Some(meta.gid()))?;
    fs::set_permissions(to, meta.permissions())?;
    for name in xattr::list(from)? {
        let value = xattr::get(from, &name)?.unwrap_or_default();
        xattr::set(to, &name, &value)?;
    }
    Ok(())
}
