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
            mount.directory.display().to_string(),
            mount.reference.clone(),
            shows.into(),
            state.into(),
            utc(mount.created),
        ]
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
            note!(
                "`{}` cannot be served: {trouble}",
                mount.directory.display()
            );
        }
    }
    let rows: Vec<Listed> = mounts.into_iter().map(Listed).collect();
    print_list(&rows, context.global.format, context.global.quiet)?;
    for damaged in damaged {
        note!("`{}` is damaged: {}", damaged.name, damaged.reason);
    }
    Ok(())
}
