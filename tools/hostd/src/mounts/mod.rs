//! The mounts of a host: what is mounted where, kept durably, and served again by whatever service comes next.
//!
//! A mount is noted before it is made, and given to the keeper before it is served; what a killed service leaves of either
//! is cleaned up by the next. Mounts do not outlive a boot of the host: nobody knows whether what is at their directories
//! then is what was there before.

mod face;
mod record;
mod show;

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use shale_fusefs::{Connection, Ended, Face, MountError, Session, SessionError, clear};
use shale_view::Overlay;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::dirs::{HostDirs, current_boot, private_dir};
use crate::error::{HostError, HostResult, system};
use crate::keeper::{HeldFiles, KeptName};
use crate::keys;
use crate::source::Sources;

use record::MountRecords;

pub(crate) use face::Opened;
pub use face::{disk_face, tree_face};
pub(crate) use record::{MountOwner, MountRecord, Shows};

/// Most mounts of a host: each has threads of its own.
const MAX_MOUNTS: usize = 256;

/// How every name begins under which the keeper has a mount.
const PREFIX: &str = "mount.";

/// How that of the memory of a machine goes on.
const HOST: &str = "host.";

/// How long a mount that was unmounted may take to be gone.
const ENDED_WITHIN: Duration = Duration::from_secs(5);

/// Tells whoever runs the service what happened that nobody asked for.
pub type Tell = Box<dyn Fn(&str) + Send + Sync>;

/// All mounts of a host.
pub(crate) struct Mounts {
    records: MountRecords,
    held: Arc<HeldFiles>,
    runtime: Handle,
    tell: Tell,
    all: Mutex<BTreeMap<KeptName, Mounted>>,
}

/// A mount while the service runs.
pub(crate) struct Mounted {
    /// As it is kept; `None` where it is damaged.
    pub(crate) record: Option<MountRecord>,
    pub(crate) state: MountState,
}

/// How far a mount is.
pub(crate) enum MountState {
    /// It is being made.
    Making,
    /// It is served.
    Served(Serving),
    /// Whoever uses it waits, because it cannot be served now.
    Waits(String),
}

/// A mount that is served.
pub(crate) struct Serving {
    session: Arc<Session<Box<dyn Face>>>,
    overlay: Option<Arc<Overlay>>,
    ended: watch::Receiver<bool>,
}

impl Mounts {
    /// The mounts of a host, of which none is served yet. Blocks.
    pub(crate) fn open(
        dirs: &HostDirs,
        held: Arc<HeldFiles>,
        tell: Tell,
        runtime: Handle,
    ) -> HostResult<Arc<Self>> {
        let dir = dirs.mounts();
        private_dir(&dir).map_err(system("make", &dir))?;
        Ok(Arc::new(Self {
            records: MountRecords::open(dir)?,
            held,
            runtime,
            tell,
            all: Mutex::default(),
        }))
    }

    /// Takes up every mount that an earlier service left, and cleans up after those that nobody can. Blocks.
    pub(crate) fn take_up(self: &Arc<Self>, sources: &Sources) -> HostResult<()> {
        let names = self.records.names()?;
        // What has no record was being removed, or was not yet noted as mounted.
        for name in self.held.find()? {
            if name.as_str().starts_with(PREFIX) && !names.contains(&name) {
                self.held.remove(&name)?;
            }
        }
        let boot = boot_text()?;
        for name in names {
            match self.records.get(&name) {
                Ok(record) if record.boot != boot => self.records.remove(&name)?,
                Ok(record) => self.find(name, record, sources)?,
                Err(error) => self.note_waits(name, None, error.failure().message),
            }
        }
        Ok(())
    }

    fn find(
        self: &Arc<Self>,
        name: KeptName,
        record: MountRecord,
        sources: &Sources,
    ) -> HostResult<()> {
        let Some(files) = self.held.take_up(&name)? else {
            match &record.directory {
                Some(directory) => self.bury(&name, directory),
                // It has ended with whoever had it.
                None => (self.tell)(&format!("{} is gone", what_of(&name, &record))),
            }
            return self.forget(&name);
        };
        if let Err(error) = self.serve_on(&name, &record, files, sources) {
            self.note_waits(name, Some(record), error.failure().message);
        }
        Ok(())
    }

    /// Notes that a mount cannot be served, and tells why where that is news.
    fn note_waits(&self, name: KeptName, record: Option<MountRecord>, reason: String) {
        let what = record.as_ref().map(|record| what_of(&name, record));
        let what = what.unwrap_or_else(|| format!("the mount `{name}`"));
        let state = MountState::Waits(reason.clone());
        let before = self.all().insert(name, Mounted { record, state });
        let is_known = before.is_some_and(
            |before| matches!(before.state, MountState::Waits(before) if before == reason),
        );
        if !is_known {
            (self.tell)(&format!("{what} waits, as it cannot be served: {reason}"));
        }
    }

