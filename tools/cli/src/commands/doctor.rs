//! `shale doctor`: what this machine can do, what is missing, and the fix.

use std::fs::{self, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::Args;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;
use serde::Serialize;

use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::output::{Row, bytes, print_list};

/// Check what this machine can do, and say what is missing and how to mend it
///
/// Exits with 1 if something is missing without which nothing can be deployed.
///
/// Examples:
///   shale doctor
///   shale doctor --format json
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Doctor {}

/// How a check went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Ok,
    /// Something works less well without it.
    Limited,
    /// Nothing can be deployed without it.
    Missing,
}

/// One check.
#[derive(Debug, Serialize)]
struct Check {
    name: &'static str,
    verdict: Verdict,
    found: String,
    needed_for: &'static str,
    /// What to do; empty where nothing is to be done.
    fix: String,
}

impl Row for Check {
    const COLUMNS: &'static [&'static str] = &["CHECK", "VERDICT", "FOUND", "FOR", "FIX"];

    fn cells(&self) -> Vec<String> {
        let verdict = match self.verdict {
            Verdict::Ok => "ok",
            Verdict::Limited => "limited",
            Verdict::Missing => "MISSING",
        };
        vec![
            self.name.to_owned(),
            verdict.to_owned(),
            self.found.clone(),
            self.needed_for.to_owned(),
            self.fix.clone(),
        ]
    }
}

impl Doctor {
    pub(crate) fn run(self, context: &Context) -> anyhow::Result<()> {
        let checks = vec![
            kernel(),
            qemu(),
            program("ssh", "openssh-client", "vm ssh"),
            device(&KVM),
            device(&FUSE),
            directory("state", &context.dirs.state),
            directory("cache", &context.dirs.cache),
            room(&context.dirs.cache),
        ];
        print_list(&checks, context.global.format, context.global.quiet)?;
        let missing = checks
            .iter()
            .filter(|check| check.verdict == Verdict::Missing);
        let missing: Vec<&str> = missing.map(|check| check.name).collect();
        match missing.is_empty() {
            true => Ok(()),
            false => {
                let text = format!("missing on this machine: {}", missing.join(", "));
                Err(Failure::new(Exit::Failure, text)
                    .hint("the column FIX says what to do")
                    .into())
            }
        }
    }
}

/// The first line that a program prints of its version.
fn version(name: &str, argument: &str) -> Option<String> {
    let output = Command::new(name).arg(argument).output().ok()?;
    // ssh prints its version on standard error.
    let text = [output.stdout, output.stderr].concat();
    Some(String::from_utf8_lossy(&text).lines().next()?.to_owned())
}

/// Whether names can be looked up below a directory and nowhere else.
fn kernel() -> Check {
    let looked_up = openat2(CWD, ".", OFlags::PATH, Mode::empty(), ResolveFlags::BENEATH);
    let release = rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned();
    let (verdict, found, fix) = match looked_up {
        Ok(_) => (Verdict::Ok, format!("Linux {release} with openat2"), ""),
        Err(error) => (
            Verdict::Missing,
            format!("Linux {release}; openat2: {error}"),
            "run Linux 5.6 or newer; in a container, let its seccomp profile allow openat2",
        ),
    };
    Check {
        name: "kernel",
        verdict,
        found,
        needed_for: "reading and writing trees",
        fix: fix.into(),
    }
}

/// The oldest QEMU that Shale is tested with, that of Debian 12.
const TESTED_QEMU: (u32, u32) = (7, 2);

fn qemu() -> Check {
    let found = version("qemu-system-x86_64", "--version");
    let (verdict, fix) = match found.as_deref().map(qemu_version) {
        None => (Verdict::Missing, "apt-get install qemu-system-x86"),
        Some(Some(version)) if version >= TESTED_QEMU => (Verdict::Ok, ""),
        Some(_) => (
            Verdict::Limited,
            "install QEMU 7.2 or newer: older ones are not tested",
        ),
    };
    Check {
        name: "qemu",
        verdict,
        found: found.unwrap_or_else(|| "no qemu-system-x86_64".into()),
        needed_for: "running virtual machines",
        fix: fix.into(),
    }
}

