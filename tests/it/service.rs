//! Host service and registry as services of a system: what they tell their manager, sockets that it hands over,
//! settings that change while they run.

use std::fs;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::{Background, Shale, run, wait_for_file};
use rustix::process::Signal;
use serde_json::Value;

/// How long a service may take to say something.
const SAYS_WITHIN: Duration = Duration::from_secs(30);

/// Becomes the program with the socket that is its standard input as the first one that its manager hands over.
const HAND_OVER: &str =
    "exec 3<&0 0</dev/null; LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=s exec \"$@\"";

/// A service manager, as far as services see it.
struct Manager {
    socket: UnixDatagram,
}

impl Manager {
    fn new(dir: &Path) -> Result<Self> {
        let socket = UnixDatagram::bind(dir.join("notify"))?;
        socket.set_read_timeout(Some(SAYS_WITHIN))?;
        Ok(Self { socket })
    }

    /// The next note, as its lines.
    fn hears(&self) -> Result<Vec<String>> {
        let mut buffer = [0; 4096];
        let length = self.socket.recv(&mut buffer).context("no note came")?;
        let text = String::from_utf8(buffer[..length].to_vec())?;
        Ok(text.lines().map(str::to_owned).collect())
    }

    /// Fails unless a reload is told of, and that the service is ready again; what it serves then.
    fn hears_a_reload(&self) -> Result<String> {
        let begun = self.hears()?;
        ensure!(
            begun[0] == "RELOADING=1" && begun[1].starts_with("MONOTONIC_USEC="),
            "{begun:?}"
        );
        self.hears_ready()
    }

    /// Fails unless the service is ready; what it serves.
    fn hears_ready(&self) -> Result<String> {
        let ready = self.hears()?;
        let status = ready.get(1).and_then(|line| line.strip_prefix("STATUS="));
        ensure!(ready[0] == "READY=1", "{ready:?}");
        Ok(status.with_context(|| format!("{ready:?}"))?.to_owned())
    }
}

/// `shale` with these arguments, told of the manager, and given this socket.
fn handed(shale: &Shale, socket: impl Into<OwnedFd>, arguments: &[&str]) -> Command {
    let mut command = shale.command();
    let program = command.get_program().to_owned();
    let mut shell = Command::new("sh");
    shell.env_clear().current_dir(shale.home());
    for (name, value) in command.args(arguments).get_envs() {
        shell.env(name, value.unwrap_or_default());
    }
    shell
        .args(["-c", HAND_OVER, "sh"])
        .arg(program)
        .args(arguments)
        .env("NOTIFY_SOCKET", shale.home().join("notify"))
        .stdin(Stdio::from(socket.into()));
    shell
}

fn set(shale: &Shale, text: &str) -> Result<()> {
    let dir = shale.home().join(".config/shale");
    fs::create_dir_all(&dir)?;
    Ok(fs::write(dir.join("config.toml"), text)?)
}

fn cap_bytes(shale: &Shale) -> Result<u64> {
    let shown = run(shale.command().args(["cache", "df", "--format", "json"]))?;
    let shown: Value = serde_json::from_str(&shown)?;
    shown["cap_bytes"]
        .as_u64()
        .with_context(|| shown.to_string())
}

#[test]
fn a_host_service_serves_on_the_socket_of_its_manager_and_reloads_its_settings() -> Result<()> {
    let shale = Shale::new()?;
    let manager = Manager::new(shale.home())?;
    set(&shale, "cache-size = \"100M\"\n")?;
    let run_dir = shale.home().join(".state/run");
    fs::create_dir_all(&run_dir)?;
    let listener = UnixListener::bind(run_dir.join("host.sock"))?;
    // Whoever comes before the service is served by it.
    let ls = shale
        .command()
        .args(["vm", "ls"])
        .stdout(Stdio::null())
        .spawn()?;
    let mut command = handed(&shale, listener.try_clone()?, &["host", "run"]);
    let service = Background::start_with_stdin(&mut command)?;
    ensure!(ls.wait_with_output()?.status.success());
    let status = manager.hears_ready()?;
    ensure!(
        status.contains("host.sock, cache of 100 MiB, fill rate 100 MiB/s"),
        "{status}"
    );
    ensure!(cap_bytes(&shale)? == 100 << 20);

    set(
        &shale,
        "cache-size = \"64M\"\n[host]\nfill-rate = \"off\"\n",
    )?;
    service.signal(Signal::HUP)?;
    let status = manager.hears_a_reload()?;
    ensure!(
        status.contains("cache of 64.0 MiB, fill rate off"),
        "{status}"
    );
    ensure!(cap_bytes(&shale)? == 64 << 20);

    // What is wrong changes nothing, and is told.
    for wrong in ["cache-size = \"1M\"\n", "cache-sise = \"1G\"\n"] {
        set(&shale, wrong)?;
        service.signal(Signal::HUP)?;
        let status = manager.hears_a_reload()?;
        ensure!(
            status.contains("cache of 64.0 MiB") && status.contains("not reloaded: "),
            "{status}"
        );
    }
    set(&shale, "")?;
    ensure!(cap_bytes(&shale)? == 64 << 20);

    // It ends though its socket stays: the manager's next one would be started by who connects.
    run(shale.command().args(["host", "stop"]))?;
    ensure!(manager.hears()? == ["STOPPING=1"]);
    drop(service);
    drop(listener);
    Ok(())
}

