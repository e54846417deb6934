//! Mounting and unmounting, as root or by `fusermount3`.

use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::mount::{MntFlags, MsFlags, umount2};
use rustix::fs::{Mode, OFlags};
use rustix::io::{Errno, FdFlags, IoSliceMut};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use crate::disk::Access;
use crate::face::Face;
use crate::limits::MAX_IO_BYTES;
use crate::session::Connection;
use crate::slots::SlotsError;

/// The type that mounts have in `/proc/mounts`.
pub const FS_TYPE: &str = "fuse.shale";

const DEVICE: &str = "/dev/fuse";
/// The program of Debian's package fuse3 that mounts for users who are not root.
const HELPER: &str = "fusermount3";
/// Read-ahead of a mount in KiB: one request of the largest size. The kernel starts with 128.
const READ_AHEAD_KIB: u32 = MAX_IO_BYTES / 1024;

/// How a file system is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountOptions {
    /// What it is a mount of, as `/proc/mounts` shows it.
    pub source: String,
    /// Whether it can be written to.
    pub access: Access,
    /// Who checks what users may do.
    pub permissions: Permissions,
}

/// Who checks what the users of a mount may do with its files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Permissions {
    /// The kernel, by their owners and modes.
    Checked,
    /// Nobody: for a mount in a directory that only those can pass who may use it.
    Unchecked,
}

impl Permissions {
    fn option(self) -> &'static str {
        match self {
            Permissions::Checked => "default_permissions,",
            Permissions::Unchecked => "",
        }
    }
}

