//! `shale cache` and `shale precache`: what this host has of templates before machines ask for it.

use clap::{Args, Subcommand};
use serde::Serialize;
use shale_hostd::api::{
    Brought, CachePrune, CacheShown, CachedTemplate, Outcome, Precache, Request, StayWish,
};
use shale_model::Reference;

use crate::commands::host::{call, unexpected};
use crate::context::Context;
use crate::output::{Row, bytes, note, print_list, print_one};
use crate::progress::ShareProgress;

/// Show and manage what this host has of templates
#[derive(Debug, Subcommand)]
pub(crate) enum CacheCommand {
    Df(Df),
    Ls(Ls),
    Pin(Pin),
    Unpin(Unpin),
    Prune(Prune),
}

impl CacheCommand {
    pub(crate) fn run(self, context: &Context) -> anyhow::Result<()> {
        match self {
            CacheCommand::Df(df) => df.run(context),
            CacheCommand::Ls(ls) => ls.run(context),
            CacheCommand::Pin(pin) => pin.run(context),
            CacheCommand::Unpin(unpin) => unpin.run(context),
            CacheCommand::Prune(prune) => prune.run(context),
        }
    }
}

/// Show how full the cache is
///
/// Examples:
///   shale cache df
///   shale cache df --format json
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Df {}

#[derive(Debug, Serialize)]
struct Used {
    cap_bytes: u64,
    bytes: u64,
    pinned_bytes: u64,
    chunks: u64,
    plan_bytes: u64,
}

impl Row for Used {
    const COLUMNS: &'static [&'static str] = &["Cap", "Used", "Pinned", "Chunks", "Plans"];

    fn cells(&self) -> Vec<String> {
        vec![
            bytes(self.cap_bytes),
            bytes(self.bytes),
            bytes(self.pinned_bytes),
            self.chunks.to_string(),
            bytes(self.plan_bytes),
        ]
    }
}

impl Df {
    fn run(self, context: &Context) -> anyhow::Result<()> {
        let shown = cache(context)?;
        let used = Used {
            cap_bytes: shown.cap_bytes,
            bytes: shown.bytes,
            pinned_bytes: shown.pinned_bytes,
            chunks: shown.chunks,
            plan_bytes: shown.plan_bytes,
        };
        print_one(&used, context.global.format, context.global.quiet)
    }
}

/// List the templates that this host has deployed or brought, and how much of them is in the cache
///
/// Examples:
///   shale cache ls
///   shale cache ls --format json
#[derive(Debug, Args)]
#[command(verbatim_doc_comment, visible_alias = "list")]
pub(crate) struct Ls {}

#[derive(Debug, Serialize)]
#[serde(transparent)]
struct Listed(CachedTemplate);

impl Row for Listed {
    const COLUMNS: &'static [&'static str] = &[
        "TEMPLATE",
        "REFERENCES",
        "CONTENT",
        "LOCAL",
        "PINNED",
        "MACHINES",
    ];

    fn cells(&self) -> Vec<String> {
        let template = &self.0;
        let local = match &template.trouble {
            Some(trouble) => trouble.clone(),
            None => bytes(template.local_bytes),
        };
        vec![
            template.template.short(),
            template.references.join(" "),
            bytes(template.content_bytes),
            local,
            if template.pinned { "yes" } else { "no" }.to_owned(),
            template.machines.join(" "),
        ]
    }
}

impl Ls {
    fn run(self, context: &Context) -> anyhow::Result<()> {
        let shown = cache(context)?;
        let rows: Vec<Listed> = shown.templates.into_iter().map(Listed).collect();
        print_list(&rows, context.global.format, context.global.quiet)
    }
}

/// Bring all of a template to this host
///
/// Machines that are deployed from it then wait for no registry. A command that is interrupted goes on where it was when
/// it is given again. What is not pinned may leave the cache again for something that is used more.
///
/// Examples:
///   shale precache demo/web:1
///   shale precache registry.example/demo/web:1 --token-file token
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct PrecacheCommand {
    /// The template
    reference: Reference,
}

impl PrecacheCommand {
    pub(crate) fn run(self, context: &Context) -> anyhow::Result<()> {
        bring(context, &self.reference, StayWish::AsLongAsThereIsRoom)
    }
}

/// Bring all of a template to this host, and keep it there
///
/// Examples:
///   shale cache pin demo/web:1
///   shale cache unpin demo/web:1
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Pin {
    /// The template
    reference: Reference,
}

impl Pin {
    fn run(self, context: &Context) -> anyhow::Result<()> {
        bring(context, &self.reference, StayWish::UntilUnpinned)
    }
}

/// Let the content of a template leave the cache again
///
/// Nothing is removed before something else needs its room.
#[derive(Debug, Args)]
pub(crate) struct Unpin {
    /// The template: the reference that was pinned, or its id, of which 12 digits are enough
    template: String,
}

impl Unpin {
    fn run(self, context: &Context) -> anyhow::Result<()> {
        let template = self.template;
        call(context, Request::Unpin { template }, |_| {})?;
        Ok(())
    }
}

/// Remove from the cache what no machine of this host and no pin needs
///
/// It is fetched again when it is wanted. The cache gives up what is used least by itself when it is full.
///
/// Examples:
///   shale cache prune
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Prune {}

#[derive(Debug, Serialize)]
#[serde(transparent)]
struct Pruned(CachePrune);

impl Row for Pruned {
    const COLUMNS: &'static [&'static str] = &["Freed"];

    fn cells(&self) -> Vec<String> {
        vec![bytes(self.0.freed_bytes)]
    }
}

impl Prune {
    fn run(self, context: &Context) -> anyhow::Result<()> {
        match call(context, Request::PruneCache, |_| {})? {
            Outcome::Pruned(pruned) => {
                print_one(&Pruned(pruned), context.global.format, context.global.quiet)
            }
            other => Err(unexpected(&other)),
        }
    }
}

fn cache(context: &Context) -> anyhow::Result<CacheShown> {
    match call(context, Request::Cache, |_| {})? {
        Outcome::Cache(shown) => Ok(*shown),
        other => Err(unexpected(&other)),
    }
}

fn bring(context: &Context, reference: &Reference, stay: StayWish) -> anyhow::Result<()> {
    let request = Request::Precache(Box::new(Precache {
        reference: reference.to_string(),
        repository: context.repository_of(&[reference])?,
        stay,
    }));
    let progress = ShareProgress::new(context.global.progress, "are here");
    let quiet = context.global.quiet;
    let outcome = call(context, request, |report| {
        if let Some(Brought { bytes, of }) = report.brought {
            progress.report(bytes, of);
        }
        if let (Some(stall), false) = (report.stall, quiet) {
            progress.end();
            note!("{:7.2} s  waits: {stall}", report.seconds);
        }
    });
    progress.end();
    match outcome? {
        Outcome::Cached(template) => print_one(&Listed(*template), context.global.format, quiet),
        other => Err(unexpected(&other)),
    }
}
