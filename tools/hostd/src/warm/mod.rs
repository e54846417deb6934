//! Warm starts: machines that begin where another one was kept, at its login prompt, before it had an identity.
//!
//! A *warm snapshot* is a template of its own whose one layer has these files:
//!
//! ```text
//! machine.json   what a machine must have in common with the one that was kept, and where `disk` belongs
//! memory         the guest's memory; what holds zeros is a hole
//! state          the state of the devices, in the hypervisor's format
//! disk           the blocks that the guest had written, one after the other
//! kernel         what it had booted, for when it boots again
//! initrd
//! ```
//! It is found by the id of the template that it was made of: [`reference`].
//!
//! - `kept.rs`: `machine.json`.
//! - `blocks.rs`: an overlay as `disk`, and back.
//! - `guest.rs`: what waits in the guest for its identity.
//! - `channel.rs`: what guest and host say to each other.
//! - `wake.rs`, `script.rs`: what the guest is told to do: time, randomness, and an identity.
//! - `snapshot.rs`: a warm snapshot, found and read.

mod blocks;
mod channel;
mod guest;
mod kept;
mod script;
mod snapshot;
mod wake;

use shale_model::{RefName, ReferenceError, TemplateId};

pub(crate) use blocks::{WrittenBlocks, take_blocks};
pub(crate) use channel::Channel;
pub(crate) use guest::waiting_files;
pub(crate) use kept::{Common, KeptMachine, processor_of};
pub(crate) use script::identity_script;
pub(crate) use snapshot::WarmSnapshot;
pub(crate) use wake::Wake;

/// Names of the files of a snapshot.
pub(crate) const MACHINE: &str = "machine.json";
pub(crate) const MEMORY: &str = "memory";
pub(crate) const STATE: &str = "state";
pub(crate) const DISK: &str = "disk";
pub(crate) const KERNEL: &str = "kernel";
pub(crate) const INITRD: &str = "initrd";

/// The reference of the warm snapshot of a template, beside the template's own: another template, though it gets the same
/// name, has another.
///
/// # Errors
/// There is none: the tag is one. The name was checked before.
pub fn reference(name: &RefName, template: TemplateId) -> Result<RefName, ReferenceError> {
    RefName::new(
        name.project(),
        name.name(),
        &format!("warm-{}", template.hex()),
    )
}
