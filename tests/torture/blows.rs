//! What is done to a scene, one thing at a time.

use std::fmt;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use harness::Random;

use crate::scene::Scene;
use crate::tally::Tally;

/// Exit codes that a command may end with while things fail: what it is about is not there, is in use, or cannot be had
/// now.
const NOT_FOUND: i32 = 3;
const CONFLICT: i32 = 5;
const UNAVAILABLE: i32 = 6;

/// Longest outage of the registry: longer than a machine waits until it is paused.
const OUTAGE: u64 = 12_000;

#[derive(Debug, Clone, Copy)]
pub(crate) enum Blow {
    KillService,
    KillServiceWhileACommandRuns,
    KillRegistry,
    KillMachine,
    FlipCache,
    CutCache,
    Pause,
    Restart,
    Snapshot,
    ComeAndGo,
    Prune,
    Drill(&'static str),
}

use Blow::*;

/// How often each is drawn beside the others.
const WEIGHTS: [(Blow, u64); 14] = [
    (KillService, 6),
    (KillServiceWhileACommandRuns, 4),
    (KillRegistry, 4),
    (KillMachine, 2),
    (FlipCache, 4),
    (CutCache, 3),
    (Pause, 2),
    (Restart, 1),
    (Snapshot, 3),
    (ComeAndGo, 3),
    (Prune, 2),
    (Drill("registry-down"), 1),
    (Drill("slow-link"), 1),
    (Drill("disk-full"), 1),
];

impl Blow {
    pub(crate) fn any(random: &mut Random) -> Self {
        let all = WEIGHTS.iter().map(|(_, weight)| weight).sum();
        let mut drawn = random.below(all);
        for (blow, weight) in WEIGHTS {
            if drawn < weight {
                return blow;
            }
            drawn -= weight;
        }
        KillService
    }

    pub(crate) fn strike(
        self,
        scene: &mut Scene,
        random: &mut Random,
        tally: &mut Tally,
    ) -> Result<()> {
        let name = scene.names[random.below(scene.names.len() as u64) as usize].clone();
        match self {
            KillService => kill_service(scene, random, tally)?,
            KillServiceWhileACommandRuns => {
                let commands: [&[&str]; 4] = [
                    &["snapshot", "create", &name, "s"],
                    &["pause", &name],
                    &["resume", &name],
                    &["ls"],
                ];
                let which = random.below(commands.len() as u64) as usize;
                let mut command = scene.vm(commands[which]);
                let mut command = command
                    .stdout(Stdio::null())
                    .stderr(Stdio::null())
                    .spawn()
                    .context("start a command")?;
                sleep(Duration::from_millis(random.below(200)));
                kill_service(scene, random, tally)?;
                // Whatever it says: what it was about is whole or was not done.
                command.wait().context("wait for the command")?;
                go_on(scene, &name, tally)?;
                remove(&mut scene.vm(&["snapshot", "rm", &name, "s"]), tally)?;
            }
            KillRegistry => {
                scene.kill_registry()?;
                tally.registry_kills += 1;
                sleep(Duration::from_millis(random.below(OUTAGE)));
                scene.start_registry()?;
            }
            KillMachine => {
                // It may have been paused or stopped: then there is another blow.
                if scene.vms.kill_machine(&name).is_ok() {
                    tally.machine_kills += 1;
                }
                go_on(scene, &name, tally)?;
            }
            FlipCache => with_the_service_dead(scene, random, tally, |file, random| {
                let len = file.metadata()?.len().max(1);
                let at = random.below(len);
                let mut byte = [0];
                file.read_exact_at(&mut byte, at)?;
                file.write_all_at(&[byte[0] ^ (1 << random.below(8))], at)
            })
            .map(|count| tally.flips += count)?,
            CutCache => with_the_service_dead(scene, random, tally, |file, random| {
                let len = file.metadata()?.len();
                file.set_len(random.below(len.max(1)))
            })
            .map(|count| tally.cuts += count)?,
            Pause => {
                may_fail(&mut scene.vm(&["pause", &name]), tally)?;
                sleep(Duration::from_millis(random.below(3000)));
                go_on(scene, &name, tally)?;
            }
            Restart => {
                let restart = [
                    "restart",
                    &name,
                    "--stop-timeout",
                    "20",
                    "--force",
                    "--wait",
                    "none",
                ];
                may_fail(&mut scene.vm(&restart), tally)?;
                go_on(scene, &name, tally)?;
            }
            Snapshot => {
                may_fail(&mut scene.vm(&["snapshot", "create", &name, "s"]), tally)?;
                sleep(Duration::from_millis(random.below(1000)));
                remove(&mut scene.vm(&["snapshot", "rm", &name, "s"]), tally)?;
            }
            ComeAndGo => {
                let deploy = [
                    "deploy",
                    &scene.reference,
                    "--name",
                    "guest",
                    "--wait",
                    "none",
                ];
                may_fail(&mut scene.vm(&deploy), tally)?;
                sleep(Duration::from_millis(random.below(4000)));
                remove(&mut scene.vm(&["rm", "guest"]), tally)?;
            }
            Prune => {
                let mut command = scene.shale();
                command.args(["cache", "prune"]);
                may_fail(&mut command, tally)?;
            }
            Drill(what) => {
                let mut command = scene.shale();
                command.args(["drill", what, "--vm", &name, "--for", "4", "--yes"]);
                may_fail(&mut command, tally)?;
            }
        }
        tally.others += u32::from(matches!(
            self,
            Pause | Restart | Snapshot | ComeAndGo | Prune | Drill(_)
        ));
        Ok(())
    }
}

impl fmt::Display for Blow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            KillService => "the service is killed",
            KillServiceWhileACommandRuns => "the service is killed while a command runs",
            KillRegistry => "the registry is killed",
            KillMachine => "a machine is killed",
            FlipCache => "the service is killed, and bits of the cache are flipped",
            CutCache => "the service is killed, and files of the cache are cut off",
            Pause => "a machine is paused",
            Restart => "a machine is restarted",
            Snapshot => "a snapshot is made and removed",
            ComeAndGo => "a machine comes and goes",
            Prune => "the cache is pruned",
            Drill(what) => return write!(f, "drill {what}"),
        })
    }
}