    /// Serves a mount with the files that the keeper had. Blocks.
    fn serve_on(
        self: &Arc<Self>,
        name: &KeptName,
        record: &MountRecord,
        files: Vec<OwnedFd>,
        sources: &Sources,
    ) -> HostResult<()> {
        let opened = Opened::new(record, sources)?;
        let mut files = files.into_iter();
        let connection = match (files.next(), files.next()) {
            (Some(device), Some(memory)) => {
                Connection::take_over(device, memory, &opened.face).map_err(MountError::from)?
            }
            // It was killed before it had read a request.
            (Some(device), None) => self.keep(name, device, &opened)?,
            (None, _) => return Err(HostError::Interrupted),
        };
        self.begin(name, record.clone(), opened, connection);
        Ok(())
    }

    /// Whether a mount cannot be served.
    pub(crate) fn waits(&self, name: &KeptName) -> bool {
        let all = self.all();
        let found = all.get(name);
        found.is_some_and(|mounted| matches!(mounted.state, MountState::Waits(_)))
    }

    /// Whether something cannot be served.
    pub(crate) fn any_waits(&self) -> bool {
        let waits = |mounted: &Mounted| matches!(mounted.state, MountState::Waits(_));
        self.all().values().any(waits)
    }

    /// Tries again to serve what cannot be. Blocks.
    pub(crate) fn try_again(self: &Arc<Self>, sources: &Sources) {
        let waiting: Vec<_> = {
            let all = self.all();
            let waiting = all.iter().filter_map(|(name, mounted)| {
                let waits = matches!(mounted.state, MountState::Waits(_));
                let record = mounted.record.clone().filter(|_| waits)?;
                Some((name.clone(), record))
            });
            waiting.collect()
        };
        for (name, record) in waiting {
            // Why it waits is known.
            let _ = self.find(name, record, sources);
        }
    }

    /// Notes a mount that is about to be made, so that its name and its directory are taken. Blocks.
    pub(crate) fn reserve(&self, name: &KeptName, record: &MountRecord) -> HostResult<()> {
        {
            let mut all = self.all();
            if all.len() >= MAX_MOUNTS {
                return Err(HostError::Mounts(MAX_MOUNTS));
            }
            let is_there = |mounted: &Mounted| {
                let other = mounted.record.as_ref();
                let other = other.and_then(|other| other.directory.as_ref());
                let is_same = other.is_some() && other == record.directory.as_ref();
                is_same && !mounted.is_detached()
            };
            if all.contains_key(name) || all.values().any(is_there) {
                return Err(match &record.directory {
                    Some(directory) => HostError::Mounted(directory.clone()),
                    None => HostError::Busy(machine_of(name).unwrap_or_default().to_owned()),
                });
            }
            let state = MountState::Making;
            let record = Some(record.clone());
            all.insert(name.clone(), Mounted { record, state });
        }
        let put = self.records.put(name, record);
        if put.is_err() {
            self.all().remove(name);
        }
        put
    }

    /// Serves a mount that was just made, whose open device this is. Blocks.
    pub(crate) fn serve(
        self: &Arc<Self>,
        name: &KeptName,
        record: MountRecord,
        opened: Opened,
        device: OwnedFd,
    ) -> HostResult<()> {
        let connection = self.keep(name, device, &opened)?;
        self.begin(name, record, opened, connection);
        Ok(())
    }

    /// Has a mount kept before a request of it is read.
    fn keep(&self, name: &KeptName, device: OwnedFd, opened: &Opened) -> HostResult<Connection> {
        let connection = Connection::new(device, &opened.face).map_err(MountError::from)?;
        let (device, memory) = connection.keep();
        self.held.put(name, &[device, memory])?;
        Ok(connection)
    }

    fn begin(
        self: &Arc<Self>,
        name: &KeptName,
        record: MountRecord,
        opened: Opened,
        connection: Connection,
    ) {
        let Opened { face, overlay } = opened;
        let session = Arc::new(Session::new(face, connection));
        let (end, ended) = watch::channel(false);
        let state = MountState::Served(Serving {
            session: session.clone(),
            overlay,
            ended,
        });
        let what = what_of(name, &record);
        let record = Some(record);
        self.all().insert(name.clone(), Mounted { record, state });
        let (this, name, runtime) = (self.clone(), name.clone(), self.runtime.clone());
        let serving = self.runtime.spawn_blocking(move || session.serve(&runtime));
        self.runtime.spawn(async move {
            let served = serving.await;
            let cleanup = this.runtime.clone().spawn_blocking(move || match served {
                Ok(Ok(Ended::Left)) => Ok(()),
                Ok(Ok(Ended::Unmounted)) => this.forget(&name),
                Ok(Err(error)) => this.failed(&name, &what, &error),
                // It panicked: a bug. The keeper has the mount.
                Err(_) => Ok(()),
            });
            // What is left is cleaned up by the next service.
            let _ = cleanup.await;
            end.send_replace(true);
        });
    }

