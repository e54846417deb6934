//! A machine is booted to its login prompt, without an identity, and kept.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use shale_hvplug::{Memory, Stop};
use shale_ingest::{DirSource, push_tree};
use shale_model::{Reference, Template, TemplateLayer};

use crate::api::{
    Autostart, Begin, Deploy, LoginWish, NewTemplate, Outcome, Stage, Until, Wait, WarmWish,
};
use crate::console::{self, Waited};
use crate::dirs::{private_dir, remove_dir};
use crate::error::{HostError, HostResult, system};
use crate::identity::no_identity;
use crate::keys::random;
use crate::name::InstanceName;
use crate::naming::{CHUNKER, name_template};
use crate::patience::Patience;
use crate::record::Record;
use crate::served::open_overlay;
use crate::warm::{
    Channel, Common, DISK, INITRD, KERNEL, KeptMachine, MACHINE, MEMORY, STATE, reference,
    take_blocks, waiting_files,
};

use super::super::attempt::Attempt;
use super::super::deploy::ToBoot;
use super::super::instance::Instance;
use super::super::start::{BootPaths, LOGIN, machine};
use super::super::{Host, Progress};
use super::common;

/// How long a guest that waits for its identity is left alone until it is kept: what it has begun comes to rest.
const REST: Duration = Duration::from_secs(1);

impl Host {
    /// Makes the warm snapshot of a template. What it takes besides is removed at its end, and what a killed service
    /// leaves of that by the next one, as of any machine whose deployment did not come to an end.
    pub(in crate::host) async fn keep_warm(
        self: &Arc<Self>,
        wish: WarmWish,
        progress: Progress,
    ) -> HostResult<Outcome> {
        self.check_hypervisor().await?;
        let instance = Arc::new(Instance::new(name_of_one()?, &self.dirs));
        let wait = Wait {
            until: Until::Login,
            limit_seconds: wish.limit_seconds,
        };
        let attempt = Attempt::new(&instance, wait, progress);
        let _changing = instance.changing.lock().await;
        self.reserve(&instance)?;
        let kept = self.boot_and_keep(&instance, &wish, &attempt).await;
        let this = instance.clone();
        let ended = self.blocking(move |host| host.cut_power(&this)).await;
        let closed = self.let_go(&instance).await;
        self.forget(&instance).await;
        let new = kept?;
        ended.and(closed)?;
        Ok(Outcome::Warmed(Box::new(new)))
    }

    async fn boot_and_keep(
        self: &Arc<Self>,
        instance: &Arc<Instance>,
        wish: &WarmWish,
        attempt: &Attempt,
    ) -> HostResult<NewTemplate> {
        let (patience, progress) = (&attempt.patience, &attempt.progress);
        let (reference, repository) = (wish.reference.clone(), wish.repository.clone());
        let compose = self.blocking(move |host| host.to_boot(&reference, &repository));
        let compose = patience.wait(compose);
        let to_boot = self.stage(progress, Stage::Compose, compose).await?;
        let to_boot = Arc::new(to_boot);

        let (this, wished, boot) = (instance.clone(), wish.clone(), to_boot.clone());
        let waits = patience.clone();
        let make = self.blocking(move |host| host.make_waiting(&this, &wished, &boot, &waits));
        let record = self.stage(progress, Stage::Identity, make).await?;

        let (this, started, waits) = (instance.clone(), record.clone(), patience.clone());
        let start = self.blocking(move |host| host.start_shared(&this, started, &waits));
        let record = self.stage(progress, Stage::Machine, start).await?;

        progress.stage(Stage::Boot);
        // Held until it is kept: the guest notices when nobody is there any more.
        let _channel = self.wait_until_ready(instance, patience).await?;

        let (this, wished) = (instance.clone(), wish.clone());
        let keep = self.blocking(move |host| host.keep_and_push(&this, &wished, &to_boot, &record));
        self.stage(progress, Stage::Keep, keep).await
    }

