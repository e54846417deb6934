//! `shale vm reimage`.

use clap::Args;
use shale_hostd::api::{self, Outcome, ReimageNote, Request};
use shale_model::Reference;

use super::confirm::Confirm;
use super::deploy::own_keys;
use super::{Shown, show_stage};
use crate::commands::host::{call, unexpected};
use crate::context::Context;
use crate::output::{note, print_one};

/// Give a virtual machine a new root disk from a template
///
/// From REF, or from what its own reference means now: a newer template. The machine must be
/// stopped, and stays itself: host name, machine id, SSH host key, user and keys, ports, memory and
/// data disks are as before. All that was written on its old root disk is lost, but for its
/// snapshots, which can still be restored.
///
/// Examples:
///   shale vm stop web && shale vm reimage web && shale vm start web
///   shale vm reimage web demo/web:2 --yes
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Reimage {
    /// The machine
    name: String,
    /// The template; by default that of its own reference
    #[arg(value_name = "REF")]
    reference: Option<Reference>,
    #[command(flatten)]
    confirm: Confirm,
    /// Longest wait for what is fetched, in seconds
    #[arg(long, default_value_t = 300, value_name = "SECONDS")]
    timeout: u64,
}

impl Reimage {
    pub(crate) fn run(self, context: &Context) -> anyhow::Result<()> {
        let name = self.name;
        let takes =
            format!("a new disk for `{name}` takes all that it wrote on the old one with it");
        let question =
            format!("Give `{name}` a new root disk, and lose what it wrote on the old one?");
        if !self.confirm.is_wanted(&takes, &question)? {
            return Ok(());
        }
        let template = match &self.reference {
            Some(reference) => {
                let repository = context.repository_of(&[reference])?;
                Some((reference.to_string(), repository))
            }
            None => None,
        };
        let request = Request::Reimage(Box::new(api::Reimage {
            name,
            template,
            authorized_keys: own_keys(),
            limit_seconds: self.timeout,
        }));
        let outcome = call(context, request, show_stage(context))?;
        let Outcome::Reimaged { instance, notes } = outcome else {
            return Err(unexpected(&outcome));
        };
        for changed in notes {
            match changed {
                ReimageNote::NewHostKey => {
                    note!("it has a new SSH host key and machine id: its own were not kept");
                }
                ReimageNote::MoreMemory => note!("it has more memory: the template needs that"),
            }
        }
        let instance = *instance;
        let login = None;
        let shown = Shown { instance, login };
        print_one(&shown, context.global.format, context.global.quiet)
    }
}
