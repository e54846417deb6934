//! Sources that change, and two pushes at once.

use std::fs;
use std::io::Write;
use std::ops::RangeInclusive;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use harness::{Random, Shale, run, tool};

use super::limited;

/// Changes files below `root` until told to stop: cut, longer, gone, other kinds. `pause` is the longest time
/// between two changes, in microseconds. What is written may go through a link that was made before: links lead to
/// `outside`, and nowhere else on the machine.
fn change(root: &Path, outside: &Path, pause: &AtomicU64, stop: &AtomicBool) {
    let mut random = Random::printed("changes");
    while !stop.load(Ordering::Relaxed) {
        let longest = pause.load(Ordering::Relaxed);
        std::thread::sleep(Duration::from_micros(random.below(longest)));
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
            _ => fs::remove_file(&path).and_then(|()| symlink(outside, &path)),
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
    let outside = shale.home().join("outside");
    fs::write(&outside, "outside")?;
    let (stop, pause) = (AtomicBool::new(false), AtomicU64::new(FIRST_PAUSE_MICROS));
    std::thread::scope(|scope| {
        scope.spawn(|| change(tree.path(), &outside, &pause, &stop));
        let pushed = push_and_check(&shale, &source, &pause);
        stop.store(true, Ordering::Relaxed);
        pushed
    })
}

/// Longest time between two changes at first: a push of the tree takes some milliseconds. It is halved by each push
/// that met none and doubled by each that met one, because how fast pushes are depends on what else the machine does.
const FIRST_PAUSE_MICROS: u64 = 20_000;
const PAUSES_MICROS: RangeInclusive<u64> = 20..=200_000;

/// How often each outcome must be seen.
const ENOUGH: usize = 3;

/// Rounds in which both are seen that often, or the test does not test what it should.
const MOST_ROUNDS: usize = 200;

/// Pushes until enough of them met a change and were refused, and enough were accepted: those are file systems.
fn push_and_check(shale: &Shale, source: &str, pause: &AtomicU64) -> Result<()> {
    let (mut refused, mut accepted) = (0, 0);
    for round in 0..MOST_ROUNDS {
        if refused >= ENOUGH && accepted >= ENOUGH {
            println!("{refused} pushes refused, {accepted} accepted");
            return Ok(());
        }
        let ended = limited(shale, &["push", source, "test/tree"], b"")?;
        let longest = pause.load(Ordering::Relaxed);
        let next = if ended.code == 0 {
            longest / 2
        } else {
            longest * 2
        };
        pause.store(
            next.clamp(*PAUSES_MICROS.start(), *PAUSES_MICROS.end()),
            Ordering::Relaxed,
        );
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
    second.expect(5, &format!("in use by process {} (shale)", first.id()))?;
    ensure!(status.success(), "the first ended with {status}");
    limited(&shale, &["push", &source, "test/second"], b"")?.expect(0, "")
}
