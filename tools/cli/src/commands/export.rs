//! `shale export`: a template as a disk image.

use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use shale_hostd::write_disk;
use shale_model::{BlockDevice, Reference};
use shale_view::{Disk, View};
use tokio::signal::unix::{SignalKind, signal};

use crate::context::{Context, resolve};
use crate::failure::{Exit, Failure};
use crate::output::{bytes, note};
use crate::progress::DiskProgress;

/// Write a template as a raw disk image
///
/// The file is sparse: zeros take no room. It is the same disk, byte by byte, that a virtual machine sees
/// over NBD. It gets its name when it is complete: until then it is FILE.PID.part, which the next export to
/// FILE removes if this one was killed.
///
/// Examples:
///   shale export demo/base:12 base.raw
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Export {
    /// The template
    reference: Reference,
    /// The file to write; it must not exist
    file: PathBuf,
}

impl Export {
    pub(crate) fn run(self, context: &Context) -> anyhow::Result<()> {
        let place = context.place_of(&[&self.reference])?;
        let id = resolve(&*context.catalog(&place), &self.reference)?;
        let host = context.host(place)?;
        let image = host.composer.image(id)?;
        let view = Arc::new(View::for_command(image.plan, host.reader.clone()));
        let disk = Disk::read_only(view);
        let progress = DiskProgress::new(context.global.progress, disk.size());
        let written: anyhow::Result<u64> = context.runtime.block_on(async {
            let ended = interrupted()?;
            let report = |at, written| progress.report(at, written);
            tokio::select! {
                written = write_disk(&disk, &self.file, report) => Ok(written?),
                () = ended => {
                    let text = format!("write `{}`: interrupted", self.file.display());
                    Err(Failure::new(Exit::Failure, text).into())
                }
            }
        });
        progress.end();
        let written = written?;
        if !context.global.quiet {
            let (size, data) = (bytes(disk.size()), bytes(written));
            note!("{}: {size}, {data} of it data", self.file.display());
        }
        Ok(())
    }
}

/// Ends when somebody interrupts the program or asks it to end.
fn interrupted() -> io::Result<impl Future<Output = ()>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}
