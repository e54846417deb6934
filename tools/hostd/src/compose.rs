//! A template becomes a plan file: fetch its layers, merge, fold, lay out, keep.

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use shale_files::{DirFiles, FileError, FilePath, Files, Operation, put_durably, read_file};
use shale_image::identity::IdentityError;
use shale_image::merge::{
    self, ChunkBytes, Conflict, MergeError, MergeNote, NamedLayer, StackLayer,
};
use shale_image::{Layout, LayoutError, lay_out};
use shale_model::{
    Catalog, ChunkId, FormatError, LayerDecoder, LayerId, LayerRoot, PlanId, PlanParts, SeamError,
    Template, TemplateId, Tree, TreeLayer, compose,
};
use shale_view::{ChunkReader, PlanFile, PlanFileError, ReadError, open_plan};
use tokio::runtime::Handle;

use crate::keys;

/// Version of everything between layers and plan. A plan that an older version made is not used for
/// new instances; those that pinned it keep it (I3).
const COMPOSE_VERSION: &str = "1";

/// End of the name of a file that is being written.
const UNFINISHED: &str = ".new";

/// Makes plans, and keeps them.
pub struct Composer {
    catalog: Arc<dyn Catalog>,
    pub(crate) reader: Arc<ChunkReader>,
    pub(crate) runtime: Handle,
    plans: PathBuf,
}

/// A template and its plan.
pub struct Image {
    /// The template's id.
    pub id: TemplateId,
    /// The template.
    pub template: Template,
    /// The plan's id.
    pub plan_id: PlanId,
    /// The plan, open.
    pub plan: PlanFile,
}

/// A template as one tree.
pub struct Composed {
    /// The tree.
    pub tree: Tree,
    /// The bytes of the chunks that merging made.
    pub synthetic: ChunkBytes,
    /// What merging decided.
    pub notes: Vec<MergeNote>,
    /// What it could not decide; the later layer's version is in the tree.
    pub conflicts: Vec<Conflict>,
}