/// The version in what QEMU says of itself: `QEMU emulator version 7.2.9 (Debian 1:7.2+dfsg-7)`.
fn qemu_version(line: &str) -> Option<(u32, u32)> {
    let (_, version) = line.split_once(" version ")?;
    let mut numbers = version.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn program(name: &'static str, package: &str, needed_for: &'static str) -> Check {
    let found = version(name, "-V");
    Check {
        name,
        verdict: if found.is_some() {
            Verdict::Ok
        } else {
            Verdict::Limited
        },
        fix: fix_unless(found.is_some(), &format!("apt-get install {package}")),
        found: found.unwrap_or_else(|| "not installed".into()),
        needed_for,
    }
}

/// A device file, and what to do where it is missing or may not be opened.
struct Device {
    path: &'static str,
    needed_for: &'static str,
    if_missing: &'static str,
    if_forbidden: &'static str,
}

const KVM: Device = Device {
    path: "/dev/kvm",
    needed_for: "guests at full speed",
    if_missing: "turn on virtualization in the firmware, or nesting in the hypervisor below, and load kvm_intel or kvm_amd",
    if_forbidden: "add the user to group kvm, and log in again",
};

const FUSE: Device = Device {
    path: "/dev/fuse",
    needed_for: "FUSE mounts",
    if_missing: "load the fuse module",
    if_forbidden: "let the user read and write it",
};

fn device(device: &Device) -> Check {
    let opened = OpenOptions::new().read(true).write(true).open(device.path);
    let (verdict, found, fix) = judge(device, opened.err());
    Check {
        name: device.path,
        verdict,
        found,
        needed_for: device.needed_for,
        fix: fix.into(),
    }
}

fn judge(device: &Device, error: Option<io::Error>) -> (Verdict, String, &'static str) {
    let Some(error) = error else {
        return (Verdict::Ok, "can be opened".into(), "");
    };
    let (found, fix) = match error.kind() {
        // A node without its driver is no device.
        io::ErrorKind::NotFound => ("missing".into(), device.if_missing),
        _ if error.raw_os_error() == Some(Errno::NODEV.raw_os_error()) => {
            ("has no driver".into(), device.if_missing)
        }
        io::ErrorKind::PermissionDenied => (
            "is there, but this user may not open it".into(),
            device.if_forbidden,
        ),
        _ => (error.to_string(), device.if_missing),
    };
    (Verdict::Limited, found, fix)
}

fn directory(name: &'static str, path: &Path) -> Check {
    let probe = existing(path);
    let writable = match probe.is_dir() {
        true => nix::unistd::access(&probe, nix::unistd::AccessFlags::W_OK),
        false => Err(nix::errno::Errno::ENOTDIR),
    };
    Check {
        name,
        verdict: if writable.is_ok() {
            Verdict::Ok
        } else {
            Verdict::Missing
        },
        fix: fix_unless(
            writable.is_ok(),
            &format!(
                "name another with --{name} or SHALE_{}",
                name.to_uppercase()
            ),
        ),
        found: match writable {
            Ok(()) => path.display().to_string(),
            Err(error) => format!("{}: {error}", probe.display()),
        },
        needed_for: "keeping what is deployed",
    }
}

/// The path itself or the nearest directory above it that exists.
fn existing(path: &Path) -> PathBuf {
    let above = path.ancestors().find(|dir| fs::metadata(dir).is_ok());
    above.unwrap_or(Path::new("/")).to_owned()
}

/// Room that a comfortable cache takes: several base systems.
const COMFORTABLE_BYTES: u64 = 4 << 30;

fn room(path: &Path) -> Check {
    let free = nix::sys::statvfs::statvfs(&existing(path));
    let free = free.map_or(0, |stat| stat.blocks_available() * stat.fragment_size());
    let enough = free >= COMFORTABLE_BYTES;
    Check {
        name: "room",
        verdict: if enough {
            Verdict::Ok
        } else {
            Verdict::Limited
        },
        found: format!("{} free", bytes(free)),
        needed_for: "the chunk cache",
        fix: fix_unless(enough, "make room, or lower --cache-size"),
    }
}

fn fix_unless(fine: bool, fix: &str) -> String {
    if fine { String::new() } else { fix.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_of_qemu_is_read() {
        for (line, version) in [
            (
                "QEMU emulator version 7.2.9 (Debian 1:7.2+dfsg-7+deb12u6)",
                Some((7, 2)),
            ),
            ("QEMU emulator version 10.0.2", Some((10, 0))),
            ("QEMU emulator", None),
        ] {
            assert_eq!(qemu_version(line), version, "{line}");
        }
    }

    #[test]
    fn a_missing_device_and_a_forbidden_one_are_told_apart() {
        let judge = |errno: Option<Errno>| judge(&KVM, errno.map(io::Error::from));
        assert_eq!(judge(None).0, Verdict::Ok);
        for (errno, found, fix) in [
            (Errno::NOENT, "missing", KVM.if_missing),
            (Errno::NODEV, "has no driver", KVM.if_missing),
            (Errno::ACCESS, "may not open it", KVM.if_forbidden),
        ] {
            let (verdict, said, what) = judge(Some(errno));
            assert_eq!((verdict, what), (Verdict::Limited, fix));
            assert!(said.contains(found), "{said}");
        }
    }
}
