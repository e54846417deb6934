//! `shale template create`: a base and applications become a template.

use clap::{Args, ValueEnum};
use shale_hostd::{IdKind, MergeNote};
use shale_image::identity::lint;
use shale_model::{Composition, Filesystem, Platform, Reference, Template, TemplateLayer};

use crate::commands::push::{check_platform, store_template};
use crate::context::{Context, Host, resolve_for};
use crate::failure::{Exit, Failure};
use crate::leaks;
use crate::output::{note, parse_bytes, say};

/// Compose a base and applications into a template
///
/// The applications' own layers go on the base in the order given; they may have been made apart. The
/// template is composed once to check that they fit.
///
/// Examples:
///   shale template create demo/web:1 demo/base:12+demo/nginx:1.22+demo/postgresql:15
///   shale template create demo/old:1 demo/base:12 --filesystem ext4-old
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Create {
    /// Name of the template: project/name:tag
    reference: Reference,
    /// BASE+APP+APP
    composition: Composition,
    /// What it runs on; base and applications are there for it
    #[arg(long, value_name = "OS/ARCH", default_value_t)]
    platform: Platform,
    /// Least memory of a virtual machine
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    memory: Option<u64>,
    /// Size of the root disk
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    disk: Option<u64>,
    /// How the root disk is laid out
    #[arg(long, value_enum, value_name = "PROFILE")]
    filesystem: Option<Profile>,
    /// What to do where layers changed the same thing differently
    #[arg(long, value_enum, default_value_t, value_name = "WHAT")]
    conflicts: Conflicts,
    /// User that `shale vm ssh` logs in as
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
}

impl Create {
    pub(crate) fn run(self, context: &Context) -> anyhow::Result<()> {
        let mut references = vec![&self.reference, &self.composition.base];
        references.extend(&self.composition.apps);
        let place = context.place_of(&references)?;
        let host = context.host(place)?;
        let base = load(&host, &self.composition.base, &self.platform)?;
        let mut layers = base.layers.clone();
        for app in &self.composition.apps {
            layers.extend(layers_of_app(&load(&host, app, &self.platform)?, app)?);
        }
        let mut machine = base.machine.clone();
        machine.memory_bytes = self.memory.unwrap_or(machine.memory_bytes);
        machine.disk_bytes = self.disk.unwrap_or(machine.disk_bytes);
        if let Some(profile) = self.filesystem {
            machine.filesystem = profile.into();
        }
        machine.login_user = self.user.unwrap_or(machine.login_user);
        let template = Template::new(base.platform.clone(), layers, machine);
        compose_and_store(context, &host, &self.reference, &template, self.conflicts)
    }
}

/// The template that `reference` means on `platform`, and no other.
pub(super) fn load(
    host: &Host,
    reference: &Reference,
    platform: &Platform,
) -> anyhow::Result<Template> {
    let id = resolve_for(&*host.catalog, reference, platform)?;
    let template = host.composer.template(id)?;
    check_platform(reference, &template, platform)?;
    Ok(template)
}

/// The layers that `app` puts on a base. One without any would silently be left out.
pub(super) fn layers_of_app(
    app: &Template,
    reference: &Reference,
) -> anyhow::Result<Vec<TemplateLayer>> {
    let layers: Vec<_> = app.own_layers().cloned().collect();
    if layers.is_empty() {
        let text = format!("`{reference}` has no layer made on another; push it with --base");
        let hint = "a tree that was pushed without --base is a base itself: `shale push --base BASE TREE NAME`";
        return Err(Failure::new(Exit::Usage, text).hint(hint).into());
    }
    Ok(layers)
}

/// How a root disk is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Profile {
    /// ext4 with 64-bit block numbers and checksums of all metadata.
    #[value(name = "ext4-1")]
    Ext4V1,
    /// ext4 without them, for kernels that cannot read those.
    #[value(name = "ext4-old")]
    Ext4Old,
}

