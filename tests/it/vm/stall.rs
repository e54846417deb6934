//! A guest whose disk cannot answer stands still, with a reason that can be seen, and goes on by itself.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::{Input, LoopMount, Registry, Shale, Vms, need_root, run, tool};
use serde_json::Value;

use crate::export::check_file_system;
use crate::hostile::full::{fill, small_disk};
use crate::seen::{check_metrics, events, metric, of_kind};

use super::forecast;

/// Exit code of what is in the way of something else.
const CONFLICT: i32 = 5;

/// Exit code of what cannot be had now.
const UNAVAILABLE: i32 = 6;

/// How long the registry of a reading guest is away: longer than a client repeats one request, which is 30 s, so
/// that the disk has to go on by itself.
const OUTAGE: Duration = Duration::from_secs(36);

/// Files of which a boot reads little, 57 MB.
const READ: &str = "cat /usr/share/doc/*/copyright /usr/lib/x86_64-linux-gnu/*.so*";

#[test]
fn privileged_boot_a_guest_stands_still_while_its_registry_is_gone_or_its_disk_is_full()
-> Result<()> {
    need_root()?;
    let work = tempfile::tempdir_in("/var/tmp")?;
    // What the guest writes lies on a disk of its own.
    let disk = small_disk(work.path(), 256)?;
    let (home, vms) = (Shale::new()?, Vms::new()?);
    fs::create_dir(vms.path(""))?;
    symlink(disk.path(), vms.path("instances"))?;
    let base = Input::base()?;
    let registry = Registry::start(&home, 0)?;
    let port = registry.port()?;
    let reference = registry.name("test/base");
    let mut push = vms.shale.command();
    run(push.arg("push").arg(base.tree()).arg(&reference))?;
    let mut deploy = vms.command(&["deploy", &reference, "--name", "a", "--pause-after", "3"]);
    // So that there is something to wait for.
    run(deploy.env("SHALE_FILL_RATE", "off"))?;
    let expected = {
        let mut chroot = tool("chroot")?;
        chroot.env_clear().env("PATH", "/usr/bin:/bin");
        chroot.arg(base.tree()).args(["/bin/sh", "-c"]);
        run(chroot.arg(format!("set -e; {READ} > /dev/null; {READ} | md5sum")))?
    };
    vms.ssh("a", "true")?;
    forecast::after_a_boot(&vms, &reference)?;

    registry.server.kill()?;
    let read = format!("set -e; {READ} > /dev/null; {READ} | md5sum");
    let (registry, said) = beside(&vms, &read, || without_its_registry(&vms, &home, port))?;
    ensure!(said == expected, "not {expected}: {said}");
    told(&vms, &["unavailable"])?;

    let write = "dd if=/dev/urandom of=/root/written bs=1M count=64 status=none; sync; \
                 cp /root/written /root/copy; sync; echo 3 > /proc/sys/vm/drop_caches; \
                 cmp /root/written /root/copy && wc -c < /root/copy";
    let ballast = fill(&disk.path())?;
    let full = || {
        wait_for_state(&vms, "paused")?;
        // It is let go on now and then, to try again.
        let begun = Instant::now();
        loop {
            let shown = vms.run(&["ls"])?;
            if shown.contains("paused (its disk failed") && shown.contains("no space left") {
                break;
            }
            ensure!(begun.elapsed() < Duration::from_secs(60), "{shown}");
        }
        fs::remove_file(&ballast)?;
        wait_for_state(&vms, "running")
    };
    let ((), said) = beside(&vms, write, full)?;
    ensure!(said.trim() == (64 << 20).to_string(), "{said}");
    told(&vms, &["disk_full"])?;

    export(&vms)?;
    committed(&vms, &registry.name("test/committed"))?;
    drills(&vms)?;
    let errors = vms.ssh("a", "dmesg | grep -c 'I/O error' || true")?;
    ensure!(errors == "0\n", "{errors}");
    vms.run(&["rm", "a", "--yes"])?;
    registry.server.terminate()
}

