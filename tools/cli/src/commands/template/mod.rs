//! `shale template`: what can be deployed.

mod create;
mod inspect;
mod lint;
mod ls;
mod rebase;
mod tag;
mod warm;

use clap::Subcommand;

use crate::context::Context;

/// Compose, list and change templates
#[derive(Debug, Subcommand)]
pub(crate) enum Template {
    Create(create::Create),
    Ls(ls::Ls),
    Inspect(inspect::Inspect),
    Lint(lint::Lint),
    Rebase(rebase::Rebase),
    Tag(tag::Tag),
    Warm(warm::Warm),
}

impl Template {
    pub(crate) fn run(self, context: &Context) -> anyhow::Result<()> {
        match self {
            Template::Create(create) => create.run(context),
            Template::Ls(ls) => ls.run(context),
            Template::Inspect(inspect) => inspect.run(context),
            Template::Lint(lint) => lint.run(context),
            Template::Rebase(rebase) => rebase.run(context),
            Template::Tag(tag) => tag.run(context),
            Template::Warm(warm) => warm.run(context),
        }
    }
}
