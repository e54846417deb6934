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

/// A registry that speaks TLS with a certificate of its own, wants tokens, and logs every request.
struct Guarded {
    registry: Registry,
    home: Shale,
    fingerprint: String,
    /// The files with its tokens, by what they allow.
    reader: PathBuf,
    writer: PathBuf,
}

impl Guarded {
    fn start() -> Result<Self> {
        let home = Shale::new()?;
        let token = |scope: &str| -> Result<PathBuf> {
            let mut create = home.command();
            create.args(["token", "create", scope, "--scope", scope]);
            let file = home.home().join(format!("{scope}.token"));
            fs::write(&file, run(&mut create)?)?;
            Ok(file)
        };
        let (reader, writer) = (token("read")?, token("write")?);
        let log = ["--log-format", "json", "--log-level", "debug"];
        let registry =
            Registry::start_with(&home, 0, &[&["--tls-self-signed"], &log[..]].concat())?;
        let said = fs::read_to_string(home.home().join("log"))?;
        let fingerprint = said.split("fingerprint ").nth(1);
        let fingerprint = fingerprint.and_then(|rest| rest.split('"').next());
        Ok(Self {
            fingerprint: fingerprint.context("its fingerprint")?.to_owned(),
            registry,
            reader,
            writer,
            home,
        })
    }

    /// How many parts of packs it was asked for, by the status of its answers.
    fn packs(&self) -> Result<BTreeMap<u64, usize>> {
        let said = fs::read_to_string(self.home.home().join("log"))?;
        let mut answers = BTreeMap::new();
        for line in said.lines() {
            let line: Value = serde_json::from_str(line).with_context(|| line.to_owned())?;
            let route = line["span"]["route"].as_str().unwrap_or_default();
            let is_read = line["span"]["method"] == "GET";
            if is_read && route.contains("/packs/") {
                let status = line["status"].as_u64().context("its status")?;
                *answers.entry(status).or_default() += 1;
            }
        }
        Ok(answers)
    }
}

#[test]
fn a_mirror_has_a_token_and_a_certificate_of_its_own() -> Result<()> {
    let (home, author, guarded) = (Shale::new()?, Shale::new()?, Guarded::start()?);
    let registry = Registry::start(&home, 0)?;
    let mut random = Random::printed("mirror");
    for name in ["one", "two", "three"] {
        let tree = author.home().join(name);
        fs::create_dir(&tree)?;
        fs::write(tree.join("file"), random.bytes(4 << 20))?;
        let mut push = author.command();
        let reference = registry.name(&format!("test/{name}"));
        run(push.arg("push").arg(&tree).arg(&reference))?;
        let mut push = author.command();
        push.args(["--repository", &guarded.registry.url(), "--fingerprint"]);
        push.arg(&guarded.fingerprint).arg("--token-file");
        push.arg(&guarded.writer).arg("push").arg(&tree);
        run(push.arg(format!("test/{name}")))?;
    }

    let host = Shale::new()?;
    let settings = host.home().join("settings.toml");
    let mirror = guarded.registry.url();
    let token = host.home().join("token");
    let section = format!(
        "mirrors = [\"{mirror}\"]\n[registry.\"{mirror}\"]\nfingerprint = \"{}\"\n",
        guarded.fingerprint
    );
    let shale = |args: &[&str]| {
        let mut command = host.command();
        command.env("SHALE_CONFIG", &settings).args(args);
        command
    };
    // Without a token it denies, and all comes from the registry.
    fs::write(&settings, &section)?;
    let one = registry.name("test/one");
    run(&mut shale(&["export", &one, "denied.raw"]))?;
    let answers = guarded.packs()?;
    ensure!(!answers.contains_key(&206), "{answers:?}");
    let with_token = format!("{section}token-file = \"{}\"\n", token.display());
    fs::write(&settings, with_token)?;
    fs::copy(&guarded.reader, &token)?;
    fs::remove_dir_all(host.home().join(".cache"))?;
    run(&mut shale(&["export", &one, "disk.raw"]))?;
    let answers = guarded.packs()?;
    ensure!(answers.get(&206) > Some(&0), "{answers:?}");
    let mut compare = std::process::Command::new("cmp");
    run(compare
        .args(["denied.raw", "disk.raw"])
        .current_dir(host.home()))?;

    let shown = run(&mut shale(&["config", "show", "--origin"]))?;
    for key in ["mirrors", &format!("registry.\"{mirror}\".token-file")] {
        let mut rows = shown.lines();
        let row = rows.find(|line| line.starts_with(&format!("{key} ")));
        let row = row.with_context(|| format!("{key}: {shown}"))?;
        ensure!(row.contains("settings.toml"), "{row}");
    }
    let said = through_the_service(&guarded, &host, &registry, &shale)?;
    let secret = fs::read_to_string(&guarded.reader)?;
    for text in [
        shown,
        said,
        fs::read_to_string(guarded.home.home().join("log"))?,
    ] {
        ensure!(!text.contains(secret.trim()), "{text}");
    }
    guarded.registry.server.terminate()?;
    registry.server.terminate()
}

/// The service of the host is told where the token is, and reads it again when it was replaced. What it logs.
fn through_the_service(
    guarded: &Guarded,
    host: &Shale,
    registry: &Registry,
    shale: &dyn Fn(&[&str]) -> std::process::Command,
) -> Result<String> {
    let log = host.home().join("service.log");
    let mut service = shale(&["host", "run", "--log-level", "debug"]);
    let service = Background::start(service.stderr(fs::File::create(&log)?))?;
    wait_for_file(&host.home().join(".state/run/host.sock"))?;
    fs::write(host.home().join("token"), "shale_of_no_use")?;
    let before = guarded.packs()?.get(&206).copied();
    run(&mut shale(&["precache", &registry.name("test/two")]))?;
    let after = guarded.packs()?.get(&206).copied();
    ensure!(
        before == after,
        "a wrong token is let in: {before:?}, {after:?}"
    );
    fs::copy(&guarded.reader, host.home().join("token"))?;
    // It is left alone for a second or two.
    sleep(Duration::from_secs(4));
    run(&mut shale(&["precache", &registry.name("test/three")]))?;
    let answers = guarded.packs()?;
    ensure!(answers.get(&206).copied() > after, "{answers:?}");
    run(&mut shale(&["host", "stop"]))?;
    drop(service);
    Ok(fs::read_to_string(&log)?)
}
