//! What can be seen of a host: metrics, events, what machines show of their content, a log with ids.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::{Background, Input, Random, Registry, Shale, Vms, failure, need_root, run};
use serde_json::Value;

/// How long something may take to be seen: looks are a second apart, and other tests run beside this one.
const SEEN_WITHIN: Duration = Duration::from_secs(60);

/// Exit code of what is said wrong.
const USAGE: i32 = 2;

/// Exit code of what does not exist.
const NOT_FOUND: i32 = 3;

/// Exit code of what cannot be had now.
const UNAVAILABLE: i32 = 6;

/// Bytes beside the kernel, which come in some seconds.
const MORE_BYTES: usize = 24 << 20;

/// A mirror that is not there.
const NOBODY: &str = "http://127.0.0.1:9";

/// What must not be in a log.
const SECRET: &str = "a-token-that-nobody-may-read";

/// The strict parser of the format's authors. Not the first Python in the path, which may be another one than Debian's.
const CHECK_METRICS: &str = "import sys
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse
print(sum(len(family.samples) for family in parse(sys.stdin.read())))";

/// Fails unless the text is OpenMetrics to the letter.
pub(crate) fn check_metrics(text: &str) -> Result<()> {
    let mut python = Command::new("/usr/bin/python3");
    python.args(["-I", "-c", CHECK_METRICS]);
    python.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut python = python.spawn().context("start Debian's python3")?;
    let mut input = python.stdin.take().context("its input")?;
    input.write_all(text.as_bytes())?;
    drop(input);
    let output = python.wait_with_output()?;
    ensure!(
        output.status.success(),
        "no OpenMetrics, or the Debian package python3-prometheus-client is missing:\n{text}"
    );
    let samples: usize = String::from_utf8(output.stdout)?.trim().parse()?;
    ensure!(samples > 50, "{samples} samples:\n{text}");
    Ok(())
}

/// A value of the metrics, by its name with its labels.
pub(crate) fn metric(text: &str, name: &str) -> Result<f64> {
    let lines = text.lines().filter_map(|line| line.rsplit_once(' '));
    let mut values = lines.filter(|(found, _)| *found == name);
    let (_, value) = values.next().with_context(|| format!("{name}:\n{text}"))?;
    Ok(value.parse()?)
}

/// The events of a host that are kept, or some of them.
pub(crate) fn events(vms: &Vms, arguments: &[&str]) -> Result<Vec<Value>> {
    let mut command = vms.shale.command();
    command.args(["events", "--format", "json"]).args(arguments);
    parse(&run(&mut command)?)
}

fn parse(lines: &str) -> Result<Vec<Value>> {
    let events = lines.lines();
    let events = events.map(|line| serde_json::from_str(line).with_context(|| line.to_owned()));
    events.collect()
}

/// The first event of this kind.
pub(crate) fn of_kind<'a>(events: &'a [Value], kind: &str) -> Result<&'a Value> {
    let mut found = events.iter().filter(|event| event["kind"] == kind);
    found.next().with_context(|| format!("{kind}: {events:?}"))
}

pub(crate) fn wait_for(vms: &Vms, kind: &str, arguments: &[&str]) -> Result<Value> {
    let begun = Instant::now();
    loop {
        let events = events(vms, arguments)?;
        match of_kind(&events, kind) {
            Ok(event) => return Ok(event.clone()),
            Err(error) if begun.elapsed() > SEEN_WITHIN => return Err(error),
            Err(_) => std::thread::sleep(Duration::from_millis(200)),
        }
    }
}

