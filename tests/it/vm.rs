//! Virtual machines through the program: made, spoken to, killed from under, and removed.

mod autostart;
mod clock;
mod commit;
mod damaged;
mod dying;
mod file_snapshots;
mod forecast;
mod kills;
mod localize;
mod reboots;
mod reimage;
mod snapshots;
mod socket;
mod stall;
mod user;
mod warm;

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::{Input, LoopMount, Vms, failure, free_port, need_root, run, tool};
use serde_json::Value;

use crate::export::check_file_system;

/// How long a guest may take to its login prompt, without acceleration and beside other tests.
const BOOT_SECONDS: &str = "300";

/// What makes a guest itself, as it sees it: name, id and host key.
fn self_image(vms: &Vms, name: &str) -> Result<Vec<String>> {
    let ask = "hostname; cat /etc/machine-id; cut -d' ' -f2 /etc/ssh/ssh_host_ed25519_key.pub";
    let said = vms.ssh(name, ask)?;
    Ok(said.lines().map(str::to_owned).collect())
}

/// Makes a pair of keys in the home directory.
fn make_key(vms: &Vms, name: &str) -> Result<PathBuf> {
    let key = vms.shale.home().join(name);
    run(tool("ssh-keygen")?
        .args(["-q", "-t", "ed25519", "-N", "", "-f"])
        .arg(&key))?;
    Ok(key)
}

/// Deploys both at once; the first with a user, a key, memory, a port and a larger disk of its own.
fn deploy_two(vms: &Vms, publish: &str) -> Result<Value> {
    let public = make_key(vms, "key")?.with_extension("pub");
    let mut one = vms.command(&["deploy", "test/base", "--name", "one", "--disk", "3G"]);
    one.args(["--user", "ada", "--memory", "640M", "--format", "json"]);
    one.args(["--publish", publish]);
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
    let published = free_port()?;
    let deployed = deploy_two(&vms, &format!("{published}:22"))?;
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
    // The template's 512 MiB would be less, and 640 MiB are not all the kernel's to give.
    let memory = vms.ssh("one", "awk '/^MemTotal:/ { print $2 }' /proc/meminfo")?;
    let memory = memory.trim().parse::<u64>()? << 10;
    ensure!(memory > 520 << 20 && memory < 640 << 20, "{memory} bytes");
    published_port_leads_in(published)?;
    another_key_is_refused(&vms, &deployed)?;
    others_hold_nothing_of_it(&vms, &base)?;

    console_answers(&vms)?;
    service_dies_under_a_writer(&vms)?;
    localize::under_a_writer(&vms, "two")?;
    writes_survive_a_stop(&vms)?;

    vms.run(&["rm", "one", "--yes"])?;
    vms.run(&["rm", "two", "--yes"])?;
    vms.nothing_left()
}

/// The guest's SSH server speaks first (RFC 4253, 4.2).
fn published_port_leads_in(port: u16) -> Result<()> {
    let stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    let mut banner = String::new();
    BufReader::new(stream).read_line(&mut banner)?;
    ensure!(banner.starts_with("SSH-2.0-OpenSSH"), "{banner:?}");
    Ok(())
}

/// Only the key of --ssh-key logs in to the first machine.
fn another_key_is_refused(vms: &Vms, deployed: &Value) -> Result<()> {
    let port = deployed["ssh"]["port"].to_string();
    let log_in = |key: &Path| -> Result<(bool, String)> {
        let mut ssh = tool("ssh")?;
        ssh.args([
            "-F",
            "/dev/null",
            "-o",
            "BatchMode=yes",
            "-o",
            "IdentitiesOnly=yes",
        ]);
        ssh.args([
            "-o",
            "StrictHostKeyChecking=no",
            "-o",
            "UserKnownHostsFile=/dev/null",
        ]);
        ssh.args(["-o", "IdentityAgent=none", "-p", &port, "-i"])
            .arg(key);
        let output = ssh.args(["ada@127.0.0.1", "true"]).output()?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        Ok((output.status.success(), said))
    };
    let (right, said) = log_in(&vms.shale.home().join("key"))?;
    ensure!(right, "{said}");
    for other in [make_key(vms, "other")?, vms.path("ssh/id_ed25519")] {
        let (wrong, said) = log_in(&other)?;
        ensure!(!wrong && said.contains("Permission denied"), "{said}");
    }
    Ok(())
}

