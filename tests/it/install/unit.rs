//! Machines in the sandbox of the installed unit, at this machine's own speed: a systemd in namespaces of its own starts the
//! service, and the service a real QEMU.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::{Input, Shale, Systemd, need_root};
use serde_json::Value;

use super::install_into;

/// How long a guest may take to its login prompt, without acceleration and beside other tests.
const BOOT_SECONDS: &str = "300";

/// How long what ends may take to be gone.
const GONE_WITHIN: Duration = Duration::from_secs(30);

/// A system on which shale is installed, and whose base is seen at `/base`.
struct Installed {
    system: Systemd,
    /// What is installed.
    _tree: Shale,
}

impl Installed {
    fn new() -> Result<Self> {
        let (shale, base) = (Shale::new()?, Input::base()?);
        let tree = shale.home().join("tree");
        install_into(&tree, &shale)?;
        let (programs, base) = (tree.join("usr/local"), base.tree());
        let system = Systemd::boot(&[(&programs, "/usr/local"), (&base, "/base")])?;
        // As what is installed says.
        system.run(
            "systemd-sysusers && systemd-tmpfiles --create shale.conf && systemctl daemon-reload",
        )?;
        system.run("systemctl enable --now shale-host.socket")?;
        Ok(Self {
            system,
            _tree: shale,
        })
    }

    fn run(&self, script: &str) -> Result<String> {
        let said = self.system.run(script);
        said.with_context(|| {
            let log = self.system.run("journalctl --no-pager -n 100");
            log.unwrap_or_else(|error| error.to_string())
        })
    }

    fn deploy(&self, name: &str, more: &str) -> Result<Value> {
        let command = format!(
            "shale vm deploy test/base --name {name} --timeout {BOOT_SECONDS} --format json {more}"
        );
        Ok(serde_json::from_str(&self.run(&command)?)?)
    }

    /// What a command in a guest printed. The SSH server may come a moment after the login prompt.
    fn ssh(&self, name: &str, command: &str) -> Result<String> {
        let begun = Instant::now();
        loop {
            let said = self.run(&format!("shale vm ssh {name} -- '{command}'"));
            if said.is_ok() || begun.elapsed() > Duration::from_secs(60) {
                return said;
            }
            std::thread::sleep(Duration::from_millis(500));
        }
    }

    fn main_pid(&self) -> Result<String> {
        self.run("systemctl show --value -p MainPID shale-host")
    }

    fn state_of_the_service(&self) -> Result<String> {
        self.run("systemctl is-active shale-host || true")
    }

