//! Virtual machines through the program: made, spoken to, killed from under, and removed.

mod host;
mod kills;

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::{Input, need_root, run, tool};
use serde_json::Value;

use crate::export::check_file_system;

pub(crate) use host::Vms;
use host::failure;

/// How long a guest may take to its login prompt, without acceleration and beside other tests.
const BOOT_SECONDS: &str = "300";

/// What makes a guest itself, as it sees it: name, id and host key.
fn self_image(vms: &Vms, name: &str) -> Result<Vec<String>> {
    let ask = "hostname; cat /etc/machine-id; cut -d' ' -f2 /etc/ssh/ssh_host_ed25519_key.pub";
    let said = vms.ssh(name, ask)?;
    Ok(said.lines().map(str::to_owned).collect())
}

/// Deploys both at once; the first with a user, a key and a larger disk of its own.
fn deploy_two(vms: &Vms) -> Result<Value> {
    let key = vms.shale.home().join("key");
    run(tool("ssh-keygen")?
        .args(["-q", "-t", "ed25519", "-N", "", "-f"])
        .arg(&key))?;
    let public = key.with_extension("pub");
    let mut one = vms.command(&["deploy", "test/base", "--name", "one", "--disk", "3G"]);
    one.args(["--user", "ada", "--memory", "400M", "--format", "json"]);
    one.args(["--timeout", BOOT_SECONDS, "--ssh-key"])
        .arg(&public);
    let mut two = vms.command(&["deploy", "test/base", "--name", "two", "--cpus", "1"]);
    two.args(["--quiet", "--timeout", BOOT_SECONDS]);
    let quiet = std::process::Stdio::null;
    let mut second = two.stdout(quiet()).spawn().context("start shale")?;
    let deployed = run(&mut one)?;
    let ended = second.wait().context("wait for shale")?;
    ensure!(ended.success(), "the second: {ended}");
    Ok(serde_json::from_str(&deployed)?)
}

#[test]
fn privileged_boot_two_machines_of_one_template_are_themselves_and_outlive_their_service()
-> Result<()> {
    need_root()?;
    let base = Input::base()?;
    let vms = Vms::new()?;
    run(vms
        .shale
        .command()
        .arg("push")
        .arg(base.tree())
        .arg("test/base"))?;
    let deployed = deploy_two(&vms)?;
    let login = &deployed["login"];
    println!(
        "login after {} s, {} s waited",
        login["seconds"], login["waited_seconds"]
    );
    ensure!(
        login["fetched_bytes"].as_u64() > Some(1 << 20),
        "{deployed}"
    );
    ensure!(deployed["disk"]["bytes"] == 3u64 << 30, "{deployed}");

    let (one, two) = (self_image(&vms, "one")?, self_image(&vms, "two")?);
    for (at, what) in ["host name", "machine id", "host key"].iter().enumerate() {
        ensure!(
            !one[at].is_empty() && one[at] != two[at],
            "{what}: {one:?} {two:?}"
        );
    }
    ensure!(one[0] == "one" && two[0] == "two");
    ensure!(vms.ssh("one", "id -un; id -u")? == "ada\n1000\n");
    ensure!(vms.ssh("two", "id -un; nproc")? == "root\n1\n");
    let size: u64 = vms
        .ssh("one", "df -B1 --output=size / | tail -1")?
        .trim()
        .parse()?;
    ensure!(size > 28 << 26, "a disk of 3 GiB shows {size} bytes");
    // The template has none of it.
    let tree = base.tree();
    ensure!(fs::read(tree.join("etc/machine-id"))?.is_empty());
    ensure!(!tree.join("etc/ssh/ssh_host_ed25519_key").exists());

    console_answers(&vms)?;
    service_dies_under_a_writer(&vms)?;
    writes_survive_a_stop(&vms)?;

    vms.run(&["rm", "one", "--yes"])?;
    vms.run(&["rm", "two", "--yes"])?;
    vms.nothing_left()
}

/// A console is typed on through a pipe.
fn console_answers(vms: &Vms) -> Result<()> {
    let mut command = vms.command(&["console", "two"]);
    command.stdin(std::process::Stdio::piped());
    command.stdout(std::process::Stdio::piped());
    let mut console = command.spawn().context("start shale")?;
    let mut keys = console.stdin.take().context("its input")?;
    std::io::Write::write_all(&mut keys, b"\n")?;
    drop(keys);
    let output = console.wait_with_output()?;
    let shown = String::from_utf8_lossy(&output.stdout);
    ensure!(
        output.status.success() && shown.contains("two login:"),
        "{shown}"
    );
    let logged = vms.run(&["logs", "two"])?;
    ensure!(logged.contains("two login:"), "{logged}");
    Ok(())
}

/// A guest writes while its service is killed and another takes over, several times.
fn service_dies_under_a_writer(vms: &Vms) -> Result<()> {
    let write = "i=0; while :; do i=$((i+1)); \
        dd if=/dev/urandom of=part bs=64k count=8 conv=fsync 2>/dev/null || exit; \
        sha256sum part > sum.new; cat part sum.new > file.$((i%8)); sync; echo $i > done; done";
    vms.ssh(
        "two",
        &format!("nohup sh -c '{write}' >/dev/null 2>&1 & echo started"),
    )?;
    let done = |vms: &Vms| -> Result<u64> {
        let text = vms.ssh("two", "cat done 2>/dev/null || echo 0")?;
        text.trim().parse().with_context(|| format!("{text:?}"))
    };
    for _ in 0..3 {
        let (before, begun) = (done(vms)?, Instant::now());
        let killed = vms.kill_service()?;
        let listed = vms.run(&["ls", "--format", "json"])?;
        ensure!(vms.service_pid()? != killed, "another service answers");
        ensure!(listed.matches("\"running\"").count() == 2, "{listed}");
        while done(vms)? <= before {
            ensure!(
                begun.elapsed() < Duration::from_secs(60),
                "the guest does not go on"
            );
            std::thread::sleep(Duration::from_millis(200));
        }
    }
    let errors = vms.ssh("two", "dmesg | grep -ciE 'i/o error|ext4-fs error' || true")?;
    ensure!(
        errors.trim() == "0",
        "{}",
        vms.ssh("two", "dmesg | tail -20")?
    );
    Ok(())
}

