//! An instance begins where another machine was kept.
//!
//! Until the guest has its identity, the record says that the instance is being deployed: a service that is killed before
//! leaves a machine that nobody is to find, and the next one removes it.

use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use shale_files::DirFiles;
use shale_hvplug::{Memory, OwnSocket, Vm};
use shale_image::identity::Identity;
use shale_model::Reference;
use shale_view::{FillState, Overlay, View, open_plan};
use tokio::sync::watch;

use crate::api::{Deploy, Stage, WarmStart};
use crate::compose::Image;
use crate::dirs::{current_boot, private_dir};
use crate::error::{HostError, HostResult, system};
use crate::patience::Patience;
use crate::record::{Phase, Record};
use crate::source::Source;
use crate::warm::{Channel, INITRD, KERNEL, MEMORY, Wake, WarmSnapshot, identity_script};

use super::super::attempt::Attempt;
use super::super::instance::Instance;
use super::super::start::{BootPaths, ConsoleStart, console_start, machine};
use super::super::{Host, MemoryMount};
use super::{Warmed, common};

/// How long a guest may take until it has its identity. It takes a fraction of a second; one that is not there after this is
/// better booted.
const WAKE_WITHIN: Duration = Duration::from_secs(60);

/// What an instance begins with that begins warm.
struct Kept {
    source: Arc<Source>,
    image: Image,
    snapshot: WarmSnapshot,
    /// The hypervisor of this host.
    hypervisor: String,
}

/// That, or why there is none.
enum Found {
    Kept(Arc<Kept>),
    Not(String),
}

/// A machine that stands still in the state that it was kept in.
struct Waiting {
    vm: Vm,
    record: Record,
    console: ConsoleStart,
}

impl Host {
    /// Makes an instance and lets it go on where the warm snapshot of its template was made.
    pub(in crate::host) async fn begin_warm(
        self: &Arc<Self>,
        instance: &Arc<Instance>,
        wish: &Deploy,
        attempt: &Attempt,
    ) -> HostResult<Warmed> {
        let patience = &attempt.patience;
        let find = patience.wait(self.find_warm(wish));
        let kept = match self.stage(&attempt.progress, Stage::FindWarm, find).await? {
            Found::Kept(kept) => kept,
            Found::Not(reason) => return Ok(Warmed::Not(reason)),
        };
        let (record, identity) = self.new_of(wish, &kept).await?;
        let wanted = common(&wish.machine, &kept.image, kept.hypervisor.clone())?;
        if let Some(differs) = kept.snapshot.kept.machine.differs(&wanted) {
            return Ok(Warmed::Not(differs.to_string()));
        }
        let wake = self.wake(instance, (record, identity), &kept, attempt);
        match self.stage(&attempt.progress, Stage::Wake, wake).await {
            Ok(console) => {
                let this = instance.clone();
                let behind = self.blocking(move |host| {
                    tell_of_wake(&kept);
                    host.fill_memory(&this);
                    host.learn_boot_set(&this);
                    Ok(())
                });
                // Without it, pages come when they are touched.
                let _ = behind.await;
                Ok(Warmed::Begun(console))
            }
            Err(error) => {
                self.undo(instance).await?;
                // A read that was given up shows as something else.
                match patience.over() {
                    Some(over) => Err(over),
                    None if is_final(&error) => Err(error),
                    None => Ok(Warmed::Not(error.failure().message)),
                }
            }
        }
    }

    /// Looks for the snapshot of a template, while the template is composed.
    async fn find_warm(self: &Arc<Self>, wish: &Deploy) -> HostResult<Found> {
        if self.driver.warm_start().is_none() {
            return Ok(Found::Not(HostError::CannotKeep.to_string()));
        }
        let hypervisor = self.blocking(|host| host.hypervisor());
        let reference: Reference = wish.reference.parse()?;
        let (repository, name) = (wish.repository.clone(), reference.name.clone());
        let resolve = self.blocking(move |host| {
            let source = host.sources.get(&repository)?;
            let template = source.resolve(&reference)?;
            Ok((source, template))
        });
        let (hypervisor, resolved) = tokio::join!(hypervisor, resolve);
        let (source, template) = resolved?;
        let composing = source.clone();
        let image = self.blocking(move |_| Ok(composing.composer.image(template)?));
        let finding = source.clone();
        let snapshot = self.blocking(move |_| {
            let found = WarmSnapshot::find(&finding, &name, template)?;
            let open = |id| {
                finding.bring_missing_boot_set(id);
                WarmSnapshot::open(finding, id)
            };
            found.map(open).transpose()
        });
        let (image, snapshot) = tokio::join!(image, snapshot);
        let image = image?;
        Ok(match (snapshot, hypervisor) {
            (Ok(Some(snapshot)), Ok(hypervisor)) => Found::Kept(Arc::new(Kept {
                source,
                image,
                snapshot,
                hypervisor,
            })),
            (Ok(None), _) => Found::Not(no_snapshot(&wish.reference)),
            (Err(error), _) | (_, Err(error)) => Found::Not(error.failure().message),
        })
    }

