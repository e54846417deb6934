//! `shale template warm`: a snapshot that machines start from.

use clap::Args;
use shale_hostd::api::{MachineWish, Outcome, Request, WarmWish};
use shale_model::Reference;

use crate::commands::host::{call, unexpected};
use crate::commands::vm::{Accel, parse_memory, show_stage};
use crate::context::Context;
use crate::output::{parse_bytes, print_one};

/// Make a snapshot of a template's machine at its login prompt, for `vm deploy --warm`
///
/// The template is booted once, on this host, without an identity: no host keys, no users' keys, and a name and machine id
/// that are nobody's. When it is ready it is kept: its memory, its devices, and what it has written. That is pushed beside
/// the template, as a template whose tag is `warm-` and the id of this one, and replaces one that was there. Zeros and what the
/// repository has already cost nothing.
///
/// A machine that starts from it must have the same memory, processors and disk, and the same hypervisor in the same
/// version. Programs of the template that draw keys of their own when they start have drawn them before: do not start
/// such programs in it, or let them start again on each machine.
///
/// Examples:
///   shale template warm demo/web:1
///   shale template warm demo/web:1 --memory 2G --cpus 4 --disk 20G
///   shale vm deploy demo/web:1 --name web --warm
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Warm {
    /// The template
    reference: Reference,
    /// Memory; at least that of the template
    #[arg(long, value_name = "SIZE", value_parser = parse_memory)]
    memory: Option<u64>,
    /// Processors
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=256))]
    cpus: Option<u32>,
    /// Size of the disk; at least that of the template
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    disk: Option<u64>,
    /// How the processors run
    #[arg(long, value_enum, default_value_t, value_name = "HOW")]
    accel: Accel,
    /// Longest wait for the login prompt, in seconds
    #[arg(long, default_value_t = 300, value_name = "SECONDS")]
    timeout: u64,
}

impl Warm {
    pub(crate) fn run(self, context: &Context) -> anyhow::Result<()> {
        let request = Request::Warm(Box::new(WarmWish {
            reference: self.reference.to_string(),
            repository: context.repository_of(&[&self.reference])?,
            machine: MachineWish {
                memory_bytes: self.memory,
                cpus: self.cpus,
                disk_bytes: self.disk,
                data_disks: vec![],
                acceleration: self.accel.into(),
            },
            limit_seconds: self.timeout,
        }));
        match call(context, request, show_stage(context))? {
            Outcome::Warmed(new) => print_one(&*new, context.global.format, context.global.quiet),
            other => Err(unexpected(&other)),
        }
    }
}
