//! Snapshots of a machine whose disk is a plain file: what they hold, what room they take, and a service that is killed while
//! it makes or restores one.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use harness::{LoopMount, Random, Vms, failure, need_root, run, tool};
use serde_json::Value;

use crate::nbd::Kills;

use super::localize::file_of;
use super::snapshots::{create_killed, kill_within, stop_service};

/// Where the tests write: behind all that the template has on its disk.
const AT: u64 = 512 << 20;

/// So much that copying it takes longer than a command takes to begin.
const WRITTEN: usize = 96 << 20;

const CONFLICT: i32 = 5;

/// Most snapshots of a machine.
const LIMIT: usize = 64;

/// Writes this byte to all of the region of the stopped machine `a`, whose disk is a file.
fn fill(vms: &Vms, byte: u8) -> Result<()> {
    let path = file_of(vms, "a")?.context("a file")?;
    let file = OpenOptions::new().write(true).open(path)?;
    file.write_all_at(&vec![byte; WRITTEN], AT)?;
    Ok(file.sync_all()?)
}

/// The byte that all of the region of a file holds.
fn filled_with(file: &Path) -> Result<u8> {
    let mut found = vec![0; WRITTEN];
    File::open(file)?.read_exact_at(&mut found, AT)?;
    let first = found[0];
    ensure!(
        found.iter().all(|byte| *byte == first),
        "not all of it is {first}"
    );
    Ok(first)
}

/// The byte that all of the region of machine `a` holds.
fn now(vms: &Vms) -> Result<u8> {
    filled_with(&file_of(vms, "a")?.context("a file")?)
}

/// Bytes that a file takes.
fn room(file: &Path) -> Result<u64> {
    Ok(file.metadata()?.blocks() * 512)
}

/// Makes the stopped machine `a`, whose disk is a file.
fn localized(vms: &Vms) -> Result<()> {
    vms.run(&["deploy", "test/kernel", "--name", "a", "--wait", "none"])?;
    vms.run(&["localize", "a"])?;
    vms.run(&["stop", "a", "--timeout", "0", "--force"])
        .map(drop)
}

#[test]
fn privileged_boot_snapshots_of_a_localized_machine_hold_its_disk_and_come_back() -> Result<()> {
    need_root()?;
    let vms = Vms::with_kernel_only()?;
    vms.run(&["deploy", "test/kernel", "--name", "a", "--wait", "none"])?;
    // While it still was an overlay.
    vms.run(&["snapshot", "create", "a", "overlay"])?;
    vms.run(&["localize", "a"])?;
    vms.run(&["stop", "a", "--timeout", "0", "--force"])?;
    fill(&vms, 1)?;
    let shown = vms.run(&["snapshot", "create", "a", "one", "--format", "json"])?;
    let shown: Value = serde_json::from_str(&shown)?;
    ensure!(shown["place"] == "file", "{shown}");
    let kept = vms.path("instances/a/snapshots/one/disk.raw");
    ensure!(kept.metadata()?.mode() & 0o777 == 0o600);
    let disk = file_of(&vms, "a")?.context("a file")?;
    run(tool("cmp")?.args([&disk, &kept]))?;
    // Its holes are holes.
    let (of_disk, of_copy) = (room(&disk)?, room(&kept)?);
    ensure!(of_copy <= of_disk + (1 << 20), "{of_copy} for {of_disk}");

    fill(&vms, 2)?;
    // Of one that runs; it goes on, unless somebody has paused it.
    vms.run(&["start", "a", "--wait", "none"])?;
    vms.run(&["snapshot", "create", "a", "two"])?;
    ensure!(vms.state("a")? == "running");
    ensure!(!vms.path("run/a/held").exists());
    vms.run(&["pause", "a"])?;
    vms.run(&["snapshot", "create", "a", "three"])?;
    ensure!(vms.state("a")? == "paused", "its user's pause is over");
    let restore = |name| ["snapshot", "restore", "a", name, "--yes"];
    ensure!(failure(&mut vms.command(&restore("one")))? == CONFLICT);
    vms.run(&["stop", "a", "--timeout", "0", "--force"])?;
    vms.run(&["snapshot", "rm", "a", "three", "--yes"])?;
    for (name, byte) in [("one", 1), ("two", 2), ("one", 1)] {
        vms.run(&restore(name))?;
        ensure!(now(&vms)? == byte, "not {name}");
    }
    // One of what it was before is another kind of disk, and back.
    vms.run(&restore("overlay"))?;
    ensure!(file_of(&vms, "a")?.is_none());
    vms.run(&["start", "a", "--wait", "none"])?;
    vms.run(&["stop", "a", "--timeout", "0", "--force"])?;
    vms.run(&restore("two"))?;
    ensure!(now(&vms)? == 2);
    vms.run(&["start", "a", "--wait", "none"])?;
    ensure!(vms.state("a")? == "running");
    limit(&vms)?;
    vms.run(&["rm", "a", "--yes"])?;
    vms.nothing_left()
}

