//! `shale vm pause` and `shale vm resume`.

use clap::Args;
use shale_hostd::api::Request;

use crate::commands::host::call;
use crate::context::Context;

/// Stop the processors of a virtual machine
#[derive(Debug, Args)]
pub(crate) struct Pause {
    /// The machine
    name: String,
}

impl Pause {
    pub(crate) fn run(self, context: &Context) -> anyhow::Result<()> {
        let request = Request::Pause { name: self.name };
        call(context, request, |_| {})?;
        Ok(())
    }
}

/// Let the processors of a virtual machine run again
#[derive(Debug, Args)]
pub(crate) struct Resume {
    /// The machine
    name: String,
}

impl Resume {
    pub(crate) fn run(self, context: &Context) -> anyhow::Result<()> {
        let request = Request::Resume { name: self.name };
        call(context, request, |_| {})?;
        Ok(())
    }
}