/// Events and metrics tell of a stall of one of these causes, and that it is over.
fn told(vms: &Vms, causes: &[&str]) -> Result<()> {
    let begun = Instant::now();
    let (stalled, seconds) = loop {
        let events = events(vms, &["a"])?;
        let is_stall = |event: &&Value| {
            let cause = event["cause"].as_str();
            event["kind"] == "stalled" && cause.is_some_and(|cause| causes.contains(&cause))
        };
        let stalled = events.iter().rfind(is_stall).cloned();
        let stalled = stalled.with_context(|| format!("a stall: {events:?}"))?;
        let behind = events
            .iter()
            .filter(|event| event["id"].as_u64() > stalled["id"].as_u64());
        // One that its user had paused then does not go on by itself.
        let ends = ["going_on", "stall_over"];
        let mut ends = behind.filter(|event| ends.iter().any(|kind| event["kind"] == *kind));
        if let Some(end) = ends.next() {
            break (stalled, end["after_seconds"].as_f64().unwrap_or_default());
        }
        ensure!(
            begun.elapsed() < Duration::from_secs(30),
            "it goes on: {events:?}"
        );
        sleep(Duration::from_millis(200));
    };
    println!("{stalled}, for {seconds} s");
    ensure!(
        stalled["reason"]
            .as_str()
            .is_some_and(|reason| !reason.is_empty())
    );
    ensure!(seconds > 0.0, "{stalled}");
    let text = run(vms.shale.command().args(["host", "metrics"]))?;
    check_metrics(&text)?;
    let cause = stalled["cause"].as_str().unwrap_or_default();
    let name = format!("shale_machine_stall_seconds_total{{machine=\"a\",reason=\"{cause}\"}}");
    ensure!(metric(&text, &name)? > 0.0, "{text}");
    let shown = vms.run(&["inspect", "a", "--format", "json"])?;
    let shown: Value = serde_json::from_str(&shown)?;
    let stalls = &shown["disk"]["stalls"];
    ensure!(stalls["count"].as_u64() >= Some(1), "{stalls}");
    ensure!(stalls["causes"][cause].as_f64() > Some(0.0), "{stalls}");
    Ok(())
}

/// What was seen of outages, rehearsed by the program itself.
fn drills(vms: &Vms) -> Result<()> {
    for (what, seconds) in [("disk-full", "3"), ("daemon-kill", "1")] {
        let mut drill = vms.shale.command();
        drill.args([
            "drill", what, "--vm", "a", "--for", seconds, "--format", "json",
        ]);
        if what == "disk-full" {
            let output = drill.stdin(std::process::Stdio::null()).output()?;
            ensure!(
                output.status.code() == Some(2),
                "it does not ask: {output:?}"
            );
        }
        let report = run(drill.arg("--yes"))?;
        println!("{report}");
        let report: Value = serde_json::from_str(&report)?;
        ensure!(report["passed"] == true, "{report}");
        let guest = &report["guest"];
        ensure!(guest["operations"].as_u64() > Some(6), "{report}");
        ensure!(guest["errors"] == 0 && guest["wrong"] == 0, "{report}");
        ensure!(guest["kernel_errors"] == 0, "{report}");
        let stood_still = report["states"].to_string().contains("counts as full");
        ensure!(stood_still == (what == "disk-full"), "{report}");
    }
    Ok(())
}

/// The disk of the machine as a file has what its guest wrote; a copy is taken only of one that stands still.
fn export(vms: &Vms) -> Result<()> {
    let file = vms.shale.home().join("a.raw");
    let path = file.display().to_string();
    let fails = |code: i32, reason: &str| {
        let output = vms.command(&["export", "a", &path]).output()?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.code() == Some(code), "{output:?}");
        ensure!(said.contains(reason), "{said}");
        Ok(())
    };
    fails(CONFLICT, "vm pause a")?;
    vms.run(&["pause", "a"])?;
    vms.run(&["export", "a", &path])?;
    fails(CONFLICT, "does not exist")?;
    vms.run(&["resume", "a"])?;
    // The journal is replayed, as after a power cut.
    let mounted = LoopMount::new(&file, "rw")?;
    let written = fs::read(mounted.path().join("root/written"))?;
    ensure!(written.len() == 64 << 20 && written == fs::read(mounted.path().join("root/copy"))?);
    mounted.unmount()?;
    check_file_system(&file)
}

