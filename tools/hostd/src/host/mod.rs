//! The host service: the one process of a host that owns its cache, its overlays and its instances.
//!
//! Guests outlive it. Whatever ends the service, the next one finds the records, offers the disks on the
//! same sockets, where the guests' requests have been waiting, and takes the running machines over.

mod adopt;
mod attempt;
mod autostart;
mod boot;
mod cached;
mod commit;
mod counted;
mod deploy;
mod drill;
mod export;
mod forecast;
mod instance;
mod localize;
mod looks;
mod mounts;
mod ports;
mod reimage;
mod replace;
mod show;
mod snapshots;
mod stall;
mod start;
mod still;
mod stop;
mod warm;

use std::collections::BTreeMap;
use std::future::Future;
use std::os::fd::OwnedFd;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use shale_files::{DirFiles, FilePath, IfHeld, Lock, LockFiles, LockKind};
use shale_hvplug::Driver;
use shale_view::{Cache, CacheError, CacheSettings, Counters, FillRate};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

use crate::api::{Answer, Caller, EventKind, Outcome, Request, Stage, StageReport, ToMount};
use crate::compose::remove_unfinished;
use crate::dirs::{HostDirs, private_dir};
use crate::error::{HostError, HostResult, system};
use crate::events::Events;
use crate::keeper::{HeldFiles, StartKeeper};
use crate::logs;
use crate::metrics::Noted;
use crate::mounts::{Mounts, Tell};
use crate::name::InstanceName;
use crate::pins::Pin;
use crate::record::Records;
use crate::seen::{Wanted, Witness};
use crate::source::{OpenPlace, Sources};

use cached::Pinned;
use counted::of_request;
use instance::Instance;

pub use mounts::MemoryMount;

/// How often the service looks whether machines have ended by themselves.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What a host is made of.
pub struct HostParts {
    /// Where it keeps what.
    pub dirs: HostDirs,
    /// What starts its machines.
    pub driver: Arc<dyn Driver>,
    /// Opens the repositories that instances come from.
    pub open_place: OpenPlace,
    /// The chunk cache.
    pub cache: Arc<Cache>,
    /// What every reader of the host counts.
    pub counters: Arc<Counters>,
    /// How fast the content of instances is brought here before they ask for it.
    pub fill: FillRate,
    /// Tells the time.
    pub clock: fn() -> SystemTime,
    /// Starts the process that keeps open files.
    pub start_keeper: StartKeeper,
    /// Hears of what happened that nobody asked for.
    pub tell: Tell,
    /// Where the service's tasks run.
    pub runtime: Handle,
}

/// A host with its instances.
pub struct Host {
    dirs: HostDirs,
    driver: Arc<dyn Driver>,
    sources: Sources,
    records: Records,
    mounts: Arc<Mounts>,
    /// What outlives this service.
    held: Arc<HeldFiles>,
    clock: fn() -> SystemTime,
    runtime: Handle,
    instances: Mutex<BTreeMap<InstanceName, Arc<Instance>>>,
    /// The templates whose content stays in the cache.
    pins: Mutex<Vec<(Pin, Pinned)>>,
    /// Held while the host's own key for SSH is looked for, and made.
    making_key: Mutex<()>,
    /// Held from looking for free ports until it can be seen whose they are.
    choosing_port: Mutex<()>,
    /// Whether there was no hypervisor when it was last looked for.
    lacks_hypervisor: AtomicBool,
    end: watch::Sender<bool>,
    /// Whether guests were shut down because the host is about to be.
    is_going_down: AtomicBool,
    /// Who is told what happens.
    witness: Witness,
    /// When the service started, in seconds since 1970.
    started: u64,
    _lock: Lock,
}

/// Tells a client how far its request is.
pub(crate) struct Progress {
    begun: Instant,
    answers: mpsc::UnboundedSender<Answer>,
    caller: Caller,
    /// Where comes what a client gives that was to mount.
    given: Mutex<Option<oneshot::Receiver<Given>>>,
}

