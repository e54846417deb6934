//! `shale export`: a template as a disk image.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use clap::Args;
use shale_model::{BlockDevice, Reference};
use shale_view::{Disk, View};

use crate::context::{Context, resolve};
use crate::output::{bytes, note};

/// Write a template as a raw disk image
///
/// The file is sparse: zeros take no room. It is the same disk, byte by byte, that a virtual machine sees
/// over NBD.
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

/// Bytes that are read and written at once.
const STEP_BYTES: u64 = 4 << 20;

impl Export {
    pub(crate) fn run(self, context: &Context) -> anyhow::Result<()> {
        let place = context.place_of(&[&self.reference])?;
        let id = resolve(&*context.catalog(&place), &self.reference)?;
        let host = context.host(place)?;
        let image = host.composer.image(id)?;
        let view = Arc::new(View::new(image.plan, host.reader.clone()));
        let disk = Disk::read_only(view);
        let shown = || format!("write `{}`", self.file.display());
        let file = File::create_new(&self.file).with_context(shown)?;
        let mut unfinished = Unfinished(Some(&self.file));
        file.set_len(disk.size()).with_context(shown)?;
        let written = context.runtime.block_on(copy(&disk, &file));
        let written = written.with_context(shown)?;
        file.sync_all().with_context(shown)?;
        unfinished.0 = None;
        if !context.global.quiet {
            let (size, data) = (bytes(disk.size()), bytes(written));
            note!("{}: {size}, {data} of it data", self.file.display());
        }
        Ok(())
    }
}

/// Writes all that is not zeros; how many bytes that were.
async fn copy(disk: &Disk, file: &File) -> anyhow::Result<u64> {
    let mut buffer = vec![0; STEP_BYTES as usize];
    let (mut at, mut written) = (0, 0);
    while at < disk.size() {
        for run in disk.status(at, STEP_BYTES.min(disk.size() - at)).await? {
            if !run.zero {
                let part = &mut buffer[..run.len as usize];
                disk.read(at, part).await?;
                file.write_all_at(part, at)?;
                written += run.len;
            }
            at += run.len;
        }
    }
    Ok(written)
}

/// Removes a file that was not written to its end.
struct Unfinished<'a>(Option<&'a Path>);

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if let Some(path) = self.0 {
            let _ = std::fs::remove_file(path);
        }
    }
}
