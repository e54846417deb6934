//! A mount outlives the process that serves it.

#![expect(
    clippy::disallowed_methods,
    reason = "a test is told by its environment that it is to serve, and chooses its seed"
)]

use std::fs::{self, File, OpenOptions};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use shale_fusefs::{Access, Connection, DISK_NAME, MountOptions, Permissions, Session, mount};
use tokio::runtime::Runtime;

use crate::device::{DISK_BYTES, FileDisk};
use crate::requests::{Kernel, face, request, write};

/// Tells the test binary what to serve: device, memory, and the file of the disk.
const SERVE: &str = "SHALE_FUSE_SERVE";
/// Tells it to read and write: a seed, and the file.
const LOAD: &str = "SHALE_FUSE_LOAD";
const KILLS: u32 = 30;
/// Longer than the kills take on an idle machine.
const LOAD_FOR: Duration = Duration::from_secs(4);
const WITHIN: Duration = Duration::from_secs(60);

// ---- Over a socket: what an earlier process left, made by hand.

const CONTROL: u64 = 4096;
const BUFFERS: u64 = 8192;
const SLOT: u64 = (1 << 20) + 4096;

/// Puts a request into a slot as a process leaves it that was killed.
fn leave(memory: &File, slot: u64, state: u32, outcome: i32, request: &[u8]) {
    let at = CONTROL + slot * 16;
    memory.write_all_at(&state.to_ne_bytes(), at).unwrap();
    memory.write_all_at(&outcome.to_ne_bytes(), at + 4).unwrap();
    memory.write_all_at(request, BUFFERS + slot * SLOT).unwrap();
}

#[test]
fn what_was_answered_is_answered_again_and_what_was_not_is_done() {
    let (taken, answering) = (1, 2);
    let disk = FileDisk::new(tempfile::tempfile().unwrap());
    let (kernel, device) = Kernel::pair();
    let ours = face(disk.clone(), Access::ReadWrite);
    let first = Connection::new(device, &ours).unwrap();
    let (device, memory) = first.keep();
    let (device, memory) = (device.try_clone_to_owned(), memory.try_clone_to_owned());
    drop(first);
    let memory = File::from(memory.unwrap());
    leave(
        &memory,
        0,
        taken,
        0,
        &request(10, 16, 2, &write(0, b"done now")),
    );
    leave(
        &memory,
        3,
        answering,
        5,
        &request(12, 16, 2, &write(4096, b"stale")),
    );
    leave(
        &memory,
        4,
        answering,
        -28,
        &request(14, 16, 2, &write(8192, b"full")),
    );
    // Asked, and died before anything came.
    leave(&memory, 7, taken, 0, &[0; 48]);
    let second = Connection::take_over(device.unwrap(), memory.into(), &ours).unwrap();
    let runtime = Runtime::new().unwrap();
    std::thread::scope(|scope| {
        let session = Session::new(ours, second);
        let counters = session.counters().clone();
        scope.spawn(move || drop(session.serve(runtime.handle())));
        let count = |bytes: u32| [bytes, 0].map(u32::to_ne_bytes).concat();
        let mut replies = [kernel.reply(), kernel.reply(), kernel.reply()];
        replies.sort();
        assert_eq!(
            replies,
            [(10, 0, count(8)), (12, 0, count(5)), (14, 28, vec![])]
        );
        assert_eq!(counters.taken_over.load(Ordering::Relaxed), 3);
        drop(kernel);
    });
    assert_eq!(disk.writes.load(Ordering::Relaxed), 1);
}

// ---- With the kernel: servers that are killed under load.

/// Not a test of its own: the process that serves, when the test below starts it.
#[test]
fn privileged_serve_for_another_process() {
    let Ok(told) = std::env::var(SERVE) else {
        return;
    };
    let mut told = told.splitn(3, ',');
    let mut fd = || {
        let number = told.next().unwrap().parse().unwrap();
        // SAFETY: the test that started this process left these two open for it, and names each once.
        #[expect(unsafe_code, reason = "file descriptors come by number")]
        unsafe {
            OwnedFd::from_raw_fd(number)
        }
    };
    let (device, memory) = (fd(), fd());
    let path = told.next().unwrap();
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    let disk = FileDisk::new(file);
    disk.is_slow.store(true, Ordering::Relaxed);
    let face = face(disk, Access::ReadWrite);
    let connection = Connection::take_over(device, memory, &face).unwrap();
    let session = Session::new(face, connection);
    let counters = session.counters().clone();
    let runtime = Runtime::new().unwrap();
    let log = format!("{path}.log");
    runtime.spawn(async move {
        let taken_over = counters.taken_over.load(Ordering::Relaxed);
        let mut log = OpenOptions::new()
            .append(true)
            .create(true)
            .open(log)
            .unwrap();
        std::io::Write::write_all(&mut log, format!("{taken_over}\n").as_bytes()).unwrap();
    });
    session.serve(runtime.handle()).unwrap();
}

/// Starts this test binary to do what the variable `what` is for.
fn start(what: &str, told: &str) -> Child {
    let name = match what {
        SERVE => "takeover::privileged_serve_for_another_process",
        _ => "takeover::privileged_load_for_another_process",
    };
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name])
        .env(what, told)
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

