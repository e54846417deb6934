//! Machines that run as a user of their own.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::{Background, Vms, failure, need_root, run, tool};
use rustix::process::{Signal, kill_process};
use serde_json::json;

/// A user of every Debian system, that no service of a test runs as.
const USER: (&str, &str) = ("games", "5");

/// The value of a line in `/proc/PID/status`.
fn status(pid: i32, field: &str) -> Result<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(field));
    let value = line.and_then(|line| line.strip_prefix(':'));
    Ok(value
        .with_context(|| format!("{field} in {text}"))?
        .trim()
        .to_owned())
}

/// Fails unless the process of a machine is the user's and can do nothing more; its group.
fn check_process(vms: &Vms, name: &str) -> Result<String> {
    let pid = vms.machine_pid(name)?.as_raw_nonzero().get();
    let same = |id: &str| [id; 4].join("\t");
    ensure!(
        status(pid, "Uid")? == same(USER.1),
        "{}",
        status(pid, "Uid")?
    );
    let group = fs::metadata(vms.path("run").join(name))?.gid().to_string();
    ensure!(
        status(pid, "Gid")? == same(&group),
        "{}",
        status(pid, "Gid")?
    );
    ensure!(group.parse::<u32>()? >= 0x7000_0000, "{group}");
    for (field, value) in [
        ("Groups", ""),
        ("Seccomp", "2"),
        ("NoNewPrivs", "1"),
        ("CapEff", "0000000000000000"),
        ("CapPrm", "0000000000000000"),
    ] {
        let found = status(pid, field)?;
        ensure!(found == value, "{field} is {found}");
    }
    let environment = fs::read(format!("/proc/{pid}/environ"))?;
    let environment = String::from_utf8_lossy(&environment).into_owned();
    ensure!(!environment.contains("NOTIFY_SOCKET"), "{environment}");
    Ok(group)
}

/// A command as what has broken out of a machine would run it.
fn as_machine(group: &str, program: &str) -> Result<Command> {
    let program = tool(program)?.get_program().to_owned();
    let mut command = tool("setpriv")?;
    command.args([format!("--reuid={}", USER.1), format!("--regid={group}")]);
    command.arg("--clear-groups").arg(program);
    Ok(command)
}

fn size_of_disk(vms: &Vms, group: &str, name: &str) -> Result<bool> {
    let socket = vms.path("run").join(name).join("disk");
    let url = format!("nbd+unix:///?socket={}", socket.display());
    let output = as_machine(group, "nbdinfo")?
        .args(["--size", &url])
        .output()?;
    Ok(output.status.success())
}

fn is_readable(group: &str, path: &Path) -> Result<bool> {
    let read = as_machine(group, "head")?
        .args(["-c", "1"])
        .arg(path)
        .output()?;
    Ok(read.status.success())
}

/// Some file below a directory.
fn a_file(dir: &Path) -> Result<PathBuf> {
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir)? {
            let path = entry?.path();
            match path.is_dir() {
                true => dirs.push(path),
                false => return Ok(path),
            }
        }
    }
    anyhow::bail!("no file in {}", dir.display())
}

/// Has the hypervisor read from its disk, and waits until it is connected to the service that there is now.
fn disk_answers(vms: &Vms, name: &str) -> Result<()> {
    let run_dir = vms.path("run").join(name);
    let mut qmp = harness::Qmp::connect(&run_dir.join("control"))?;
    let read = json!({ "command-line": "qemu-io disk0 \"read 0 4096\"" });
    qmp.execute("human-monitor-command", read)?;
    let disk = run_dir.join("disk").display().to_string();
    let begun = Instant::now();
    // Field 6 is the state, and 3 is "connected"; the last is the path of the server's end.
    let connected = || -> Result<bool> {
        let sockets = fs::read_to_string("/proc/net/unix")?;
        let mut ours = sockets.lines().filter(|line| line.ends_with(&disk));
        Ok(ours.any(|line| line.split_ascii_whitespace().nth(5) == Some("03")))
    };
    while !connected()? {
        ensure!(
            begun.elapsed() < Duration::from_secs(60),
            "it does not come back"
        );
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

#[test]
fn privileged_boot_machines_run_as_a_user_who_reaches_their_own_files_only() -> Result<()> {
    need_root()?;
    let vms = Vms::with_kernel_only()?;
    let home = vms.shale.home();
    fs::create_dir_all(home.join(".config/shale"))?;
    // One from before there was such a user.
    vms.run(&["deploy", "test/kernel", "--name", "older", "--wait", "none"])?;
    let older = vms.machine_pid("older")?.as_raw_nonzero().get();
    ensure!(status(older, "Uid")? == ["0"; 4].join("\t"));
    vms.kill_service()?;
    let settings = home.join(".config/shale/config.toml");
    fs::write(&settings, format!("[host]\nuser = \"{}\"\n", USER.0))?;
    // Without a way to its files, a machine would not start.
    fs::set_permissions(home, fs::Permissions::from_mode(0o700))?;
    let mut closed = vms.shale.command();
    ensure!(failure(closed.args(["host", "run"]))? == 2);
    // As the ways to the system's own directories are.
    fs::set_permissions(home, fs::Permissions::from_mode(0o711))?;
    let mut service = vms.shale.command();
    service
        .args(["host", "run"])
        .env("NOTIFY_SOCKET", "/nowhere");
    let service = Background::start_until(&mut service, "serving")?;
    disk_answers(&vms, "older")?;

    let mut groups = Vec::new();
    for name in ["one", "two"] {
        vms.run(&["deploy", "test/kernel", "--name", name, "--wait", "none"])?;
        groups.push(check_process(&vms, name)?);
    }
    let [one, two] = [&groups[0], &groups[1]];
    ensure!(one != two, "each has a group of its own");
    service.terminate()?;
    ensure!(vms.run(&["ls", "--quiet"])? == "older\none\ntwo\n");
    for name in ["older", "one", "two"] {
        disk_answers(&vms, name)?;
        ensure!(vms.state(name)? == "running", "{name}");
    }

    // Its own disk is open to it, so that the others show something.
    ensure!(size_of_disk(&vms, one, "one")? && size_of_disk(&vms, two, "two")?);
    ensure!(is_readable(one, &vms.path("instances/one/console.log"))?);
    ensure!(!size_of_disk(&vms, one, "two")? && !size_of_disk(&vms, two, "one")?);
    for secret in [
        vms.path("instances/one/overlay/head"),
        vms.path("instances/two/overlay/head"),
        vms.path("instances/two/console.log"),
        vms.path("instances/one/record.json"),
        vms.path("ssh/id_ed25519"),
        vms.path("host.log"),
        a_file(&vms.path("repository"))?,
        a_file(&vms.path("plans"))?,
        a_file(&home.join(".cache/chunks"))?,
    ] {
        ensure!(secret.is_file(), "{}", secret.display());
        ensure!(!is_readable(one, &secret)?, "{}", secret.display());
    }

    // The older one becomes the user's at its next start, also where it left its files.
    kill_process(vms.machine_pid("older")?, Signal::KILL)?;
    let begun = Instant::now();
    while vms.state("older")? != "stopped" {
        ensure!(begun.elapsed() < Duration::from_secs(30), "nobody noticed");
        std::thread::sleep(Duration::from_millis(100));
    }
    vms.run(&["start", "older", "--wait", "none"])?;
    check_process(&vms, "older")?;
    for name in ["older", "one", "two"] {
        vms.run(&["rm", name, "--yes"])?;
    }
    vms.nothing_left()?;
    run(vms.shale.command().args(["host", "stop"])).map(drop)
}
