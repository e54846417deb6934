//! A template becomes a plan file: fetch its layers, merge, fold, lay out, keep.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use shale_files::{DirFiles, FileError, FilePath, Files, put_durably, read_file};
use shale_image::{Layout, LayoutError, lay_out};
use shale_model::{
    Catalog, FormatError, LayerDecoder, LayerId, LayerRoot, PlanId, SeamError, Template,
    TemplateId, Tree, TreeLayer, compose,
};
use shale_view::{ChunkReader, PlanFile, PlanFileError, ReadError, open_plan};
use tokio::runtime::Handle;

/// Version of everything between layers and plan. A plan that an older version made is not used for
/// new instances; those that pinned it keep it (I3).
const COMPOSE_VERSION: &str = "1";

/// Makes plans, and keeps them.
pub struct Composer {
    catalog: Arc<dyn Catalog>,
    reader: Arc<ChunkReader>,
    runtime: Handle,
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

/// Why a template does not become an image.
#[derive(Debug, thiserror::Error)]
pub enum ComposeError {
    /// Its manifests cannot be read.
    #[error(transparent)]
    Seam(#[from] SeamError),
    /// The bytes of a layer cannot be read.
    #[error("read layer {layer}")]
    Read {
        /// The layer.
        layer: LayerId,
        /// Why not.
        source: ReadError,
    },
    /// A template or a layer is not what its format allows.
    #[error("{what}")]
    Format {
        /// Which.
        what: String,
        /// The broken rule.
        source: FormatError,
    },
    /// Its layers do not fit on each other.
    #[error("compose template {id}")]
    Compose {
        /// The template.
        id: TemplateId,
        /// Why not.
        source: shale_model::ComposeError,
    },
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
        let keep = |source| ComposeError::Keep { id, source };
        let files = DirFiles::open(&self.plans).map_err(keep)?;
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
        let (tree, synthetic) = self.tree(id, &template)?;
        let layout = Layout {
            template: id,
            filesystem: template.machine.filesystem,
            disk_bytes: template.machine.disk_bytes,
            uuid: uuid_of(id),
        };
        let parts = lay_out(&tree, &layout, &synthetic);
        let parts = parts.map_err(|source| ComposeError::Layout { id, source })?;
        let (plan_id, bytes) = parts.encode();
        keep_plan(&files, id, plan_id, &bytes).map_err(keep)?;
        let plan = open_plan(&self.plan_path(plan_id), plan_id)?;
        Ok(Image {
            id,
            template,
            plan_id,
            plan,
        })
    }

    /// The composed tree of a template, with the chunks that merging made.
    pub fn tree(
        &self,
        id: TemplateId,
        template: &Template,
    ) -> Result<(Tree, BTreeMap<shale_model::ChunkId, Vec<u8>>), ComposeError> {
        let layers = template.layers.iter().map(|layer| self.layer(layer.id));
        let layers = layers.collect::<Result<Vec<TreeLayer>, _>>()?;
        let tree = compose(&layers).map_err(|source| ComposeError::Compose { id, source })?;
        Ok((tree, BTreeMap::new()))
    }

    /// A layer with all its entries.
    pub fn layer(&self, id: LayerId) -> Result<TreeLayer, ComposeError> {
        let format = |source| ComposeError::Format {
            what: format!("layer {id}"),
            source,
        };
        let root = LayerRoot::decode(&self.catalog.layer(id)?).map_err(format)?;
        let wanted: Vec<_> = root.pages.iter().map(|page| (page.id, page.len)).collect();
        let pages = self.runtime.block_on(self.reader.chunks(&wanted));
        let pages = pages.map_err(|source| ComposeError::Read { layer: id, source })?;
        LayerDecoder::decode(&root, pages.iter().map(|page| &page[..])).map_err(format)
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

/// The plan first, then the name that leads to it.
fn keep_plan(
    files: &dyn Files,
    id: TemplateId,
    plan: PlanId,
    bytes: &[u8],
) -> Result<(), FileError> {
    let hex = plan.hex();
    for (name, content) in [
        (
            FilePath::new(&format!("{hex}.plan")).unwrap_or_default(),
            bytes,
        ),
        (name_of(id), hex.as_bytes()),
    ] {
        let temp = FilePath::new(&format!("{hex}.{}.new", std::process::id())).unwrap_or_default();
        let _ = files.remove(&temp);
        put_durably(files, &temp, &name, |file| file.write_at(0, content))?;
    }
    Ok(())
}
