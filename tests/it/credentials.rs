//! Which registry is shown a token.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::{Background, Input, Registry, Shale, Vms, need_root, run, tool};

use crate::seen::events;

/// A registry that lets nobody in, and remembers who knocked.
struct Closed {
    listener: TcpListener,
    address: String,
    /// Of each request, what it said about who asks.
    asked: Mutex<Vec<Option<String>>>,
    ended: AtomicBool,
}

impl Closed {
    fn new() -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        Ok(Self {
            address: listener.local_addr()?.to_string(),
            listener,
            asked: Mutex::default(),
            ended: AtomicBool::new(false),
        })
    }

    /// Answers while `work` is done.
    fn during<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for stream in self.listener.incoming().flatten() {
                    if self.ended.load(Ordering::SeqCst) {
                        return;
                    }
                    // A client that leaves in the middle shows in what the test finds.
                    let _ = refuse(stream, &self.asked);
                }
            });
            let done = work();
            self.ended.store(true, Ordering::SeqCst);
            // It looks up.
            let _ = TcpStream::connect(&self.address);
            done
        })
    }

    /// The tokens that were shown since the last call, one for each request.
    fn tokens(&self) -> Vec<Option<String>> {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *asked)
    }
}

fn refuse(stream: TcpStream, asked: &Mutex<Vec<Option<String>>>) -> Result<()> {
    let mut token = None;
    for line in BufReader::new(&stream).lines() {
        let line = line?;
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(": ").unwrap_or((&line, ""));
        if name.eq_ignore_ascii_case("authorization") {
            token = Some(value.to_owned());
        }
    }
    asked
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(token);
    // As a registry says it: a bare 403 would be a proxy's, and asked again.
    let body = r#"{"type":"urn:shale:problem:denied","title":"denied","status":403,"code":"denied","detail":"closed"}"#;
    let head =
        "HTTP/1.1 403 Forbidden\r\nContent-Type: application/problem+json\r\nConnection: close";
    write!(
        &stream,
        "{head}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )?;
    Ok(())
}

/// Fails unless `registry` was asked, and every request showed `token`.
fn check(registry: &Closed, token: Option<&str>, why: &str) -> Result<()> {
    let tokens = registry.tokens();
    let bearer = token.map(|token| format!("Bearer {token}"));
    ensure!(!tokens.is_empty(), "{why}: it was not asked");
    let right = tokens.iter().all(|found| *found == bearer);
    ensure!(right, "{why}: it was shown {tokens:?}");
    Ok(())
}

#[test]
fn a_token_goes_to_its_own_registry_only() -> Result<()> {
    let (own, other) = (Closed::new()?, Closed::new()?);
    own.during(|| other.during(|| each_is_shown_its_token(&own, &other)))
}

fn each_is_shown_its_token(own: &Closed, other: &Closed) -> Result<()> {
    let shale = Shale::new()?;
    std::fs::write(shale.home().join("token"), "secret\n")?;
    let url = format!("http://{}", own.address);
    let inspect = |options: &[&str], reference: &str| -> Result<()> {
        let mut command = shale.command();
        command.args(options).args(["--token-file", "token"]);
        command.args(["template", "inspect", reference]);
        let code = command.output()?.status.code();
        ensure!(code == Some(4), "{command:?}: {code:?}");
        Ok(())
    };
    let repository = ["--repository", url.as_str()];
    inspect(&repository, "a/b")?;
    check(own, Some("secret"), "the registry of --repository")?;
    inspect(&repository, &format!("{}/a/b", own.address))?;
    check(own, Some("secret"), "the same, named by a reference")?;
    inspect(&repository, &format!("{}/a/b", other.address))?;
    check(other, None, "a registry beside that of --repository")?;
    for options in [&[][..], &["--repository", "directory"]] {
        inspect(options, &format!("{}/a/b", other.address))?;
        check(other, Some("secret"), "the only registry that is named")?;
    }
    ensure!(own.tokens().is_empty(), "a registry that nobody named");
    Ok(())
}

#[test]
fn a_mirror_is_shown_no_token() -> Result<()> {
    let (home, shale, mirror) = (Shale::new()?, Shale::new()?, Closed::new()?);
    let registry = Registry::start(&home, 0)?;
    std::fs::write(shale.home().join("token"), "secret\n")?;
    std::fs::create_dir(shale.home().join("tree"))?;
    std::fs::write(shale.home().join("tree/file"), "content")?;
    let reference = registry.name("test/tree");
    let author = Shale::new()?;
    run(author
        .command()
        .arg("push")
        .arg(shale.home().join("tree"))
        .arg(&reference))?;
    let url = format!("http://{}", mirror.address);
    mirror.during(|| {
        let mut export = shale.command();
        export.args(["--token-file", "token", "--mirror", &url]);
        run(export.args(["export", &reference, "disk.raw"])).map(drop)
    })?;
    check(
        &mirror,
        None,
        "a mirror of the registry that the token is for",
    )?;
    registry.server.terminate()
}

#[test]
fn a_running_service_shows_the_token_of_each_command() -> Result<()> {
    let registry = Closed::new()?;
    registry.during(|| each_command_shows_its_token(&registry))
}

fn each_command_shows_its_token(registry: &Closed) -> Result<()> {
    let vms = Vms::new()?;
    let home = vms.shale.home();
    let reference = format!("{}/a/b", registry.address);
    let deploy = |token: Option<&str>| -> Result<()> {
        let mut command = vms.command(&["deploy", &reference, "--name", "a"]);
        if let Some(token) = token {
            std::fs::write(home.join(token), token)?;
            command.args(["--token-file", token]);
        }
        let code = command.output().context("start shale")?.status.code();
        ensure!(code == Some(4), "{command:?}: {code:?}");
        check(registry, token, "the registry of a deployment")
    };
    // The service is started by the first.
    deploy(None)?;
    let service = vms.service_pid()?;
    deploy(Some("one"))?;
    deploy(Some("two"))?;
    deploy(None)?;
    ensure!(vms.service_pid()? == service, "the service is another");
    // A token that was changed in its file is shown too, once the old one is refused.
    std::fs::write(home.join("one"), "three")?;
    let mut command = vms.command(&["deploy", &reference, "--name", "a"]);
    command.args(["--token-file", "one"]).output()?;
    let shown = registry.tokens();
    ensure!(
        shown.contains(&Some("Bearer three".to_owned())),
        "{shown:?}"
    );
    Ok(())
}

/// How long something may take that happens soon, on a busy machine.
const SOON: Duration = Duration::from_secs(30);

/// How long a registry takes to hear of a token, as its help says.
const HEARD_WITHIN: Duration = Duration::from_secs(1);

/// Bytes of a file that nobody reads before its token is gone.
const CONTENT_BYTES: usize = 4 << 20;

/// A registry that asks for tokens.
struct Guarded {
    home: Shale,
    registry: Registry,
}

impl Guarded {
    fn new() -> Result<Self> {
        let home = Shale::new()?;
        // The first one closes it.
        run(home.command().args(["token", "create", "first"]))?;
        let registry = Registry::start(&home, 0)?;
        Ok(Self { home, registry })
    }

    /// Puts a new token into a file.
    fn let_in(&self, name: &str, scope: &str, file: &PathBuf) -> Result<()> {
        let mut create = self.home.command();
        create.args(["token", "create", name, "--scope", scope]);
        Ok(std::fs::write(file, run(&mut create)?)?)
    }

    /// Makes a token worth nothing.
    fn shut_out(&self, name: &str) -> Result<()> {
        run(self.home.command().args(["token", "rm", name]))?;
        std::thread::sleep(HEARD_WITHIN);
        Ok(())
    }
}

#[test]
fn privileged_boot_a_machine_waits_while_its_token_is_no_good_and_goes_on_with_another()
-> Result<()> {
    need_root()?;
    let (guarded, vms) = (Guarded::new()?, Vms::new()?);
    let path = |below: &str| vms.shale.home().join(below);
    let content: Vec<u8> = (0..CONTENT_BYTES as u32 / 4)
        .flat_map(|n| n.wrapping_mul(0x9e37_79b9).to_le_bytes())
        .collect();
    for directory in ["tree/boot", "tree/etc"] {
        std::fs::create_dir_all(path(directory))?;
    }
    std::fs::copy(Input::base()?.kernel()?, path("tree/boot/vmlinuz"))?;
    std::fs::write(path("tree/content"), &content)?;
    guarded.let_in("author", "write", &path("author"))?;
    guarded.let_in("host", "read", &path("host"))?;
    let reference = guarded.registry.name("test/tree");
    let mut push = vms.shale.command();
    push.arg("--token-file").arg(path("author")).arg("push");
    run(push.arg(path("tree")).arg(&reference))?;
    let mut deploy = vms.command(&["deploy", &reference, "--name", "a", "--wait", "none"]);
    deploy.arg("--token-file").arg(path("host"));
    // Nothing comes that nobody reads.
    run(deploy.env("SHALE_FILL_RATE", "off"))?;

    guarded.shut_out("host")?;
    let mut copy = tool("nbdcopy")?;
    copy.arg(format!(
        "nbd+unix:///?socket={}",
        vms.path("run/a/disk").display()
    ));
    let mut copy = Background::start(copy.arg(path("disk.raw")))?;
    let begun = Instant::now();
    loop {
        let told = events(&vms, &["a"])?;
        if told
            .iter()
            .any(|it| it["kind"] == "stalled" && it["cause"] == "denied")
        {
            break;
        }
        ensure!(begun.elapsed() < SOON, "no stall is told: {told:?}");
        std::thread::sleep(Duration::from_millis(200));
    }
    ensure!(vms.state("a")? == "running");
    ensure!(copy.ended()?.is_none(), "a read did not wait");

    guarded.let_in("again", "read", &path("host"))?;
    let begun = Instant::now();
    let status = loop {
        if let Some(status) = copy.ended()? {
            break status;
        }
        ensure!(begun.elapsed() < SOON, "reads wait for ever");
        std::thread::sleep(Duration::from_millis(50));
    };
    ensure!(status.success(), "a read failed: {status}");
    let mut dump = tool("debugfs")?;
    dump.arg("-R")
        .arg(format!("dump /content {}", path("read").display()));
    run(dump.arg(path("disk.raw")))?;
    ensure!(std::fs::read(path("read"))? == content, "other bytes");
    vms.run(&["rm", "a", "--yes"])?;
    guarded.registry.server.terminate()
}
