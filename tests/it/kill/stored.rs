//! What a repository stores beyond what its templates need.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use shale_files::DirFiles;
use shale_index::IndexReader;
use shale_model::{
    Catalog, ChunkId, ChunkIndex, LayerChecker, LayerId, LayerRoot, PackId, Template, TemplateId,
};
use shale_repo::{Access, Repository, paths, read_pack_contents};

use super::Stored;

/// Fails if the repository has anything that no reference leads to, or anything twice: packs, chunks, layers,
/// templates; or if packs and index do not know each other.
pub(crate) fn nothing_is_superfluous(directory: &Path) -> Result<()> {
    let index = Arc::new(IndexReader::open(&directory.join(paths::INDEX_DIR))?);
    let files = Arc::new(DirFiles::open(directory)?);
    let repository = Repository::open(files, index.clone(), Access::Read)?;
    ensure!(
        repository.knows_its_packs()?,
        "the index knows {:?}",
        index.packs()?
    );
    let stored = stored_chunks(&repository, &index.packs()?)?;
    let (needed, mut expected) = needed(&repository)?;
    let ids: BTreeSet<ChunkId> = stored.keys().copied().collect();
    let superfluous: Vec<_> = ids
        .difference(&needed)
        .map(|id| (id, &stored[id]))
        .collect();
    ensure!(superfluous.is_empty(), "no template needs {superfluous:?}");
    ensure!(ids == needed, "chunks are missing");
    let twice: Vec<_> = stored.iter().filter(|(_, packs)| packs.len() > 1).collect();
    ensure!(twice.is_empty(), "stored more than once: {twice:?}");
    // And no file that is none of these.
    expected.extend(
        index
            .packs()?
            .into_iter()
            .map(|id| paths::pack(id).to_string()),
    );
    let found: BTreeSet<String> = Stored::of(directory)?
        .0
        .iter()
        .filter(|path| !path.starts_with("refs"))
        .map(|path| path.display().to_string())
        .collect();
    let other: Vec<_> = found.symmetric_difference(&expected).collect();
    ensure!(other.is_empty(), "superfluous or missing: {other:?}");
    println!("{} chunks in {} packs", ids.len(), index.packs()?.len());
    Ok(())
}

/// The packs in which each chunk lies.
fn stored_chunks(
    repository: &Repository,
    packs: &[PackId],
) -> Result<BTreeMap<ChunkId, Vec<PackId>>> {
    let mut stored: BTreeMap<ChunkId, Vec<PackId>> = BTreeMap::new();
    for pack in packs {
        let contents = read_pack_contents(&*repository.open_pack(*pack)?)?;
        for chunk in contents.chunks() {
            stored.entry(chunk.id).or_default().push(*pack);
        }
    }
    Ok(stored)
}

/// All chunks that references lead to, and the files of the layers and templates on the way.
fn needed(repository: &Repository) -> Result<(BTreeSet<ChunkId>, BTreeSet<String>)> {
    let mut templates: BTreeSet<TemplateId> = BTreeSet::new();
    for (_, index) in repository.list_refs("")? {
        templates.extend(index.entries().iter().map(|entry| entry.template));
    }
    let mut layers: BTreeSet<LayerId> = BTreeSet::new();
    for id in &templates {
        let template = Template::decode(&repository.template(*id)?)?;
        layers.extend(template.layers.iter().map(|layer| layer.id));
    }
    let mut chunks = BTreeSet::new();
    for id in &layers {
        let root = LayerRoot::decode(&repository.layer(*id)?)?;
        let mut checker = LayerChecker::new(&root);
        for page in &root.pages {
            chunks.insert(page.id);
            let content = checker.push(&repository.chunk(page.id)?);
            let content = content.with_context(|| format!("layer {id}"))?;
            chunks.extend(content.into_iter().map(|(id, _)| id));
        }
    }
    let files = layers.into_iter().map(|id| paths::layer(id).to_string());
    let files = files.chain(
        templates
            .into_iter()
            .map(|id| paths::template(id).to_string()),
    );
    Ok((chunks, files.collect()))
}
