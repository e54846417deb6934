//! Warm starts: instances that begin where another machine was kept, and the keeping.

mod begin;
mod forecast;
mod keep;

use crate::api::MachineWish;
use crate::compose::Image;
use crate::error::{HostError, HostResult};
use crate::warm::{Common, processor_of};

use super::Host;
use super::deploy::resources;
use super::start::ConsoleStart;

/// What came of a warm start.
pub(super) enum Warmed {
    /// The guest has its identity.
    Begun(ConsoleStart),
    /// Nothing; there is nothing left of it. The reason is one for people.
    Not(String),
}

impl Host {
    /// The hypervisor that keeps machines, and its version. Blocks.
    fn hypervisor(&self) -> HostResult<String> {
        let driver = self.driver.warm_start().ok_or(HostError::CannotKeep)?;
        Ok(driver.version()?)
    }
}

/// What a machine of this image has in common with one that is kept, or was.
fn common(machine: &MachineWish, image: &Image, hypervisor: String) -> HostResult<Common> {
    let resources = resources(machine, image)?;
    Ok(Common {
        template: image.id,
        plan: image.plan_id,
        disk_bytes: image.disk_bytes(machine.disk_bytes)?,
        data_disks: machine.data_disks.len(),
        resources,
        processor: processor_of(resources.acceleration),
        hypervisor,
        command_line: image.template.machine.command_line.clone(),
    })
}
