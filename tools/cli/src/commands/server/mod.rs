//! `shale server`: a registry.

mod run;

use clap::Subcommand;

use crate::context::Context;

pub(crate) use run::{GRACE, RegistryOptions, RegistryService};

/// Serve a repository to others
#[derive(Debug, Subcommand)]
pub(crate) enum Server {
    Run(run::Run),
}

impl Server {
    pub(crate) fn run(self, context: &Context) -> anyhow::Result<()> {
        match self {
            Server::Run(run) => run.run(context),
        }
    }
}