    /// Waits until of all processes none has this in its command line.
    fn until_none_is(&self, what: &str) -> Result<()> {
        let begun = Instant::now();
        loop {
            let mut left = self.system.processes()?;
            left.retain(|(_, line)| line.contains(what));
            if left.is_empty() {
                return Ok(());
            }
            ensure!(begun.elapsed() < GONE_WITHIN, "{left:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Fails if there is a process of a machine, or something of one in the directories of the service.
    fn nothing_left(&self) -> Result<()> {
        self.until_none_is("qemu")?;
        let said = self.run("ls /var/lib/shale/instances /var/lib/shale/mounts /run/shale")?;
        // The keeper of open files is there as long as the service that needed one.
        let is_none = |name: &&str| !name.ends_with(':') && *name != "keep.sock";
        let mut names: Vec<&str> = said.split_whitespace().filter(is_none).collect();
        names.sort_unstable();
        ensure!(names == ["host.lock", "host.sock"], "{names:?}");
        ensure!(self.run("grep -c fuse.shale /proc/mounts || true")? == "0\n");
        Ok(())
    }
}

#[test]
fn privileged_boot_machines_run_in_the_sandbox_of_the_installed_unit() -> Result<()> {
    need_root()?;
    let installed = Installed::new()?;
    installed.run("shale push --quiet /base test/base")?;
    ensure!(installed.state_of_the_service()? == "inactive\n");

    let deployed = installed.deploy("one", "")?;
    println!("by a boot: login after {} s", deployed["login"]["seconds"]);
    ensure!(installed.state_of_the_service()? == "active\n");
    it_is_confined(&installed, &deployed)?;
    it_outlives_its_service(&installed, &deployed)?;
    it_is_shut_down_with_its_host(&installed)?;
    installed.run("shale vm rm one --yes")?;
    installed.nothing_left()?;
    machines_begin_warm(&installed)?;

    installed.run("systemctl stop shale-host shale-host.socket")?;
    installed.until_none_is("shale")?;
    let security = "systemd-analyze security --no-pager shale-host.service | tail -1";
    println!("{}", installed.run(security)?);
    Ok(())
}

/// The process of a machine is nobody, can do nothing, and is where the unit counts it.
fn it_is_confined(installed: &Installed, deployed: &Value) -> Result<()> {
    let pid = &deployed["machine"]["pid"];
    let status = installed.run(&format!("cat /proc/{pid}/status"))?;
    let field = |name: &str| {
        let mut lines = status.lines().filter_map(|line| line.strip_prefix(name));
        lines.next().map(str::trim).unwrap_or_default().to_owned()
    };
    let user = installed.run("id -u shale-vm")?;
    let user = user.trim();
    ensure!(
        field("Uid:").split_whitespace().all(|uid| uid == user),
        "{status}"
    );
    ensure!(field("CapEff:") == "0000000000000000", "{status}");
    ensure!(
        field("NoNewPrivs:") == "1" && field("Seccomp:") == "2",
        "{status}"
    );
    let group = installed.run(&format!("cat /proc/{pid}/cgroup"))?;
    ensure!(
        group.trim().ends_with("/shale.slice/shale-host.service"),
        "{group}"
    );
    // The network and the disk that the guest has.
    ensure!(
        installed.ssh("one", "hostname; echo written >file; sync; cat file")? == "one\nwritten\n"
    );
    Ok(())
}

/// Restarted by its user, stopped and started by a command, and killed.
fn it_outlives_its_service(installed: &Installed, deployed: &Value) -> Result<()> {
    let name = deployed["name"].as_str().context("a name")?;
    let reads = "echo 3 >/proc/sys/vm/drop_caches; sha256sum /usr/bin/[a-c]* | sha256sum";
    let before = installed.ssh(name, reads)?;
    let ways = [
        "systemctl restart shale-host",
        "systemctl stop shale-host",
        "systemctl kill --kill-whom=main --signal=KILL shale-host",
    ];
    for way in ways {
        let service = installed.main_pid()?;
        installed.run(way)?;
        let shown = installed.run(&format!("shale vm inspect {name} --format json"))?;
        let shown: Value = serde_json::from_str(&shown)?;
        ensure!(shown["state"] == "running", "{way}: {shown}");
        ensure!(
            shown["machine"]["pid"] == deployed["machine"]["pid"],
            "{way}: {shown}"
        );
        ensure!(installed.main_pid()? != service, "{way}");
        ensure!(installed.ssh(name, reads)? == before, "{way}");
    }
    Ok(())
}

/// As the system does it when it shuts down: the guest itself, and not its service.
fn it_is_shut_down_with_its_host(installed: &Installed) -> Result<()> {
    let service = installed.main_pid()?;
    ensure!(installed.run("systemctl is-active shale-guests")? == "active\n");
    installed.run("systemctl stop shale-guests")?;
    let said = installed.run("journalctl --no-pager --output cat --unit shale-guests")?;
    let ended = said.lines().find(|line| line.starts_with("one "));
    let ended = ended.with_context(|| said.clone())?;
    println!("with its host: {ended} s");
    ensure!(ended.contains("shut down"), "{said}");
    let shown: Value = serde_json::from_str(&installed.run("shale vm inspect one --format json")?)?;
    ensure!(shown["state"] == "stopped", "{shown}");
    ensure!(installed.run("shale vm logs one")?.contains("Power down"));
    ensure!(installed.main_pid()? == service, "its service was replaced");
    Ok(())
}

/// The service may not mount; the command does, where nobody else sees it.
fn machines_begin_warm(installed: &Installed) -> Result<()> {
    let keep = format!("shale template warm test/base --timeout {BOOT_SECONDS} --format json");
    let kept: Value = serde_json::from_str(&installed.run(&keep)?)?;
    installed.nothing_left()?;
    let deployed = installed.deploy("two", "--warm")?;
    println!("warm: login after {} s", deployed["login"]["seconds"]);
    ensure!(
        deployed["warm"]["from"]["snapshot"] == kept["template"],
        "{deployed}"
    );
    let listed: Value = serde_json::from_str(&installed.run("shale mount --format json")?)?;
    ensure!(
        listed[0]["machine"] == "two" && listed[0]["directory"].is_null(),
        "{listed}"
    );
    ensure!(installed.run("grep -c fuse.shale /proc/mounts || true")? == "0\n");
    it_outlives_its_service(installed, &deployed)?;
    // Stopped and started it boots, and reads no snapshot any more.
    installed.run("shale vm stop two --timeout 0 --force && shale vm start two --wait none")?;
    let shown: Value = serde_json::from_str(&installed.run("shale vm inspect two --format json")?)?;
    ensure!(shown["state"] == "running", "{shown}");
    ensure!(installed.run("shale mount --format json")?.trim() == "[]");
    installed.run("shale vm rm two --yes")?;

    // Its hypervisor dies, and what it read with it.
    let deployed = installed.deploy("three", "--warm")?;
    ensure!(!deployed["warm"]["from"].is_null(), "{deployed}");
    installed.run(&format!("kill -9 {}", deployed["machine"]["pid"]))?;
    let begun = Instant::now();
    while installed.run("shale mount --format json")?.trim() != "[]" {
        ensure!(begun.elapsed() < GONE_WITHIN, "its memory is still served");
        std::thread::sleep(Duration::from_millis(50));
    }
    installed.run("shale vm rm three --yes")?;
    installed.nothing_left()?;
    commands_that_are_killed_leave_nothing(installed)
}

/// Whatever a command has done of its part when it is killed, the machine begins or does not, and nothing is left of it.
fn commands_that_are_killed_leave_nothing(installed: &Installed) -> Result<()> {
    let (mut warm, mut cold, mut none) = (0, 0, 0);
    for millis in (20..=440).step_by(60) {
        let shown = installed.run(&format!(
            "timeout --signal KILL 0.{millis:03} shale vm deploy test/base --name k --warm --wait none >/dev/null 2>&1; \
             sleep 1; shale vm inspect k --format json 2>/dev/null || true"
        ))?;
        match serde_json::from_str::<Value>(&shown) {
            Ok(shown) if shown["warm"]["from"].is_null() => cold += 1,
            Ok(_) => warm += 1,
            Err(_) => none += 1,
        }
        installed.run("shale vm rm k --yes 2>/dev/null || [ $? = 3 ]")?;
        installed.nothing_left()?;
    }
    println!("commands that were killed: {warm} machines warm, {cold} by a boot, {none} none");
    Ok(())
}