    /// The device of a mount failed, so that nobody can serve it.
    fn failed(&self, name: &KeptName, what: &str, error: &SessionError) -> HostResult<()> {
        (self.tell)(&format!("{what} ended: {error}"));
        self.forget(name)
    }

    /// Takes away what is left of a mount that nobody keeps open.
    fn bury(&self, name: &KeptName, directory: &Path) {
        let shown = directory.display();
        (self.tell)(&match clear(directory) {
            Ok(true) => format!(
                "the mount on `{shown}` was lost with its keeper and its service: unmounted"
            ),
            Ok(false) => format!("the mount on `{shown}` is gone ({name})"),
            Err(error) => format!(
                "the mount on `{shown}` was lost with its keeper and its service, and is still there: {error}"
            ),
        });
    }

    /// Forgets a mount that is no more: its record first, so that what the keeper has is known to be garbage.
    pub(crate) fn forget(&self, name: &KeptName) -> HostResult<()> {
        self.records.remove(name)?;
        let gone = self.all().remove(name);
        self.held.remove(name)?;
        if let Some(Mounted {
            state: MountState::Served(serving),
            ..
        }) = gone
            && let Some(overlay) = &serving.overlay
        {
            overlay.flush()?;
        }
        Ok(())
    }

    /// Resolves when a mount that was unmounted is forgotten; whether that came in time.
    pub(crate) async fn is_gone(&self, name: &KeptName) -> bool {
        let ended = match self.all().get(name) {
            None => return true,
            Some(Mounted {
                state: MountState::Served(serving),
                ..
            }) => serving.ended.clone(),
            Some(_) => return false,
        };
        has_ended(ended).await
    }

    /// Leaves every mount to the next service, with what was written to it made durable. Threads that wait for requests end
    /// with the process.
    pub(crate) async fn close(self: &Arc<Self>) {
        let served: Vec<_> = {
            let mut all = self.all();
            let names: Vec<_> = all.keys().cloned().collect();
            let all = names
                .iter()
                .filter_map(|name| match all.remove(name)?.state {
                    MountState::Served(serving) => Some(serving),
                    MountState::Making | MountState::Waits(_) => None,
                });
            all.collect()
        };
        for serving in &served {
            serving.session.leave();
        }
        for serving in served {
            if let Some(overlay) = serving.overlay {
                // What cannot be made durable now is in the files, and is when somebody flushes.
                let _ = self.runtime.spawn_blocking(move || overlay.flush()).await;
            }
        }
    }

    pub(crate) fn all(&self) -> MutexGuard<'_, BTreeMap<KeptName, Mounted>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A name for a mount that somebody asks for, which no other has.
pub(crate) fn user_mount() -> HostResult<KeptName> {
    let mut random = [0; 8];
    keys::random(&mut random).map_err(system("read", Path::new("/dev/urandom")))?;
    let text = format!("{PREFIX}{:016x}", u64::from_le_bytes(random));
    KeptName::new(&text).ok_or(HostError::Interrupted)
}

/// The name of the mount that the memory of a machine is read from.
pub(crate) fn memory_mount(machine: &str) -> HostResult<KeptName> {
    let kept = KeptName::new(&format!("{PREFIX}{HOST}{machine}"));
    kept.ok_or_else(|| HostError::Name(machine.to_owned()))
}

/// The machine whose memory is read from a mount.
pub(crate) fn machine_of(name: &KeptName) -> Option<&str> {
    name.as_str().strip_prefix(PREFIX)?.strip_prefix(HOST)
}

/// A mount in words for people.
fn what_of(name: &KeptName, record: &MountRecord) -> String {
    match (&record.directory, machine_of(name)) {
        (None, Some(machine)) => format!("the memory of `{machine}`"),
        (None, None) => format!("the mount `{name}`"),
        (Some(directory), _) => format!("the mount on `{}`", directory.display()),
    }
}

/// The boot that records are of.
pub(crate) fn boot_text() -> HostResult<String> {
    let boot = current_boot()?.0;
    Ok(boot.iter().map(|byte| format!("{byte:02x}")).collect())
}

async fn has_ended(mut ended: watch::Receiver<bool>) -> bool {
    let ended = ended.wait_for(|ended| *ended);
    timeout(ENDED_WITHIN, ended).await.is_ok()
}