    /// Makes an instance that waits for its identity. Blocks.
    fn make_waiting(
        &self,
        instance: &Instance,
        wish: &WarmWish,
        to_boot: &ToBoot,
        patience: &Patience,
    ) -> HostResult<Record> {
        let ToBoot { source, image, .. } = to_boot;
        let (mut record, identity) = self.new_instance(&as_deployment(instance, wish), image)?;
        let nobody = no_identity(&image.template.machine.login_user, record.origin.created);
        let nobody = nobody.map_err(system("read", Path::new("/dev/urandom")))?;
        let files = waiting_files();
        let (template, bytes) = (&image.template, record.disk_bytes);
        let composer = &source.composer;
        let target = composer.plan_with_files(image.id, template, bytes, (&nobody, &files))?;
        self.make_files(instance, &mut record, &identity, |directory| {
            let made = composer.overlay(image, Some(target), directory, patience);
            made.map(drop)
        })?;
        Ok(record)
    }

    /// Starts its machine, whose memory is a file. Blocks.
    fn start_shared(
        &self,
        instance: &Instance,
        mut record: Record,
        patience: &Patience,
    ) -> HostResult<Record> {
        self.lay_ready(instance, &mut record, patience)?;
        let path = instance.paths.dir.join(MEMORY);
        let memory = File::create_new(&path);
        let sized = memory.and_then(|file| file.set_len(record.resources.memory_bytes));
        sized.map_err(system("make", &path))?;
        let boot = BootPaths::in_directory(&instance.paths.boot());
        let machine = machine(instance, &record, boot, Memory::Shared(path));
        let vm = self.driver.start(&machine)?;
        self.has_machine(instance, vm);
        Ok(record)
    }

    /// Waits until the guest shows a login prompt, and waits for its identity.
    async fn wait_until_ready(
        self: &Arc<Self>,
        instance: &Arc<Instance>,
        patience: &Patience,
    ) -> HostResult<Channel> {
        let name = instance.name.to_string();
        let vm = instance
            .vm()
            .ok_or_else(|| HostError::NotRunning(name.clone()))?;
        let (limit, end) = patience.limit();
        let log = &vm.files.console_log;
        let console = || console::tail(log);
        let no_login = |name| HostError::NoLogin {
            name,
            limit,
            console: console(),
        };
        match console::wait_for(log, 0, LOGIN, end, || vm.process.runs()).await {
            Waited::Found => {}
            Waited::Ended => {
                let console = console();
                return Err(HostError::Ended { name, console });
            }
            Waited::TimedOut => return Err(no_login(name)),
        }
        let (path, patience, process) = (vm.files.channel.clone(), patience.clone(), vm.process);
        let waiting = self.blocking(move |_| {
            let mut channel = Channel::connect(&path).map_err(HostError::Channel)?;
            channel.ready(|| match patience.over() {
                Some(error) => Err(error),
                None if process.runs() => Ok(()),
                None => Err(HostError::NotRunning(name.clone())),
            })?;
            Ok(channel)
        });
        let channel = waiting.await?;
        tokio::time::sleep(REST).await;
        Ok(channel)
    }

    /// Keeps a guest that waits for its identity, and pushes what it was kept as. Blocks.
    fn keep_and_push(
        &self,
        instance: &Instance,
        wish: &WarmWish,
        to_boot: &ToBoot,
        record: &Record,
    ) -> HostResult<NewTemplate> {
        let name = instance.name.to_string();
        let vm = instance.vm().ok_or(HostError::NotRunning(name))?;
        let driver = self.driver.warm_start().ok_or(HostError::CannotKeep)?;
        let state = driver.keep(&vm)?;
        self.driver.stop(&vm, Stop::PowerCut)?;
        self.close_disk(instance)?;
        let directory = instance.paths.dir.join("warm");
        let common = common(&wish.machine, &to_boot.image, self.hypervisor()?)?;
        Self::gather(instance, &directory, record, (common, &state))?;

        let template: Reference = wish.reference.parse()?;
        let name = reference(&template.name, to_boot.image.id)?;
        let place = self.sources.open_to_write(&wish.repository)?;
        let catalog = place.catalog();
        let before = catalog.get_ref(&name)?;
        let sink = place.sink()?;
        let mut source = DirSource::open(&directory).map_err(shale_ingest::PushError::from)?;
        let pushed = push_tree(&mut source, &*sink, CHUNKER, &())?;
        let machine = to_boot.image.template.machine.clone();
        let layer = TemplateLayer {
            id: pushed.layer,
            made_on: vec![],
        };
        let platform = to_boot.image.template.platform.clone();
        let snapshot = Template::new(platform, vec![layer], machine);
        let id = name_template(&*sink, &*catalog, &name, before, &snapshot)?;
        let reference = Reference { name, ..template };
        Ok(NewTemplate::new(&reference, id, &pushed))
    }

