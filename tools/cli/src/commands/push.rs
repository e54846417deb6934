//! `shale push`: a directory or an archive becomes a layer and a template.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use serde::Serialize;
use shale_hostd::Place;
use shale_ingest::{Difference, DirSource, PushStats, Source, TarSource, push_tree};
use shale_model::{
    Chunker, LayerId, Machine, Platform, Reference, Sink, Template, TemplateId, TemplateIndex,
    TemplateLayer, Trouble,
};

use crate::context::{Context, get_index, resolve};
use crate::output::{Row, bytes, print_one};
use crate::progress::PushProgress;

/// Push a directory tree or a tar archive as a template
///
/// Without --base, the tree is a base: a template of one layer. With --base, the layer is the difference
/// of the tree to that template, and the new template is the base with the layer on top. What the
/// repository has already is not stored again.
///
/// Examples:
///   shale push ./rootfs demo/base:12
///   shale push --base demo/base:12 ./rootfs-with-nginx demo/nginx:1.22
///   zcat rootfs.tar.gz | shale push - demo/base:12
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Push {
    /// Template that the tree was made from
    #[arg(long, value_name = "REF")]
    base: Option<Reference>,
    /// Directory, tar archive, or `-` for a tar archive on standard input
    source: PathBuf,
    /// Name to give the template: project/name:tag
    reference: Reference,
}

/// What a push did.
#[derive(Debug, Serialize)]
struct Done {
    reference: String,
    template: TemplateId,
    layer: LayerId,
    entries: u64,
    logical_bytes: u64,
    chunks: u64,
    sent_chunks: u64,
    sent_chunk_bytes: u64,
    pack_bytes: u64,
    packs: u64,
}

impl Row for Done {
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
        let place = context.place_of(&references)?;
        let before = get_index(&place, &self.reference)?;
        let progress = PushProgress::new(context.global.progress);
        let sink = place.sink()?;
        let (pushed, mut layers, machine) = match &self.base {
            None => {
                let pushed = push_tree(&mut *source, &*sink, Chunker::FastCdc, &progress);
                (pushed, Vec::new(), Machine::default())
            }
            Some(base) => {
                let host = context.host(place.clone())?;
                let id = resolve(&place, base)?;
                let template = host.composer.template(id)?;
                let base = host.composer.compose(&template)?;
                let mut difference = Difference::new(&mut *source, &base.tree);
                let pushed = push_tree(&mut difference, &*sink, Chunker::FastCdc, &progress);
                (pushed, template.layers, template.machine)
            }
        };
        progress.end();
        let pushed = pushed.with_context(|| format!("push `{}`", self.source.display()))?;
        let made_on = layers.iter().map(|layer| layer.id).collect();
        layers.push(TemplateLayer {
            id: pushed.layer,
            made_on,
        });
        let template = Template::new(Platform::default(), layers, machine);
        let id = name_template(&place, &*sink, &self.reference, before, &template)?;
        let totals = pushed.root.totals;
        let PushStats {
            sent_chunks,
            sent_chunk_bytes,
            packs,
            pack_bytes,
            ..
        } = pushed.stats;
        let done = Done {
            reference: self.reference.name.to_string(),
            template: id,
            layer: pushed.layer,
            entries: totals.entries,
            logical_bytes: totals.bytes,
            chunks: totals.chunks,
            sent_chunks,
            sent_chunk_bytes,
            pack_bytes,
            packs,
        };
        print_one(&done, context.global.format, context.global.quiet)
    }

    fn open(&self) -> anyhow::Result<Box<dyn Source>> {
        let shown = || format!("open `{}`", self.source.display());
        if self.source.as_os_str() == "-" {
            return Ok(tar(io::stdin().lock()));
        }
        if self.source.metadata().with_context(shown)?.is_dir() {
            return Ok(Box::new(DirSource::open(&self.source)?));
        }
        Ok(tar(File::open(&self.source).with_context(shown)?))
    }
}

fn tar(archive: impl Read + 'static) -> Box<dyn Source> {
    Box::new(TarSource::new(BufReader::with_capacity(1 << 20, archive)))
}

/// Stores a template and points the reference at it, if it still points where it did. That somebody else made it
/// point there meanwhile is success too: two pushes of the same at once want the same.
fn name_template(
    place: &Place,
    sink: &dyn Sink,
    reference: &Reference,
    before: Option<TemplateIndex>,
    template: &Template,
) -> anyhow::Result<TemplateId> {
    let id = sink.put_template(&template.encode())?;
    let platform = template.platform.clone();
    let index = match before.clone() {
        None => TemplateIndex::one(platform.clone(), id),
        Some(index) => index.with(platform.clone(), id),
    };
    match sink.set_ref(&reference.name, before.as_ref(), &index) {
        Err(error) if error.trouble == Trouble::Conflict => {
            let now = get_index(place, reference)?;
            let same = now.is_some_and(|now| now.get(&platform) == Some(id));
            same.then_some(id).ok_or_else(|| error.into())
        }
        set => Ok(set.map(|()| id)?),
    }
}

/// Names a template in `place`, outside of a push.
pub(crate) fn store_template(
    place: &Place,
    reference: &Reference,
    template: &Template,
) -> anyhow::Result<TemplateId> {
    let before = get_index(place, reference)?;
    name_template(place, &*place.sink()?, reference, before, template)
}
