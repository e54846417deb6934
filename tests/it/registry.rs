//! A registry, hosts that have nothing, and a registry that dies.

mod access;
mod between;

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use harness::{
    Background, LoopMount, Random, Registry, Shale, compare_trees, need_root, run, tool,
    wait_for_file,
};
use rustix::process::Signal;
use serde_json::Value;

use crate::export::check_file_system;
use crate::kill::{Stored, random_tree};
use crate::nbd::Kills;

pub(crate) use between::{Passed, between};

/// Exit codes, as `shale --help` lists them.
const DENIED: i32 = 4;
const CONFLICT: i32 = 5;
const UNAVAILABLE: i32 = 6;

/// Of so many pushes one has ended when its registry is killed, whatever else the machine does.
const ROUNDS_TO_AN_ENDED_PUSH: usize = 6;

fn hosts_disk(host: &Shale, reference: &str) -> Result<PathBuf> {
    let disk = host.home().join("disk.raw");
    let _ = fs::remove_file(&disk);
    run(host.command().args(["export", reference]).arg(&disk))?;
    Ok(disk)
}

fn check_disk(disk: &Path, source: &Path) -> Result<()> {
    let mount = LoopMount::new(disk, "ro")?;
    compare_trees(source, &mount.path())?;
    mount.unmount()
}

#[test]
fn privileged_a_host_that_has_nothing_gets_what_was_pushed() -> Result<()> {
    need_root()?;
    let (home, author, host) = (Shale::new()?, Shale::new()?, Shale::new()?);
    let registry = Registry::start(&home, 0)?;
    let source = tempfile::tempdir_in("/var/tmp")?;
    harness::build_nasty_tree(source.path(), 1000)?;
    let reference = registry.name("test/nasty:1");
    run(author
        .command()
        .arg("push")
        .arg(source.path())
        .arg(&reference))?;
    let again = run(author
        .command()
        .args(["push", "--format", "json"])
        .arg(source.path())
        .arg(&reference))?;
    ensure!(again.contains("\"sent_chunks\": 0"), "{again}");
    let disk = hosts_disk(&host, &reference)?;
    check_file_system(&disk)?;
    check_disk(&disk, source.path())?;
    // What the host has read once, it needs no registry for.
    let socket = host.home().join("s");
    let mut serve = host.command();
    serve.args(["nbd", &reference, "--socket"]).arg(&socket);
    let nbd = Background::start_until(&mut serve, "serving")?;
    let copy = || -> Result<()> {
        let copied = host.home().join("copied.raw");
        let url = format!("nbd+unix:///?socket={}", socket.display());
        run(tool("nbdcopy")?.arg(url).arg(&copied))?;
        run(Command::new("cmp").args([&disk, &copied]))?;
        Ok(fs::remove_file(copied)?)
    };
    copy()?;
    registry.server.terminate()?;
    copy()?;
    nbd.terminate()
}

