//! A new root disk for a machine that stays itself: its identity, its data disks, its snapshots; and a service that is
//! killed meanwhile.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::{Input, LoopMount, Random, Registry, Shale, Vms, failure, need_root, run, tool};
use serde_json::Value;
use tempfile::TempDir;

use crate::export::check_file_system;
use crate::nbd::Kills;

use super::snapshots::{kill_within, named_disks, stop_service};
use super::{BOOT_SECONDS, self_image};

/// Bytes of the data disk of the tests.
const DATA_BYTES: u64 = 64 << 20;

fn inspect(vms: &Vms) -> Result<Value> {
    let shown = vms.run(&["inspect", "a", "--format", "json"])?;
    Ok(serde_json::from_str(&shown)?)
}

/// What `ssh` is to find when it connects to machine `a`.
fn known_host(vms: &Vms) -> Result<String> {
    let line = fs::read_to_string(vms.path("instances/a/known_hosts"))?;
    let key = line.split(' ').nth(2).context("a key")?;
    Ok(key.trim().to_owned())
}

/// The disk of machine `a` as a file, in order.
fn exported(vms: &Vms) -> Result<PathBuf> {
    let file = vms.shale.home().join("a.raw");
    let _ = fs::remove_file(&file);
    vms.run(&["export", "a", &file.display().to_string()])?;
    check_file_system(&file)?;
    Ok(file)
}

/// A file on a disk.
fn read(disk: &Path, path: &str) -> Result<String> {
    let cat = format!("cat {path}");
    run(tool("debugfs")?.args(["-R", &cat]).arg(disk))
}

/// The public host key and the machine id on a disk.
fn identity_on(disk: &Path) -> Result<(String, String)> {
    let key = read(disk, "/etc/ssh/ssh_host_ed25519_key.pub")?;
    let key = key.split(' ').nth(1).context("a key")?.to_owned();
    Ok((key, read(disk, "/etc/machine-id")?))
}

/// Makes a template that has a file `/new` more than another.
fn push_more(vms: &Vms, base: &str, name: &str) -> Result<()> {
    let (home, archive) = (vms.shale.home(), vms.shale.home().join("more.tar"));
    fs::write(home.join("new"), "of the second\n")?;
    let mut tar = tool("tar")?;
    tar.arg("--create").arg("--file").arg(&archive);
    run(tar.arg("--directory").arg(home).arg("new"))?;
    let mut push = vms.shale.command();
    push.args(["push", "--base", base, "--difference"]);
    run(push.arg(&archive).arg(name)).map(drop)
}

/// A host whose template `test/kernel:2` has a file `/new` more than `test/kernel`, and a stopped machine `a` of the latter.
fn host_with_two_templates() -> Result<Vms> {
    let vms = Vms::with_kernel_only()?;
    push_more(&vms, "test/kernel", "test/kernel:2")?;
    let size = DATA_BYTES.to_string();
    let mut deploy = vms.command(&["deploy", "test/kernel", "--name", "a", "--wait", "none"]);
    run(deploy.args(["--data-disk", &size, "--data-disk", "1G"]))?;
    vms.run(&["stop", "a", "--timeout", "0", "--force"])?;
    Ok(vms)
}

#[test]
fn privileged_boot_a_machine_with_a_new_disk_is_still_itself() -> Result<()> {
    need_root()?;
    let vms = host_with_two_templates()?;
    let file = vms.path("instances/a/data0.raw");
    ensure!(fs::metadata(&file)?.len() == DATA_BYTES);
    fs::write(&file, vec![7; DATA_BYTES as usize])?;
    let before = inspect(&vms)?;
    let disks = before["data_disks"].as_array().context("data disks")?;
    ensure!(
        disks.len() == 2 && disks[1]["bytes"] == 1u64 << 30,
        "{before}"
    );
    ensure!(disks[0]["serial"] == "data0", "{before}");
    ensure!(disks[0]["file"] == *file.to_string_lossy(), "{before}");
    for name in ["identity.json", "data0.raw"] {
        let mode = fs::metadata(vms.path("instances/a").join(name))?.mode();
        ensure!(mode & 0o777 == 0o600, "{name} has mode {mode:o}");
    }
    let identity = identity_on(&exported(&vms)?)?;
    ensure!(identity.0 == known_host(&vms)?);

    let reimage = ["reimage", "a", "test/kernel:2"];
    vms.run(&["start", "a", "--wait", "none"])?;
    let said = vms.command(&[&reimage[..], &["--yes"]].concat()).output()?;
    let said = String::from_utf8_lossy(&said.stderr).into_owned();
    ensure!(said.contains("vm stop a"), "{said}");
    vms.run(&["snapshot", "create", "a", "first"])?;
    vms.run(&["stop", "a", "--timeout", "0", "--force"])?;
    ensure!(failure(&mut vms.command(&reimage))? == 2, "it asks");
    ensure!(failure(&mut vms.command(&["reimage", "a", "test/none", "--yes"]))? == 3);
    ensure!(failure(&mut vms.command(&["reimage", "b", "--yes"]))? == 3);
    vms.run(&[&reimage[..], &["--yes"]].concat())?;
    let after = inspect(&vms)?;
    for kept in ["created", "ports", "ssh"] {
        ensure!(before[kept] == after[kept], "{kept}: {before} {after}");
    }
    ensure!(after["reference"] == "test/kernel:2" && before["template"] != after["template"]);
    let disk = exported(&vms)?;
    ensure!(identity_on(&disk)? == identity && read(&disk, "/new")? == "of the second\n");
    ensure!(
        fs::read(&file)? == vec![7; DATA_BYTES as usize],
        "the data disk"
    );

    // The plan that only a snapshot is made from is in use.
    let cached = run(vms
        .shale
        .command()
        .args(["cache", "ls", "--format", "json"]))?;
    let cached: Value = serde_json::from_str(&cached)?;
    let of_first = cached.as_array().context("templates")?.iter();
    let mut of_first = of_first.filter(|shown| shown["template"] == before["template"]);
    ensure!(
        of_first.next().context("a row")?["machines"][0] == "a",
        "{cached}"
    );
    vms.run(&["snapshot", "restore", "a", "first", "--yes"])?;
    ensure!(inspect(&vms)?["template"] == before["template"]);
    let disk = exported(&vms)?;
    ensure!(identity_on(&disk)? == identity && read(&disk, "/new")?.is_empty());
    vms.run(&["start", "a", "--wait", "none"])?;
    vms.run(&["stop", "a", "--timeout", "0", "--force"])?;
    without_its_identity(&vms, &identity)?;
    vms.run(&["rm", "a", "--yes"])?;
    vms.nothing_left()
}

