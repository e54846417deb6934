//! Machines that begin where another one was kept, before it was anybody.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::{Input, Registry, Vms, failure, need_root, run, tool};
use serde_json::Value;

use crate::mount::Mounted;

use super::{BOOT_SECONDS, check_disk, self_image};

/// How far a guest's clock may be off, in seconds: the way there and back through `ssh` in a guest that is translated.
const CLOCK_SECONDS: f64 = 2.0;

/// Deploys warm, and what is said of it.
fn deploy(vms: &Vms, name: &str, more: &[&str]) -> Result<Value> {
    let mut command = vms.command(&["deploy", "test/base", "--name", name, "--warm"]);
    command.args(["--timeout", BOOT_SECONDS, "--format", "json"]);
    Ok(serde_json::from_str(&run(command.args(more))?)?)
}

/// What `shale vm deploy --plan` says.
fn plan(vms: &Vms, reference: &str, more: &[&str]) -> Result<Value> {
    let mut command = vms.command(&["deploy", reference, "--plan", "--warm", "--format", "json"]);
    Ok(serde_json::from_str(&run(command.args(more))?)?)
}

/// Seconds since 1970 of this machine, whose clock is the guest's measure.
fn now() -> Result<f64> {
    Ok(run(tool("date")?.arg("+%s.%N"))?.trim().parse()?)
}

/// How far a guest's clock is off, in seconds, and the randomness that its kernel gives.
fn time_and_randomness(vms: &Vms, name: &str) -> Result<(f64, String)> {
    let begun = now()?;
    let said = vms.ssh(name, "date +%s.%N; head -c 16 /dev/urandom | od -An -tx1")?;
    let ended = now()?;
    let (time, random) = said.split_once('\n').context("two lines")?;
    let time: f64 = time.parse()?;
    let off = (begun - time).max(time - ended);
    Ok((off, random.trim().to_owned()))
}

/// Everything of the root file system that a guest has in its memory must be what is on its disk: sums of files as the
/// guest sees them, and as they are when it reads its disk again.
fn memory_fits_disk(vms: &Vms, name: &str) -> Result<()> {
    let sums =
        "find /etc /bin/ /usr/lib/systemd -xdev -type f | sort | xargs sha256sum | sha256sum";
    let script = format!("{sums}; sync; echo 3 >/proc/sys/vm/drop_caches; {sums}");
    let said = vms.ssh(name, &script)?;
    let sums: Vec<&str> = said.lines().collect();
    ensure!(sums.len() == 2 && sums[0] == sums[1], "{said}");
    let errors = vms.ssh(name, "dmesg | grep -ciE 'i/o error|ext4-fs error' || true")?;
    ensure!(errors.trim() == "0", "{errors} errors");
    Ok(())
}

#[test]
fn privileged_boot_warm_machines_are_themselves_and_stay_when_they_boot() -> Result<()> {
    need_root()?;
    let base = Input::base()?;
    let vms = Vms::new()?;
    let mut push = vms.shale.command();
    run(push.arg("push").arg(base.tree()).arg("test/base"))?;

    // Without a snapshot it would boot: asked for nothing else, it says so at once.
    let mut without = vms.command(&["deploy", "test/base", "--name", "none", "--warm"]);
    let said = run(without.args(["--wait", "none", "--format", "json"]))?;
    let said: Value = serde_json::from_str(&said)?;
    for said in [said, plan(&vms, "test/base", &[])?] {
        let reason = said["warm"]["cold"]["reason"].as_str().unwrap_or_default();
        ensure!(reason.contains("shale template warm test/base"), "{said}");
    }
    vms.run(&["rm", "none", "--yes"])?;

    let mut warm = vms.shale.command();
    warm.args(["template", "warm", "test/base", "--timeout", BOOT_SECONDS]);
    let made: Value = serde_json::from_str(&run(warm.args(["--format", "json"]))?)?;
    println!("kept: {} bytes of packs", made["pack_bytes"]);
    vms.nothing_left()?;
    holds_no_identity(&vms, &made)?;

    let one = deploy(&vms, "one", &["--user", "ada"])?;
    let two = deploy(&vms, "two", &[])?;
    for deployed in [&one, &two] {
        let login = &deployed["login"];
        println!("warm: login after {} s", login["seconds"]);
        ensure!(
            deployed["warm"]["from"]["snapshot"] == made["template"],
            "{deployed}"
        );
    }
    they_are_themselves(&vms)?;
    let next = plan(&vms, "test/base", &[])?;
    println!("the next one: {}", next["warm"]["from"]["ready"]);

    // The service dies under them: what they touch of their memory now comes from the next one.
    let killed = vms.kill_service()?;
    for name in ["one", "two"] {
        memory_fits_disk(&vms, name)?;
    }
    ensure!(vms.service_pid()? != killed, "another service answers");

    other_machines_boot(&vms)?;
    it_boots_from_what_it_wrote(&vms)?;

    for name in ["one", "two"] {
        vms.run(&["rm", name, "--yes"])?;
    }
    vms.nothing_left()?;
    another_host_brings_the_rest(&vms, &made)
}

