//! `shale push`: a directory or an archive becomes a layer and a template.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use shale_hostd::api::NewTemplate;
use shale_hostd::{CHUNKER, Place, name_template};
use shale_ingest::{Difference, DirSource, Source, TarSource, push_tree};
use shale_model::{Machine, Platform, Reference, Template, TemplateId, TemplateLayer};

use crate::context::{Context, Host, get_index, resolve_for};
use crate::failure::{Exit, Failure};
use crate::leaks::{self, Linted};
use crate::output::{Row, bytes, print_one};
use crate::progress::PushProgress;

/// Push a directory tree or a tar archive as a template
///
/// Without --base, the tree is a base: a template of one layer. With --base, the layer is the difference
/// of the tree to that template, and the new template is the base with the layer on top. What the
/// repository has already is not stored again.
///
/// With --difference, the archive is the difference already, as each layer of an OCI image is one: what it
/// holds is put onto the base, `.wh.NAME` removes NAME, and `.wh..wh..opq` all that the base has in that
/// directory.
///
/// A name holds a template for each platform: a push replaces that of its own, and keeps the others.
///
/// Examples:
///   shale push ./rootfs demo/base:12
///   shale push --base demo/base:12 ./rootfs-with-nginx demo/nginx:1.22
///   zcat rootfs.tar.gz | shale push - demo/base:12
///   shale push --base demo/base:12 --difference layer.tar demo/app:1
///   shale push --platform linux/arm64 ./rootfs-arm64 demo/base:12
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Push {
    /// Template that the tree was made from
    #[arg(long, value_name = "REF")]
    base: Option<Reference>,
    /// The archive is not a whole tree but a layer of an OCI image made on --base
    #[arg(long, requires = "base")]
    difference: bool,
    /// What the tree runs on
    #[arg(long, value_name = "OS/ARCH", default_value_t)]
    platform: Platform,
    /// Directory, tar archive, or `-` for a tar archive on standard input
    source: PathBuf,
    /// Name to give the template: project/name:tag
    reference: Reference,
}

impl Row for NewTemplate {
    const COLUMNS: &'static [&'static str] = &[
        "Template",
        "Reference",
        "Layer",
        "Entries",
        "Logical",
        "Chunks",
        "Stored",
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            self.template.to_string(),
            self.reference.clone(),
            self.layer.to_string(),
            self.entries.to_string(),
            bytes(self.logical_bytes),
            format!("{}, {} of them new", self.chunks, self.sent_chunks),
            format!("{} in {} packs", bytes(self.pack_bytes), self.packs),
        ]
    }
}

impl Push {
    pub(crate) fn run(self, context: &Context) -> anyhow::Result<()> {
        let mut source = self.open()?;
        let references = [Some(&self.reference), self.base.as_ref()];
        let references: Vec<&Reference> = references.into_iter().flatten().collect();
        let place = context.place_to_write(&references)?;
        let catalog = context.catalog(&place);
        let before = get_index(&*catalog, &self.reference)?;
        let base = self.base.as_ref();
        let base = base.map(|base| Base::open(context, place.clone(), base, &self.platform));
        let base = base.transpose()?;
        let sink = context.sink(&place)?;
        let progress = PushProgress::new(context.global.progress);
        let push = |source: &mut dyn Source| {
            let mut linted = Linted::new(source);
            let pushed = push_tree(&mut linted, &*sink, CHUNKER, &progress);
            progress.end();
            leaks::warn(linted.findings());
            pushed
        };
        let pushed = match &base {
            Some(base) if !self.difference => {
                let tree = base.host.composer.compose(&base.template)?.tree;
                push(&mut Difference::new(&mut *source, &tree))
            }
            _ => push(&mut *source),
        };
        let pushed = pushed.with_context(|| format!("push `{}`", self.source.display()))?;
        let (mut layers, machine) = match &base {
            Some(Base { template, .. }) => (template.layers.clone(), template.machine.clone()),
            None => (Vec::new(), Machine::default()),
        };
        let made_on = layers.iter().map(|layer| layer.id).collect();
        layers.push(TemplateLayer {
            id: pushed.layer,
            made_on,
        });
        let template = Template::new(self.platform.clone(), layers, machine);
        if let Some(base) = base.filter(|_| self.difference) {
            // Nothing has compared it with the base: it may have files in what is no directory there.
            let composed = base.host.composer.compose(&template);
            composed.with_context(|| format!("put `{}` onto its base", self.source.display()))?;
        }
        let id = name_template(&*sink, &*catalog, &self.reference.name, before, &template)?;
        let new = NewTemplate::new(&self.reference, id, &pushed);
        print_one(&new, context.global.format, context.global.quiet)
    }

    fn open(&self) -> anyhow::Result<Box<dyn Source>> {
        let shown = || format!("open `{}`", self.source.display());
        if self.source.as_os_str() == "-" {
            return Ok(tar(io::stdin().lock()));
        }
        if self.source.metadata().with_context(shown)?.is_dir() {
            if self.difference {
                let text = "a directory holds no whiteouts, so it is no difference";
                let hint = "leave out --difference to push the whole tree, or give a tar archive";
                return Err(Failure::new(Exit::Usage, text).hint(hint).into());
            }
            return Ok(Box::new(DirSource::open(&self.source)?));
        }
        Ok(tar(File::open(&self.source).with_context(shown)?))
    }
}

/// What a layer is made on.
struct Base {
    host: Host,
    template: Template,
}

impl Base {
    fn open(
        context: &Context,
        place: Place,
        reference: &Reference,
        platform: &Platform,
    ) -> anyhow::Result<Self> {
        let host = context.host(place)?;
        let id = resolve_for(&*host.catalog, reference, platform)?;
        let template = host.composer.template(id)?;
        check_platform(reference, &template, platform)?;
        Ok(Self { host, template })
    }
}

/// Refuses a template of another platform than `platform`, which an id may name.
pub(crate) fn check_platform(
    reference: &Reference,
    template: &Template,
    platform: &Platform,
) -> anyhow::Result<()> {
    if template.platform == *platform {
        return Ok(());
    }
    let text = format!(
        "`{reference}` is for {}, not for {platform}",
        template.platform
    );
    let hint = format!("--platform {} makes a template for that", template.platform);
    Err(Failure::new(Exit::Usage, text).hint(hint).into())
}

fn tar(archive: impl Read + 'static) -> Box<dyn Source> {
    Box::new(TarSource::new(BufReader::with_capacity(1 << 20, archive)))
}

/// Names a template, outside of a push.
pub(crate) fn store_template(
    context: &Context,
    host: &Host,
    reference: &Reference,
    template: &Template,
) -> anyhow::Result<TemplateId> {
    let before = get_index(&*host.catalog, reference)?;
    let sink = context.sink(&host.place)?;
    Ok(name_template(
        &*sink,
        &*host.catalog,
        &reference.name,
        before,
        template,
    )?)
}
