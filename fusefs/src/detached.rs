//! Mounts that are on no directory.
//!
//! Only who is handed the root sees what is there, and programs that it starts; the mount ends when the last of them has
//! closed the root and whatever was opened below. So nothing is ever left mounted, whoever dies, and neither a mount
//! namespace nor a path matters.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags, statx};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen,
};

use crate::disk::Access;
use crate::limits::MAX_IO_BYTES;
use crate::mount::{
    MountError, MountOptions, Permissions, ReadAhead, Unmount, clear, mount_by_helper, open_device,
    take_away,
};

/// A mount on no directory.
#[derive(Debug)]
pub struct Detached {
    /// The open `/dev/fuse`, which it is to be served with.
    pub device: OwnedFd,
    /// Its root, by which files of it are found. Whoever opens one waits until it is served.
    pub root: OwnedFd,
}

/// Mounts on no directory. Who is not root needs one for a moment, which is made in the directory `beside` and removed again.
///
/// # Errors
/// There is no `/dev/fuse`; [`MountError::Detached`] if the kernel refuses, which has this from Linux 5.2 on; for others than root
/// what `fusermount3` says, or that the directory cannot be made or removed.
pub fn mount_detached(
    options: &MountOptions,
    ahead: ReadAhead,
    beside: &Path,
) -> Result<Detached, MountError> {
    match rustix::process::geteuid().is_root() {
        true => as_root(options, ahead).map_err(|error| match error {
            Failed::Device(error) => error,
            Failed::Mount(error) => MountError::Detached(error.into()),
        }),
        false => by_helper(options, beside),
    }
}

enum Failed {
    Device(MountError),
    Mount(Errno),
}

impl From<Errno> for Failed {
    fn from(error: Errno) -> Self {
        Self::Mount(error)
    }
}

/// The kernel makes mounts without a place first, and others put them somewhere (fsmount(2), Linux 5.2).
fn as_root(options: &MountOptions, ahead: ReadAhead) -> Result<Detached, Failed> {
    let device = open_device().map_err(Failed::Device)?;
    let system = fsopen("fuse", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let texts = [
        ("source", options.source.clone()),
        ("fd", device.as_raw_fd().to_string()),
        ("rootmode", "40000".into()),
        ("user_id", rustix::process::geteuid().as_raw().to_string()),
        ("group_id", rustix::process::getegid().as_raw().to_string()),
        ("max_read", MAX_IO_BYTES.to_string()),
    ];
    for (key, value) in texts {
        fsconfig_set_string(&system, key, value)?;
    }
    fsconfig_set_flag(&system, "allow_other")?;
    if options.permissions == Permissions::Checked {
        fsconfig_set_flag(&system, "default_permissions")?;
    }
    fsconfig_create(&system)?;
    let mut attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    if options.access == Access::ReadOnly {
        attributes |= MountAttrFlags::MOUNT_ATTR_RDONLY;
    }
    let root = fsmount(&system, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
    // Only makes reading faster.
    let _ = read_ahead(&root, ahead);
    Ok(Detached { device, root })
}

/// Says how much the kernel reads ahead, before anything is served.
fn read_ahead(root: &OwnedFd, ahead: ReadAhead) -> io::Result<()> {
    // Nobody would answer yet: what the kernel knows by itself is enough.
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let found = statx(root, "", flags, StatxFlags::empty())?;
    ahead.set(&format!("{}:{}", found.stx_dev_major, found.stx_dev_minor))
}

/// The helper knows mounts on directories only.
fn by_helper(options: &MountOptions, beside: &Path) -> Result<Detached, MountError> {
    let point = beside.join(format!("mount-{}", std::process::id()));
    let system = |action, path: &Path| {
        let path = path.to_owned();
        move |source| MountError::System {
            action,
            path,
            source,
        }
    };
    match fs::create_dir(&point) {
        // A process of the same number was killed half way.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => drop(clear(&point)?),
        made => made.map_err(system("make", &point))?,
    }
    let mounted = mount_by_helper(&point, options).and_then(|device| {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(&point, flags, Mode::empty());
        take_away(&point, Unmount::Now)?;
        let root = root.map_err(|error| system("open", &point)(error.into()))?;
        Ok(Detached { device, root })
    });
    let removed = fs::remove_dir(&point).map_err(system("remove", &point));
    let mounted = mounted?;
    removed.map(|()| mounted)
}