/// What a client gives that was to mount.
#[derive(Default)]
pub(crate) struct Given {
    /// The open device, and what else belongs to it; nothing where it could not.
    pub(crate) files: Vec<OwnedFd>,
    /// Why it could not.
    pub(crate) reason: String,
}

impl Progress {
    pub(crate) fn new(answers: mpsc::UnboundedSender<Answer>, caller: Caller) -> Self {
        let begun = Instant::now();
        Self {
            begun,
            answers,
            caller,
            given: Mutex::default(),
        }
    }

    pub(crate) fn with_mounts(self, given: oneshot::Receiver<Given>) -> Self {
        Self {
            given: Mutex::new(Some(given)),
            ..self
        }
    }

    /// Has the client mount, which it does once in a request; `None` if it is gone.
    async fn have_mounted(&self, how: ToMount) -> Option<Given> {
        let given = {
            let mut given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
            given.take()?
        };
        self.answers.send(Answer::Mount(how)).ok()?;
        given.await.ok()
    }

    /// Tells nobody.
    fn unheard() -> Self {
        let (answers, _) = mpsc::unbounded_channel();
        Self::new(answers, Caller::default())
    }

    fn stage(&self, stage: Stage) {
        self.report(StageReport {
            stage,
            seconds: self.seconds(),
            stall: None,
            brought: None,
        });
    }

    fn report(&self, report: StageReport) {
        // A client that left does not want to know.
        let _ = self.answers.send(Answer::Stage(report));
    }

    /// Resolves when the client is gone, which shows at the first report behind that.
    async fn left(&self) {
        self.answers.closed().await;
    }

    fn seconds(&self) -> f64 {
        self.begun.elapsed().as_secs_f64()
    }
}

impl Host {
    /// Opens the host in its directories: takes over machines that run, cleans up what was half made. Blocks,
    /// and must not be called from a thread of the runtime.
    ///
    /// # Errors
    /// [`HostError::Lock`] if another service has it. An instance that cannot be taken over does not keep
    /// the host from opening: it is shown with its reason.
    pub fn open(parts: HostParts) -> HostResult<Arc<Self>> {
        let HostParts { dirs, runtime, .. } = parts;
        for dir in [dirs.instances(), dirs.run(), dirs.plans(), dirs.events()] {
            private_dir(&dir).map_err(system("make", &dir))?;
        }
        let files = DirFiles::open(&dirs.instances())?;
        // No name of an instance has a dot.
        let lock = FilePath::new("host.lock").unwrap_or_default();
        let lock = files.lock(&lock, LockKind::Exclusive, IfHeld::Fail)?;
        remove_unfinished(&dirs.plans())?;
        let events = Events::open(Arc::new(DirFiles::open(&dirs.events())?), parts.clock)?;
        let witness = Witness {
            events: Arc::new(events),
            noted: Noted::new(),
        };
        let sources = Sources::new(
            parts.open_place,
            parts.cache,
            parts.counters,
            parts.fill,
            runtime.clone(),
            dirs.plans(),
            witness.clone(),
        );
        let keeper = dirs.keeper_socket();
        let held = HeldFiles::new(keeper, parts.start_keeper, runtime.clone());
        let mounts = Mounts::open(&dirs, held.clone(), parts.tell, runtime.clone())?;
        let lacks_hypervisor = parts.driver.capabilities().missing.is_some();
        let host = Arc::new(Self {
            records: Records::open(dirs.instances())?,
            mounts,
            held,
            dirs,
            driver: parts.driver,
            sources,
            clock: parts.clock,
            runtime,
            instances: Mutex::default(),
            pins: Mutex::default(),
            making_key: Mutex::default(),
            choosing_port: Mutex::default(),
            lacks_hypervisor: AtomicBool::new(lacks_hypervisor),
            end: watch::Sender::new(false),
            is_going_down: AtomicBool::new(false),
            started: seconds(parts.clock),
            witness,
            _lock: lock,
        });
        host.pin_all()?;
        host.witness.events.happened(
            None,
            EventKind::ServiceStarted {
                version: env!("CARGO_PKG_VERSION").into(),
                pid: std::process::id(),
                previous: host.witness.events.previous(),
            },
        );
        // First: a machine may wait for a page of one.
        host.mounts.take_up(&host.sources)?;
        host.adopt_all()?;
        Ok(host)
    }