#[test]
fn privileged_what_killed_registries_acknowledged_is_there() -> Result<()> {
    need_root()?;
    let (home, author, host) = (Shale::new()?, Shale::new()?, Shale::new()?);
    let mut random = Random::printed("registry kills");
    let work = tempfile::tempdir_in("/var/tmp")?;
    let source = |n: usize| work.path().join(format!("tree-{n}"));
    let push = |registry: &Registry, n: usize| {
        let name = registry.name(&format!("test/round-{n}"));
        let mut push = author.command();
        push.args(["push", "-q"]).arg(source(n)).arg(name);
        push
    };
    let mut registry = Registry::start(&home, 0)?;
    let port = registry.port()?;
    // The first makes what there is once; the second takes the time of all others.
    for n in [0, 1] {
        random_tree(&source(n), &mut random)?;
    }
    run(&mut push(&registry, 0))?;
    let before = Stored::of(&home.repository())?;
    let begun = Instant::now();
    let mut pusher = push(&registry, 1).spawn().context("start the pusher")?;
    wait_for_a_part(&mut pusher, &home, &before, 1)?;
    let until_a_part = begun.elapsed();
    ensure!(pusher.wait()?.success(), "a push fails by itself");
    let whole = begun.elapsed();
    let mut kills = Kills::default();
    let (mut acknowledged, mut there) = (2, BTreeSet::from([0, 1]));
    let mut round = 1;
    while kills.go_on()? {
        round += 1;
        random_tree(&source(round), &mut random)?;
        let before = Stored::of(&home.repository())?;
        let mut pusher = push(&registry, round);
        pusher.stdout(Stdio::null()).stderr(Stdio::piped());
        let mut pusher = pusher.spawn().context("start the pusher")?;
        if round.is_multiple_of(ROUNDS_TO_AN_ENDED_PUSH) {
            ensure!(pusher.wait()?.success(), "a push fails by itself");
        } else {
            // Any time, and more often the shorter one in which the registry stores something.
            let time = match round % 3 {
                0 => whole,
                _ => {
                    wait_for_a_part(&mut pusher, &home, &before, round)?;
                    whole - until_a_part
                }
            };
            let delay = random.below(time.as_micros() as u64 * 11 / 10);
            std::thread::sleep(Duration::from_micros(delay));
        }
        registry.server.kill()?;
        kills.hit(Stored::of(&home.repository())?.has_part_of_a_push(&before, round));
        registry = Registry::start(&home, port)?;
        // The pusher asks again, and either succeeds or says that its push is gone.
        let output = pusher.wait_with_output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        let is_there = Stored::of(&home.repository())?.has_reference(round);
        match output.status.code() {
            Some(0) => {
                ensure!(is_there, "round {round} was acknowledged and is not there");
                acknowledged += 1;
            }
            Some(CONFLICT | UNAVAILABLE) => ensure!(!said.contains("panicked"), "{said}"),
            _ => bail!("push {round} ended with {}: {said}", output.status),
        }
        match is_there {
            true => drop(there.insert(round)),
            false => fs::remove_dir_all(source(round))?,
        }
    }
    println!("{kills:?}");
    println!(
        "{acknowledged} pushes were acknowledged, {} are there",
        there.len()
    );
    ensure!(
        acknowledged >= 2 + round / ROUNDS_TO_AN_ENDED_PUSH,
        "{acknowledged} acknowledged"
    );
    // Acknowledged or not: what has a name is whole.
    let listed = [
        "--repository",
        &registry.url(),
        "template",
        "ls",
        "--format",
        "json",
    ];
    let listed: Value = serde_json::from_str(&run(host.command().args(listed))?)?;
    let listed = listed.as_array().context("a list")?;
    let names: BTreeSet<&str> = listed
        .iter()
        .filter_map(|row| row["reference"].as_str())
        .collect();
    let expected: Vec<String> = there
        .iter()
        .map(|n| format!("test/round-{n}:latest"))
        .collect();
    assert_eq!(names, expected.iter().map(String::as_str).collect());
    for round in there {
        let disk = hosts_disk(&host, &registry.name(&format!("test/round-{round}")))?;
        check_disk(&disk, &source(round)).with_context(|| format!("round {round}"))?;
    }
    registry.server.terminate()?;
    // A registry that starts sweeps what dead ones left; nothing is uploading now.
    let registry = Registry::start(&home, 0)?;
    let stored = Stored::of(&home.repository())?;
    let left = stored.temporary();
    ensure!(left.is_empty(), "left over: {left:?}");
    registry.server.terminate()
}

