//! A workload that checks its own bytes, over a server that is killed again and again.
//!
//! `fio` knows what it wrote, in which order, and with which checksum. Its own NBD client gives up when a server dies;
//! between it and the server stands `qemu-nbd` with QEMU's client, which connects again and sends what was not answered
//! once more: the client that a virtual machine's disk has.

use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use harness::{Background, Random, Shale, run, tool, wait_for_file};

use super::{serve, small_tree, url};

/// Seconds for which QEMU's client waits for a server: all requests wait meanwhile, and none fails.
const RECONNECT_SECONDS: u32 = 60;

/// Servers that must be killed while the workload writes to them. The client comes back a second after each.
const KILLS: usize = 8;

/// Where the first area of the workload begins, and how large each is: they lie where the pushed tree has nothing and
/// where it has metadata and content.
const AREA_MIB: usize = 8;
const MOST_AREAS: usize = 48;

/// The blocks of one area: written if nothing else is said.
fn fio(socket: &Path, area: usize) -> Result<Command> {
    let mut command = tool("fio")?;
    command
        .args(["--name=area", "--ioengine=nbd", "--rw=randwrite"])
        .args(["--bsrange=4k-64k", "--iodepth=16", "--fsync=32"])
        .args(["--verify=crc32c", "--verify_fatal=1"])
        // It would lie where the test runs.
        .arg("--verify_state_save=0")
        .arg(format!("--uri={}", url(socket)))
        .arg(format!("--offset={}m", area * AREA_MIB))
        .arg(format!("--size={AREA_MIB}m"))
        .arg(format!("--randseed={}", 1 + area));
    Ok(command)
}

/// Writes it, and reads what was written while it goes on.
fn write(socket: &Path, area: usize) -> Result<Command> {
    let mut command = fio(socket, area)?;
    command.arg("--verify_backlog=64");
    Ok(command)
}

/// Only reads it. With a backlog, fio would check nothing here.
fn check(socket: &Path, area: usize) -> Result<()> {
    run(fio(socket, area)?.arg("--verify_only")).map(drop)
}

/// QEMU's client of `behind`, listening on `front`.
fn reconnecting(behind: &Path, front: &Path) -> Result<Background> {
    let image = format!(
        "driver=raw,file.driver=nbd,file.server.type=unix,file.server.path={},file.reconnect-delay={RECONNECT_SECONDS}",
        behind.display()
    );
    let mut command = tool("qemu-nbd")?;
    command.args(["--persistent", "--socket"]).arg(front);
    let client = Background::start(command.args(["--image-opts", &image]))?;
    wait_for_file(front)?;
    Ok(client)
}

/// Waits until the workload writes to the file `data`, or has ended: then how.
fn ended_or_writing(workload: &mut Background, data: &Path) -> Result<Option<ExitStatus>> {
    let before = data.metadata()?.modified()?;
    let begun = Instant::now();
    while data.metadata()?.modified()? == before {
        if let Some(status) = workload.ended()? {
            return Ok(Some(status));
        }
        let longest = Duration::from_secs(RECONNECT_SECONDS.into());
        ensure!(begun.elapsed() < longest, "the client does not come back");
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(None)
}

#[test]
fn privileged_a_workload_that_checks_its_bytes_does_not_notice_that_its_server_is_killed()
-> Result<()> {
    let shale = Shale::new()?;
    let tree = small_tree()?;
    run(shale
        .command()
        .arg("push")
        .arg(tree.path())
        .arg("test/tree"))?;
    let [socket, front, overlay] = ["s", "front", "overlay"].map(|name| shale.home().join(name));
    let data = overlay.join("data");
    let mut random = Random::printed("fio kills");
    let mut server = serve(&shale, &socket, Some(&overlay))?;
    let client = reconnecting(&socket, &front)?;
    let (mut areas, mut kills) = (0, 0);
    while kills < KILLS {
        ensure!(areas < MOST_AREAS, "only {kills} kills hit the workload");
        let log = tempfile::NamedTempFile::new()?;
        let mut command = write(&front, areas)?;
        command.stdout(log.reopen()?).stderr(Stdio::inherit());
        let mut workload = Background::start(&mut command)?;
        let status = loop {
            if let Some(status) = ended_or_writing(&mut workload, &data)? {
                break status;
            }
            std::thread::sleep(Duration::from_millis(random.below(50)));
            server.kill()?;
            // One that ended at that moment was not hit.
            kills += usize::from(workload.ended()?.is_none());
            server = serve(&shale, &socket, Some(&overlay))?;
        };
        let said = std::fs::read_to_string(log.path())?;
        ensure!(status.success(), "area {areas}: {status}\n{said}");
        ensure!(said.contains("READ: bw="), "nothing was checked: {said}");
        areas += 1;
    }
    println!("{kills} kills in {areas} areas");
    client.terminate()?;
    // Everything was flushed, or outlives the server without that.
    server.kill()?;
    let server = serve(&shale, &socket, Some(&overlay))?;
    for area in 0..areas {
        check(&socket, area)?;
    }
    // One byte that is not what was written would have been found.
    let at = format!("write -P 255 {} 512", (AREA_MIB << 20) / 2);
    run(tool("qemu-io")?
        .args(["-f", "raw", "-c", &at])
        .arg(url(&socket)))?;
    ensure!(check(&socket, 0).is_err(), "another byte was not noticed");
    server.terminate()
}
