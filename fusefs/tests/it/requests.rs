//! What a session answers, byte by byte: a socket that keeps messages apart stands for `/dev/fuse`.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::ScopedJoinHandle;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send};
use shale_fusefs::{
    Access, Body, Connection, DiskFace, DiskFile, Face, FaceKind, Op, Outcome, Request, Session,
    SessionError,
};
use shale_model::Mtime;
use tokio::runtime::Runtime;

use crate::device::{DISK_BYTES, FileDisk};

const LOOKUP: u32 = 1;
const FORGET: u32 = 2;
const GETATTR: u32 = 3;
const SETATTR: u32 = 4;
const MKDIR: u32 = 9;
const OPEN: u32 = 14;
const READ: u32 = 15;
const WRITE: u32 = 16;
const FSYNC: u32 = 20;
const FLUSH: u32 = 25;
const INIT: u32 = 26;
const INTERRUPT: u32 = 36;
const FALLOCATE: u32 = 43;
const READDIRPLUS: u32 = 44;
const LSEEK: u32 = 46;

const ROOT: u64 = 1;
const DISK: u64 = 2;

/// The kernel's end.
pub(crate) struct Kernel(pub(crate) OwnedFd);

impl Kernel {
    pub(crate) fn pair() -> (Self, OwnedFd) {
        let (ours, theirs) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .unwrap();
        (Self(ours), theirs)
    }

    pub(crate) fn send(&self, unique: u64, op: u32, node: u64, body: &[u8]) {
        send(
            &self.0,
            &request(unique, op, node, body),
            SendFlags::empty(),
        )
        .unwrap();
    }

    /// Number, error and body of the next reply.
    pub(crate) fn reply(&self) -> (u64, i32, Vec<u8>) {
        let mut bytes = vec![0; 2 << 20];
        let (len, _) = recv(&self.0, &mut bytes[..], RecvFlags::empty()).unwrap();
        bytes.truncate(len);
        let word = |at: usize| i32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap());
        assert_eq!(word(0) as usize, len);
        let unique = u64::from_ne_bytes(bytes[8..16].try_into().unwrap());
        (unique, -word(4), bytes[16..].to_vec())
    }

    fn ask(&self, op: u32, node: u64, body: &[u8]) -> Result<Vec<u8>, Errno> {
        self.send(100, op, node, body);
        let (unique, error, body) = self.reply();
        assert_eq!(unique, 100);
        match error {
            0 => Ok(body),
            error => Err(Errno::from_raw_os_error(error)),
        }
    }
}

pub(crate) fn request(unique: u64, op: u32, node: u64, body: &[u8]) -> Vec<u8> {
    let mut bytes = ((40 + body.len()) as u32).to_ne_bytes().to_vec();
    bytes.extend_from_slice(&op.to_ne_bytes());
    bytes.extend_from_slice(&unique.to_ne_bytes());
    bytes.extend_from_slice(&node.to_ne_bytes());
    for id in [0, 0, std::process::id(), 0] {
        bytes.extend_from_slice(&id.to_ne_bytes());
    }
    bytes.extend_from_slice(body);
    bytes
}

pub(crate) fn words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

fn read(offset: u64, size: u64) -> Vec<u8> {
    words(&[0, offset, size, 0, 0])
}

pub(crate) fn write(offset: u64, data: &[u8]) -> Vec<u8> {
    [words(&[0, offset, data.len() as u64, 0, 0]), data.to_vec()].concat()
}

pub(crate) fn face(disk: Arc<FileDisk>, access: Access) -> DiskFace {
    let file = DiskFile {
        access,
        owner: (1, 2),
        time: Mtime::default(),
    };
    DiskFace::new(disk, file)
}

/// A session of a disk face, ended when the test's part is done.
fn with_session(access: Access, test: impl FnOnce(&Kernel, &FileDisk)) -> Result<(), SessionError> {
    let disk = FileDisk::new(tempfile::tempfile().unwrap());
    let (kernel, device) = Kernel::pair();
    let face = face(disk.clone(), access);
    let connection = Connection::new(device, &face).unwrap();
    let runtime = Runtime::new().unwrap();
    std::thread::scope(|scope| {
        let session = Session::new(face, connection);
        let serving: ScopedJoinHandle<'_, _> =
            scope.spawn(move || session.serve(runtime.handle()).map(drop));
        test(&kernel, &disk);
        drop(kernel);
        serving.join().unwrap()
    })
}

/// A session whose kernel went away reads nothing, which is no request.
fn is_end(result: Result<(), SessionError>) -> bool {
    matches!(result, Err(SessionError::Device(_)))
}

