//! `shale vm ls`.

use clap::Args;
use serde::Serialize;
use shale_hostd::api::{Damaged, Instance, Outcome, Request};

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

/// One of the list.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Listed {
    Whole(Box<Instance>),
    /// Its record cannot be read.
    Damaged {
        name: String,
        state: &'static str,
        reason: String,
    },
}

impl From<Damaged> for Listed {
    fn from(damaged: Damaged) -> Self {
        Self::Damaged {
            name: damaged.name,
            state: "damaged",
            reason: damaged.reason,
        }
    }
}

impl Row for Listed {
    const COLUMNS: &'static [&'static str] = &[
        "NAME", "STATE", "TEMPLATE", "LOCAL", "BOOT SET", "ETA", "STALL", "SSH", "PORTS",
    ];

    fn cells(&self) -> Vec<String> {
        let instance = match self {
            Self::Whole(instance) => instance,
            Self::Damaged { name, state, .. } => {
                let known = [name.as_str(), state].into_iter();
                let unknown = std::iter::repeat("-");
                let cells = known.chain(unknown).take(Self::COLUMNS.len());
                return cells.map(str::to_owned).collect();
            }
        };
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
        for damaged in &damaged {
            note!("`{}` is damaged: {}", damaged.name, damaged.reason);
        }
        let whole = instances.into_iter().map(Box::new).map(Listed::Whole);
        let rows: Vec<Listed> = whole.chain(damaged.into_iter().map(Listed::from)).collect();
        print_list(&rows, context.global.format, context.global.quiet)
    }
}
