//! Guests whose disk cannot answer: content does not come, or what they write has no room. Their hypervisor pauses
//! them when a request fails, and here they are let go on.

use std::time::Instant;

use shale_hvplug::{Vm, VmState};

use crate::error::{HostError, HostResult};
use crate::seen::{Guest, NO_ANSWER};
use crate::served::Served;

use super::Host;
use super::instance::Instance;
use super::looks::sight_of;

impl Host {
    /// Lets a guest go on whose disk failed and can answer again, unless somebody wants it paused. Whoever calls holds
    /// the right to change the instance. Blocks.
    pub(super) fn look_at_stall(&self, instance: &Instance, vm: &Vm) -> HostResult<()> {
        {
            let mut live = instance.live();
            let failed = live.disk.as_ref().map_or(0, |disk| disk.failed().count);
            if !live.standstill.is_to_be_asked(failed, Instant::now()) {
                return Ok(());
            }
        }
        let guest = match self.driver.state(vm)? {
            VmState::DiskFailed => Guest::DiskFailed,
            _ => Guest::Otherwise,
        };
        let goes_on = {
            let mut live = instance.live();
            let (sight, wanted, now) = (sight_of(&live), live.wanted(), Instant::now());
            live.standstill.said(guest, &sight, wanted, now)
        };
        match goes_on {
            true => Ok(self.driver.resume(vm)?),
            false => Ok(()),
        }
    }

    /// Keeps whether somebody wants the guest to stand still; whether that is news. Blocks.
    pub(super) fn keep_paused(&self, instance: &Instance, paused: bool) -> HostResult<bool> {
        let record = instance.live().record.clone();
        match record.filter(|record| record.paused != paused) {
            None => Ok(false),
            Some(mut record) => {
                record.paused = paused;
                self.keep(&instance.name, &record)?;
                instance.live().record = Some(record);
                Ok(true)
            }
        }
    }

    /// Somebody wants a guest to run, which it cannot while its content does not come.
    pub(super) fn check_no_stall(&self, instance: &Instance) -> HostResult<()> {
        let is_late = instance.live().disk.as_ref().is_some_and(Served::is_late);
        match is_late {
            true => Err(HostError::Stalled {
                name: instance.name.to_string(),
                reason: stall_reason(instance),
            }),
            false => Ok(()),
        }
    }

    /// Why a guest stands still whose disk failed.
    pub(super) fn why_failed(&self, instance: &Instance) -> String {
        let (late, failed) = match &instance.live().disk {
            Some(disk) => (disk.is_late(), disk.failed().reason),
            None => (false, None),
        };
        match failed {
            _ if late => format!("until its content comes: {}", stall_reason(instance)),
            Some(error) => format!("its disk failed and is tried again: {error}"),
            None => "its disk is tried again".into(),
        }
    }
}

/// Why reads of an instance wait.
fn stall_reason(instance: &Instance) -> String {
    let waiting = instance.live().disk.as_ref().and_then(Served::waiting);
    let reason = waiting.and_then(|waiting| waiting.reason);
    reason.unwrap_or_else(|| NO_ANSWER.into())
}