impl From<Profile> for Filesystem {
    fn from(profile: Profile) -> Self {
        match profile {
            Profile::Ext4V1 => Filesystem::Ext4V1,
            Profile::Ext4Old => Filesystem::Ext4Old,
        }
    }
}

/// What to do where layers changed the same thing differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Conflicts {
    /// Name them and make nothing.
    #[default]
    Fail,
    /// Name them and take the version of the later layer.
    TakeLater,
}

/// Composes `template`, says what merging decided, and gives it its name.
pub(crate) fn compose_and_store(
    context: &Context,
    host: &Host,
    reference: &Reference,
    template: &Template,
    conflicts: Conflicts,
) -> anyhow::Result<()> {
    let composed = host.composer.compose(template)?;
    for line in decisions(&composed.notes, context.into()) {
        note!("{line}");
    }
    leaks::warn(&lint(&composed.tree));
    for conflict in &composed.conflicts {
        note!("conflict: {conflict}");
    }
    if !composed.conflicts.is_empty() && conflicts == Conflicts::Fail {
        let text = format!("the layers of `{}` do not fit together", reference.name);
        let hint = "--conflicts take-later takes the later layer's version of each";
        return Err(Failure::new(Exit::Conflict, text).hint(hint).into());
    }
    let id = store_template(context, host, reference, template)?;
    host.composer.keep(id, template.clone(), &composed)?;
    Ok(say!("{id}")?)
}

/// How much is told of what merging decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Detail {
    /// What somebody may want to look at; the rest as a sum.
    Sum,
    /// Everything.
    All,
}

impl From<&Context> for Detail {
    fn from(context: &Context) -> Self {
        match context.global.debug {
            true => Detail::All,
            false => Detail::Sum,
        }
    }
}

/// What merging decided, for people, in order; last how much more there was that is not told.
fn decisions(notes: &[MergeNote], detail: Detail) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    let (mut united, mut kept, mut made_anew) = (0, 0, 0);
    for note in notes {
        if detail == Detail::Sum {
            let count = match note {
                MergeNote::United { .. } => Some(&mut united),
                MergeNote::Kept { .. } => Some(&mut kept),
                MergeNote::LastWon { record: None, .. } => Some(&mut made_anew),
                _ => None,
            };
            if let Some(count) = count {
                *count += 1;
                continue;
            }
        }
        lines.push(decision(note));
    }
    if united + kept + made_anew > 0 {
        lines.push(format!(
            "files: {united} merged by record, {kept} kept as a lower layer changed them, {made_anew} caches, logs \
             and backups of the last layer (--debug names them)"
        ));
    }
    lines
}

fn decision(note: &MergeNote) -> String {
    match note {
        MergeNote::Remapped {
            layer,
            kind,
            name,
            from,
            to,
        } => format!(
            "{} {name} of layer {} has number {to} now, not {from}",
            kind_name(*kind),
            layer.short()
        ),
        MergeNote::MovedRange {
            path,
            name,
            from,
            to,
            ..
        } => format!("the ids of {name} in {path} begin at {to} now, not at {from}"),
        MergeNote::LastWon {
            layer,
            path,
            record: Some(record),
            reason,
        } => format!(
            "{path} ({}): layers differ, that of {} is taken: {reason}",
            record.trim_end(),
            layer.short()
        ),
        MergeNote::LastWon {
            layer,
            path,
            record: None,
            reason,
        } => format!(
            "{path}: layers differ, that of {} is taken: {reason}",
            layer.short()
        ),
        MergeNote::United { layer, path } => {
            format!("{path}: merged by record with layer {}", layer.short())
        }
        MergeNote::Kept { layer, path } => {
            format!(
                "{path}: kept as a lower layer changed it; layer {} did not",
                layer.short()
            )
        }
    }
}

fn kind_name(kind: IdKind) -> &'static str {
    match kind {
        IdKind::User => "user",
        IdKind::Group => "group",
    }
}
