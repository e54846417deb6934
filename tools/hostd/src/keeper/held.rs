//! The host service's side: what it has the keeper keep, and a keeper to do it.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::sleep;
use std::time::{Duration, Instant};

use tokio::net::UnixStream;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use super::client::{KeeperClient, KeeperError};
use super::protocol::KeptName;

/// Starts a keeper that listens on a socket at this path.
pub type StartKeeper = Box<dyn Fn(&Path) -> io::Result<Child> + Send + Sync>;

/// How long a keeper may take until it listens.
const LISTENS_WITHIN: Duration = Duration::from_secs(10);

/// How often it is looked at.
const POLL: Duration = Duration::from_millis(5);

/// Wait between attempts to start another keeper in place of one that died.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// What this service has the keeper keep. It has the same files open itself, so that a keeper that dies is replaced.
pub(crate) struct HeldFiles {
    socket: PathBuf,
    start: StartKeeper,
    runtime: Handle,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    files: BTreeMap<KeptName, Vec<OwnedFd>>,
    connected: Option<Connected>,
    /// The keeper, where this process has started it.
    child: Option<Child>,
}

struct Connected {
    client: KeeperClient,
    watch: JoinHandle<()>,
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.watch.abort();
    }
}

impl HeldFiles {
    /// For a keeper at `socket`, which is started with `start` when there is something to keep.
    pub(crate) fn new(socket: PathBuf, start: StartKeeper, runtime: Handle) -> Arc<Self> {
        Arc::new(Self {
            socket,
            start,
            runtime,
            state: Mutex::default(),
        })
    }

