//! `shale vm rm`.

use std::io::{self, IsTerminal, Write};

use clap::Args;
use shale_hostd::api::Request;

use crate::commands::host::call;
use crate::context::Context;
use crate::failure::{Exit, Failure};

/// Remove a virtual machine with all that it wrote, running or not
///
/// A deployment or a start that waits for its content is ended.
///
/// Examples:
///   shale vm rm web
///   shale vm rm web --yes
#[derive(Debug, Args)]
#[command(verbatim_doc_comment, visible_alias = "delete")]
pub(crate) struct Rm {
    /// The machine
    name: String,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

impl Rm {
    pub(crate) fn run(self, context: &Context) -> anyhow::Result<()> {
        if !self.yes && !self.asked()? {
            return Ok(());
        }
        let request = Request::Remove { name: self.name };
        call(context, request, |_| {})?;
        Ok(())
    }

    /// Whether the user wants it.
    fn asked(&self) -> anyhow::Result<bool> {
        if !io::stdin().is_terminal() {
            let text = format!("removing `{}` takes all that it wrote with it", self.name);
            let hint = "--yes says that you mean it";
            return Err(Failure::new(Exit::Usage, text).hint(hint).into());
        }
        let mut terminal = io::stderr();
        write!(
            terminal,
            "Remove `{}` with all that it wrote? [y/N] ",
            self.name
        )?;
        terminal.flush()?;
        let mut line = String::new();
        io::stdin().read_line(&mut line)?;
        Ok(matches!(line.trim(), "y" | "Y" | "yes"))
    }
}
