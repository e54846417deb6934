//! `shale template tag`: another name for a template.

use clap::Args;
use shale_hostd::set_reference;
use shale_model::{Reference, Template, TemplateId, TemplateIndex};

use crate::context::{Context, get_index, resolve};
use crate::output::say;

/// Give a template one more name, for each platform that it is there for
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
        let catalog = context.catalog(&place);
        let named = match self.reference.id {
            Some(_) => None,
            None => get_index(&*catalog, &self.reference)?,
        };
        let templates = match named {
            Some(index) => index,
            None => {
                let id = resolve(&*catalog, &self.reference)?;
                let template = Template::decode(&catalog.template(id)?)?;
                TemplateIndex::one(template.platform, id)
            }
        };
        let before = get_index(&*catalog, &self.name)?;
        set_reference(
            &*context.sink(&place)?,
            &*catalog,
            &self.name.name,
            before,
            &templates,
        )?;
        for id in ids(&templates) {
            say!("{id}")?;
        }
        Ok(())
    }
}

fn ids(index: &TemplateIndex) -> impl Iterator<Item = TemplateId> {
    index.entries().iter().map(|entry| entry.template)
}
