//! A user of their own for machines: what a guest that breaks out of its machine can reach.
//!
//! The hypervisor runs as one user for all machines, and in a group that is one machine's alone. Files and sockets of a
//! machine are its group's, so one hypervisor reaches nothing of another's: neither through the file system, nor as
//! ptrace(2) would allow it, which wants the group to be the same too. The group has no name: it is made from the
//! machine's UUID.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown, lchown};
use std::path::Path;
use std::process::Command;

use crate::error::DriverResult;
use crate::machine::{DiskOffer, Machine, Memory, VmFiles};

use super::{open_log, system};

/// Becomes another user and runs a program; part of the essential package util-linux.
pub(super) const SETPRIV: &str = "setpriv";

/// The first group of machines. From here to 2^31 nobody gives numbers out: distributions end below 2^16, systemd's
/// containers below 0x7000_0000, and above 2^31 programs take them for negative (systemd's UIDS-GIDS).
const FIRST_GROUP: u32 = 0x7000_0000;

/// Groups of machines: of a thousand machines, two share one with a chance of 1 in 500.
const GROUPS: u32 = 1 << 28;

/// The first port that any user may listen on.
const FIRST_FREE_PORT: u16 = 1024;

/// The user that machines run as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Its number.
    pub uid: u32,
    /// Groups that every machine is in besides its own, such as that of `/dev/kvm`.
    pub groups: Vec<u32>,
}

impl Account {
    /// What runs a program as a machine: arguments of it follow.
    pub(super) fn command(&self, machine: &Machine) -> Command {
        let mut command = Command::new(SETPRIV);
        command
            .arg(format!("--reuid={}", self.uid))
            .arg(format!("--regid={}", group(machine)));
        let groups: Vec<String> = self.groups.iter().map(u32::to_string).collect();
        match groups.is_empty() {
            true => command.arg("--clear-groups"),
            false => command.arg(format!("--groups={}", groups.join(","))),
        };
        command.arg("--no-new-privs");
        let ports = machine.forwards.iter().map(|forward| forward.host);
        if ports.into_iter().any(|port| port < FIRST_FREE_PORT) {
            let capability = "+net_bind_service";
            command.args(["--inh-caps", capability, "--ambient-caps", capability]);
        }
        command
    }

    /// Lets a machine reach what is its own. Its directories must exist, and nobody else may write above them.
    pub(super) fn admit(&self, machine: &Machine) -> DriverResult<()> {
        let (files, group) = (&machine.files, group(machine));
        // Beside a memory that is only read, the kernel is so too: everybody may.
        let boot = machine.boot.as_ref();
        let boot = boot.filter(|_| !matches!(machine.memory, Memory::Private(_)));
        if let Some(boot) = boot {
            for file in [Some(&boot.kernel), boot.initrd.as_ref()]
                .into_iter()
                .flatten()
            {
                give(file, group, 0o640)?;
                give_directory(file, group, 0o750)?;
            }
        }
        for log in [&files.console_log, &files.log] {
            give_directory(log, group, 0o710)?;
        }
        let log = open_log(&files.console_log)?;
        give_open(&log, group, 0o660).map_err(system("give away", &files.console_log))?;
        // What is made in here later, as a disk's socket by the next service, is the group's too.
        give_directory(&files.control, group, 0o2770)?;
        for disk in machine.disks.iter().chain(&machine.data_disks) {
            match disk {
                // Its mode lets the group in already.
                DiskOffer::Nbd(path) => {
                    lchown(path, None, Some(group)).map_err(system("give away", path))?;
                }
                DiskOffer::Block(path) => give(path, group, 0o660)?,
            }
        }
        if let Memory::Shared(path) = &machine.memory {
            give(path, group, 0o660)?;
        }
        self.remove_pid_of_others(files)
    }

    /// A machine that ran as another user left a file that this one cannot write to.
    fn remove_pid_of_others(&self, files: &VmFiles) -> DriverResult<()> {
        match fs::symlink_metadata(&files.pid) {
            Ok(metadata) if metadata.uid() != self.uid => {
                fs::remove_file(&files.pid).map_err(system("remove", &files.pid))
            }
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(system("look at", &files.pid)(error))
            }
            _ => Ok(()),
        }
    }
}

/// Lets a machine that runs reach a file beside its own: the group of its directory is that of the machine.
pub(super) fn admit_file(path: &Path) -> DriverResult<()> {
    let directory = path.parent().unwrap_or(path);
    let group = fs::metadata(directory).map_err(system("look at", directory))?;
    give(path, group.gid(), 0o660)
}

/// The group of a machine.
fn group(machine: &Machine) -> u32 {
    // The last bytes of a random UUID are random throughout.
    let [.., a, b, c, d] = machine.uuid;
    FIRST_GROUP + u32::from_be_bytes([a, b, c, d]) % GROUPS
}

fn give_directory(file: &Path, group: u32, mode: u32) -> DriverResult<()> {
    match file.parent() {
        Some(directory) => give(directory, group, mode),
        None => Ok(()),
    }
}

/// Gives what nobody else can write to, or put something else in the place of.
fn give(path: &Path, group: u32, mode: u32) -> DriverResult<()> {
    let opened = File::open(path).and_then(|file| give_open(&file, group, mode));
    opened.map_err(system("give away", path))
}

/// The mode comes last: changing the group takes special bits away.
fn give_open(file: &File, group: u32, mode: u32) -> io::Result<()> {
    fchown(file, None, Some(group))?;
    file.set_permissions(Permissions::from_mode(mode))
}
