//! `shale vm commit`.

use clap::Args;
use shale_hostd::api::{CommitWish, Outcome, Request};
use shale_model::Reference;

use super::show_stage;
use crate::commands::host::{call, unexpected};
use crate::context::Context;
use crate::output::print_one;

/// Make a template of what the guest of a virtual machine has changed
///
/// The new template is that of the machine with one more layer: what differs on its disk, files that are gone among it. The
/// machine must be stopped or paused; of one that is paused it is what a power cut would leave, its journal replayed. What
/// belongs to the machine alone stays out: host name, machine id, SSH keys of any kind, seeds and leases. Data disks are no
/// part of it. Only what the guest wrote is read.
///
/// The template goes to the repository that the machine is from.
///
/// Examples:
///   shale vm stop web && shale vm commit web demo/web:2
///   shale vm deploy demo/web:2 --name web2
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Commit {
    /// The machine
    name: String,
    /// Name to give the template: project/name:tag
    reference: Reference,
}

impl Commit {
    pub(crate) fn run(self, context: &Context) -> anyhow::Result<()> {
        let request = Request::Commit(Box::new(CommitWish {
            name: self.name,
            reference: self.reference.to_string(),
            repository: context.repository_of(&[&self.reference])?,
        }));
        match call(context, request, show_stage(context))? {
            Outcome::Committed(new) => {
                print_one(&*new, context.global.format, context.global.quiet)
            }
            other => Err(unexpected(&other)),
        }
    }
}
