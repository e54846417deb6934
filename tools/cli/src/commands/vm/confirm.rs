//! Whether somebody means what cannot be undone.

use std::io::{self, IsTerminal, Write};

use clap::Args;

use crate::failure::{Exit, Failure};

/// Asks on a terminal; elsewhere `--yes` is needed.
#[derive(Debug, Args)]
pub(super) struct Confirm {
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

impl Confirm {
    /// Whether the user wants it. Where nobody can be asked, the error says what it `takes`.
    pub(super) fn is_wanted(&self, takes: &str, question: &str) -> anyhow::Result<bool> {
        if self.yes {
            return Ok(true);
        }
        if !io::stdin().is_terminal() {
            let hint = "--yes says that you mean it";
            return Err(Failure::new(Exit::Usage, takes).hint(hint).into());
        }
        let mut terminal = io::stderr();
        write!(terminal, "{question} [y/N] ")?;
        terminal.flush()?;
        let mut line = String::new();
        io::stdin().read_line(&mut line)?;
        Ok(matches!(line.trim(), "y" | "Y" | "yes"))
    }
}