/// A host that has nothing begins with what it needs; the rest comes, whatever becomes of its service, and then nothing but
/// the host matters.
fn another_host_brings_the_rest(author: &Vms, made: &Value) -> Result<()> {
    let registry = Registry::start(&author.shale, 0)?;
    let reference = registry.name("test/base");
    let vms = Vms::new()?;
    let number = |of: &Value, path: &str| {
        let number = of.pointer(path).and_then(Value::as_f64);
        number.with_context(|| format!("{path} in {of}"))
    };
    let (content, local) = ("/warm/from/content_bytes", "/warm/from/local_bytes");

    // A service that hardly brings anything that nobody reads.
    let mut service = vms.command(&["ls"]);
    run(service.env("SHALE_FILL_RATE", "1M"))?;
    let before = plan(&vms, &reference, &[])?;
    ensure!(
        before.pointer("/warm/from/snapshot") == Some(&made["template"]),
        "{before}"
    );
    ensure!(
        number(&before, local)? < number(&before, content)? / 2.0,
        "{before}"
    );
    ensure!(
        before.pointer("/warm/from/ready") == Some(&Value::Null),
        "{before}"
    );
    let other = plan(&vms, &reference, &["--memory", "640M"])?;
    let reason = other["warm"]["cold"]["reason"].as_str();
    ensure!(
        reason.is_some_and(|reason| reason.contains("memory")),
        "{other}"
    );

    let mut deploy = vms.command(&["deploy", &reference, "--name", "three", "--warm"]);
    deploy.args(["--timeout", BOOT_SECONDS, "--format", "json"]);
    let deployed: Value = serde_json::from_str(&run(&mut deploy)?)?;
    ensure!(
        deployed["warm"]["from"]["snapshot"] == made["template"],
        "{deployed}"
    );
    ensure!(
        deployed["disk"]["survives"]["registry"] == false,
        "{deployed}"
    );
    let begun = plan(&vms, &reference, &[])?;
    ensure!(number(&begun, local)? < number(&begun, content)?, "{begun}");
    // Nothing has booted there.
    ensure!(begun["ready"].is_null(), "{begun}");

    let killed = vms.kill_service()?;
    let waited = Instant::now();
    loop {
        let now = plan(&vms, &reference, &[])?;
        if number(&now, local)? == number(&now, content)?
            && now["local_bytes"] == now["content_bytes"]
        {
            break;
        }
        ensure!(waited.elapsed() < Duration::from_secs(120), "{now}");
        std::thread::sleep(Duration::from_millis(200));
    }
    // Its time is known where it did not wait for most of it, and then is the one of the next.
    let whole = plan(&vms, &reference, &[])?;
    let ready = whole.pointer("/warm/from/ready");
    let ready = ready.with_context(|| format!("{whole}"))?;
    ensure!(
        ready.is_null() || ready["machine"] == "three" && ready["is_same_template"] == true,
        "{whole}"
    );
    ensure!(vms.service_pid()? != killed, "another service answers");
    let shown = vms.run(&["inspect", "three", "--format", "json"])?;
    let shown: Value = serde_json::from_str(&shown)?;
    ensure!(shown["disk"]["survives"]["registry"] == true, "{shown}");
    registry.server.terminate()?;
    vms.kill_service()?;
    memory_fits_disk(&vms, "three")?;
    vms.run(&["rm", "three", "--yes"])?;
    vms.nothing_left()
}

