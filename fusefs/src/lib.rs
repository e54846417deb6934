//! The FUSE faces: a template's tree as a read-only file system, and its disk as a file.
//!
//! A [`Face`] answers requests and holds no state; a [`Session`] reads them from `/dev/fuse`. The session's loop is its
//! own, because a mount must outlive the process that serves it: [`Connection::keep`] gives two open files which a keeper
//! holds, and with which a later process goes on by [`Connection::take_over`], requests that were under way included.
//!
//! ```no_run
//! # use std::sync::Arc;
//! # use shale_fusefs::{Access, DiskFace, DiskFile, MountOptions, Permissions, Session, mount};
//! # fn example(disk: Arc<dyn shale_model::BlockDevice>, runtime: &tokio::runtime::Handle) -> Result<(), Box<dyn std::error::Error>> {
//! let file = DiskFile { access: Access::ReadOnly, owner: (0, 0), time: Default::default() };
//! let face = DiskFace::new(disk, file);
//! let permissions = Permissions::Checked;
//! let options = MountOptions { source: "demo/base:12".into(), access: Access::ReadOnly, permissions };
//! let (connection, _mount) = mount("/mnt".as_ref(), &options, &face)?;
//! Session::new(face, connection).serve(runtime)?;
//! # Ok(())
//! # }
//! ```

mod detached;
mod disk;
mod face;
pub mod limits;
mod mount;
mod proto;
mod reply;
mod request;
mod session;
mod slots;
mod tree;
mod waiting;

pub use detached::{Detached, mount_detached};
pub use disk::{Access, DISK_NAME, DiskFace, DiskFile};
pub use face::{Face, FaceKind, Outcome};
pub use mount::{
    FS_TYPE, Mount, MountError, MountOptions, Permissions, ReadAhead, Unmount, check_point, clear,
    is_mounted, mount, mount_device, mount_point, unmount,
};
pub use reply::{Attributes, Body, DirectoryItem, Sizes};
pub use request::{Detail, Malformed, Op, Request};
pub use session::{Connection, Counters, Ended, Session, SessionError};
pub use slots::SlotsError;
pub use tree::{TreeError, TreeFace};
