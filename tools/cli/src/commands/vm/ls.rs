//! `shale vm ls`.

use clap::Args;
use serde::Serialize;
use shale_hostd::api::{Instance, Outcome, Request};

use super::{local, ports, state};
use crate::commands::host::{call, unexpected};
use crate::context::Context;
use crate::output::{Row, note, print_list};

/// List virtual machines
///
/// Examples:
///   shale vm ls
///   shale vm ls --format json
#[derive(Debug, Args)]
#[command(verbatim_doc_comment, visible_alias = "list")]
pub(crate) struct Ls {}

#[derive(Debug, Serialize)]
#[serde(transparent)]
struct Listed(Instance);

impl Row for Listed {
    const COLUMNS: &'static [&'static str] =
        &["NAME", "STATE", "TEMPLATE", "LOCAL", "SSH", "PORTS"];

    fn cells(&self) -> Vec<String> {
        let instance = &self.0;
        vec![
            instance.name.clone(),
            state(instance),
            instance.reference.clone(),
            local(&instance.disk),
            instance.ssh.port.to_string(),
            ports(instance),
        ]
    }
}

impl Ls {
    pub(crate) fn run(self, context: &Context) -> anyhow::Result<()> {
        let outcome = call(context, Request::List, |_| {})?;
        let Outcome::Instances { instances, damaged } = outcome else {
            return Err(unexpected(&outcome));
        };
        let rows: Vec<Listed> = instances.into_iter().map(Listed).collect();
        print_list(&rows, context.global.format, context.global.quiet)?;
        for damaged in damaged {
            note!("`{}` is damaged: {}", damaged.name, damaged.reason);
        }
        Ok(())
    }
}
