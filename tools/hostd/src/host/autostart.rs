//! Machines that start by themselves: those that ran when the host went down, and whose user wants them back.
//!
//! A machine whose process is gone ran until the host was booted anew, if the boot that it last ran in is not this
//! one. In the same boot it ended by itself, and stays as it is. Nobody waits for these starts: the service answers
//! meanwhile, and what cannot start yet, for want of a network or a registry, is tried again without end.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::api::{Outcome, Until, Wait};
use crate::dirs::boot_id;
use crate::error::HostResult;
use crate::name::InstanceName;
use crate::record::{Phase, Record};

use super::attempt::Attempt;
use super::instance::Instance;
use super::{Host, Progress};

/// Machines that start at the same time: each reads its kernel and boots, and together they would only be slower.
const AT_ONCE: usize = 2;

/// Seconds of one attempt. It is less than commands wait for the right to change an instance; what it brought is in
/// the cache for the next.
const ATTEMPT_SECONDS: u64 = 10;

/// Wait between attempts.
const RETRY_EVERY: Duration = Duration::from_secs(5);

/// Why a machine waits that was not tried yet.
const ITS_TURN: &str = "its turn comes";

impl Host {
    /// Whether the machine of this record, which has no process, is to start by itself.
    pub(super) fn starts_by_itself(record: &Record) -> bool {
        let ran = matches!(record.phase, Phase::Started | Phase::ShutDown);
        record.autostart && ran && record.boot != this_boot()
    }

    /// Notes that an instance is to start. Whoever calls is the only one who knows it.
    pub(super) fn note_waiting(instance: &Instance) {
        instance.live().waits_to_start = Some(ITS_TURN.into());
    }

    /// Starts what waits to start; resolves when nothing does any more.
    pub(super) async fn start_what_waits(self: &Arc<Self>) {
        let places = Arc::new(Semaphore::new(AT_ONCE));
        loop {
            let mut starting = JoinSet::new();
            for instance in self.all() {
                if instance.live().waits_to_start.is_none() {
                    continue;
                }
                let (host, places) = (self.clone(), places.clone());
                starting.spawn(async move {
                    // The semaphore is never closed.
                    let _place = places.acquire().await.ok();
                    host.try_to_start(&instance).await;
                });
            }
            if starting.is_empty() {
                return;
            }
            while starting.join_next().await.is_some() {}
            sleep(RETRY_EVERY).await;
        }
    }

    async fn try_to_start(self: &Arc<Self>, instance: &Arc<Instance>) {
        // Whoever changes it may start it, or want it stopped.
        let Ok(_changing) = self.right_to_change(instance).await else {
            return;
        };
        if self.is_going_down.load(Relaxed) {
            return;
        }
        let waits = instance.live().waits_to_start.is_some();
        if !waits || instance.vm().is_some() {
            instance.live().waits_to_start = None;
            return;
        }
        let wait = Wait {
            until: Until::Started,
            limit_seconds: ATTEMPT_SECONDS,
        };
        let attempt = Attempt::new(instance, wait, Progress::unheard());
        self.learn_boot_set_of(instance).await;
        match self.begin_or_fail(instance, &attempt).await {
            Ok(_) => instance.live().waits_to_start = None,
            Err(error) => {
                // It should still run: its record stays as it is.
                let _ = self.let_go(instance).await;
                instance.live().waits_to_start = Some(error.failure().message);
            }
        }
    }

    /// Gives up that an instance starts by itself this time: somebody wants it stopped.
    pub(super) async fn stop_waiting(self: &Arc<Self>, instance: &Arc<Instance>) -> HostResult<()> {
        if instance.live().waits_to_start.is_none() {
            return Ok(());
        }
        let _given_up = instance.hope.give_up();
        let _changing = self.right_to_change(instance).await?;
        instance.live().waits_to_start = None;
        match instance.vm() {
            // It has just started, and is stopped as any other.
            Some(_) => Ok(()),
            None => self.keep_phase(instance, Phase::Stopped).await,
        }
    }

    /// Keeps whether an instance starts by itself after the next boot of the host.
    pub(super) async fn set_autostart(
        self: &Arc<Self>,
        name: &InstanceName,
        autostart: crate::api::Autostart,
    ) -> HostResult<Outcome> {
        let instance = self.get(name)?;
        {
            let _changing = self.right_to_change(&instance).await?;
            let this = instance.clone();
            let kept = self.blocking(move |host| {
                let record = this.live().record.clone();
                let Some(mut record) = record else {
                    return Ok(());
                };
                record.autostart = autostart.is_on();
                match record.phase {
                    // It starts after the next boot, and not in this one.
                    Phase::ShutDown if autostart.is_on() => {}
                    Phase::ShutDown => record.phase = Phase::Stopped,
                    _ => record.boot = this.vm().and_then(|_| this_boot()),
                }
                host.keep(&this.name, &record)?;
                this.live().record = Some(record);
                Ok(())
            });
            kept.await?;
        }
        Ok(Outcome::Instance(Box::new(self.show(&instance).await?)))
    }

    /// Keeps that the machine of an instance runs in this boot, if anybody will ask. Blocks.
    pub(super) fn note_boot(&self, instance: &Instance) {
        let record = instance.live().record.clone();
        let Some(mut record) = record.filter(|record| record.autostart) else {
            return;
        };
        let boot = this_boot();
        if record.boot == boot {
            return;
        }
        record.boot = boot;
        // Without it, the machine is taken for one that the boot of the host ended, if it ends while no service runs.
        if self.keep(&instance.name, &record).is_ok() {
            instance.live().record = Some(record);
        }
    }
}

/// This boot of the host, in hex; nothing where the system does not tell.
fn this_boot() -> Option<String> {
    let id = boot_id().ok()?;
    Some(id.0.iter().map(|byte| format!("{byte:02x}")).collect())
}
