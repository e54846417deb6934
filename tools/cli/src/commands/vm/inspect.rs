//! `shale vm inspect`.

use clap::Args;

use super::{Shown, inspect_one};
use crate::context::Context;
use crate::output::print_one;

/// Show a virtual machine: state, template, machine, disk, how to log in
///
/// Examples:
///   shale vm inspect web --format json
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Inspect {
    /// The machine
    name: String,
}

impl Inspect {
    pub(crate) fn run(self, context: &Context) -> anyhow::Result<()> {
        let instance = inspect_one(context, &self.name)?;
        let login = None;
        let shown = Shown { instance, login };
        print_one(&shown, context.global.format, context.global.quiet)
    }
}
