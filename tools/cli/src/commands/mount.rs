//! `shale mount`: a template as a directory, or its disk as a file in one.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use clap::Args;
use shale_fusefs::{
    Access, DISK_NAME, DiskFace, DiskFile, Face, Mount, MountError, MountOptions, Permissions,
    ReadAhead, Session, Unmount, mount,
};
use shale_hostd::{Image, disk_face, tree_face};
use shale_model::{Mtime, Reference};
use tokio::signal::unix::{SignalKind, signal};

use crate::context::{Context, Host, resolve};
use crate::output::{note, parse_bytes};

/// Mount a template on a directory
///
/// The tree is read-only, and read lazily: what nobody looks at is not fetched. With --disk the directory holds
/// one file instead, disk.raw, the disk that a virtual machine sees; with --overlay it can be written, and what is
/// written is kept in that directory, made if it is missing and found again by the next mount.
///
/// Serves until the directory is unmounted (`shale umount`, `umount`), or until it is ended by SIGINT or SIGTERM:
/// then it unmounts, and programs that still use the mount get errors.
///
/// Examples:
///   shale mount demo/base:12 /mnt
///   shale mount demo/base:12 /mnt --disk
///   shale mount demo/base:12 /mnt --disk --overlay vm.overlay --disk-size 10G
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct MountCommand {
    /// The template
    reference: Reference,
    /// The directory; what it holds is hidden as long as the mount is there
    directory: PathBuf,
    /// Show the disk as a file, disk.raw, in place of the tree
    #[arg(long)]
    disk: bool,
    /// Directory for what is written to the disk
    #[arg(long, value_name = "DIR", requires = "disk")]
    overlay: Option<PathBuf>,
    /// Size of the disk and of its file system, when the overlay is made; at least that of the template
    #[arg(long, value_name = "SIZE", requires = "overlay", value_parser = parse_bytes)]
    disk_size: Option<u64>,
}

impl MountCommand {
    pub(crate) fn run(self, context: &Context) -> anyhow::Result<()> {
        let place = context.place_of(&[&self.reference])?;
        let id = resolve(&*context.catalog(&place), &self.reference)?;
        let host = context.host(place)?;
        let image = host.composer.image(id)?;
        match self.disk {
            true => {
                let (face, access) = self.disk_face(&host, image)?;
                self.serve(context, &host, face, access)
            }
            false => {
                let face = tree_face(image.plan, host.reader.clone(), Permissions::Checked)?;
                self.serve(context, &host, face, Access::ReadOnly)
            }
        }
    }

    fn disk_face(&self, host: &Host, image: Image) -> anyhow::Result<(DiskFace, Access)> {
        let (overlay, access) = match &self.overlay {
            None => (None, Access::ReadOnly),
            Some(dir) => {
                let overlay = host.overlay(&image, dir, self.disk_size)?;
                (Some(Arc::new(overlay)), Access::ReadWrite)
            }
        };
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let user = rustix::process::geteuid().as_raw();
        let file = DiskFile {
            access,
            owner: (user, rustix::process::getegid().as_raw()),
            time: Mtime {
                seconds: now.as_secs() as i64,
                nanos: now.subsec_nanos(),
            },
        };
        let face = disk_face(image.plan, host.reader.clone(), overlay, file);
        Ok((face, access))
    }

    fn serve(
        &self,
        context: &Context,
        host: &Host,
        face: impl Face,
        access: Access,
    ) -> anyhow::Result<()> {
        let options = MountOptions {
            source: self.reference.to_string(),
            access,
            permissions: Permissions::Checked,
        };
        context.runtime.block_on(async {
            // Before anyone is told that it serves, and may end it.
            let mut interrupt = signal(SignalKind::interrupt()).context("watch signals")?;
            let mut terminate = signal(SignalKind::terminate()).context("watch signals")?;
            let (connection, mut mount) = mount(&self.directory, &options, &face)?;
            let session = Session::new(face, connection);
            let runtime = context.runtime.handle().clone();
            let mut serving = tokio::task::spawn_blocking(move || session.serve(&runtime));
            // The first look waits until kernel and session have agreed.
            let path = mount.path().to_owned();
            tokio::select! {
                looked = tokio::fs::metadata(&path) => {
                    looked.context("look at the mount")?;
                }
                ended = &mut serving => return Ok(ended?.map(drop)?),
            }
            mount.read_ahead(ReadAhead::Large);
            if !context.global.quiet {
                let name = &self.reference.name;
                match self.disk {
                    true => note!("serving {name} as {}", path.join(DISK_NAME).display()),
                    false => note!("serving {name} on {}", path.display()),
                }
            }
            tokio::select! {
                ended = &mut serving => {
                    mount.leave();
                    return Ok(ended?.map(drop)?);
                }
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            take_away(&mut mount)?;
            anyhow::Ok(serving.await?.map(drop)?)
        })?;
        if !context.global.quiet {
            host.note_reads();
        }
        Ok(())
    }
}

/// Unmounts, and if it is in use takes it from its users.
fn take_away(mount: &mut Mount) -> Result<(), MountError> {
    match mount.unmount(Unmount::WhenUnused) {
        Err(MountError::Busy(path)) => {
            let path = path.display();
            note!("`{path}` is in use: programs that use it get errors now");
            mount.unmount(Unmount::Abort)
        }
        done => done,
    }
}
