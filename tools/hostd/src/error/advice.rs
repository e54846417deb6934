//! What can be done about an error of the host service, and how its clients are told.

use std::error::Error;
use std::io;

use shale_files::LockError;
use shale_fusefs::MountError;
use shale_hvplug::DriverError;
use shale_model::{FormatError, SeamError, Trouble};
use shale_nbd::ListenError;
use shale_view::{BringError, OverlayError, PlanFileError};

use crate::api::Failure;
use crate::compose::ComposeError;
use crate::guest_disk::GuestDiskError;
use crate::guest_files::GuestFileError;
use crate::place::PlaceError;

use super::HostError;

impl HostError {
    /// What the caller can do about it.
    pub fn trouble(&self) -> Trouble {
        match self {
            Self::NoInstance(_) | Self::NoTemplate { .. } | Self::NotPinned(_) => Trouble::NotFound,
            Self::NoSnapshot { .. } => Trouble::NotFound,
            Self::SnapshotExists { .. } => Trouble::Conflict,
            Self::DamagedSnapshot { .. } | Self::WarmSnapshot(_) => Trouble::Integrity,
            Self::Bring(BringError::Full { .. }) => Trouble::NoSpace,
            Self::Bring(BringError::Plan(_)) => Trouble::Integrity,
            Self::Exists(_) | Self::Port(_) | Self::NotRunning(_) => Trouble::Conflict,
            Self::Busy(_) | Self::GivenUp(_) => Trouble::Conflict,
            Self::Lock(LockError::Held { .. }) => Trouble::Conflict,
            Self::Overlay(OverlayError::Lock(LockError::Held { .. })) => Trouble::Conflict,
            Self::Listen(ListenError::Busy(_)) => Trouble::Conflict,
            Self::Runs(_) | Self::NotStopped(_) => Trouble::Conflict,
            Self::CannotMove(_) | Self::Snapshots(..) => Trouble::Conflict,
            Self::DiskFile(error) if error.is_there() => Trouble::Conflict,
            Self::DiskFile(error) if error.is_full() => Trouble::NoSpace,
            Self::Mounted(_) | Self::Mounts(_) => Trouble::Conflict,
            Self::Overlay(OverlayError::OtherPlan { .. }) => Trouble::Conflict,
            Self::Mount(error) => trouble_of_mount(error),
            Self::NoPort | Self::StillRunning { .. } | Self::Stalled { .. } => Trouble::Unavailable,
            Self::NoContent { .. } | Self::NoLogin { .. } => Trouble::Unavailable,
            Self::Name(_) | Self::Reference(_) => Trouble::Invalid,
            Self::DiskTooSmall { .. } | Self::MemoryTooSmall { .. } => Trouble::Invalid,
            Self::PortTwice(_) | Self::SocketPath(_) => Trouble::Invalid,
            Self::OtherRepository { .. } => Trouble::Invalid,
            Self::DataDiskBytes { .. } | Self::DataDisks(_) => Trouble::Invalid,
            Self::Record { .. } | Self::Format(_) => Trouble::Integrity,
            Self::GuestDisk(GuestDiskError::Format(_)) => Trouble::Integrity,
            Self::Plan(PlanFileError::Damaged { .. } | PlanFileError::Format { .. }) => {
                Trouble::Integrity
            }
            Self::Overlay(error) if error.is_full() => Trouble::NoSpace,
            Self::Files(error) if error.is_full() => Trouble::NoSpace,
            _ => self.trouble_below(),
        }
    }

    /// The trouble of the first cause that knows.
    fn trouble_below(&self) -> Trouble {
        let mut cause = self.source();
        while let Some(error) = cause {
            if let Some(seam) = error.downcast_ref::<SeamError>() {
                return seam.trouble;
            }
            if error.is::<FormatError>() || is_damaged_guest(error) {
                return Trouble::Integrity;
            }
            if error.downcast_ref().is_some_and(PlaceError::in_use) {
                return Trouble::Conflict;
            }
            if let Some(LockError::Held { .. }) = error.downcast_ref::<LockError>() {
                return Trouble::Conflict;
            }
            cause = error.source();
        }
        match self {
            Self::Seam(error) | Self::Compose(ComposeError::Seam(error)) => error.trouble,
            Self::Compose(ComposeError::Identity(_)) => Trouble::Invalid,
            _ => Trouble::Failed,
        }
    }