/// Why a file system is not mounted, or not unmounted.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// There is no `/dev/fuse`, or it may not be opened.
    #[error("open {DEVICE}")]
    Device(#[source] io::Error),
    /// The mount point cannot be looked at.
    #[error("look at `{}`", path.display())]
    Look {
        /// The mount point.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The mount point is no directory.
    #[error("`{}` is not a directory", .0.display())]
    NotADirectory(PathBuf),
    /// The mount point is a mount whose server has gone.
    #[error("`{}` is a mount whose server is gone", .0.display())]
    Dead(PathBuf),
    /// Something is not a mount of shale's.
    #[error("`{}` is not a mount of shale", .0.display())]
    NotMounted(PathBuf),
    /// The mount is in use.
    #[error("`{}` is in use", .0.display())]
    Busy(PathBuf),
    /// The system does not do it.
    #[error("{action} `{}`", path.display())]
    System {
        /// What was to be done.
        action: &'static str,
        /// The mount point.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The helper program does not run.
    #[error("run {HELPER}")]
    NoHelper(#[source] io::Error),
    /// The helper program does not do it.
    #[error("{HELPER} fails: {0}")]
    Helper(String),
    /// The system does not mount without a directory.
    #[error("mount on no directory")]
    Detached(#[source] io::Error),
    /// There is no memory for requests.
    #[error(transparent)]
    Slots(#[from] SlotsError),
}

/// How much the kernel reads of a file ahead of what is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadAhead {
    /// Nothing: one page for each that is touched.
    Off,
    /// As much as one request holds, also around a page that is touched in a map.
    Large,
}

impl ReadAhead {
    /// Says so of the mounts of a device, which is named by its major and minor number. For root.
    pub(crate) fn set(self, device: &str) -> io::Result<()> {
        let kib = match self {
            ReadAhead::Off => 0,
            ReadAhead::Large => READ_AHEAD_KIB,
        };
        let file = format!("/sys/class/bdi/{device}/read_ahead_kb");
        fs::write(file, kib.to_string())
    }
}

/// When a mount that is in use goes away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unmount {
    /// Not at all: that is an error.
    WhenUnused,
    /// From its place now, and altogether when its last user ends.
    Now,
    /// At once: whoever uses it gets errors.
    Abort,
}

/// A mounted file system; unmounted when dropped.
#[derive(Debug)]
pub struct Mount {
    path: PathBuf,
    is_mounted: bool,
}

/// Mounts on a directory, for `face`, which the connection that is returned is to be served with. Until then, whoever
/// looks at the mount waits.
pub fn mount(
    directory: &Path,
    options: &MountOptions,
    face: &dyn Face,
) -> Result<(Connection, Mount), MountError> {
    let (device, mount) = mount_device(directory, options)?;
    Ok((Connection::new(device, face)?, mount))
}

/// Mounts on a directory, for a face of another process: a [`Connection`] is made there of the open `/dev/fuse` that is
/// returned.
pub fn mount_device(
    directory: &Path,
    options: &MountOptions,
) -> Result<(OwnedFd, Mount), MountError> {
    let path = check_point(directory)?;
    let device = match rustix::process::geteuid().is_root() {
        true => mount_as_root(&path, options)?,
        false => mount_by_helper(&path, options)?,
    };
    let mount = Mount {
        path,
        is_mounted: true,
    };
    Ok((device, mount))
}

impl Mount {
    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Says how much the kernel reads ahead. For root; only makes reading faster, so that whatever fails does not matter.
    pub fn read_ahead(&self, ahead: ReadAhead) {
        if let Some(found) = find(&self.path) {
            let _ = ahead.set(&found.device);
        }
    }

    /// Unmounts; may be tried again if that fails.
    pub fn unmount(&mut self, when: Unmount) -> Result<(), MountError> {
        let result = take_away(&self.path, when);
        self.is_mounted = result.is_err();
        result
    }

    /// Leaves it mounted, for a later process.
    pub fn leave(mut self) {
        self.is_mounted = false;
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if self.is_mounted {
            // It may have been unmounted by others.
            let _ = take_away(&self.path, Unmount::Abort);
        }
    }
}

/// Unmounts what shale mounted on a directory, also if its server is gone.
pub fn unmount(directory: &Path, when: Unmount) -> Result<(), MountError> {
    let path = mount_point(directory)?;
    match find(&path) {
        Some(found) if found.kind == FS_TYPE => take_away(&path, when),
        _ => Err(MountError::NotMounted(directory.to_owned())),
    }
}

/// The directory's path from the root, as [`Mount::path`] shows it; whatever is mounted there is not looked at.
pub fn mount_point(directory: &Path) -> Result<PathBuf, MountError> {
    absolute(directory).map_err(|source| MountError::Look {
        path: directory.to_owned(),
        source,
    })
}

/// The directory's path from the root, if something can be mounted on it.
pub fn check_point(directory: &Path) -> Result<PathBuf, MountError> {
    match fs::metadata(directory) {
        Ok(metadata) if !metadata.is_dir() => {
            return Err(MountError::NotADirectory(directory.to_owned()));
        }
        Ok(_) => {}
        Err(error) if is_gone(error.raw_os_error()) => {
            return Err(MountError::Dead(directory.to_owned()));
        }
        Err(source) => {
            let path = directory.to_owned();
            return Err(MountError::Look { path, source });
        }
    }
    // Attributes are kept for long, also of a mount whose server is gone; how full it is, is always asked.
    if let Err(error) = rustix::fs::statfs(directory)
        && is_gone(Some(error.raw_os_error()))
    {
        return Err(MountError::Dead(directory.to_owned()));
    }
    mount_point(directory)
}

/// Whether a mount of shale is on a directory, as this process sees the system; it is not asked anything.
pub fn is_mounted(directory: &Path) -> bool {
    let path = mount_point(directory);
    path.is_ok_and(|path| find(&path).is_some_and(|found| found.kind == FS_TYPE))
}

/// Takes away the mounts on a directory that nobody serves any more, if there are any; whether there were.
pub fn clear(directory: &Path) -> Result<bool, MountError> {
    let path = mount_point(directory)?;
    let mut cleared = false;
    while find(&path).is_some_and(|found| found.kind == FS_TYPE) {
        match rustix::fs::statfs(&path) {
            Err(error) if is_gone(Some(error.raw_os_error())) => {}
            _ => break,
        }
        take_away(&path, Unmount::Now)?;
        cleared = true;
    }
    Ok(cleared)
}

/// Whether this is the error of a mount without a server.
fn is_gone(error: Option<i32>) -> bool {
    let gone = [Errno::NOTCONN, Errno::CONNABORTED].map(Errno::raw_os_error);
    error.is_some_and(|error| gone.contains(&error))
}

/// The path from the root, without looking at the directory itself, which may be a mount whose server is gone.
fn absolute(directory: &Path) -> io::Result<PathBuf> {
    let path = std::path::absolute(directory)?;
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => Ok(fs::canonicalize(parent)?.join(name)),
        // `..` at the end, or the root.
        _ => fs::canonicalize(&path),
    }
}

pub(crate) fn open_device() -> Result<OwnedFd, MountError> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    let device = rustix::fs::open(DEVICE, flags, Mode::empty());
    device.map_err(|error| MountError::Device(error.into()))
}

fn mount_as_root(path: &Path, options: &MountOptions) -> Result<OwnedFd, MountError> {
    let device = open_device()?;
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    let data = format!(
        "fd={},rootmode=40000,user_id={},group_id={},{}allow_other,max_read={MAX_IO_BYTES}",
        device.as_raw_fd(),
        uid.as_raw(),
        gid.as_raw(),
        options.permissions.option(),
    );
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | read_only(options);
    let source = Some(options.source.as_str());
    nix::mount::mount(source, path, Some(FS_TYPE), flags, Some(data.as_str())).map_err(
        |error| MountError::System {
            action: "mount on",
            path: path.to_owned(),
            source: error.into(),
        },
    )?;
    Ok(device)
}

fn read_only(options: &MountOptions) -> MsFlags {
    match options.access {
        Access::ReadOnly => MsFlags::MS_RDONLY,
        Access::ReadWrite => MsFlags::empty(),
    }
}

/// The helper mounts, and sends the open device over a socket.
pub(crate) fn mount_by_helper(path: &Path, options: &MountOptions) -> Result<OwnedFd, MountError> {
    let (ours, theirs) = UnixStream::pair().map_err(MountError::NoHelper)?;
    let inherit = rustix::io::fcntl_setfd(&theirs, FdFlags::empty());
    inherit.map_err(|error| MountError::NoHelper(error.into()))?;
    let access = match options.access {
        Access::ReadOnly => "ro",
        Access::ReadWrite => "rw",
    };
    // A comma or a backslash in the name would be another option.
    let source = options.source.replace(['\\', ','], "_");
    let text = format!(
        "{access},nosuid,nodev,{}max_read={MAX_IO_BYTES},subtype=shale,fsname={source}",
        options.permissions.option(),
    );
    let output = Command::new(HELPER)
        .args(["-o", &text, "--"])
        .arg(path)
        .env("_FUSE_COMMFD", theirs.as_raw_fd().to_string())
        .stdin(Stdio::null())
        .output();
    let output = output.map_err(MountError::NoHelper)?;
    drop(theirs);
    if !output.status.success() {
        return Err(said(&output.stderr));
    }
    receive_device(&ours)
}

fn receive_device(from: &UnixStream) -> Result<OwnedFd, MountError> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let mut parts = [IoSliceMut::new(&mut byte)];
    recvmsg(from, &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC)
        .map_err(|error| MountError::Device(error.into()))?;
    let device = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    device.ok_or_else(|| MountError::Helper("it sends no device".into()))
}

