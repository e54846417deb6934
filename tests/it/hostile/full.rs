//! Real file systems that are full: a clear error, nothing lost, nothing left, and it goes on when there is room.

use std::fs;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Result, bail, ensure};
use harness::{Background, LoopMount, NbdClient, Random, Shale, need_root, run, tool};

use super::{ended, limited, limited_command};

/// A small file system of its own.
pub(crate) fn small_disk(directory: &Path, megabytes: u64) -> Result<LoopMount> {
    let image = directory.join("small.ext4");
    fs::File::create(&image)?.set_len(megabytes << 20)?;
    run(tool("mke2fs")?
        .args(["-q", "-t", "ext4", "-m", "0"])
        .arg(&image))?;
    LoopMount::new(&image, "rw")
}

/// Bytes in use on the file system that holds `path`.
fn used(path: &Path) -> Result<u64> {
    let state = rustix::fs::statvfs(path)?;
    Ok((state.f_blocks - state.f_bfree) * state.f_frsize)
}

#[test]
fn privileged_a_push_onto_a_full_disk_fails_and_leaves_nothing() -> Result<()> {
    need_root()?;
    let shale = Shale::new()?;
    let work = tempfile::tempdir_in("/var/tmp")?;
    let disk = small_disk(work.path(), 64)?;
    let tree = tempfile::tempdir_in("/var/tmp")?;
    fs::write(tree.path().join("small"), "small")?;
    let source = tree.path().display().to_string();
    let state = disk.path().join("state");
    let command = |args: &[&str]| {
        let mut command = limited_command(&shale, args);
        command.env("SHALE_STATE", &state);
        command
    };
    ended(&mut command(&["push", &source, "test/small"]))?.expect(0, "")?;
    let before = used(&disk.path())?;
    fs::write(
        tree.path().join("large"),
        Random::printed("full").bytes(100 << 20),
    )?;
    ended(&mut command(&["push", &source, "test/large"]))?.expect(1, "No space left")?;
    // The next command sweeps what is left, and there is room again. RocksDB writes a log of 100 KB each time.
    let listed = run(command(&["template", "ls"]).stderr(Stdio::inherit()))?;
    ensure!(
        listed.contains("small") && !listed.contains("large"),
        "{listed}"
    );
    let after = used(&disk.path())?;
    ensure!(
        after < before + (2 << 20),
        "{before} bytes were used before, {after} after"
    );
    fs::remove_file(tree.path().join("large"))?;
    fs::write(tree.path().join("other"), "other")?;
    ended(&mut command(&["push", &source, "test/other"]))?.expect(0, "")?;
    disk.unmount()
}

#[test]
fn privileged_an_export_onto_a_full_disk_fails_and_leaves_nothing() -> Result<()> {
    need_root()?;
    let shale = Shale::new()?;
    let work = tempfile::tempdir_in("/var/tmp")?;
    let disk = small_disk(work.path(), 32)?;
    let tree = tempfile::tempdir_in("/var/tmp")?;
    fs::write(
        tree.path().join("large"),
        Random::printed("full").bytes(60 << 20),
    )?;
    run(shale
        .command()
        .arg("push")
        .arg(tree.path())
        .arg("test/tree"))?;
    let target = disk.path().join("disk.raw");
    let target = target.display().to_string();
    limited(&shale, &["export", "test/tree", &target], b"")?.expect(1, "No space left")?;
    ensure!(!Path::new(&target).exists(), "half a disk is left");
    disk.unmount()
}