/// A machine of a version that kept no identity gets a new one, and says so, once. Without REF it gets what its own
/// reference means now.
fn without_its_identity(vms: &Vms, old: &(String, String)) -> Result<()> {
    stop_service(vms)?;
    fs::remove_file(vms.path("instances/a/identity.json"))?;
    run(vms
        .shale
        .command()
        .args(["template", "tag", "test/kernel:2", "test/kernel:latest"]))?;
    let reimage = || -> Result<String> {
        let output = vms.command(&["reimage", "a", "--yes"]).output()?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "{said}");
        Ok(said)
    };
    ensure!(reimage()?.contains("new SSH host key"));
    let disk = exported(vms)?;
    let new = identity_on(&disk)?;
    ensure!(new.0 != old.0 && new.1 != old.1);
    ensure!(new.0 == known_host(vms)? && read(&disk, "/new")? == "of the second\n");
    ensure!(!reimage()?.contains("new SSH host key"));
    ensure!(identity_on(&exported(vms)?)? == new);
    // Its snapshot has the old key.
    vms.run(&["snapshot", "restore", "a", "first", "--yes"])?;
    ensure!(known_host(vms)? == old.0);
    Ok(())
}

#[test]
fn privileged_boot_a_reimage_whose_service_is_killed_leaves_the_old_or_the_new() -> Result<()> {
    need_root()?;
    let vms = host_with_two_templates()?;
    let mut random = Random::printed("reimage kills");
    let identity = identity_on(&exported(&vms)?)?;
    let reimage = |reference: &str| vms.command(&["reimage", "a", reference, "--yes"]);
    let references = ["test/kernel:latest", "test/kernel:2"];
    let mut whole = Duration::ZERO;
    for reference in [references[1], references[0]] {
        let begun = Instant::now();
        run(&mut reimage(reference))?;
        whole = begun.elapsed();
    }
    let (mut kills, mut now, mut replaced) = (Kills::default(), 0, 0);
    while kills.go_on()? {
        let acknowledged = kill_within(&vms, reimage(references[1 - now]), whole, &mut random)?;
        kills.hit(!acknowledged);
        let found = inspect(&vms)?["reference"].clone();
        let found = references.iter().position(|reference| found == *reference);
        let found = found.context("another template")?;
        ensure!(
            !acknowledged || found != now,
            "what was acknowledged is gone"
        );
        replaced += usize::from(found != now);
        now = found;
        named_disks(&vms)?;
        let disk = exported(&vms)?;
        let new = read(&disk, "/new")?;
        ensure!(new == ["", "of the second\n"][now], "not {now}: {new}");
        ensure!(identity_on(&disk)? == identity);
    }
    println!("{} kills, {replaced} disks replaced", kills.all);
    vms.run(&["start", "a", "--wait", "none"])?;
    vms.run(&["rm", "a", "--yes"])?;
    vms.nothing_left()
}

