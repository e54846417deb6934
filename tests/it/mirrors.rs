//! Several registries with the same chunks: one that dies, one that lies, one that gets stuck.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::{Background, Random, Registry, Shale, Vms, need_root, run, wait_for_file};
use serde_json::Value;

use crate::registry::{Passed, between};

/// Bytes of a template that takes longer to read than a registry to die.
const LARGE: usize = 96 << 20;

/// The requests of packs, by what they asked for: how often.
type Asked = BTreeMap<String, usize>;

/// What stands before a registry does with an answer that is a part of a pack: the how many-eth it is, and its bytes.
type Meddle<'a> = &'a (dyn Fn(usize, &mut [u8]) + Sync);

/// Stands before a registry.
struct Between<'a> {
    real: &'a str,
    meddle: Meddle<'a>,
    asked: Mutex<Asked>,
}

impl<'a> Between<'a> {
    fn new(real: &'a str, meddle: Meddle<'a>) -> Self {
        let asked = Mutex::default();
        Self {
            real,
            meddle,
            asked,
        }
    }

    fn asked(&self) -> Asked {
        let asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.clone()
    }

    /// Serves while `work` is done, which gets the address.
    fn during<T>(&self, work: impl FnOnce(SocketAddr) -> Result<T>) -> Result<T> {
        between(&|client| self.serve(client), work)
    }

    /// One request of a connection.
    fn serve(&self, mut client: TcpStream) -> io::Result<()> {
        let Some(request) = Passed::read(&client)? else {
            return Ok(());
        };
        let first = request.first().to_owned();
        let mut lines = request.head.lines().map(str::to_ascii_lowercase);
        let range = lines.rfind(|line| line.starts_with("range:"));
        let range = range.unwrap_or_default();
        let mut server = request.forward(self.real)?;
        let mut answer = Vec::new();
        server.read_to_end(&mut answer)?;
        if first.contains("/api/v1/packs/") {
            let number = {
                let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
                *asked.entry(format!("{first} {range}")).or_default() += 1;
                asked.values().sum()
            };
            let end = answer.windows(4).position(|four| four == b"\r\n\r\n");
            if let Some(end) = end {
                (self.meddle)(number, &mut answer[end + 4..]);
            }
        }
        client.write_all(&answer)
    }
}

/// Two registries with the same template, pushed to each.
struct Two {
    registry: Registry,
    mirror: Registry,
    author: Shale,
    _homes: [Shale; 2],
}

impl Two {
    fn new(bytes: usize) -> Result<Self> {
        let homes = [Shale::new()?, Shale::new()?];
        let (registry, mirror) = (
            Registry::start(&homes[0], 0)?,
            Registry::start(&homes[1], 0)?,
        );
        let author = Shale::new()?;
        let tree = author.home().join("tree");
        fs::create_dir(&tree)?;
        let mut random = Random::printed("mirrors");
        for number in 0..8 {
            fs::write(tree.join(format!("file-{number}")), random.bytes(bytes / 8))?;
        }
        for to in [&registry, &mirror] {
            let reference = to.name("test/tree");
            run(author.command().arg("push").arg(&tree).arg(reference))?;
        }
        Ok(Self {
            registry,
            mirror,
            author,
            _homes: homes,
        })
    }

    /// The disk of the template, read from the registry alone.
    fn expected(&self) -> Result<PathBuf> {
        let disk = self.author.home().join("expected.raw");
        let mut export = self.author.command();
        run(export
            .args(["export", &self.registry.name("test/tree")])
            .arg(&disk))?;
        Ok(disk)
    }

    /// A host that has nothing exports the template from the registry and this mirror, while `meanwhile` happens.
    fn export(&self, mirror: &str, meanwhile: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        let host = Shale::new()?;
        let said = host.home().join(".said");
        let mut export = host.command();
        export.args([
            "export",
            "--mirror",
            mirror,
            &self.registry.name("test/tree"),
            "disk.raw",
        ]);
        let mut export = Background::start(export.stderr(fs::File::create(&said)?))?;
        let part = host.home().join(format!("disk.raw.{}.part", export.id()));
        wait_for_file(&part)?;
        ensure!(
            export.ended()?.is_none(),
            "it had ended before anything happened"
        );
        meanwhile(&part)?;
        let status = loop {
            if let Some(status) = export.ended()? {
                break status;
            }
            sleep(Duration::from_millis(10));
        };
        ensure!(status.success(), "{status}: {}", fs::read_to_string(&said)?);
        let expected = self.author.home().join("expected.raw");
        run(std::process::Command::new("cmp")
            .arg(host.home().join("disk.raw"))
            .arg(expected))?;
        Ok(())
    }
}

