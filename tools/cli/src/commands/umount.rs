//! `shale umount`: the end of a mount.

use std::path::PathBuf;

use clap::Args;
use shale_fusefs::{Unmount, unmount};

/// Unmount what `shale mount` mounted
///
/// The `shale mount` that serves the directory ends. A mount that a killed one left ("Transport endpoint is not
/// connected") is taken away too.
///
/// Examples:
///   shale umount /mnt
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Umount {
    /// The directory
    directory: PathBuf,
    /// Also if it is in use: it goes from its place, and is served until its last user ends
    #[arg(long)]
    lazy: bool,
}

impl Umount {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let when = match self.lazy {
            true => Unmount::Now,
            false => Unmount::WhenUnused,
        };
        Ok(unmount(&self.directory, when)?)
    }
}
