//! `shale vm stop` and `shale vm restart`.

use clap::Args;
use shale_hostd::api::{IfStuck, Request};

use super::{Waiting, show_stage, show_started};
use crate::commands::host::call;
use crate::context::Context;

/// Shut a virtual machine down
///
/// The guest is asked, by its power button. --force cuts the power if it has not shut down in time;
/// with --timeout 0, at once.
///
/// Examples:
///   shale vm stop web
///   shale vm stop web --timeout 10 --force
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Stop {
    /// The machine
    name: String,
    /// Seconds that the guest may take
    #[arg(long, default_value_t = 90, value_name = "SECONDS")]
    timeout: u64,
    /// Cut the power of a guest that takes longer
    #[arg(long)]
    force: bool,
}

impl Stop {
    pub(crate) fn run(self, context: &Context) -> anyhow::Result<()> {
        let request = Request::Stop {
            name: self.name,
            timeout_seconds: self.timeout,
            then: match self.force {
                true => IfStuck::CutPower,
                false => IfStuck::Fail,
            },
        };
        call(context, request, show_stage(context))?;
        Ok(())
    }
}

/// Shut a virtual machine down and start it again
///
/// Examples:
///   shale vm restart web
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Restart {
    /// The machine
    name: String,
    /// Seconds that the guest may take to shut down
    #[arg(long, default_value_t = 90, value_name = "SECONDS")]
    stop_timeout: u64,
    /// Cut the power of a guest that takes longer
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    waiting: Waiting,
}

impl Restart {
    pub(crate) fn run(self, context: &Context) -> anyhow::Result<()> {
        let stop = Stop {
            name: self.name.clone(),
            timeout: self.stop_timeout,
            force: self.force,
        };
        stop.run(context)?;
        let request = Request::Start {
            wait: self.waiting.wish(),
            name: self.name,
        };
        let outcome = call(context, request, show_stage(context))?;
        show_started(context, outcome)
    }
}
