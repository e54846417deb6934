//! A template becomes an instance.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};

use shale_files::{DirFiles, FilePath, put_durably};
use shale_hvplug::{Forward, Resources, VmFiles};
use shale_image::identity::Identity;
use shale_model::{Reference, TemplateId};
use shale_view::PlanFile;

use crate::api::{
    Begin, Deploy, EventKind, LoginWish, MachineWish, Outcome, Repository, Stage, Until, WarmStart,
};
use crate::compose::Image;
use crate::data_disk::DataDisk;
use crate::dirs::private_dir;
use crate::error::{HostError, HostResult, system};
use crate::identity::new_identity;
use crate::identity_file;
use crate::keys::{SshKey, random};
use crate::name::InstanceName;
use crate::patience::Patience;
use crate::record::{LoginRecord, NewRecord, Origin, Phase, Record};
use crate::source::Source;

use super::attempt::Attempt;
use super::instance::Instance;
use super::replace::put_known_host;
use super::start::ConsoleStart;
use super::warm::Warmed;
use super::{Host, Progress};

/// Processors of an instance that asks for none: what a small server has.
const DEFAULT_CPUS: u32 = 2;

impl Host {
    /// Makes an instance and starts it. One that cannot be started is removed again.
    pub(super) async fn deploy(
        self: &Arc<Self>,
        wish: Deploy,
        progress: Progress,
    ) -> HostResult<Outcome> {
        let name = InstanceName::new(&wish.name)?;
        if let Some(port) = published_twice(&wish.ports) {
            return Err(HostError::PortTwice(port));
        }
        self.check_hypervisor().await?;
        let before = self.reads();
        let instance = Arc::new(Instance::new(name, &self.dirs));
        let attempt = Attempt::new(&instance, wish.wait, progress);
        let begun = {
            // Before anybody else can see it.
            let _changing = instance.changing.lock().await;
            self.reserve(&instance)?;
            match self.make_and_begin(&instance, wish, &attempt).await {
                Ok(begun) => begun,
                Err(error) => {
                    self.forget(&instance).await;
                    return Err(error);
                }
            }
        };
        self.wait_for_login(&instance, (before, begun), &attempt)
            .await
    }

    async fn make_and_begin(
        self: &Arc<Self>,
        instance: &Arc<Instance>,
        wish: Deploy,
        attempt: &Attempt,
    ) -> HostResult<ConsoleStart> {
        let made = self.make_or_wake(instance, wish, attempt).await;
        match made {
            Ok(begun) => {
                self.tell_deployed(instance, attempt);
                match begun {
                    Some(console) => Ok(console),
                    None => self.begin(instance, attempt).await,
                }
            }
            Err(error) => {
                self.tell_failed(instance, attempt, &error);
                Err(error)
            }
        }
    }

    /// Makes an instance; where it begins warm, its machine runs then, and this is its console.
    async fn make_or_wake(
        self: &Arc<Self>,
        instance: &Arc<Instance>,
        wish: Deploy,
        attempt: &Attempt,
    ) -> HostResult<Option<ConsoleStart>> {
        let warm = match wish.begin {
            Begin::Boot => None,
            Begin::Warm => match self.begin_warm(instance, &wish, attempt).await? {
                Warmed::Begun(console) => return Ok(Some(console)),
                Warmed::Not(reason) => Some(WarmStart::Cold { reason }),
            },
        };
        self.make(instance, wish, attempt, warm).await?;
        Ok(None)
    }

    fn tell_deployed(&self, instance: &Instance, attempt: &Attempt) {
        let origin = {
            let live = instance.live();
            live.record.as_ref().map(|record| record.origin.clone())
        };
        if let Some(origin) = origin {
            let (name, caller) = (instance.name.as_str(), &attempt.progress.caller);
            let what = EventKind::Deployed {
                reference: origin.reference,
                template: origin.template,
            };
            self.witness.events.tell(Some(name), caller, what);
        }
    }

    /// Takes the instance's name.
    pub(super) fn reserve(&self, instance: &Arc<Instance>) -> HostResult<()> {
        let mut instances = self.instances();
        if instances.contains_key(&instance.name) {
            return Err(HostError::Exists(instance.name.to_string()));
        }
        let VmFiles { console, .. } = instance.paths.vm_files();
        if console.as_os_str().len() > VmFiles::MAX_SOCKET_PATH {
            return Err(HostError::SocketPath(console));
        }
        instances.insert(instance.name.clone(), instance.clone());
        Ok(())
    }

    /// Undoes a deployment that failed.
    pub(super) async fn forget(self: &Arc<Self>, instance: &Arc<Instance>) {
        let name = instance.name.clone();
        // What it boots is read for nobody now.
        let _given_up = instance.hope.give_up();
        let reading = instance.live().boot_reading.take();
        if let Some(reading) = reading {
            reading.ended().await;
        }
        let instance = instance.clone();
        // What cannot be removed now is removed by the next service: its record says that it is not ready.
        let _ = self.blocking(move |host| host.discard(&instance)).await;
        self.instances().remove(&name);
    }