/// A template of what the paused guest has on its disk, most of it in the journal, boots as another machine.
fn committed(vms: &Vms, reference: &str) -> Result<()> {
    vms.ssh(
        "a",
        "mv /root/copy /root/third; touch /root/$(hostname); sync -d /root/$(hostname)",
    )?;
    vms.run(&["pause", "a"])?;
    vms.run(&["commit", "a", reference])?;
    vms.run(&["resume", "a"])?;
    vms.run(&["deploy", reference, "--name", "c"])?;
    boot_set_is_seen(vms)?;
    let said = vms.ssh("c", "hostname; cmp /root/written /root/third && ls /root/a")?;
    ensure!(said == "c\n/root/a\n", "{said}");
    let key = "cat /etc/ssh/ssh_host_ed25519_key.pub /etc/machine-id";
    ensure!(vms.ssh("a", key)? != vms.ssh("c", key)?);
    let damage = "dmesg | grep -ciE 'i/o error|ext4-fs error' || true";
    ensure!(vms.ssh("c", damage)? == "0\n");
    vms.run(&["rm", "c", "--yes"]).map(drop)
}

/// What boots of the nearest template read was brought for the new machine, and it is said how much of it is here.
fn boot_set_is_seen(vms: &Vms) -> Result<()> {
    let brought = events(vms, &[])?;
    let brought = of_kind(&brought, "boot_set_brought")?.clone();
    let shown = vms.run(&["inspect", "c", "--format", "json"])?;
    let shown: Value = serde_json::from_str(&shown)?;
    let share = &shown["disk"]["boot_set"];
    ensure!(share["bytes"].as_u64() > Some(1 << 20), "{share}");
    ensure!(
        share["bytes"] == brought["bytes"],
        "{share} is not {brought}"
    );
    ensure!(share["local_bytes"] == share["bytes"], "{share}");
    let text = run(vms.shale.command().args(["host", "metrics"]))?;
    ensure!(
        metric(&text, "shale_boot_set_local_ratio{machine=\"c\"}")? == 1.0,
        "{text}"
    );
    ensure!(
        metric(&text, "shale_time_to_ready_seconds_count")? >= 1.0,
        "{text}"
    );
    let hits = metric(&text, "shale_boot_set_hit_ratio")?;
    println!("{hits} of what the boot read had come before");
    ensure!(hits > 0.5, "{text}");
    let ready = events(vms, &["c"])?;
    let ready = of_kind(&ready, "ready")?;
    ensure!(
        ready["seconds"].as_f64() > Some(0.1) && ready["uid"] == 0,
        "{ready}"
    );
    Ok(())
}

/// Does `work` while the guest runs a script, and gives what the script printed.
fn beside<T>(vms: &Vms, script: &str, work: impl FnOnce() -> Result<T>) -> Result<(T, String)> {
    scope(|scope| {
        let running = scope.spawn(|| run(&mut vms.command(&["ssh", "a", "--", script])));
        let worked = work();
        if worked.is_err() {
            // Nobody can say when the script would end.
            let _ = vms.kill_machine("a");
        }
        let said = running.join().expect("no panic");
        Ok((worked?, said?))
    })
}

