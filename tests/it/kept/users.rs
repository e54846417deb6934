//! Mounts of users who are not root.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use harness::{need_root, run};
use rustix::process::{Signal, kill_process};

use super::{Mounts, find_process, wait_until};

/// `nobody` of Debian.
const USER: u32 = 65_534;

const DEVICE: &str = "/dev/fuse";

/// The command as this user runs it.
fn as_user(command: &Command) -> Command {
    let mut theirs = Command::new("setpriv");
    theirs
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(command.get_program())
        .args(command.get_args())
        .env_clear();
    for (key, value) in command.get_envs() {
        theirs.env(key, value.unwrap_or_default());
    }
    if let Some(directory) = command.get_current_dir() {
        theirs.current_dir(directory);
    }
    theirs
}

/// `/dev/fuse` as the kernel makes it and udev leaves it, for everybody; a container may have another.
struct OpenDevice(Permissions);

impl OpenDevice {
    fn new() -> Result<Self> {
        let before = fs::metadata(DEVICE)?.permissions();
        fs::set_permissions(DEVICE, Permissions::from_mode(0o666))?;
        Ok(Self(before))
    }
}

impl Drop for OpenDevice {
    fn drop(&mut self) {
        let _ = fs::set_permissions(DEVICE, self.0.clone());
    }
}

#[test]
fn privileged_a_mount_by_fusermount3_outlives_a_service_that_is_killed() -> Result<()> {
    need_root()?;
    let _device = OpenDevice::new()?;
    let mut mounts = Mounts::of(&[("never", b"used")])?;
    let home = mounts.shale.home().to_owned();
    // What root has made of it is not this user's.
    fs::remove_dir_all(home.join(".state"))?;
    let _ = fs::remove_dir_all(home.join(".cache"));
    let (source, point) = (home.join("source"), mounts.point("mnt")?);
    fs::create_dir(&source)?;
    for name in ["one", "two"] {
        fs::write(source.join(name), name)?;
        chown(source.join(name), Some(USER), Some(USER))?;
    }
    for path in [&home, &source, &point] {
        chown(path, Some(USER), Some(USER))?;
    }
    let shale = |args: &[&str]| -> Result<String> {
        let mut command = mounts.shale.copied("shale")?;
        run(&mut as_user(command.args(args)))
    };
    let text = |path: &std::path::Path| path.to_str().map(str::to_owned).context("a text");
    let (source, mounted) = (text(&source)?, text(&point)?);
    let read = |name: &str| {
        let mut cat = Command::new("cat");
        run(&mut as_user(cat.arg(point.join(name))))
    };
    shale(&["push", "--quiet", &source, "test/mine"])?;
    shale(&["mount", "test/mine", &mounted])?;
    assert_eq!(read("one")?, "one");
    let service = || find_process(&["host", "run", &text(&home.join(".state")).ok()?]);
    let first = service().context("a service")?;
    kill_process(first, Signal::KILL)?;
    wait_until("it is gone", || Ok(service() != Some(first)))?;
    // Starts the next.
    ensure!(shale(&["mount", "--quiet"])?.trim() == mounted);
    assert_eq!(read("two")?, "two");
    shale(&["umount", &mounted])?;
    ensure!(shale(&["mount", "--quiet"])?.is_empty());

    // One that a killed service and keeper left is unmounted by its user, too.
    shale(&["mount", "test/mine", &mounted])?;
    for process in [service(), mounts.keeper()] {
        kill_process(process.context("a service and a keeper")?, Signal::KILL)?;
    }
    wait_until("a dead mount", || Ok(read("one").is_err()))?;
    shale(&["umount", &mounted])?;
    ensure!(shale(&["mount", "--quiet"])?.is_empty());
    shale(&["host", "stop"])?;
    mounts.keeper_ends()
}
