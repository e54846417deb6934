//! A host that loses its power, at any moment of a deployment too.

use std::collections::BTreeSet;
use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::{Background, NbdClient, Random, Shale, Unsynced, Vms, failure, need_root, run};
use serde_json::Value;

use crate::nbd::Kills;

const CONFLICT: i32 = 5;

/// How long a machine may take that starts by itself.
const STARTS_WITHIN: Duration = Duration::from_secs(60);

/// What a state directory holds, but for the repository, which no deployment writes to.
const STATE: [&str; 9] = [
    "events",
    "host.log",
    "instances",
    "mounts",
    "pins.json",
    "plans",
    "repository",
    "run",
    "ssh",
];

/// What a deployment begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Begins {
    /// Neither a service nor a plan, content in the cache, or a key.
    WithNothing,
    /// All that an earlier deployment left.
    Prepared,
}

#[test]
fn privileged_a_power_cut_takes_processes_mounts_and_what_was_not_synced() -> Result<()> {
    need_root()?;
    let shale = Shale::with_power(256 << 20)?;
    let power = shale.power()?;
    let host = |script: &str| {
        let mut command = shale.command_of("/bin/sh".as_ref());
        command.args(["-c", script]);
        command
    };
    let mut boots = BTreeSet::new();
    for unsynced in [Unsynced::Lost, Unsynced::Kept, Unsynced::Lost] {
        boots.insert(run(&mut host("cat /proc/sys/kernel/random/boot_id"))?);
        let begin = "mkdir mnt; mount -t tmpfs of-the-host mnt; echo kept > synced; sync synced .; \
            echo lost > unsynced; sleep 1000 > /dev/null 2>&1 & echo $PWD; cat synced unsynced";
        let home = shale.home().display();
        ensure!(run(&mut host(begin))? == format!("{home}\nkept\nlost\n"));
        ensure!(power.mounts()?.len() == 1, "{:?}", power.mounts()?);
        let mut waits = Background::start(&mut host("sleep 1000; true"))?;
        power.cut(unsynced)?;
        ensure!(run(&mut host("true")).is_err(), "it is up");
        ensure!(waits.ended()?.is_some(), "it still runs");
        let is_there = shale.home().join("unsynced").exists();
        ensure!(is_there == (unsynced == Unsynced::Kept), "{unsynced:?}");
        ensure!(fs::read(shale.home().join("synced"))? == b"kept\n");
        power.boot()?;
        ensure!(power.mounts()?.is_empty(), "{:?}", power.mounts()?);
        let left = run(&mut host("ps -e -o args | grep '[s]leep 1000' || true"))?;
        ensure!(left.is_empty(), "{left}");
        let _ = fs::remove_file(shale.home().join("unsynced"));
    }
    boots.insert(run(&mut host("cat /proc/sys/kernel/random/boot_id"))?);
    ensure!(boots.len() == 4, "{boots:?}");
    Ok(())
}

#[test]
fn privileged_boot_a_deployment_whose_host_loses_its_power_is_whole_or_gone() -> Result<()> {
    need_root()?;
    let vms = Vms::with_kernel_and_power()?;
    let power = vms.shale.power()?;
    let mut random = Random::printed("power cuts");
    let mut whole = Vec::new();
    for begins in [Begins::WithNothing, Begins::Prepared] {
        prepare(&vms, begins)?;
        let begun = Instant::now();
        run(&mut deploy(&vms, false))?;
        whole.push(begun.elapsed());
        vms.run(&["rm", "a", "--yes"])?;
    }

    let (mut kills, mut outcomes) = (Kills::default(), [0; 3]);
    while kills.go_on()? {
        let (begins, whole) = match kills.all % 2 {
            0 => (Begins::WithNothing, whole[0]),
            _ => (Begins::Prepared, whole[1]),
        };
        prepare(&vms, begins)?;
        let by_itself = random.below(2) == 0;
        let unsynced = match random.below(4) {
            0 => Unsynced::Kept,
            _ => Unsynced::Lost,
        };
        let mut command = deploy(&vms, by_itself);
        let mut client = command.stderr(Stdio::null()).spawn()?;
        let delay = random.below(whole.as_micros() as u64 * 5 / 4);
        std::thread::sleep(Duration::from_micros(delay));
        let acknowledged = client.try_wait()?.is_some_and(|status| status.success());
        power.cut(unsynced)?;
        client.wait()?;
        let run_is_empty = random.below(2) == 0;
        if run_is_empty {
            vms.empty_run()?;
        }
        power.boot()?;
        kills.hit(!acknowledged);
        let there = after(&vms, acknowledged, by_itself).with_context(|| {
            format!("{begins:?}, {unsynced:?}, {run_is_empty}, {delay} us of {whole:?}")
        })?;
        outcomes[usize::from(there) + usize::from(acknowledged)] += 1;
    }
    let [gone, whole, acknowledged] = outcomes;
    println!("{gone} gone, {whole} whole, {acknowledged} acknowledged");
    run(vms.shale.command().args(["host", "stop"])).map(drop)
}

