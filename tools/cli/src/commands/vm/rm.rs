//! `shale vm rm`.

use clap::Args;
use shale_hostd::api::Request;

use super::confirm::Confirm;
use crate::commands::host::call;
use crate::context::Context;

/// Remove a virtual machine with all that it wrote, running or not
///
/// Its snapshots and data disks go with it. A deployment or a start that waits for its content is ended.
///
/// Examples:
///   shale vm rm web
///   shale vm rm web --yes
#[derive(Debug, Args)]
#[command(verbatim_doc_comment, visible_alias = "delete")]
pub(crate) struct Rm {
    /// The machine
    name: String,
    #[command(flatten)]
    confirm: Confirm,
}

impl Rm {
    pub(crate) fn run(self, context: &Context) -> anyhow::Result<()> {
        let name = self.name;
        let takes = format!("removing `{name}` takes all that it wrote with it");
        let question = format!("Remove `{name}` with all that it wrote?");
        if self.confirm.is_wanted(&takes, &question)? {
            call(context, Request::Remove { name }, |_| {})?;
        }
        Ok(())
    }
}
