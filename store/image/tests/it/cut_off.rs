//! A file system that is cut off while its kernel writes reads as the kernel reads it when it mounts it again.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write;
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::Path;

use shale_image::{Metadata, Replayed, TreeInode, TreeReader, TreeShape};
use shale_model::FormatError;
use shale_model::limits::BLOCK_BYTES;
use tempfile::TempDir;

use crate::mount::Mount;
use crate::support::{LayerBuilder, PROFILES, Store, plan, tool, write_disk};

/// A disk in a file.
#[derive(Debug)]
struct DiskFile(File);

impl Metadata for DiskFile {
    type Error = FormatError;

    fn range(&self, offset: u64, len: usize) -> Result<Cow<'_, [u8]>, FormatError> {
        let mut bytes = vec![0; len];
        self.0.read_exact_at(&mut bytes, offset).unwrap();
        Ok(bytes.into())
    }

    fn disk_bytes(&self) -> u64 {
        self.0.metadata().unwrap().len()
    }
}

/// All that there is to know of a file but its number.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    mode: u32,
    owner: (u32, u32),
    mtime: (i64, u32),
    links: u64,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// What a file holds, or a link says.
    bytes: Vec<u8>,
}

type Files = BTreeMap<Vec<u8>, Seen>;

/// What the reader finds below a directory.
fn read_all(tree: &TreeReader<'_, Replayed<DiskFile>>, disk: &Replayed<DiskFile>) -> Files {
    let mut files = Files::new();
    let mut pending = vec![(Vec::new(), TreeShape::ROOT)];
    while let Some((path, number)) = pending.pop() {
        let inode = tree.inode(number).unwrap().unwrap();
        let mut names = Vec::new();
        let take = |entry: shale_image::DirectoryEntry<'_>| {
            if !matches!(entry.name, b"." | b"..") {
                names.push((entry.name.to_vec(), entry.inode));
            }
            ControlFlow::Continue(())
        };
        tree.entries(&inode, 0, take).unwrap();
        for (name, number) in names {
            let inode = tree.inode(number).unwrap().unwrap();
            assert_eq!(
                tree.lookup(
                    &tree.inode(parent_number(tree, &path)).unwrap().unwrap(),
                    &name
                )
                .unwrap(),
                Some(number)
            );
            let below = [&path[..], b"/", &name].concat();
            let bytes = match (inode.is_file(), inode.is_symlink()) {
                (true, _) => content(tree, disk, &inode),
                (_, true) => tree.link_target(&inode).unwrap().into_owned(),
                _ => Vec::new(),
            };
            let xattrs = tree.xattrs(&inode).unwrap();
            let xattrs = xattrs.iter().map(|(n, v)| (n.to_vec(), v.to_vec()));
            let mtime = inode.mtime();
            let seen = Seen {
                mode: inode.mode().into(),
                owner: inode.owner(),
                mtime: (mtime.seconds, mtime.nanos),
                links: inode.links.into(),
                xattrs: xattrs.collect(),
                bytes,
            };
            files.insert(below.clone(), seen);
            if inode.is_directory() {
                pending.push((below, number));
            }
        }
    }
    files
}

/// The number of the directory at `path`, name by name.
fn parent_number(tree: &TreeReader<'_, Replayed<DiskFile>>, path: &[u8]) -> u32 {
    let names = path.split(|byte| *byte == b'/').filter(|n| !n.is_empty());
    names.fold(TreeShape::ROOT, |number, name| {
        let directory = tree.inode(number).unwrap().unwrap();
        tree.lookup(&directory, name).unwrap().unwrap()
    })
}

fn content(
    tree: &TreeReader<'_, Replayed<DiskFile>>,
    disk: &Replayed<DiskFile>,
    inode: &TreeInode,
) -> Vec<u8> {
    let mut bytes = Vec::new();
    while (bytes.len() as u64) < inode.size {
        let logical = bytes.len() / BLOCK_BYTES;
        let run = tree.run(inode, logical as u32).unwrap();
        let len = (run.blocks as usize * BLOCK_BYTES).min(inode.size as usize - bytes.len());
        match run.start {
            None => bytes.resize(bytes.len() + len, 0),
            Some(start) => {
                bytes.extend_from_slice(&disk.range(start * BLOCK_BYTES as u64, len).unwrap())
            }
        }
    }
    bytes
}

/// What the kernel finds below a directory.
fn list_all(root: &Path) -> Files {
    let mut files = Files::new();
    let mut pending = vec![Vec::new()];
    while let Some(path) = pending.pop() {
        let at =
            |path: &[u8]| root.join(OsStr::from_bytes(path.strip_prefix(b"/").unwrap_or(path)));
        for entry in fs::read_dir(at(&path)).unwrap() {
            let below = [&path[..], b"/", entry.unwrap().file_name().as_bytes()].concat();
            if below == b"/lost+found" {
                continue;
            }
            let place = at(&below);
            let stat = fs::symlink_metadata(&place).unwrap();
            let bytes = match (stat.is_file(), stat.is_symlink()) {
                (true, _) => fs::read(&place).unwrap(),
                (_, true) => fs::read_link(&place).unwrap().as_os_str().as_bytes().into(),
                _ => Vec::new(),
            };
            let names = xattr::list(&place).unwrap();
            let mut xattrs: Vec<(Vec<u8>, Vec<u8>)> = names
                .map(|name| {
                    let value = xattr::get(&place, &name).unwrap().unwrap();
                    (name.as_bytes().to_vec(), value)
                })
                .collect();
            xattrs.sort();
            let seen = Seen {
                mode: stat.mode(),
                owner: (stat.uid(), stat.gid()),
                mtime: (stat.mtime(), stat.mtime_nsec() as u32),
                links: stat.nlink(),
                xattrs,
                bytes,
            };
            files.insert(below.clone(), seen);
            if stat.is_dir() {
                pending.push(below);
            }
        }
    }
    files
}

