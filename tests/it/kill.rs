//! Pushers that are killed: what was acknowledged stays, and nothing else is left.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use harness::{Background, LoopMount, Random, Shale, need_root, run, tree_differences};

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
    random_tree(&source(0), &mut random)?;
    let begun = Instant::now();
    run(&mut push(&shale, &source(0), "test/round-0"))?;
    let whole = begun.elapsed();
    let mut kills = Kills::default();
    let mut acknowledged = vec![0];
    let mut round = 0;
    while kills.all < 30 {
        round += 1;
        ensure!(round < 200, "kills come too late");
        random_tree(&source(round), &mut random)?;
        let name = format!("test/round-{round}");
        let pusher = Background::start(&mut push(&shale, &source(round), &name))?;
        // A little longer than a push takes, so that some finish.
        let delay = random.below(whole.as_micros() as u64 * 6 / 5);
        std::thread::sleep(Duration::from_micros(delay));
        match pusher.kill()? {
            Some(status) => {
                ensure!(status.success(), "push {round} ended with {status}");
                acknowledged.push(round);
            }
            None => {
                kills.count(usize::from(delay > whole.as_micros() as u64 / 20), 2);
                fs::remove_dir_all(source(round))?;
            }
        }
    }
    kills.assert_in_the_middle();
    println!("{} pushes were acknowledged", acknowledged.len());
    let listed = run(shale.command().args(["template", "ls"]))?;
    for round in &acknowledged {
        ensure!(listed.contains(&format!("round-{round}:")), "{listed}");
        check_round(&shale, *round, &source(*round))?;
    }
    nothing_left_over(&shale)
}

/// Everything of an acknowledged push, byte by byte, through a kernel.
fn check_round(shale: &Shale, round: usize, source: &Path) -> Result<()> {
    let disk = shale.home().join("round.raw");
    let name = format!("test/round-{round}");
    run(shale.command().args(["export", &name]).arg(&disk))?;
    let mount = LoopMount::new(&disk, "ro")?;
    let differences = tree_differences(source, &mount.path())?;
    let other: Vec<_> = differences
        .iter()
        .filter(|d| !d.contains("lost+found"))
        .collect();
    ensure!(other.is_empty(), "round {round}: {other:#?}");
    mount.unmount()?;
    Ok(fs::remove_file(disk)?)
}

fn nothing_left_over(shale: &Shale) -> Result<()> {
    run(shale.command().args(["template", "ls"]))?;
    let repository = shale.repository();
    let left: Vec<PathBuf> = fs::read_dir(repository.join("tmp"))?
        .map(|entry| entry.map(|e| e.path()))
        .collect::<Result<_, _>>()?;
    // The last process had a directory of its own there, which the next would sweep.
    ensure!(left.len() <= 1, "left over: {left:?}");
    for directory in left {
        for file in fs::read_dir(&directory)? {
            let name = file?.file_name();
            ensure!(
                name == "lock",
                "left over: {name:?} in {}",
                directory.display()
            );
        }
    }
    Ok(())
}
