//! Storage in a directory of the file system.
//!
//! Every path is resolved by `openat2` below the root with `RESOLVE_BENEATH` and `RESOLVE_NO_SYMLINKS`
//! (Linux 5.6), so that nothing in the directory can lead out of it.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, Dir, FallocateFlags, FileType, FlockOperation, Mode, OFlags, ResolveFlags,
};
use rustix::io::{Errno, retry_on_intr};

use crate::error::{FileError, FileResult, Operation};
use crate::lock::{IfHeld, Lock, LockError, LockKind};
use crate::path::FilePath;
use crate::seam::{DirEntry, EntryKind, File, Files, LockFiles, OpenMode};

/// Files are for their owner alone: overlays hold the identities of virtual machines.
const FILE_MODE: Mode = Mode::RUSR.union(Mode::WUSR);
/// Directories too.
const DIR_MODE: Mode = Mode::RWXU;

/// Files below a directory.
pub struct DirFiles {
    root: OwnedFd,
    /// Where the root is, for errors.
    shown: PathBuf,
}

impl DirFiles {
    /// The files below `root`, a directory that exists.
    pub fn open(root: &Path) -> FileResult<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = retry_on_intr(|| rustix::fs::open(root, flags, Mode::empty()));
        Ok(Self {
            root: opened.map_err(|errno| FileError::new(Operation::Open, root, errno))?,
            shown: root.to_owned(),
        })
    }

    /// The files below `root`, which is made with the directories above it if it does not exist.
    pub fn create(root: &Path) -> FileResult<Self> {
        use std::os::unix::fs::DirBuilderExt;
        let failed = |source| FileError::new(Operation::CreateDir, root, source);
        let path = std::path::absolute(root).map_err(failed)?;
        let found = path.ancestors().find_map(|dir| dir.canonicalize().ok());
        let mut builder = fs::DirBuilder::new();
        let made = builder.recursive(true).mode(DIR_MODE.bits()).create(&path);
        made.map_err(failed)?;
        let this = Self::open(root)?;
        let path = path.canonicalize().map_err(failed)?;
        for dir in with_new_names(&path, &found.unwrap_or_default()) {
            Self::open(dir)?.sync_dir(&FilePath::root())?;
        }
        Ok(this)
    }

    fn resolve(&self, path: &FilePath, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let text = if path.is_root() { "." } else { path.as_str() };
        let within = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let creates = flags.contains(OFlags::CREATE);
        let mode = if creates { FILE_MODE } else { Mode::empty() };
        let flags = flags | OFlags::CLOEXEC;
        retry_on_intr(|| rustix::fs::openat2(&self.root, text, flags, mode, within))
    }

    /// The directory that holds `path`, and its name there.
    fn place<'a>(&self, path: &'a FilePath) -> rustix::io::Result<(OwnedFd, &'a str)> {
        let (parent, name) = path.split().ok_or(Errno::INVAL)?;
        let dir = self.resolve(&parent, OFlags::PATH | OFlags::DIRECTORY)?;
        Ok((dir, name))
    }

    fn at<T>(
        &self,
        operation: Operation,
        path: &FilePath,
        result: rustix::io::Result<T>,
    ) -> FileResult<T> {
        result.map_err(|errno| FileError::new(operation, path.below(&self.shown), errno))
    }

    fn open_file(&self, path: &FilePath, mode: OpenMode) -> rustix::io::Result<OwnedFd> {
        let flags = match mode {
            OpenMode::Read => OFlags::RDONLY,
            OpenMode::Write => OFlags::RDWR,
            OpenMode::CreateNew => OFlags::RDWR | OFlags::CREATE | OFlags::EXCL,
        };
        // Without NONBLOCK a named pipe in place of a file would hold the opener for ever.
        let file = self.resolve(path, flags | OFlags::NONBLOCK)?;
        match FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode) {
            FileType::RegularFile => Ok(file),
            FileType::Directory => Err(Errno::ISDIR),
            _ => Err(Errno::INVAL),
        }
    }

    fn remove_entry(&self, path: &FilePath) -> rustix::io::Result<()> {
        let (dir, name) = self.place(path)?;
        match rustix::fs::unlinkat(&dir, name, AtFlags::empty()) {
            Err(Errno::ISDIR) => rustix::fs::unlinkat(&dir, name, AtFlags::REMOVEDIR),
            done => done,
        }
    }

    fn read_dir(&self, path: &FilePath) -> rustix::io::Result<Vec<DirEntry>> {
        let dir = self.resolve(path, OFlags::RDONLY | OFlags::DIRECTORY)?;
        let mut entries = Vec::new();
        for entry in Dir::read_from(&dir)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().to_str() else {
                continue;
            };
            if matches!(name, "." | "..") {
                continue;
            }
            let kind = match entry.file_type() {
                // Some file systems do not tell it here.
                FileType::Unknown => {
                    let stat = rustix::fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
                    FileType::from_raw_mode(stat.st_mode)
                }
                known => known,
            };
            entries.push(DirEntry {
                name: name.to_owned(),
                kind: match kind {
                    FileType::RegularFile => EntryKind::File,
                    FileType::Directory => EntryKind::Dir,
                    _ => EntryKind::Other,
                },
            });
        }
        entries.sort();
        Ok(entries)
    }
}

