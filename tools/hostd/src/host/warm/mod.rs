//! Warm starts: instances that begin where another machine was kept, and the keeping.

mod begin;
mod keep;

use crate::compose::Image;
use crate::error::{HostError, HostResult};
use crate::record::Record;
use crate::warm::{Common, processor_of};

use super::Host;
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

/// What the machine of an instance has in common with one that is kept, or was.
fn common(record: &Record, image: &Image, hypervisor: String) -> Common {
    Common {
        template: image.id,
        plan: image.plan_id,
        disk_bytes: record.disk_bytes,
        data_disks: record.data_disks.len(),
        resources: record.resources,
        processor: processor_of(record.resources.acceleration),
        hypervisor,
        command_line: record.origin.command_line.clone(),
    }
}
