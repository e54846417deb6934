//! An instance begins where another machine was kept.
//!
//! Until the guest has its identity, the record says that the instance is being deployed: a service that is killed before
//! leaves a machine that nobody is to find, and the next one removes it.

use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use shale_files::DirFiles;
use shale_hvplug::{Machine, Memory, OwnSocket, Vm};
use shale_image::identity::Identity;
use shale_model::Reference;
use shale_view::Overlay;

use crate::api::{Deploy, Stage, WarmStart};
use crate::compose::Image;
use crate::dirs::{current_boot, private_dir, remove_dir};
use crate::error::{HostError, HostResult, system};
use crate::patience::Patience;
use crate::record::{Phase, Record};
use crate::source::Source;
use crate::warm::{Channel, Finish, MEMORY, WarmSnapshot, Wake, archive};

use super::super::Host;
use super::super::attempt::Attempt;
use super::super::instance::Instance;
use super::super::start::{console_start, machine};
use super::Warmed;

/// How long a guest may take until it has its identity. It takes a fraction of a second; one that is not there after this is
/// better booted.
const WAKE_WITHIN: Duration = Duration::from_secs(60);

/// What an instance begins with that begins warm.
struct Kept {
    source: Arc<Source>,
    image: Image,
    snapshot: WarmSnapshot,
}