/// What was written is there after a stop, a cut of the power, and on a disk that e2fsck finds in order.
fn writes_survive_a_stop(vms: &Vms) -> Result<()> {
    vms.ssh("one", "echo kept > ~/file; sync")?;
    vms.run(&["stop", "one", "--timeout", "120"])?;
    ensure!(vms.state("one")? == "stopped");
    ensure!(failure(&mut vms.command(&["ssh", "one", "--", "true"]))? == 5);
    // The power of the writer is cut in the middle.
    vms.run(&["stop", "two", "--timeout", "0", "--force"])?;
    vms.run(&["start", "one", "--timeout", BOOT_SECONDS])?;
    ensure!(vms.ssh("one", "cat ~/file")? == "kept\n");
    vms.run(&["start", "two", "--timeout", BOOT_SECONDS])?;
    let check = "for f in file.*; do tail -c +524289 $f | grep -q part || exit 1; \
        head -c 524288 $f | sha256sum | cut -c1-64; tail -c +524289 $f | cut -c1-64; done";
    let sums = vms.ssh("two", check)?;
    let sums: Vec<&str> = sums.lines().collect();
    // The power went in the middle of one of the eight at most.
    let wrong = sums.chunks(2).filter(|pair| pair[0] != pair[1]).count();
    ensure!(sums.len() >= 8 && wrong <= 1, "{wrong} of {sums:?}");
    for name in ["one", "two"] {
        vms.run(&["stop", name, "--timeout", "120"])?;
        check_disk(vms, name)?;
    }
    Ok(())
}

/// The disk of a stopped instance, through `shale nbd`.
fn check_disk(vms: &Vms, name: &str) -> Result<()> {
    run(vms.shale.command().args(["host", "stop"]))?;
    let copy = vms.shale.home().join("copy.raw");
    let socket = vms.shale.home().join("s");
    let mut serve = vms.shale.command();
    serve.args(["nbd", "test/base", "--socket"]).arg(&socket);
    serve.arg("--overlay").arg(vms.overlay(name));
    let server = harness::Background::start_until(&mut serve, "serving")?;
    let url = format!("nbd+unix:///?socket={}", socket.display());
    run(tool("nbdcopy")?.arg(url).arg(&copy))?;
    server.terminate()?;
    check_file_system(&copy)?;
    Ok(fs::remove_file(copy)?)
}

#[test]
fn privileged_commands_on_machines_answer_with_their_exit_codes() -> Result<()> {
    need_root()?;
    let vms = Vms::with_kernel_only()?;
    let deploy = |name: &str, more: &[&str]| {
        let mut command = vms.command(&["deploy", "test/kernel", "--wait", "none", "--name", name]);
        command.args(more);
        command
    };
    run(&mut deploy("a", &["--publish", "18923:80"]))?;
    ensure!(vms.state("a")? == "running");
    for (command, code) in [
        (deploy("a", &[]), 5),
        (deploy("b", &["--publish", "18923:80"]), 5),
        (deploy("b", &["--disk", "1M"]), 2),
        (deploy("B", &[]), 2),
        (deploy("b", &["--user", "Not A User"]), 2),
        (deploy("b", &["--cpus", "0"]), 2),
        (deploy("b", &["--ssh-key", "nowhere"]), 1),
        (vms.command(&["deploy", "test/none", "--name", "b"]), 3),
        (vms.command(&["inspect", "b"]), 3),
        (vms.command(&["start", "b"]), 3),
        (vms.command(&["stop", "a", "--timeout", "0"]), 6),
        (vms.command(&["rm", "a"]), 2),
        // Its kernel finds no root: there is no prompt.
        (
            vms.command(&[
                "restart",
                "a",
                "--stop-timeout",
                "0",
                "--force",
                "--timeout",
                "1",
            ]),
            6,
        ),
    ] {
        let mut command = command;
        let found = failure(&mut command)?;
        ensure!(found == code, "{found} for {command:?}");
    }
    vms.run(&["pause", "a"])?;
    ensure!(vms.state("a")? == "paused");
    vms.run(&["resume", "a"])?;
    vms.run(&["start", "a"])?;
    ensure!(vms.state("a")? == "running");
    // Secrets are the owner's alone.
    vms.everything_is_private()?;
    // A machine that ends by itself is noticed, and gives its disk back.
    vms.kill_machine("a")?;
    let begun = Instant::now();
    while vms.state("a")? != "stopped" {
        ensure!(begun.elapsed() < Duration::from_secs(30), "nobody noticed");
        std::thread::sleep(Duration::from_millis(100));
    }
    ensure!(failure(&mut vms.command(&["pause", "a"]))? == 5);
    vms.run(&["stop", "a"])?;
    run(vms.shale.command().args(["host", "stop"]))?;
    run(vms.shale.command().args(["host", "stop"]))?;
    vms.run(&["rm", "a", "--yes"])?;
    vms.nothing_left()
}