    /// What the user can do next.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::NoInstance(_) => "`shale vm ls` lists what there is".into(),
            Self::Exists(name) => format!("choose another name, or `shale vm rm {name}`"),
            Self::NoTemplate { .. } => "`shale template ls` lists what there is".into(),
            Self::NoHypervisor(_) => {
                "install it; `shale doctor` shows what this machine can do".into()
            }
            Self::Mounted(directory) => {
                format!(
                    "`shale umount {}` first, or name another directory",
                    directory.display()
                )
            }
            Self::Overlay(OverlayError::OtherPlan { .. }) => {
                "name the template that it was made with, or another --overlay".into()
            }
            Self::Mounts(_) => "`shale mount` lists them, `shale umount` ends one".into(),
            Self::NotPinned(_) => "`shale cache ls` shows what is".into(),
            Self::Bring(BringError::Full { .. }) => {
                "`shale cache unpin` gives up what was pinned; --cache-size allows more".into()
            }
            Self::NoSnapshot { name, .. } => {
                format!("`shale vm snapshot ls {name}` lists what there is")
            }
            Self::SnapshotExists { name, snapshot } => {
                format!("choose another name, or `shale vm snapshot rm {name} {snapshot}`")
            }
            Self::DamagedSnapshot { .. } => {
                "`shale vm snapshot rm` removes a snapshot that is damaged".into()
            }
            Self::WarmSnapshot(_) => "`shale template warm` makes another".into(),
            Self::Channel(_) => {
                "a template needs systemd, a shell and coreutils to be kept warm".into()
            }
            Self::NotStopped(name) => format!("`shale vm stop {name}` first"),
            Self::Runs(name) => format!("`shale vm stop {name}` or `shale vm pause {name}` first"),
            Self::DiskFile(error) if error.is_there() => {
                "name a file that does not exist, or remove this one".into()
            }
            Self::MoveFailed { .. } => {
                "make room where --state is, or see what the hypervisor says; the disk is as it was"
                    .into()
            }
            Self::CannotMove(name) => format!("`shale vm stop {name}` first"),
            Self::Snapshots(name, _) => {
                format!("`shale vm snapshot rm {name} SNAPSHOT` removes one that nobody needs")
            }
            Self::OtherRepository { .. } => {
                "give the new template a name in that repository".into()
            }
            Self::DiskTooSmall { .. } => "leave out --disk, or ask for more".into(),
            Self::MemoryTooSmall { .. } => "leave out --memory, or ask for more".into(),
            Self::PortTwice(_) => "each port of this host leads to one of the guest".into(),
            Self::NoPort => "`shale vm rm` removes machines that nobody needs".into(),
            Self::Port(_) => "end what listens there, or publish another port".into(),
            Self::SocketPath(_) => "choose a shorter --state directory or name".into(),
            Self::NotRunning(name) => format!("`shale vm start {name}` starts it"),
            Self::Busy(name) => {
                format!("wait for that, or `shale vm rm {name}` ends it, with the machine")
            }
            Self::NoContent { .. } => {
                "try again when its registry answers; --timeout allows more time".into()
            }
            Self::Stalled { .. } => "it goes on by itself when the content comes".into(),
            Self::StillRunning { name, .. } => {
                format!("wait for it, or `shale vm stop --force {name}` cuts its power")
            }
            Self::NoLogin { name, .. } => {
                format!("it runs on: `shale vm console {name}` shows what it does")
            }
            Self::Ended { name, .. } => format!("`shale vm logs {name}` shows all that it said"),
            Self::Lock(LockError::Held { .. }) => {
                "another process of shale uses this state directory".into()
            }
            Self::Overlay(OverlayError::Lock(LockError::Held { .. })) => {
                "end the `shale nbd` that serves this disk".into()
            }
            Self::Record { .. } => "`shale vm rm` removes a machine that is damaged".into(),
            Self::Kernel(GuestFileError::NoKernel) => {
                "install one in /boot, as Debian's linux-image-cloud-amd64 does".into()
            }
            Self::Driver(error) => return hint_of_driver(error),
            Self::Place(_) if self.trouble() == Trouble::Conflict => {
                "end the other `shale`, or take turns: a repository has one process".into()
            }
            _ => return hint_of_trouble(self.trouble()).map(str::to_owned),
        })
    }

    /// The error as the command line gets it.
    pub fn failure(&self) -> Failure {
        let mut message = self.to_string();
        let mut cause = self.source();
        while let Some(error) = cause {
            let text = error.to_string();
            if !message.ends_with(&text) {
                message = format!("{message}: {text}");
            }
            cause = error.source();
        }
        Failure {
            kind: self.trouble().into(),
            message,
            hint: self.hint(),
            request: None,
        }
    }
}