fn said(text: &[u8]) -> MountError {
    let text = String::from_utf8_lossy(text);
    let text = text.trim();
    MountError::Helper(
        text.strip_prefix("fusermount3: ")
            .unwrap_or(text)
            .to_owned(),
    )
}

pub(crate) fn take_away(path: &Path, when: Unmount) -> Result<(), MountError> {
    if rustix::process::geteuid().is_root() {
        let flags = match when {
            Unmount::WhenUnused => MntFlags::UMOUNT_NOFOLLOW,
            Unmount::Now => MntFlags::UMOUNT_NOFOLLOW | MntFlags::MNT_DETACH,
            Unmount::Abort => {
                MntFlags::UMOUNT_NOFOLLOW | MntFlags::MNT_DETACH | MntFlags::MNT_FORCE
            }
        };
        return umount2(path, flags).map_err(|error| match error {
            nix::errno::Errno::EBUSY => MountError::Busy(path.to_owned()),
            error => MountError::System {
                action: "unmount",
                path: path.to_owned(),
                source: error.into(),
            },
        });
    }
    let lazily: &[&str] = match when {
        Unmount::WhenUnused => &[],
        Unmount::Now => &["-z"],
        Unmount::Abort => {
            abort(path);
            &["-z"]
        }
    };
    let output = Command::new(HELPER)
        .args(["-u", "-q"])
        .args(lazily)
        .arg("--")
        .arg(path)
        .stdin(Stdio::null())
        .output();
    let output = output.map_err(MountError::NoHelper)?;
    match output.status.success() {
        true => Ok(()),
        // Its message is for people, and the only one that is told apart.
        false if String::from_utf8_lossy(&output.stderr).contains("busy") => {
            Err(MountError::Busy(path.to_owned()))
        }
        false => Err(said(&output.stderr)),
    }
}

