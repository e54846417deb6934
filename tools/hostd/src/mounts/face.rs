//! What a mount shows, put together from a plan and what reads its content.

use std::ops::Deref;
use std::path::PathBuf;
use std::sync::Arc;

use shale_fusefs::{DiskFace, DiskFile, Face, Permissions, TreeError, TreeFace};
use shale_view::{ChunkReader, Disk, Overlay, PlanFile, Trace, View, open_plan};

use crate::error::HostResult;
use crate::served::open_overlay;
use crate::source::Sources;

use super::record::{MountRecord, Shows};

/// What a mount shows, open.
pub(crate) struct Opened {
    pub(super) face: Box<dyn Face>,
    pub(super) overlay: Option<Arc<Overlay>>,
}

impl Opened {
    /// Opens what `record` is of. Blocks.
    pub(crate) fn new(record: &MountRecord, sources: &Sources) -> HostResult<Self> {
        Self::traced(record, sources, None)
    }

    /// The same; where it is a tree, what is read of it is noted in a trace. Blocks.
    pub(crate) fn traced(
        record: &MountRecord,
        sources: &Sources,
        trace: Option<Arc<Trace>>,
    ) -> HostResult<Self> {
        let source = sources.get(&record.origin.repository())?;
        let plan = record.origin.plan;
        let file = open_plan(&source.composer.plan_path(plan), plan)?;
        let reader = source.reader.clone();
        Ok(match &record.shows {
            Shows::Tree => Self {
                face: match (trace, record.owner.permissions()) {
                    (Some(trace), permissions) => {
                        Box::new(traced_tree_face(file, reader, trace, permissions)?)
                    }
                    (None, permissions) => Box::new(tree_face(file, reader, permissions)?),
                },
                overlay: None,
            },
            Shows::Disk { overlay, owner } => {
                let open = |dir: &PathBuf| open_overlay(dir, plan);
                let overlay = overlay.as_ref().map(open).transpose()?;
                let shown = record.disk_file(*owner);
                Self {
                    face: Box::new(disk_face(file, reader, overlay.clone(), shown)),
                    overlay,
                }
            }
        })
    }
}

/// The tree of a plan, to be mounted with the same permissions.
pub fn tree_face(
    plan: PlanFile,
    reader: Arc<ChunkReader>,
    permissions: Permissions,
) -> Result<impl Face, TreeError> {
    face_of(View::new(plan, reader), permissions)
}

/// The same, which notes in a trace what is read.
fn traced_tree_face(
    plan: PlanFile,
    reader: Arc<ChunkReader>,
    trace: Arc<Trace>,
    permissions: Permissions,
) -> Result<impl Face, TreeError> {
    face_of(View::new(plan, reader).traced(trace), permissions)
}

fn face_of(view: View, permissions: Permissions) -> Result<impl Face, TreeError> {
    let view = Arc::new(view);
    let disk = Arc::new(Disk::read_only(view.clone()));
    TreeFace::new(PlanOf(view), disk, permissions)
}

/// The disk of a plan, with what was written to it if it can be written.
pub fn disk_face(
    plan: PlanFile,
    reader: Arc<ChunkReader>,
    overlay: Option<Arc<Overlay>>,
    file: DiskFile,
) -> DiskFace {
    let view = Arc::new(View::new(plan, reader));
    let disk = match overlay {
        None => Disk::read_only(view),
        Some(overlay) => Disk::writable(view, overlay),
    };
    DiskFace::new(Arc::new(disk), file)
}

/// The plan of a view.
struct PlanOf(Arc<View>);

impl Deref for PlanOf {
    type Target = PlanFile;

    fn deref(&self) -> &PlanFile {
        self.0.plan()
    }
}