#[test]
fn a_registry_serves_on_the_socket_of_its_manager_and_takes_another_certificate() -> Result<()> {
    let shale = Shale::new()?;
    let manager = Manager::new(shale.home())?;
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let address = format!("https://{}", listener.local_addr()?);
    set(
        &shale,
        "[server]\ntls-self-signed = true\nlisten = \"127.0.0.1:1\"\n",
    )?;
    let mut command = handed(&shale, listener, &["server", "run"]);
    let registry = Background::start_with_stdin(&mut command)?;
    let status = manager.hears_ready()?;
    let fingerprint = |status: &str| -> Result<String> {
        let (served, fingerprint) = status
            .split_once(", fingerprint ")
            .context("its certificate")?;
        ensure!(served == format!("serving on {address}"), "{status}");
        Ok(fingerprint.to_owned())
    };
    let list = |fingerprint: &str| {
        let mut list = shale.command();
        list.args(["template", "ls", "--repository", &address]);
        list.args(["--fingerprint", fingerprint]);
        let said = list.output();
        said.map(|output| output.status.code())
    };
    let first = fingerprint(&status)?;
    ensure!(list(&first)? == Some(0));

    fs::remove_file(shale.home().join(".state/tls-self-signed.pem"))?;
    registry.signal(Signal::HUP)?;
    let second = fingerprint(&manager.hears_a_reload()?)?;
    ensure!(first != second);
    ensure!(list(&second)? == Some(0));
    ensure!(list(&first)? != Some(0), "the certificate before is served");
    registry.terminate()?;
    ensure!(manager.hears()? == ["STOPPING=1"]);
    Ok(())
}

#[test]
fn everything_runs_in_one_process() -> Result<()> {
    let shale = Shale::new()?;
    let file = shale.home().join("address");
    let mut up = shale.command();
    up.args(["up", "--listen", "127.0.0.1:0", "--address-file"])
        .arg(&file);
    let up = Background::start_until(&mut up, "see:")?;
    wait_for_file(&file)?;
    let address = fs::read_to_string(&file)?;
    let host = address.strip_prefix("http://").context("its address")?;
    let tree = shale.home().join("tree");
    fs::create_dir(&tree)?;
    fs::write(tree.join("file"), vec![7; 300_000])?;
    let reference = format!("{host}/test/tree:1");
    run(shale.command().arg("push").arg(&tree).arg(&reference))?;
    ensure!(run(shale.command().args(["vm", "ls", "--quiet"]))?.is_empty());
    run(shale.command().args(["precache", &reference]))?;
    let cached = run(shale.command().args(["cache", "ls", "--format", "json"]))?;
    let cached: Value = serde_json::from_str(&cached)?;
    let local = cached[0]["local_bytes"].as_u64();
    ensure!(
        local >= Some(4096) && local == cached[0]["content_bytes"].as_u64(),
        "{cached}"
    );
    up.signal(Signal::HUP)?;
    ensure!(run(shale.command().args(["vm", "ls", "--quiet"]))?.is_empty());
    up.terminate()?;

    // Both end also where the host is told to.
    let _ = fs::remove_file(&file);
    let mut up = shale.command();
    up.args(["up", "--listen", "127.0.0.1:0", "--address-file"])
        .arg(&file);
    let mut up = Background::start_until(&mut up, "see:")?;
    run(shale.command().args(["host", "stop"]))?;
    let status = up.ended()?.context("it has ended")?;
    ensure!(status.success(), "{status}");
    Ok(())
}

