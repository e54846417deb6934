//! The keeper's socket: what it keeps, and what it refuses.

use std::fs::{self, File};
use std::io::{Read, Seek};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::io::{IoSlice, IoSliceMut};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect, recvmsg,
    sendmsg, socket_with,
};

/// Tells this binary to ask the keeper of another user: its socket.
const ASK: &str = "SHALE_HOSTD_ASK";
const WITHIN: Duration = Duration::from_secs(20);

const DONE: u8 = 0;
const NO_SUCH_NAME: u8 = 1;
const NOT_UNDERSTOOD: u8 = 2;
const NO_ROOM: u8 = 3;
const UNKNOWN: u8 = 4;
const DENIED: u8 = 5;

/// A connection, which speaks in bytes.
struct Client(OwnedFd);

impl Client {
    fn connect(path: &Path) -> Option<Self> {
        let kind = SocketType::SEQPACKET;
        let flags = SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::UNIX, kind, flags, None).unwrap();
        connect(&socket, &SocketAddrUnix::new(path).unwrap()).ok()?;
        Some(Self(socket))
    }

    fn ask(&self, bytes: &[u8], files: &[BorrowedFd<'_>]) -> (u8, Vec<u8>, Vec<OwnedFd>) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(64))];
        let mut beside = SendAncillaryBuffer::new(&mut space);
        if !files.is_empty() {
            assert!(beside.push(SendAncillaryMessage::ScmRights(files)));
        }
        let flags = SendFlags::NOSIGNAL;
        sendmsg(&self.0, &[IoSlice::new(bytes)], &mut beside, flags).unwrap();
        self.answer()
    }

    /// Status, what is behind the header, and files.
    fn answer(&self) -> (u8, Vec<u8>, Vec<OwnedFd>) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(64))];
        let mut beside = RecvAncillaryBuffer::new(&mut space);
        let mut bytes = [0; 8192];
        let mut parts = [IoSliceMut::new(&mut bytes)];
        let flags = RecvFlags::CMSG_CLOEXEC;
        let received = recvmsg(&self.0, &mut parts, &mut beside, flags).unwrap();
        let mut files = Vec::new();
        for message in beside.drain() {
            if let RecvAncillaryMessage::ScmRights(some) = message {
                files.extend(some);
            }
        }
        assert_eq!(bytes[..4], *b"SKP1");
        (bytes[4], bytes[8..received.bytes].to_vec(), files)
    }

    fn status(&self, bytes: &[u8], files: &[BorrowedFd<'_>]) -> u8 {
        self.ask(bytes, files).0
    }
}

fn file(content: &str) -> File {
    let mut file = tempfile::tempfile().unwrap();
    std::io::Write::write_all(&mut file, content.as_bytes()).unwrap();
    file
}

fn content(file: OwnedFd) -> String {
    let (mut file, mut text) = (File::from(file), String::new());
    file.rewind().unwrap();
    file.read_to_string(&mut text).unwrap();
    text
}

/// A keeper in a thread of the test, which ends when nobody is connected and it has nothing.
fn with_keeper(test: impl FnOnce(&Path, Client)) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keeper");
    std::thread::scope(|scope| {
        let keeper = scope.spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(shale_hostd::keep(&path))
        });
        let begun = Instant::now();
        let client = loop {
            if let Some(client) = Client::connect(&path) {
                break client;
            }
            assert!(begun.elapsed() < WITHIN && !keeper.is_finished());
            std::thread::sleep(Duration::from_millis(1));
        };
        test(&path, client);
        keeper.join().unwrap().unwrap();
    });
}

