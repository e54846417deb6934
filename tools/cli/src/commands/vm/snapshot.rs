//! `shale vm snapshot`.

use clap::{Args, Subcommand};
use serde::Serialize;
use shale_hostd::api::{self, Brought, Outcome, Request, SnapshotAction, StageReport};

use super::confirm::Confirm;
use crate::commands::host::{call, unexpected};
use crate::context::Context;
use crate::output::{Row, bytes, note, print_list, print_one, utc};
use crate::progress::ShareProgress;

/// Keep the disk of a virtual machine as it is, and bring it back
///
/// A snapshot is a copy of what the guest wrote to its root disk; data disks are no part of it.
/// Where that disk is a plain file (`shale vm localize`), it is a copy of the whole, which shares
/// its blocks with the disk where the file system can do that. A machine has 64 at most.
///
/// A machine that runs is paused while it is copied: the snapshot is what a power cut would leave,
/// and a file system that keeps a journal is in order after it. Of a machine that is stopped it is
/// the disk as it is. Snapshots are removed with their machine.
///
/// Examples:
///   shale vm snapshot create web before-upgrade
///   shale vm snapshot ls web
///   shale vm stop web && shale vm snapshot restore web before-upgrade
///   shale vm snapshot rm web before-upgrade
#[derive(Debug, Subcommand)]
#[command(verbatim_doc_comment)]
pub(crate) enum Snapshot {
    Create(Create),
    Ls(Ls),
    Restore(Restore),
    Rm(Rm),
}

/// Keep the disk of a virtual machine as it is
///
/// One that runs is paused meanwhile, so that the snapshot is what a power cut would leave. Data
/// disks are no part of it.
///
/// Examples:
///   shale vm snapshot create web before-upgrade
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Create {
    /// The machine
    name: String,
    /// What to call it: letters a-z, digits and hyphens
    snapshot: String,
}

/// List the snapshots of a virtual machine
///
/// Examples:
///   shale vm snapshot ls web --format json
#[derive(Debug, Args)]
#[command(verbatim_doc_comment, visible_alias = "list")]
pub(crate) struct Ls {
    /// The machine
    name: String,
}

/// Make the disk of a virtual machine what it was
///
/// The machine must be stopped. All that was written to its root disk since then is lost; data
/// disks stay as they are, and so does the snapshot. After a reimage, the machine has its earlier
/// template again.
///
/// Examples:
///   shale vm stop web && shale vm snapshot restore web before-upgrade --yes
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Restore {
    /// The machine
    name: String,
    /// The snapshot
    snapshot: String,
    #[command(flatten)]
    confirm: Confirm,
}

/// Remove a snapshot
///
/// Examples:
///   shale vm snapshot rm web before-upgrade --yes
#[derive(Debug, Args)]
#[command(verbatim_doc_comment, visible_alias = "delete")]
pub(crate) struct Rm {
    /// The machine
    name: String,
    /// The snapshot
    snapshot: String,
    #[command(flatten)]
    confirm: Confirm,
}

#[derive(Debug, Serialize)]
#[serde(transparent)]
struct Shown(api::Snapshot);

impl Row for Shown {
    const COLUMNS: &'static [&'static str] = &["NAME", "CREATED", "BYTES", "TEMPLATE"];

    fn cells(&self) -> Vec<String> {
        let snapshot = &self.0;
        vec![
            snapshot.name.clone(),
            utc(snapshot.created),
            bytes(snapshot.bytes),
            format!("{} {}", snapshot.reference, snapshot.template.short()),
        ]
    }
}

impl Snapshot {
    pub(crate) fn run(self, context: &Context) -> anyhow::Result<()> {
        match self {
            Self::Create(create) => create.run(context),
            Self::Ls(ls) => ls.run(context),
            Self::Restore(restore) => restore.run(context),
            Self::Rm(rm) => rm.run(context),
        }
    }
}

impl Create {
    fn run(self, context: &Context) -> anyhow::Result<()> {
        let snapshot = self.snapshot;
        let outcome = copy(context, self.name, SnapshotAction::Create { snapshot })?;
        match outcome {
            Outcome::Snapshot(made) => {
                let shown = Shown(*made);
                print_one(&shown, context.global.format, context.global.quiet)
            }
            other => Err(unexpected(&other)),
        }
    }
}

impl Ls {
    fn run(self, context: &Context) -> anyhow::Result<()> {
        let (name, action) = (self.name, SnapshotAction::List);
        let outcome = call(context, Request::Snapshots { name, action }, |_| {})?;
        let Outcome::Snapshots { snapshots, damaged } = outcome else {
            return Err(unexpected(&outcome));
        };
        let rows: Vec<Shown> = snapshots.into_iter().map(Shown).collect();
        print_list(&rows, context.global.format, context.global.quiet)?;
        for damaged in damaged {
            note!("snapshot `{}`: {}", damaged.name, damaged.reason);
        }
        Ok(())
    }
}

impl Restore {
    fn run(self, context: &Context) -> anyhow::Result<()> {
        let (name, snapshot) = (self.name, self.snapshot);
        let takes = format!("restoring `{snapshot}` takes all that `{name}` wrote since with it");
        let question = format!("Restore `{snapshot}`, and lose what `{name}` wrote since?");
        if self.confirm.is_wanted(&takes, &question)? {
            copy(context, name, SnapshotAction::Restore { snapshot })?;
        }
        Ok(())
    }
}

impl Rm {
    fn run(self, context: &Context) -> anyhow::Result<()> {
        let (name, snapshot) = (self.name, self.snapshot);
        let takes = format!("what snapshot `{snapshot}` of `{name}` holds is lost with it");
        let question = format!("Remove snapshot `{snapshot}` of `{name}`?");
        if self.confirm.is_wanted(&takes, &question)? {
            let action = SnapshotAction::Remove { snapshot };
            call(context, Request::Snapshots { name, action }, |_| {})?;
        }
        Ok(())
    }
}

/// Asks for something that copies a disk, and shows how much of that is done.
fn copy(context: &Context, name: String, action: SnapshotAction) -> anyhow::Result<Outcome> {
    let progress = ShareProgress::new(context.global.progress, "are copied");
    let report = |report: StageReport| {
        if let Some(Brought { bytes, of }) = report.brought {
            progress.report(bytes, of);
        }
    };
    let outcome = call(context, Request::Snapshots { name, action }, report);
    progress.end();
    outcome
}