/// Neither the template nor what its machines share has anything of what makes one itself.
fn others_hold_nothing_of_it(vms: &Vms, base: &Input) -> Result<()> {
    let key = vms.ssh("two", "sed -n 3p /etc/ssh/ssh_host_ed25519_key")?;
    let key = key.trim();
    ensure!(key.len() > 40, "a line of the key: {key:?}");
    let holds = |below: &[PathBuf]| -> Result<String> {
        let mut grep = Command::new("grep");
        let output = grep.args(["-rlaF", "-e", key]).args(below).output()?;
        ensure!(output.status.code() < Some(2), "{output:?}");
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let own = holds(&[vms.path("instances")])?;
    ensure!(own.contains("two/overlay"), "its own overlay has it: {own}");
    let cache = vms.shale.home().join(".cache");
    let shared = holds(&[vms.path("repository"), vms.path("plans"), cache])?;
    ensure!(shared.is_empty(), "{shared}");

    // The service has the repository; guests wait for the next one.
    run(vms.shale.command().args(["host", "stop"]))?;
    let disk = vms.shale.home().join("template.raw");
    run(vms.shale.command().args(["export", "test/base"]).arg(&disk))?;
    let mount = LoopMount::new(&disk, "ro")?;
    let (exported, pushed) = (mount.path(), base.tree());
    ensure!(fs::read(exported.join("etc/machine-id"))?.is_empty());
    for name in ["etc/hostname", "etc/passwd", "etc/shadow"] {
        let [exported, pushed] = [&exported, &pushed].map(|tree| fs::read(tree.join(name)).ok());
        ensure!(exported == pushed, "{name} is another");
    }
    for entry in fs::read_dir(exported.join("etc/ssh"))? {
        let name = entry?.file_name();
        let name = name.to_string_lossy();
        ensure!(!name.starts_with("ssh_host_"), "the template has {name}");
    }
    ensure!(!exported.join("root/.ssh/authorized_keys").exists());
    mount.unmount()?;
    Ok(fs::remove_file(disk)?)
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
        let machines: Vec<Value> = serde_json::from_str(&listed)?;
        let runs = |machine: &Value| machine["state"] == "running";
        ensure!(machines.len() == 2 && machines.iter().all(runs), "{listed}");
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
    if let Some(file) = localize::file_of(vms, name)? {
        return check_file_system(&file);
    }
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

/// Two deployments that want the same port at once.
fn one_of_two_gets_a_port(vms: &Vms) -> Result<()> {
    let publish = format!("{}:80", free_port()?);
    let deploy = |name: &str| {
        let mut command = vms.command(&["deploy", "test/kernel", "--wait", "none", "--quiet"]);
        command.args(["--name", name, "--publish", &publish]);
        command.stdout(std::process::Stdio::null());
        command.stderr(std::process::Stdio::null());
        command.spawn().context("start shale")
    };
    let both = [deploy("c")?, deploy("d")?];
    let mut codes = Vec::new();
    for mut child in both {
        codes.push(child.wait()?.code());
    }
    let gone = match codes[..] {
        [Some(0), Some(5)] => "d",
        [Some(5), Some(0)] => "c",
        _ => anyhow::bail!("{codes:?}"),
    };
    let there = if gone == "c" { "d" } else { "c" };
    ensure!(failure(&mut vms.command(&["inspect", gone]))? == 3);
    vms.run(&["rm", there, "--yes"]).map(drop)
}

#[test]
fn privileged_boot_commands_on_machines_answer_with_their_exit_codes() -> Result<()> {
    need_root()?;
    let vms = Vms::with_kernel_only()?;
    let deploy = |name: &str, more: &[&str]| {
        let mut command = vms.command(&["deploy", "test/kernel", "--wait", "none", "--name", name]);
        command.args(more);
        command
    };
    let port = free_port()?;
    let [publish, other] = [80, 81].map(|guest| format!("{port}:{guest}"));
    run(&mut deploy("a", &["--publish", &publish]))?;
    ensure!(vms.state("a")? == "running");
    for (command, code) in [
        (deploy("a", &[]), 5),
        (deploy("b", &["--publish", &publish]), 5),
        (
            deploy("b", &["--publish", &publish, "--publish", &other]),
            2,
        ),
        (deploy("b", &["--memory", "256M"]), 2),
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
                "5",
            ]),
            6,
        ),
    ] {
        let mut command = command;
        let found = failure(&mut command)?;
        ensure!(found == code, "{found} for {command:?}");
    }
    one_of_two_gets_a_port(&vms)?;
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
