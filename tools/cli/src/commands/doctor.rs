//! `shale doctor`: what this machine can do, what is missing, and the fix.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::Args;
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
            qemu(),
            program("ssh", "openssh-client", "vm ssh"),
            device(
                "/dev/kvm",
                "guests at full speed",
                "load the kvm module, or let the user into group kvm",
            ),
            device("/dev/fuse", "FUSE mounts", "load the fuse module"),
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

fn qemu() -> Check {
    let found = version("qemu-system-x86_64", "--version");
    Check {
        name: "qemu",
        verdict: if found.is_some() {
            Verdict::Ok
        } else {
            Verdict::Missing
        },
        fix: fix_unless(found.is_some(), "apt-get install qemu-system-x86"),
        found: found.unwrap_or_else(|| "no qemu-system-x86_64".into()),
        needed_for: "running virtual machines",
    }
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

fn device(path: &'static str, needed_for: &'static str, fix: &str) -> Check {
    let opened = OpenOptions::new().read(true).write(true).open(path);
    Check {
        name: path,
        verdict: if opened.is_ok() {
            Verdict::Ok
        } else {
            Verdict::Limited
        },
        fix: fix_unless(opened.is_ok(), fix),
        found: opened.map_or_else(|error| error.to_string(), |_| "can be opened".into()),
        needed_for,
    }
}

fn directory(name: &'static str, path: &Path) -> Check {
    let probe = existing(path);
    let writable = nix::unistd::access(&probe, nix::unistd::AccessFlags::W_OK);
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