#[test]
fn a_host_without_a_hypervisor_caches_and_says_why_it_starts_no_machine() -> Result<()> {
    let shale = Shale::new()?;
    let nothing = shale.home().join("no-programs");
    let command = |arguments: &[&str]| {
        let mut command = shale.command();
        command.args(arguments).env("PATH", &nothing);
        command
    };
    let tree = shale.home().join("tree");
    fs::create_dir(&tree)?;
    fs::write(tree.join("file"), "content")?;
    run(command(&["push"]).arg(&tree).arg("test/tree"))?;
    let why = "no machine can be started here: `qemu-system-x86_64` is not installed";
    let service = Background::start_until(&mut command(&["host", "run"]), why)?;
    let begun = std::time::Instant::now();
    while !shale.home().join(".state/run/host.sock").exists() {
        ensure!(begun.elapsed() < SAYS_WITHIN, "it does not listen");
        std::thread::sleep(Duration::from_millis(10));
    }
    run(&mut command(&["precache", "test/tree"]))?;
    ensure!(run(&mut command(&["vm", "ls", "--quiet"]))?.is_empty());
    let output = command(&["vm", "deploy", "test/tree", "--name", "a"]).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(1), "{}: {said}", output.status);
    ensure!(
        said.contains(why) && said.contains("shale doctor"),
        "{said}"
    );
    ensure!(run(&mut command(&["vm", "ls", "--quiet"]))?.is_empty());
    service.terminate()
}

#[test]
fn settings_are_shown_with_where_they_come_from() -> Result<()> {
    let shale = Shale::new()?;
    let system = shale.home().join("etc/config.toml");
    let drop_in = shale.home().join("etc/config.toml.d/50-host.toml");
    fs::create_dir_all(drop_in.parent().context("its directory")?)?;
    fs::write(
        &system,
        "repository = \"https://a.example\"\ncache-size = \"1G\"\n",
    )?;
    fs::write(
        &drop_in,
        "cache-size = \"2G\"\n[host]\nfill-rate = \"max\"\n",
    )?;
    set(&shale, "[host]\nfill-rate = \"off\"\n")?;
    let show = |more: &[&str]| {
        let mut show = shale.command();
        show.env("SHALE_CONFIG", &system).args(["config", "show"]);
        show.args(more);
        show
    };
    let of = |shown: &Value, key: &str| -> Result<(String, String)> {
        let all = shown.as_array().context("a list")?;
        let found = all.iter().find(|setting| setting["key"] == key);
        let found = found.with_context(|| format!("{key} in {shown}"))?;
        let text = |field: &str| found[field].as_str().unwrap_or_default().to_owned();
        Ok((text("value"), text("origin")))
    };
    let json = ["--origin", "--format", "json"];
    let shown: Value = serde_json::from_str(&run(&mut show(&json))?)?;
    let pair = |value: &str, origin: &str| (value.to_owned(), origin.to_owned());
    let path = |path: &Path| path.display().to_string();
    ensure!(of(&shown, "repository")? == pair("https://a.example", &path(&system)));
    ensure!(of(&shown, "cache-size")? == pair("2G", &path(&drop_in)));
    let user = shale.home().join(".config/shale/config.toml");
    ensure!(of(&shown, "host.fill-rate")? == pair("off", &path(&user)));
    ensure!(of(&shown, "state")?.1 == "variable SHALE_STATE");
    ensure!(of(&shown, "server.listen")? == pair("127.0.0.1:7070", "default"));
    let mut flag = show(&json);
    flag.args(["--cache-size", "3G"])
        .env("SHALE_CACHE_SIZE", "4G");
    let shown: Value = serde_json::from_str(&run(&mut flag)?)?;
    ensure!(of(&shown, "cache-size")? == pair("3G", "flag"));
    let table = run(&mut show(&[]))?;
    ensure!(
        table.contains("cache-size") && !table.contains("default"),
        "{table}"
    );

    fs::write(&drop_in, "fill-rate = \"max\"\n")?;
    let output = show(&[]).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    let told = format!("`{}`: there is no setting `fill-rate`", path(&drop_in));
    ensure!(
        output.status.code() == Some(2) && said.contains(&told),
        "{said}"
    );
    Ok(())
}