#[test]
fn the_features_that_both_have_are_agreed_on() {
    let ended = with_session(Access::ReadWrite, |kernel, _| {
        let init = [7u32, 45, 1 << 20, u32::MAX, 0]
            .map(u32::to_ne_bytes)
            .concat();
        let reply = kernel.ask(INIT, 0, &init).unwrap();
        let word = |at: usize| u32::from_ne_bytes(reply[at..at + 4].try_into().unwrap());
        assert_eq!(
            (reply.len(), word(0), word(4), word(8)),
            (64, 7, 31, 1 << 20)
        );
        // Many reads at a time, large writes, no ACLs on a disk.
        assert_eq!(
            word(12) & (1 | 1 << 5 | 1 << 15 | 1 << 20),
            1 | 1 << 5 | 1 << 15
        );
        assert_eq!(word(20), 1 << 20);
    });
    assert!(is_end(ended));
    let ended = with_session(Access::ReadWrite, |kernel, _| {
        let init = [7u32, 30, 0, 0].map(u32::to_ne_bytes).concat();
        assert_eq!(kernel.ask(INIT, 0, &init), Err(Errno::PROTO));
    });
    assert!(
        matches!(ended, Err(SessionError::OldKernel { minor: 30, .. })),
        "{ended:?}"
    );
}

#[test]
fn requests_at_the_end_and_over_it() {
    let end = DISK_BYTES;
    let ended = with_session(Access::ReadWrite, |kernel, disk| {
        let read = |offset, size| kernel.ask(READ, DISK, &read(offset, size)).map(|b| b.len());
        let write = |offset, len: usize| {
            let written = kernel.ask(WRITE, DISK, &write(offset, &vec![1; len]))?;
            Ok(u32::from_ne_bytes(written[..4].try_into().unwrap()))
        };
        assert_eq!(read(end - 5, 100), Ok(5));
        assert_eq!(read(end, 100), Ok(0));
        assert_eq!(read(u64::MAX, 100), Ok(0));
        assert_eq!(read(0, 0), Ok(0));
        assert_eq!(write(end - 5, 100), Ok(5));
        assert_eq!(write(end, 1), Err(Errno::NOSPC));
        assert_eq!(write(u64::MAX, 1), Err(Errno::NOSPC));
        assert_eq!(write(0, 0), Ok(0));
        assert_eq!(write(4096, 100_000), Ok(100_000));
        assert_eq!(disk.writes.load(Ordering::Relaxed), 2);
        let fallocate =
            |offset, len, mode| kernel.ask(FALLOCATE, DISK, &words(&[0, offset, len, mode]));
        assert!(fallocate(end - 4096, 8192, 3).is_ok());
        assert!(fallocate(end + 5, 5, 3).is_ok());
        assert_eq!(fallocate(u64::MAX, 5, 3), Err(Errno::FBIG));
        assert_eq!(fallocate(end - 4096, 8192, 0x10), Err(Errno::NOSPC));
        assert_eq!(fallocate(0, 4096, 0), Err(Errno::OPNOTSUPP));
        let seek = |offset, whence| {
            let found = kernel.ask(LSEEK, DISK, &words(&[0, offset, whence]))?;
            Ok(u64::from_ne_bytes(found[..].try_into().unwrap()))
        };
        assert_eq!(seek(5, 3), Ok(5));
        assert_eq!(seek(5, 4), Ok(end / 2));
        assert_eq!(seek(end / 2 + 1, 3), Err(Errno::NXIO));
        assert_eq!(seek(end, 4), Err(Errno::NXIO));
        assert_eq!(seek(0, 9), Err(Errno::INVAL));
        let set = |size| {
            kernel
                .ask(SETATTR, DISK, &words(&[1 << 3, 0, size, 0]))
                .map(drop)
        };
        assert_eq!(set(end), Ok(()));
        assert_eq!(set(end + 1), Err(Errno::FBIG));
        assert_eq!(set(0), Err(Errno::PERM));
        for op in [FSYNC, FLUSH] {
            assert_eq!(kernel.ask(op, DISK, &words(&[0, 0, 0])), Ok(vec![]));
        }
    });
    assert!(is_end(ended));
}

#[test]
fn a_reply_is_never_larger_than_what_was_agreed_on() {
    let face = face(
        FileDisk::new(tempfile::tempfile().unwrap()),
        Access::ReadOnly,
    );
    let bytes = request(1, READ, DISK, &read(4096, u64::from(u32::MAX)));
    let request = Request::parse(&bytes).unwrap();
    let mut body = Body::default();
    let Outcome::Wait(read) = face.answer(&request, &mut body) else {
        panic!("a read");
    };
    Runtime::new().unwrap().block_on(read).unwrap();
    assert_eq!(body.bytes().len(), 1 << 20);
}