/// There are so many snapshots of a machine, and no more.
fn limit(vms: &Vms) -> Result<()> {
    let dir = vms.path("instances/a/snapshots");
    let listed =
        || -> Result<usize> { Ok(vms.run(&["snapshot", "ls", "a", "-q"])?.lines().count()) };
    // As if they had been made.
    let like = fs::read(dir.join("overlay/snapshot.json"))?;
    for number in listed()?..LIMIT {
        let one = dir.join(format!("n{number}"));
        fs::create_dir(&one)?;
        fs::write(one.join("snapshot.json"), &like)?;
    }
    ensure!(listed()? == LIMIT);
    let output = vms.command(&["snapshot", "create", "a", "more"]).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(CONFLICT), "{output:?}");
    ensure!(
        said.contains("64 snapshots") && said.contains("vm snapshot rm a"),
        "{said}"
    );
    vms.run(&["snapshot", "rm", "a", "n63", "--yes"])?;
    vms.run(&["snapshot", "create", "a", "more"]).map(drop)
}

#[test]
fn privileged_boot_a_snapshot_of_a_file_shares_its_blocks_where_that_can_be() -> Result<()> {
    need_root()?;
    let work = tempfile::tempdir_in("/var/tmp")?;
    let image = work.path().join("small.xfs");
    File::create(&image)?.set_len(2 << 30)?;
    run(tool("mkfs.xfs")?
        .args(["-q", "-m", "reflink=1"])
        .arg(&image))?;
    let disk = LoopMount::new(&image, "rw")?;
    let vms = Vms::with_kernel_only()?;
    symlink(disk.path(), vms.path("instances"))?;
    localized(&vms)?;
    fill(&vms, 1)?;
    let used = || -> Result<u64> {
        let state = rustix::fs::statvfs(disk.path())?;
        Ok((state.f_blocks - state.f_bfree) * state.f_frsize)
    };
    let before = used()?;
    vms.run(&["snapshot", "create", "a", "one"])?;
    let taken = used()?.saturating_sub(before);
    println!("{taken} bytes for {WRITTEN}");
    ensure!(taken < WRITTEN as u64 / 8, "{taken} bytes");
    fill(&vms, 2)?;
    let kept = vms.path("instances/a/snapshots/one/disk.raw");
    ensure!(filled_with(&kept)? == 1, "it changes with the disk");
    vms.run(&["snapshot", "restore", "a", "one", "--yes"])?;
    ensure!(now(&vms)? == 1);
    vms.run(&["rm", "a", "--yes"])?;
    stop_service(&vms)?;
    drop(vms);
    disk.unmount()
}

#[test]
fn privileged_boot_a_snapshot_of_a_file_whose_service_is_killed_is_whole_or_gone() -> Result<()> {
    need_root()?;
    let vms = Vms::with_kernel_only()?;
    let mut random = Random::printed("file snapshot kills");
    localized(&vms)?;
    fill(&vms, 1)?;
    vms.run(&["start", "a", "--wait", "none"])?;
    let kept = vms.path("instances/a/snapshots/s");
    create_killed(&vms, &mut random, |is_there| {
        match is_there {
            false => ensure!(!kept.exists(), "something is left"),
            true => ensure!(filled_with(&kept.join("disk.raw"))? == 1),
        }
        Ok(())
    })?;
    vms.run(&["rm", "a", "--yes"])?;
    vms.nothing_left()
}

#[test]
fn privileged_boot_a_restored_file_whose_service_is_killed_is_one_or_the_other() -> Result<()> {
    need_root()?;
    let vms = Vms::with_kernel_only()?;
    let mut random = Random::printed("file restore kills");
    localized(&vms)?;
    for (name, byte) in [("one", 1), ("two", 2)] {
        fill(&vms, byte)?;
        vms.run(&["snapshot", "create", "a", name])?;
    }
    let restore = |name: &str| vms.command(&["snapshot", "restore", "a", name, "--yes"]);
    let begun = Instant::now();
    run(&mut restore("one"))?;
    let whole = begun.elapsed();
    let (mut kills, mut before, mut replaced) = (Kills::default(), 1, 0);
    while kills.go_on()? {
        let (name, wanted) = if before == 1 { ("two", 2) } else { ("one", 1) };
        let acknowledged = kill_within(&vms, restore(name), whole, &mut random)?;
        kills.hit(!acknowledged);
        // The next service sweeps what the record does not name, so that there is one file.
        vms.run(&["snapshot", "ls", "a"])?;
        let found = now(&vms)?;
        ensure!(
            found == wanted || found == before && !acknowledged,
            "{found}"
        );
        replaced += usize::from(found == wanted);
        before = found;
    }
    println!("{} kills, {replaced} disks replaced", kills.all);
    vms.run(&["rm", "a", "--yes"])?;
    vms.nothing_left()
}
