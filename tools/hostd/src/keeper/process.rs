//! The keeper's own process: one thread, and no files but a socket and what it keeps.

use std::collections::BTreeMap;
use std::io;
use std::ops::Bound;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};
use rustix::process::{Resource, Rlimit};
use tokio::io::Interest;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use super::messages::{Message, receive, send};
use super::protocol::{Answer, KeptName, MAX_REQUEST_BYTES, Request, Status};

/// Most names: two for each of the virtual machines of a large host, and as many mounts.
const MAX_NAMES: usize = 4096;

/// Clients at a time: the host service has two connections.
const MAX_CLIENTS: usize = 16;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 16;

/// How long it waits for the first client, who has started it.
const FIRST_CLIENT_WITHIN: Duration = Duration::from_secs(10);

/// How long a client may take to read an answer, which fits into what its socket holds.
const READ_WITHIN: Duration = Duration::from_secs(5);

/// Wait after a failed `accept`: without it, a process that is out of file descriptors would spin.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// Keeps open files for clients of this user and of root who connect to `socket`, until it holds none and nobody is
/// connected. To be run in a process of its own.
///
/// # Errors
/// It cannot listen there. A socket that another keeper listens on is left to it.
pub async fn keep(socket: &Path) -> io::Result<()> {
    allow_many_files();
    // Tokio has no sockets of this kind; of what it has, only what they have in common is used.
    let listener = UnixListener::from_std(listen(socket)?.into())?;
    let keeper = Arc::new(Keeper::default());
    let first = sleep(FIRST_CLIENT_WITHIN);
    tokio::pin!(first);
    let mut is_first = true;
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((client, _)) => {
                    is_first = false;
                    keeper.clone().welcome(client);
                }
                Err(_) => sleep(ACCEPT_RETRY).await,
            },
            () = keeper.left.notified() => {}
            () = &mut first, if is_first => is_first = false,
        }
        if !is_first && keeper.is_idle() {
            return Ok(());
        }
    }
}

#[derive(Default)]
struct Keeper {
    kept: Mutex<Kept>,
    /// Told when a client has left.
    left: Notify,
}

#[derive(Default)]
struct Kept {
    files: BTreeMap<KeptName, Vec<OwnedFd>>,
    clients: usize,
}

impl Keeper {
    fn welcome(self: Arc<Self>, client: UnixStream) {
        let is_allowed = sockopt::socket_peercred(&client).is_ok_and(|peer| {
            let uid = rustix::process::geteuid();
            peer.uid.is_root() || peer.uid == uid
        });
        let refusal = match self.with(|kept| kept.clients >= MAX_CLIENTS) {
            _ if !is_allowed => Some(Status::Denied),
            true => Some(Status::NoRoom),
            false => None,
        };
        if let Some(status) = refusal {
            // It is closed in any case; a new socket has room for this.
            let _ = send(client.as_fd(), &Answer::of(status).encode(), &[]);
            return;
        }
        self.with(|kept| kept.clients += 1);
        tokio::spawn(async move {
            // A client that is gone, or does not read, has nobody to be told.
            let _ = self.attend(client).await;
            self.with(|kept| kept.clients -= 1);
            self.left.notify_one();
        });
    }

    async fn attend(&self, client: UnixStream) -> io::Result<()> {
        let socket = client.as_fd();
        loop {
            let receive = || receive(socket, MAX_REQUEST_BYTES);
            let message = client.async_io(Interest::READABLE, receive).await?;
            if message.bytes.is_empty() {
                return Ok(());
            }
            let (answer, files) = self.with(|kept| kept.answer(message));
            let bytes = answer.encode();
            let fds: Vec<_> = files.iter().map(AsFd::as_fd).collect();
            let sent = client.async_io(Interest::WRITABLE, || send(socket, &bytes, &fds));
            timeout(READ_WITHIN, sent).await??;
        }
    }

    fn is_idle(&self) -> bool {
        self.with(|kept| kept.clients == 0 && kept.files.is_empty())
    }

    fn with<T>(&self, work: impl FnOnce(&mut Kept) -> T) -> T {
        // Nothing panics while it is locked.
        work(&mut self.kept.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Kept {
    /// Does what a message asks for; the files go with the answer.
    fn answer(&mut self, message: Message) -> (Answer, Vec<OwnedFd>) {
        let alone = |status| (Answer::of(status), Vec::new());
        if message.is_cut {
            return alone(Status::NotUnderstood);
        }
        match Request::decode(&message.bytes) {
            Err(status) => alone(status),
            Ok(Request::Put { files, .. }) if files != message.files.len() => {
                // This process has no room for them; or they never came.
                alone(Status::NotUnderstood)
            }
            Ok(Request::Put { name, .. }) => {
                if self.files.len() >= MAX_NAMES && !self.files.contains_key(&name) {
                    return alone(Status::NoRoom);
                }
                self.files.insert(name, message.files);
                alone(Status::Done)
            }
            Ok(Request::Get(name)) => match self.files.get(&name) {
                None => alone(Status::NoSuchName),
                Some(kept) => {
                    let files: Result<Vec<_>, _> = kept.iter().map(OwnedFd::try_clone).collect();
                    let Ok(files) = files else {
                        return alone(Status::NoRoom);
                    };
                    let mut answer = Answer::of(Status::Done);
                    answer.files = files.len();
                    (answer, files)
                }
            },
            Ok(Request::Remove(name)) => match self.files.remove(&name) {
                None => alone(Status::NoSuchName),
                Some(_) => alone(Status::Done),
            },
            Ok(Request::List { behind }) => {
                let from = behind.map_or(Bound::Unbounded, Bound::Excluded);
                let names = self.files.range((from, Bound::Unbounded));
                let answer = Answer::list(names.map(|(name, _)| name));
                (answer, Vec::new())
            }
        }
    }
}

/// Takes the path of a keeper that is gone, and none of one that is there.
fn listen(path: &Path) -> io::Result<OwnedFd> {
    let address = SocketAddrUnix::new(path)?;
    match rustix::net::connect(message_socket()?, &address) {
        Err(Errno::NOENT) => {}
        Err(Errno::CONNREFUSED) => rustix::fs::unlink(path)?,
        _ => return Err(Errno::ADDRINUSE.into()),
    }
    let socket = message_socket()?;
    // On Linux, the mode of an unbound socket is the one that binding gives its file.
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket)
}

fn message_socket() -> rustix::io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
}

/// As many files as the system lets this user have; where it does not, there are as many as before.
fn allow_many_files() {
    let Rlimit { maximum, .. } = rustix::process::getrlimit(Resource::Nofile);
    let all = Rlimit {
        current: maximum,
        maximum,
    };
    let _ = rustix::process::setrlimit(Resource::Nofile, all);
}
