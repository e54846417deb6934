//! An instance loses its machine, for a while or for good.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use shale_hvplug::{Stop, Vm};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::api::{Caller, EventKind, HowEnded, IfStuck, MachineEnd, Outcome, Stage};
use crate::error::{HostError, HostResult};
use crate::name::InstanceName;
use crate::record::Phase;
use crate::seen::{Stall, Wanted};

use super::instance::{Ending, Instance};
use super::{Host, Progress};

/// How often a guest that shuts down is looked at.
const POLL: Duration = Duration::from_millis(50);

/// How often the power button is pressed: a guest that is still booting does not hear it.
const PRESS_EVERY: Duration = Duration::from_secs(5);

impl Host {
    /// Asks the guest to shut down and waits for it.
    pub(super) async fn stop(
        self: &Arc<Self>,
        name: &InstanceName,
        limit: Duration,
        then: IfStuck,
        progress: Progress,
    ) -> HostResult<Outcome> {
        let instance = self.get(name)?;
        self.stop_waiting(&instance).await?;
        match instance.vm() {
            Some(vm) => {
                progress.stage(Stage::ShutDown);
                let ending = Ending {
                    caller: progress.caller.clone(),
                    phase: Phase::Stopped,
                };
                self.end(&instance, &vm, limit, then, ending).await?;
            }
            None => self.stay_stopped(&instance).await?,
        }
        Ok(Outcome::Instance(Box::new(self.show(&instance).await?)))
    }

    /// Keeps that an instance without a machine does not start after the next boot of the host, if it would.
    async fn stay_stopped(self: &Arc<Self>, instance: &Arc<Instance>) -> HostResult<()> {
        let was_shut_down = || {
            let live = instance.live();
            let record = live.record.as_ref();
            record.is_some_and(|record| record.phase == Phase::ShutDown)
        };
        if !was_shut_down() {
            return Ok(());
        }
        let _changing = self.right_to_change(instance).await?;
        match was_shut_down() {
            true => self.keep_phase(instance, Phase::Stopped).await,
            // It was started meanwhile.
            false => Ok(()),
        }
    }

    /// Shuts all guests down, as the host is about to be: those that start by themselves do so after its next boot. Until
    /// then no other starts by itself.
    pub(super) async fn shut_down_all(
        self: &Arc<Self>,
        limit: Duration,
        progress: Progress,
    ) -> HostResult<Outcome> {
        self.is_going_down.store(true, Relaxed);
        progress.stage(Stage::ShutDown);
        let mut ending = JoinSet::new();
        for instance in self.all() {
            let (host, caller) = (self.clone(), progress.caller.clone());
            ending.spawn(async move { host.shut_down_with_host(&instance, limit, caller).await });
        }
        let mut machines: Vec<_> = ending.join_all().await.into_iter().flatten().collect();
        machines.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(Outcome::ShutDown { machines })
    }

    /// What became of its machine, if it had one.
    async fn shut_down_with_host(
        self: &Arc<Self>,
        instance: &Arc<Instance>,
        limit: Duration,
        caller: Caller,
    ) -> Option<MachineEnd> {
        // One that is starting has one then.
        drop(self.right_to_change(instance).await);
        let vm = instance.vm()?;
        let begun = Instant::now();
        let starts = {
            let live = instance.live();
            live.record.as_ref().is_some_and(|record| record.autostart)
        };
        let phase = match starts {
            true => Phase::ShutDown,
            false => Phase::Stopped,
        };
        let ending = Ending { caller, phase };
        let end = self.end(instance, &vm, limit, IfStuck::CutPower, ending);
        Some(MachineEnd {
            how: match end.await {
                Ok(how) => how,
                Err(error) => HowEnded::Not(error.failure().message),
            },
            name: instance.name.to_string(),
            seconds: begun.elapsed().as_secs_f64(),
        })
    }

    /// Ends a machine, and closes what its instance has.
    async fn end(
        self: &Arc<Self>,
        instance: &Arc<Instance>,
        vm: &Vm,
        limit: Duration,
        then: IfStuck,
        ending: Ending,
    ) -> HostResult<HowEnded> {
        instance.live().ending = Some(ending);
        // Not under the lock: somebody may lose patience and cut the power.
        let how = match (self.shut_down(vm, limit).await?, then) {
            (true, _) => HowEnded::ShutDown,
            (false, IfStuck::CutPower) => {
                self.cut(vm).await?;
                HowEnded::PowerCut
            }
            (false, IfStuck::Fail) => {
                // When it ends, it is by itself.
                instance.live().ending = None;
                let name = instance.name.to_string();
                return Err(HostError::StillRunning { name, limit });
            }
        };
        let _changing = self.right_to_change(instance).await?;
        // Started again meanwhile, it is another machine.
        if instance.vm().as_ref() == Some(vm) {
            self.settle(instance).await;
        }
        Ok(how)
    }

