//! Snapshots of a machine's disk: what they hold, and a service that is killed while it makes or restores one.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::{Random, Vms, failure, need_root, run, tool};
use serde_json::Value;

use crate::nbd::Kills;

/// Where the tests write: behind all that the template has on its disk.
const AT: u64 = 512 << 20;

/// So much that copying it takes longer than a command takes to begin.
const WRITTEN: u64 = 48 << 20;

/// The disk of machine `a`, which its record names.
fn disk(vms: &Vms) -> Result<PathBuf> {
    let record = fs::read(vms.path("instances/a/record.json"))?;
    let record: Value = serde_json::from_slice(&record)?;
    let name = record["disk"]["overlay"]["directory"].as_str();
    Ok(vms
        .path("instances/a")
        .join(name.context("the disk in the record")?))
}

/// Names of what lies in the directory of machine `a`, but what its hypervisor said.
fn names(vms: &Vms, below: &str) -> Result<Vec<String>> {
    let entries = fs::read_dir(vms.path("instances/a").join(below))?;
    let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    let mut names: Vec<String> = names.collect::<Result<_>>()?;
    names.retain(|name| !name.ends_with(".log"));
    names.sort_unstable();
    Ok(names)
}

/// Fails if there are other disks than the one that the record names.
pub(super) fn named_disks(vms: &Vms) -> Result<()> {
    let mut disks = names(vms, "")?;
    disks.retain(|name| name.starts_with("overlay"));
    let named = disk(vms)?;
    ensure!(disks.len() == 1 && named.ends_with(&disks[0]), "{disks:?}");
    Ok(())
}

/// Serves the disk of the stopped machine `a`, as its guest would see it, and lets `qemu-io` do something with it. Whether it
/// could, and found what it was to find.
fn on_disk(vms: &Vms, commands: &[String]) -> Result<bool> {
    let socket = vms.shale.home().join("s");
    let mut serve = vms.shale.command();
    serve.args(["nbd", "test/kernel", "--socket"]).arg(&socket);
    serve.arg("--overlay").arg(disk(vms)?);
    let server = harness::Background::start_until(&mut serve, "serving")?;
    let mut client = tool("qemu-io")?;
    client.args(["-f", "raw", "-t", "writeback"]);
    client.arg(format!("nbd+unix:///?socket={}", socket.display()));
    for command in commands {
        client.args(["-c", command]);
    }
    let done = client.stdout(Stdio::null()).status()?.success();
    server.terminate()?;
    Ok(done)
}

/// Writes this byte to all of the region.
fn fill(vms: &Vms, byte: u8) -> Result<()> {
    let write = format!("write -P {byte} {AT} {WRITTEN}");
    ensure!(on_disk(vms, &[write, "flush".into()])?);
    Ok(())
}

/// The byte that all of the region holds, out of two.
fn filled_with(vms: &Vms, bytes: [u8; 2]) -> Result<u8> {
    for byte in bytes {
        if on_disk(vms, &[format!("read -P {byte} {AT} {WRITTEN}")])? {
            return Ok(byte);
        }
    }
    anyhow::bail!("it is neither all of {bytes:?}")
}