    async fn new_of(
        self: &Arc<Self>,
        wish: &Deploy,
        kept: &Arc<Kept>,
    ) -> HostResult<(Record, Identity)> {
        let (wish, kept) = (wish.clone(), kept.clone());
        self.blocking(move |host| host.new_instance(&wish, &kept.image))
            .await
    }

    /// Makes the instance, starts its machine, and gives its guest the identity.
    async fn wake(
        self: &Arc<Self>,
        instance: &Arc<Instance>,
        (record, identity): (Record, Identity),
        kept: &Arc<Kept>,
        attempt: &Attempt,
    ) -> HostResult<ConsoleStart> {
        let (of, itself) = (kept.clone(), identity.clone());
        let script = self.blocking(move |_| script_of(&of, &itself));
        let start = async {
            let memory = MemoryMount {
                machine: instance.name.to_string(),
                repository: record.origin.repository(),
                template: kept.snapshot.image.id,
                trace: Some(kept.snapshot.trace.clone()),
            };
            let root = self.have_memory_mounted(memory, &attempt.progress).await?;
            let (this, of) = (instance.clone(), kept.clone());
            let waits = attempt.patience.clone();
            let start = self.blocking(move |host| {
                let itself = (record, &identity);
                host.start_kept(&this, itself, (&of, root), &waits)
            });
            start.await
        };
        let (script, waiting) = tokio::join!(script, start);
        let (waiting, script) = (waiting?, script?);
        let (this, patience) = (instance.clone(), attempt.patience.clone());
        self.blocking(move |host| host.give_identity(&this, waiting, &script, &patience))
            .await
    }

    /// Lets a machine go on, and gives its guest the identity. Blocks.
    fn give_identity(
        &self,
        instance: &Instance,
        waiting: Waiting,
        script: &[u8],
        patience: &Patience,
    ) -> HostResult<ConsoleStart> {
        let Waiting {
            vm,
            mut record,
            console,
        } = waiting;
        // Before it runs: it looks whether somebody is there.
        let mut channel = Channel::connect(&vm.files.channel).map_err(HostError::Channel)?;
        self.driver.resume(&vm)?;
        let deadline = Instant::now() + WAKE_WITHIN;
        let wake = Wake::new((self.clock)());
        let wake = wake.map_err(system("read", Path::new("/dev/urandom")))?;
        let script = [wake.script().as_bytes(), script].concat();
        channel.give(&script, || {
            let is_late = Instant::now() > deadline;
            match patience.over() {
                Some(error) => Err(error),
                None if is_late || !vm.process.runs() => {
                    let kind = io::ErrorKind::TimedOut;
                    Err(HostError::Channel(kind.into()))
                }
                None => Ok(()),
            }
        })?;
        // Its prompt is there: this shows it again, with the new name. A guest that does not react is one without a prompt.
        let _ = press_enter(&vm.files.console);
        record.phase = Phase::Started;
        self.keep(&instance.name, &record)?;
        instance.live().record = Some(record);
        Ok(console)
    }