/// A process, killed when dropped.
struct Server(Child);

impl Server {
    fn start(fds: &[OwnedFd; 2], disk: &Path) -> Self {
        let [device, memory] = fds.each_ref().map(AsRawFd::as_raw_fd);
        Self(start(
            SERVE,
            &format!("{device},{memory},{}", disk.display()),
        ))
    }

    /// Waits for it to end by itself.
    fn succeeds(mut self) {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                assert!(status.success(), "{status}");
                return;
            }
            assert!(begun.elapsed() < WITHIN, "it does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The same numbers for the same seed (Knuth's MMIX generator).
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005);
        self.0 = self.0.wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

#[test]
fn privileged_thirty_killed_servers_lose_nothing_and_nobody_notices() {
    let clock = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_nanos() as u64;
    let seed = std::env::var("SHALE_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    let mut random = Random(seed.unwrap_or(clock));
    println!("killed servers: SHALE_SEED={}", random.0);
    let temp = tempfile::tempdir().unwrap();
    let (point, file) = (temp.path().join("mnt"), temp.path().join("disk"));
    fs::create_dir(&point).unwrap();
    let disk = FileDisk::new(File::create_new(&file).unwrap());
    let options = MountOptions {
        source: "test".into(),
        access: Access::ReadWrite,
        permissions: Permissions::Checked,
    };
    let (connection, mounted) = mount(&point, &options, &face(disk, Access::ReadWrite)).unwrap();
    let (device, memory) = connection.keep();
    let fds = [device, memory].map(|fd| {
        let fd = fd.try_clone_to_owned().unwrap();
        rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::empty()).unwrap();
        fd
    });

    // This process must not have files of the mount open: it would close them in each server that it starts, before that
    // serves, and closing asks the server.
    let path = point.join(DISK_NAME);
    let mut server = Server::start(&fds, &file);
    let load = Server(start(LOAD, &format!("{},{}", random.0, path.display())));
    let fio = Server(fio(&path));
    for _ in 0..KILLS {
        std::thread::sleep(Duration::from_millis(30 + random.below(120)));
        drop(server);
        server = Server::start(&fds, &file);
    }
    load.succeeds();
    fio.succeeds();
    let log = fs::read_to_string(temp.path().join("disk.log")).unwrap();
    let left: Vec<u32> = log.lines().map(|line| line.parse().unwrap()).collect();
    let under_way = left.iter().filter(|left| **left > 0).count();
    let requests: u32 = left.iter().sum();
    println!("{under_way} of {KILLS} kills left {requests} requests");
    assert!(under_way >= KILLS as usize / 2, "{left:?}");
    drop((server, mounted));
}

/// Not a test of its own: the process that reads and writes, when the test above starts it.
#[test]
fn privileged_load_for_another_process() {
    let Ok(told) = std::env::var(LOAD) else {
        return;
    };
    let (seed, path) = told.split_once(',').unwrap();
    let seed: u64 = seed.parse().unwrap();
    let end = Instant::now() + LOAD_FOR;
    std::thread::scope(|scope| {
        for worker in 0..6 {
            scope.spawn(move || load(path.as_ref(), worker, seed ^ worker, end));
        }
    });
}

/// Bytes of the disk that belong to one worker.
const SHARE: u64 = 2 << 20;

/// Writes blocks that say who wrote them and when, and checks every one that it reads.
fn load(path: &Path, worker: u64, seed: u64, end: Instant) {
    const BLOCKS: u64 = SHARE / 4096;
    let mut random = Random(seed);
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    let mut written = vec![0u64; BLOCKS as usize];
    let mut round = 0;
    while Instant::now() < end {
        round += 1;
        let len = 1 + random.below(64).min(BLOCKS - 1);
        let first = random.below(BLOCKS - len);
        let at = worker * SHARE + first * 4096;
        let blocks = &mut written[first as usize..(first + len) as usize];
        if random.below(2) == 0 {
            blocks.fill(round << 8 | worker);
            file.write_all_at(
                &(round << 8 | worker)
                    .to_ne_bytes()
                    .repeat(512 * len as usize),
                at,
            )
            .unwrap();
        } else {
            let mut bytes = vec![0; 4096 * len as usize];
            file.read_exact_at(&mut bytes, at).unwrap();
            for (block, stamp) in bytes.chunks(4096).zip(blocks) {
                assert!(block.chunks(8).all(|word| word == stamp.to_ne_bytes()));
            }
        }
        if random.below(16) == 0 {
            file.sync_data().unwrap();
        }
    }
}

/// Many requests of one process at a time, each checked.
fn fio(path: &Path) -> Child {
    Command::new("fio")
        .args([
            "--name=verify",
            "--ioengine=libaio",
            "--iodepth=8",
            "--direct=1",
            "--rw=randwrite",
        ])
        .args([
            "--bsrange=4k-128k",
            "--size=12m",
            "--loops=2",
            "--verify=crc32c",
        ])
        .args([
            "--verify_fatal=1",
            "--verify_state_save=0",
            "--allow_file_create=0",
        ])
        .arg(format!("--offset={}", DISK_BYTES / 2))
        .arg(format!("--filename={}", path.display()))
        .stdout(Stdio::null())
        .spawn()
        .expect("fio runs; it is in Debian's package fio")
}