/// A command that says nothing, whatever becomes of it.
fn quietly(mut command: Command) -> Command {
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// A host with the stopped machine `a`, whose repository is free for others.
fn host_with_a() -> Result<Vms> {
    let vms = Vms::with_kernel_only()?;
    vms.run(&["deploy", "test/kernel", "--name", "a", "--wait", "none"])?;
    vms.run(&["stop", "a", "--timeout", "0", "--force"])?;
    stop_service(&vms)?;
    Ok(vms)
}

pub(super) fn stop_service(vms: &Vms) -> Result<()> {
    run(vms.shale.command().args(["host", "stop"])).map(drop)
}

#[test]
fn privileged_boot_snapshots_hold_what_was_written_and_come_back() -> Result<()> {
    need_root()?;
    let vms = host_with_a()?;
    fill(&vms, 1)?;
    let zeros = format!("write -z {} 8M", AT + WRITTEN);
    ensure!(on_disk(&vms, &[zeros, "flush".into()])?);
    let snapshot = |arguments: &[&str]| vms.command(&[&["snapshot"], arguments].concat());
    let listed = || -> Result<Vec<Value>> {
        let said = run(&mut snapshot(&["ls", "a", "--format", "json"]))?;
        Ok(serde_json::from_str(&said)?)
    };
    ensure!(listed()?.is_empty());
    run(&mut snapshot(&["create", "a", "one"]))?;
    let found = listed()?;
    ensure!(found[0]["name"] == "one" && found[0]["reference"] == "test/kernel:latest");
    let bytes = found[0]["bytes"].as_u64().context("bytes")?;
    ensure!((WRITTEN..WRITTEN + (2 << 20)).contains(&bytes), "{bytes}");
    let data = fs::metadata(vms.path("instances/a/snapshots/one/overlay/data"))?;
    ensure!(data.mode() & 0o777 == 0o600, "{:o}", data.mode());

    stop_service(&vms)?;
    fill(&vms, 2)?;
    // Of one that runs; it goes on, unless somebody has paused it.
    vms.run(&["start", "a", "--wait", "none"])?;
    run(&mut snapshot(&["create", "a", "two"]))?;
    ensure!(vms.state("a")? == "running");
    vms.run(&["pause", "a"])?;
    run(&mut snapshot(&["create", "a", "three"]))?;
    ensure!(vms.state("a")? == "paused", "its user's pause is over");
    vms.run(&["resume", "a"])?;
    for (arguments, code) in [
        (&["create", "a", "one"][..], 5),
        (&["create", "a", "Not-a-name"], 2),
        (&["create", "b", "one"], 3),
        (&["restore", "a", "one", "--yes"], 5),
        (&["restore", "a", "one"], 2),
        (&["rm", "a", "one"], 2),
        (&["rm", "a", "none", "--yes"], 3),
    ] {
        let found = failure(&mut snapshot(arguments))?;
        ensure!(found == code, "{found} for {arguments:?}");
    }
    vms.run(&["stop", "a", "--timeout", "0", "--force"])?;
    ensure!(failure(&mut snapshot(&["restore", "a", "none", "--yes"]))? == 3);
    run(&mut snapshot(&["rm", "a", "three", "--yes"]))?;
    ensure!(names(&vms, "snapshots")? == ["one", "two"]);
    for (snapshot_name, byte) in [("one", 1), ("two", 2), ("one", 1)] {
        run(&mut snapshot(&["restore", "a", snapshot_name, "--yes"]))?;
        stop_service(&vms)?;
        ensure!(filled_with(&vms, [1, 2])? == byte, "not {snapshot_name}");
    }
    ensure!(names(&vms, "snapshots")? == ["one", "two"], "they stay");
    damage_is_told(&vms)?;
    vms.run(&["start", "a", "--wait", "none"])?;
    vms.run(&["rm", "a", "--yes"])?;
    vms.nothing_left()
}

/// A snapshot that cannot be read is listed with its reason, and can be removed.
fn damage_is_told(vms: &Vms) -> Result<()> {
    fs::write(vms.path("instances/a/snapshots/two/snapshot.json"), "{")?;
    let output = vms.command(&["snapshot", "ls", "a", "--quiet"]).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.stdout == b"one\n" && said.contains("two"), "{said}");
    let restore = ["snapshot", "restore", "a", "two", "--yes"];
    ensure!(failure(&mut vms.command(&restore))? == 7);
    vms.run(&["snapshot", "rm", "a", "two", "--yes"])?;
    ensure!(names(vms, "snapshots")? == ["one"]);
    Ok(())
}

/// Kills the service while `command` works, at any moment of the time that it took before. Whether it was done.
pub(super) fn kill_within(
    vms: &Vms,
    command: Command,
    whole: Duration,
    random: &mut Random,
) -> Result<bool> {
    let mut client = quietly(command).spawn()?;
    std::thread::sleep(Duration::from_micros(
        random.below(whole.as_micros() as u64),
    ));
    vms.kill_service()?;
    Ok(client.wait()?.success())
}

