//! A warm snapshot in a repository: found by the template that it was made of, and read.

use std::sync::Arc;

use shale_model::{
    ChunkId, Content, Extent, NodeData, Platform, RefName, TemplateId, Tree, TreePath,
};
use shale_view::{Overlay, Trace};

use crate::compose::Image;
use crate::error::{HostError, HostResult};
use crate::patience::Patience;
use crate::source::Source;

use super::kept::MAX_MACHINE_BYTES;
use super::{DISK, INITRD, KeptMachine, MACHINE, STATE, WrittenBlocks, reference};

/// Longest state of devices that is read, as long as drivers keep.
const MAX_STATE_BYTES: u64 = 64 << 20;

/// A warm snapshot.
pub(crate) struct WarmSnapshot {
    /// Its own template and plan.
    pub(crate) image: Image,
    pub(crate) kept: KeptMachine,
    /// What is read of it until its guest is ready.
    pub(crate) trace: Arc<Trace>,
    source: Arc<Source>,
    tree: Tree,
}

impl WarmSnapshot {
    /// The id of the snapshot of a template whose name is `name`, if there is one. Blocks.
    pub(crate) fn find(
        source: &Source,
        name: &RefName,
        template: TemplateId,
    ) -> HostResult<Option<TemplateId>> {
        let index = source.catalog.get_ref(&reference(name, template)?)?;
        Ok(index.and_then(|index| index.get(&Platform::default())))
    }

    /// Opens the snapshot that has this id. Blocks.
    pub(crate) fn open(source: Arc<Source>, id: TemplateId) -> HostResult<Self> {
        let composer = &source.composer;
        let is_new = !composer.has_plan(id);
        let template = composer.template(id)?;
        let composed = composer.compose(&template)?;
        let image = match is_new {
            true => composer.keep(id, template, &composed)?,
            false => composer.image(id)?,
        };
        let (tree, trace) = (composed.tree, Arc::<Trace>::default());
        let mut json = Vec::new();
        let file = (MACHINE, MAX_MACHINE_BYTES);
        let machine = read(&source, &tree, &trace, file, |part| {
            json.extend_from_slice(part);
            Ok(())
        });
        composer.runtime.block_on(machine)?;
        let kept = KeptMachine::decode(&json).map_err(|reason| damaged(MACHINE, &reason))?;
        Ok(Self {
            image,
            kept,
            trace,
            source,
            tree,
        })
    }

    /// Whether its guest had booted with an initial RAM disk.
    pub(crate) fn has_initrd(&self) -> bool {
        content(&self.tree, INITRD).is_some()
    }

    /// The state of the devices, if it comes with this patience. Blocks.
    pub(crate) fn state(&self, patience: &Patience) -> HostResult<Vec<u8>> {
        let mut state = Vec::new();
        self.read((STATE, MAX_STATE_BYTES), patience, |part| {
            state.extend_from_slice(part);
            Ok(())
        })?;
        Ok(state)
    }

    /// Writes what the guest had written to an empty overlay of its disk, if it comes with this patience. Blocks.
    pub(crate) fn write_blocks(&self, overlay: &Overlay, patience: &Patience) -> HostResult<()> {
        let mut blocks = WrittenBlocks::new(overlay, &self.kept.written);
        let file = (DISK, overlay.disk_bytes());
        self.read(file, patience, |part| blocks.take(part))?;
        blocks.end()?;
        for (first, count) in &self.kept.zeroed {
            let unit = shale_view::UNIT_BYTES;
            overlay.zero(first * unit, count * unit)?;
        }
        Ok(())
    }

    /// Reads a file of at most so many bytes. Blocks.
    fn read(
        &self,
        file: (&str, u64),
        patience: &Patience,
        take: impl FnMut(&[u8]) -> HostResult<()>,
    ) -> HostResult<()> {
        let each = read(&self.source, &self.tree, &self.trace, file, take);
        let runtime = &self.source.composer.runtime;
        runtime.block_on(patience.wait(each))
    }
}

async fn read(
    source: &Source,
    tree: &Tree,
    trace: &Trace,
    (name, most): (&str, u64),
    mut take: impl FnMut(&[u8]) -> HostResult<()>,
) -> HostResult<()> {
    let content = content(tree, name).ok_or_else(|| damaged(name, "it is not there"))?;
    if content.size() > most {
        return Err(damaged(name, &format!("it has more than {most} bytes")));
    }
    let chunks = content.extents().iter().map(|extent| match extent {
        Extent::Chunk { id, len } => Ok((*id, *len)),
        // What it holds is no zeros: of those there are no files here.
        Extent::Hole { .. } => Err(damaged(name, "it has a hole")),
    });
    let chunks = chunks.collect::<HostResult<Vec<(ChunkId, u32)>>>()?;
    let reader = &source.composer.reader;
    for (id, _) in &chunks {
        let from = match reader.cache().contains(id) {
            true => shale_view::Source::Cache,
            false => shale_view::Source::Fetched,
        };
        trace.touch(*id, from);
    }
    let each = reader.each_chunk(&chunks, |chunk| {
        take(&chunk)?;
        Ok::<(), HostError>(())
    });
    each.await
}

fn content<'t>(tree: &'t Tree, name: &str) -> Option<&'t Content> {
    let path = TreePath::new(name.as_bytes()).ok()?;
    match &tree.node(tree.lookup(&path)?).data {
        NodeData::File(content) => Some(content),
        _ => None,
    }
}

fn damaged(name: &str, reason: &str) -> HostError {
    HostError::WarmSnapshot(format!("`{name}`: {reason}"))
}
