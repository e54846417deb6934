//! Two trees compared: everything that a program could see a difference by.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File, Metadata};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use rustix::fs::SeekFrom;
use rustix::io::Errno;

/// How many differences a failure lists.
const LISTED: usize = 20;

/// How much of two files is compared at a time.
const BLOCK: usize = 1 << 20;

/// Fails when [`tree_differences`] finds any.
///
/// # Errors
///
/// The trees differ: the message lists the first differences. Or something cannot be read.
pub fn compare_trees(left: &Path, right: &Path) -> Result<()> {
    let found = tree_differences(left, right)?;
    ensure!(
        found.is_empty(),
        "{} differences between {} and {}:\n  {}{}",
        found.len(),
        left.display(),
        right.display(),
        found[..found.len().min(LISTED)].join("\n  "),
        if found.len() > LISTED { "\n  ..." } else { "" },
    );
    Ok(())
}

/// Compares what is below `left` and `right`, and the two directories themselves: names, kinds, content, mode,
/// owner, group, device number, time of change to the nanosecond, link counts, which names share an inode,
/// symlink targets and extended attributes (ACLs and capabilities are such). One line for each difference.
///
/// Not compared: where files have holes, sizes of directories, the kernel's own `security.selinux`, and
/// `lost+found` at the top, which belongs to ext4. Link counts of directories are compared where both file
/// systems count subdirectories (1 says that one does not).
///
/// # Errors
///
/// Something cannot be read.
pub fn tree_differences(left: &Path, right: &Path) -> Result<Vec<String>> {
    let mut comparison = Comparison {
        left,
        right,
        found: Vec::new(),
        shared: [BTreeMap::new(), BTreeMap::new()],
    };
    comparison.entry(Path::new(""))?;
    Ok(comparison.found)
}

struct Comparison<'a> {
    left: &'a Path,
    right: &'a Path,
    found: Vec<String>,
    /// For both sides: the first name that was met of each inode with several.
    shared: [BTreeMap<(u64, u64), PathBuf>; 2],
}

impl Comparison<'_> {
    /// Compares what has the name `path` on both sides.
    fn entry(&mut self, path: &Path) -> Result<()> {
        let (left, right) = (self.left.join(path), self.right.join(path));
        let metadata =
            |full: &Path| fs::symlink_metadata(full).with_context(|| format!("stat {full:?}"));
        let (a, b) = (metadata(&left)?, metadata(&right)?);

        if kind(&a) != kind(&b) {
            self.differ(path, "kind", kind(&a), kind(&b));
            return Ok(());
        }
        self.attributes(path, &a, &b);
        let (xattrs_a, xattrs_b) = (xattrs(&left)?, xattrs(&right)?);
        for name in xattrs_a
            .keys()
            .chain(xattrs_b.keys().filter(|name| !xattrs_a.contains_key(*name)))
        {
            let what = format!("attribute {}", name.to_string_lossy());
            self.check(path, &what, xattrs_a.get(name), xattrs_b.get(name));
        }

        if a.is_symlink() {
            self.check(
                path,
                "target",
                fs::read_link(&left)?,
                fs::read_link(&right)?,
            );
        } else if a.is_file() && a.len() == b.len() {
            if let Some(at) = first_difference(&left, &right, a.len())? {
                self.found
                    .push(format!("{}: content differs at byte {at}", show(path)));
            }
        } else if a.is_dir() {
            self.directory(path, &left, &right)?;
        }
        Ok(())
    }

    fn attributes(&mut self, path: &Path, a: &Metadata, b: &Metadata) {
        self.check(
            path,
            "mode",
            format!("{:o}", a.mode()),
            format!("{:o}", b.mode()),
        );
        self.check(path, "owner", (a.uid(), a.gid()), (b.uid(), b.gid()));
        self.check(
            path,
            "time",
            (a.mtime(), a.mtime_nsec()),
            (b.mtime(), b.mtime_nsec()),
        );
        if a.file_type().is_char_device() || a.file_type().is_block_device() {
            self.check(path, "device", a.rdev(), b.rdev());
        }
        if a.is_dir() {
            let at_the_top = path.as_os_str().is_empty();
            if !at_the_top && a.nlink() != 1 && b.nlink() != 1 {
                self.check(path, "links", a.nlink(), b.nlink());
            }
            return;
        }
        self.check(path, "size", a.len(), b.len());
        self.check(path, "links", a.nlink(), b.nlink());
        let [left, right] = &mut self.shared;
        let first = |known: &mut BTreeMap<_, PathBuf>, m: &Metadata| match m.nlink() {
            1 => path.to_owned(),
            _ => known
                .entry((m.dev(), m.ino()))
                .or_insert_with(|| path.to_owned())
                .clone(),
        };
        let (left, right) = (first(left, a), first(right, b));
        self.check(path, "first name of its inode", left, right);
    }

    fn directory(&mut self, path: &Path, left: &Path, right: &Path) -> Result<()> {
        let names = |full: &Path| -> Result<Vec<OsString>> {
            let entries = fs::read_dir(full).with_context(|| format!("list {full:?}"))?;
            let mut names = entries
                .map(|entry| Ok(entry?.file_name()))
                .collect::<Result<Vec<_>>>()?;
            names.retain(|name| !(path.as_os_str().is_empty() && name == "lost+found"));
            names.sort();
            Ok(names)
        };
        let (a, b) = (names(left)?, names(right)?);
        for name in &a {
            match b.binary_search(name) {
                Ok(_) => self.entry(&path.join(name))?,
                Err(_) => self
                    .found
                    .push(format!("{}: missing on the right", show(&path.join(name)))),
            }
        }
        for name in b.iter().filter(|name| a.binary_search(name).is_err()) {
            self.found
                .push(format!("{}: only on the right", show(&path.join(name))));
        }
        Ok(())
    }

    fn check<T: PartialEq + std::fmt::Debug>(
        &mut self,
        path: &Path,
        what: &str,
        left: T,
        right: T,
    ) {
        if left != right {
            self.differ(path, what, left, right);
        }
    }

    fn differ(
        &mut self,
        path: &Path,
        what: &str,
        left: impl std::fmt::Debug,
        right: impl std::fmt::Debug,
    ) {
        self.found.push(format!(
            "{}: {what} is {left:?} on the left, {right:?} on the right",
            show(path)
        ));
    }
}

