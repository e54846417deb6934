//! `shale mount`: a template as a directory, or its disk as a file in one.

mod foreground;
mod ls;

use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use shale_fusefs::{
    Access, DISK_NAME, Mount, MountOptions, Permissions, ReadAhead, check_point, mount_device,
};
use shale_hostd::GiveMount;
use shale_hostd::api::{DiskWish, MountWish, Outcome, Request, ToMount};
use shale_model::Reference;

use crate::commands::host::{call_to_mount, unexpected};
use crate::commands::vm::show_stage;
use crate::context::Context;
use crate::output::{note, parse_bytes};

/// Mount a template on a directory, or list what is mounted
///
/// The tree is read-only, and read lazily: what nobody looks at is not fetched. With --disk the directory holds
/// one file instead, disk.raw, the disk that a virtual machine sees; with --overlay it can be written, and what is
/// written is kept in that directory, made if it is missing and found again by the next mount.
///
/// The host service serves it, which is started in the background where it does not run, and the command ends when it is
/// mounted. However the service ends, whoever uses the mount waits for the next one, which serves it on. `shale umount`
/// ends a mount, and so does a boot of the host. Without arguments it lists mounts.
///
/// With --foreground the command serves it by itself, until the directory is unmounted (`shale umount`, `umount`), or until
/// it is ended by SIGINT or SIGTERM: then it unmounts, and programs that still use the mount get errors.
///
/// Examples:
///   shale mount
///   shale mount demo/base:12 /mnt
///   shale mount demo/base:12 /mnt --disk
///   shale mount demo/base:12 /mnt --disk --overlay vm.overlay --disk-size 10G
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct MountCommand {
    /// The template
    #[arg(requires = "directory")]
    reference: Option<Reference>,
    /// The directory; what it holds is hidden as long as the mount is there
    directory: Option<PathBuf>,
    /// Show the disk as a file, disk.raw, in place of the tree
    #[arg(long, requires = "reference")]
    disk: bool,
    /// Directory for what is written to the disk
    #[arg(long, value_name = "DIR", requires = "disk")]
    overlay: Option<PathBuf>,
    /// Size of the disk and of its file system, when the overlay is made; at least that of the template
    #[arg(long, value_name = "SIZE", requires = "overlay", value_parser = parse_bytes)]
    disk_size: Option<u64>,
    /// Serve it here, not by the host service
    #[arg(long, requires = "reference")]
    foreground: bool,
}

/// A mount that is to be made.
struct Wanted {
    reference: Reference,
    directory: PathBuf,
    disk: bool,
    overlay: Option<PathBuf>,
    disk_size: Option<u64>,
}

impl MountCommand {
    pub(crate) fn run(self, context: &Context) -> anyhow::Result<()> {
        let (Some(reference), Some(directory)) = (self.reference, self.directory) else {
            return ls::list(context);
        };
        let wanted = Wanted {
            reference,
            directory,
            disk: self.disk,
            overlay: self.overlay,
            disk_size: self.disk_size,
        };
        match self.foreground {
            true => wanted.serve_here(context),
            false => wanted.have_served(context),
        }
    }
}

impl Wanted {
    /// Has the host service serve it.
    fn have_served(&self, context: &Context) -> anyhow::Result<()> {
        // Before anything is fetched for it.
        let directory = check_point(&self.directory)?;
        let request = Request::Mount(Box::new(self.wish(context, &directory)?));
        let mut made = None;
        let outcome = call_to_mount(context, request, show_stage(context), |how| {
            let (device, mount) = mount_here(&directory, how)?;
            made = Some(mount);
            Ok(GiveMount::Device(device))
        });
        // What is mounted and not served is unmounted when this is dropped.
        let (outcome, mount) = (outcome?, made);
        let (Outcome::Mounted(_), Some(mount)) = (&outcome, mount) else {
            return Err(unexpected(&outcome));
        };
        // The first look waits until kernel and service have agreed.
        fs::metadata(mount.path()).context("look at the mount")?;
        mount.read_ahead(ReadAhead::Large);
        mount.leave();
        if !context.global.quiet {
            let name = &self.reference.name;
            match self.disk {
                true => note!("{name} is {}", directory.join(DISK_NAME).display()),
                false => note!("{name} is mounted on {}", directory.display()),
            }
        }
        Ok(())
    }

    fn wish(&self, context: &Context, directory: &Path) -> anyhow::Result<MountWish> {
        let absolute = |dir: &PathBuf| {
            let path = std::path::absolute(dir);
            path.with_context(|| format!("find `{}`", dir.display()))
        };
        let owner = (nix::unistd::geteuid(), nix::unistd::getegid());
        let disk = DiskWish {
            overlay: self.overlay.as_ref().map(absolute).transpose()?,
            disk_bytes: self.disk_size,
            owner: (owner.0.as_raw(), owner.1.as_raw()),
        };
        Ok(MountWish {
            reference: self.reference.to_string(),
            repository: context.repository_of(&[&self.reference])?,
            directory: directory.to_owned(),
            disk: self.disk.then_some(disk),
        })
    }
}

/// Mounts with this user's rights, in this process' view of the system.
fn mount_here(directory: &Path, how: ToMount) -> anyhow::Result<(OwnedFd, Mount)> {
    let access = match how.writable {
        true => Access::ReadWrite,
        false => Access::ReadOnly,
    };
    let options = MountOptions {
        source: how.source,
        access,
        permissions: Permissions::Checked,
    };
    Ok(mount_device(directory, &options)?)
}
