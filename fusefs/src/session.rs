//! The session: threads that read requests from `/dev/fuse` and answer them.
//!
//! A request's future is polled once in the thread that read it: what is at hand is answered without another task. What
//! must wait becomes a task, with its slot. All threads share one open file: what was read through a file of one's own
//! (`FUSE_DEV_IOC_CLONE`) would fail when a killed process closes that, instead of waiting for the next process.

use std::future::{Future, poll_fn};
use std::io::IoSlice;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use rustix::io::Errno;
use tokio::runtime::Handle;

use crate::face::{Face, Outcome};
use crate::limits::{
    CONGESTION_THRESHOLD, MAX_BACKGROUND, MAX_PAGES, MAX_READAHEAD_BYTES, THREADS,
};
use crate::proto::{MAJOR, MINOR};
use crate::reply::{Body, InitReply, header};
use crate::request::{Op, Request};
use crate::slots::{Slot, Slots, SlotsError};
use crate::waiting::Waiting;

/// Wait before a signal is told to the kernel again, for a request that another thread is just carrying out.
const SIGNAL_AGAIN: Duration = Duration::from_millis(1);

/// What a later process needs to go on with a mount: the open `/dev/fuse`, and the memory that requests are read into.
pub struct Connection {
    device: OwnedFd,
    slots: Arc<Slots>,
    /// Requests that an earlier process read and did not answer.
    left: Vec<Slot>,
}

impl Connection {
    /// For a mount that was just made, over its open `/dev/fuse`. [`crate::mount`] does that.
    ///
    /// # Errors
    /// There is no memory for requests.
    pub fn new(device: OwnedFd, face: &dyn Face) -> Result<Self, SlotsError> {
        let slots = Arc::new(Slots::create(face.kind().slots())?);
        let left = Vec::new();
        Ok(Self {
            device,
            slots,
            left,
        })
    }

    /// For a mount that an earlier process served, which must have ended. `device` and `memory` are what
    /// [`Connection::keep`] gave, and `face` shows what it showed. Neither who keeps them nor who takes over may have files
    /// of the mount open, which it would wait for when it starts a process or ends: closing a file asks the server.
    ///
    /// # Errors
    /// The memory is not that of such a mount.
    pub fn take_over(
        device: OwnedFd,
        memory: OwnedFd,
        face: &dyn Face,
    ) -> Result<Self, SlotsError> {
        let kind = face.kind();
        let (slots, left) = Slots::open(memory, kind.slots())?;
        // Another build may have agreed on what this one does not do.
        match slots.negotiated() {
            Some((minor, flags)) if minor != MINOR || flags & !kind.features() != 0 => {
                return Err(SlotsError::Foreign);
            }
            _ => {}
        }
        Ok(Self {
            device,
            slots,
            left,
        })
    }

    /// What a keeper must hold open, so that a later process can take the mount over: `/dev/fuse`, and the memory.
    pub fn keep(&self) -> (BorrowedFd<'_>, BorrowedFd<'_>) {
        (self.device.as_fd(), self.slots.file())
    }
}

/// Why a session ended before its mount did.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// `/dev/fuse` failed.
    #[error("read from /dev/fuse")]
    Device(#[source] Errno),
    /// The kernel's version of the protocol is older than what is needed.
    #[error(
        "the kernel speaks version {major}.{minor} of FUSE, {MAJOR}.{MINOR} is needed (Linux 5.4)"
    )]
    OldKernel {
        /// Its major version.
        major: u32,
        /// Its minor version.
        minor: u32,
    },
}

/// Why a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// There is no mount any more.
    Unmounted,
    /// The mount is there, for a later process ([`Session::leave`]).
    Left,
}

/// What a session did so far.
#[derive(Debug, Default)]
pub struct Counters {
    /// Requests, without those that have no answer.
    pub requests: AtomicU64,
    /// Requests that had to wait.
    pub waited: AtomicU64,
    /// Requests that an earlier process had read.
    pub taken_over: AtomicU64,
}

/// A face, served.
pub struct Session<F> {
    shared: Arc<Shared<F>>,
    left: Mutex<Vec<Slot>>,
}

struct Shared<F> {
    face: F,
    device: OwnedFd,
    slots: Arc<Slots>,
    waiting: Waiting,
    counters: Arc<Counters>,
}

impl<F: Face> Session<F> {
    /// Over a connection that was made for this face.
    pub fn new(face: F, connection: Connection) -> Self {
        let Connection {
            device,
            slots,
            left,
        } = connection;
        Self {
            shared: Arc::new(Shared {
                face,
                device,
                slots,
                waiting: Waiting::default(),
                counters: Arc::default(),
            }),
            left: Mutex::new(left),
        }
    }

    /// What it did so far.
    pub fn counters(&self) -> &Arc<Counters> {
        &self.shared.counters
    }

