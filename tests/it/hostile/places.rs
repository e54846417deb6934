//! Sources that change, disks that are full, and two pushes at once.

use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use harness::{LoopMount, Random, Shale, need_root, run, tool};

use super::{ended, limited, limited_command};

/// Changes files below `root` until told to stop: cut, longer, gone, other kinds. With pauses, so that a push
/// meets a change or none.
fn change(root: &Path, stop: &AtomicBool) {
    let mut random = Random::printed("changes");
    while !stop.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_micros(random.below(LONGEST_PAUSE_MICROS)));
        let path = root
            .join(format!("d-{}", random.below(4)))
            .join(format!("f-{}", random.below(20)));
        // A file may be gone, or be a directory, already: that is the point.
        let _ = match random.below(6) {
            0 => fs::write(&path, random.bytes(random_len(&path))),
            1 => fs::OpenOptions::new()
                .write(true)
                .open(&path)
                .and_then(|file| file.set_len(10)),
            2 => fs::remove_file(&path),
            3 => fs::remove_file(&path).and_then(|()| fs::create_dir(&path)),
            4 => fs::remove_dir(&path),
            _ => fs::remove_file(&path).and_then(|()| symlink("/etc/passwd", &path)),
        };
    }
}

fn random_len(path: &Path) -> usize {
    path.as_os_str().len() * 997
}

#[test]
fn a_tree_that_changes_while_it_is_pushed_is_a_tree_or_an_error() -> Result<()> {
    let shale = Shale::new()?;
    let tree = tempfile::tempdir()?;
    for n in 0..80 {
        let directory = tree.path().join(format!("d-{}", n % 4));
        fs::create_dir_all(&directory)?;
        fs::write(
            directory.join(format!("f-{}", n / 4)),
            vec![n as u8; 40_000],
        )?;
    }
    let source = tree.path().display().to_string();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| change(tree.path(), &stop));
        let pushed = push_and_check(&shale, &source);
        stop.store(true, Ordering::Relaxed);
        pushed
    })
}

/// Longest time between two changes: a push of the tree takes some milliseconds.
const LONGEST_PAUSE_MICROS: u64 = 20_000;

/// How often each outcome must be seen.
const ENOUGH: usize = 3;

/// Rounds in which both are seen that often, or the test does not test what it should.
const MOST_ROUNDS: usize = 200;

/// Pushes until enough of them met a change and were refused, and enough were accepted: those are file systems.
fn push_and_check(shale: &Shale, source: &str) -> Result<()> {
    let (mut refused, mut accepted) = (0, 0);
    for round in 0..MOST_ROUNDS {
        if refused >= ENOUGH && accepted >= ENOUGH {
            println!("{refused} pushes refused, {accepted} accepted");
            return Ok(());
        }
        let ended = limited(shale, &["push", source, "test/tree"], b"")?;
        if ended.code != 0 {
            ended
                .expect(1, "d-")
                .with_context(|| format!("round {round}"))?;
            refused += 1;
            continue;
        }
        accepted += 1;
        limited(shale, &["export", "test/tree", "disk.raw"], b"")?.expect(0, "")?;
        let disk = shale.home().join("disk.raw");
        run(tool("e2fsck")?.arg("-fn").arg(&disk))?;
        fs::remove_file(disk)?;
    }
    bail!("{refused} pushes met a change, and {accepted} met none, of {MOST_ROUNDS}")
}

/// A small file system of its own.
fn small_disk(directory: &Path, megabytes: u64) -> Result<LoopMount> {
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

#[test]
fn of_two_pushes_at_once_the_second_is_told_to_come_later() -> Result<()> {
    let shale = Shale::new()?;
    let tree = tempfile::tempdir()?;
    fs::write(tree.path().join("file"), "content")?;
    let source = tree.path().display().to_string();
    // It reads an archive that does not come, and has the repository as long.
    let mut first = shale.command();
    let mut first = first
        .args(["push", "-", "test/first"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    harness::wait_for_file(&shale.repository().join("index/IDENTITY"))?;
    let second = limited(&shale, &["push", &source, "test/second"], b"")?;
    let mut input = first.stdin.take().context("its input")?;
    input.write_all(&[0; 1024])?;
    drop(input);
    let status = first.wait()?;
    second.expect(5, "in use")?;
    ensure!(status.success(), "the first ended with {status}");
    limited(&shale, &["push", &source, "test/second"], b"")?.expect(0, "")
}