    /// Names of what an earlier service had the keeper keep; none if no keeper runs. Blocks.
    pub(crate) fn find(self: &Arc<Self>) -> Result<Vec<KeptName>, KeeperError> {
        match KeeperClient::connect(&self.socket) {
            Ok(client) => client.list(),
            Err(error) if is_nobody(&error) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// Takes up what an earlier service had the keeper keep under this name. Blocks.
    pub(crate) fn take_up(
        self: &Arc<Self>,
        name: &KeptName,
    ) -> Result<Option<Vec<OwnedFd>>, KeeperError> {
        // One at a time: a keeper has few clients, and a host starts many machines at once.
        let mut state = self.state();
        let client = match KeeperClient::connect(&self.socket) {
            Err(error) if is_nobody(&error) => return Ok(None),
            connected => connected?,
        };
        let Some(files) = client.get(name)? else {
            return Ok(None);
        };
        state.files.insert(name.clone(), doubled(&files)?);
        self.connect(&mut state)?;
        Ok(Some(files))
    }

    /// Has these files kept, in place of what is kept under this name. Blocks.
    pub(crate) fn put(
        self: &Arc<Self>,
        name: &KeptName,
        files: &[BorrowedFd<'_>],
    ) -> Result<(), KeeperError> {
        let doubles = files.iter().map(BorrowedFd::try_clone_to_owned);
        let doubles: io::Result<Vec<_>> = doubles.collect();
        let doubles = doubles.map_err(KeeperError::Files)?;
        let mut state = self.state();
        state.files.insert(name.clone(), doubles);
        let put = self.ask(&mut state, |client| client.put(name, files));
        if put.is_err() {
            state.files.remove(name);
        }
        put
    }

    /// Has the files of this name closed; that there are none is no error. Blocks.
    pub(crate) fn remove(self: &Arc<Self>, name: &KeptName) -> Result<(), KeeperError> {
        let mut state = self.state();
        state.files.remove(name);
        match KeeperClient::connect(&self.socket) {
            Ok(client) => client.remove(name),
            // With it went what it had.
            Err(error) if is_nobody(&error) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Asks the keeper; once more if it turns out to be gone.
    fn ask(
        self: &Arc<Self>,
        state: &mut State,
        work: impl Fn(&KeeperClient) -> Result<(), KeeperError>,
    ) -> Result<(), KeeperError> {
        self.connect(state)?;
        let asked = |state: &State| state.connected.as_ref().map(|it| work(&it.client));
        match asked(state) {
            Some(Err(KeeperError::Gone { .. })) | None => {
                state.connected = None;
                self.connect(state)?;
                asked(state).unwrap_or(Ok(()))
            }
            Some(done) => done,
        }
    }

    /// Sees to it that a keeper has all that is to be kept, and that this is told when it goes.
    fn connect(self: &Arc<Self>, state: &mut State) -> Result<(), KeeperError> {
        if state.connected.is_some() {
            return Ok(());
        }
        let client = match KeeperClient::connect(&self.socket) {
            Err(error) if is_nobody(&error) => self.start(state)?,
            connected => connected?,
        };
        let has = client.list()?;
        for (name, files) in &state.files {
            if !has.contains(name) {
                let files: Vec<_> = files.iter().map(AsFd::as_fd).collect();
                client.put(name, &files)?;
            }
        }
        let watched = KeeperClient::connect(&self.socket)?.into_socket();
        let watch = self.runtime.spawn(watch(watched, Arc::downgrade(self)));
        state.connected = Some(Connected { client, watch });
        Ok(())
    }

    fn start(&self, state: &mut State) -> Result<KeeperClient, KeeperError> {
        let failed = |source| KeeperError::Start {
            path: self.socket.clone(),
            source,
        };
        if let Some(mut earlier) = state.child.take() {
            // It does not listen any more, so it has ended or is about to.
            let _ = earlier.kill();
            let _ = earlier.wait();
        }
        let child = state
            .child
            .insert((self.start)(&self.socket).map_err(failed)?);
        let deadline = Instant::now() + LISTENS_WITHIN;
        loop {
            match KeeperClient::connect(&self.socket) {
                Err(error) if is_nobody(&error) => {}
                connected => return connected,
            }
            if let Some(status) = child.try_wait().map_err(failed)? {
                return Err(failed(io::Error::other(format!("it ended ({status})"))));
            }
            if Instant::now() > deadline {
                return Err(failed(io::ErrorKind::TimedOut.into()));
            }
            sleep(POLL);
        }
    }

    /// The keeper is gone: another gets what it had.
    fn replace(self: &Arc<Self>) -> Result<(), KeeperError> {
        let mut state = self.state();
        // The task that does this is not the one that `connected` would end: it has a thread of its own.
        state.connected = None;
        match state.files.is_empty() {
            true => Ok(()),
            false => self.connect(&mut state),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits until the keeper at the other end is gone, and then replaces it.
async fn watch(socket: OwnedFd, held: Weak<HeldFiles>) {
    let Ok(socket) = rustix::io::ioctl_fionbio(&socket, true)
        .map_err(io::Error::from)
        // Tokio has no sockets of this kind; it is only asked when this one is ready.
        .and_then(|()| UnixStream::from_std(socket.into()))
    else {
        return;
    };
    // It says nothing on this connection, unless it is full: then that is the end, too.
    let _ = socket.readable().await;
    let Some(runtime) = held.upgrade().map(|held| held.runtime.clone()) else {
        return;
    };
    // In a task of its own, because this one is ended where it is known that the keeper is gone.
    drop(runtime.clone().spawn(async move {
        loop {
            let Some(held) = held.upgrade() else { return };
            let replaced = runtime.spawn_blocking(move || held.replace()).await;
            if !matches!(replaced, Ok(Err(_))) {
                return;
            }
            tokio::time::sleep(AGAIN_AFTER).await;
        }
    }));
}

/// Whether nobody listens there, nor can.
fn is_nobody(error: &KeeperError) -> bool {
    use io::ErrorKind::{ConnectionRefused, InvalidFilename, NotFound};
    matches!(error, KeeperError::Gone { source, .. }
        if matches!(source.kind(), ConnectionRefused | InvalidFilename | NotFound))
}

fn doubled(files: &[OwnedFd]) -> Result<Vec<OwnedFd>, KeeperError> {
    let doubles: io::Result<Vec<_>> = files.iter().map(OwnedFd::try_clone).collect();
    doubles.map_err(KeeperError::Files)
}
