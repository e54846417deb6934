//! An instance gets a new root disk from a template, and stays itself.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use shale_image::identity::Identity;
use shale_view::PlanFile;

use crate::api::{LoginWish, Outcome, Reimage, ReimageNote, Repository, Stage};
use crate::error::{HostResult, system};
use crate::identity::new_identity;
use crate::identity_file;
use crate::name::InstanceName;
use crate::record::{Origin, Record};

use super::deploy::{ToBoot, public_of};
use super::instance::Instance;
use super::{Host, Progress};

/// What a new root disk is made from.
struct NewRoot {
    /// The image with the instance's identity, on a disk of its size.
    target: PlanFile,
    /// The instance's record with that disk.
    record: Record,
    notes: Vec<ReimageNote>,
}

impl Host {
    /// Gives an instance that is stopped the root disk of a template. All that was written on the old one goes.
    pub(super) async fn reimage(
        self: &Arc<Self>,
        name: &InstanceName,
        wish: Reimage,
        progress: Progress,
    ) -> HostResult<Outcome> {
        let instance = self.get(name)?;
        let _changing = self.settled_to_change(&instance).await?;
        let this = instance.clone();
        let record = self.blocking(move |host| host.stopped(&this)).await?;
        let limit = Duration::from_secs(wish.limit_seconds);
        let patience = instance.hope.patience(name.as_str(), limit);
        let origin = &record.origin;
        let own = || (origin.reference.clone(), origin.repository());
        let (reference, repository) = wish.template.clone().unwrap_or_else(own);
        let record = with_reference(record, reference.clone(), &repository);
        // Neither this nor the next changes anything of its disk: who waits no longer leaves them behind.
        let compose = self.blocking(move |host| host.to_boot(&reference, &repository));
        let compose = patience.wait(compose);
        let to_boot = self.stage(&progress, Stage::Compose, compose).await?;

        let is_first = to_boot.is_first;
        let work = async {
            let this = instance.clone();
            let plan = self.blocking(move |host| {
                let root = host.new_root(&this, record, &to_boot, wish.authorized_keys)?;
                Ok((root, to_boot))
            });
            let (root, to_boot) = patience.wait(plan).await?;
            let (this, patience) = (instance.clone(), patience.clone());
            let put = self.blocking(move |host| {
                let ToBoot { source, image, .. } = to_boot;
                host.replace_disk(&this, root.record, |dir| {
                    let (composer, target) = (&source.composer, Some(root.target));
                    composer.overlay(&image, target, dir, &patience).map(drop)
                })?;
                Ok(root.notes)
            });
            put.await
        };
        let notes = self.stage(&progress, Stage::Identity, work).await?;
        instance.live().trace = is_first.then(Arc::default);
        let instance = Box::new(self.show(&instance).await?);
        Ok(Outcome::Reimaged { instance, notes })
    }

    /// Blocks.
    fn new_root(
        &self,
        instance: &Instance,
        mut record: Record,
        ToBoot { source, image, .. }: &ToBoot,
        authorized_keys: Vec<String>,
    ) -> HostResult<NewRoot> {
        let mut notes = Vec::new();
        let identity = self.identity_of(instance, &mut record, authorized_keys)?;
        let host_key = identity_file::host_key(&identity);
        if record.login.host_key != host_key {
            record.login.host_key = host_key;
            notes.push(ReimageNote::NewHostKey);
        }
        let machine = &image.template.machine;
        if record.resources.memory_bytes < machine.memory_bytes {
            record.resources.memory_bytes = machine.memory_bytes;
            notes.push(ReimageNote::MoreMemory);
        }
        if record.origin.template != image.id {
            // It says nothing of this one.
            record.ready_millis = None;
        }
        let least = image.disk_bytes(None)?;
        record.disk_bytes = image.disk_bytes(Some(record.disk_bytes.max(least)))?;
        record.origin.template = image.id;
        record.origin.plan = image.plan_id;
        record.origin.command_line = machine.command_line.clone();
        let (template, disk_bytes) = (&image.template, record.disk_bytes);
        let composer = &source.composer;
        let target = composer.plan_with_identity(image.id, template, disk_bytes, &identity)?;
        Ok(NewRoot {
            target,
            record,
            notes,
        })
    }

    /// The identity that was kept; a new one, kept from now on, where an older version kept none. Blocks.
    fn identity_of(
        &self,
        instance: &Instance,
        record: &mut Record,
        mut authorized_keys: Vec<String>,
    ) -> HostResult<Identity> {
        let dir = &instance.paths.dir;
        if let Some(identity) = identity_file::get(dir, record.origin.created)? {
            return Ok(identity);
        }
        // The key that it was deployed with, if it lies where it did.
        let identity_file = record.login.identity_file.clone();
        let own = identity_file.as_deref().map(public_of);
        let own = own.and_then(|path| fs::read_to_string(path).ok());
        authorized_keys.extend(own.map(|key| key.trim().to_owned()));
        let (keys, identity_file) = self.login_keys(&LoginWish {
            user: None,
            authorized_keys,
            identity_file,
        })?;
        record.login.identity_file = identity_file;
        let (hostname, user) = (instance.name.as_str(), &record.login.user);
        let new = new_identity(hostname, user, keys, record.origin.created);
        let new = new.map_err(system("read", Path::new("/dev/urandom")))?;
        identity_file::put(dir, &new.identity)?;
        Ok(new.identity)
    }
}

/// The record of an instance whose template is that of another reference.
fn with_reference(mut record: Record, reference: String, repository: &Repository) -> Record {
    record.origin = Origin {
        reference,
        repository: repository.address.clone(),
        credentials: repository.credentials.clone(),
        mirrors: repository.mirrors.clone(),
        ..record.origin
    };
    record
}