/// The directories in which a name on the way to `root` may be new, when `found` was there before: all of these must
/// last as long as what will be in `root`. Where that was there, another process may have made it and not synced
/// its name yet; directories further up are not ours to sync, because they may belong to anybody.
fn with_new_names<'a>(root: &'a Path, found: &Path) -> impl Iterator<Item = &'a Path> {
    let depth = |path: &Path| path.components().count();
    let made = depth(root).saturating_sub(depth(found)).max(1);
    root.ancestors().skip(1).take(made)
}

impl Files for DirFiles {
    fn open(&self, path: &FilePath, mode: OpenMode) -> FileResult<Box<dyn File>> {
        let operation = match mode {
            OpenMode::CreateNew => Operation::Create,
            OpenMode::Read | OpenMode::Write => Operation::Open,
        };
        let file = self.at(operation, path, self.open_file(path, mode))?;
        Ok(Box::new(RealFile {
            file: fs::File::from(file),
            path: path.below(&self.shown),
        }))
    }

    fn rename(&self, from: &FilePath, to: &FilePath) -> FileResult<()> {
        let renamed = self.place(from).and_then(|(old_dir, old)| {
            let (new_dir, new) = self.place(to)?;
            rustix::fs::renameat(&old_dir, old, &new_dir, new)
        });
        self.at(Operation::Rename, to, renamed)
    }

    fn remove(&self, path: &FilePath) -> FileResult<()> {
        self.at(Operation::Remove, path, self.remove_entry(path))
    }

    fn list(&self, dir: &FilePath) -> FileResult<Vec<DirEntry>> {
        self.at(Operation::List, dir, self.read_dir(dir))
    }

    fn create_dir(&self, dir: &FilePath) -> FileResult<()> {
        let created = match dir.is_root() {
            true => Err(Errno::EXIST),
            false => self
                .place(dir)
                .and_then(|(parent, name)| rustix::fs::mkdirat(&parent, name, DIR_MODE)),
        };
        self.at(Operation::CreateDir, dir, created)
    }

    fn sync_dir(&self, dir: &FilePath) -> FileResult<()> {
        let synced = self
            .resolve(dir, OFlags::RDONLY | OFlags::DIRECTORY)
            .and_then(|fd| retry_on_intr(|| rustix::fs::fsync(&fd)));
        self.at(Operation::SyncDir, dir, synced)
    }
}

impl LockFiles for DirFiles {
    fn lock(&self, path: &FilePath, kind: LockKind, if_held: IfHeld) -> Result<Lock, LockError> {
        let flags = OFlags::RDWR | OFlags::CREATE;
        let file = self.at(Operation::Lock, path, self.resolve(path, flags))?;
        let operation = match (kind, if_held) {
            (LockKind::Shared, IfHeld::Wait) => FlockOperation::LockShared,
            (LockKind::Shared, IfHeld::Fail) => FlockOperation::NonBlockingLockShared,
            (LockKind::Exclusive, IfHeld::Wait) => FlockOperation::LockExclusive,
            (LockKind::Exclusive, IfHeld::Fail) => FlockOperation::NonBlockingLockExclusive,
        };
        match retry_on_intr(|| rustix::fs::flock(&file, operation)) {
            Ok(()) => Ok(Lock::new(file)),
            Err(Errno::WOULDBLOCK) => Err(LockError::Held {
                path: path.below(&self.shown),
                by: holders(
                    "FLOCK",
                    rustix::fs::fstat(&file).map_or(0, |stat| stat.st_ino),
                ),
            }),
            Err(errno) => Ok(self.at(Operation::Lock, path, Err(errno))?),
        }
    }
}

