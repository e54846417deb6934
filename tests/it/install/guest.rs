//! What is installed, on a machine whose first process is systemd.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::{Input, Vms, need_root, run, tool};

use super::install_into;

/// How long the guest may take to its login prompt, without acceleration and beside other tests.
const BOOT_SECONDS: &str = "300";

/// How long a service of the guest may take to do what it was told to.
const DONE_WITHIN: Duration = Duration::from_secs(120);

/// The guest.
struct Guest<'a>(&'a Vms);

impl Guest<'_> {
    fn run(&self, command: &str) -> Result<String> {
        let said = self.0.ssh("guest", command);
        Ok(said.with_context(|| command.to_owned())?.trim().to_owned())
    }

    /// Waits until a command prints this.
    fn until(&self, command: &str, wanted: &str) -> Result<()> {
        let begun = Instant::now();
        loop {
            let said = self.run(command)?;
            if said.contains(wanted) {
                return Ok(());
            }
            ensure!(begun.elapsed() < DONE_WITHIN, "{command}: {said}");
            std::thread::sleep(Duration::from_millis(500));
        }
    }

    fn is_active(&self, unit: &str) -> Result<String> {
        self.run(&format!("systemctl is-active {unit} || true"))
    }

    fn pid(&self, unit: &str) -> Result<String> {
        self.run(&format!("systemctl show --value -p MainPID {unit}"))
    }
}

/// Pushes the base, and what is installed on it as a layer.
fn push(vms: &Vms) -> Result<()> {
    let base = Input::base()?;
    let mut push = vms.shale.command();
    run(push.arg("push").arg(base.tree()).arg("test/base"))?;
    let (tree, archive) = (
        vms.shale.home().join("tree"),
        vms.shale.home().join("layer.tar"),
    );
    install_into(&tree, &vms.shale)?;
    run(tool("tar")?
        .args(["--owner=0", "--group=0", "-C"])
        .arg(&tree)
        .arg("-cf")
        .arg(&archive)
        .args(["etc", "usr"]))?;
    let mut push = vms.shale.command();
    push.args(["push", "--base", "test/base", "--difference"]);
    run(push.arg(&archive).arg("test/shale")).map(drop)
}

#[test]
fn privileged_boot_systemd_starts_reloads_and_restarts_what_is_installed() -> Result<()> {
    need_root()?;
    let vms = Vms::new()?;
    push(&vms)?;
    let mut deploy = vec!["deploy", "test/shale", "--name", "guest", "--memory", "1G"];
    deploy.extend(["--timeout", BOOT_SECONDS]);
    vms.run(&deploy)?;
    let guest = Guest(&vms);
    guest.run(
        "systemd-sysusers && systemd-tmpfiles --create shale.conf && systemctl daemon-reload",
    )?;
    guest.run("systemctl enable --now shale-host.socket shale-server.socket")?;
    ensure!(guest.run("id -nG shale-vm")?.contains("kvm"));

    the_first_command_starts_the_service(&guest)?;
    a_reload_keeps_the_process(&guest)?;
    a_restart_keeps_guests(&guest)?;
    commands_work_beside_the_services(&guest)?;
    units_are_in_order(&guest)?;

    vms.run(&["rm", "guest", "--yes"])?;
    vms.nothing_left()
}

fn the_first_command_starts_the_service(guest: &Guest<'_>) -> Result<()> {
    ensure!(guest.is_active("shale-host.socket")? == "active");
    ensure!(guest.is_active("shale-host")? == "inactive");
    ensure!(guest.run("shale vm ls --quiet")?.is_empty());
    ensure!(guest.is_active("shale-host")? == "active");
    // There is no hypervisor in the guest, which the service says and goes on.
    let log = guest.run("journalctl --no-pager -u shale-host")?;
    ensure!(log.contains("no machine can be started here"), "{log}");
    let said = guest.run("shale vm deploy demo/none --name a 2>&1 || true")?;
    ensure!(said.contains("no machine can be started here"), "{said}");
    Ok(())
}