#[test]
fn privileged_boot_a_snapshot_whose_service_is_killed_is_whole_or_gone() -> Result<()> {
    need_root()?;
    let vms = host_with_a()?;
    let mut random = Random::printed("snapshot kills");
    fill(&vms, 1)?;
    vms.run(&["start", "a", "--wait", "none"])?;
    create_killed(&vms, &mut random, |is_there| {
        if !is_there {
            let left = names(&vms, "snapshots")?;
            ensure!(left.is_empty(), "{left:?}");
        }
        Ok(())
    })?;
    vms.run(&["rm", "a", "--yes"])?;
    vms.nothing_left()
}

/// Snapshots `s` of the machine `a`, which runs, are made while services are killed. Each is whole or not there, which `check`
/// is told, and its guest goes on.
pub(super) fn create_killed(
    vms: &Vms,
    random: &mut Random,
    mut check: impl FnMut(bool) -> Result<()>,
) -> Result<()> {
    let create = || vms.command(&["snapshot", "create", "a", "s"]);
    let begun = Instant::now();
    run(&mut create())?;
    let whole = begun.elapsed();
    let remove = ["snapshot", "rm", "a", "s", "--yes"];
    vms.run(&remove)?;
    let (mut kills, mut there, mut held) = (Kills::default(), 0, 0);
    while kills.go_on()? {
        let acknowledged = kill_within(vms, create(), whole, random)?;
        kills.hit(!acknowledged);
        held += usize::from(vms.path("run/a/held").exists());
        let listed = vms.run(&["snapshot", "ls", "a", "--quiet"])?;
        // What was not finished is gone, and the guest goes on.
        ensure!(
            listed == "s\n" || listed.is_empty() && !acknowledged,
            "{listed}"
        );
        let begun = Instant::now();
        while vms.state("a")? != "running" || vms.path("run/a/held").exists() {
            let late = begun.elapsed() > Duration::from_secs(20);
            ensure!(!late, "the guest is paused for nobody");
            std::thread::sleep(Duration::from_millis(50));
        }
        check(!listed.is_empty())?;
        if !listed.is_empty() {
            there += 1;
            vms.run(&remove)?;
        }
    }
    println!(
        "{} kills: {there} whole, {held} with a guest held",
        kills.all
    );
    ensure!(held > 0, "no kill hit a guest that was paused");
    Ok(())
}

#[test]
fn privileged_boot_a_restore_whose_service_is_killed_leaves_one_disk_or_the_other() -> Result<()> {
    need_root()?;
    let vms = host_with_a()?;
    let mut random = Random::printed("restore kills");
    fill(&vms, 1)?;
    vms.run(&["snapshot", "create", "a", "one"])?;
    stop_service(&vms)?;
    fill(&vms, 2)?;
    vms.run(&["snapshot", "create", "a", "two"])?;
    let restore = |name: &str| vms.command(&["snapshot", "restore", "a", name, "--yes"]);
    let begun = Instant::now();
    run(&mut restore("one"))?;
    let whole = begun.elapsed();

    let (mut kills, mut now, mut replaced) = (Kills::default(), 1, 0);
    while kills.go_on()? {
        let (name, wanted) = if now == 1 { ("two", 2) } else { ("one", 1) };
        let acknowledged = kill_within(&vms, restore(name), whole, &mut random)?;
        kills.hit(!acknowledged);
        // The next service sweeps what the record does not name.
        vms.run(&["snapshot", "ls", "a"])?;
        named_disks(&vms)?;
        stop_service(&vms)?;
        let found = filled_with(&vms, [1, 2])?;
        ensure!(found == wanted || found == now && !acknowledged, "{found}");
        replaced += usize::from(found == wanted);
        now = found;
        vms.run(&["ls"])?;
    }
    println!("{} kills, {replaced} disks replaced", kills.all);
    vms.run(&["rm", "a", "--yes"])?;
    vms.nothing_left()
}