/// That, or why there is none.
enum Found {
    Kept(Box<Kept>),
    Not(String),
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
        let (this, wish, patience) = (instance.clone(), wish.clone(), patience.clone());
        let work = self.blocking(move |host| {
            let begun = host.wake(&this, &wish, &kept, &patience);
            // A read that was given up shows as something else.
            begun.map_err(|error| patience.over().unwrap_or(error))
        });
        let begun = self.stage(&attempt.progress, Stage::Wake, work).await;
        match begun {
            Ok(warmed @ Warmed::Begun(_)) => Ok(warmed),
            Ok(not) => Ok(not),
            Err(error) if is_final(&error) => Err(error),
            Err(error) => {
                self.undo(instance).await?;
                Ok(Warmed::Not(error.failure().message))
            }
        }
    }

    /// Looks for the snapshot of a template, while the template is composed.
    async fn find_warm(self: &Arc<Self>, wish: &Deploy) -> HostResult<Found> {
        if self.driver.warm_start().is_none() {
            return Ok(Found::Not(HostError::CannotKeep.to_string()));
        }
        let reference: Reference = wish.reference.parse()?;
        let repository = wish.repository.clone();
        let (source, template) = self
            .blocking(move |host| {
                let source = host.sources.get(&repository)?;
                let template = source.resolve(&reference)?;
                Ok((source, template))
            })
            .await?;
        let composing = source.clone();
        let image = self.blocking(move |_| Ok(composing.composer.image(template)?));
        let (finding, name) = (source.clone(), wish.reference.parse::<Reference>()?.name);
        let snapshot = self.blocking(move |_| {
            let found = WarmSnapshot::find(&finding, &name, template)?;
            found
                .map(|id| WarmSnapshot::open(finding.clone(), id))
                .transpose()
        });
        let (image, snapshot) = tokio::join!(image, snapshot);
        let image = image?;
        Ok(match snapshot {
            Ok(Some(snapshot)) => Found::Kept(Box::new(Kept {
                source,
                image,
                snapshot,
            })),
            Ok(None) => Found::Not(format!(
                "the template has no warm snapshot; `shale template warm {}` makes one",
                wish.reference
            )),
            Err(error) => Found::Not(error.failure().message),
        })
    }

    /// Makes the instance, starts its machine, and gives its guest the identity. Blocks.
    fn wake(
        &self,
        instance: &Instance,
        wish: &Deploy,
        kept: &Kept,
        patience: &Patience,
    ) -> HostResult<Warmed> {
        let (mut record, identity) = self.new_instance(wish, &kept.image)?;
        let snapshot = &kept.snapshot;
        let wanted = self.common(&record, &kept.image)?;
        if let Some(differs) = snapshot.kept.machine.differs(&wanted) {
            return Ok(Warmed::Not(differs.to_string()));
        }
        record.warm = Some(WarmStart::From {
            snapshot: snapshot.image.id,
        });
        self.make_files(instance, &mut record, &identity, |directory| {
            overlay_of(kept, directory)
        })?;
        let state = snapshot.state()?;
        let archive = archive_of(kept, &record, &identity)?;
        let console = console_start(instance);
        self.start_kept(instance, &record, kept, &state)?;

        let files = instance.paths.vm_files();
        let mut channel = Channel::connect(&files.channel).map_err(HostError::Channel)?;
        let deadline = Instant::now() + WAKE_WITHIN;
        let wake = Wake::new((self.clock)());
        let wake = wake.map_err(system("read", Path::new("/dev/urandom")))?;
        let vm = instance.vm();
        channel.give(&wake, &archive, || {
            let is_late = Instant::now() > deadline;
            let runs = vm.as_ref().is_some_and(|vm| vm.process.runs());
            match patience.over() {
                Some(error) => Err(error),
                None if is_late || !runs => {
                    let kind = io::ErrorKind::TimedOut;
                    Err(HostError::Channel(kind.into()))
                }
                None => Ok(()),
            }
        })?;
        // Whoever waits for a prompt shows the one that there is again, with the new name. Without it, the prompt is there.
        let _ = press_enter(&files.console);
        record.phase = Phase::Started;
        self.keep(&instance.name, &record)?;
        instance.live().record = Some(record);
        Ok(Warmed::Begun(console))
    }

    /// Offers the disk of an instance and starts its machine. Blocks.
    fn start_kept(
        &self,
        instance: &Instance,
        record: &Record,
        kept: &Kept,
        state: &[u8],
    ) -> HostResult<()> {
        let run = &instance.paths.run;
        private_dir(run).map_err(system("make", run))?;
        let directory = self.files_of(instance, kept)?;
        let disk = self.serve(instance, record)?;
        instance.live().disk = Some(disk);
        let memory = Memory::Private(directory.join(MEMORY));
        let machine = machine(instance, record, &directory, memory);
        let driver = self.driver.warm_start().ok_or(HostError::CannotKeep)?;
        let vm: Vm = driver.start_from(&machine, state)?;
        self.has_machine(instance, vm);
        Ok(())
    }

    /// The directory with the files of a snapshot. Blocks.
    fn files_of(&self, instance: &Instance, kept: &Kept) -> HostResult<PathBuf> {
        let directory = instance.paths.run.join("kept");
        remove_dir(&directory)?;
        private_dir(&directory).map_err(system("make", &directory))?;
        kept.snapshot.write_files(&directory)?;
        Ok(directory)
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
fn overlay_of(kept: &Kept, directory: &Path) -> HostResult<()> {
    private_dir(directory).map_err(system("make", directory))?;
    let files = DirFiles::open(directory)?;
    let (plan, disk_bytes) = (kept.image.plan_id, kept.snapshot.kept.machine.disk_bytes);
    let write = |overlay: &Overlay| kept.snapshot.write_blocks(overlay);
    Overlay::create_with(&files, plan, disk_bytes, current_boot()?, write).map(drop)
}

/// What the guest gets that was kept. Blocks.
fn archive_of(kept: &Kept, record: &Record, identity: &Identity) -> HostResult<Vec<u8>> {
    let composer = &kept.source.composer;
    let files = composer.identity_files(&kept.image.template, identity)?;
    let own = Machine::network_address(record.uuid());
    let finish = Finish {
        hostname: &identity.hostname,
        addresses: (&kept.snapshot.kept.network_address, &own),
    };
    let archive = archive(&files, &finish.script());
    archive.map_err(system("archive", Path::new("the identity")))
}

/// Presses the enter key on a serial console.
fn press_enter(console: &Path) -> io::Result<()> {
    let own = OwnSocket::open(console)?;
    UnixStream::connect(own.path())?.write_all(b"\n")
}
