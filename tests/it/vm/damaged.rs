//! State files of a machine that are cut off, or have a bit flipped: the machine is damaged and says so, or is as it was;
//! others are not touched, and what its guest wrote stays until somebody removes it.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use harness::{Background, Random, Vms, need_root};
use serde_json::Value;

/// Times that each file is damaged.
const ROUNDS: usize = 4;

/// Exit codes of what cannot be read, and of what stands in the way.
const FAILURE: i32 = 1;
const NOT_FOUND: i32 = 3;
const CONFLICT: i32 = 5;
const INTEGRITY: i32 = 7;

/// The small files of a machine: its state. What its guest wrote is `it::hostile`'s.
fn state_files(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).with_context(|| format!("list {}", dir.display()))? {
            let path = entry?.path();
            match path.is_dir() {
                true => dirs.push(path),
                false if path.extension().is_some_and(|it| it == "json") => found.push(path),
                false => {}
            }
        }
    }
    found.sort();
    Ok(found)
}

/// Cuts the file off, or flips a bit of it.
fn damage(path: &Path, random: &mut Random) -> Result<()> {
    let len = fs::metadata(path)?.len();
    let at = random.below(len);
    let file = fs::OpenOptions::new().read(true).write(true).open(path)?;
    match random.below(3) {
        0 => file.set_len(at)?,
        _ => {
            let mut byte = [0];
            file.read_exact_at(&mut byte, at)?;
            file.write_all_at(&[byte[0] ^ (1 << random.below(8))], at)?;
        }
    }
    Ok(())
}

#[test]
fn privileged_boot_a_machine_whose_state_is_damaged_says_so_and_loses_nothing() -> Result<()> {
    need_root()?;
    let vms = Vms::with_kernel_only()?;
    for name in ["a", "b"] {
        vms.run(&["deploy", "test/kernel", "--name", name, "--wait", "none"])?;
    }
    vms.run(&["stop", "a", "--force", "--timeout", "0"])?;
    vms.run(&["snapshot", "create", "a", "kept"])?;
    let dir = vms.path("instances/a");
    let files = state_files(&dir)?;
    ensure!(files.len() >= 3, "record, identity and snapshot: {files:?}");
    let disk = fs::read(vms.overlay("a").join("data"))?;
    let mut random = Random::printed("damaged state");
    let (mut damaged, mut well) = (0, 0);
    for path in &files {
        let whole = fs::read(path)?;
        for _ in 0..ROUNDS {
            vms.kill_service()?;
            damage(path, &mut random)?;
            let shown = vms.run(&["ls", "--format", "json"])?;
            let shown: Value = serde_json::from_str(&shown)?;
            let state = |name: &str| {
                let machine = shown.as_array()?.iter().find(|it| it["name"] == name)?;
                machine["state"].as_str().map(str::to_owned)
            };
            ensure!(state("b").as_deref() == Some("running"), "{shown}");
            ensure!(state("a").is_some(), "{shown}");
            let start = vms.command(&["start", "a", "--wait", "none"]).output()?;
            match start.status.code() {
                Some(0) => {
                    well += 1;
                    vms.run(&["stop", "a", "--force", "--timeout", "0"])?;
                }
                Some(FAILURE | NOT_FOUND | CONFLICT | INTEGRITY) => {
                    damaged += 1;
                    ensure!(!start.stderr.is_empty(), "{start:?}");
                }
                _ => anyhow::bail!("{}: {start:?}", path.display()),
            }
            // Whatever it was taken for: nothing of the disks was swept.
            let listed = vms.run(&["snapshot", "ls", "a", "--format", "json"]);
            let is_there = fs::read(vms.overlay("a").join("data"))? == disk;
            ensure!(is_there, "{}: its disk is gone: {listed:?}", path.display());
            ensure!(
                dir.join("snapshots/kept/overlay/data").exists(),
                "{}: its snapshot is gone",
                path.display()
            );
            vms.kill_service()?;
            fs::write(path, &whole)?;
            vms.run(&["ls"])?;
        }
    }
    println!("{damaged} damaged, {well} as they were");
    ensure!(damaged >= ROUNDS, "only {damaged} were noticed");
    // Whole again, it starts; damaged, it can be removed.
    vms.run(&["start", "a", "--wait", "none"])?;
    vms.kill_service()?;
    fs::write(dir.join("record.json"), "{")?;
    let inspect = vms.command(&["inspect", "a"]).output()?;
    let said = String::from_utf8_lossy(&inspect.stderr).into_owned()
        + &String::from_utf8_lossy(&inspect.stdout);
    ensure!(said.contains("record.json"), "{said}");
    vms.run(&["rm", "a", "--yes"])?;
    vms.run(&["rm", "b", "--yes"])?;
    vms.nothing_left()?;
    one_service(&vms)
}

/// Another service in the same directories ends, and says why.
fn one_service(vms: &Vms) -> Result<()> {
    let mut second = vms.shale.command();
    second.args(["host", "run"]);
    let log = tempfile::NamedTempFile::new()?;
    second.stderr(log.reopen()?);
    let mut second = Background::start(&mut second)?;
    let begun = std::time::Instant::now();
    let status = loop {
        if let Some(status) = second.ended()? {
            break status;
        }
        ensure!(begun.elapsed().as_secs() < 20, "two services run");
        std::thread::sleep(std::time::Duration::from_millis(20));
    };
    let said = fs::read_to_string(log.path())?;
    ensure!(status.code() == Some(CONFLICT), "{status}: {said}");
    vms.run(&["ls"]).map(drop)
}