fn a_reload_keeps_the_process(guest: &Guest<'_>) -> Result<()> {
    let before = guest.pid("shale-host")?;
    guest.run(
        "echo 'cache-size = \"64M\"' >/etc/shale/config.toml && systemctl reload shale-host",
    )?;
    guest.until("shale cache df --format json", "\"cap_bytes\": 67108864")?;
    guest.until(
        "systemctl show -p StatusText shale-host",
        "cache of 64.0 MiB",
    )?;
    ensure!(guest.pid("shale-host")? == before, "another process serves");
    ensure!(guest.is_active("shale-host")? == "active");
    Ok(())
}

/// What runs in the unit beside the service, as machines do.
fn a_restart_keeps_guests(guest: &Guest<'_>) -> Result<()> {
    let before = guest.pid("shale-host")?;
    let group = "/sys/fs/cgroup/shale.slice/shale-host.service/cgroup.procs";
    let start = format!(
        "nohup sleep 10000 >/dev/null 2>&1 & echo $! >/root/pid; echo $! >{group}; grep -cx $! {group}"
    );
    ensure!(guest.run(&start)? == "1");
    guest.run("systemctl restart shale-host")?;
    let after = guest.pid("shale-host")?;
    ensure!(after != before && after != "0", "{before}, then {after}");
    let beside =
        "grep -cx $(cat /root/pid) /sys/fs/cgroup/shale.slice/shale-host.service/cgroup.procs";
    ensure!(guest.run(beside)? == "1", "what ran in the unit is gone");
    ensure!(guest.run("shale vm ls --quiet")?.is_empty());
    guest.run("systemctl stop shale-host && kill -0 $(cat /root/pid)")?;
    ensure!(guest.is_active("shale-host")? == "inactive");
    ensure!(guest.is_active("shale-host.socket")? == "active");
    ensure!(guest.run("shale vm ls --quiet")?.is_empty());
    guest.run("shale host stop && kill $(cat /root/pid)")?;
    guest.until("systemctl is-active shale-host || true", "inactive")
}

fn commands_work_beside_the_services(guest: &Guest<'_>) -> Result<()> {
    guest.run("mkdir /root/tree && echo hello >/root/tree/file")?;
    guest.run("shale push /root/tree demo/tree")?;
    // Made by the command, and served from within the unit's sandbox; by the next service, too.
    guest.run("echo more >/root/tree/other && shale push /root/tree demo/tree")?;
    let mounted = guest.run("shale mount --quiet demo/tree /mnt && cat /mnt/file")?;
    ensure!(mounted == "hello", "{mounted}");
    let after = guest.run("systemctl restart shale-host && cat /mnt/other && shale mount -q")?;
    ensure!(after == "more\n/mnt", "{after}");
    guest.run("shale umount /mnt && ! test -e /mnt/file")?;
    // The registry serves the same repository, and is started by who asks it.
    ensure!(guest.is_active("shale-server")? == "inactive");
    let listed = guest.run("shale template ls --repository http://127.0.0.1:7070")?;
    ensure!(listed.contains("demo/tree"), "{listed}");
    ensure!(guest.is_active("shale-server")? == "active");
    let status = guest.run("systemctl show -p StatusText shale-server")?;
    ensure!(
        status.contains("serving on http://127.0.0.1:7070"),
        "{status}"
    );
    guest.run("shale precache 127.0.0.1:7070/demo/tree && systemctl reload shale-server")?;
    guest
        .run("systemctl stop shale-server shale-server.socket")
        .map(drop)
}

fn units_are_in_order(guest: &Guest<'_>) -> Result<()> {
    let units = "/usr/local/lib/systemd/system";
    let said = guest.run(&format!(
        "systemd-analyze verify --man=no {units}/shale* 2>&1"
    ))?;
    ensure!(!said.contains("shale"), "{said}");
    guest.run("test -f /usr/local/share/man/man1/shale-vm-deploy.1")?;
    for unit in ["shale-host.service", "shale-server.service"] {
        let security = guest.run(&format!(
            "systemd-analyze security --no-pager {unit} | tail -1"
        ))?;
        println!("{security}");
        ensure!(!security.contains("UNSAFE"), "{security}");
    }
    let modes = guest.run("stat -c %a /run/shale /run/shale/host.sock /var/lib/shale")?;
    ensure!(modes == "711\n600\n711", "{modes}");
    Ok(())
}