    /// Serves until the file system is unmounted, or left; blocks. Requests that wait do so on `runtime`, which needs time.
    ///
    /// All that an earlier process left is begun before anything new is read.
    ///
    /// # Errors
    /// The device fails, or the kernel is too old.
    pub fn serve(&self, runtime: &Handle) -> Result<Ended, SessionError> {
        let left = std::mem::take(&mut *self.left.lock().unwrap_or_else(PoisonError::into_inner));
        let mut body = Body::default();
        let entered = runtime.enter();
        for slot in left {
            self.shared
                .counters
                .taken_over
                .fetch_add(1, Ordering::Relaxed);
            self.shared.begin(slot, &mut body, runtime)?;
        }
        drop(entered);
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = cores.clamp(*THREADS.start(), *THREADS.end());
        std::thread::scope(|scope| {
            let readers: Vec<_> = (0..threads)
                .map(|_| scope.spawn(|| self.shared.read_requests(runtime)))
                .collect();
            let mut result = Ok(());
            for reader in readers {
                match reader.join() {
                    // The reason goes before what came of it.
                    Ok(ended @ Err(SessionError::OldKernel { .. })) => result = ended,
                    Ok(ended) => result = result.and(ended),
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
            result.map(|()| match self.shared.slots.is_closed() {
                true => Ended::Left,
                false => Ended::Unmounted,
            })
        })
    }

    /// Begins nothing any more and leaves the file system mounted, for a later process: that takes over what is requested
    /// from now on, and what is under way when this process ends. A thread that waits for a request goes on waiting, as the
    /// kernel has no way to end that but with a request: so [`Session::serve`] may not end before the process does.
    pub fn leave(&self) {
        self.shared.slots.close();
    }
}

impl<F: Face> Shared<F> {
    fn read_requests(self: &Arc<Self>, runtime: &Handle) -> Result<(), SessionError> {
        // What is polled here may begin tasks.
        let _entered = runtime.enter();
        let mut body = Body::default();
        loop {
            let Some(mut slot) = self.slots.take() else {
                return Ok(());
            };
            match slot.receive(self.device.as_fd()) {
                // Left: what came stays in its slot.
                Ok(()) if self.slots.is_closed() => return Ok(()),
                // The kernel never gives nothing; whatever stands for it has gone.
                Ok(()) if slot.bytes().is_empty() => {
                    slot.free();
                    return Err(SessionError::Device(Errno::NOTCONN));
                }
                Ok(()) => self.begin(slot, &mut body, runtime)?,
                // Unmounted.
                Err(Errno::NODEV) => {
                    slot.free();
                    return Ok(());
                }
                // A signal; or the request was given up while it was read.
                Err(Errno::INTR | Errno::AGAIN | Errno::NOENT) => slot.free(),
                Err(error) => return Err(SessionError::Device(error)),
            }
        }
    }

    /// Answers what is in a slot, or makes it a task that does.
    fn begin(
        self: &Arc<Self>,
        slot: Slot,
        spare: &mut Body,
        runtime: &Handle,
    ) -> Result<(), SessionError> {
        let request = match Request::parse(slot.bytes()) {
            Ok(request) => request,
            Err(malformed) => {
                if let Some(unique) = malformed.unique {
                    self.send(unique, Err(Errno::INVAL), &[]);
                }
                slot.free();
                return Ok(());
            }
        };
        match request.op {
            Op::Forget => slot.free(),
            Op::Interrupt(of) => {
                self.interrupt(request.unique, of);
                slot.free();
            }
            Op::Init { .. } => {
                let done = self.negotiate(&request);
                slot.free();
                return done;
            }
            _ => {
                self.counters.requests.fetch_add(1, Ordering::Relaxed);
                let mut work = Box::pin(answer(self.clone(), slot, std::mem::take(spare)));
                // Nobody needs to be woken: a future that is not ready at once gets a task, which polls it again with a
                // waker of its own.
                match work.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                    Poll::Ready(body) => *spare = body,
                    Poll::Pending => {
                        self.counters.waited.fetch_add(1, Ordering::Relaxed);
                        runtime.spawn(work);
                    }
                }
            }
        }
        Ok(())
    }

    fn negotiate(&self, request: &Request<'_>) -> Result<(), SessionError> {
        let Op::Init {
            major,
            minor,
            flags,
        } = request.op
        else {
            return Ok(());
        };
        if (major, minor) < (MAJOR, MINOR) {
            self.send(request.unique, Err(Errno::PROTO), &[]);
            return Err(SessionError::OldKernel { major, minor });
        }
        let kind = self.face.kind();
        let flags = flags & kind.features();
        let mut body = Body::default();
        body.init(&InitReply {
            major: MAJOR,
            // Never more than is written here; a kernel of a later major version asks again.
            minor: MINOR,
            // The kernel takes what it was told by whoever mounted, if that is less.
            max_readahead: MAX_READAHEAD_BYTES,
            flags,
            max_background: MAX_BACKGROUND,
            congestion_threshold: CONGESTION_THRESHOLD,
            max_write: kind.max_write(),
            max_pages: MAX_PAGES,
        });
        if major == MAJOR {
            self.slots.set_negotiated(MINOR, flags);
        }
        self.send(request.unique, Ok(()), body.bytes());
        Ok(())
    }

    /// A process that waits for the request `of` got a signal.
    fn interrupt(&self, unique: u64, of: u64) {
        if !self.waiting.signal(of) && self.slots.holds(of) {
            // Another thread is at it, and may find that it must wait: then the signal is wanted.
            std::thread::sleep(SIGNAL_AGAIN);
            self.send(unique, Err(Errno::AGAIN), &[]);
        }
    }

    /// Answers a request.
    fn send(&self, unique: u64, result: Result<(), Errno>, body: &[u8]) {
        let body = if result.is_ok() { body } else { &[] };
        let error = result.err().map_or(0, Errno::raw_os_error);
        let head = header(unique, error, body.len());
        let parts = [IoSlice::new(&head), IoSlice::new(body)];
        match rustix::io::writev(&self.device, &parts[..1 + usize::from(!body.is_empty())]) {
            // Whoever asked is gone, or was answered by an earlier process; or all is unmounted.
            Ok(_) | Err(Errno::NOENT | Errno::NODEV) => {}
            // The kernel does not take this answer; without any, whoever asked would wait for ever.
            Err(_) => {
                let head = header(unique, Errno::IO.raw_os_error(), 0);
                let _ = rustix::io::write(&self.device, &head);
            }
        }
    }
}

/// Carries the request in `slot` out and answers it; gives the body back.
async fn answer<F: Face>(shared: Arc<Shared<F>>, slot: Slot, body: Body) -> Body {
    let mut under_way = UnderWay {
        shared: &shared,
        slot: Some(slot),
    };
    let mut body = body;
    body.clear();
    let Some(slot) = under_way.slot.as_ref() else {
        return body;
    };
    let Ok(request) = Request::parse(slot.bytes()) else {
        return body;
    };
    let changes = request.op.changes();
    let result = match slot.outcome() {
        Some(outcome) => again(&request, outcome, &mut body),
        None => match shared.face.answer(&request, &mut body) {
            Outcome::Done(result) => result,
            Outcome::Wait(mut work) => match poll_once(work.as_mut()).await {
                Poll::Ready(result) => result,
                Poll::Pending => {
                    let waiter = shared.waiting.enter(request.unique, request.pid);
                    tokio::select! {
                        biased;
                        result = work => result,
                        () = waiter.given_up() => Err(Errno::INTR),
                    }
                }
            },
        },
    };
    if changes {
        slot.set_answering(outcome_of(&request, result, &body));
    }
    shared.send(request.unique, result, body.bytes());
    if let Some(slot) = under_way.slot.take() {
        slot.free();
    }
    body
}

/// The number that stands for the result of a change: bytes written, or an error below 0.
fn outcome_of(request: &Request<'_>, result: Result<(), Errno>, body: &Body) -> i32 {
    match (result, request.op) {
        (Err(error), _) => -error.raw_os_error(),
        (Ok(()), Op::Write { .. }) => {
            let written = body.bytes().first_chunk();
            written.map_or(0, |bytes| i32::from_ne_bytes(*bytes))
        }
        (Ok(()), _) => 0,
    }
}

/// The answer of [`outcome_of`] once more.
fn again(request: &Request<'_>, outcome: i32, body: &mut Body) -> Result<(), Errno> {
    if outcome < 0 {
        // Errors of Linux end at 4095; what is larger is memory that broke.
        let number = outcome.unsigned_abs().min(4095) as i32;
        return Err(Errno::from_raw_os_error(number));
    }
    if let Op::Write { .. } = request.op {
        body.count(outcome.unsigned_abs());
    }
    Ok(())
}

async fn poll_once<T>(mut work: Pin<&mut (dyn Future<Output = T> + Send)>) -> Poll<T> {
    poll_fn(|cx| Poll::Ready(work.as_mut().poll(cx))).await
}

/// A request that is being carried out. If that panics, it is answered with an error; if it is dropped because the
/// process ends, it stays for the next one.
struct UnderWay<'a, F: Face> {
    shared: &'a Arc<Shared<F>>,
    slot: Option<Slot>,
}

impl<F: Face> Drop for UnderWay<'_, F> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        if let Some(slot) = self.slot.take() {
            if let Ok(request) = Request::parse(slot.bytes()) {
                self.shared.send(request.unique, Err(Errno::IO), &[]);
            }
            slot.free();
        }
    }
}
