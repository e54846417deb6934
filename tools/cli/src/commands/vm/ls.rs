//! `shale vm ls`.

use clap::Args;
use serde::Serialize;
use shale_hostd::api::{Instance, Outcome, Request};

use super::{boot_set, eta, local, ports, stall, state};
use crate::commands::host::{call, unexpected};
use crate::context::Context;
use crate::output::{Row, note, print_list};

/// List virtual machines: what they do, how much of their content and of what boots read is here, when the rest will be
///
/// LOCAL is the share of a machine's content on this host, BOOT SET that of what boots of its template read; ETA is
/// when all is here, at the rate of the last half minute; STALL is why and for how long it waits for its disk.
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
    const COLUMNS: &'static [&'static str] = &[
        "NAME", "STATE", "TEMPLATE", "LOCAL", "BOOT SET", "ETA", "STALL", "SSH", "PORTS",
    ];

    fn cells(&self) -> Vec<String> {
        let instance = &self.0;
        vec![
            instance.name.clone(),
            state(instance),
            instance.reference.clone(),
            local(&instance.disk),
            boot_set(&instance.disk),
            eta(&instance.disk),
            stall(&instance.disk),
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
