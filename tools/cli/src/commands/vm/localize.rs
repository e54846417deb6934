//! `shale vm localize`.

use clap::Args;
use shale_hostd::api::{Brought, Outcome, Request, Stage};

use super::{Shown, show_stage};
use crate::commands::host::{call, unexpected};
use crate::context::Context;
use crate::output::print_one;
use crate::progress::ShareProgress;

/// Make the disk of a virtual machine a plain file of this host, also while it runs
///
/// What the template has and is not here is brought, and all of the disk is copied; then the machine is switched to the file,
/// for which its guest stands still some milliseconds. From then on it needs neither a registry nor the host service, and
/// `shale vm inspect` says so. The file takes the room of all that the disk holds. It is the disk as it was: `shale vm
/// export` and `commit` read it; snapshots are made only of machines that were not localized.
///
/// The host service does it, also when this command is interrupted.
///
/// Examples:
///   shale vm localize web
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Localize {
    /// The machine
    name: String,
}

impl Localize {
    pub(crate) fn run(self, context: &Context) -> anyhow::Result<()> {
        let brings = ShareProgress::new(context.global.progress, "are here");
        let copies = ShareProgress::new(context.global.progress, "are copied");
        let mut show = show_stage(context);
        let outcome = call(
            context,
            Request::Localize { name: self.name },
            |report| match (report.brought, report.stage) {
                (Some(Brought { bytes, of }), Stage::Copy) => copies.report(bytes, of),
                (Some(Brought { bytes, of }), _) => brings.report(bytes, of),
                (None, _) => show(report),
            },
        );
        copies.end();
        match outcome? {
            Outcome::Instance(instance) => {
                let (instance, login) = (*instance, None);
                let shown = Shown { instance, login };
                print_one(&shown, context.global.format, context.global.quiet)
            }
            other => Err(unexpected(&other)),
        }
    }
}
