//! Templates as directories of this host.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use shale_fusefs::{Access, MountError, MountOptions, ReadAhead, Unmount, mount_device, unmount};
use shale_model::TemplateId;
use shale_view::Trace;

use crate::api::{DiskWish, MountWish, Outcome, Repository, Stage, ToMount};
use crate::compose::Image;
use crate::error::{HostError, HostResult, system};
use crate::keeper::KeptName;
use crate::mounts::{MountOwner, MountRecord, Opened, Shows, boot_text, host_mount, user_mount};
use crate::record::Origin;

use super::deploy::ToBoot;
use super::{Host, Progress};

/// How often it is tried to serve a mount that cannot be served.
const AGAIN_AFTER: Duration = Duration::from_secs(10);

/// A mount that the host makes for itself.
#[derive(Debug, Clone)]
pub struct HostMount {
    /// Its name among those of the host, of `a-z`, `0-9`, `.` and `-`.
    pub name: String,
    /// The directory, which exists and is empty. It says who may pass: nobody else is asked for permission, and a file can
    /// be opened for writing, as some programs do that only read. What is written to it is refused.
    pub directory: PathBuf,
    /// Where the template is.
    pub repository: Repository,
    /// The template, whose tree is shown.
    pub template: TemplateId,
    /// What is read around each page that is touched.
    pub read_ahead: ReadAhead,
    /// Where it is noted what is read, as long as this service serves it.
    pub trace: Option<Arc<Trace>>,
}

impl Host {
    /// Serves what could not be served when it was last tried.
    pub(super) async fn look_after_mounts(self: &Arc<Self>) {
        loop {
            tokio::time::sleep(AGAIN_AFTER).await;
            if self.mounts.any_waits() {
                let again = self.blocking(|host| {
                    host.mounts.try_again(&host.sources);
                    Ok(())
                });
                // Only a service that ends does not try.
                let _ = again.await;
            }
        }
    }

    /// Serves a mount that the client makes.
    pub(super) async fn mount(
        self: &Arc<Self>,
        wish: MountWish,
        mut progress: Progress,
    ) -> HostResult<Outcome> {
        let asked = wish.clone();
        let compose = self.blocking(move |host| host.to_mount(&asked));
        let made = self.stage(&progress, Stage::Compose, compose).await;
        let (name, record) = made?;
        let source = record.origin.reference.clone();
        let writable = record.shows.access() == Access::ReadWrite;
        let work = async {
            let opening = record.clone();
            let opened = self.blocking(move |host| Opened::new(&opening, &host.sources));
            let opened = opened.await?;
            let device = progress.have_mounted(ToMount { source, writable }).await;
            let device = device.ok_or_else(|| HostError::NotMade(wish.directory.clone()))?;
            let (name, record) = (name.clone(), record.clone());
            self.blocking(move |host| host.mounts.serve(&name, record, opened, device))
                .await
        };
        let done = work.await;
        if let Err(error) = done {
            // Why it was not made matters more.
            let _ = self.blocking(move |host| host.mounts.forget(&name)).await;
            return Err(error);
        }
        let shown = self.mounts.show(&name);
        let shown = shown.ok_or_else(|| HostError::NotMade(wish.directory))?;
        Ok(Outcome::Mounted(Box::new(shown)))
    }

    /// What a client's mount is of, noted. Blocks.
    fn to_mount(&self, wish: &MountWish) -> HostResult<(KeptName, MountRecord)> {
        let ToBoot { source, image, .. } = self.to_boot(&wish.reference, &wish.repository)?;
        let shows = match &wish.disk {
            None => Shows::Tree,
            Some(disk) => Shows::Disk {
                overlay: disk.overlay.clone(),
                owner: disk.owner,
            },
        };
        let record = MountRecord::new(
            wish.directory.clone(),
            self.origin_of_mount(&wish.reference, &wish.repository, &image),
            shows,
            MountOwner::User,
            boot_text()?,
        );
        let name = user_mount()?;
        self.mounts.reserve(&name, &record)?;
        let made = match &wish.disk {
            Some(DiskWish {
                overlay: Some(dir),
                disk_bytes,
                ..
            }) if !dir.join("head").exists() => image
                .disk_bytes(*disk_bytes)
                .and_then(|bytes| source.composer.sized_overlay(&image, bytes, dir))
                .map(drop),
            _ => Ok(()),
        };
        match made {
            Ok(()) => Ok((name, record)),
            Err(error) => {
                let _ = self.mounts.forget(&name);
                Err(error)
            }
        }
    }

