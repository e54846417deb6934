//! Pushers that are killed: what was acknowledged stays, and nothing else is left.

mod stored;

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::{Background, LoopMount, Random, Shale, compare_trees, need_root, run};

use crate::nbd::Kills;

/// A tree of 40 MB that does not compress, none of whose chunks any other round has.
pub(crate) fn random_tree(root: &Path, random: &mut Random) -> Result<()> {
    fs::create_dir(root)?;
    for n in 0..20 {
        let directory = root.join(format!("directory-{}", n % 4));
        fs::create_dir_all(&directory)?;
        let mut bytes = random.bytes(16);
        let seed = bytes.clone();
        // Different from every other file without asking the generator for each byte.
        while bytes.len() < 2_000_000 {
            let next = seed
                .iter()
                .zip(bytes.len() as u64..)
                .map(|(b, at)| *b ^ (at.wrapping_mul(0x9e37_79b9) >> 13) as u8);
            bytes.extend(next.collect::<Vec<u8>>());
        }
        fs::write(directory.join(format!("file-{n}")), bytes)?;
    }
    Ok(())
}

/// The files of a repository that pushes make, by their paths in it.
pub(crate) struct Stored(BTreeSet<PathBuf>);

impl Stored {
    pub(crate) fn of(repository: &Path) -> Result<Self> {
        let mut files = BTreeSet::new();
        for directory in ["packs", "layers", "templates", "refs", "tmp"] {
            find_files(repository, Path::new(directory), &mut files)?;
        }
        // Each process has one as long as it lives, and says nothing of a push.
        files.retain(|file| !file.starts_with("tmp") || !file.ends_with("lock"));
        Ok(Self(files))
    }

    /// What is on its way, or left over.
    pub(crate) fn temporary(&self) -> Vec<&PathBuf> {
        let files = self.0.iter();
        files.filter(|file| file.starts_with("tmp")).collect()
    }

    /// Whether there is a pack that was not there `before`.
    fn has_more_packs(&self, before: &Self) -> bool {
        let mut new = self.0.difference(&before.0);
        new.any(|path| path.starts_with("packs"))
    }

    /// Whether the reference of this round was set.
    pub(crate) fn has_reference(&self, round: usize) -> bool {
        let path = format!("refs/test/round-{round}/latest");
        self.0.contains(Path::new(&path))
    }

    /// Whether the push of this round, which began `before`, had stored something and not yet its reference.
    pub(crate) fn has_part_of_a_push(&self, before: &Self, round: usize) -> bool {
        !self.has_reference(round) && self.0.difference(&before.0).next().is_some()
    }
}

/// Adds the files below a directory, which may change meanwhile.
fn find_files(root: &Path, below: &Path, found: &mut BTreeSet<PathBuf>) -> Result<()> {
    let entries = match fs::read_dir(root.join(below)) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        entries => entries.with_context(|| format!("list {}", below.display()))?,
    };
    for entry in entries {
        let entry = entry?;
        let path = below.join(entry.file_name());
        match entry.file_type()?.is_dir() {
            true => find_files(root, &path, found)?,
            false => drop(found.insert(path)),
        }
    }
    Ok(())
}

fn push(shale: &Shale, source: &Path, name: &str) -> std::process::Command {
    let mut command = shale.command();
    command.args(["push", "--quiet"]).arg(source).arg(name);
    command.stdout(std::process::Stdio::null());
    command
}