/// Kills the service, and lets the next command start another one after a while.
fn kill_service(scene: &Scene, random: &mut Random, tally: &mut Tally) -> Result<()> {
    // Between two of them there may be none.
    if scene.vms.kill_service().is_ok() {
        tally.service_kills += 1;
    }
    sleep(Duration::from_millis(random.below(1500)));
    may_fail(&mut scene.vm(&["ls"]), tally)
}

/// Does something to a few files of the cache which no service has open; to how many.
///
/// Logins may start a service meanwhile. What is damaged then is what a disk that fails gives: bytes that were not
/// verified yet are found, others the service has in memory.
fn with_the_service_dead(
    scene: &Scene,
    random: &mut Random,
    tally: &mut Tally,
    damage: impl Fn(&std::fs::File, &mut Random) -> std::io::Result<()>,
) -> Result<u32> {
    let files = scene.cached()?;
    if scene.vms.kill_service().is_ok() {
        tally.service_kills += 1;
    }
    let mut count = 0;
    for _ in 0..=random.below(4) {
        let Some(path) = files.get(random.below(files.len().max(1) as u64) as usize) else {
            break;
        };
        // The cache may have made room, and an empty file has nothing to change.
        let file = OpenOptions::new().read(true).write(true).open(path);
        if file.and_then(|file| damage(&file, random)).is_ok() {
            count += 1;
        }
    }
    may_fail(&mut scene.vm(&["ls"]), tally)?;
    Ok(count)
}

/// Lets a machine run again, whatever state it is in.
fn go_on(scene: &Scene, name: &str, tally: &mut Tally) -> Result<()> {
    may_fail(&mut scene.vm(&["start", name, "--wait", "none"]), tally)?;
    may_fail(&mut scene.vm(&["resume", name]), tally)
}

/// Runs a command that may fail where something else is in its way or is away, and no other way.
fn may_fail(command: &mut Command, tally: &mut Tally) -> Result<()> {
    run_with(command, &[CONFLICT, UNAVAILABLE], tally)
}

/// Removes what may not have been made.
fn remove(command: &mut Command, tally: &mut Tally) -> Result<()> {
    let may = [CONFLICT, UNAVAILABLE, NOT_FOUND];
    run_with(command.arg("--yes"), &may, tally)
}

fn run_with(command: &mut Command, may: &[i32], tally: &mut Tally) -> Result<()> {
    let output = command
        .output()
        .with_context(|| format!("start {command:?}"))?;
    match output.status.code() {
        Some(0) => {}
        Some(code) if may.contains(&code) => tally.refused += 1,
        _ => bail!(
            "{command:?}: {}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        ),
    }
    Ok(())
}
