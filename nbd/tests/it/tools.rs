//! The clients that people use: libnbd's, QEMU's and fio's.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use shale_nbd::{Access, Export, Exports, Server, Settings, listen_unix};
use tempfile::TempDir;
use tokio::process::Command;
use tokio::task::JoinHandle;

use crate::memory::{Memory, UNIT};

const SIZE: usize = 16 << 20;

/// A server on a socket of its own, with the export under test, and a small one called `second`.
struct Offer {
    dir: TempDir,
    memory: Arc<Memory>,
    server: Server,
    serving: JoinHandle<std::io::Result<()>>,
}

impl Drop for Offer {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Offer {
    fn new(memory: Arc<Memory>, access: Access) -> Self {
        let mut exports = Exports::single(Export::new(memory.clone(), access)).unwrap();
        let mut second = Export::new(Memory::new(1 << 20), Access::ReadOnly);
        second.description = "the second one".into();
        exports.add("second", second).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let server = Server::new(exports, Settings::default());
        let listener = listen_unix(&dir.path().join("socket")).unwrap();
        let serving = tokio::spawn({
            let server = server.clone();
            async move { server.serve(listener, std::future::pending()).await }
        });
        Self {
            dir,
            memory,
            server,
            serving,
        }
    }

    fn uri(&self) -> String {
        let socket = self.dir.path().join("socket");
        format!("nbd+unix:///?socket={}", socket.display())
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A file with the disk's bytes.
    fn raw_file(&self, name: &str) -> PathBuf {
        let path = self.file(name);
        std::fs::write(&path, self.memory.bytes()).unwrap();
        path
    }
}

async fn output(package: &str, tool: &str, args: &[impl AsRef<OsStr>]) -> Output {
    let mut command = Command::new(tool);
    command.args(args).kill_on_drop(true).stdin(Stdio::null());
    let run = tokio::time::timeout(Duration::from_secs(60), command.output());
    match run.await.expect("the tool hangs") {
        Ok(output) => output,
        Err(error) => panic!("cannot run {tool} (Debian package {package}): {error}"),
    }
}

/// Runs a tool to its success; what it printed.
async fn run(package: &str, tool: &str, args: &[impl AsRef<OsStr>]) -> String {
    let output = output(package, tool, args).await;
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{tool}: {printed}{error}");
    printed
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_nbdinfo_lists_exports_and_maps_holes() {
    let memory = Memory::new(SIZE);
    memory.fill(5 * UNIT, &[1; 3 * UNIT]);
    memory.fill(100 * UNIT, &[1; UNIT]);
    let offer = Offer::new(memory, Access::ReadWrite);
    let list = run("libnbd-bin", "nbdinfo", &["--list", &offer.uri()]).await;
    for line in [
        "protocol: newstyle-fixed without TLS, using structured packets",
        "export=\"\":",
        "export=\"second\":",
        "description: the second one",
        "export-size: 16777216 (16M)",
        "base:allocation",
        "can_cache: true",
        "can_df: true",
        "can_fast_zero: true",
        "can_multi_conn: true",
        "can_trim: true",
        "block_size_maximum: 33554432",
    ] {
        assert!(list.contains(line), "no {line:?} in:\n{list}");
    }
    let map = run("libnbd-bin", "nbdinfo", &["--map", &offer.uri()]).await;
    let lines: Vec<Vec<&str>> = map
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    let expected = [
        ["0", "20480", "3", "hole,zero"].to_vec(),
        ["20480", "12288", "0", "data"].to_vec(),
        ["32768", "376832", "3", "hole,zero"].to_vec(),
        ["409600", "4096", "0", "data"].to_vec(),
        ["413696", "16363520", "3", "hole,zero"].to_vec(),
    ];
    assert_eq!(lines, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_nbdcopy_copies_both_ways() {
    let offer = Offer::new(Memory::patterned(SIZE), Access::ReadWrite);
    let before = offer.memory.bytes();
    let copy = offer.file("copy.raw");
    run("libnbd-bin", "nbdcopy", &[&offer.uri(), text(&copy)]).await;
    assert!(std::fs::read(&copy).unwrap() == before);
    let target = Offer::new(Memory::new(SIZE), Access::ReadWrite);
    // What the target held must be gone where the source has holes.
    target.memory.fill(0, &[0xee; SIZE]);
    let args = ["--flush", text(&copy), &target.uri()];
    run("libnbd-bin", "nbdcopy", &args).await;
    assert!(target.memory.bytes() == before);
    let between = Offer::new(Memory::new(SIZE), Access::ReadWrite);
    run("libnbd-bin", "nbdcopy", &[&offer.uri(), &between.uri()]).await;
    assert!(between.memory.bytes() == before);
    let counters = offer.server.counters();
    let load =
        |counter: &std::sync::atomic::AtomicU64| counter.load(std::sync::atomic::Ordering::Relaxed);
    assert_eq!(load(&counters.connections_failed), 0);
    // It used what CAN_MULTI_CONN offers, and left out the holes.
    assert!(load(&counters.connections_opened) > 3);
    assert!(load(&counters.read_bytes) < 2 * SIZE as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_qemu_img_converts_and_compares() {
    let offer = Offer::new(Memory::patterned(SIZE), Access::ReadOnly);
    let info = run("qemu-utils", "qemu-img", &["info", &offer.uri()]).await;
    assert!(info.contains("virtual size: 16 MiB"), "{info}");
    let raw = offer.raw_file("same.raw");
    let same = [
        "compare",
        "-f",
        "raw",
        "-F",
        "raw",
        &offer.uri(),
        text(&raw),
    ];
    run("qemu-utils", "qemu-img", &same).await;
    let qcow = offer.file("disk.qcow2");
    let convert = [
        "convert",
        "-f",
        "raw",
        "-O",
        "qcow2",
        &offer.uri(),
        text(&qcow),
    ];
    run("qemu-utils", "qemu-img", &convert).await;
    let target = Offer::new(Memory::new(SIZE), Access::ReadWrite);
    target.memory.fill(0, &[0xee; SIZE]);
    let back = [
        "convert",
        "-n",
        "-f",
        "qcow2",
        "-O",
        "raw",
        text(&qcow),
        &target.uri(),
    ];
    run("qemu-utils", "qemu-img", &back).await;
    assert!(target.memory.bytes() == offer.memory.bytes());
    // The comparison can fail.
    target.memory.fill(4096, b"x");
    let differ = [
        "compare",
        "-f",
        "raw",
        "-F",
        "raw",
        &target.uri(),
        text(&raw),
    ];
    let output = output("qemu-utils", "qemu-img", &differ).await;
    assert_eq!(output.status.code(), Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_qemu_io_writes_zeroes_discards_and_reads_back() {
    let offer = Offer::new(Memory::new(SIZE), Access::ReadWrite);
    offer.memory.fill(0, &[0xee; SIZE]);
    let args = [
        "-d",
        "unmap",
        "-f",
        "raw",
        "-c",
        "write -P 7 1M 3M",
        "-c",
        "write -f -P 3 77 1000",
        "-c",
        "write -z 2M 512k",
        "-c",
        "write -z -u 3M 512k",
        "-c",
        "discard 5M 1M",
        "-c",
        "aio_write -P 9 8M 64k",
        "-c",
        "aio_read -P 238 9M 64k",
        "-c",
        "aio_flush",
        "-c",
        "flush",
        "-c",
        "read -P 7 1M 1M",
        "-c",
        "read -P 0 2M 512k",
        "-c",
        "read -P 0 3M 512k",
        "-c",
        "read -P 3 77 1000",
        "-c",
        "read -P 9 8M 64k",
        &offer.uri(),
    ];
    let printed = run("qemu-utils", "qemu-io", &args).await;
    assert!(!printed.contains("failed"), "{printed}");
    let bytes = offer.memory.bytes();
    let mib = 1 << 20;
    assert!(bytes[mib..2 * mib].iter().all(|byte| *byte == 7));
    // Zeroed and kept; zeroed and given back; discarded.
    for (offset, allocated) in [(2 * mib, true), (3 * mib, false), (5 * mib, false)] {
        assert_eq!(bytes[offset], 0);
        assert_eq!(offer.memory.is_allocated(offset), allocated, "at {offset}");
    }
    let read_only = Offer::new(Memory::new(SIZE), Access::ReadOnly);
    let write = ["-f", "raw", "-c", "write 0 512", &read_only.uri()];
    assert!(
        !output("qemu-utils", "qemu-io", &write)
            .await
            .status
            .success()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_fio_verifies_what_it_wrote() {
    let offer = Offer::new(Memory::new(SIZE), Access::ReadWrite);
    let uri = format!("--uri={}", offer.uri());
    let job = [
        "--name=verify",
        // Else it leaves a file in the directory where tests run.
        "--verify_state_save=0",
        "--thread",
        "--ioengine=nbd",
        "--rw=randrw",
        "--bsrange=512-128k",
        "--blockalign=512",
        "--iodepth=32",
        "--verify=crc32c",
        "--verify_fatal=1",
        "--fsync=64",
        "--randseed=11",
        "--size=16M",
        &uri,
    ];
    run("fio", "fio", &job).await;
    assert!(offer.memory.bytes().iter().any(|byte| *byte != 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_a_killed_client_does_not_disturb_the_next() {
    let offer = Offer::new(Memory::patterned(SIZE), Access::ReadWrite);
    for delay in [1, 5, 20] {
        let uri = format!("--uri={}", offer.uri());
        let job = [
            "--name=kill",
            // Without it, fio's work is done by a child that outlives the kill.
            "--thread",
            "--ioengine=nbd",
            "--rw=randrw",
            "--bs=64k",
            "--iodepth=32",
            "--size=16M",
            "--time_based",
            "--runtime=30",
            &uri,
        ];
        let mut command = Command::new("fio");
        command
            .args(job)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let mut child = command
            .kill_on_drop(true)
            .spawn()
            .expect("fio (Debian package fio)");
        let reads = &offer.server.counters().reads;
        let begun = reads.load(std::sync::atomic::Ordering::Relaxed);
        crate::limits::eventually("fio reads", || {
            reads.load(std::sync::atomic::Ordering::Relaxed) > begun
        })
        .await;
        tokio::time::sleep(Duration::from_millis(delay)).await;
        child.kill().await.unwrap();
    }
    let counters = offer.server.counters();
    crate::limits::eventually("the server noticed", || {
        let load = |counter: &std::sync::atomic::AtomicU64| {
            counter.load(std::sync::atomic::Ordering::Relaxed)
        };
        load(&counters.connections_closed) == load(&counters.connections_opened)
    })
    .await;
    let raw = offer.raw_file("now.raw");
    let same = [
        "compare",
        "-f",
        "raw",
        "-F",
        "raw",
        &offer.uri(),
        text(&raw),
    ];
    run("qemu-utils", "qemu-img", &same).await;
}