/// Why a template does not become an image.
#[derive(Debug, thiserror::Error)]
pub enum ComposeError {
    /// Its manifests cannot be read.
    #[error(transparent)]
    Seam(#[from] SeamError),
    /// The bytes of its layers cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A template or a layer is not what its format allows.
    #[error("{what}")]
    Format {
        /// Which.
        what: String,
        /// The broken rule.
        source: FormatError,
    },
    /// A file of its layers that must be merged cannot be.
    #[error(transparent)]
    Merge(#[from] MergeError),
    /// Its layers do not fit on each other.
    #[error(transparent)]
    Compose(#[from] shale_model::ComposeError),
    /// An instance cannot get its identity.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// There is no memory for a plan.
    #[error("take memory for a plan")]
    Memory(#[source] io::Error),
    /// Its tree does not fit on a disk.
    #[error("lay out template {id}")]
    Layout {
        /// The template.
        id: TemplateId,
        /// Why not.
        source: LayoutError,
    },
    /// The plan cannot be kept.
    #[error("keep the plan of template {id}")]
    Keep {
        /// The template.
        id: TemplateId,
        /// Why not.
        source: FileError,
    },
    /// The plan that was kept cannot be opened.
    #[error(transparent)]
    Plan(#[from] PlanFileError),
}

impl Composer {
    /// A composer that keeps its plans in the directory `plans`, which exists. Its calls block, and
    /// must not come from a thread of `runtime`.
    pub fn new(
        catalog: Arc<dyn Catalog>,
        reader: Arc<ChunkReader>,
        runtime: Handle,
        plans: PathBuf,
    ) -> Self {
        Self {
            catalog,
            reader,
            runtime,
            plans,
        }
    }

    /// The template with this id.
    pub fn template(&self, id: TemplateId) -> Result<Template, ComposeError> {
        let json = self.catalog.template(id)?;
        Template::decode(&json).map_err(|source| ComposeError::Format {
            what: format!("template {id}"),
            source,
        })
    }

    /// The image of a template: the plan that was kept, or a new one.
    pub fn image(&self, id: TemplateId) -> Result<Image, ComposeError> {
        let template = self.template(id)?;
        let files = self.plan_files(id)?;
        // What a process left that was killed while it kept a plan; what cannot be removed harms nobody.
        let _ = remove_unfinished(&self.plans);
        if let Some(plan_id) = kept_plan(&files, id)
            && let Ok(plan) = open_plan(&self.plan_path(plan_id), plan_id)
        {
            return Ok(Image {
                id,
                template,
                plan_id,
                plan,
            });
        }
        let composed = self.compose(&template)?;
        self.keep(id, template, &composed)
    }

    /// Whether a plan of this template was kept.
    pub(crate) fn has_plan(&self, id: TemplateId) -> bool {
        let files = self.plan_files(id);
        files.is_ok_and(|files| kept_plan(&files, id).is_some())
    }

    /// The plan of this template that was kept, if one was and can be read.
    pub(crate) fn kept_plan(&self, id: TemplateId) -> Option<PlanFile> {
        let plan = kept_plan(&self.plan_files(id).ok()?, id)?;
        open_plan(&self.plan_path(plan), plan).ok()
    }

    /// Lays out a template that was composed, and keeps the plan.
    pub fn keep(
        &self,
        id: TemplateId,
        template: Template,
        composed: &Composed,
    ) -> Result<Image, ComposeError> {
        let parts = self.lay_out(id, &template, template.machine.disk_bytes, composed)?;
        let (plan_id, head) = parts.head();
        let files = self.plan_files(id)?;
        let kept = keep_plan(&files, id, plan_id, [&head, &parts.synthesised]);
        kept.map_err(|source| ComposeError::Keep { id, source })?;
        let plan = open_plan(&self.plan_path(plan_id), plan_id)?;
        Ok(Image {
            id,
            template,
            plan_id,
            plan,
        })
    }

    /// Lays out a tree on a disk of `disk_bytes`, with the template's file system.
    pub(crate) fn lay_out(
        &self,
        id: TemplateId,
        template: &Template,
        disk_bytes: u64,
        composed: &Composed,
    ) -> Result<PlanParts, ComposeError> {
        let layout = Layout {
            template: id,
            filesystem: template.machine.filesystem,
            disk_bytes,
            uuid: uuid_of(id),
        };
        let parts = lay_out(&composed.tree, &layout, &composed.synthetic);
        parts.map_err(|source| ComposeError::Layout { id, source })
    }

    fn plan_files(&self, id: TemplateId) -> Result<DirFiles, ComposeError> {
        DirFiles::open(&self.plans).map_err(|source| ComposeError::Keep { id, source })
    }

    /// Merges and folds the layers of a template, which need not be stored yet.
    pub fn compose(&self, template: &Template) -> Result<Composed, ComposeError> {
        self.compose_with(template, |_, _| {
            Ok((TreeLayer::default(), ChunkBytes::new()))
        })
    }

    /// As [`Composer::compose`], with one more layer on top, which `top` makes from the tree and the
    /// bytes of its chunks that merging made.
    pub(crate) fn compose_with(
        &self,
        template: &Template,
        top: impl FnOnce(&Tree, &ChunkBytes) -> Result<(TreeLayer, ChunkBytes), ComposeError>,
    ) -> Result<Composed, ComposeError> {
        let layers = self.layers(template)?;
        let named = |id: &LayerId| NamedLayer {
            id: *id,
            tree: &layers[id],
        };
        let stack: Vec<StackLayer<'_>> = template
            .layers
            .iter()
            .map(|layer| StackLayer {
                layer: named(&layer.id),
                made_on: layer.made_on.iter().map(named).collect(),
            })
            .collect();
        let bytes = self.bytes_of(&merge::need(&stack), &layers)?;
        let mut merged = merge::merge(&stack, &bytes)?;
        let mut tree = compose(merged.trees())?;
        let (top, bytes) = top(&tree, &merged.synthetic)?;
        if top != TreeLayer::default() {
            tree = compose(merged.trees().chain([&top]))?;
            merged.synthetic.extend(bytes);
        }
        Ok(Composed {
            tree,
            synthetic: merged.synthetic,
            notes: merged.notes,
            conflicts: merged.conflicts,
        })
    }

    /// The layers of a template, and those that they were made on.
    fn layers(&self, template: &Template) -> Result<HashMap<LayerId, TreeLayer>, ComposeError> {
        let mut layers = HashMap::new();
        for layer in &template.layers {
            for id in [layer.id].iter().chain(&layer.made_on) {
                if !layers.contains_key(id) {
                    layers.insert(*id, self.layer(*id)?);
                }
            }
        }
        Ok(layers)
    }

    /// The bytes of chunks that layers name.
    fn bytes_of(
        &self,
        ids: &[ChunkId],
        layers: &HashMap<LayerId, TreeLayer>,
    ) -> Result<ChunkBytes, ComposeError> {
        let mut missing: HashSet<ChunkId> = ids.iter().copied().collect();
        let all = layers.values().flat_map(TreeLayer::chunks);
        let wanted: Vec<_> = all.filter(|(id, _)| missing.remove(id)).collect();
        self.read_chunks(&wanted)
    }

    /// The bytes of chunks of these lengths.
    pub(crate) fn read_chunks(
        &self,
        wanted: &[(ChunkId, u32)],
    ) -> Result<ChunkBytes, ComposeError> {
        let bytes = self.runtime.block_on(self.reader.chunks(wanted))?;
        Ok(wanted.iter().map(|(id, _)| *id).zip(bytes).collect())
    }

    /// A layer with all its entries.
    pub fn layer(&self, id: LayerId) -> Result<TreeLayer, ComposeError> {
        let format = |source| ComposeError::Format {
            what: format!("layer {id}"),
            source,
        };
        let root = LayerRoot::decode(&self.catalog.layer(id)?).map_err(format)?;
        let wanted: Vec<_> = root.pages.iter().map(|page| (page.id, page.len)).collect();
        let mut decoder = LayerDecoder::new(&root);
        let take = |page: Vec<u8>| decoder.push(&page).map_err(format);
        self.runtime
            .block_on(self.reader.each_chunk(&wanted, take))?;
        decoder.finish().map_err(format)
    }

    /// Where a plan lies.
    pub fn plan_path(&self, id: PlanId) -> PathBuf {
        self.plans.join(format!("{}.plan", id.hex()))
    }
}

/// The file system's UUID: random-looking, and the same for the same template (version 8 of RFC 9562,
/// whose bits are the maker's own).
fn uuid_of(id: TemplateId) -> [u8; 16] {
    let mut uuid = [0; 16];
    uuid.copy_from_slice(&id.as_bytes()[..16]);
    uuid[6] = uuid[6] & 0x0f | 0x80;
    uuid[8] = uuid[8] & 0x3f | 0x80;
    uuid
}

fn name_of(id: TemplateId) -> FilePath {
    FilePath::new(&format!("{}.{COMPOSE_VERSION}", id.hex())).unwrap_or_default()
}

fn kept_plan(files: &dyn Files, id: TemplateId) -> Option<PlanId> {
    let text = read_file(files, &name_of(id), 2 * shale_model::ID_LEN).ok()?;
    PlanId::from_hex(std::str::from_utf8(&text).ok()?).ok()
}

/// The templates that this version made plans of, in no order.
pub(crate) fn kept_plans(plans: &Path) -> Result<Vec<(TemplateId, PlanId)>, FileError> {
    let files = DirFiles::open(plans)?;
    let names = files.list(&FilePath::root())?;
    let templates = names.iter().filter_map(|entry| {
        let hex = entry
            .name
            .strip_suffix(COMPOSE_VERSION)?
            .strip_suffix('.')?;
        TemplateId::from_hex(hex).ok()
    });
    Ok(templates
        .filter_map(|id| Some((id, kept_plan(&files, id)?)))
        .collect())
}

/// The plan first, then the name that leads to it.
fn keep_plan(
    files: &dyn Files,
    id: TemplateId,
    plan: PlanId,
    bytes: [&[u8]; 2],
) -> Result<(), FileError> {
    let hex = plan.hex();
    let named: &[&[u8]] = &[hex.as_bytes()];
    for (name, parts) in [
        (
            FilePath::new(&format!("{hex}.plan")).unwrap_or_default(),
            &bytes[..],
        ),
        (name_of(id), named),
    ] {
        let temp = FilePath::new(&unique(&hex)?).unwrap_or_default();
        put_durably(files, &temp, &name, |file| {
            let mut at = 0;
            for part in parts {
                file.write_at(at, part)?;
                at += part.len() as u64;
            }
            Ok::<_, FileError>(())
        })?;
    }
    Ok(())
}

/// The name of a temp file that nobody else uses: two instances of a template may be made at once.
fn unique(hex: &str) -> Result<String, FileError> {
    let mut random = [0; 8];
    let taken = keys::random(&mut random);
    taken.map_err(|error| FileError::new(Operation::Create, hex, error))?;
    let (random, process) = (u64::from_le_bytes(random), std::process::id());
    Ok(format!("{hex}.{random:016x}.{process}{UNFINISHED}"))
}

/// Removes plans from the directory `plans` whose writers died before the end.
pub(crate) fn remove_unfinished(plans: &Path) -> Result<(), FileError> {
    let files = DirFiles::open(plans)?;
    for entry in files.list(&FilePath::root())? {
        let unfinished = entry.name.strip_suffix(UNFINISHED);
        let writer = unfinished.and_then(|name| name.rsplit_once('.'));
        // A number that another process has by now keeps the file until the next start.
        let is_dead = |process: &str| !Path::new("/proc").join(process).exists();
        if writer.is_some_and(|(_, process)| is_dead(process)) {
            files.remove(&FilePath::new(&entry.name).unwrap_or_default())?;
        }
    }
    Ok(())
}
