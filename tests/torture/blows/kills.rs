//! What is killed, replaced or held up.

use std::process::Stdio;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result};
use harness::{Random, Unsynced};
use rustix::process::Signal;

use crate::commands::{may_fail, remove};
use crate::scene::Scene;

use super::{go_on, look};

/// Longest outage of the registry, in milliseconds: longer than a machine waits until it is paused.
const OUTAGE: u64 = 12_000;

/// Kills the service if there is one: between two of them there may be none.
pub(super) fn kill(scene: &mut Scene) {
    scene.account.kills.services += u32::from(scene.vms.kill_service().is_ok());
}

/// Kills the service, and lets the next command start another one after a while.
pub(super) fn service(scene: &mut Scene, random: &mut Random) -> Result<()> {
    kill(scene);
    sleep(Duration::from_millis(random.below(1500)));
    look(scene)
}

pub(super) fn service_in_a_command(
    scene: &mut Scene,
    name: &str,
    random: &mut Random,
) -> Result<()> {
    let commands: [&[&str]; 4] = [
        &["snapshot", "create", name, "s"],
        &["pause", name],
        &["resume", name],
        &["ls"],
    ];
    let mut command = scene.vm(commands[random.below(4) as usize]);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut command = command.spawn().context("start a command")?;
    sleep(Duration::from_millis(random.below(200)));
    service(scene, random)?;
    // Whatever it says: what it was about is whole or was not done.
    command.wait().context("wait for the command")?;
    go_on(scene, name)?;
    let mut rm = scene.vm(&["snapshot", "rm", name, "s"]);
    remove(&mut rm, &mut scene.account).map(drop)
}

/// Another program goes on where the service was killed, or told to end.
pub(super) fn replace_service(scene: &mut Scene, random: &mut Random) -> Result<()> {
    match random.below(2) {
        0 => kill(scene),
        _ => {
            let mut stop = scene.shale();
            stop.args(["host", "stop"]);
            may_fail(&mut stop, &mut scene.account)?;
        }
    }
    // A load may have been faster than this, with the program as it was.
    let mut other = scene.vms.shale.copied("shale-of-an-upgrade")?;
    may_fail(other.args(["vm", "ls"]), &mut scene.account)?;
    scene.account.kills.replaced += 1;
    Ok(())
}

pub(super) fn keeper(scene: &mut Scene) -> Result<()> {
    // The service gives what it has to another; there is none where nothing is mounted just now.
    look(scene)?;
    if scene.vms.keeper().is_some() {
        scene.vms.kill_keeper()?;
        scene.account.kills.keepers += 1;
    }
    Ok(())
}

pub(super) fn registry(scene: &mut Scene, random: &mut Random) -> Result<()> {
    scene.kill_registry()?;
    scene.account.kills.registries += 1;
    sleep(Duration::from_millis(random.below(OUTAGE)));
    scene.start_registry()
}

/// Connections stay, and nothing passes.
pub(super) fn stall_link(scene: &mut Scene, random: &mut Random) -> Result<()> {
    scene.link()?.signal(Signal::STOP)?;
    sleep(Duration::from_millis(random.below(OUTAGE)));
    scene.link()?.signal(Signal::CONT)
}

pub(super) fn machine(scene: &mut Scene, name: &str) -> Result<()> {
    // It may have been paused or stopped: then there is another blow.
    scene.account.kills.machines += u32::from(scene.vms.kill_machine(name).is_ok());
    go_on(scene, name)
}

/// All that runs on the host is gone at once, and mostly what was not synced.
pub(super) fn power(scene: &mut Scene, random: &mut Random) -> Result<()> {
    let unsynced = match random.below(4) {
        0 => Unsynced::Kept,
        _ => Unsynced::Lost,
    };
    scene.vms.shale.power()?.cut(unsynced)?;
    scene.account.kills.hosts += 1;
    // Sockets lie in memory, or do not.
    if random.below(2) == 0 {
        scene.vms.empty_run()?;
    }
    scene.vms.shale.power()?.boot()?;
    for name in scene.names.clone() {
        go_on(scene, &name)?;
    }
    Ok(())
}