/// With a leading slash, and escapes for what is not text.
fn show(path: &Path) -> String {
    format!("/{}", path.as_os_str().as_encoded_bytes().escape_ascii())
}

fn kind(metadata: &Metadata) -> String {
    format!("{:?}", metadata.file_type())
}

fn xattrs(path: &Path) -> Result<BTreeMap<OsString, Vec<u8>>> {
    let names = xattr::list(path).with_context(|| format!("list the attributes of {path:?}"))?;
    names
        .filter(|name| name != "security.selinux")
        .map(|name| {
            let value =
                xattr::get(path, &name).with_context(|| format!("read {name:?} of {path:?}"))?;
            Ok((name, value.unwrap_or_default()))
        })
        .collect()
}

/// Where the first `length` bytes of two files differ first. What is a hole in both is not read, so that files
/// of terabytes compare quickly.
fn first_difference(left: &Path, right: &Path, length: u64) -> Result<Option<u64>> {
    let open = |path: &Path| File::open(path).with_context(|| format!("open {path:?}"));
    let (a, b) = (open(left)?, open(right)?);
    let (mut block_a, mut block_b) = (vec![0; BLOCK], vec![0; BLOCK]);
    let mut at = 0;
    loop {
        at = next_data(&a, at, length)?.min(next_data(&b, at, length)?);
        if at >= length {
            return Ok(None);
        }
        let size = BLOCK.min((length - at) as usize);
        a.read_exact_at(&mut block_a[..size], at)
            .with_context(|| format!("read {left:?} at {at}"))?;
        b.read_exact_at(&mut block_b[..size], at)
            .with_context(|| format!("read {right:?} at {at}"))?;
        let differing = block_a[..size]
            .iter()
            .zip(&block_b[..size])
            .position(|(a, b)| a != b);
        if let Some(offset) = differing {
            return Ok(Some(at + offset as u64));
        }
        at += size as u64;
    }
}

/// The first byte at or after `at` that is not in a hole; `length` where there is none.
fn next_data(file: &File, at: u64, length: u64) -> Result<u64> {
    match rustix::fs::seek(file, SeekFrom::Data(at)) {
        Ok(data) => Ok(data),
        Err(Errno::NXIO) => Ok(length),
        Err(error) => Err(error).context("look for data in a file"),
    }
}
