//! Programs of the machine, with failures that say what to install.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};

/// Programs that the tests run, with the Debian package that has them. All are in `dev/packages test`.
const PACKAGES: [(&str, &str); 37] = [
    ("chroot", "coreutils"),
    ("cmp", "diffutils"),
    ("cp", "coreutils"),
    ("curl", "curl"),
    ("date", "coreutils"),
    ("debugfs", "e2fsprogs"),
    ("dumpe2fs", "e2fsprogs"),
    ("e2fsck", "e2fsprogs"),
    ("faketime", "faketime"),
    ("fio", "fio"),
    ("getcap", "libcap2-bin"),
    ("getfacl", "acl"),
    ("getfattr", "attr"),
    ("head", "coreutils"),
    ("losetup", "mount"),
    ("mke2fs", "e2fsprogs"),
    ("mkfs.xfs", "xfsprogs"),
    ("mount", "mount"),
    ("nbdcopy", "libnbd-bin"),
    ("nbdinfo", "libnbd-bin"),
    ("nbdkit", "nbdkit"),
    ("nsenter", "util-linux"),
    ("perl", "perl-base"),
    ("qemu-img", "qemu-utils"),
    ("qemu-io", "qemu-utils"),
    ("qemu-nbd", "qemu-utils"),
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("setcap", "libcap2-bin"),
    ("setfacl", "acl"),
    ("setpriv", "util-linux"),
    ("sha256sum", "coreutils"),
    ("ssh", "openssh-client"),
    ("ssh-keygen", "openssh-client"),
    ("systemd-analyze", "systemd"),
    ("tar", "tar"),
    ("umount", "mount"),
    ("unshare", "util-linux"),
];

/// The command of a program in the table above.
///
/// # Errors
///
/// The program is not in the table or not installed; the message names its Debian package.
pub fn tool(name: &str) -> Result<Command> {
    let (_, package) = PACKAGES
        .iter()
        .find(|(program, _)| *program == name)
        .with_context(|| {
            format!("{name} is not in the table of programs in tests/harness/tools.rs")
        })?;
    let found = [
        "/usr/local/sbin",
        "/usr/local/bin",
        "/usr/sbin",
        "/usr/bin",
        "/sbin",
        "/bin",
    ]
    .map(|directory| Path::new(directory).join(name))
    .into_iter()
    .find(|path| path.exists());
    let path = found.with_context(|| {
        format!(
            "{name} is missing: install the Debian package {package} (dev/packages installs all)"
        )
    })?;
    Ok(Command::new(path))
}

/// Runs `command` to its end and returns what it printed.
///
/// # Errors
///
/// It cannot be started or does not exit with 0; the message holds its arguments and all that it printed.
pub fn run(command: &mut Command) -> Result<String> {
    let output = command
        .output()
        .with_context(|| format!("start {command:?}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let Output {
        status,
        stdout,
        stderr,
    } = output;
    ensure!(
        status.success(),
        "{command:?}: {status}\n{}{}",
        text(&stdout),
        text(&stderr)
    );
    Ok(text(&stdout))
}

/// Fails, with what to do, when this is not root: for tests that are named `privileged_*`.
///
/// # Errors
///
/// The user is not root.
pub fn need_root() -> Result<()> {
    ensure!(
        rustix::process::geteuid().is_root(),
        "this test mounts, makes devices or changes owners: run the tests as root (see CONTRIBUTING.md)"
    );
    Ok(())
}

/// The root of the repository.
pub fn repository() -> PathBuf {
    let tests: &OsStr = env!("CARGO_MANIFEST_DIR").as_ref();
    Path::new(tests)
        .parent()
        .map_or_else(PathBuf::new, Path::to_owned)
}