    /// Makes the files of an instance and starts its machine, which stands still, in the snapshot whose open root this is.
    /// Blocks.
    fn start_kept(
        &self,
        instance: &Instance,
        (mut record, identity): (Record, &Identity),
        (kept, root): (&Kept, OwnedFd),
        patience: &Patience,
    ) -> HostResult<Waiting> {
        let snapshot = &kept.snapshot;
        record.warm = Some(WarmStart::From {
            snapshot: snapshot.image.id,
        });
        self.make_files(instance, &mut record, identity, |directory| {
            overlay_of(kept, directory, patience)
        })?;
        let state = snapshot.state(patience)?;
        let run = &instance.paths.run;
        private_dir(run).map_err(system("make", run))?;
        let disk = self.serve(instance, &record)?;
        instance.live().disk = Some(disk);
        let console = console_start(instance);
        let boot = BootPaths {
            kernel: KERNEL.into(),
            initrd: snapshot.has_initrd().then(|| INITRD.into()),
        };
        let memory = Memory::Private(MEMORY.into());
        let machine = machine(instance, &record, boot, memory);
        let driver = self.driver.warm_start().ok_or(HostError::CannotKeep)?;
        let vm = driver.start_from(&machine, &state, root.as_fd())?;
        self.has_machine(instance, vm.clone());
        Ok(Waiting {
            vm,
            record,
            console,
        })
    }

    /// Brings the rest of the snapshot that the memory of an instance's machine is read from, if it is read from one: a guest
    /// that touches a page of it must not depend on a registry for long. Blocks.
    pub(in crate::host) fn fill_memory(&self, instance: &Instance) {
        let Some(origin) = self.memory_of(instance) else {
            return;
        };
        let Ok(source) = self.sources.get(&origin.repository()) else {
            return;
        };
        source.learn_boot_set(origin.template);
        let path = source.composer.plan_path(origin.plan);
        if let Ok(plan) = open_plan(&path, origin.plan) {
            let (filler, view) = (
                source.filler.clone(),
                View::new(plan, source.reader.clone()),
            );
            let (state, _) = watch::channel(FillState::Running);
            let fill = async move { filler.fill(&view, &state).await };
            instance.live().snapshot_fill = Some(self.runtime.spawn(fill).abort_handle());
        }
    }

    /// Removes what a warm start has made that failed; the name stays taken.
    async fn undo(self: &Arc<Self>, instance: &Arc<Instance>) -> HostResult<()> {
        let this = instance.clone();
        self.blocking(move |host| host.cut_power(&this)).await?;
        // What was written to its disk is of no use to anybody.
        let _ = self.let_go(instance).await;
        let this = instance.clone();
        self.blocking(move |host| host.discard(&this)).await?;
        instance.live().record = None;
        Ok(())
    }
}

/// Why a template without a snapshot boots.
pub(super) fn no_snapshot(reference: &str) -> String {
    format!("the template has no warm snapshot; `shale template warm {reference}` makes one")
}

/// Whether a boot would fail like this, too, or nobody waits for one.
fn is_final(error: &HostError) -> bool {
    use HostError as E;
    matches!(
        error,
        E::GivenUp(_)
            | E::NoContent { .. }
            | E::Port(_)
            | E::NoPort
            | E::DiskTooSmall { .. }
            | E::MemoryTooSmall { .. }
            | E::DataDiskBytes { .. }
            | E::DataDisks(_)
            | E::Interrupted
    )
}

/// The overlay of a machine that was kept. Blocks.
fn overlay_of(kept: &Kept, directory: &Path, patience: &Patience) -> HostResult<()> {
    private_dir(directory).map_err(system("make", directory))?;
    let files = DirFiles::open(directory)?;
    let (plan, disk_bytes) = (kept.image.plan_id, kept.snapshot.kept.machine.disk_bytes);
    let write = |overlay: &Overlay| kept.snapshot.write_blocks(overlay, patience);
    Overlay::create_with(&files, plan, disk_bytes, current_boot()?, write).map(drop)
}

/// What the guest is told that was kept. Blocks.
fn script_of(kept: &Kept, identity: &Identity) -> HostResult<Vec<u8>> {
    let composer = &kept.source.composer;
    let files = composer.identity_files(&kept.image.template, identity)?;
    identity_script(&files, &identity.hostname)
}

/// Presses the enter key on a serial console.
fn press_enter(console: &Path) -> io::Result<()> {
    let own = OwnSocket::open(console)?;
    UnixStream::connect(own.path())?.write_all(b"\n")
}

/// Tells what was read of a snapshot until its guest had its identity, for the next host. Blocks.
fn tell_of_wake(kept: &Kept) {
    let Kept {
        source, snapshot, ..
    } = kept;
    source.tell_of_boot(snapshot.image.id, &snapshot.trace);
}
