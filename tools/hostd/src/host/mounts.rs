//! Templates as directories of this host.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use shale_fusefs::{Access, Unmount, unmount};
use shale_model::TemplateId;
use shale_view::Trace;

use crate::api::{DiskWish, MountPlace, MountWish, Outcome, Repository, Stage, ToMount};
use crate::compose::Image;
use crate::error::{HostError, HostResult};
use crate::keeper::KeptName;
use crate::mounts::{MountOwner, MountRecord, Opened, Shows, boot_text, memory_mount, user_mount};
use crate::record::Origin;

use super::deploy::ToBoot;
use super::instance::Instance;
use super::{Given, Host, Progress};

/// How often it is tried to serve a mount that cannot be served.
const AGAIN_AFTER: Duration = Duration::from_secs(10);

/// A tree that one machine reads its memory from.
#[derive(Debug, Clone)]
pub struct MemoryMount {
    /// The machine.
    pub machine: String,
    /// Where the template is.
    pub repository: Repository,
    /// The template, whose tree is shown.
    pub template: TemplateId,
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
        progress: Progress,
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
            let place = MountPlace::Directory;
            let how = ToMount {
                source,
                writable,
                place,
            };
            let given = progress.have_mounted(how).await.unwrap_or_default();
            let [device] = <[OwnedFd; 1]>::try_from(given.files)
                .map_err(|_| HostError::NotMade(wish.directory.clone()))?;
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
            Some(wish.directory.clone()),
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

    /// Has the client of a request mount what a machine is to read its memory from, and serves that. Returns its root, by
    /// which the machine's process finds it, and which nobody else is to keep: with the last that has it, or something open
    /// below, it ends.
    pub(super) async fn have_memory_mounted(
        self: &Arc<Self>,
        wish: MemoryMount,
        progress: &Progress,
    ) -> HostResult<OwnedFd> {
        let how = ToMount {
            source: wish.template.to_string(),
            writable: true,
            place: MountPlace::Nowhere,
        };
        let given = progress.have_mounted(how).await;
        let gone = || HostError::NoMemory("it has ended".into());
        let Given { files, reason } = given.ok_or_else(gone)?;
        let [device, root] =
            <[OwnedFd; 2]>::try_from(files).map_err(|_| HostError::NoMemory(reason))?;
        self.blocking(move |host| host.serve_memory(&wish, device))
            .await?;
        Ok(root)
    }

    /// Serves the tree of a template that was mounted with [`shale_fusefs::Permissions::Unchecked`] on no directory: only who is
    /// handed its root sees it, and nobody is asked for permission. A file can be opened for writing, as some programs do that
    /// only read; what is written to it is refused. A later service serves it on. Blocks.
    ///
    /// # Errors
    /// The machine has one already, the template cannot be read, or neither record nor keeper can be had. Nothing is served then.
    pub fn serve_memory(&self, wish: &MemoryMount, device: OwnedFd) -> HostResult<()> {
        let name = memory_mount(&wish.machine)?;
        let source = self.sources.get(&wish.repository)?;
        let image = source.composer.image(wish.template)?;
        let reference = wish.template.to_string();
        let origin = self.origin_of_mount(&reference, &wish.repository, &image);
        let (shows, owner) = (Shows::Tree, MountOwner::Host);
        let record = MountRecord::new(None, origin, shows, owner, boot_text()?);
        self.mounts.reserve(&name, &record)?;
        let opened = Opened::traced(&record, &self.sources, wish.trace.clone());
        let served = opened.and_then(|opened| self.mounts.serve(&name, record, opened, device));
        if served.is_err() {
            // Why it is not served matters more.
            let _ = self.mounts.forget(&name);
        }
        served
    }

    /// Waits until what a machine read its memory from has ended, which it does with the machine; that there is nothing is no
    /// error. Blocks, five seconds at most, and must not be called from a thread of the runtime.
    ///
    /// # Errors
    /// What is left of one that cannot be served any more cannot be removed.
    pub fn wait_for_memory_end(&self, machine: &str) -> HostResult<()> {
        let name = memory_mount(machine)?;
        // One of an earlier version is on a directory.
        let directory = {
            let all = self.mounts.all();
            let record = all.get(&name).and_then(|mounted| mounted.record.as_ref());
            record.and_then(|record| record.directory.clone())
        };
        if let Some(directory) = directory {
            // If it is not there, it has ended.
            let _ = unmount(&directory, Unmount::Now);
        }
        // Nobody reads what would say that it is gone.
        if self.mounts.waits(&name) {
            return self.mounts.forget(&name);
        }
        // Who has it still keeps it; then its end is noticed when it comes.
        self.runtime.block_on(self.mounts.is_gone(&name));
        Ok(())
    }

    /// What the memory of an instance's machine is read from: its repository, its template and the plan of that.
    pub(super) fn memory_of(&self, instance: &Instance) -> Option<Origin> {
        let name = memory_mount(instance.name.as_str()).ok()?;
        let all = self.mounts.all();
        let record = all.get(&name)?.record.as_ref()?;
        Some(record.origin.clone())
    }
}