    async fn make(
        self: &Arc<Self>,
        instance: &Arc<Instance>,
        wish: Deploy,
        attempt: &Attempt,
        warm: Option<WarmStart>,
    ) -> HostResult<()> {
        let patience = &attempt.patience;
        let (reference, asked) = (wish.reference.clone(), wish.repository.clone());
        // It changes nothing of the instance: who waits no longer leaves it behind.
        let compose = self.blocking(move |host| host.to_boot(&reference, &asked));
        let compose = patience.wait(compose);
        let ToBoot {
            source,
            image,
            is_first,
        } = self
            .stage(&attempt.progress, Stage::Compose, compose)
            .await?;
        if is_first && attempt.until == Until::Login {
            instance.live().trace = Some(Arc::default());
        }
        let (this, waits) = (instance.clone(), patience.clone());
        let (of, plan) = (source.clone(), image.plan_id);
        let read = self.blocking(move |host| host.begin_boot_reading(&this, &of, plan, waits));
        let work = async {
            // As above.
            let become_itself = self.blocking(move |host| host.new_disk(&wish, source, image));
            let (disk, reading) = tokio::join!(patience.wait(become_itself), read);
            reading?;
            let mut disk = disk?;
            disk.record.warm = warm;
            let (this, patience) = (instance.clone(), patience.clone());
            self.blocking(move |host| host.make_disk(&this, disk, &patience))
                .await
        };
        self.stage(&attempt.progress, Stage::Identity, work).await
    }

    /// What a reference means now, for a machine that is to boot it. Blocks.
    pub(super) fn to_boot(&self, reference: &str, repository: &Repository) -> HostResult<ToBoot> {
        let reference: Reference = reference.parse()?;
        let source = self.sources.get(repository)?;
        let id = source.resolve(&reference)?;
        let is_missing = source.bring_missing_boot_set(id);
        let is_first = is_missing && !self.was_ready(id);
        let image = source.composer.image(id)?;
        Ok(ToBoot {
            source,
            image,
            is_first,
        })
    }

    /// Whether a machine of this template booted here.
    fn was_ready(&self, template: TemplateId) -> bool {
        self.all().iter().any(|instance| {
            let live = instance.live();
            let record = live.record.as_ref();
            record.is_some_and(|record| {
                record.origin.template == template && record.ready_millis.is_some()
            })
        })
    }

    /// What an instance's disk is to become. Blocks.
    fn new_disk(&self, wish: &Deploy, source: Arc<Source>, image: Image) -> HostResult<NewDisk> {
        let (record, identity) = self.new_instance(wish, &image)?;
        let target = source.composer.plan_with_identity(
            image.id,
            &image.template,
            record.disk_bytes,
            &identity,
        )?;
        Ok(NewDisk {
            source,
            image,
            target,
            record,
            identity,
        })
    }

    /// What an instance is to be. Blocks.
    pub(super) fn new_instance(
        &self,
        wish: &Deploy,
        image: &Image,
    ) -> HostResult<(Record, Identity)> {
        let disk_bytes = image.disk_bytes(wish.machine.disk_bytes)?;
        let resources = resources(&wish.machine, image)?;
        let user = wish.login.user.clone();
        let user = user.unwrap_or_else(|| image.template.machine.login_user.clone());
        let (keys, identity_file) = self.login_keys(&wish.login)?;
        let random_failed = system("read", Path::new("/dev/urandom"));
        let created = self.now();
        let new = new_identity(&wish.name, &user, keys, created).map_err(random_failed)?;
        let login = LoginRecord {
            user,
            ssh_port: 0,
            identity_file,
            host_key: new.host_key,
        };
        let mut record = self.record(wish, image, (disk_bytes, resources), login)?;
        // The time of the files that make it itself: by that a commit knows them.
        record.origin.created = created;
        Ok((record, new.identity))
    }

    /// Everything of an instance before its first start. Blocks.
    fn make_disk(&self, instance: &Instance, disk: NewDisk, patience: &Patience) -> HostResult<()> {
        let mut record = disk.record;
        self.make_files(instance, &mut record, &disk.identity, |overlay| {
            let composer = &disk.source.composer;
            let made = composer.overlay(&disk.image, Some(disk.target), overlay, patience);
            made.map(drop)
        })?;
        record.phase = Phase::Stopped;
        self.keep(&instance.name, &record)?;
        instance.live().record = Some(record);
        Ok(())
    }

