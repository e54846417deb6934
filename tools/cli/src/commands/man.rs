//! `shale man`: manual pages, a file for each command, for who installs or packages the program.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args, CommandFactory};

/// Write the manual pages into a directory
///
/// Examples:
///   shale man /usr/local/share/man/man1
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Man {
    /// The directory, which exists
    directory: PathBuf,
}

impl Man {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let written = clap_mangen::generate_to(crate::Cli::command(), &self.directory);
        written.with_context(|| format!("write into `{}`", self.directory.display()))
    }
}