/// Has the kernel end the connection of a mount, whose user may do that; where that does not work, whoever serves it does
/// by ending.
fn abort(path: &Path) {
    let number = find(path).and_then(|found| Some(found.device.split_once(':')?.1.to_owned()));
    if let Some(number) = number {
        let _ = fs::write(format!("/sys/fs/fuse/connections/{number}/abort"), "1");
    }
}

/// A mount of this process' view.
#[derive(Debug, PartialEq, Eq)]
struct Found {
    /// Major and minor number of its device, with a colon between.
    device: String,
    kind: String,
}

/// What is mounted on a directory, the uppermost.
fn find(path: &Path) -> Option<Found> {
    let all = fs::read("/proc/self/mountinfo").ok()?;
    all.split(|byte| *byte == b'\n')
        .filter_map(parse)
        .rfind(|(point, _)| point == path)
        .map(|(_, found)| found)
}

/// A line of `mountinfo` (proc(5)): mount point, and what is mounted.
fn parse(line: &[u8]) -> Option<(PathBuf, Found)> {
    let mut fields = line.split(|byte| *byte == b' ');
    let device = fields.nth(2)?;
    let point = fields.nth(1)?;
    // Optional fields end with a dash.
    let kind = fields.skip_while(|field| *field != b"-").nth(1)?;
    let text = |field: &[u8]| String::from_utf8_lossy(field).into_owned();
    let found = Found {
        device: text(device),
        kind: text(kind),
    };
    Some((unescape(point), found))
}

/// Spaces, tabs, newlines and backslashes are written in octal there.
fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((byte, after)) = rest.split_first() {
        let digits = after.first_chunk::<3>().filter(|_| *byte == b'\\');
        let code =
            digits.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        match code {
            Some(code) => {
                bytes.push(code);
                rest = &after[3..];
            }
            None => {
                bytes.push(*byte);
                rest = after;
            }
        }
    }
    PathBuf::from(std::ffi::OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    #[test]
    fn lines_of_mountinfo_are_read() {
        let line =
            br"36 35 98:0 /mnt1 /mnt\040two\134x rw,noatime master:1 - fuse.shale demo/base rw";
        let (point, found) = parse(line).unwrap();
        assert_eq!(point.as_os_str().as_bytes(), br"/mnt two\x");
        assert_eq!((&*found.device, &*found.kind), ("98:0", FS_TYPE));
        let plain = b"21 1 0:20 / /proc rw - proc proc rw";
        assert_eq!(parse(plain).unwrap().0, Path::new("/proc"));
        assert!(parse(b"").is_none() && parse(b"21 1 0:20 / /proc rw").is_none());
        assert_eq!(find(Path::new("/proc")).unwrap().kind, "proc");
    }

    #[test]
    fn what_is_no_place_for_a_mount_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(matches!(
            check_point(&file),
            Err(MountError::NotADirectory(_))
        ));
        let missing = dir.path().join("missing");
        assert!(matches!(
            check_point(&missing),
            Err(MountError::Look { .. })
        ));
        let strange = unmount(dir.path(), Unmount::Now);
        assert!(matches!(strange, Err(MountError::NotMounted(_))));
    }
}
