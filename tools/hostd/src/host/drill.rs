//! Faults on purpose for an instance.

use std::sync::Arc;
use std::time::Duration;

use crate::api::{DrillFault, MAX_DRILL_SECONDS, Outcome};
use crate::drill::LinkFault;
use crate::error::{HostError, HostResult};
use crate::name::InstanceName;

use super::Host;

impl Host {
    /// Begins a fault, or ends all of an instance, which runs.
    pub(super) async fn drill(
        self: &Arc<Self>,
        name: &InstanceName,
        fault: DrillFault,
        seconds: u64,
    ) -> HostResult<Outcome> {
        let time = Duration::from_secs(seconds.min(MAX_DRILL_SECONDS));
        let instance = self.get(name)?;
        let origin = {
            let live = instance.live();
            let record = live.record.as_ref();
            record.map(|record| record.origin.repository())
        };
        let origin = origin.ok_or_else(|| HostError::Busy(name.to_string()))?;
        let (asked, runs) = (origin.clone(), || HostError::NotRunning(name.to_string()));
        let source = self.blocking(move |host| host.sources.get(&asked)).await?;
        let link = |fault| {
            source.link.begin(fault, time);
            self.others_of(name, &origin)
        };
        let others = {
            let full = instance.live().disk.as_ref().map(|disk| disk.full());
            let full = full.ok_or_else(runs)?;
            match fault {
                DrillFault::None => {
                    source.link.end();
                    full.end();
                    Vec::new()
                }
                DrillFault::DiskFull => {
                    full.begin((), time);
                    Vec::new()
                }
                DrillFault::RegistryDown => link(LinkFault::Down),
                DrillFault::SlowLink {
                    delay_millis,
                    bytes_per_second,
                } => link(LinkFault::Slow {
                    delay: Duration::from_millis(delay_millis),
                    bytes_per_second: bytes_per_second.max(1),
                }),
            }
        };
        Ok(Outcome::Drilled { others })
    }

    /// The other machines whose content comes over the same link.
    fn others_of(&self, name: &InstanceName, origin: &crate::api::Repository) -> Vec<String> {
        let others = self.all().into_iter().filter(|other| other.name != *name);
        let same = others.filter(|other| {
            let live = other.live();
            let record = live.record.as_ref();
            live.disk.is_some() && record.is_some_and(|it| it.origin.repository() == *origin)
        });
        same.map(|other| other.name.to_string()).collect()
    }
}
