//! Where a host keeps what.
//!
//! ```text
//! <state>/repository/         the local repository, unless another is named
//! <state>/plans/<id>.plan     plans, immutable
//! <state>/plans/<template>    the plan that this version made of a template: its id in hex
//! <cache>/chunks/             the chunk cache
//! ```

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// The directories of a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostDirs {
    /// What must survive: plans, instances, the local repository.
    pub state: PathBuf,
    /// What can be fetched again.
    pub cache: PathBuf,
}

impl HostDirs {
    /// The local repository.
    pub fn repository(&self) -> PathBuf {
        self.state.join("repository")
    }

    /// Plans.
    pub fn plans(&self) -> PathBuf {
        self.state.join("plans")
    }

    /// The chunk cache.
    pub fn chunks(&self) -> PathBuf {
        self.cache.join("chunks")
    }
}

/// Makes `path` and what is missing above it, for the owner only: guests' data lies there.
pub fn private_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}
