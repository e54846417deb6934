//! `shale template inspect`.

use clap::Args;
use serde::Serialize;
use shale_model::{LayerRoot, Reference, Template, TemplateId};

use crate::context::{Context, resolve};
use crate::output::{Row, bytes, print_one};

/// Show a template: its layers, sizes and machine
///
/// Examples:
///   shale template inspect demo/web:1 --format json
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Inspect {
    /// The template
    reference: Reference,
}

/// What there is to say about a template.
#[derive(Debug, Serialize)]
struct Shown {
    id: TemplateId,
    entries: u64,
    logical_bytes: u64,
    template: Template,
}

impl Row for Shown {
    const COLUMNS: &'static [&'static str] = &[
        "Id",
        "Platform",
        "Entries",
        "Logical",
        "Layers",
        "Memory",
        "Login user",
    ];

    fn cells(&self) -> Vec<String> {
        let layers = self.template.layers.iter().map(|layer| layer.id.short());
        let machine = &self.template.machine;
        vec![
            self.id.to_string(),
            format!(
                "{}/{}",
                self.template.platform.os, self.template.platform.architecture
            ),
            self.entries.to_string(),
            bytes(self.logical_bytes),
            layers.collect::<Vec<_>>().join(" "),
            bytes(machine.memory_bytes),
            machine.login_user.clone(),
        ]
    }
}

impl Inspect {
    pub(crate) fn run(self, context: &Context) -> anyhow::Result<()> {
        let place = context.place_of(&[&self.reference])?;
        let id = resolve(&place, &self.reference)?;
        let catalog = place.catalog();
        let template = Template::decode(&catalog.template(id)?)?;
        let (mut entries, mut logical_bytes) = (0, 0);
        for layer in &template.layers {
            let root = LayerRoot::decode(&catalog.layer(layer.id)?)?;
            entries += root.totals.entries;
            logical_bytes += root.totals.bytes;
        }
        let shown = Shown {
            id,
            entries,
            logical_bytes,
            template,
        };
        print_one(&shown, context.global.format, context.global.quiet)
    }
}
