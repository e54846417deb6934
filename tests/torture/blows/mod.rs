//! What is done to a scene, one thing at a time.

mod clients;
mod commit;
mod damage;
mod kills;
mod known;
mod machines;

use std::fmt;

use anyhow::Result;
use harness::Random;

use crate::commands::{may_fail, remove};
use crate::loads::Load;
use crate::scene::Scene;

use known::Deed;
pub(crate) use known::Known;

#[derive(Debug, Clone, Copy)]
pub(crate) enum Blow {
    KillService,
    KillServiceWhileACommandRuns,
    ReplaceService,
    KillKeeper,
    KillRegistry,
    StallLink,
    CutLink,
    KillMachine,
    CutPower,
    FlipCache,
    CutCache,
    Pause,
    Restart,
    Snapshot,
    ComeAndGo,
    Warm,
    Known(Deed),
    Commit,
    HostileClients,
    Prune,
    Pin,
    Drill(&'static str),
}

/// What is struck.
pub(crate) struct Struck<'a> {
    pub(crate) scene: &'a mut Scene,
    pub(crate) known: &'a mut Known,
    /// The guests first, by the order of their names.
    pub(crate) loads: &'a [Load],
}

use Blow::*;

/// How often each is drawn beside the others.
const WEIGHTS: [(Blow, u64); 26] = [
    (KillService, 6),
    (KillServiceWhileACommandRuns, 4),
    (ReplaceService, 4),
    (KillKeeper, 3),
    (KillRegistry, 3),
    (StallLink, 3),
    (CutLink, 2),
    (KillMachine, 1),
    (CutPower, 1),
    (FlipCache, 5),
    (CutCache, 4),
    (Pause, 2),
    (Restart, 1),
    (Snapshot, 2),
    (ComeAndGo, 3),
    (Warm, 2),
    (Known(Deed::Write), 2),
    (Known(Deed::Snapshot), 4),
    (Known(Deed::Restore), 4),
    (Known(Deed::Localize), 2),
    (Known(Deed::Reimage), 2),
    (Commit, 1),
    (HostileClients, 3),
    (Prune, 2),
    (Pin, 2),
    // A third of the time, one of those below.
    (Drill(""), 2),
];

const DRILLS: [&str; 3] = ["registry-down", "slow-link", "disk-full"];

impl Blow {
    pub(crate) fn any(random: &mut Random) -> Self {
        let all = WEIGHTS.iter().map(|(_, weight)| weight).sum();
        let mut drawn = random.below(all);
        for (blow, weight) in WEIGHTS {
            if drawn < weight {
                return match blow {
                    Drill(_) => Drill(DRILLS[random.below(DRILLS.len() as u64) as usize]),
                    blow => blow,
                };
            }
            drawn -= weight;
        }
        KillService
    }

    pub(crate) fn strike(self, struck: &mut Struck<'_>, random: &mut Random) -> Result<()> {
        let Struck {
            scene,
            known,
            loads,
        } = struck;
        let guest = random.below(scene.names.len() as u64) as usize;
        let name = scene.names[guest].clone();
        match self {
            Commit => commit::commit(scene, &loads[guest])?,
            KillService => kills::service(scene, random)?,
            KillServiceWhileACommandRuns => kills::service_in_a_command(scene, &name, random)?,
            ReplaceService => kills::replace_service(scene, random)?,
            KillKeeper => kills::keeper(scene)?,
            KillRegistry => kills::registry(scene, random)?,
            StallLink => kills::stall_link(scene, random)?,
            CutLink => scene.replace_link()?,
            KillMachine => kills::machine(scene, &name)?,
            CutPower => kills::power(scene, random)?,
            FlipCache => damage::flip(scene, random)?,
            CutCache => damage::cut(scene, random)?,
            Pause => machines::pause(scene, &name, random)?,
            Restart => machines::restart(scene, &name)?,
            Snapshot => machines::snapshot(scene, &name, random)?,
            ComeAndGo => machines::come_and_go(scene, random)?,
            Warm => machines::warm(scene, random)?,
            Known(deed) => known.do_deed(deed, scene, random)?,
            HostileClients => clients::attack(scene, known, &name, random)?,
            Prune => {
                let mut command = scene.shale();
                command.args(["cache", "prune"]);
                may_fail(&mut command, &mut scene.account)?;
            }
            Pin => damage::pin(scene)?,
            Drill(what) => {
                let mut command = scene.shale();
                command.args(["drill", what, "--vm", &name, "--for", "4", "--yes"]);
                may_fail(&mut command, &mut scene.account)?;
            }
        }
        scene.account.others += u32::from(matches!(
            self,
            StallLink | CutLink | Pause | Restart | Snapshot | Commit | Prune | Pin | Drill(_)
        ));
        Ok(())
    }
}

impl fmt::Display for Blow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            KillService => "the service is killed",
            KillServiceWhileACommandRuns => "the service is killed while a command runs",
            ReplaceService => "the service is replaced by a copy of the program",
            KillKeeper => "the keeper of open files is killed",
            KillRegistry => "the registry is killed",
            StallLink => "the link to the registry stalls",
            CutLink => "the link to the registry is cut",
            KillMachine => "a machine is killed",
            CutPower => "the host loses its power",
            FlipCache => "the service is killed, and bits of the cache are flipped",
            CutCache => "the service is killed, and files of the cache are cut off",
            Pause => "a machine is paused",
            Restart => "a machine is restarted",
            Snapshot => "a snapshot is made and removed",
            ComeAndGo => "a machine comes and goes",
            Warm => "a machine begins warm, is looked at, and goes",
            Known(deed) => return write!(f, "the machine with the known disk {deed}"),
            Commit => "what a guest wrote becomes a template, and is read there",
            HostileClients => "a disk gets hostile clients",
            Prune => "the cache is pruned",
            Pin => "a template is pinned over a killed service",
            Drill(what) => return write!(f, "drill {what}"),
        })
    }
}

/// Lets a machine run again, whatever state it is in.
fn go_on(scene: &mut Scene, name: &str) -> Result<()> {
    let mut start = scene.vm(&["start", name, "--wait", "none"]);
    may_fail(&mut start, &mut scene.account)?;
    let mut resume = scene.vm(&["resume", name]);
    may_fail(&mut resume, &mut scene.account)?;
    Ok(())
}

/// Starts a service, if there is none.
fn look(scene: &mut Scene) -> Result<()> {
    let mut ls = scene.vm(&["ls"]);
    may_fail(&mut ls, &mut scene.account).map(drop)
}

/// Removes a machine that may not be there.
fn remove_machine(scene: &mut Scene, name: &str) -> Result<bool> {
    let mut command = scene.vm(&["rm", name]);
    remove(&mut command, &mut scene.account)
}