fn trouble_of_mount(error: &MountError) -> Trouble {
    match error {
        MountError::NotMounted(_) => Trouble::NotFound,
        MountError::Busy(_) => Trouble::Conflict,
        MountError::NotADirectory(_) => Trouble::Invalid,
        _ => Trouble::Failed,
    }
}

fn hint_of_driver(error: &DriverError) -> Option<String> {
    Some(match error {
        DriverError::Missing { package, .. } => format!("apt-get install {package}"),
        DriverError::Start { .. } => "`shale doctor` shows what this machine can do".into(),
        DriverError::NotReady { .. } => "try again when this machine is less busy".into(),
        DriverError::LongPath(_) => "choose a shorter --state directory or name".into(),
        DriverError::NoAnswer { .. } => {
            "`shale vm stop --timeout 0 --force` ends a machine that does not answer".into()
        }
        DriverError::Ended => "`shale vm start` starts it again".into(),
        DriverError::Refused { .. } | DriverError::System { .. } => return None,
    })
}

/// Whether a push failed because the file system of the guest is damaged.
fn is_damaged_guest(error: &(dyn Error + 'static)) -> bool {
    let inner = error
        .downcast_ref::<io::Error>()
        .and_then(io::Error::get_ref);
    let inner = inner.and_then(|inner| inner.downcast_ref());
    matches!(inner, Some(GuestDiskError::Format(_)))
}

/// What can be done about a trouble, whatever has it.
fn hint_of_trouble(trouble: Trouble) -> Option<&'static str> {
    match trouble {
        Trouble::Denied => Some("give the registry's --token-file and --fingerprint"),
        Trouble::Unavailable => Some("try again when the registry answers"),
        Trouble::NoSpace => Some("make room where --state and --cache are"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn seam(trouble: Trouble) -> HostError {
        HostError::Seam(SeamError::new(trouble, "get it"))
    }

    #[test]
    fn what_can_be_mended_says_how() {
        let name = || "web".to_owned();
        let held = || LockError::Held {
            path: "lock".into(),
            by: "process 1".into(),
        };
        for (error, kind) in [
            (HostError::Busy(name()), Trouble::Conflict),
            (
                HostError::Overlay(OverlayError::Lock(held())),
                Trouble::Conflict,
            ),
            (HostError::Lock(held()), Trouble::Conflict),
            (HostError::PortTwice(80), Trouble::Invalid),
            (
                HostError::MemoryTooSmall { asked: 1, least: 2 },
                Trouble::Invalid,
            ),
            (HostError::Driver(DriverError::Ended), Trouble::Failed),
            (seam(Trouble::Denied), Trouble::Denied),
            (seam(Trouble::Unavailable), Trouble::Unavailable),
            (seam(Trouble::NoSpace), Trouble::NoSpace),
        ] {
            assert_eq!(error.trouble(), kind, "{error}");
            assert!(error.failure().hint.is_some(), "{error}");
        }
    }

    #[test]
    fn a_wait_that_ends_says_what_for() {
        let error = HostError::NoContent {
            name: "web".into(),
            limit: Duration::from_secs(3),
            stall: None,
        };
        let error = error.stalled(Some("nobody answers".into()));
        let text = "the content of `web` did not come within 3s: nobody answers";
        assert_eq!(error.failure().message, text);
    }
}