    /// Looks after the machines until the host ends; then every disk is made durable and closed, and the
    /// guests' requests wait for the next service. What waits for requests of mounts ends with the process alone: the
    /// runtime must not be waited for.
    pub async fn run(self: &Arc<Self>, shutdown: impl Future<Output = ()>) {
        let mut ended = self.end.subscribe();
        let look = async {
            let mut broken = BTreeMap::new();
            loop {
                tokio::time::sleep(LOOK_EVERY).await;
                self.look_after_all().await;
                self.look_at_sources(&mut broken);
                self.keep_events().await;
                // A log that cannot be cut is cut the next time.
                let _ = logs::rotate(&self.dirs.host_log());
            }
        };
        let start = async {
            self.start_what_waits().await;
            std::future::pending().await
        };
        tokio::select! {
            () = start => {}
            () = shutdown => {}
            _ = ended.wait_for(|ended| *ended) => {}
            () = look => {}
            () = self.look_after_mounts() => {}
        }
        self.end.send_replace(true);
        let events = &self.witness.events;
        events.happened(None, EventKind::ServiceStopping);
        // Together: one whose registry is gone takes ten seconds.
        let mut closing: JoinSet<()> = self.all().into_iter().map(Self::close).collect();
        while closing.join_next().await.is_some() {}
        self.mounts.close().await;
        self.sources.tell_all().await;
        self.keep_events().await;
    }

    /// Makes durable what happened.
    async fn keep_events(&self) {
        let events = self.witness.events.clone();
        // Where it cannot be done, the log says so.
        let _ = self.runtime.spawn_blocking(move || events.sync()).await;
    }

    /// Changes what can be changed while it runs: how fast content is brought here, and how large the cache is. Blocks.
    ///
    /// # Errors
    /// The cache cannot be so small. Then nothing has changed.
    pub fn reload(&self, fill: FillRate, cache: CacheSettings) -> Result<(), CacheError> {
        self.sources.cache().resize(cache)?;
        self.sources.set_fill(fill);
        let events = &self.witness.events;
        events.happened(None, EventKind::ServiceReloaded);
        Ok(())
    }

    /// What happened, and happens.
    pub(crate) fn events(&self) -> &Arc<Events> {
        &self.witness.events
    }

    /// Whether it ends.
    pub(crate) fn is_ending(&self) -> bool {
        *self.end.borrow()
    }

    /// Resolves when the host ends.
    pub async fn ended(&self) {
        let mut ended = self.end.subscribe();
        // The error is when the host is gone, which means the same.
        let _ = ended.wait_for(|ended| *ended).await;
    }

    /// Does what a client asks for, and tells what came of it.
    pub(crate) async fn handle(
        self: &Arc<Self>,
        request: Request,
        progress: Progress,
    ) -> HostResult<Outcome> {
        let (caller, begun) = (progress.caller.clone(), progress.begun);
        let (planned, looks) = (of_request(&request), request.only_looks());
        let machine = request.machine().map(str::to_owned);
        let done = self.answer(request, progress).await;
        let seconds = begun.elapsed().as_secs_f64();
        match &done {
            Ok(outcome) => {
                self.tell_done((machine.as_deref(), &caller), planned, outcome);
                match looks {
                    true => tracing::debug!(seconds, "done"),
                    false => tracing::info!(seconds, "done"),
                }
            }
            Err(error) => {
                let error = error.failure().message;
                tracing::warn!(seconds, error, "failed");
            }
        }
        done
    }