/// Takes what room is left on the file system of `directory`, to the last block; removing the file gives it back.
pub(crate) fn fill(directory: &Path) -> Result<PathBuf> {
    let path = directory.join("ballast");
    let mut file = fs::File::create(&path)?;
    for step in [1 << 20, 64 << 10, 4096] {
        loop {
            match file.write_all(&vec![1; step]) {
                // What is not allocated yet may turn out to need less than was reserved for it.
                Ok(()) => file.sync_all()?,
                Err(error) if error.kind() == ErrorKind::StorageFull => break,
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(path)
}

/// A tree with one file of so many bytes that do not compress, pushed as `test/tree`.
fn push_bytes(shale: &Shale, bytes: usize) -> Result<()> {
    let tree = tempfile::tempdir_in("/var/tmp")?;
    fs::write(
        tree.path().join("file"),
        Random::printed("full").bytes(bytes),
    )?;
    run(shale
        .command()
        .arg("push")
        .arg(tree.path())
        .arg("test/tree"))
    .map(drop)
}

/// Where the guest of a test writes: behind all that a pushed tree has.
const GUEST_MIB: u64 = 512;

/// What write number `n` writes, and where: a MiB with a pattern of its own.
fn piece(n: u64) -> (u64, Vec<u8>) {
    ((GUEST_MIB + n) << 20, vec![1 + n as u8; 1 << 20])
}

/// Fails unless each of these is there.
fn check_pieces(client: &mut NbdClient, numbers: &[u64]) -> Result<()> {
    for n in numbers {
        let (offset, bytes) = piece(*n);
        let found = client.read(offset, bytes.len() as u32)?;
        ensure!(found == Ok(bytes), "write {n} was answered and is lost");
    }
    Ok(())
}

/// The number of the protocol for this error.
const NO_SPACE: u32 = 28;

#[test]
fn privileged_a_guest_on_a_full_disk_is_told_and_loses_nothing() -> Result<()> {
    need_root()?;
    let shale = Shale::new()?;
    push_bytes(&shale, 1000)?;
    let work = tempfile::tempdir_in("/var/tmp")?;
    let disk = small_disk(work.path(), 64)?;
    let ballast = disk.path().join("room");
    fs::write(&ballast, vec![1; 32 << 20])?;
    let (socket, overlay) = (shale.home().join("s"), disk.path().join("overlay"));
    let serve = || -> Result<(Background, NbdClient)> {
        let mut command = shale.command();
        command.args(["nbd", "test/tree", "--socket"]).arg(&socket);
        command.arg("--overlay").arg(&overlay);
        let server = Background::start_until(&mut command, "serving")?;
        Ok((server, NbdClient::connect(&socket)?))
    };
    let (server, mut client) = serve()?;
    const WRITES: u64 = 40;
    let (mut there, mut refused) = (Vec::new(), Vec::new());
    for n in 0..WRITES {
        let (offset, bytes) = piece(n);
        match client.write(offset, &bytes)? {
            0 => there.push(n),
            NO_SPACE => refused.push(n),
            other => bail!("write {n}: error {other}"),
        }
    }
    println!(
        "{} writes were answered, {} refused",
        there.len(),
        refused.len()
    );
    ensure!(
        there.len() >= 8 && refused.len() >= 8,
        "{there:?} {refused:?}"
    );
    fill(&disk.path())?;
    // Not a block is free. What needs none goes on: making durable what was written, and writing it again.
    ensure!(client.flush()? == 0, "what was written cannot be flushed");
    let (offset, bytes) = piece(there[0]);
    ensure!(client.write(offset, &bytes)? == 0 && client.flush()? == 0);
    check_pieces(&mut client, &there)?;
    server.kill()?;
    let (server, mut client) = serve()?;
    check_pieces(&mut client, &there)?;
    // Room is made, and the same server goes on.
    fs::remove_file(ballast)?;
    for n in refused {
        let (offset, bytes) = piece(n);
        ensure!(client.write(offset, &bytes)? == 0, "write {n}");
    }
    ensure!(client.flush()? == 0);
    server.kill()?;
    let (server, mut client) = serve()?;
    check_pieces(&mut client, &(0..WRITES).collect::<Vec<_>>())?;
    server.terminate()?;
    disk.unmount()
}

#[test]
fn privileged_reads_go_on_when_the_cache_is_on_a_full_disk() -> Result<()> {
    need_root()?;
    let shale = Shale::new()?;
    push_bytes(&shale, 20 << 20)?;
    let expected = shale.home().join("expected.raw");
    run(shale.command().args(["export", "test/tree"]).arg(&expected))?;
    let work = tempfile::tempdir_in("/var/tmp")?;
    let disk = small_disk(work.path(), 32)?;
    let cache = disk.path().join("cache");
    let exported = || -> Result<()> {
        let mut command = limited_command(&shale, &["export", "test/tree", "disk.raw"]);
        command.env("SHALE_CACHE", &cache);
        ended(&mut command)?.expect(0, "")?;
        let found = shale.home().join("disk.raw");
        // Unlike cmp it skips what is a hole in both.
        let compare = ["compare", "-f", "raw", "-F", "raw"];
        run(tool("qemu-img")?.args(compare).args([&expected, &found]))?;
        Ok(fs::remove_file(found)?)
    };
    let ballast = disk.path().join("ballast");
    // Half of the chunks have room; then none has, with the cache as it is, and empty.
    fs::write(&ballast, vec![1; 16 << 20])?;
    exported()?;
    ensure!(used(&disk.path())? > 20 << 20, "nothing was cached");
    let other = fill(&cache)?;
    exported()?;
    for entry in fs::read_dir(cache.join("chunks"))? {
        fs::remove_file(entry?.path())?;
    }
    fs::remove_file(other)?;
    fill(&cache)?;
    exported()?;
    // With room, it caches again.
    fs::remove_file(ballast)?;
    let before = used(&disk.path())?;
    exported()?;
    ensure!(
        used(&disk.path())? > before + (8 << 20),
        "nothing was cached"
    );
    exported()?;
    disk.unmount()
}

#[test]
fn privileged_a_plan_or_an_overlay_that_has_no_room_is_an_error_and_leaves_nothing() -> Result<()> {
    need_root()?;
    let shale = Shale::new()?;
    push_bytes(&shale, 1000)?;
    let work = tempfile::tempdir_in("/var/tmp")?;
    let disk = small_disk(work.path(), 16)?;
    let (state, overlay) = (disk.path().join("state"), disk.path().join("overlay"));
    fs::create_dir_all(state.join("plans"))?;
    fs::create_dir(&overlay)?;
    let repository = shale.repository().display().to_string();
    let command = |args: &[&str]| {
        let mut command = limited_command(&shale, &["--repository", &repository]);
        command.args(args).env("SHALE_STATE", &state);
        ended(&mut command)
    };
    let export = ["export", "test/tree", "disk.raw"];
    let ballast = fill(&disk.path())?;
    let full = command(&export)?;
    full.expect(1, "keep the plan")?;
    full.expect(1, "No space left")?;
    let left = |directory: &Path| fs::read_dir(directory).map(Iterator::count);
    ensure!(left(&state.join("plans"))? == 0, "part of a plan is left");
    ensure!(!shale.home().join("disk.raw").exists(), "part of a disk");
    fs::remove_file(&ballast)?;
    command(&export)?.expect(0, "")?;
    ensure!(left(&state.join("plans"))? == 2, "a plan and its name");

    let served = overlay.display().to_string();
    let nbd = ["nbd", "test/tree", "--socket", "s", "--overlay", &served];
    let ballast = fill(&disk.path())?;
    command(&nbd)?.expect(1, "No space left")?;
    ensure!(!overlay.join("head").exists() && !shale.home().join("s").exists());
    fs::remove_file(&ballast)?;
    let mut server = shale.command();
    server.args(["--repository", &repository]).args(nbd);
    let server = Background::start_until(server.env("SHALE_STATE", &state), "serving")?;
    server.terminate()?;
    ensure!(overlay.join("head").exists(), "the overlay is made");
    disk.unmount()
}
