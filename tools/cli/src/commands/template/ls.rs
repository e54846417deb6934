//! `shale template ls`.

use clap::Args;
use serde::Serialize;
use shale_model::TemplateId;

use crate::context::Context;
use crate::output::{Row, print_list};

/// List templates
///
/// Examples:
///   shale template ls
///   shale template ls demo --format json
#[derive(Debug, Args)]
#[command(verbatim_doc_comment, visible_alias = "list")]
pub(crate) struct Ls {
    /// Only this project
    #[arg(default_value = "")]
    project: String,
}

/// One platform of a reference.
#[derive(Debug, Serialize)]
struct Listed {
    reference: String,
    platform: String,
    template: TemplateId,
}

impl Row for Listed {
    const COLUMNS: &'static [&'static str] = &["REFERENCE", "PLATFORM", "TEMPLATE"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.reference.clone(),
            self.platform.clone(),
            self.template.short(),
        ]
    }
}

impl Ls {
    pub(crate) fn run(self, context: &Context) -> anyhow::Result<()> {
        let refs = context
            .catalog(&context.place()?)
            .list_refs(&self.project)?;
        let rows: Vec<Listed> = refs
            .iter()
            .flat_map(|(name, index)| index.entries().iter().map(move |entry| (name, entry)))
            .map(|(name, entry)| Listed {
                reference: name.to_string(),
                platform: entry.platform.to_string(),
                template: entry.template,
            })
            .collect();
        print_list(&rows, context.global.format, context.global.quiet)
    }
}