    fn origin_of_mount(&self, reference: &str, from: &Repository, image: &Image) -> Origin {
        Origin {
            reference: reference.to_owned(),
            repository: from.address.clone(),
            credentials: from.credentials.clone(),
            mirrors: from.mirrors.clone(),
            template: image.id,
            plan: image.plan_id,
            // Nothing boots from here.
            command_line: String::new(),
            created: self.now(),
        }
    }

    /// All mounts.
    pub(super) fn show_mounts(&self) -> Outcome {
        let (mounts, damaged) = self.mounts.show_all();
        Outcome::Mounts { mounts, damaged }
    }

    /// Waits until a mount that was unmounted is forgotten, or its last user holds it up.
    pub(super) async fn unmounted(self: &Arc<Self>, directory: &Path) -> HostResult<Outcome> {
        match self.mounts.at(directory) {
            None => {}
            // Nobody reads what would say that it is gone.
            Some(name) if self.mounts.waits(&name) => {
                self.blocking(move |host| host.mounts.forget(&name)).await?;
            }
            Some(name) => drop(self.mounts.is_gone(&name).await),
        }
        Ok(Outcome::Nothing)
    }

    /// Mounts the tree of a template for the host itself; a later service serves it on. Blocks, and must not be called
    /// from a thread of the runtime.
    pub fn mount_for_host(&self, wish: &HostMount) -> HostResult<()> {
        let name = host_mount(&wish.name)?;
        let source = self.sources.get(&wish.repository)?;
        let image = source.composer.image(wish.template)?;
        let reference = wish.template.to_string();
        let origin = self.origin_of_mount(&reference, &wish.repository, &image);
        let directory = wish.directory.clone();
        let (shows, owner) = (Shows::Tree, MountOwner::Host);
        let record = MountRecord::new(directory, origin, shows, owner, boot_text()?);
        self.mounts.reserve(&name, &record)?;
        let made = || -> HostResult<()> {
            let opened = Opened::traced(&record, &self.sources, wish.trace.clone())?;
            let options = MountOptions {
                source: reference,
                access: Access::ReadWrite,
                permissions: owner.permissions(),
            };
            let (device, mount) = mount_device(&wish.directory, &options)?;
            self.mounts.serve(&name, record.clone(), opened, device)?;
            // Waits until kernel and session have agreed.
            fs::metadata(mount.path()).map_err(system("look at", mount.path()))?;
            mount.read_ahead(wish.read_ahead);
            mount.leave();
            Ok(())
        };
        let made = made();
        if made.is_err() {
            // Why it was not made matters more.
            let _ = self.mounts.forget(&name);
        }
        made
    }

    /// Unmounts what [`Host::mount_for_host`] mounted; that there is nothing is no error. Who still uses it keeps it, out of
    /// its place. Blocks.
    pub fn unmount_for_host(&self, name: &str) -> HostResult<()> {
        let name = host_mount(name)?;
        let directory = {
            let all = self.mounts.all();
            let record = all.get(&name).and_then(|mounted| mounted.record.as_ref());
            record.map(|record| record.directory.clone())
        };
        let Some(directory) = directory else {
            return Ok(());
        };
        match unmount(&directory, Unmount::Now) {
            Ok(()) => {
                self.runtime.block_on(self.mounts.is_gone(&name));
                Ok(())
            }
            // Somebody else has unmounted it; or this service, started again by a service manager, does not see the mounts
            // of the one before, which end with what that has started.
            Err(MountError::NotMounted(_)) => self.mounts.forget(&name),
            Err(error) => Err(error.into()),
        }
    }
}
