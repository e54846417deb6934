//! `shale mount` without arguments.

use serde::Serialize;
use shale_hostd::api::{MountShown, Outcome, Request, ShownFace, ShownMountState};

use crate::commands::host::{call, unexpected};
use crate::context::Context;
use crate::output::{Row, note, print_list, utc};

#[derive(Debug, Serialize)]
#[serde(transparent)]
struct Listed(MountShown);

impl Row for Listed {
    const COLUMNS: &'static [&'static str] =
        &["DIRECTORY", "TEMPLATE", "SHOWS", "STATE", "CREATED"];

    fn cells(&self) -> Vec<String> {
        let mount = &self.0;
        let shows = match (mount.shows, &mount.overlay) {
            (ShownFace::Tree, _) => "tree",
            (ShownFace::Disk, None) => "disk",
            (ShownFace::Disk, Some(_)) => "disk, writable",
        };
        let state = match mount.state {
            ShownMountState::Making => "is being made",
            ShownMountState::Served => "served",
            ShownMountState::Waits => "waits",
            ShownMountState::Unmounted => "unmounted, in use",
        };
        vec![
            place(mount),
            mount.reference.clone(),
            shows.into(),
            state.into(),
            utc(mount.created),
        ]
    }
}

/// Where a mount is.
fn place(mount: &MountShown) -> String {
    match (&mount.directory, &mount.machine) {
        (Some(directory), _) => directory.display().to_string(),
        (None, machine) => format!("(memory of {})", machine.as_deref().unwrap_or("?")),
    }
}

/// Lists what the host service has mounted.
pub(super) fn list(context: &Context) -> anyhow::Result<()> {
    let outcome = call(context, Request::Mounts, |_| {})?;
    let Outcome::Mounts { mounts, damaged } = outcome else {
        return Err(unexpected(&outcome));
    };
    for mount in &mounts {
        if let Some(trouble) = &mount.trouble {
            note!("`{}` cannot be served: {trouble}", place(mount));
        }
    }
    // What has no directory has nothing that another command could be told.
    let is_shown = |mount: &MountShown| mount.directory.is_some() || !context.global.quiet;
    let rows: Vec<Listed> = mounts.into_iter().filter(is_shown).map(Listed).collect();
    print_list(&rows, context.global.format, context.global.quiet)?;
    for damaged in damaged {
        note!("`{}` is damaged: {}", damaged.name, damaged.reason);
    }
    Ok(())
}
