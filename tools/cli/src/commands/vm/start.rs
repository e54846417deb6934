//! `shale vm start`.

use clap::Args;
use shale_hostd::api::Request;

use super::{Waiting, show_stage, show_started};
use crate::commands::host::call;
use crate::context::Context;

/// Start a virtual machine that is stopped
///
/// The kernel is the one that its own disk has now.
///
/// Examples:
///   shale vm start web
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Start {
    /// The machine
    name: String,
    #[command(flatten)]
    waiting: Waiting,
}

impl Start {
    pub(crate) fn run(self, context: &Context) -> anyhow::Result<()> {
        let request = Request::Start {
            wait: self.waiting.wish(),
            name: self.name,
        };
        let outcome = call(context, request, show_stage(context))?;
        show_started(context, outcome)
    }
}
