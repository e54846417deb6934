//! `shale template lint`: what a template holds that belongs to one machine.

use clap::Args;
use serde::Serialize;
use shale_image::identity::{Finding, lint};
use shale_model::Reference;

use crate::context::{Context, resolve};
use crate::failure::{Exit, Failure};
use crate::output::{Row, print_list};

/// Find what belongs to one machine: ids, keys, seeds, leases
///
/// Every instance of the template would have it. Exits with 1 if something is found.
///
/// Examples:
///   shale template lint demo/web:1
///   shale template lint demo/web:1 --format json
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Lint {
    /// The template
    reference: Reference,
}

/// Something that was found.
#[derive(Debug, Serialize)]
struct Found {
    path: String,
    problem: String,
}

impl From<&Finding> for Found {
    fn from(finding: &Finding) -> Self {
        Self {
            path: finding.path.to_string(),
            problem: finding.leak.to_string(),
        }
    }
}

impl Row for Found {
    const COLUMNS: &'static [&'static str] = &["PATH", "PROBLEM"];

    fn cells(&self) -> Vec<String> {
        vec![self.path.clone(), self.problem.clone()]
    }
}

impl Lint {
    pub(crate) fn run(self, context: &Context) -> anyhow::Result<()> {
        let place = context.place_of(&[&self.reference])?;
        let host = context.host(place)?;
        let id = resolve(&*host.catalog, &self.reference)?;
        let template = host.composer.template(id)?;
        let composed = host.composer.compose(&template)?;
        let rows: Vec<Found> = lint(&composed.tree).iter().map(Found::from).collect();
        print_list(&rows, context.global.format, context.global.quiet)?;
        if rows.is_empty() {
            return Ok(());
        }
        let text = format!("`{}` holds what belongs to one machine", self.reference);
        let hint = "remove it from the tree, and push again";
        Err(Failure::new(Exit::Failure, text).hint(hint).into())
    }
}
