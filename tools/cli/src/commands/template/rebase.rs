//! `shale template rebase`: the same applications on another base.

use clap::Args;
use shale_model::{Platform, Reference, Template};

use super::create::{Conflicts, compose_and_store, layers_of_app, load};
use crate::context::Context;

/// Put a template's applications on another base
///
/// The layers stay what they are; files that several of them change are merged with what the new base
/// has.
///
/// Examples:
///   shale template rebase demo/web:1 --onto demo/base:12.1 --as demo/web:2
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Rebase {
    /// The template whose applications are taken
    reference: Reference,
    /// The new base
    #[arg(long, value_name = "REF")]
    onto: Reference,
    /// Name of the new template; by default the old one is replaced
    #[arg(long = "as", value_name = "REF")]
    name: Option<Reference>,
    /// What it runs on
    #[arg(long, value_name = "OS/ARCH", default_value_t)]
    platform: Platform,
    /// What to do where layers changed the same thing differently
    #[arg(long, value_enum, default_value_t, value_name = "WHAT")]
    conflicts: Conflicts,
}

impl Rebase {
    pub(crate) fn run(self, context: &Context) -> anyhow::Result<()> {
        let mut references = vec![&self.reference, &self.onto];
        references.extend(&self.name);
        let place = context.place_of(&references)?;
        let host = context.host(place)?;
        let old = load(&host, &self.reference, &self.platform)?;
        let base = load(&host, &self.onto, &self.platform)?;
        let mut layers = base.layers.clone();
        layers.extend(layers_of_app(&old, &self.reference)?);
        let template = Template::new(base.platform.clone(), layers, old.machine.clone());
        let name = self.name.as_ref().unwrap_or(&self.reference);
        compose_and_store(context, &host, name, &template, self.conflicts)
    }
}