    async fn answer(self: &Arc<Self>, request: Request, progress: Progress) -> HostResult<Outcome> {
        let name = |name: &str| InstanceName::new(name);
        match request {
            Request::Hello => Ok(Outcome::Here {
                pid: std::process::id(),
            }),
            Request::Deploy(deploy) => self.deploy(*deploy, progress).await,
            Request::List => self.show_all().await,
            Request::Inspect { name: n } => self.show_one(&name(&n)?).await,
            Request::Start { name: n, wait } => self.start(&name(&n)?, wait, progress).await,
            Request::Stop {
                name: n,
                timeout_seconds,
                then,
            } => {
                let limit = Duration::from_secs(timeout_seconds);
                self.stop(&name(&n)?, limit, then, progress).await
            }
            Request::Pause { name: n } => {
                self.want(&name(&n)?, Wanted::Paused, progress.caller).await
            }
            Request::Autostart { name: n, autostart } => {
                self.set_autostart(&name(&n)?, autostart).await
            }
            Request::Resume { name: n } => {
                self.want(&name(&n)?, Wanted::Running, progress.caller)
                    .await
            }
            Request::Remove { name: n } => self.remove(&name(&n)?, progress.caller).await,
            Request::Export { name: n, file } => self.export(&name(&n)?, file, progress).await,
            Request::Localize { name: n } => self.localize(&name(&n)?, progress).await,
            Request::Warm(wish) => self.keep_warm(*wish, progress).await,
            Request::Commit(wish) => self.commit(*wish, progress).await,
            Request::Snapshots { name: n, action } => {
                self.snapshots(&name(&n)?, action, progress).await
            }
            Request::Reimage(wish) => self.reimage(&name(&wish.name)?, *wish, progress).await,
            Request::Drill {
                name: n,
                fault,
                seconds,
            } => self.drill(&name(&n)?, fault, seconds).await,
            Request::Forecast(wish) => self.forecast(*wish, progress).await,
            Request::Precache(wish) => self.precache(*wish, progress).await,
            Request::Unpin { template } => self.blocking(move |host| host.unpin(&template)).await,
            Request::PruneCache => self.blocking(|host| host.prune_cache()).await,
            Request::Cache => self.blocking(|host| host.show_cache()).await,
            Request::Metrics => Ok(Outcome::Metrics(self.metrics().await?)),
            // Whoever has the client's connection answers it, as long as it likes to listen.
            Request::Events(_) => Ok(Outcome::Nothing),
            Request::Mount(wish) => self.mount(*wish, progress).await,
            Request::Mounts => Ok(self.show_mounts()),
            Request::Unmounted { directory } => self.unmounted(&directory).await,
            Request::ShutDown { timeout_seconds } => {
                let limit = Duration::from_secs(timeout_seconds);
                self.shut_down_all(limit, progress).await
            }
            Request::End => {
                self.end.send_replace(true);
                let pid = std::process::id();
                Ok(Outcome::Ending { pid })
            }
        }
    }

    fn instances(&self) -> MutexGuard<'_, BTreeMap<InstanceName, Arc<Instance>>> {
        self.instances
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn pins(&self) -> MutexGuard<'_, Vec<(Pin, Pinned)>> {
        self.pins.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn all(&self) -> Vec<Arc<Instance>> {
        self.instances().values().cloned().collect()
    }

    fn get(&self, name: &InstanceName) -> HostResult<Arc<Instance>> {
        let found = self.instances().get(name).cloned();
        found.ok_or_else(|| HostError::NoInstance(name.to_string()))
    }

    /// Seconds since 1970.
    fn now(&self) -> u64 {
        seconds(self.clock)
    }

    /// Runs what blocks on a thread for that.
    async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Arc<Self>) -> HostResult<T> + Send + 'static,
    ) -> HostResult<T> {
        let (host, span) = (self.clone(), tracing::Span::current());
        let work = move || span.in_scope(|| work(&host));
        let done = self.runtime.spawn_blocking(work).await;
        done.unwrap_or(Err(HostError::Interrupted))
    }
}

/// Seconds since 1970.
fn seconds(clock: fn() -> SystemTime) -> u64 {
    let since = clock().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}
