//! `shale host shutdown`.

use clap::Args;
use shale_hostd::api::{HowEnded, MachineEnd, Outcome, Request};

use super::{call, unexpected};
use crate::commands::vm::show_stage;
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::output::{Row, print_list};

/// Shut all virtual machines down, because this host is about to be
///
/// Each guest is asked, by its power button; the power of one that has not shut down in time is cut. Machines that
/// start by themselves do so after the next boot of the host, as they ran until now; until then no other starts by
/// itself. The installed unit shale-guests.service does this when the system shuts down.
///
/// Examples:
///   shale host shutdown
///   shale host shutdown --timeout 30 --format json
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Shutdown {
    /// Seconds that each guest may take
    #[arg(long, default_value_t = 90, value_name = "SECONDS")]
    timeout: u64,
}

impl Row for MachineEnd {
    const COLUMNS: &'static [&'static str] = &["NAME", "HOW", "SECONDS"];

    fn cells(&self) -> Vec<String> {
        let how = match &self.how {
            HowEnded::ShutDown => "shut down",
            HowEnded::PowerCut => "power cut",
            HowEnded::Not(_) => "not",
        };
        let seconds = format!("{:.1}", self.seconds);
        vec![self.name.clone(), how.into(), seconds]
    }
}

impl Shutdown {
    pub(super) fn run(self, context: &Context) -> anyhow::Result<()> {
        let request = Request::ShutDown {
            timeout_seconds: self.timeout,
        };
        let machines = match call(context, request, show_stage(context))? {
            Outcome::ShutDown { machines } => machines,
            other => return Err(unexpected(&other)),
        };
        print_list(&machines, context.global.format, context.global.quiet)?;
        let left = machines.iter().find_map(|machine| match &machine.how {
            HowEnded::Not(reason) => Some((&machine.name, reason)),
            HowEnded::ShutDown | HowEnded::PowerCut => None,
        });
        match left {
            None => Ok(()),
            Some((name, reason)) => {
                let text = format!("shut `{name}` down: {reason}");
                Err(Failure::new(Exit::Failure, text).into())
            }
        }
    }
}
