//! What a mount shows, put together from a plan and what reads its content.

use std::ops::Deref;
use std::path::PathBuf;
use std::sync::Arc;

use shale_fusefs::{DiskFace, DiskFile, Face, Permissions, TreeError, TreeFace};
use shale_model::BlockDevice;
use shale_view::{ChunkReader, Disk, Overlay, PlanFile, Trace, View, open_plan};

use crate::error::HostResult;
use crate::metrics::{Face as ReadFace, TimedDisk};
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
        let noted = &source.witness.noted;
        Ok(match &record.shows {
            Shows::Tree => {
                let view = Arc::new(View::new(file, reader).traced(trace));
                let timed = TimedDisk {
                    inner: Arc::new(Disk::read_only(view.clone())),
                    reads: noted.reads(ReadFace::FuseTree),
                };
                let permissions = record.owner.permissions();
                Self {
                    face: Box::new(TreeFace::new(PlanOf(view), Arc::new(timed), permissions)?),
                    overlay: None,
                }
            }
            Shows::Disk { overlay, owner } => {
                let open = |dir: &PathBuf| open_overlay(dir, plan);
                let overlay = overlay.as_ref().map(open).transpose()?;
                let timed = TimedDisk {
                    inner: disk_of(file, reader, overlay.clone()),
                    reads: noted.reads(ReadFace::FuseDisk),
                };
                let shown = record.disk_file(*owner);
                Self {
                    face: Box::new(DiskFace::new(Arc::new(timed), shown)),
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
    let view = Arc::new(View::new(plan, reader));
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
    DiskFace::new(disk_of(plan, reader, overlay), file)
}

fn disk_of(
    plan: PlanFile,
    reader: Arc<ChunkReader>,
    overlay: Option<Arc<Overlay>>,
) -> Arc<dyn BlockDevice> {
    let view = Arc::new(View::new(plan, reader));
    Arc::new(match overlay {
        None => Disk::read_only(view),
        Some(overlay) => Disk::writable(view, overlay),
    })
}

/// The plan of a view.
struct PlanOf(Arc<View>);

impl Deref for PlanOf {
    type Target = PlanFile;

    fn deref(&self) -> &PlanFile {
        self.0.plan()
    }
}