/// What does not come to its prompt is not kept, and a service that is killed meanwhile leaves a machine to the next one.
#[test]
fn privileged_boot_what_is_not_kept_leaves_nothing() -> Result<()> {
    need_root()?;
    let vms = Vms::with_kernel_only()?;
    let keep = |seconds: &str| {
        let mut command = vms.shale.command();
        command.args(["template", "warm", "test/kernel", "--timeout", seconds]);
        command
    };
    ensure!(failure(&mut keep("3"))? == 6, "its kernel finds no root");
    vms.nothing_left()?;

    let mut command = keep("60");
    let quiet = std::process::Stdio::null;
    let mut keeping = command.stdout(quiet()).stderr(quiet()).spawn()?;
    let begun = Instant::now();
    // The hypervisor is there, and so is its machine.
    while !vms
        .processes()?
        .iter()
        .any(|line| line.contains("memory-backend-file"))
    {
        ensure!(
            begun.elapsed() < Duration::from_secs(30),
            "no machine is started"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    vms.kill_service()?;
    ensure!(!keeping.wait()?.success());
    vms.run(&["ls"])?;
    vms.nothing_left()?;
    let listed = run(vms.shale.command().args(["template", "ls"]))?;
    ensure!(!listed.contains("warm-"), "{listed}");
    Ok(())
}

/// Neither the snapshot's files nor its memory have what would make a machine itself.
fn holds_no_identity(vms: &Vms, made: &Value) -> Result<()> {
    let reference = made["reference"].as_str().context("a reference")?;
    let listed = run(vms.shale.command().args(["template", "ls", "test"]))?;
    ensure!(listed.contains(reference), "{reference}: {listed}");
    run(vms.shale.command().args(["host", "stop"]))?;
    let mounted = Mounted::new(&vms.shale, reference, &[])?;
    let directory = &mounted.point;
    let memory = directory.join("memory");
    ensure!(fs::metadata(&memory)?.len() == 512 << 20);
    // The beginning of every private key of OpenSSH, behind its first line.
    let mut grep = Command::new("grep");
    grep.args(["-c", "-a", "-F", "b3BlbnNzaC1rZXktdjE"]);
    let found = grep.arg(&memory).arg(directory.join("disk")).output()?;
    ensure!(found.status.code() == Some(1), "{found:?}");
    mounted.end()
}

fn they_are_themselves(vms: &Vms) -> Result<()> {
    let (one, two) = (self_image(vms, "one")?, self_image(vms, "two")?);
    for (at, what) in ["host name", "machine id", "host key"].iter().enumerate() {
        ensure!(
            !one[at].is_empty() && one[at] != two[at],
            "{what}: {one:?} {two:?}"
        );
    }
    ensure!(one[0] == "one" && two[0] == "two", "{one:?} {two:?}");
    ensure!(vms.ssh("one", "id -un; id -u")? == "ada\n1000\n");
    ensure!(vms.ssh("two", "id -un")? == "root\n");
    let (off, random) = time_and_randomness(vms, "one")?;
    let (other_off, other) = time_and_randomness(vms, "two")?;
    ensure!(
        off < CLOCK_SECONDS && other_off < CLOCK_SECONDS,
        "{off} {other_off}"
    );
    ensure!(random != other && random.len() > 40, "{random}");
    // What waited in them is gone.
    let left = "ls /usr/lib/shale /etc/systemd/system/shale-wait.service 2>&1 | grep -c 'No such'";
    ensure!(vms.ssh("one", left)? == "2\n" && vms.ssh("two", left)? == "2\n");
    Ok(())
}

/// What is asked for otherwise boots, and says why.
fn other_machines_boot(vms: &Vms) -> Result<()> {
    for (more, named) in [
        (["--memory", "640M"], "memory"),
        (["--cpus", "1"], "processors"),
        (["--disk", "3G"], "disk"),
        (["--data-disk", "1M"], "data disks"),
    ] {
        let deployed = deploy(vms, "other", &[&more[..], &["--wait", "none"]].concat())?;
        let reason = deployed["warm"]["cold"]["reason"].as_str();
        ensure!(
            reason.is_some_and(|reason| reason.contains(named)),
            "{deployed}"
        );
        ensure!(deployed["state"] == "running", "{deployed}");
        vms.run(&["rm", "other", "--yes"])?;
    }
    Ok(())
}

/// Stopped and started, it is an ordinary machine with all that it had.
fn it_boots_from_what_it_wrote(vms: &Vms) -> Result<()> {
    let before = self_image(vms, "one")?;
    vms.ssh("one", "echo kept > ~/file; sync")?;
    vms.run(&["stop", "one", "--timeout", "120"])?;
    check_disk(vms, "one")?;
    vms.run(&["start", "one", "--timeout", BOOT_SECONDS])?;
    ensure!(self_image(vms, "one")? == before, "{before:?}");
    ensure!(vms.ssh("one", "cat ~/file")? == "kept\n");
    ensure!(
        vms.ssh("one", "systemctl is-system-running --wait || true")?
            .trim()
            != "offline"
    );
    Ok(())
}
