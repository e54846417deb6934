//! `shale vm localize`: a disk becomes a plain file under its guest, whatever is killed on the way.

use std::fs;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::{Random, Registry, Vms, need_root, run, tool};
use serde_json::Value;

use crate::export::check_file_system;
use crate::nbd::Kills;

/// The files in the directory of a machine that may be its disk.
fn files(vms: &Vms, name: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(vms.path("instances").join(name))? {
        let entry = entry?;
        let file = entry.file_name().to_string_lossy().into_owned();
        if file.starts_with("disk") && file.ends_with(".raw") {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// The file that the disk of a machine is, if it is one.
pub(super) fn file_of(vms: &Vms, name: &str) -> Result<Option<PathBuf>> {
    Ok(files(vms, name)?.pop())
}

fn inspect(vms: &Vms, name: &str) -> Result<Value> {
    let shown = vms.run(&["inspect", name, "--format", "json"])?;
    Ok(serde_json::from_str(&shown)?)
}

/// Whether the machine's process has something open whose path ends like this.
fn has_open(shown: &Value, what: &str) -> Result<bool> {
    let pid = shown["machine"]["pid"].as_u64().context("its process")?;
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
        // The end of a path as text: the kernel says behind a name that it is gone.
        let link = fs::read_link(entry?.path());
        if link.is_ok_and(|link| link.to_string_lossy().ends_with(what)) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A machine whose disk is a file, with nothing left of what it was.
fn check_localized(vms: &Vms, name: &str) -> Result<PathBuf> {
    let shown = inspect(vms, name)?;
    let disk = &shown["disk"];
    ensure!(
        disk["place"] == "file" && disk["local_bytes"] == disk["content_bytes"],
        "{shown}"
    );
    ensure!(disk["survives"]["service"] == true && disk["survives"]["registry"] == true);
    let found = files(vms, name)?;
    let [file] = &found[..] else {
        anyhow::bail!("{found:?}");
    };
    let overlays = fs::read_dir(vms.path("instances").join(name))?;
    for entry in overlays {
        let entry = entry?.file_name().to_string_lossy().into_owned();
        ensure!(!entry.starts_with("overlay"), "{entry} is left");
    }
    let name = file
        .file_name()
        .context("a name")?
        .to_string_lossy()
        .into_owned();
    ensure!(has_open(&shown, &name)?, "the machine does not use it");
    Ok(file.clone())
}

/// A guest goes on writing while its disk is moved, and afterwards without a service.
pub(super) fn under_a_writer(vms: &Vms, name: &str) -> Result<()> {
    vms.run(&["localize", name])?;
    check_localized(vms, name)?;
    let shown = inspect(vms, name)?;
    ensure!(shown["state"] == "running", "{shown}");
    // Again is no error.
    vms.run(&["localize", name])?;
    // Of a file there are snapshots, too; it goes on after that.
    vms.run(&["snapshot", "create", name, "whole"])?;
    ensure!(inspect(vms, name)?["state"] == "running");

    let service = vms.kill_service()?;
    let text = |at: &str| {
        shown
            .pointer(at)
            .and_then(Value::as_str)
            .unwrap_or_default()
    };
    let ask = |command: &str| {
        let mut ssh = tool("ssh")?;
        ssh.args(["-F", "/dev/null", "-o", "BatchMode=yes", "-o"]);
        ssh.arg(format!("UserKnownHostsFile={}", text("/ssh/known_hosts")));
        ssh.args([
            "-o",
            &format!("HostKeyAlias={}", text("/ssh/host_key_alias")),
        ]);
        ssh.args([
            "-i",
            text("/ssh/identity_file"),
            "-p",
            &shown["ssh"]["port"].to_string(),
        ]);
        ssh.arg(format!("{}@127.0.0.1", text("/ssh/user")));
        run(ssh.arg(command))
    };
    let done = || -> Result<u64> { Ok(ask("cat done")?.trim().parse()?) };
    let (before, begun) = (done()?, Instant::now());
    while done()? < before + 5 {
        ensure!(
            begun.elapsed() < Duration::from_secs(60),
            "the guest stands still"
        );
        std::thread::sleep(Duration::from_millis(200));
    }
    let errors = ask("dmesg | grep -ciE 'i/o error|ext4-fs error' || true")?;
    ensure!(errors == "0\n", "{errors}");
    ensure!(
        vms.service_pid().is_err(),
        "another service than {service:?} runs"
    );
    Ok(())
}

#[test]
fn privileged_boot_a_disk_that_is_moved_while_its_service_is_killed_is_the_one_or_the_other()
-> Result<()> {
    need_root()?;
    let vms = Vms::with_kernel_only()?;
    let mut random = Random::printed("localize kills");
    let deploy = ["deploy", "test/kernel", "--name", "a", "--wait", "none"];
    vms.run(&deploy)?;
    let begun = Instant::now();
    vms.run(&["localize", "a"])?;
    let whole = begun.elapsed();
    check_localized(&vms, "a")?;
    vms.run(&["rm", "a", "--yes"])?;
    vms.run(&deploy)?;
    let (mut kills, mut outcomes) = (Kills::default(), [0; 2]);
    while kills.go_on()? {
        let mut client = vms.command(&["localize", "a"]);
        let mut client = client.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let delay = random.below(whole.as_micros() as u64);
        std::thread::sleep(Duration::from_micros(delay));
        vms.kill_service()?;
        let acknowledged = client.wait()?.success();
        kills.hit(!acknowledged);
        let shown = inspect(&vms, "a")?;
        let is_file = shown["disk"]["place"] == "file";
        ensure!(is_file || !acknowledged, "what was acknowledged is undone");
        outcomes[usize::from(is_file)] += 1;
        running(&vms)?;
        if !is_file {
            // Nothing of the copy is left, on disk or in the machine, and it is made the next time.
            let left = files(&vms, "a")?;
            ensure!(left.is_empty(), "{left:?} is left");
            ensure!(!has_open(&shown, ".raw (deleted)")?, "the copy goes on");
            vms.run(&["localize", "a"])?;
        }
        check_localized(&vms, "a")?;
        vms.run(&["rm", "a", "--yes"])?;
        vms.run(&deploy)?;
    }
    println!("an overlay, a file: {outcomes:?}");
    vms.run(&["rm", "a", "--yes"])?;
    vms.nothing_left()
}

/// Waits until the guest runs: one that stood still to be moved goes on at the next look.
fn running(vms: &Vms) -> Result<()> {
    let begun = Instant::now();
    while vms.state("a")? != "running" {
        ensure!(
            begun.elapsed() < Duration::from_secs(20),
            "{}",
            vms.run(&["ls"])?
        );
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

#[test]
fn privileged_boot_a_localized_machine_needs_neither_registry_nor_service() -> Result<()> {
    need_root()?;
    let vms = Vms::with_kernel_only()?;
    let registry = Registry::start(&vms.shale, 0)?;
    let reference = registry.name("test/kernel");
    let tree = vms.shale.home().join("tree");
    fs::create_dir_all(tree.join("boot"))?;
    fs::copy(harness::Input::base()?.kernel()?, tree.join("boot/vmlinuz"))?;
    fs::write(
        tree.join("large"),
        Random::printed("content").bytes(20 << 20),
    )?;
    run(vms.shale.command().arg("push").arg(&tree).arg(&reference))?;
    // Neither of them has more than what a start reads.
    for name in ["runs", "stopped", "paused"] {
        let mut deploy = vms.command(&["deploy", &reference, "--name", name, "--wait", "none"]);
        run(deploy.env("SHALE_FILL_RATE", "off"))?;
        let shown = inspect(&vms, name)?;
        ensure!(shown["disk"]["survives"]["registry"] == false, "{shown}");
        ensure!(shown["disk"]["survives"]["service"] == false, "{shown}");
    }
    vms.run(&["stop", "stopped", "--force", "--timeout", "0"])?;
    vms.run(&["pause", "paused"])?;
    for name in ["runs", "stopped", "paused"] {
        vms.run(&["localize", name])?;
    }
    let paused = check_localized(&vms, "paused")?;
    ensure!(
        vms.state("paused")? == "paused",
        "who paused it lets it go on"
    );
    registry.server.kill()?;
    run(vms.shale.command().args(["host", "stop"]))?;
    // All of it is there, with nobody left to ask.
    vms.run(&["start", "stopped", "--wait", "none"])?;
    check_localized(&vms, "stopped")?;
    check_localized(&vms, "runs")?;
    let copy = vms.shale.home().join("copy.raw");
    run(vms.command(&["export", "paused"]).arg(&copy))?;
    check_file_system(&copy)?;
    run(tool("cmp")?.args([&copy, &paused]))?;
    let mount = harness::LoopMount::new(&copy, "ro")?;
    ensure!(fs::read(mount.path().join("large"))? == fs::read(tree.join("large"))?);
    mount.unmount()?;
    for name in ["runs", "stopped", "paused"] {
        vms.run(&["rm", name, "--yes"])?;
    }
    vms.nothing_left()
}
