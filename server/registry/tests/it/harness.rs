//! A server over a repository in memory, and the smallest HTTP client.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use shale_files::MemoryFiles;
use shale_model::{ChunkId, ChunkIndex, Location, MemoryIndex, PackContents, PackId, SeamResult};
use shale_registry::{Admission, Answered, Encryption, Observer, Registry, Settings};
use shale_repo::conformance::Sample;
use shale_repo::{Access, Repository};
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// Time that requests on their way get when the server stops.
pub(crate) const GRACE: Duration = Duration::from_secs(1);

/// A server that runs until it is dropped.
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    pub(crate) repository: Arc<Repository>,
    pub(crate) seen: Arc<Seen>,
    stop: Option<oneshot::Sender<()>>,
    served: Option<JoinHandle<()>>,
    runtime: Runtime,
}

/// What the observer was told.
#[derive(Default)]
pub(crate) struct Seen(Mutex<Vec<String>>);

impl Seen {
    pub(crate) fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

impl Observer for Seen {
    fn answered(&self, request: &Answered<'_>) {
        self.0.lock().unwrap().push(format!("{request:?}"));
    }

    fn cut_off(&self, action: &str, failure: &str) {
        self.0.lock().unwrap().push(format!("{action}: {failure}"));
    }
}

pub(crate) fn repository() -> Arc<Repository> {
    repository_on(Arc::new(MemoryFiles::new()), Arc::new(MemoryIndex::new()))
}

/// A new repository whose files and index the test keeps a hand on.
pub(crate) fn repository_on(
    files: Arc<MemoryFiles>,
    index: Arc<dyn ChunkIndex>,
) -> Arc<Repository> {
    Repository::init(&*files).unwrap();
    Arc::new(Repository::open(files, index, Access::Shared).unwrap())
}

/// An index that holds up the next one who asks it, until the test lets go.
pub(crate) struct HoldingIndex {
    inner: MemoryIndex,
    held: Mutex<Held>,
    changed: Condvar,
}

#[derive(PartialEq, Eq)]
enum Held {
    Nobody,
    TheNext,
    Somebody,
}

impl HoldingIndex {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            inner: MemoryIndex::new(),
            held: Mutex::new(Held::Nobody),
            changed: Condvar::new(),
        })
    }

    pub(crate) fn hold_the_next(&self) {
        *self.held.lock().unwrap() = Held::TheNext;
    }

    /// Waits until somebody is held up.
    pub(crate) fn wait_until_held(&self) {
        let held = self.held.lock().unwrap();
        let waiting = |held: &mut Held| *held != Held::Somebody;
        let time = Duration::from_secs(20);
        let (held, timeout) = self
            .changed
            .wait_timeout_while(held, time, waiting)
            .unwrap();
        drop(held);
        assert!(!timeout.timed_out(), "nobody asks the index");
    }

    pub(crate) fn let_go(&self) {
        *self.held.lock().unwrap() = Held::Nobody;
        self.changed.notify_all();
    }

    fn pass(&self) {
        let mut held = self.held.lock().unwrap();
        if *held != Held::TheNext {
            return;
        }
        *held = Held::Somebody;
        self.changed.notify_all();
        let waiting = |held: &mut Held| *held == Held::Somebody;
        drop(self.changed.wait_while(held, waiting).unwrap());
    }
}

impl ChunkIndex for HoldingIndex {
    fn get(&self, ids: &[ChunkId]) -> SeamResult<Vec<Option<Location>>> {
        self.pass();
        self.inner.get(ids)
    }

    fn add_pack(&self, pack: PackId, contents: &PackContents) -> SeamResult<()> {
        self.pass();
        self.inner.add_pack(pack, contents)
    }

    fn remove_pack(&self, pack: PackId) -> SeamResult<()> {
        self.inner.remove_pack(pack)
    }

    fn packs(&self) -> SeamResult<Vec<PackId>> {
        self.inner.packs()
    }

    fn clear(&self) -> SeamResult<()> {
        self.inner.clear()
    }
}

impl Running {
    /// An open server on an empty repository.
    pub(crate) fn start() -> Self {
        Self::with(|_| {})
    }