#[test]
fn requests_that_lie_are_refused_and_the_session_goes_on() {
    let ended = with_session(Access::ReadOnly, |kernel, _| {
        // Less than a header has no number to answer to.
        send(&kernel.0, &[1; 39], SendFlags::empty()).unwrap();
        let mut short = request(7, READ, DISK, &read(0, 9));
        short.truncate(60);
        send(&kernel.0, &short, SendFlags::empty()).unwrap();
        assert_eq!(kernel.reply(), (7, Errno::INVAL.raw_os_error(), vec![]));
        let lying = [words(&[0, 0, 5, 0, 0]), vec![1; 4]].concat();
        assert_eq!(kernel.ask(WRITE, DISK, &lying), Err(Errno::INVAL));
        assert_eq!(kernel.ask(LOOKUP, ROOT, b"no zero"), Err(Errno::INVAL));
        assert_eq!(kernel.ask(9999, DISK, &[]), Err(Errno::NOSYS));
        for node in [0, 3, u64::MAX] {
            assert_eq!(
                kernel.ask(GETATTR, node, &words(&[0, 0])),
                Err(Errno::STALE)
            );
            assert!(kernel.ask(READ, node, &read(0, 9)).is_err());
        }
        assert_eq!(kernel.ask(WRITE, DISK, &write(0, b"x")), Err(Errno::ROFS));
        assert_eq!(kernel.ask(MKDIR, ROOT, b"new\0"), Err(Errno::PERM));
        kernel.send(8, FORGET, DISK, &words(&[1]));
        kernel.send(9, INTERRUPT, 0, &words(&[12345]));
        let opened = kernel.ask(OPEN, DISK, &words(&[0])).unwrap();
        assert_eq!(opened[8] & 1, 1, "past the page cache");
        let names = kernel.ask(READDIRPLUS, ROOT, &read(0, 4096)).unwrap();
        assert!(names.windows(8).any(|name| name == b"disk.raw"));
        assert_eq!(kernel.ask(READDIRPLUS, ROOT, &read(3, 4096)), Ok(vec![]));
        assert_eq!(
            kernel.ask(READDIRPLUS, ROOT, &read(u64::MAX, 1 << 30)),
            Ok(vec![])
        );
    });
    assert!(is_end(ended));
}

#[test]
fn what_waits_holds_nobody_up_and_ends_with_its_process() {
    let ended = with_session(Access::ReadWrite, |kernel, disk| {
        disk.stalls_from.store(DISK_BYTES / 2, Ordering::Relaxed);
        let stalled = |unique| kernel.send(unique, READ, DISK, &read(DISK_BYTES / 2, 4096));
        for unique in 0..20 {
            stalled(200 + 2 * unique);
        }
        assert!(kernel.ask(READ, DISK, &read(0, 10)).is_ok());
        // This process is not about to die: its signal ends nothing.
        kernel.send(201, INTERRUPT, 0, &words(&[200]));
        std::thread::sleep(Duration::from_millis(20));
        assert!(kernel.ask(READ, DISK, &read(0, 10)).is_ok());
        // No such thread: taken for dead.
        let mut dying = request(300, READ, DISK, &read(DISK_BYTES / 2, 4096));
        dying[32..36].copy_from_slice(&u32::MAX.to_ne_bytes());
        send(&kernel.0, &dying, SendFlags::empty()).unwrap();
        kernel.send(301, INTERRUPT, 0, &words(&[300]));
        // Told before the request was seen to wait, the kernel is to say it again.
        loop {
            match kernel.reply() {
                (300, error, _) => {
                    assert_eq!(error, Errno::INTR.raw_os_error());
                    break;
                }
                (301, error, _) => {
                    assert_eq!(error, Errno::AGAIN.raw_os_error());
                    kernel.send(301, INTERRUPT, 0, &words(&[300]));
                }
                other => panic!("{other:?}"),
            }
        }
    });
    assert!(is_end(ended));
}

/// A face that panics: whoever asked gets an error, and the session's end says so.
struct Panics;

impl Face for Panics {
    fn kind(&self) -> FaceKind {
        FaceKind::Tree
    }

    fn answer<'a>(&'a self, request: &Request<'a>, _: &'a mut Body) -> Outcome<'a> {
        match request.op {
            // In a task.
            Op::GetAttr => Outcome::Wait(Box::pin(async {
                tokio::time::sleep(Duration::from_millis(1)).await;
                panic!("on purpose, in a test")
            })),
            _ => Outcome::Done(Ok(())),
        }
    }
}

#[test]
fn a_request_that_panics_is_answered() {
    let (kernel, device) = Kernel::pair();
    let connection = Connection::new(device, &Panics).unwrap();
    let runtime = Runtime::new().unwrap();
    std::thread::scope(|scope| {
        let session = Session::new(Panics, connection);
        scope.spawn(move || drop(session.serve(runtime.handle())));
        assert_eq!(kernel.ask(GETATTR, 1, &words(&[0, 0])), Err(Errno::IO));
        assert!(kernel.ask(FSYNC, 1, &words(&[0, 0])).is_ok());
        drop(kernel);
    });
}