#[test]
fn files_are_kept_shown_replaced_and_closed() {
    with_keeper(|path, client| {
        let (one, two) = (file("one"), file("two"));
        assert_eq!(client.status(b"SKP1\x02\0\x01\0a", &[]), NO_SUCH_NAME);
        let both = [one.as_fd(), two.as_fd()];
        assert_eq!(client.status(b"SKP1\x01\x02\x01\0a", &both), DONE);
        assert_eq!(client.status(b"SKP1\x01\x01\x01\0b", &both[..1]), DONE);
        drop(client);
        // It stays for whoever comes next.
        let client = Client::connect(path).unwrap();
        let (status, _, files) = client.ask(b"SKP1\x02\0\x01\0a", &[]);
        let files: Vec<String> = files.into_iter().map(content).collect();
        assert_eq!((status, files), (DONE, vec!["one".into(), "two".into()]));
        assert_eq!(client.ask(b"SKP1\x04\0\0\0", &[]).1, b"\x01a\x01b");
        assert_eq!(client.ask(b"SKP1\x04\0\x01\0a", &[]).1, b"\x01b");
        assert_eq!(client.status(b"SKP1\x01\x01\x01\0a", &both[1..]), DONE);
        let (_, _, files) = client.ask(b"SKP1\x02\0\x01\0a", &[]);
        assert_eq!(files.into_iter().map(content).collect::<Vec<_>>(), ["two"]);
        // Another one leaves it alone.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        assert!(runtime.block_on(shale_hostd::keep(path)).is_err());
        for name in [b'a', b'b'] {
            let remove = [b"SKP1\x03\0\x01\0".as_slice(), &[name]].concat();
            assert_eq!(client.status(&remove, &[]), DONE);
            assert_eq!(client.status(&remove, &[]), NO_SUCH_NAME);
        }
    });
}

#[test]
fn whatever_is_sent_is_answered_and_nothing_of_it_stays() {
    with_keeper(|path, client| {
        assert_eq!(client.status(b"SKP1\x04\0\0\0", &[]), DONE);
        let open = || fs::read_dir("/proc/self/fd").unwrap().count();
        let (before, one) = (open(), file("one"));
        let files = [one.as_fd(); 64];
        let put = b"SKP1\x01\x02\x01\0a";
        // Fewer files than it says, and more; more than one name can have, and than fit at all.
        for count in [0, 1, 3, 4, 5, 64] {
            assert_eq!(
                client.status(put, &files[..count]),
                NOT_UNDERSTOOD,
                "{count}"
            );
        }
        for bytes in [&b"x"[..], b"SKP1", &[b'a'; 4000], b"SKP1\x02\0\xff\0a"] {
            assert_eq!(client.status(bytes, &files[..2]), NOT_UNDERSTOOD);
        }
        assert_eq!(client.status(b"SKP1\x63\0\0\0", &files[..2]), UNKNOWN);
        // A request takes no files but for a put.
        assert_eq!(client.status(b"SKP1\x04\0\0\0", &files[..4]), DONE);
        drop(one);
        assert_eq!(open(), before, "files stay open");
        assert_eq!(client.ask(b"SKP1\x04\0\0\0", &[]).1, b"");

        let others: Vec<_> = (0..15).map(|_| Client::connect(path).unwrap()).collect();
        for other in &others {
            assert_eq!(other.status(b"SKP1\x04\0\0\0", &[]), DONE);
        }
        let full = Client::connect(path).unwrap();
        assert_eq!(full.answer().0, NO_ROOM);
    });
}

/// Not a test of its own: another user.
#[test]
fn privileged_ask_for_another_process() {
    if let Ok(socket) = std::env::var(ASK) {
        let client = Client::connect(socket.as_ref()).unwrap();
        assert_eq!(client.answer().0, DENIED);
    }
}

#[test]
fn privileged_another_user_is_denied() {
    with_keeper(|path, client| {
        let dir: PathBuf = path.parent().unwrap().to_owned();
        let mode = fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        // Even where the way is open.
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o666)).unwrap();
        // Where that user can run it.
        let program = dir.join("program");
        fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
        let asked = Command::new("setpriv")
            .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
            .arg(&program)
            .args(["--exact", "keeper::privileged_ask_for_another_process"])
            .env(ASK, path)
            .current_dir("/")
            .output()
            .unwrap();
        assert!(asked.status.success(), "{asked:?}");
        drop(client);
    });
}
