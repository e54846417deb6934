//! What a service finds when it starts, and what ends without being told to.

use std::sync::Arc;

use shale_hvplug::VmState;

use crate::console;
use crate::error::HostResult;
use crate::name::InstanceName;
use crate::record::{Phase, Record};
use crate::served::Served;

use super::instance::Instance;
use super::{Host, remove_dir};

impl Host {
    /// Takes up every instance that an earlier service left.
    pub(super) fn adopt_all(self: &Arc<Self>) -> HostResult<()> {
        for name in self.records.names()? {
            let instance = Arc::new(Instance::new(name.clone(), &self.dirs));
            match self.records.get(&name) {
                // What has no record was being removed, or was never more than a directory.
                Ok(None) => {
                    remove_dir(&instance.paths.dir)?;
                    remove_dir(&instance.paths.run)?;
                    continue;
                }
                Ok(Some(record)) if record.phase == Phase::Deploying => {
                    self.discard(&instance)?;
                    continue;
                }
                Ok(Some(record)) => self.adopt(&instance, record),
                Err(error) => instance.live().trouble = Some(error.failure().message),
            }
            self.instances().insert(name, instance);
        }
        Ok(())
    }

    /// Takes over a machine that runs; one that does not stays as it is.
    fn adopt(&self, instance: &Instance, record: Record) {
        let found = self.driver.attach(&instance.paths.vm_files());
        let mut live = instance.live();
        match found {
            Ok(None) => {}
            Ok(Some(vm)) => {
                live.vm = Some(vm);
                match self.serve(instance, &record) {
                    Ok(disk) => live.disk = Some(disk),
                    Err(error) => live.trouble = Some(error.failure().message),
                }
            }
            Err(error) => live.trouble = Some(error.to_string()),
        }
        live.record = Some(record);
    }

    /// Offers the disk of an instance. Blocks.
    pub(super) fn serve(&self, instance: &Instance, record: &Record) -> HostResult<Served> {
        let source = self.sources.get(&record.origin.repository)?;
        let (overlay, socket) = (instance.paths.overlay(), instance.paths.disk());
        let plan = record.origin.plan;
        Served::open(&source, plan, &overlay, &socket, &self.runtime)
    }

    /// Removes all of an instance: its record first, so that what is left is known to be garbage. Blocks.
    pub(super) fn discard(&self, instance: &Instance) -> HostResult<()> {
        self.records.remove(&instance.name)?;
        remove_dir(&instance.paths.run)?;
        remove_dir(&instance.paths.dir)
    }

    /// Notices machines that ended, and keeps logs bounded.
    pub(super) async fn look_after_all(self: &Arc<Self>) {
        for instance in self.all() {
            let Some(vm) = instance.vm() else { continue };
            let log = vm.files.console_log.clone();
            let driver = self.driver.clone();
            let look = move |_: &Arc<Host>| {
                // A log that cannot be cut is cut the next time.
                let _ = console::rotate(&log);
                Ok(vm.process.runs() || driver.state(&vm)? != VmState::Ended)
            };
            if let Ok(false) = self.blocking(look).await {
                // Whoever changes it will notice by itself.
                if let Ok(_changing) = instance.changing.try_lock() {
                    self.settle(&instance).await;
                }
            }
        }
    }

    /// Closes what an instance has whose machine ended, and keeps that it is stopped.
    pub(super) async fn settle(self: &Arc<Self>, instance: &Arc<Instance>) {
        let disk = {
            let mut live = instance.live();
            live.vm = None;
            live.disk.take()
        };
        let closed = match disk {
            Some(disk) => disk.close().await,
            None => Ok(()),
        };
        let kept = self.keep_phase(instance, Phase::Stopped).await;
        if let Err(error) = closed.and(kept) {
            instance.live().trouble = Some(error.failure().message);
        }
    }

    /// Keeps what an instance should do, durably.
    pub(super) async fn keep_phase(
        self: &Arc<Self>,
        instance: &Arc<Instance>,
        phase: Phase,
    ) -> HostResult<()> {
        let instance = instance.clone();
        self.blocking(move |host| {
            let mut record = match &instance.live().record {
                Some(record) if record.phase != phase => record.clone(),
                _ => return Ok(()),
            };
            record.phase = phase;
            host.keep(&instance.name, &record)?;
            instance.live().record = Some(record);
            Ok(())
        })
        .await
    }

    /// Keeps a record, durably. Blocks.
    pub(super) fn keep(&self, name: &InstanceName, record: &Record) -> HostResult<()> {
        self.records.put(name, record)
    }
}