    /// Whether the machine has ended when the time is up.
    async fn shut_down(self: &Arc<Self>, vm: &Vm, limit: Duration) -> HostResult<bool> {
        let begun = Instant::now();
        let mut pressed: Option<Instant> = None;
        while vm.process.runs() {
            if begun.elapsed() >= limit {
                return Ok(false);
            }
            if pressed.is_none_or(|at| at.elapsed() >= PRESS_EVERY) {
                self.drive(vm, |driver, vm| driver.stop(vm, Stop::PowerButton))
                    .await?;
                pressed = Some(Instant::now());
            }
            sleep(POLL).await;
        }
        Ok(true)
    }

    async fn cut(self: &Arc<Self>, vm: &Vm) -> HostResult<()> {
        self.drive(vm, |driver, vm| driver.stop(vm, Stop::PowerCut))
            .await
    }

    async fn drive(
        self: &Arc<Self>,
        vm: &Vm,
        action: fn(&dyn shale_hvplug::Driver, &Vm) -> shale_hvplug::DriverResult<()>,
    ) -> HostResult<()> {
        let vm = vm.clone();
        self.blocking(move |host| Ok(action(&*host.driver, &vm)?))
            .await
    }

    /// Has a guest's processors stand still, or lets them run as far as its user is concerned.
    pub(super) async fn want(
        self: &Arc<Self>,
        name: &InstanceName,
        wanted: Wanted,
        caller: Caller,
    ) -> HostResult<Outcome> {
        let instance = self.get(name)?;
        let _changing = self.right_to_change(&instance).await?;
        let vm = instance.vm().filter(|vm| vm.process.runs());
        let vm = vm.ok_or_else(|| HostError::NotRunning(name.to_string()))?;
        let this = instance.clone();
        let changed = self.blocking(move |host| match wanted {
            Wanted::Paused => {
                // First, so that nobody lets it go on.
                let is_news = host.keep_paused(&this, true)?;
                let paused = host.driver.pause(&vm);
                if paused.is_err() && is_news {
                    host.keep_paused(&this, false)?;
                }
                Ok(paused?)
            }
            Wanted::Running => {
                let is_news = host.keep_paused(&this, false)?;
                // Of what another service told this one may not have heard yet.
                let inherited = this.live().standstill.inherited().cloned();
                let inherited = match inherited.filter(|_| is_news) {
                    Some(Stall { reason, .. }) => {
                        let name = this.name.to_string();
                        Err(HostError::Stalled { name, reason })
                    }
                    None => Ok(()),
                };
                // Also where its content is late: then it stands still for that, and goes on by itself.
                host.driver.resume(&vm)?;
                this.live().standstill.resumed(std::time::Instant::now());
                let stalled = host.check_no_stall(&this).and(inherited);
                if stalled.is_err() && is_news {
                    let (events, name) = (&host.witness.events, this.name.as_str());
                    events.tell(Some(name), &caller, EventKind::PauseLifted);
                }
                stalled
            }
        });
        changed.await?;
        Ok(Outcome::Instance(Box::new(self.show(&instance).await?)))
    }

    /// Removes an instance and all that it wrote. A command that waits for its content is given up.
    pub(super) async fn remove(
        self: &Arc<Self>,
        name: &InstanceName,
        caller: Caller,
    ) -> HostResult<Outcome> {
        let instance = self.get(name)?;
        let _given_up = instance.hope.give_up();
        let _changing = match self.right_to_change(&instance).await {
            // The deployment that was given up has removed it.
            Err(HostError::NoInstance(_)) => return Ok(Outcome::Nothing),
            changing => changing?,
        };
        let this = instance.clone();
        self.blocking(move |host| host.cut_power(&this)).await?;
        instance.live().ending = Some(Ending {
            caller,
            phase: Phase::Stopped,
        });
        self.settle(&instance).await;
        let this = instance.clone();
        self.blocking(move |host| host.discard(&this)).await?;
        self.instances().remove(name);
        Ok(Outcome::Nothing)
    }

    /// Ends the machine of an instance, also one that is not known of: an earlier service was starting it when
    /// it was killed. Blocks.
    pub(super) fn cut_power(&self, instance: &Instance) -> HostResult<()> {
        let vm = match instance.vm() {
            Some(vm) => Some(vm),
            None => self.driver.attach(&instance.paths.vm_files())?,
        };
        match vm {
            Some(vm) => Ok(self.driver.stop(&vm, Stop::PowerCut)?),
            None => Ok(()),
        }
    }
}
