//! Templates as directories of this host.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use shale_fusefs::{Access, MountOptions, ReadAhead, Unmount, mount_device, unmount};
use shale_model::TemplateId;
use shale_view::Trace;

use crate::api::Repository;
use crate::error::{HostResult, system};
use crate::mounts::{MountOwner, MountRecord, Opened, Shows, boot_text, host_mount};
use crate::record::Origin;

use super::Host;

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

    /// Mounts the tree of a template for the host itself; a later service serves it on. Blocks, and must not be called
    /// from a thread of the runtime.
    pub fn mount_for_host(&self, wish: &HostMount) -> HostResult<()> {
        let name = host_mount(&wish.name)?;
        let source = self.sources.get(&wish.repository)?;
        let image = source.composer.image(wish.template)?;
        let origin = Origin {
            reference: wish.template.to_string(),
            repository: wish.repository.address.clone(),
            credentials: wish.repository.credentials.clone(),
            mirrors: wish.repository.mirrors.clone(),
            template: image.id,
            plan: image.plan_id,
            command_line: String::new(),
            created: self.now(),
        };
        let directory = wish.directory.clone();
        let (shows, owner) = (Shows::Tree, MountOwner::Host);
        let record = MountRecord::new(directory, origin, shows, owner, boot_text()?);
        self.mounts.reserve(&name, &record)?;
        let made = || -> HostResult<()> {
            let opened = Opened::traced(&record, &self.sources, wish.trace.clone())?;
            let options = MountOptions {
                source: wish.template.to_string(),
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
            Err(shale_fusefs::MountError::NotMounted(_)) => self.mounts.forget(&name),
            Err(error) => Err(error.into()),
        }
    }
}