/// Who holds a lock of fcntl(2) on the file at `path`, for people, as [`LockError::Held`] says it. The file is not opened:
/// closing it would end the locks that this process has on it.
pub fn record_lock_holders(path: &Path) -> String {
    holders(
        "POSIX",
        rustix::fs::stat(path).map_or(0, |stat| stat.st_ino),
    )
}

/// Who holds a lock of this kind on a file, from the kernel's own table (`proc_locks(5)`): text in the lock's file
/// would outlive its writer. The table shows processes of the same PID namespace only.
fn holders(kind: &str, inode: u64) -> String {
    let table = fs::read_to_string("/proc/locks").unwrap_or_default();
    let suffix = format!(":{inode}");
    // `1: FLOCK  ADVISORY  READ 4711 08:01:1234 0 EOF`; a waiting one has `->` after the number.
    let pids = table.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        match fields[..] {
            [_, found, _, _, pid, at, ..] if found == kind && at.ends_with(&suffix) => {
                pid.parse::<u32>().ok()
            }
            _ => None,
        }
    });
    let names = pids.map(|pid| {
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        match name.trim_end() {
            "" => format!("process {pid}"),
            name => format!("process {pid} ({name})"),
        }
    });
    let names: Vec<String> = names.take(SHOWN_HOLDERS).collect();
    match names[..] {
        [] => "another process".into(),
        _ => names.join(", "),
    }
}

/// Most holders of a lock that an error names.
const SHOWN_HOLDERS: usize = 5;

struct RealFile {
    file: fs::File,
    path: PathBuf,
}

impl RealFile {
    fn at<T>(&self, operation: Operation, result: io::Result<T>) -> FileResult<T> {
        result.map_err(|source| FileError::new(operation, &self.path, source))
    }

    /// Writes zeros over `offset` to `end`, for file systems that cannot make holes.
    fn write_zeros(&self, mut offset: u64, end: u64) -> io::Result<()> {
        use std::os::unix::fs::FileExt;
        static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];
        while offset < end {
            let len = (end - offset).min(ZEROS.len() as u64);
            self.file.write_all_at(&ZEROS[..len as usize], offset)?;
            offset += len;
        }
        Ok(())
    }
}

