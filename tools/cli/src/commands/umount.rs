//! `shale umount`: the end of a mount.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;
use shale_fusefs::{MountError, Unmount, mount_point, unmount};

use crate::commands::host::tell_unmounted;
use crate::context::Context;
use crate::failure::{Exit, Failure};

/// Most programs that an error names; who needs more looks with lsof(8).
const SHOWN_USERS: usize = 5;

/// Unmount what `shale mount` mounted
///
/// Whoever served it ends that. Unlike umount(8), which looks at what it unmounts, it does not wait for a host service that
/// is not running. A mount that a killed `shale mount --foreground` left ("Transport endpoint is not
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
    /// Also if it is in use: whoever uses it gets errors
    #[arg(long, conflicts_with = "lazy")]
    force: bool,
}

impl Umount {
    pub(crate) fn run(self, context: &Context) -> anyhow::Result<()> {
        let when = match (self.lazy, self.force) {
            (true, _) => Unmount::Now,
            (false, true) => Unmount::Abort,
            (false, false) => Unmount::WhenUnused,
        };
        // As the service knows it, before there is nothing any more.
        let point = mount_point(&self.directory)?;
        match unmount(&self.directory, when) {
            Err(MountError::Busy(path)) => {
                let users = users_of(&point);
                let error = MountError::Busy(path);
                Err(match users.is_empty() {
                    true => error.into(),
                    false => {
                        let hint = format!(
                            "it is used by {}; end that, or use --lazy or --force",
                            users.join(", ")
                        );
                        Failure::new(Exit::Conflict, error.to_string())
                            .hint(hint)
                            .into()
                    }
                })
            }
            Err(error) => Err(error.into()),
            // With --lazy the last user may hold it up for long.
            Ok(()) if self.lazy => Ok(()),
            Ok(()) => tell_unmounted(context, point),
        }
    }
}

/// Some of the processes that have a directory or a file below `point` open, as far as this user may see that.
fn users_of(point: &Path) -> Vec<String> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let using = processes.filter(|process| {
        let number = |name: &OsStr| name.to_str().and_then(|name| name.parse().ok());
        let is_other = |name: &OsStr| number(name).is_some_and(|it: u32| it != std::process::id());
        let path = process.path();
        let files = fs::read_dir(path.join("fd"))
            .into_iter()
            .flatten()
            .flatten();
        let links = ["cwd", "root", "exe"].map(|name| path.join(name));
        let mut all = links.into_iter().chain(files.map(|file| file.path()));
        is_other(&process.file_name())
            && all.any(|link| fs::read_link(link).is_ok_and(|to| to.starts_with(point)))
    });
    let named = using.take(SHOWN_USERS).map(|process| {
        let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
        format!("{} ({})", name.trim(), process.file_name().display())
    });
    named.collect()
}