fn deploy(vms: &Vms, by_itself: bool) -> Command {
    let mut command = vms.command(&["deploy", "test/kernel", "--name", "a", "--wait", "none"]);
    command.args(["--data-disk", "64M"]);
    command.args(by_itself.then_some("--autostart"));
    command.stdout(Stdio::null());
    command
}

fn prepare(vms: &Vms, begins: Begins) -> Result<()> {
    match begins {
        Begins::WithNothing => {
            run(vms.shale.command().args(["host", "stop"]))?;
            for what in [".state/plans", ".state/ssh", ".cache"] {
                match fs::remove_dir_all(vms.shale.home().join(what)) {
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error)?,
                    _ => {}
                }
            }
        }
        Begins::Prepared => drop(vms.run(&["ls"])?),
    }
    Ok(())
}

/// What there is after the boot, looked at, used and removed. Whether the machine was there.
fn after(vms: &Vms, acknowledged: bool, by_itself: bool) -> Result<bool> {
    let listed: Value = serde_json::from_str(&vms.run(&["ls", "--format", "json"])?)?;
    let there = match &listed.as_array().context("a list")?[..] {
        [] => false,
        [machine] => {
            let reason = machine["reason"].as_str().unwrap_or_default();
            let starts = by_itself && reason.starts_with("starts by itself");
            ensure!(machine["name"] == "a", "{listed}");
            ensure!(reason.is_empty() || starts, "{listed}");
            ensure!(
                machine["state"] == "stopped" || by_itself && machine["state"] == "running",
                "{listed}"
            );
            true
        }
        _ => anyhow::bail!("{listed}"),
    };
    ensure!(there || !acknowledged, "what was acknowledged is gone");
    if there {
        if by_itself && acknowledged {
            let begun = Instant::now();
            while vms.state("a")? != "running" {
                let waited = begun.elapsed() < STARTS_WITHIN;
                ensure!(waited, "it does not start: {}", vms.run(&["ls"])?);
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        vms.run(&["start", "a", "--wait", "none"])?;
        // As it was told, its name is taken.
        ensure!(failure(&mut deploy(vms, false))? == CONFLICT);
    } else {
        run(&mut deploy(vms, false))?;
    }
    it_is_whole(vms)?;
    vms.run(&["rm", "a", "--yes"])?;
    vms.nothing_left()?;
    nothing_strange(vms)?;
    Ok(there)
}

/// It runs, has its disks, and its disk can be read.
fn it_is_whole(vms: &Vms) -> Result<()> {
    ensure!(vms.state("a")? == "running");
    let dir = vms.path("instances/a");
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(&dir)? {
        names.insert(entry?.file_name().to_string_lossy().into_owned());
    }
    let expected = [
        "console.log",
        "data0.raw",
        "hypervisor.log",
        "identity.json",
        "known_hosts",
        "overlay",
        "record.json",
    ];
    ensure!(names == expected.map(str::to_owned).into(), "{names:?}");
    ensure!(fs::metadata(dir.join("data0.raw"))?.len() == 64 << 20);
    let superblock = NbdClient::connect(&vms.path("run/a/disk"))?.read(1024, 1024)?;
    let magic = superblock.map(|bytes| [bytes[56], bytes[57]]);
    ensure!(magic == Ok([0x53, 0xef]), "{magic:?}");
    Ok(())
}

/// Nothing is mounted, and nothing lies about that is nobody's.
fn nothing_strange(vms: &Vms) -> Result<()> {
    let mounts = vms.shale.power()?.mounts()?;
    ensure!(mounts.is_empty(), "{mounts:?}");
    let names = |below: &str| -> Result<Vec<String>> {
        let entries = fs::read_dir(vms.path(below))?;
        let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
        let mut names: Vec<String> = names.collect::<Result<_>>()?;
        names.sort_unstable();
        Ok(names)
    };
    let state = names("")?;
    ensure!(
        state.iter().all(|name| STATE.contains(&&**name)),
        "{state:?}"
    );
    ensure!(names("mounts")?.is_empty(), "{:?}", names("mounts")?);
    let keys = names("ssh")?;
    ensure!(keys == ["id_ed25519", "id_ed25519.pub"], "{keys:?}");
    // A plan, and the name of the template that it is of.
    let plans = names("plans")?;
    ensure!(plans.len() == 2, "{plans:?}");
    Ok(())
}
