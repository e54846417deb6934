//! `shale completion`: shell completions.

use clap::{Args, CommandFactory};
use clap_complete::Shell;

/// Print completions for a shell
///
/// Examples:
///   shale completion bash > /etc/bash_completion.d/shale
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Completion {
    /// The shell
    shell: Shell,
}

impl Completion {
    pub(crate) fn run(self) {
        let mut command = crate::Cli::command();
        clap_complete::generate(self.shell, &mut command, "shale", &mut std::io::stdout());
    }
}