#[test]
fn reads_go_on_when_either_of_two_registries_is_killed() -> Result<()> {
    let two = Two::new(LARGE)?;
    two.expected()?;
    let mirror = two.mirror.url();
    two.export(&mirror, |_| {
        two.mirror.server.signal(rustix::process::Signal::KILL)
    })?;
    // Another in its place, with the registry's content: now the registry dies.
    let home = Shale::new()?;
    let other = Registry::start(&home, 0)?;
    let mut push = two.author.command();
    push.arg("push").arg(two.author.home().join("tree"));
    run(push.arg(other.name("test/tree")))?;
    two.export(&other.url(), |_| {
        two.registry.server.signal(rustix::process::Signal::KILL)
    })?;
    other.server.terminate()
}

#[test]
fn what_a_mirror_sends_wrong_comes_from_the_registry() -> Result<()> {
    let two = Two::new(8 << 20)?;
    two.expected()?;
    let flip = |_: usize, bytes: &mut [u8]| {
        if let Some(byte) = bytes.last_mut() {
            *byte ^= 1;
        }
    };
    let liar = Between::new(two.mirror.address(), &flip);
    liar.during(|address| two.export(&format!("http://{address}"), |_| Ok(())))?;
    let asked = liar.asked();
    ensure!(
        asked.values().sum::<usize>() >= 3,
        "it was not asked: {asked:?}"
    );
    two.registry.server.terminate()
}

#[test]
fn a_request_that_gets_stuck_is_sent_again() -> Result<()> {
    const STUCK: Duration = Duration::from_secs(3);
    let two = Two::new(32 << 20)?;
    two.expected()?;
    let stall = |number: usize, _: &mut [u8]| {
        if number.is_multiple_of(40) {
            sleep(STUCK);
        }
    };
    // Alone: over another connection to the same registry.
    let slow = Between::new(two.registry.address(), &stall);
    let host = Shale::new()?;
    slow.during(|address| {
        let mut export = host.command();
        export.args(["export", &format!("{address}/test/tree"), "disk.raw"]);
        run(&mut export).map(drop)
    })?;
    let expected = two.author.home().join("expected.raw");
    run(std::process::Command::new("cmp")
        .arg(host.home().join("disk.raw"))
        .arg(expected))?;
    let asked = slow.asked();
    let (all, twice) = (
        asked.values().sum::<usize>(),
        asked.values().filter(|n| **n > 1).count(),
    );
    println!("{all} requests, {twice} of them sent again");
    ensure!(all >= 80, "nothing got stuck: {all}");
    ensure!(twice >= 1, "none was sent again: {asked:?}");
    ensure!(twice <= 2 + all / 10, "{twice} of {all}");
    two.registry.server.terminate()
}

#[test]
fn privileged_boot_a_machine_keeps_its_mirrors_and_shows_what_came_from_where() -> Result<()> {
    need_root()?;
    let home = Shale::new()?;
    let vms = Vms::with_kernel_only()?;
    let (registry, mirror_home) = (Registry::start(&home, 0)?, Shale::new()?);
    let mirror = Registry::start(&mirror_home, 0)?;
    for to in [&registry, &mirror] {
        let mut push = vms.shale.command();
        push.arg("push").arg(vms.shale.home().join("kernel"));
        run(push.arg(to.name("test/kernel")))?;
    }
    let nobody = "http://127.0.0.1:9";
    let mirrors = format!("{},{nobody},{}", mirror.url(), registry.url());
    let mut deploy = vms.command(&["deploy", &registry.name("test/kernel"), "--name", "a"]);
    run(deploy
        .args(["--wait", "none"])
        .env("SHALE_MIRRORS", mirrors))?;
    let sources = || -> Result<Vec<Value>> {
        let shown: Value = serde_json::from_str(&vms.run(&["inspect", "a", "--format", "json"])?)?;
        let sources = shown["disk"]["sources"].as_array();
        Ok(sources.context("its sources")?.clone())
    };
    let urls = [mirror.url(), nobody.into(), registry.url()];
    let found = sources()?;
    let names: Vec<_> = found.iter().map(|source| source["url"].as_str()).collect();
    ensure!(
        names == urls.each_ref().map(|url| Some(url.as_str())),
        "{found:?}"
    );
    ensure!(found[0]["bytes"].as_u64() > Some(1 << 20), "{found:?}");
    ensure!(found[2]["bytes"] == 0, "{found:?}");
    ensure!(found[0]["state"] == "asked", "{found:?}");
    let shown = vms.run(&["inspect", "a"])?;
    ensure!(shown.contains(&format!("{} ", urls[0])), "{shown}");
    // Nobody can log in to this one. While its registry counts as gone, both are at fault.
    let mut drill = vms.shale.command();
    drill.args([
        "drill",
        "registry-down",
        "--vm",
        "a",
        "--for",
        "2",
        "--yes",
        "--format",
        "json",
    ]);
    let report: Value = serde_json::from_str(&run(&mut drill)?)?;
    ensure!(
        report["guest"].is_null() && report["passed"] == true,
        "{report}"
    );
    vms.kill_service()?;
    // The next service finds them in the record.
    let found = sources()?;
    ensure!(
        found.len() == 3 && found[0]["url"] == urls[0].as_str(),
        "{found:?}"
    );
    vms.run(&["rm", "a", "--yes"])?;
    mirror.server.terminate()?;
    registry.server.terminate()
}