#[test]
fn privileged_boot_a_guest_gets_an_earlier_disk_and_a_new_one_and_keeps_its_data() -> Result<()> {
    need_root()?;
    let base = Input::base()?;
    let (home, vms) = (Shale::new()?, Vms::new()?);
    let registry = Registry::start(&home, 0)?;
    let [first, second] = ["test/base", "test/more"].map(|name| registry.name(name));
    let mut push = vms.shale.command();
    run(push.arg("push").arg(base.tree()).arg(&first))?;
    push_more(&vms, &first, &second)?;
    let size = DATA_BYTES.to_string();
    let mut deploy = vms.command(&["deploy", &first, "--name", "a", "--data-disk", &size]);
    run(deploy.args(["--timeout", BOOT_SECONDS]))?;
    let itself = self_image(&vms, "a")?;
    let known_hosts = fs::read(vms.path("instances/a/known_hosts"))?;
    let data = "/dev/disk/by-id/virtio-data0";
    vms.ssh(
        "a",
        &format!(
            "mkfs.ext4 -q {data} && mount {data} /mnt && echo kept > /mnt/file && umount /mnt"
        ),
    )?;

    // A copy of what it writes and syncs, line by line; what is synced it notes in memory.
    let write =
        "i=0; while :; do i=$((i+1)); echo $i >> /root/log; sync; echo $i > /run/synced; done";
    vms.ssh(
        "a",
        &format!("nohup sh -c '{write}' >/dev/null 2>&1 & echo"),
    )?;
    let count = |command: &str| -> Result<u64> { Ok(vms.ssh("a", command)?.trim().parse()?) };
    let before = count("until cat /run/synced 2>/dev/null | grep .; do :; done")?;
    vms.run(&["snapshot", "create", "a", "busy"])?;
    let after = count("wc -l < /root/log")?;
    ensure!(vms.state("a")? == "running");
    vms.ssh("a", "echo lost > /root/later; sync")?;
    vms.run(&["stop", "a", "--timeout", "120"])?;
    vms.run(&["snapshot", "restore", "a", "busy", "--yes"])?;
    let disk = vms.shale.home().join("a.raw");
    vms.run(&["export", "a", &disk.display().to_string()])?;
    // The journal is replayed, as after a power cut.
    let mounted = LoopMount::new(&disk, "rw")?;
    let log = fs::read_to_string(mounted.path().join("root/log"))?;
    let there = log.lines().filter(|line| !line.is_empty()).count() as u64;
    println!("{before} lines synced before the snapshot, {after} written after it, {there} in it");
    ensure!(there >= before && there <= after, "{there}");
    ensure!(!mounted.path().join("root/later").exists());
    mounted.unmount()?;
    check_file_system(&disk)?;

    vms.run(&["reimage", "a", &second, "--yes"])?;
    vms.run(&["start", "a", "--timeout", BOOT_SECONDS])?;
    ensure!(self_image(&vms, "a")? == itself);
    ensure!(fs::read(vms.path("instances/a/known_hosts"))? == known_hosts);
    let said = vms.ssh(
        "a",
        &format!("cat /new; mount {data} /mnt; cat /mnt/file; ls /root"),
    )?;
    ensure!(said == "of the second\nkept\n", "{said}");
    boot_is_told(&vms, &second)?;
    vms.run(&["rm", "a", "--yes"])?;
    vms.nothing_left()?;
    registry.server.terminate()
}

/// What the first boot from a template read is known to its registry, as after a deployment.
fn boot_is_told(vms: &Vms, reference: &str) -> Result<()> {
    let begun = Instant::now();
    loop {
        let said = vms.run(&["deploy", reference, "--plan", "--format", "json"])?;
        let forecast: Value = serde_json::from_str(&said)?;
        if forecast["boot"]["template"] == forecast["template"] {
            return Ok(());
        }
        // It is told behind the login prompt.
        ensure!(begun.elapsed() < Duration::from_secs(20), "{forecast}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// A file system in memory without direct I/O, which goes when this is dropped.
struct RamFs(TempDir);

impl RamFs {
    fn new() -> Result<Self> {
        let this = Self(tempfile::tempdir()?);
        run(tool("mount")?
            .args(["-t", "ramfs", "ramfs"])
            .arg(this.0.path()))?;
        Ok(this)
    }
}

impl Drop for RamFs {
    fn drop(&mut self) {
        // Lazily: what a failed test left may still use it. What fails here shows when the directory is removed.
        if let Ok(mut umount) = tool("umount") {
            let _ = umount.arg("--lazy").arg(self.0.path()).status();
        }
    }
}

#[test]
fn privileged_boot_a_data_disk_on_a_file_system_without_direct_io_is_used_all_the_same()
-> Result<()> {
    need_root()?;
    let memory = RamFs::new()?;
    let vms = Vms::with_kernel_only()?;
    symlink(memory.0.path(), vms.path("instances"))?;
    let deploy = |name: &str, size: &str| {
        let mut command = vms.command(&["deploy", "test/kernel", "--wait", "none"]);
        command.args(["--name", name, "--data-disk", size]);
        command
    };
    run(&mut deploy("a", "1G"))?;
    ensure!(vms.state("a")? == "running");
    let log = fs::read_to_string(vms.path("instances/a/hypervisor.log"))?;
    ensure!(
        log.contains("data0.raw: its file system has no direct I/O"),
        "{log}"
    );
    for size in ["0", "17T", "much"] {
        let found = failure(&mut deploy("b", size))?;
        ensure!(found == 2, "{found} for {size}");
    }
    vms.run(&["rm", "a", "--yes"])?;
    vms.nothing_left()
}
