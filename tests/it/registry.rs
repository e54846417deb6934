//! A registry, hosts that have nothing, and a registry that dies.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::{
    Background, Disk, Input, LoopMount, Qemu, Random, Shale, need_root, run, tree_differences,
    wait_for_file,
};
use rustix::process::Signal;

use crate::export::{check_file_system, shell_machine, tell, wait_for_shell};
use crate::kill::random_tree;
use crate::nbd::Kills;

/// A running registry with its own home, and its `host:port`.
struct Registry {
    server: Background,
    address: String,
}

impl Registry {
    /// Starts the registry of `home`, on `port` or any free one.
    fn start(home: &Shale, port: u16) -> Result<Self> {
        let file = home.home().join("address");
        let _ = fs::remove_file(&file);
        let mut command = home.command();
        command.args([
            "server",
            "run",
            "--listen",
            &format!("127.0.0.1:{port}"),
            "--address-file",
        ]);
        let server = Background::start(command.arg(&file).stderr(std::process::Stdio::null()))?;
        wait_for_file(&file)?;
        let begun = Instant::now();
        loop {
            let url = fs::read_to_string(&file)?;
            if let Some(address) = url.strip_prefix("http://") {
                let address = address.to_owned();
                return Ok(Self { server, address });
            }
            ensure!(
                begun.elapsed() < Duration::from_secs(5),
                "no address: {url:?}"
            );
        }
    }

    fn port(&self) -> Result<u16> {
        Ok(self.address.parse::<SocketAddr>()?.port())
    }

    fn name(&self, name: &str) -> String {
        format!("{}/{name}", self.address)
    }
}

fn hosts_disk(host: &Shale, reference: &str) -> Result<PathBuf> {
    let disk = host.home().join("disk.raw");
    let _ = fs::remove_file(&disk);
    run(host.command().args(["export", reference]).arg(&disk))?;
    Ok(disk)
}

fn check_disk(disk: &Path, source: &Path) -> Result<()> {
    let mount = LoopMount::new(disk, "ro")?;
    let differences = tree_differences(source, &mount.path())?;
    let other: Vec<_> = differences
        .iter()
        .filter(|d| !d.contains("lost+found"))
        .collect();
    ensure!(other.is_empty(), "{other:#?}");
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
    // What the host has now, it needs no registry for.
    registry.server.terminate()?;
    let plans = fs::read_dir(host.home().join(".state/plans"))?.count();
    ensure!(plans >= 2, "the plan and its name are kept: {plans}");
    Ok(())
}

#[test]
fn privileged_what_killed_registries_acknowledged_is_there() -> Result<()> {
    need_root()?;
    let (home, author, host) = (Shale::new()?, Shale::new()?, Shale::new()?);
    let mut random = Random::printed("registry kills");
    let work = tempfile::tempdir_in("/var/tmp")?;
    let source = |n: usize| work.path().join(format!("tree-{n}"));
    let mut registry = Registry::start(&home, 0)?;
    let port = registry.port()?;
    random_tree(&source(0), &mut random)?;
    let begun = Instant::now();
    run(author
        .command()
        .args(["push", "-q"])
        .arg(source(0))
        .arg(registry.name("test/round-0")))?;
    let whole = begun.elapsed();
    let mut kills = Kills::default();
    let mut acknowledged = vec![0];
    for round in 1..=30 {
        random_tree(&source(round), &mut random)?;
        let name = registry.name(&format!("test/round-{round}"));
        let mut push = author.command();
        push.args(["push", "-q"]).arg(source(round)).arg(name);
        push.stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null());
        let mut pusher = push.spawn().context("start the pusher")?;
        let delay = random.below(whole.as_micros() as u64 * 11 / 10);
        std::thread::sleep(Duration::from_micros(delay));
        let under_way = pusher.try_wait()?.is_none();
        registry.server.kill()?;
        registry = Registry::start(&home, port)?;
        kills.count(
            usize::from(under_way && delay > whole.as_micros() as u64 / 20),
            2,
        );
        // The pusher asks again, and either succeeds or says that its push is gone.
        match pusher.wait()?.success() {
            true => acknowledged.push(round),
            false => fs::remove_dir_all(source(round))?,
        }
    }
    kills.assert_in_the_middle();
    println!("{} pushes were acknowledged", acknowledged.len());
    for round in acknowledged {
        let disk = hosts_disk(&host, &registry.name(&format!("test/round-{round}")))?;
        check_disk(&disk, &source(round))?;
    }
    registry.server.terminate()?;
    // A registry that starts sweeps what dead ones left; nothing is uploading now.
    let registry = Registry::start(&home, 0)?;
    for directory in fs::read_dir(home.repository().join("tmp"))? {
        for file in fs::read_dir(directory?.path())? {
            let name = file?.file_name();
            ensure!(name == "lock", "left over: {name:?}");
        }
    }
    registry.server.terminate()
}