fn sync(path: &Path) {
    File::open(path).unwrap().sync_all().unwrap();
}

/// Changes of every kind, each of which ends in the journal and in no other place. Directories are removed and their
/// blocks become file content, which revokes what the journal has of them.
fn work(root: &Path, round: usize) {
    let dir = root.join(format!("round-{round}"));
    fs::create_dir(&dir).unwrap();
    for at in 0..150 {
        let file = dir.join(format!("a-file-with-a-name-of-some-length-{at}"));
        fs::write(&file, vec![at as u8; at * 37]).unwrap();
        if at % 7 == 0 {
            xattr::set(&file, "trusted.note", &vec![round as u8; 20 + at]).unwrap();
        }
    }
    let first = dir.join("a-file-with-a-name-of-some-length-0");
    fs::hard_link(&first, dir.join("link")).unwrap();
    symlink("x".repeat(40 + 30 * round), dir.join("symlink")).unwrap();
    let sparse = File::create(dir.join("sparse")).unwrap();
    sparse.write_all_at(b"first", 3).unwrap();
    sparse.write_all_at(b"last", 9 << 20).unwrap();
    tool(
        "util-linux",
        "fallocate",
        &["-l", "1000000", dir.join("reserved").to_str().unwrap()],
    );
    sync(&dir);
    if let Some(before) = round.checked_sub(1) {
        fs::remove_dir_all(root.join(format!("round-{before}"))).unwrap();
        sync(root);
        // The blocks of the journal's own magic, too, which it has to escape.
        let mut file = File::create(root.join(format!("file-{round}"))).unwrap();
        for _ in 0..600 {
            file.write_all(&[0xC0, 0x3B, 0x39, 0x98].repeat(BLOCK_BYTES / 4))
                .unwrap();
        }
        file.sync_all().unwrap();
    }
    sync(root);
}

#[test]
fn privileged_a_disk_that_was_cut_off_reads_as_the_kernel_reads_it() {
    let mut store = Store::default();
    let mut layer = LayerBuilder::default();
    layer.dir("etc");
    let file = store.file(&[1; 10_000]);
    layer.add(b"etc/file", file, crate::support::attrs(0o640));
    let temp = TempDir::new().unwrap();
    let (disk, cut) = (temp.path().join("disk"), temp.path().join("cut"));
    let [new, old] = PROFILES;
    // Data in the journal, too: blocks of files are then replayed.
    let journaled = "rw,commit=1000,data=journal";
    for (filesystem, options) in [(new, "rw,commit=1000"), (new, journaled), (old, journaled)] {
        let (_, parts) = plan(&[layer.build()], filesystem, 0);
        write_disk(&parts, &store, &disk);
        let mount = Mount::new(&disk, options);
        for round in 0..3 {
            work(mount.path(), round);
            let (from, to) = (disk.to_str().unwrap(), cut.to_str().unwrap());
            let copied = tool("coreutils", "cp", &["--sparse=always", from, to]);
            assert!(copied.status.success(), "{copied:?}");
            let replayed = Replayed::new(DiskFile(File::open(&cut).unwrap())).unwrap();
            let tree = TreeShape::of(&replayed).unwrap().tree(&replayed);
            let root = tree.inode(TreeShape::ROOT).unwrap().unwrap();
            let found = read_all(&tree, &replayed);
            assert!(needs_recovery(&cut), "the journal was written out");
            let again = Mount::new(&cut, "rw");
            let kernel = list_all(again.path());
            assert_eq!(
                found.keys().collect::<Vec<_>>(),
                kernel.keys().collect::<Vec<_>>()
            );
            for (path, seen) in &kernel {
                let path_text = String::from_utf8_lossy(path);
                assert!(found[path] == *seen, "{filesystem:?} {options} {path_text}");
            }
            let links = fs::metadata(again.path()).unwrap().nlink();
            assert_eq!(
                u64::from(root.links) + 1,
                links,
                "lost+found is the layout's"
            );
            again.close();
            // When it is unmounted, nothing is left to be replayed.
            let clean = Replayed::new(DiskFile(File::open(&cut).unwrap())).unwrap();
            let tree = TreeShape::of(&clean).unwrap().tree(&clean);
            assert!(!needs_recovery(&cut) && read_all(&tree, &clean) == kernel);
        }
        mount.close();
    }
}

fn needs_recovery(disk: &Path) -> bool {
    let mut word = [0; 4];
    let file = File::open(disk).unwrap();
    file.read_exact_at(&mut word, 1024 + 0x60).unwrap();
    u32::from_le_bytes(word) & 4 != 0
}
