//! `shale template create`: a base and applications become a template.

use clap::Args;
use shale_model::{Composition, Reference, Template};

use crate::commands::push::store_template;
use crate::context::{Context, resolve};
use crate::output::parse_bytes;

/// Compose a base and applications into a template
///
/// The applications' own layers go on the base in the order given; they may have been made apart. The
/// template is composed once to check that they fit.
///
/// Examples:
///   shale template create demo/web:1 demo/base:12+demo/nginx:1.22+demo/postgresql:15
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Create {
    /// Name of the template: project/name[:tag]
    reference: Reference,
    /// BASE+APP+APP
    composition: Composition,
    /// Least memory of a virtual machine
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    memory: Option<u64>,
    /// Size of the root disk
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    disk: Option<u64>,
    /// User that `shale vm ssh` logs in as
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
}

impl Create {
    pub(crate) fn run(self, context: &Context) -> anyhow::Result<()> {
        let place = context.place()?;
        let host = context.host(place)?;
        let load = |reference: &Reference| {
            let id = resolve(&host.place, reference)?;
            anyhow::Ok(host.composer.template(id)?)
        };
        let base = load(&self.composition.base)?;
        let mut layers = base.layers.clone();
        for app in &self.composition.apps {
            layers.extend(load(app)?.own_layers().cloned());
        }
        let mut machine = base.machine.clone();
        machine.memory_bytes = self.memory.unwrap_or(machine.memory_bytes);
        machine.disk_bytes = self.disk.unwrap_or(machine.disk_bytes);
        machine.login_user = self.user.unwrap_or(machine.login_user);
        let template = Template::new(base.platform.clone(), layers, machine);
        let id = store_template(&host.place, &self.reference, &template)?;
        host.composer.image(id)?;
        println!("{id}");
        Ok(())
    }
}
