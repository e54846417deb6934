//! `shale vm export`.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use shale_hostd::api::{Brought, Outcome, Request};

use crate::commands::host::{call, unexpected};
use crate::context::Context;
use crate::output::{bytes, note};
use crate::progress::ShareProgress;

/// Write the root disk of a virtual machine, with all that its guest wrote, as a raw disk image
///
/// The machine must be stopped or paused; of one that is paused the file is what a power cut would leave. The file is
/// sparse, and gets its name when it is complete. What is not on this host is fetched. The host service writes it, also
/// when this command is interrupted. Data disks are no part of it: `shale vm inspect` shows their files.
///
/// Examples:
///   shale vm stop web && shale vm export web web.raw
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Export {
    /// The machine
    name: String,
    /// The file to write; it must not exist
    file: PathBuf,
}

impl Export {
    pub(crate) fn run(self, context: &Context) -> anyhow::Result<()> {
        let file = std::path::absolute(&self.file)
            .with_context(|| format!("find `{}`", self.file.display()))?;
        let progress = ShareProgress::new(context.global.progress, "are written");
        let quiet = context.global.quiet;
        let name = self.name;
        let outcome = call(context, Request::Export { name, file }, |report| {
            if let Some(Brought { bytes, of }) = report.brought {
                progress.report(bytes, of);
            }
            if let (Some(stall), false) = (report.stall, quiet) {
                note!("{:7.2} s  waits: {stall}", report.seconds);
            }
        });
        progress.end();
        match outcome? {
            Outcome::Exported {
                disk_bytes,
                written_bytes,
            } => {
                if !quiet {
                    let (size, data) = (bytes(disk_bytes), bytes(written_bytes));
                    note!("{}: {size}, {data} of it data", self.file.display());
                }
                Ok(())
            }
            other => Err(unexpected(&other)),
        }
    }
}
