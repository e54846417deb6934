//! `shale template inspect`.

use clap::Args;
use serde::Serialize;
use shale_hostd::warm_reference;
use shale_model::{IndexEntry, LayerRoot, Platform, Reference, Template, TemplateId};

use crate::context::{Context, get_index, resolve_for};
use crate::output::{Row, bytes, print_one};

/// Show a template: its layers, sizes and machine, and for which platforms its name has others
///
/// Examples:
///   shale template inspect demo/web:1 --format json
///   shale template inspect demo/web:1 --platform linux/arm64
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Inspect {
    /// The template
    reference: Reference,
    /// Which of the name's platforms
    #[arg(long, value_name = "OS/ARCH", default_value_t)]
    platform: Platform,
}

/// What there is to say about a template.
#[derive(Debug, Serialize)]
struct Shown {
    id: TemplateId,
    entries: u64,
    logical_bytes: u64,
    template: Template,
    /// The template that is its warm snapshot, if it has one.
    warm: Option<TemplateId>,
    /// What the name has for each platform; empty for a template that is named by its id.
    platforms: Vec<IndexEntry>,
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
        "Warm snapshot",
        "Platforms of this name",
    ];

    fn cells(&self) -> Vec<String> {
        let layers = self.template.layers.iter().map(|layer| layer.id.short());
        let machine = &self.template.machine;
        let platforms = self
            .platforms
            .iter()
            .map(|entry| entry.platform.to_string());
        vec![
            self.id.to_string(),
            self.template.platform.to_string(),
            self.entries.to_string(),
            bytes(self.logical_bytes),
            layers.collect::<Vec<_>>().join(" "),
            bytes(machine.memory_bytes),
            machine.login_user.clone(),
            self.warm.map_or("none".into(), |warm| warm.to_string()),
            platforms.collect::<Vec<_>>().join(" "),
        ]
    }
}

impl Inspect {
    pub(crate) fn run(self, context: &Context) -> anyhow::Result<()> {
        let place = context.place_of(&[&self.reference])?;
        let catalog = context.catalog(&place);
        let id = resolve_for(&*catalog, &self.reference, &self.platform)?;
        let index = match self.reference.id {
            Some(_) => None,
            None => get_index(&*catalog, &self.reference)?,
        };
        let template = Template::decode(&catalog.template(id)?)?;
        let (mut entries, mut logical_bytes) = (0, 0);
        for layer in &template.layers {
            let root = LayerRoot::decode(&catalog.layer(layer.id)?)?;
            entries += root.totals.entries;
            logical_bytes += root.totals.bytes;
        }
        let warm = catalog.get_ref(&warm_reference(&self.reference.name, id)?)?;
        let shown = Shown {
            warm: warm.and_then(|warm| warm.get(&self.platform)),
            id,
            entries,
            logical_bytes,
            template,
            platforms: index.map_or(Vec::new(), |index| index.entries().to_vec()),
        };
        print_one(&shown, context.global.format, context.global.quiet)
    }
}
