//! Where content comes from and goes to.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use shale_files::{DirFiles, FileError};
use shale_index::RocksIndex;
use shale_model::{Catalog, Fetch, Sink};
use shale_repo::{Access, InitError, Repository};

/// Content that templates are made of.
#[derive(Clone)]
pub enum Place {
    /// A repository in a directory of this machine.
    Local(Arc<Repository>),
}

/// Why a place does not open.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// The directory cannot be used.
    #[error(transparent)]
    Files(#[from] FileError),
    /// There is no repository, and none can be made there.
    #[error("make a repository in `{}`", path.display())]
    Init {
        /// The directory.
        path: PathBuf,
        /// Why not.
        source: InitError,
    },
    /// The repository cannot be opened.
    #[error("open the repository `{}`", path.display())]
    Open {
        /// The directory.
        path: PathBuf,
        /// Why not.
        source: shale_repo::OpenError,
    },
    /// Its chunk index cannot be opened.
    #[error(transparent)]
    Index(#[from] shale_index::OpenError),
}

impl Place {
    /// Opens the repository in `path`, making one there if the directory is empty or missing.
    pub fn local(path: &Path) -> Result<Self, PlaceError> {
        let files = Arc::new(DirFiles::create(path)?);
        let open = |source| PlaceError::Open {
            path: path.to_owned(),
            source,
        };
        match Repository::check(&*files) {
            Ok(()) => {}
            Err(shale_repo::OpenError::Missing) => {
                Repository::init(&*files).map_err(|source| PlaceError::Init {
                    path: path.to_owned(),
                    source,
                })?;
            }
            Err(error) => return Err(open(error)),
        }
        let index = Arc::new(open_index(&path.join(shale_repo::paths::INDEX_DIR))?);
        let repository = Repository::open(files, index, Access::Shared).map_err(open)?;
        Ok(Place::Local(Arc::new(repository)))
    }

    /// Begins a push.
    pub fn sink(&self) -> Box<dyn Sink> {
        match self {
            Place::Local(repository) => Box::new(repository.push()),
        }
    }

    /// Names and manifests.
    pub fn catalog(&self) -> Arc<dyn Catalog> {
        match self {
            Place::Local(repository) => repository.clone(),
        }
    }

    /// Chunks.
    pub fn fetch(&self) -> Arc<dyn Fetch> {
        match self {
            Place::Local(repository) => repository.clone(),
        }
    }
}

/// The index can be rebuilt from the packs, which opening the repository does; so a damaged one is
/// thrown away.
fn open_index(path: &Path) -> Result<RocksIndex, shale_index::OpenError> {
    match RocksIndex::open(path) {
        Err(shale_index::OpenError::Damaged { .. }) => {
            RocksIndex::discard(path)?;
            RocksIndex::open(path)
        }
        opened => opened,
    }
}
