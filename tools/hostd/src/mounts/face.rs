//! What a mount shows, put together from a plan and what reads its content.

use std::ops::Deref;
use std::sync::Arc;

use shale_fusefs::{DiskFace, DiskFile, Face, Permissions, TreeError, TreeFace};
use shale_view::{ChunkReader, Disk, Overlay, PlanFile, Trace, View};

/// The tree of a plan, to be mounted with the same permissions.
pub fn tree_face(
    plan: PlanFile,
    reader: Arc<ChunkReader>,
    permissions: Permissions,
) -> Result<impl Face, TreeError> {
    face_of(View::new(plan, reader), permissions)
}

/// The same, which notes in a trace what is read.
pub(super) fn traced_tree_face(
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