    /// Closes the disk of a machine that has ended. Blocks.
    fn close_disk(&self, instance: &Instance) -> HostResult<()> {
        let disk = {
            let mut live = instance.live();
            live.vm = None;
            live.disk.take()
        };
        match disk {
            Some(disk) => self.runtime.block_on(disk.close()),
            None => Ok(()),
        }
    }

    /// Puts the files of the snapshot of an instance into a directory. Blocks.
    fn gather(
        instance: &Instance,
        directory: &Path,
        record: &Record,
        (common, state): (Common, &[u8]),
    ) -> HostResult<()> {
        remove_dir(directory)?;
        private_dir(directory).map_err(system("make", directory))?;
        let overlay = open_overlay(&instance.paths.disk_at(&record.disk), record.origin.plan)?;
        let path = directory.join(DISK);
        let mut disk = File::create(&path).map_err(system("make", &path))?;
        let (written, zeroed) = take_blocks(&overlay, &mut disk, &path)?;
        let kept = KeptMachine::new(common, written, zeroed);
        for (name, bytes) in [(MACHINE, &kept.encode()[..]), (STATE, state)] {
            let path = directory.join(name);
            let made = File::create(&path).and_then(|mut file| file.write_all(bytes));
            made.map_err(system("write", &path))?;
        }
        let boot = instance.paths.boot();
        let own: BTreeMap<PathBuf, &str> = [
            (instance.paths.dir.join(MEMORY), MEMORY),
            (boot.join("kernel"), KERNEL),
            (boot.join("initrd"), INITRD),
        ]
        .into();
        for (from, name) in own {
            if from.exists() {
                fs::rename(&from, directory.join(name)).map_err(system("move", &from))?;
            }
        }
        everybodys(directory)
    }
}

/// Files of a snapshot are everybody's to read, where their directory is mounted: machines that start from it are.
fn everybodys(directory: &Path) -> HostResult<()> {
    use std::os::unix::fs::{PermissionsExt, chown};
    let list = system("list", directory);
    for entry in fs::read_dir(directory).map_err(list)? {
        let path = entry.map_err(system("list", directory))?.path();
        let done = chown(&path, Some(0), Some(0))
            .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(0o644)));
        done.map_err(system("give away", &path))?;
    }
    Ok(())
}

/// The name of an instance that is only there to be kept.
fn name_of_one() -> HostResult<InstanceName> {
    let mut bytes = [0; 4];
    random(&mut bytes).map_err(system("read", Path::new("/dev/urandom")))?;
    InstanceName::new(&format!("warm-{:08x}", u32::from_be_bytes(bytes)))
}

/// The deployment of such an instance.
fn as_deployment(instance: &Instance, wish: &WarmWish) -> Deploy {
    Deploy {
        name: instance.name.to_string(),
        reference: wish.reference.clone(),
        repository: wish.repository.clone(),
        login: LoginWish::default(),
        machine: wish.machine.clone(),
        ports: vec![],
        pause_after_seconds: None,
        autostart: Autostart::Off,
        begin: Begin::Boot,
        wait: Wait {
            until: Until::Login,
            limit_seconds: wish.limit_seconds,
        },
    }
}
