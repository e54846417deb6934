//! A registry that can be killed and come back, and a server that says whatever it is told to.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use shale_client::{Address, Deadlines, RemoteRegistry, Settings};
use shale_files::MemoryFiles;
use shale_model::MemoryIndex;
use shale_registry::{Admission, Encryption, Registry, Settings as ServerSettings};
use shale_repo::{Access, Repository};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// Deadlines that end a test soon.
pub(crate) const SHORT: Deadlines = Deadlines {
    connect: Duration::from_millis(200),
    first_byte: Duration::from_millis(300),
    idle: Duration::from_millis(200),
    give_up: Duration::from_millis(900),
};

pub(crate) fn repository() -> Arc<Repository> {
    let files = Arc::new(MemoryFiles::new());
    Repository::init(&*files).unwrap();
    let index = Arc::new(MemoryIndex::new());
    Arc::new(Repository::open(files, index, Access::Shared).unwrap())
}

/// A client of the registry at `address`.
pub(crate) fn client(
    runtime: &Runtime,
    address: SocketAddr,
    deadlines: Deadlines,
) -> RemoteRegistry {
    let address: Address = address.to_string().parse().unwrap();
    let mut settings = Settings::new(address);
    settings.deadlines = deadlines;
    RemoteRegistry::new(settings, runtime.handle().clone()).unwrap()
}

/// A registry that runs.
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    served: JoinHandle<()>,
}

impl Running {
    pub(crate) fn start(
        runtime: &Runtime,
        repository: Arc<Repository>,
        address: SocketAddr,
        settings: ServerSettings,
        encryption: Encryption,
    ) -> Self {
        let registry = Registry::new(repository, settings).unwrap();
        let server = runtime
            .block_on(registry.bind(address, encryption))
            .unwrap();
        let address = server.address();
        let (stop, stopped) = oneshot::channel::<()>();
        let stopped = async {
            let _ = stopped.await;
        };
        let served = runtime.spawn(server.run(stopped, Duration::ZERO));
        Self {
            address,
            stop: Some(stop),
            served,
        }
    }

    /// An open one on an empty repository.
    pub(crate) fn open(runtime: &Runtime, repository: Arc<Repository>) -> Self {
        let settings = ServerSettings::new(Admission::Open);
        let address = any_port();
        Self::start(runtime, repository, address, settings, Encryption::None)
    }

    /// Ends it at once, with all that it was doing.
    pub(crate) fn kill(mut self, runtime: &Runtime) -> SocketAddr {
        drop(self.stop.take());
        let _ = runtime.block_on(&mut self.served);
        self.address
    }
}

pub(crate) fn any_port() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

/// A server that answers connection number `n` with `answers(n)`, whatever was asked, and hangs up.
pub(crate) struct Liar {
    pub(crate) address: SocketAddr,
    asked: Arc<AtomicUsize>,
}

/// What a [`Liar`] does on a connection.
#[derive(Clone)]
pub(crate) enum Lie {
    /// Sends this and hangs up.
    Say(Vec<u8>),
    /// Sends this and nothing more, but stays.
    Stall(Vec<u8>),
    /// Sends one byte of this at a time, for ever.
    Trickle(Vec<u8>),
}

impl Liar {
    pub(crate) fn start(
        runtime: &Runtime,
        answers: impl Fn(usize) -> Lie + Send + Sync + 'static,
    ) -> Self {
        let listener = runtime.block_on(TcpListener::bind(any_port())).unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(AtomicUsize::new(0));
        let (counter, answers) = (Arc::clone(&asked), Arc::new(answers));
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let lie = answers(counter.fetch_add(1, Ordering::SeqCst));
                tokio::spawn(tell(stream, lie));
            }
        });
        Self { address, asked }
    }

    /// How often it was asked.
    pub(crate) fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

async fn tell(mut stream: TcpStream, lie: Lie) {
    let mut question = Vec::new();
    while !question.windows(4).any(|end| end == b"\r\n\r\n") {
        match stream.read_buf(&mut question).await {
            Ok(1..) => {}
            _ => return,
        }
    }
    match lie {
        Lie::Say(bytes) => {
            let _ = stream.write_all(&bytes).await;
            let _ = stream.shutdown().await;
        }
        Lie::Stall(bytes) => {
            let _ = stream.write_all(&bytes).await;
            tokio::time::sleep(Duration::from_secs(60)).await;
        }
        Lie::Trickle(bytes) => {
            for byte in bytes.into_iter().cycle() {
                if stream.write_all(&[byte]).await.is_err() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
}

/// An answer's bytes.
pub(crate) fn answer(head: &str, body: &[u8]) -> Vec<u8> {
    let head = head.replace('\n', "\r\n");
    let length = format!("content-length: {}\r\n\r\n", body.len());
    [head.as_bytes(), b"\r\n", length.as_bytes(), body].concat()
}
