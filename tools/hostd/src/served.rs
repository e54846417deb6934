//! The disk of an instance, offered on its NBD socket for as long as the instance may run.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use shale_files::DirFiles;
use shale_model::{BlockDevice, PlanId};
use shale_nbd::{Access, Export, Exports, Server, Settings};
use shale_view::{Disk, Failed, FillState, ImpatientDisk, Overlay, SourceReport, View, Waiting};
use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use crate::dirs::current_boot;
use crate::disk_socket::DiskSocket;
use crate::drill::{Drill, DrilledDisk};
use crate::error::HostResult;
use crate::local::local_bytes;
use crate::metrics::{Face, TimedDisk};
use crate::source::Source;

/// Bytes for which there must be room on a disk that is not called full: more than a guest writes at once.
const ROOM_BYTES: u64 = 4 << 20;

/// Opens the overlay of an instance, which lies on this plan. Blocks.
pub(crate) fn open_overlay(directory: &Path, plan: PlanId) -> HostResult<Arc<Overlay>> {
    let overlay = Overlay::open(&DirFiles::open(directory)?, plan, current_boot()?)?;
    Ok(Arc::new(overlay))
}

/// A disk with its server.
pub(crate) struct Served {
    disk: Arc<Disk>,
    /// Whether it counts as full, for a drill.
    full: Arc<Drill<()>>,
    /// The disk as the machine has it.
    impatient: Arc<ImpatientDisk>,
    /// Where what the guest writes lies.
    directory: PathBuf,
    view: Arc<View>,
    overlay: Arc<Overlay>,
    socket: DiskSocket,
    end: oneshot::Sender<()>,
    server: JoinHandle<std::io::Result<()>>,
    fill: Aborted,
    filled: watch::Receiver<FillState>,
    opened: Instant,
    /// Bytes of content that were not here when it was opened, once that is known.
    missing: Arc<OnceLock<u64>>,
}

/// A task that ends when this is dropped.
struct Aborted(JoinHandle<()>);

impl Drop for Aborted {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Served {
    /// Opens the overlay over the view of its plan, listens on `socket`, and begins to fill the cache with what the plan names.
    /// Blocks; server and fill run on `runtime`. Requests of the machine wait for `patience`.
    pub(crate) fn open(
        source: &Source,
        (plan, view): (PlanId, Arc<View>),
        (overlay, patience): (&Path, Option<Duration>),
        socket: DiskSocket,
        runtime: &Handle,
    ) -> HostResult<Self> {
        let directory = overlay.to_owned();
        let overlay = open_overlay(overlay, plan)?;
        let disk = Arc::new(Disk::writable(view.clone(), overlay.clone()));
        let (state, filled) = watch::channel(FillState::Running);
        let missing = Arc::<OnceLock<u64>>::default();
        let fill = Aborted(runtime.spawn({
            let (filler, view) = (source.filler.clone(), view.clone());
            let missing = missing.clone();
            async move {
                if let Ok((content, here)) = local_bytes(view.reader().cache(), view.plan()) {
                    // It is set once.
                    let _ = missing.set(content - here);
                }
                loop {
                    let changed = filler.changed();
                    filler.fill(&view, &state).await;
                    // Another rate, or a larger cache.
                    changed.await;
                }
            }
        }));
        let full = Arc::<Drill<()>>::default();
        let drilled = DrilledDisk {
            inner: disk.clone(),
            full: full.clone(),
        };
        let impatient = Arc::new(ImpatientDisk::new(Arc::new(drilled), patience));
        let timed = TimedDisk {
            inner: impatient.clone(),
            reads: source.witness.noted.reads(Face::Nbd),
        };
        let export = Export::new(Arc::new(timed), Access::ReadWrite);
        let server = Server::new(Exports::single(export)?, Settings::default());
        let listener = {
            let _inside = runtime.enter();
            // Its directory says whose group that is.
            socket.listen()?
        };
        let (end, ended) = oneshot::channel();
        let server = runtime.spawn(async move {
            // The error is when the sender is gone, which means the same.
            let ended = async { drop(ended.await) };
            server.serve(listener, ended).await
        });
        Ok(Self {
            disk,
            full,
            impatient,
            directory,
            view,
            overlay,
            socket,
            end,
            server,
            fill,
            filled,
            opened: Instant::now(),
            missing,
        })
    }

    /// The reads that wait for content now.
    pub(crate) fn waiting(&self) -> Option<Waiting> {
        self.view.waits().now()
    }

    /// Time in which at least one of its reads waited.
    pub(crate) fn waited(&self) -> Duration {
        self.view.waits().total()
    }

    /// The plan that it shows, as it is read.
    pub(crate) fn view(&self) -> Arc<View> {
        self.view.clone()
    }

    /// Bytes that a fill has brought, and how long ago it began, if all is here that was not.
    pub(crate) fn brought_all(&self) -> Option<(u64, Duration)> {
        let missing = *self.missing.get()?;
        let is_whole = *self.filled.borrow() == FillState::Whole;
        (missing > 0 && is_whole).then(|| (missing, self.opened.elapsed()))
    }

    /// Whether content is still on its way that requests of the machine were given up for.
    pub(crate) fn is_late(&self) -> bool {
        self.impatient.is_late()
    }

    /// Whether there seems to be room for what the guest writes. Nobody knows before it is written.
    pub(crate) fn has_room(&self) -> bool {
        let room = rustix::fs::statvfs(&self.directory);
        let room = room.map(|found| found.f_bavail.saturating_mul(found.f_frsize));
        !self.full.is_on() && room.is_ok_and(|bytes| bytes >= ROOM_BYTES)
    }

    /// What makes it count as full.
    pub(crate) fn full(&self) -> Arc<Drill<()>> {
        self.full.clone()
    }

    /// Where its content comes from.
    pub(crate) fn sources(&self) -> Vec<SourceReport> {
        self.view.reader().supply().report()
    }

    /// The requests of the machine that failed.
    pub(crate) fn failed(&self) -> Failed {
        self.impatient.failed()
    }

    /// What the guest wrote.
    pub(crate) fn overlay(&self) -> Arc<Overlay> {
        self.overlay.clone()
    }

    /// How far the disk's content is on its way to this host.
    pub(crate) fn filled(&self) -> FillState {
        self.filled.borrow().clone()
    }

    /// The disk, whose requests wait for as long as it takes.
    pub(crate) fn device(&self) -> Arc<dyn BlockDevice> {
        self.disk.clone()
    }

    /// Ends the server for good when all that clients sent is answered, and makes what they wrote durable.
    pub(crate) async fn close(self) -> HostResult<()> {
        let socket = self.socket.clone();
        let left = self.leave().await;
        // The next service sees to what cannot be closed now.
        let _ = tokio::task::spawn_blocking(move || socket.forget()).await;
        left
    }

    /// Ends the server as well, and leaves the socket to the next service with those who connect to it.
    pub(crate) async fn leave(self) -> HostResult<()> {
        drop(self.fill);
        let _ = self.end.send(());
        // A server that failed has closed its connections too.
        let _ = self.server.await;
        // What it brings holds the overlay, which is somebody else's from now on.
        self.impatient.end().await;
        let overlay = self.overlay;
        let flushed = tokio::task::spawn_blocking(move || overlay.flush()).await;
        match flushed {
            Ok(flushed) => Ok(flushed?),
            Err(_) => Err(crate::error::HostError::Interrupted),
        }
    }
}