/// The answer to a request, head and all.
fn http(address: &str, request: &str) -> Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(SEEN_WITHIN))?;
    stream.write_all(format!("{request}\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

fn get(address: &str, path: &str) -> Result<String> {
    http(address, &format!("GET {path} HTTP/1.1\r\nHost: localhost"))
}

/// A service of this host that serves metrics, and where.
fn service(vms: &Vms, log: &Path) -> Result<(Background, String)> {
    let said = OpenOptions::new().create(true).append(true).open(log)?;
    let before = fs::metadata(log)?.len() as usize;
    let mut command = vms.shale.command();
    command.args([
        "host",
        "run",
        "--metrics",
        "127.0.0.1:0",
        "--fill-rate",
        "4M",
    ]);
    command.args(["--log-format", "json", "--log-level", "debug"]);
    let service = Background::start(command.stderr(said))?;
    let begun = Instant::now();
    loop {
        let text = fs::read_to_string(log)?;
        let address = text[before..].lines().find_map(|line| {
            let line: Value = serde_json::from_str(line).ok()?;
            let url = line["message"]
                .as_str()?
                .strip_prefix("metrics on http://")?;
            Some(url.strip_suffix("/metrics")?.to_owned())
        });
        if text[before..].contains("serving on")
            && let Some(address) = address
        {
            return Ok((service, address));
        }
        ensure!(begun.elapsed() < SEEN_WITHIN, "{text}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn push(author: &Shale, reference: &str) -> Result<()> {
    let tree = tempfile::tempdir()?;
    for dir in ["boot", "etc"] {
        fs::create_dir(tree.path().join(dir))?;
    }
    fs::copy(Input::base()?.kernel()?, tree.path().join("boot/vmlinuz"))?;
    let content = Random::printed("content").bytes(MORE_BYTES);
    fs::write(tree.path().join("etc/content"), content)?;
    let mut push = author.command();
    run(push.arg("push").arg(tree.path()).arg(reference)).map(drop)
}

#[test]
fn privileged_boot_what_happens_on_a_host_can_be_seen() -> Result<()> {
    need_root()?;
    let (home, author, vms) = (Shale::new()?, Shale::new()?, Vms::new()?);
    let registry = Registry::start(&home, 0)?;
    let reference = registry.name("test/machine:1");
    push(&author, &reference)?;
    let log = vms.shale.home().join("log");
    let (service, address) = service(&vms, &log)?;
    let token = vms.shale.home().join("token");
    fs::write(&token, SECRET)?;

    let followed = vms.shale.home().join("followed");
    let mut follow = vms.shale.command();
    follow.args(["events", "--follow", "--format", "json"]);
    let follow = Background::start(follow.stdout(File::create(&followed)?))?;

    let mut deploy = vms.command(&["deploy", &reference, "--name", "a", "--wait", "none"]);
    // Nobody is at this mirror.
    deploy.args(["--mirror", NOBODY]).arg("--token-file");
    run(deploy.arg(&token))?;
    comes(&vms)?;
    let broken = wait_for(&vms, "source_broken", &[])?;
    ensure!(broken["source"] == NOBODY, "{broken}");
    let filled = wait_for(&vms, "fill_done", &["a"])?;
    ensure!(filled["bytes"].as_u64() > Some(16 << 20), "{filled}");
    vms.run(&["pause", "a"])?;
    vms.run(&["resume", "a"])?;
    pages(&address, &registry, &vms)?;
    let told = fs::read_to_string(&followed)?;
    let kinds = ["deployed", "starting", "fill_done", "paused", "resumed"];
    in_order(&parse(&told)?, &kinds)?;
    drop(follow);

    ids_lead_to_the_log(&vms, &log)?;
    let last = service_dies(&vms, service)?;
    let (service, _) = self::service(&vms, &log)?;
    what_was_missed(&vms, last)?;
    vms.run(&["rm", "a", "--yes"])?;
    service.terminate()?;
    let log = fs::read_to_string(&log)?;
    ensure!(!log.contains(SECRET), "{log}");
    let kept = fs::read_to_string(vms.path("events/events.jsonl"))?;
    ensure!(
        !kept.contains(SECRET) && kept.contains("service_stopping"),
        "{kept}"
    );
    Ok(())
}

/// While content comes, it is said how much is here and when the rest will be.
fn comes(vms: &Vms) -> Result<()> {
    let begun = Instant::now();
    loop {
        let shown = vms.run(&["inspect", "a", "--format", "json"])?;
        let shown: Value = serde_json::from_str(&shown)?;
        let disk = &shown["disk"];
        let number = |name: &str| disk[name].as_u64().unwrap_or_default();
        if let Some(eta) = disk["eta_seconds"].as_f64()
            && number("local_bytes") < number("content_bytes")
        {
            // At four mebibytes a second.
            ensure!(eta > 0.0 && eta < 30.0, "{disk}");
            ensure!(disk["stalls"]["count"] == 0, "{disk}");
            let listed = vms.run(&["ls"])?;
            for column in ["LOCAL", "BOOT SET", "ETA", "STALL"] {
                ensure!(listed.contains(column), "{listed}");
            }
            return Ok(());
        }
        ensure!(begun.elapsed() < SEEN_WITHIN, "nobody says when: {disk}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Metrics over the socket and over HTTP, and what else is served there.
fn pages(address: &str, registry: &Registry, vms: &Vms) -> Result<()> {
    let answer = get(address, "/metrics")?;
    let (head, text) = answer.split_once("\r\n\r\n").context("a head")?;
    ensure!(head.starts_with("HTTP/1.1 200 "), "{head}");
    ensure!(head.contains("openmetrics-text"), "{head}");
    check_metrics(text)?;
    let over_socket = run(vms.shale.command().args(["host", "metrics"]))?;
    check_metrics(&over_socket)?;
    let names = |text: &str| -> Vec<String> {
        let types = text.lines().filter(|line| line.starts_with("# TYPE "));
        types.map(str::to_owned).collect()
    };
    ensure!(names(text) == names(&over_socket));
    let value = |name: &str| metric(text, name);
    ensure!(value("shale_view_local_ratio{machine=\"a\"}")? == 1.0);
    ensure!(value("shale_machines{state=\"running\"}")? == 1.0);
    let source = format!("source=\"{}\"", registry.url());
    ensure!(value(&format!("shale_source_bytes_total{{{source}}}"))? > 16e6);
    ensure!(value(&format!("shale_source_broken{{{source}}}"))? == 0.0);
    let nobody = format!("shale_source_broken{{source=\"{NOBODY}\"}}");
    ensure!(value(&nobody)? == 1.0);
    ensure!(value("shale_chunks_verified_total{at=\"arrival\",result=\"right\"}")? > 10.0);
    ensure!(value("shale_read_bytes_total{source=\"fetched\"}")? > 1e6);
    // Its kernel was read before it could start.
    ensure!(value("shale_stall_seconds_total{reason=\"transfer\"}")? > 0.0);
    ensure!(value("shale_fetched_bytes_total{purpose=\"fill\"}")? > 1e6);
    ensure!(value("shale_cache_bytes")? > 24e6);
    ensure!(value("shale_events_total{kind=\"deployed\"}")? == 1.0);

    ensure!(get(address, "/healthz")?.ends_with("ok\n"));
    ensure!(get(address, "/readyz")?.ends_with("ready\n"));
    ensure!(get(address, "/version")?.contains("\"name\":\"shale\""));
    let says = |request: &str, code: &str| {
        let answer = http(address, request)?;
        ensure!(answer.starts_with(&format!("HTTP/1.1 {code} ")), "{answer}");
        Ok(())
    };
    says("GET / HTTP/1.1\r\nHost: 127.0.0.1", "404")?;
    says(
        "POST /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0",
        "405",
    )?;
    says("GET /metrics HTTP/1.1\r\nHost: evil.example", "403")?;
    let long = "x".repeat(64 << 10);
    let head = format!("GET /metrics HTTP/1.1\r\nHost: localhost\r\nX: {long}");
    // It may close before it has read all.
    let refused = says(&head, "431");
    let cut = refused
        .as_ref()
        .is_err_and(|error| error.is::<std::io::Error>());
    ensure!(refused.is_ok() || cut, "{refused:?}");
    Ok(())
}

/// Fails unless events of these kinds are there in this order, with numbers that grow by one.
fn in_order(events: &[Value], kinds: &[&str]) -> Result<()> {
    let mut wanted = kinds.iter().peekable();
    let mut before: Option<u64> = None;
    for event in events {
        let id = event["id"].as_u64();
        ensure!(
            before.is_none_or(|before| Some(before + 1) == id),
            "{events:?}"
        );
        before = id;
        wanted.next_if(|kind| event["kind"] == **kind);
    }
    ensure!(wanted.peek().is_none(), "{wanted:?} is not in {events:?}");
    let paused = of_kind(events, "paused")?;
    ensure!(paused["uid"] == 0 && paused["machine"] == "a", "{paused}");
    Ok(())
}

/// A request that failed shows its id, by which the log has it, as it has the events of others.
fn ids_lead_to_the_log(vms: &Vms, log: &Path) -> Result<()> {
    let mut command = vms.command(&["start", "nobody", "--debug"]);
    let output = command.output()?;
    ensure!(output.status.code() == Some(NOT_FOUND), "{output:?}");
    let said = String::from_utf8(output.stderr)?;
    let id = said.lines().find_map(|line| line.strip_prefix("request "));
    let id = id
        .and_then(|line| line.split(',').next())
        .context(said.clone())?;
    ensure!(id.len() == 16, "{said}");
    let lines = parse(&fs::read_to_string(log)?)?;
    let of = |id: &str, message: &str| {
        let lines = lines.iter();
        let mut lines = lines.filter(|line| line["span"]["request"] == id);
        lines.find(|line| line["message"] == message).cloned()
    };
    let failed = of(id, "failed").with_context(|| format!("{id} in {lines:?}"))?;
    ensure!(
        failed["span"]["what"] == "start" && failed["level"] == "WARN",
        "{failed}"
    );
    let paused = events(vms, &["a"])?;
    let paused = of_kind(&paused, "paused")?;
    let request = paused["request"].as_str().context("a request")?;
    let told = of(request, "event").with_context(|| format!("{paused} in {lines:?}"))?;
    ensure!(told["event"] == paused["id"], "{told} is not {paused}");
    Ok(())
}

/// The service is killed while it writes an event, and then the machine; the number of the last event.
fn service_dies(vms: &Vms, service: Background) -> Result<u64> {
    let before = events(vms, &[])?;
    let last = before.last().context("an event")?["id"].as_u64();
    service.kill()?;
    let mut kept = OpenOptions::new()
        .append(true)
        .open(vms.path("events/events.jsonl"))?;
    kept.write_all(b"{\"id\":999999,\"time\":1764080571.5,\"machine\":\"a")?;
    vms.kill_machine("a")?;
    last.context("its number")
}

/// The next service tells what happened while there was none, and goes on counting.
fn what_was_missed(vms: &Vms, last: u64) -> Result<()> {
    let after = last.to_string();
    let died = wait_for(vms, "died", &["--after", &after])?;
    ensure!(died["unseen"] == true && died["machine"] == "a", "{died}");
    let told = events(vms, &["--after", &after])?;
    let first = &told[0];
    ensure!(
        first["id"] == last + 1 && first["kind"] == "service_started",
        "{told:?}"
    );
    ensure!(first["previous"] == "killed", "{first}");
    let stopped = vms.run(&["inspect", "a", "--format", "json"])?;
    ensure!(stopped.contains("\"state\": \"stopped\""), "{stopped}");
    let since = events(vms, &["a", "--since", "1h"])?;
    ensure!(
        since.iter().all(|event| event["machine"] == "a"),
        "{since:?}"
    );
    of_kind(&since, "deployed")?;
    let shown = run(vms.shale.command().args(["events", "a"]))?;
    ensure!(shown.contains("while no service ran"), "{shown}");
    Ok(())
}

#[test]
fn metrics_are_not_served_to_other_machines_unless_somebody_says_so() -> Result<()> {
    let vms = Vms::new()?;
    for address in ["0.0.0.0:0", "[::]:0"] {
        let mut command = vms.shale.command();
        command.args(["host", "run", "--metrics", address]);
        let output = command.output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.code() == Some(USAGE), "{output:?}");
        ensure!(said.contains("--insecure-metrics"), "{said}");
    }
    let mut command = vms.shale.command();
    command.args([
        "host",
        "run",
        "--metrics",
        "0.0.0.0:0",
        "--insecure-metrics",
    ]);
    let service = Background::start_until(&mut command, "metrics on http://0.0.0.0:")?;
    drop(service);
    // Nobody counts where no service runs.
    let code = failure(vms.shale.command().args(["host", "metrics"]))?;
    ensure!(code == UNAVAILABLE, "{code}");
    Ok(())
}