    /// Keeps the record of an instance, and then makes its files, of which `overlay` makes one directory. Blocks.
    pub(super) fn make_files(
        &self,
        instance: &Instance,
        record: &mut Record,
        identity: &Identity,
        overlay: impl FnOnce(&Path) -> HostResult<()>,
    ) -> HostResult<()> {
        self.take_ports(instance, record)?;
        self.keep(&instance.name, record)?;
        overlay(&instance.paths.disk_at(&record.disk))?;
        DataDisk::make_all(&record.data_disks, &instance.paths.dir)?;
        identity_file::put(&instance.paths.dir, identity)?;
        put_known_host(instance, record)
    }

    fn record(
        &self,
        wish: &Deploy,
        image: &Image,
        (disk_bytes, resources): (u64, Resources),
        login: LoginRecord,
    ) -> HostResult<Record> {
        let machine = &image.template.machine;
        let mut uuid = [0; 16];
        random(&mut uuid).map_err(system("read", Path::new("/dev/urandom")))?;
        uuid[6] = uuid[6] & 0x0f | 0x40;
        uuid[8] = uuid[8] & 0x3f | 0x80;
        let origin = Origin {
            reference: wish.reference.clone(),
            repository: wish.repository.address.clone(),
            credentials: wish.repository.credentials.clone(),
            mirrors: wish.repository.mirrors.clone(),
            template: image.id,
            plan: image.plan_id,
            command_line: machine.command_line.clone(),
            created: self.now(),
        };
        Ok(Record::new(
            origin,
            NewRecord {
                uuid,
                disk_bytes,
                data_disks: DataDisk::of(&wish.machine.data_disks)?,
                resources,
                ports: wish.ports.clone(),
                login,
                pause_after_seconds: wish.pause_after_seconds,
                autostart: wish.autostart.is_on(),
            },
        ))
    }

    /// The keys that may log in, and the private one for `ssh` where it is this host's.
    pub(super) fn login_keys(
        &self,
        wish: &LoginWish,
    ) -> HostResult<(Vec<String>, Option<PathBuf>)> {
        if !wish.authorized_keys.is_empty() {
            let keys = wish.authorized_keys.clone();
            return Ok((keys, wish.identity_file.clone()));
        }
        let path = self.dirs.ssh_key();
        let _alone = self
            .making_key
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let public = public_of(&path);
        match fs::read_to_string(&public) {
            Ok(key) => return Ok((vec![key.trim().to_owned()], Some(path))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(system("read", &public)(error)),
        }
        let dir = path.parent().unwrap_or(&path).to_owned();
        private_dir(&dir).map_err(system("make", &dir))?;
        let key = SshKey::generate("shale").map_err(system("make", &path))?;
        // The public key comes last: with it, the pair is there.
        put_private(&path, &key.private)?;
        put_private(&public, key.public.as_bytes())?;
        Ok((vec![key.public], Some(path)))
    }
}

/// Memory and processors of a machine of this image.
pub(super) fn resources(wish: &MachineWish, image: &Image) -> HostResult<Resources> {
    let least = image.template.machine.memory_bytes;
    if let Some(asked) = wish.memory_bytes.filter(|asked| *asked < least) {
        return Err(HostError::MemoryTooSmall { asked, least });
    }
    Ok(Resources {
        memory_bytes: wish.memory_bytes.unwrap_or(least),
        cpus: wish.cpus.unwrap_or(DEFAULT_CPUS),
        acceleration: wish.acceleration,
    })
}

/// What the disk of a new instance is made from.
struct NewDisk {
    source: Arc<Source>,
    image: Image,
    /// The image with the instance's identity, on a disk of its size.
    target: PlanFile,
    record: Record,
    identity: Identity,
}

/// A template that a machine is to boot.
pub(super) struct ToBoot {
    pub(super) source: Arc<Source>,
    pub(super) image: Image,
    /// Whether some of its content is not here, and no machine booted from it that still is: what its boot reads is of use to
    /// others.
    pub(super) is_first: bool,
}

/// A port of this host that two of these begin at.
fn published_twice(ports: &[Forward]) -> Option<u16> {
    let mut seen = BTreeSet::new();
    let mut ports = ports.iter().map(|port| port.host);
    ports.find(|port| !seen.insert(*port))
}

/// The name under which `ssh` knows an instance's host key.
pub(super) fn alias(name: &InstanceName) -> String {
    format!("shale-{name}")
}

pub(super) fn public_of(private: &Path) -> PathBuf {
    let mut name = private.as_os_str().to_owned();
    name.push(".pub");
    name.into()
}

/// Writes a file that is only its owner's to read, durably.
pub(super) fn put_private(path: &Path, bytes: &[u8]) -> HostResult<()> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(system("write", path)(io::ErrorKind::InvalidFilename.into()));
    };
    let name = name.to_string_lossy();
    let files = DirFiles::open(dir)?;
    let [temp, target] = [format!("{name}.new"), name.into_owned()]
        .map(|name| FilePath::new(&name).unwrap_or_default());
    let _ = shale_files::Files::remove(&files, &temp);
    Ok(put_durably(&files, &temp, &target, |file| {
        file.write_at(0, bytes)
    })?)
}