#[test]
fn privileged_boot_a_guest_waits_for_a_registry_that_dies_and_returns() -> Result<()> {
    need_root()?;
    let (home, host) = (Shale::new()?, Shale::new()?);
    let base = Input::base()?;
    let registry = Registry::start(&home, 0)?;
    let port = registry.port()?;
    let reference = registry.name("test/base");
    run(host.command().arg("push").arg(base.tree()).arg(&reference))?;
    let socket = host.home().join("s");
    let mut serve = host.command();
    serve.args(["nbd", &reference, "--socket"]).arg(&socket);
    serve.arg("--overlay").arg(host.home().join("overlay"));
    let server = Background::start_until(&mut serve, "serving")?;
    let export = String::new();
    let disk = Disk::Nbd { socket, export };
    let mut vm = Qemu::start(&shell_machine(&base, disk)?)?;
    wait_for_shell(&mut vm)?;
    registry.server.kill()?;
    // Nothing of this was read yet.
    vm.send(
        "cat /usr/share/doc/*/copyright /usr/lib/x86_64-linux-gnu/*.so* | md5sum; echo read''-it\n",
    )?;
    std::thread::sleep(Duration::from_secs(3));
    ensure!(
        !vm.console()?.contains("read-it"),
        "it was read without a registry"
    );
    let registry = Registry::start(&home, port)?;
    vm.wait_for("read-it", Duration::from_secs(120))?;
    let console = vm.console()?;
    ensure!(!console.contains("I/O error"), "{console}");
    tell(&mut vm, "echo fine", Duration::from_secs(60))?;
    vm.kill()?;
    server.terminate()?;
    registry.server.terminate()
}

#[test]
fn a_registry_beyond_loopback_wants_tls_and_tokens() -> Result<()> {
    let home = Shale::new()?;
    let refused = |args: &[&str], because: &str| -> Result<()> {
        let mut command = home.command();
        command
            .args(["server", "run", "--listen", "0.0.0.0:0"])
            .args(args);
        let output = command.output()?;
        let text = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.code() == Some(2) && text.contains(because),
            "{text}"
        );
        Ok(())
    };
    refused(&[], "give a certificate")?;
    let token = run(home
        .command()
        .args(["token", "create", "ci", "--scope", "write"]))?;
    refused(&[], "give a certificate")?;
    let listed = run(home.command().args(["token", "ls", "--format", "json"]))?;
    ensure!(!listed.contains(token.trim()), "a list shows the token");
    let taken = home.command().args(["token", "create", "ci"]).output()?;
    assert_eq!(taken.status.code(), Some(5));
    run(home.command().args(["token", "rm", "ci"]))?;
    let gone = home.command().args(["token", "rm", "ci"]).output()?;
    assert_eq!(gone.status.code(), Some(3));
    Ok(())
}

#[test]
fn a_registry_with_tls_and_tokens_lets_in_those_who_have_them() -> Result<()> {
    let (home, author) = (Shale::new()?, Shale::new()?);
    let make = |name: &str, scope: &str| -> Result<PathBuf> {
        let token = run(home
            .command()
            .args(["token", "create", name, "--scope", scope]))?;
        let file = author.home().join(name);
        fs::write(&file, token)?;
        Ok(file)
    };
    let (reader, writer) = (make("reader", "read")?, make("writer", "write")?);
    let file = home.home().join("address");
    let log = fs::File::create(home.home().join("log"))?;
    let mut command = home.command();
    command.args([
        "server",
        "run",
        "--listen",
        "127.0.0.1:0",
        "--tls-self-signed",
        "--address-file",
    ]);
    let server = Background::start(command.arg(&file).stderr(log))?;
    wait_for_file(&file)?;
    let log = fs::read_to_string(home.home().join("log"))?;
    let fingerprint = log
        .lines()
        .find_map(|line| line.strip_prefix("fingerprint "));
    let fingerprint = fingerprint
        .context("the fingerprint is printed")?
        .to_owned();
    let url = fs::read_to_string(&file)?;
    let source = author.home().join("tree");
    fs::create_dir(&source)?;
    fs::write(source.join("file"), "content")?;
    let push = |token: Option<&Path>, fingerprint: &str| -> Result<Option<i32>> {
        let mut command = author.command();
        command.args(["--repository", &url, "--fingerprint", fingerprint]);
        if let Some(token) = token {
            command.arg("--token-file").arg(token);
        }
        Ok(command
            .arg("push")
            .arg(&source)
            .arg("test/tree")
            .output()?
            .status
            .code())
    };
    assert_eq!(push(Some(&writer), &fingerprint)?, Some(0));
    assert_eq!(
        push(Some(&reader), &fingerprint)?,
        Some(4),
        "a reader may not push"
    );
    assert_eq!(push(None, &fingerprint)?, Some(4), "nobody may push");
    let other = "0".repeat(fingerprint.len() - "sha256:".len());
    let other = match fingerprint.starts_with("sha256:") {
        true => format!("sha256:{other}"),
        false => "0".repeat(fingerprint.len()),
    };
    assert_eq!(
        push(Some(&writer), &other)?,
        Some(4),
        "another's certificate is not believed"
    );
    server.terminate()
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
    run(host.command().args(["export", &reference, "disk.raw"]))?;
    registry.server.terminate()
}
