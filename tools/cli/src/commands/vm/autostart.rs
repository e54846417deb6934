//! `shale vm autostart`.

use clap::Args;
use shale_hostd::api::{Autostart, Request};

use crate::commands::host::call;
use crate::context::Context;

/// Start a virtual machine by itself after a boot of this host, if it ran before
///
/// One that was stopped stays stopped. What cannot start yet, because its registry is not there, is tried again;
/// `vm ls` says why.
///
/// Examples:
///   shale vm autostart web
///   shale vm autostart web --disable
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct AutostartCommand {
    /// The machine
    name: String,
    /// Leave it stopped after a boot
    #[arg(long)]
    disable: bool,
}

impl AutostartCommand {
    pub(crate) fn run(self, context: &Context) -> anyhow::Result<()> {
        let autostart = match self.disable {
            true => Autostart::Off,
            false => Autostart::On,
        };
        let request = Request::Autostart {
            name: self.name,
            autostart,
        };
        call(context, request, |_| {})?;
        Ok(())
    }
}
