//! Clients of a machine's disk that do what none may.

use anyhow::{Context, Result};
use harness::{HOSTILE_CLIENTS, Random};

use crate::scene::Scene;

use super::known::Known;
use super::look;

/// How many come at once.
const CLIENTS: u64 = 4;

/// Lets some of them at the disk of the machine with the known disk, or of a guest: none of what they send may reach it.
pub(super) fn attack(
    scene: &mut Scene,
    known: &mut Known,
    guest: &str,
    random: &mut Random,
) -> Result<()> {
    look(scene)?;
    let is_known = random.below(2) == 0;
    let name = match is_known {
        true => {
            known.run(scene)?;
            known.name()
        }
        false => guest,
    };
    if scene.vms.state(name)? == "stopped" {
        // What it was to be started for was in its way; then there is another blow.
        return Ok(());
    }
    let socket = scene.vms.path("run").join(name).join("disk");
    for _ in 0..CLIENTS {
        let (what, act) = HOSTILE_CLIENTS[random.below(HOSTILE_CLIENTS.len() as u64) as usize];
        act(&socket).with_context(|| format!("a client of {name} that {what}"))?;
        scene.account.hostile += 1;
    }
    match is_known {
        true => known.check_now(scene),
        false => Ok(()),
    }
}