/// Waits until the push of this round has stored something in the registry, or has ended.
fn wait_for_a_part(pusher: &mut Child, home: &Shale, before: &Stored, round: usize) -> Result<()> {
    while pusher.try_wait()?.is_none() {
        if Stored::of(&home.repository())?.has_part_of_a_push(before, round) {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// Two pushes of one tree to one name: whoever comes second finds what it wants to set.
#[test]
fn two_pushes_of_the_same_to_one_name_at_once_succeed_and_another_is_a_conflict() -> Result<()> {
    let (home, author) = (Shale::new()?, Shale::new()?);
    let registry = Registry::start(&home, 0)?;
    let reference = registry.name("test/tree:1");
    let archive = |content: &str| -> Result<PathBuf> {
        let directory = author.home().join(content);
        fs::create_dir(&directory)?;
        fs::write(directory.join("file"), content)?;
        let archive = directory.with_extension("tar");
        run(tool("tar")?
            .arg("-cf")
            .arg(&archive)
            .arg("-C")
            .arg(&directory)
            .arg("."))?;
        Ok(archive)
    };
    let (same, other) = (archive("same")?, archive("other")?);
    // Pushers that have seen that there is no such name, and wait for what to push.
    let waiting = || {
        let mut push = author.command();
        push.args(["push", "-", &reference]).stdin(Stdio::piped());
        push.stdout(Stdio::null()).stderr(Stdio::piped()).spawn()
    };
    let pushers = [
        (waiting()?, &same),
        (waiting()?, &same),
        (waiting()?, &other),
    ];
    let begun = Instant::now();
    let metrics = format!("{}/metrics", registry.url());
    while !run(tool("curl")?.args(["-sS", &metrics]))?.contains("pushes_open 3") {
        let waited = begun.elapsed() < Duration::from_secs(20);
        ensure!(waited, "the pushers do not open their pushes");
        std::thread::sleep(Duration::from_millis(20));
    }
    let mut codes = Vec::new();
    for (mut pusher, archive) in pushers {
        let mut stdin = pusher.stdin.take().context("its standard input")?;
        stdin.write_all(&fs::read(archive)?)?;
        drop(stdin);
        let output = pusher.wait_with_output()?;
        println!("{}", String::from_utf8_lossy(&output.stderr));
        codes.push(output.status.code());
    }
    assert_eq!(codes, [Some(0), Some(0), Some(CONFLICT)]);
    registry.server.terminate()
}

/// A port of this machine on which nothing listens.
fn port_of_nobody() -> Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?
        .local_addr()?
        .port())
}

#[test]
fn a_command_says_what_it_waits_for() -> Result<()> {
    let host = Shale::new()?;
    let registry = format!("127.0.0.1:{}", port_of_nobody()?);
    let reference = format!("{registry}/test/base");
    let (app, apps) = (
        format!("{registry}/test/app"),
        format!("{reference}+{registry}/test/app"),
    );
    fs::create_dir(host.home().join("tree"))?;
    let commands: [&[&str]; 4] = [
        &["export", &reference, "disk.raw"],
        &["nbd", &reference, "--socket", "s"],
        &["push", "--base", &reference, "tree", &app],
        &["template", "create", &app, &apps],
    ];
    let heard = host.home().join("heard");
    let mut silent = host.command();
    silent.args(commands[0]).args(["--progress", "none"]);
    let silent = Background::start(silent.stderr(fs::File::create(&heard)?))?;
    for args in commands {
        let expected = format!("waiting for the registry http://{registry}");
        let waiting = Background::start_until(host.command().args(args), &expected)?;
        waiting.kill()?;
    }
    // It was started before the others, and they have spoken.
    let ended = silent.kill()?;
    ensure!(ended.is_none(), "it does not wait: {ended:?}");
    assert_eq!(fs::read_to_string(heard)?, "");
    Ok(())
}

#[test]
fn an_interrupted_export_leaves_nothing() -> Result<()> {
    let (home, host) = (Shale::new()?, Shale::new()?);
    let registry = Registry::start(&home, 0)?;
    let source = tempfile::tempdir_in("/var/tmp")?;
    let bytes = Random::printed("interrupted").bytes(64 << 20);
    fs::write(source.path().join("large"), bytes)?;
    let reference = registry.name("test/large");
    run(host
        .command()
        .arg("push")
        .arg(source.path())
        .arg(&reference))?;
    for signal in [Signal::INT, Signal::TERM] {
        let heard = fs::File::create(host.home().join(".heard"))?;
        let mut export = host.command();
        export
            .args(["export", &reference, "disk.raw"])
            .stderr(heard);
        let export = Background::start(&mut export)?;
        let part = host.home().join(format!("disk.raw.{}.part", export.id()));
        wait_for_file(&part)?;
        // It waits for what is left, which does not come.
        registry.server.signal(Signal::STOP)?;
        let ended = export.end_by(signal)?;
        registry.server.signal(Signal::CONT)?;
        let said = fs::read_to_string(host.home().join(".heard"))?;
        ensure!(
            ended.code() == Some(1) && said.contains("interrupted"),
            "{ended}: {said}"
        );
        let mut left: Vec<_> = fs::read_dir(host.home())?
            .map(|entry| entry.map(|e| e.file_name()))
            .collect::<Result<_, _>>()?;
        left.retain(|name| !name.to_string_lossy().starts_with('.'));
        ensure!(left.is_empty(), "left over: {left:?}");
    }
    // One that is killed cannot clean up: the next does, and leaves alone what is not from one.
    let mut export = host.command();
    export.args(["export", &reference, "disk.raw"]);
    let export = Background::start(&mut export)?;
    let part = host.home().join(format!("disk.raw.{}.part", export.id()));
    wait_for_file(&part)?;
    registry.server.signal(Signal::STOP)?;
    export.kill()?;
    registry.server.signal(Signal::CONT)?;
    ensure!(part.exists(), "it was not killed in the middle");
    let others = ["disk.raw.1.part", "disk.raw.part", "other.raw.4194304.part"];
    for other in others {
        fs::write(
            host.home().join(other),
            "of a living process, or of no export",
        )?;
    }
    run(host.command().args(["export", &reference, "disk.raw"]))?;
    ensure!(!part.exists(), "what a killed export left is still there");
    for other in others {
        ensure!(host.home().join(other).exists(), "{other} is gone");
    }
    registry.server.terminate()
}