/// The guest, whose registry takes connections and says nothing, and then is not there at all, is paused with its reason.
/// Then the registry is there again.
fn without_its_registry(vms: &Vms, home: &Shale, port: u16) -> Result<Registry> {
    let begun = Instant::now();
    let silent = silence(port)?;
    wait_for_state(vms, "paused")?;
    let shown = vms.run(&["ls"])?;
    ensure!(
        shown.contains("paused (until its content comes: "),
        "{shown}"
    );
    // The service looks every second; the next one tells the end of what this one has told.
    // It is known long before the client, which has nobody else to ask, gives up.
    let is_silent = |event: &Value| {
        let reason = event["reason"].as_str().unwrap_or_default();
        // With what the last attempt came to, where the registry was killed in the middle of an answer.
        let is_told = reason.contains("silent for") || reason.contains("nothing from");
        event["cause"] == "unavailable" && is_told
    };
    loop {
        let events = events(vms, &["a"])?;
        if events.iter().any(is_silent) {
            break;
        }
        ensure!(begun.elapsed() < OUTAGE, "no silence is told: {events:?}");
        sleep(Duration::from_millis(200));
    }
    drop(silent);
    // It cannot go on, and says so; nor does another service forget why it stands still.
    let resume = vms.command(&["resume", "a"]).output()?;
    ensure!(resume.status.code() == Some(UNAVAILABLE), "{resume:?}");
    vms.kill_service()?;
    sleep(OUTAGE.saturating_sub(begun.elapsed()));
    wait_for_state(vms, "paused")?;
    // Whoever pauses it keeps it paused, and whoever lets it go on does not end the stall.
    vms.run(&["pause", "a"])?;
    both(vms)?;
    let resume = vms.command(&["resume", "a"]).output()?;
    ensure!(resume.status.code() == Some(UNAVAILABLE), "{resume:?}");
    of_kind(&events(vms, &["a"])?, "pause_lifted")?;
    vms.run(&["pause", "a"])?;
    both(vms)?;
    let registry = Registry::start(home, port)?;
    over(vms)?;
    vms.run(&["resume", "a"])?;
    wait_for_state(vms, "running")?;
    println!(
        "the guest was without its registry for {:?}",
        begun.elapsed()
    );
    Ok(registry)
}

/// Takes connections to a port as long as it lives, and says nothing.
fn silence(port: u16) -> Result<TcpListener> {
    let begun = Instant::now();
    // The connections of the registry that was there take a moment to be gone.
    loop {
        match TcpListener::bind(("127.0.0.1", port)) {
            Ok(listener) => return Ok(listener),
            Err(error) if begun.elapsed() > Duration::from_secs(10) => return Err(error.into()),
            Err(_) => sleep(Duration::from_millis(50)),
        }
    }
}

/// A machine that is stalled and that its user has paused is told as both.
fn both(vms: &Vms) -> Result<()> {
    let shown = vms.run(&["inspect", "a", "--format", "json"])?;
    let shown: Value = serde_json::from_str(&shown)?;
    ensure!(
        shown["state"] == "paused" && shown["paused_by_user"] == true,
        "{shown}"
    );
    ensure!(shown["disk"]["stalls"]["now"].is_object(), "{shown}");
    let listed = vms.run(&["ls"])?;
    ensure!(
        listed.contains("paused (by its user; stalled, too: "),
        "{listed}"
    );
    Ok(())
}

/// The stall of a machine that its user has paused is over, and it stays paused.
fn over(vms: &Vms) -> Result<()> {
    let begun = Instant::now();
    loop {
        let events = events(vms, &["a"])?;
        let stalled = events.iter().rposition(|event| event["kind"] == "stalled");
        let behind = &events[stalled.context("a stall")?..];
        let goes_on = of_kind(behind, "going_on");
        ensure!(goes_on.is_err(), "nobody let it go on: {goes_on:?}");
        if of_kind(behind, "stall_over").is_ok() {
            break;
        }
        ensure!(begun.elapsed() < Duration::from_secs(60), "{events:?}");
        sleep(Duration::from_millis(200));
    }
    sleep(Duration::from_secs(3));
    ensure!(vms.state("a")? == "paused", "it goes on unasked");
    let shown = vms.run(&["inspect", "a", "--format", "json"])?;
    let shown: Value = serde_json::from_str(&shown)?;
    ensure!(
        shown["paused_by_user"] == true && shown["disk"]["stalls"]["now"].is_null(),
        "{shown}"
    );
    Ok(())
}

fn wait_for_state(vms: &Vms, wanted: &str) -> Result<()> {
    let begun = Instant::now();
    loop {
        let state = vms.state("a")?;
        if state == wanted {
            return Ok(());
        }
        ensure!(
            begun.elapsed() < Duration::from_secs(60),
            "it is {state}, not {wanted}"
        );
        sleep(Duration::from_millis(100));
    }
}
