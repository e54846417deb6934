//! Directories to push.

use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, UNIX_EPOCH};

use rustix::fs::{CWD, FileType, Mode, XattrFlags};

/// Bytes that no compressor shrinks, different for each seed.
pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let mut hasher = blake3::Hasher::new();
    hasher
        .update(&seed.to_le_bytes())
        .finalize_xof()
        .fill(&mut bytes);
    bytes
}

/// A time that no clock gives by chance. Archives of the GNU format hold whole seconds.
pub(crate) fn set_times(root: &Path, nanos: u32) {
    let mut pending = vec![root.to_path_buf()];
    while let Some(path) = pending.pop() {
        let meta = fs::symlink_metadata(&path).unwrap();
        let seconds = 1_600_000_000 + path.as_os_str().len() as i64;
        if meta.is_dir() {
            pending.extend(fs::read_dir(&path).unwrap().map(|e| e.unwrap().path()));
        }
        let time = rustix::fs::Timespec {
            tv_sec: seconds,
            tv_nsec: nanos.into(),
        };
        let times = rustix::fs::Timestamps {
            last_access: time,
            last_modification: time,
        };
        let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
        rustix::fs::utimensat(CWD, &path, &times, flags).unwrap();
    }
}

/// Everything that a user can make and that tar can hold.
pub(crate) fn varied(root: &Path) {
    let odd = std::ffi::OsStr::from_bytes(b"caf\xe9 \n");
    fs::create_dir_all(root.join("dir/sub/deep")).unwrap();
    fs::create_dir(root.join("empty")).unwrap();
    fs::create_dir(root.join(odd)).unwrap();
    fs::write(root.join(odd).join(odd), b"odd").unwrap();
    fs::write(root.join("dir.txt"), b"sorts after dir and all below it").unwrap();
    fs::write(root.join("dir/nothing"), b"").unwrap();
    fs::write(root.join("dir/small"), b"small").unwrap();
    fs::write(root.join("dir/sub/large"), noise(1, 1_500_000)).unwrap();
    fs::write(root.join("dir/sub/same"), noise(1, 1_500_000)).unwrap();
    let long = "long-name-".repeat(20);
    fs::create_dir_all(root.join(&long).join(&long)).unwrap();
    fs::write(root.join(&long).join(&long).join("file"), long.as_bytes()).unwrap();
    fs::write(root.join("setuid"), b"x").unwrap();
    fs::set_permissions(root.join("setuid"), Permissions::from_mode(0o6755)).unwrap();
    fs::set_permissions(root.join("empty"), Permissions::from_mode(0o1777)).unwrap();
    fs::hard_link(root.join("dir/small"), root.join("dir/sub/linked")).unwrap();
    fs::hard_link(root.join("dir/small"), root.join("another")).unwrap();
    symlink("dir/small", root.join("link")).unwrap();
    symlink(long.repeat(3), root.join("dangling")).unwrap();
    let pipe = root.join("pipe");
    rustix::fs::mknodat(CWD, &pipe, FileType::Fifo, Mode::from_raw_mode(0o640), 0).unwrap();
    sparse(&root.join("sparse"), 3 << 20);
}

/// Extended attributes with the bytes that trip up readers of records.
pub(crate) fn xattrs(root: &Path) {
    for name in [c"user.one", c"user.t=o%"] {
        let file = root.join("dir/small");
        rustix::fs::setxattr(&file, name, b"\n\0=\n9 a=b\n", XattrFlags::empty()).unwrap();
    }
}

/// A socket, which tar cannot hold.
pub(crate) fn socket(root: &Path) {
    UnixListener::bind(root.join("socket")).unwrap();
}

/// A file of holes with data at its start, at 1 MiB, and before its end, which is a hole again.
pub(crate) fn sparse(path: &Path, len: u64) {
    let mut file = File::create(path).unwrap();
    file.set_len(len).unwrap();
    file.write_all(b"start").unwrap();
    file.write_all_at(&noise(2, 10_000), 1 << 20).unwrap();
    file.write_all_at(b"near the end", len - 100_000).unwrap();
}

/// Changes the time of a file, far enough that every file system sees it.
pub(crate) fn touch(path: &Path) {
    let file = File::options().append(true).open(path).unwrap();
    file.set_modified(UNIX_EPOCH + Duration::from_secs(7))
        .unwrap();
}

/// Runs a tool of the system.
pub(crate) fn run(package: &str, command: &mut Command) {
    let output = command.output();
    let output = output.unwrap_or_else(|e| panic!("{command:?}: {e}: install {package}"));
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{command:?}: {error}");
}
