//! `shale layer`: what templates are made of.

mod ls;

use clap::Subcommand;

use crate::commands::push::Push;
use crate::context::Context;

/// Push layers and look into them
#[derive(Debug, Subcommand)]
pub(crate) enum Layer {
    Push(Push),
    Ls(ls::Ls),
}

impl Layer {
    pub(crate) fn run(self, context: &Context) -> anyhow::Result<()> {
        match self {
            Layer::Push(push) => push.run(context),
            Layer::Ls(ls) => ls.run(context),
        }
    }
}