impl File for RealFile {
    fn size(&self) -> FileResult<u64> {
        self.at(Operation::Read, self.file.metadata().map(|m| m.len()))
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> FileResult<()> {
        use std::os::unix::fs::FileExt;
        self.at(Operation::Read, self.file.read_exact_at(buffer, offset))
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> FileResult<()> {
        use std::os::unix::fs::FileExt;
        self.at(Operation::Write, self.file.write_all_at(data, offset))
    }

    fn set_size(&self, size: u64) -> FileResult<()> {
        self.at(Operation::Resize, self.file.set_len(size))
    }

    fn zero(&self, offset: u64, len: u64) -> FileResult<()> {
        let end = self.size()?.min(offset.saturating_add(len));
        if offset >= end {
            return Ok(());
        }
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let punched =
            retry_on_intr(|| rustix::fs::fallocate(&self.file, flags, offset, end - offset));
        let zeroed = match punched {
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => self.write_zeros(offset, end),
            done => done.map_err(io::Error::from),
        };
        self.at(Operation::Zero, zeroed)
    }

    fn sync(&self) -> FileResult<()> {
        self.at(Operation::Sync, self.file.sync_data())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance;

    /// Storage in a directory that goes with it.
    struct TempDirFiles(DirFiles, tempfile::TempDir);

    impl TempDirFiles {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            Self(DirFiles::open(dir.path()).unwrap(), dir)
        }
    }

    impl Files for TempDirFiles {
        fn open(&self, path: &FilePath, mode: OpenMode) -> FileResult<Box<dyn File>> {
            self.0.open(path, mode)
        }
        fn rename(&self, from: &FilePath, to: &FilePath) -> FileResult<()> {
            self.0.rename(from, to)
        }
        fn remove(&self, path: &FilePath) -> FileResult<()> {
            self.0.remove(path)
        }
        fn list(&self, dir: &FilePath) -> FileResult<Vec<DirEntry>> {
            self.0.list(dir)
        }
        fn create_dir(&self, dir: &FilePath) -> FileResult<()> {
            self.0.create_dir(dir)
        }
        fn sync_dir(&self, dir: &FilePath) -> FileResult<()> {
            self.0.sync_dir(dir)
        }
    }

    impl LockFiles for TempDirFiles {
        fn lock(&self, path: &FilePath, kind: LockKind, held: IfHeld) -> Result<Lock, LockError> {
            self.0.lock(path, kind, held)
        }
    }

    fn path(text: &str) -> FilePath {
        FilePath::new(text).unwrap()
    }

    #[test]
    fn it_keeps_the_rules_of_storage() {
        conformance::check_files(TempDirFiles::new);
    }

    #[test]
    fn no_symbolic_link_leads_out() {
        use std::os::unix::fs::symlink;
        let files = TempDirFiles::new();
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("secret"), "secret").unwrap();
        symlink(outside.path(), files.1.path().join("dir")).unwrap();
        symlink(outside.path().join("secret"), files.1.path().join("file")).unwrap();

        for inside in ["dir/secret", "file"] {
            for mode in [OpenMode::Read, OpenMode::Write, OpenMode::CreateNew] {
                assert!(files.open(&path(inside), mode).is_err(), "{inside}");
            }
        }
        assert!(files.list(&path("dir")).is_err());
        assert!(files.create_dir(&path("dir/new")).is_err());
        assert!(files.remove(&path("dir/secret")).is_err());
        let kinds: Vec<_> = files.list(&FilePath::root()).unwrap();
        assert!(kinds.iter().all(|entry| entry.kind == EntryKind::Other));
        // The link itself is an entry like others.
        files.remove(&path("file")).unwrap();
        assert_eq!(fs::read(outside.path().join("secret")).unwrap(), b"secret");
    }

    #[test]
    fn files_are_for_their_owner_and_errors_name_the_whole_path() {
        use std::os::unix::fs::PermissionsExt;
        let files = TempDirFiles::new();
        files.create_dir(&path("dir")).unwrap();
        files.open(&path("dir/file"), OpenMode::CreateNew).unwrap();
        let mode = |name: &str| {
            let metadata = fs::metadata(files.1.path().join(name)).unwrap();
            metadata.permissions().mode() & 0o777
        };
        assert_eq!((mode("dir"), mode("dir/file")), (0o700, 0o600));
        let missing = files.open(&path("dir/none"), OpenMode::Read).err().unwrap();
        assert_eq!(missing.path, files.1.path().join("dir/none"));
    }

    #[test]
    fn a_named_pipe_in_place_of_a_file_is_refused_at_once() {
        let files = TempDirFiles::new();
        let pipe = files.1.path().join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, FileType::Fifo, FILE_MODE, 0).unwrap();
        assert!(files.open(&path("pipe"), OpenMode::Read).is_err());
    }

    #[test]
    fn a_held_lock_says_who_holds_it() {
        let files = TempDirFiles::new();
        let _lock = files.lock(&path("lock"), LockKind::Shared, IfHeld::Fail);
        let held = files.lock(&path("lock"), LockKind::Exclusive, IfHeld::Fail);
        let message = held.err().unwrap().to_string();
        let own = format!("process {}", std::process::id());
        assert!(message.contains(&own), "{message}");
    }

    #[test]
    fn every_name_on_the_way_to_a_new_root_is_synced() {
        let synced = |root: &'static str, found: &str| -> Vec<&Path> {
            with_new_names(Path::new(root), Path::new(found)).collect()
        };
        assert_eq!(synced("/a/b/c", "/a"), [Path::new("/a/b"), Path::new("/a")]);
        assert_eq!(synced("/a/b/c", "/a/b"), [Path::new("/a/b")]);
        assert_eq!(synced("/a/b/c", "/a/b/c"), [Path::new("/a/b")]);
        assert!(synced("/", "/").is_empty());
    }

    #[test]
    fn a_root_is_created_with_what_is_above_it() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("a/b");
        assert!(DirFiles::open(&root).err().unwrap().is_missing());
        DirFiles::create(&root).unwrap();
        assert!(
            DirFiles::create(&root)
                .unwrap()
                .list(&FilePath::root())
                .unwrap()
                .is_empty()
        );
    }
}
