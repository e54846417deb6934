//! `shale layer ls`: the layers of a template.

use clap::Args;
use serde::Serialize;
use shale_model::{LayerId, LayerRoot, Reference, Template};

use crate::context::{Context, resolve};
use crate::output::{Row, bytes, print_list};

/// List the layers of a template, bottom first
///
/// Examples:
///   shale layer ls demo/web:1
#[derive(Debug, Args)]
#[command(verbatim_doc_comment, visible_alias = "list")]
pub(crate) struct Ls {
    /// The template
    reference: Reference,
}

/// One layer.
#[derive(Debug, Serialize)]
struct Listed {
    layer: LayerId,
    entries: u64,
    logical_bytes: u64,
    chunks: u64,
    pages: usize,
    made_on: Vec<LayerId>,
}

impl Row for Listed {
    const COLUMNS: &'static [&'static str] = &["LAYER", "ENTRIES", "LOGICAL", "CHUNKS", "MADE ON"];

    fn cells(&self) -> Vec<String> {
        let made_on: Vec<String> = self.made_on.iter().map(LayerId::short).collect();
        vec![
            self.layer.short(),
            self.entries.to_string(),
            bytes(self.logical_bytes),
            self.chunks.to_string(),
            made_on.join(" "),
        ]
    }
}

impl Ls {
    pub(crate) fn run(self, context: &Context) -> anyhow::Result<()> {
        let place = context.place_of(&[&self.reference])?;
        let catalog = context.catalog(&place);
        let id = resolve(&*catalog, &self.reference)?;
        let template = Template::decode(&catalog.template(id)?)?;
        let list = |layer: &shale_model::TemplateLayer| {
            let root = LayerRoot::decode(&catalog.layer(layer.id)?)?;
            anyhow::Ok(Listed {
                layer: layer.id,
                entries: root.totals.entries,
                logical_bytes: root.totals.bytes,
                chunks: root.totals.chunks,
                pages: root.pages.len(),
                made_on: layer.made_on.clone(),
            })
        };
        let rows = template
            .layers
            .iter()
            .map(list)
            .collect::<anyhow::Result<Vec<_>>>()?;
        print_list(&rows, context.global.format, context.global.quiet)
    }
}