#[test]
fn privileged_what_killed_pushers_acknowledged_is_there_and_nothing_is_left_over() -> Result<()> {
    need_root()?;
    let shale = Shale::new()?;
    let mut random = Random::printed("pusher kills");
    let work = tempfile::tempdir_in("/var/tmp")?;
    let source = |n: usize| work.path().join(format!("tree-{n}"));
    // The first makes the repository; the second takes the time of all others.
    for n in [0, 1] {
        random_tree(&source(n), &mut random)?;
    }
    run(&mut push(&shale, &source(0), "test/round-0"))?;
    let begun = Instant::now();
    run(&mut push(&shale, &source(1), "test/round-1"))?;
    let whole = begun.elapsed();
    let mut kills = Kills::default();
    let (mut acknowledged, mut there) = (2, vec![0, 1]);
    let (mut round, mut again) = (1, 0);
    while kills.go_on()? || again < LEAST_PACKS_LEFT {
        round += 1;
        ensure!(
            round < 200,
            "too few pushers leave a pack: {again}, {kills:?}"
        );
        random_tree(&source(round), &mut random)?;
        let before = Stored::of(&shale.repository())?;
        let name = format!("test/round-{round}");
        let mut pusher = Background::start(&mut push(&shale, &source(round), &name))?;
        match round % 3 {
            // Between a pack that is there and the reference that leads to it.
            0 => {
                wait_for_a_pack(&mut pusher, &shale, &before)?;
                std::thread::sleep(Duration::from_micros(random.below(AFTER_A_PACK_MICROS)));
            }
            // A little longer than a push takes, so that some finish.
            _ => {
                let delay = random.below(whole.as_micros() as u64 * 6 / 5);
                std::thread::sleep(Duration::from_micros(delay));
            }
        }
        let ended = pusher.kill()?;
        let after = Stored::of(&shale.repository())?;
        match ended {
            Some(status) => {
                ensure!(status.success(), "push {round} ended with {status}");
                ensure!(after.has_reference(round), "push {round} is not there");
                acknowledged += 1;
            }
            None => kills.hit(after.has_part_of_a_push(&before, round)),
        }
        // Opens what the dead one left, and sweeps it.
        nothing_left_over(&shale)?;
        if after.has_reference(round) {
            there.push(round);
            continue;
        }
        // A pack that it had finished stays, and whoever pushes the same later needs it.
        if Stored::of(&shale.repository())?.has_part_of_a_push(&before, round) {
            run(&mut push(&shale, &source(round), &name))?;
            again += 1;
        }
        fs::remove_dir_all(source(round))?;
    }
    println!("{kills:?}");
    println!(
        "{acknowledged} pushes were acknowledged, {again} done again, {} are there",
        there.len()
    );
    stored::nothing_is_superfluous(&shale.repository())?;
    // Acknowledged or not: what has a name is whole.
    let listed = run(shale.command().args(["template", "ls"]))?;
    for round in &there {
        ensure!(listed.contains(&format!("round-{round}:")), "{listed}");
        check_round(&shale, *round, &source(*round))?;
    }
    nothing_left_over(&shale)
}

/// Longest time from a pack to a kill: what comes behind it takes some milliseconds.
const AFTER_A_PACK_MICROS: u64 = 5_000;

/// So many of the pushers that are killed have finished a pack and not come to their reference.
const LEAST_PACKS_LEFT: usize = 3;

/// Waits until a pusher has stored a pack, or has ended.
fn wait_for_a_pack(pusher: &mut Background, shale: &Shale, before: &Stored) -> Result<()> {
    while pusher.ended()?.is_none() && !Stored::of(&shale.repository())?.has_more_packs(before) {
        std::thread::sleep(Duration::from_micros(200));
    }
    Ok(())
}

/// Everything of a push, byte by byte, through a kernel.
fn check_round(shale: &Shale, round: usize, source: &Path) -> Result<()> {
    let disk = shale.home().join("round.raw");
    let name = format!("test/round-{round}");
    run(shale.command().args(["export", &name]).arg(&disk))?;
    let mount = LoopMount::new(&disk, "ro")?;
    compare_trees(source, &mount.path()).with_context(|| format!("round {round}"))?;
    mount.unmount()?;
    Ok(fs::remove_file(disk)?)
}

fn nothing_left_over(shale: &Shale) -> Result<()> {
    run(shale.command().args(["template", "ls"]))?;
    let stored = Stored::of(&shale.repository())?;
    let left = stored.temporary();
    ensure!(left.is_empty(), "left over: {left:?}");
    // The last process had a directory of its own there, which the next would sweep.
    let sessions = fs::read_dir(shale.repository().join("tmp"))?.count();
    ensure!(sessions <= 1, "{sessions} directories of dead processes");
    Ok(())
}
