//! `shale template tag`: another name for a template.

use clap::Args;
use shale_model::{Reference, Template};

use crate::commands::push::store_template;
use crate::context::{Context, resolve};
use crate::output::say;

/// Give a template one more name
///
/// Examples:
///   shale template tag demo/web:1 demo/web:latest
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Tag {
    /// The template
    reference: Reference,
    /// The new name
    name: Reference,
}

impl Tag {
    pub(crate) fn run(self, context: &Context) -> anyhow::Result<()> {
        let place = context.place_of(&[&self.reference, &self.name])?;
        let id = resolve(&place, &self.reference)?;
        let template = Template::decode(&place.catalog().template(id)?)?;
        store_template(&place, &self.name, &template)?;
        Ok(say!("{id}")?)
    }
}