    /// The same with other settings.
    pub(crate) fn with(change: impl FnOnce(&mut Settings)) -> Self {
        Self::over(repository(), Encryption::None, change)
    }

    /// The same over a repository of the test's.
    pub(crate) fn over(
        repository: Arc<Repository>,
        encryption: Encryption,
        change: impl FnOnce(&mut Settings),
    ) -> Self {
        let runtime = Runtime::new().unwrap();
        let seen = Arc::new(Seen::default());
        let mut settings = Settings::new(Admission::Open);
        settings.observer = seen.clone();
        change(&mut settings);
        let registry = Registry::new(Arc::clone(&repository), settings).unwrap();
        let any_port = "127.0.0.1:0".parse().unwrap();
        let server = runtime
            .block_on(registry.bind(any_port, encryption))
            .unwrap();
        let address = server.address();
        let (stop, stopped) = oneshot::channel();
        let stopped = async {
            let _ = stopped.await;
        };
        let served = runtime.spawn(server.run(stopped, GRACE));
        Self {
            address,
            repository,
            seen,
            stop: Some(stop),
            served: Some(served),
            runtime,
        }
    }

    /// Tells it to stop, and leaves it to.
    pub(crate) fn begin_to_stop(&mut self) {
        drop(self.stop.take());
    }

    /// Waits until it has stopped.
    pub(crate) fn wait(&mut self) {
        if let Some(served) = self.served.take() {
            self.runtime.block_on(served).unwrap();
        }
    }

    /// Puts a sample into the repository.
    pub(crate) fn hold(&self, name: &str, seed: u64) -> Sample {
        let sample = Sample::new(name, seed);
        sample.push(&self.repository.push()).unwrap();
        sample
    }

    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        stream
    }

    /// One request on a connection of its own.
    pub(crate) fn send(&self, method: &str, path: &str, headers: &[&str], body: &[u8]) -> Answer {
        let mut stream = self.connect();
        write_request(&mut stream, (method, path), headers, body);
        read_answer(&mut stream, method)
    }

    pub(crate) fn get(&self, path: &str, headers: &[&str]) -> Answer {
        self.send("GET", path, headers, b"")
    }

    /// Opens a push and gives its path.
    pub(crate) fn open_push(&self) -> String {
        let opened = self.send("POST", "/api/v1/pushes", &[], b"");
        assert_eq!(opened.status, 201);
        let id = opened.json()["push"].as_str().unwrap().to_owned();
        format!("/api/v1/pushes/{id}")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.begin_to_stop();
        if let Some(served) = self.served.take() {
            let _ = self.runtime.block_on(served);
        }
    }
}

pub(crate) fn write_request(
    stream: &mut TcpStream,
    (method, path): (&str, &str),
    headers: &[&str],
    body: &[u8],
) {
    let mut head = format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\n");
    for header in headers {
        head.push_str(&format!("{header}\r\n"));
    }
    if !body.is_empty() {
        head.push_str(&format!("content-length: {}\r\n", body.len()));
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    // The server may have answered and gone before it was all sent.
    let _ = stream.write_all(body);
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    head: String,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (key, value) = line.split_once(": ")?;
            key.eq_ignore_ascii_case(name).then_some(value)
        })
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }

    /// The code of a problem, after checking its form.
    #[track_caller]
    pub(crate) fn problem(&self) -> String {
        assert_eq!(
            self.header("content-type"),
            Some("application/problem+json"),
            "{self:?}"
        );
        let json = self.json();
        assert_eq!(json["status"], self.status);
        assert_eq!(json["request_id"].as_str(), self.header("x-request-id"));
        json["code"].as_str().unwrap().to_owned()
    }
}

/// The next answer of a connection.
pub(crate) fn read_answer(stream: &mut TcpStream, method: &str) -> Answer {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        match stream.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            ended => panic!("{ended:?} after {}", String::from_utf8_lossy(&head)),
        }
    }
    let head = String::from_utf8(head).unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let mut answer = Answer {
        status,
        head,
        body: Vec::new(),
    };
    let length = answer
        .header("content-length")
        .map_or(0, |len| len.parse().unwrap());
    if method != "HEAD" && status != 304 {
        answer.body = vec![0; length];
        stream.read_exact(&mut answer.body).unwrap();
    }
    answer
}
