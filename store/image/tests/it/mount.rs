//! Disks under the kernel's ext4.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use shale_model::{Content, Extent, NodeData, NodeId, Tree};
use tempfile::TempDir;

use crate::support::{Store, tool};

/// A disk that is mounted until this is dropped.
pub(crate) struct Mount {
    point: TempDir,
    /// Its loop device, as messages name it.
    device: String,
    /// The kernel's last message before.
    before: String,
    is_mounted: bool,
}

impl Mount {
    /// Mounts with these options and fails if the kernel says anything bad about it.
    pub(crate) fn new(disk: &Path, options: &str) -> Self {
        let point = TempDir::new().unwrap();
        let before = messages().pop().unwrap_or_default();
        let options = format!("loop,{options}");
        let (disk, at) = (disk.to_str().unwrap(), point.path().to_str().unwrap());
        let output = tool("mount", "mount", &["-t", "ext4", "-o", &options, disk, at]);
        let new = messages_after(&before);
        assert!(output.status.success(), "{output:?}\n{}", new.join("\n"));
        let device = mounted_device(at);
        let this = Self {
            point,
            device,
            before,
            is_mounted: true,
        };
        assert_eq!(this.complaints(), Vec::<String>::new());
        this
    }

    pub(crate) fn path(&self) -> &Path {
        self.point.path()
    }

    /// Unmounts, which writes everything, and fails if the kernel complained meanwhile.
    pub(crate) fn close(mut self) {
        let output = tool("mount", "umount", &[self.point.path().to_str().unwrap()]);
        self.is_mounted = !output.status.success();
        assert!(output.status.success(), "{output:?}");
        assert_eq!(self.complaints(), Vec::<String>::new());
    }

    /// What ext4 and its journal said of this device, but for mounting, replay and unmounting.
    fn complaints(&self) -> Vec<String> {
        let mut new = messages_after(&self.before);
        new.retain(|line| {
            let device = format!("({})", self.device);
            (line.contains(&device) || line.contains(&format!("{}-8", self.device)))
                && !line.contains("mounted filesystem")
                && !line.contains("unmounting filesystem")
                && !line.contains("recovery complete")
        });
        new
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // A test that fails may still hold files: detached, the mount goes away with them.
        let point = self.point.path().to_str().unwrap();
        if std::mem::take(&mut self.is_mounted) {
            tool("mount", "umount", &["-l", point]);
        }
    }
}

/// The loop device under a mount point, without its directory.
fn mounted_device(point: &str) -> String {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let line = mounts
        .lines()
        .find(|line| line.split(' ').nth(1) == Some(point));
    let device = line.unwrap().split(' ').next().unwrap();
    device.rsplit('/').next().unwrap().to_owned()
}

fn messages() -> Vec<String> {
    let log = tool("util-linux", "dmesg", &[]);
    assert!(log.status.success(), "{log:?}");
    let log = String::from_utf8_lossy(&log.stdout);
    log.lines().map(str::to_owned).collect()
}

/// What the kernel said after the message `before`.
fn messages_after(before: &str) -> Vec<String> {
    let all = messages();
    let known = all.iter().rposition(|line| line == before);
    all[known.map_or(0, |at| at + 1)..].to_vec()
}

/// Compares everything below `mount` with the tree.
pub(crate) fn compare(tree: &Tree, store: &Store, mount: &Path) {
    for (path, id, node) in tree.walk() {
        let at = mount.join(OsStr::from_bytes(path.as_bytes()));
        let stat = fs::symlink_metadata(&at).unwrap_or_else(|e| panic!("{path}: {e}"));
        let own = u32::from(path.is_root() && tree.child(NodeId::ROOT, b"lost+found").is_none());
        let links = node.links + own;
        let links = if stat.is_dir() && links > 65_000 {
            1
        } else {
            links
        };
        assert_eq!(stat.nlink(), u64::from(links), "{path}");
        assert_eq!(stat.mode() & 0o7777, u32::from(node.attrs.mode), "{path}");
        assert_eq!((stat.uid(), stat.gid()), (node.attrs.uid, node.attrs.gid));
        let time = (stat.mtime(), stat.mtime_nsec());
        let mtime = node.attrs.mtime;
        assert_eq!(time, (mtime.seconds, i64::from(mtime.nanos)), "{path}");
        let wanted = node.attrs.xattrs.iter();
        let wanted: Vec<_> = wanted.map(|(n, v)| (n.to_vec(), v.to_vec())).collect();
        assert_eq!(attributes(&at), wanted, "{path}");
        match &node.data {
            NodeData::File(content) => compare_file(content, store, &at),
            NodeData::Directory(_) => {
                let mut wanted: Vec<&[u8]> = tree.children(id).map(|e| e.name.as_bytes()).collect();
                if own == 1 {
                    wanted.push(b"lost+found");
                    wanted.sort();
                }
                assert_eq!(names(&at), wanted, "{path}");
            }
            NodeData::Symlink(target) => {
                let found = fs::read_link(&at).unwrap();
                assert_eq!(found.as_os_str().as_bytes(), &**target);
            }
            NodeData::CharDevice(rdev) | NodeData::BlockDevice(rdev) => {
                let found = stat.rdev();
                let major = (found >> 8 & 0xFFF) as u32;
                let minor = (found & 0xFF | found >> 12 & 0xF_FF00) as u32;
                assert_eq!((major, minor), (rdev.major, rdev.minor), "{path}");
            }
            NodeData::Fifo | NodeData::Socket => {}
        }
        assert_eq!(stat.mode() >> 12, file_type(&node.data), "{path}");
    }
}

fn file_type(data: &NodeData) -> u32 {
    match data {
        NodeData::File(_) => 0o10,
        NodeData::Directory(_) => 0o4,
        NodeData::Symlink(_) => 0o12,
        NodeData::CharDevice(_) => 0o2,
        NodeData::BlockDevice(_) => 0o6,
        NodeData::Fifo => 0o1,
        NodeData::Socket => 0o14,
    }
}

/// Extended attributes in order of name.
fn attributes(path: &Path) -> Vec<(Vec<u8>, Vec<u8>)> {
    let names = xattr::list(path).unwrap();
    let pairs = names.map(|name| {
        let value = xattr::get(path, &name).unwrap().unwrap();
        (name.as_bytes().to_vec(), value)
    });
    let mut pairs: Vec<_> = pairs.collect();
    pairs.sort();
    pairs
}

fn names(dir: &Path) -> Vec<Vec<u8>> {
    let entries = fs::read_dir(dir).unwrap();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().as_bytes().to_vec())
        .collect();
    names.sort();
    names
}

/// Holes are looked into at their ends only, as they may be terabytes.
fn compare_file(content: &Content, store: &Store, path: &PathBuf) {
    let file = fs::File::open(path).unwrap();
    assert_eq!(file.metadata().unwrap().len(), content.size());
    let mut at = 0;
    for extent in content.extents() {
        match extent {
            Extent::Chunk { id, .. } => {
                let wanted = &store.0[id];
                let mut found = vec![0; wanted.len()];
                file.read_exact_at(&mut found, at).unwrap();
                assert!(found == *wanted, "{} at {at}", path.display());
            }
            Extent::Hole { len } => {
                let mut found = vec![1; (*len).min(5000) as usize];
                file.read_exact_at(&mut found, at).unwrap();
                assert!(found.iter().all(|b| *b == 0));
                let last = at + len - found.len() as u64;
                file.read_exact_at(&mut found, last).unwrap();
                assert!(found.iter().all(|b| *b == 0));
            }
        }
        at += extent.len();
    }
}
