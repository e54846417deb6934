//! Where content comes from and goes to.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use shale_client::{RemoteRegistry, SetupError};
use shale_files::{DirFiles, FileError, record_lock_holders};
use shale_index::{IndexReader, RocksIndex};
use shale_model::{BootSets, Catalog, ChunkIndex, Fetch, Hearing, SeamError, SeamResult, Sink};
use shale_repo::{Access, InitError, Repository};
use shale_view::NamedFetch;
use tokio::runtime::Handle;

/// Content that templates are made of.
#[derive(Clone)]
pub enum Place {
    /// A repository in a directory of this machine.
    Local(Arc<Repository>),
    /// A registry, spoken to over HTTP.
    Remote {
        /// The registry.
        registry: RemoteRegistry,
        /// Others that may have the same chunks, in the order in which they are asked.
        mirrors: Vec<RemoteRegistry>,
        /// Directory in which packs wait for their upload.
        spool: PathBuf,
    },
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
    /// Another process writes chunks there, or this one.
    #[error("the chunk index `{}` is in use by {by}", path.display())]
    IndexInUse {
        /// The directory of the index.
        path: PathBuf,
        /// Who has it, for people: `process 4711 (shale)`, or `another process` where that is not known.
        by: String,
    },
    /// What lies in the repository cannot be listed.
    #[error(transparent)]
    Seam(#[from] SeamError),
    /// The registry's client cannot be made.
    #[error(transparent)]
    Remote(#[from] SetupError),
}

impl PlaceError {
    /// Whether it is there, and another process has it.
    pub fn in_use(&self) -> bool {
        matches!(self, PlaceError::IndexInUse { .. })
    }
}

impl Place {
    /// Opens the repository in `path`, making one there if the directory is empty or missing. One process
    /// at a time can: it may write chunks.
    pub fn local(path: &Path) -> Result<Self, PlaceError> {
        let files = files_of(path)?;
        let index = open_index(&index_dir(path)).map_err(in_use_by)?;
        open(path, files, Arc::new(index), Access::Shared).map(Place::Local)
    }

    /// Opens the repository in `path` for what writes no chunks, beside others that may; templates can be
    /// made and named.
    pub fn local_beside(path: &Path) -> Result<Self, PlaceError> {
        let beside = || -> Result<Arc<Repository>, PlaceError> {
            let index = Arc::new(IndexReader::open(&index_dir(path))?);
            open(path, files_of(path)?, index, Access::Read)
        };
        match beside() {
            Ok(repository) if repository.knows_its_packs()? => {
                return Ok(Place::Local(repository));
            }
            // Some packs were put there by other means, or their pusher died; or there is no index, or a damaged
            // one. Opening it to write mends that.
            Ok(_) | Err(PlaceError::Index(shale_index::OpenError::Damaged { .. })) => {}
            Err(error) => return Err(error),
        }
        match Self::local(path) {
            // Whoever writes knows of them, or will in a moment.
            Err(error) if error.in_use() => {}
            opened => drop(opened?),
        }
        Ok(Place::Local(beside()?))
    }

    /// The registry of `settings`, spoken to on `runtime`, whose chunks `mirrors` may have, too. Nothing is asked yet.
    /// Packs that are pushed wait in the existing directory `spool`.
    pub fn remote(
        settings: shale_client::Settings,
        mirrors: Vec<shale_client::Settings>,
        runtime: Handle,
        spool: PathBuf,
    ) -> Result<Self, PlaceError> {
        let registry = RemoteRegistry::new(settings, runtime.clone())?;
        let mirrors = mirrors
            .into_iter()
            .map(|settings| RemoteRegistry::new(settings, runtime.clone()));
        Ok(Place::Remote {
            registry,
            mirrors: mirrors.collect::<Result<_, _>>()?,
            spool,
        })
    }

    /// Begins a push.
    pub fn sink(&self) -> SeamResult<Box<dyn Sink>> {
        Ok(match self {
            Place::Local(repository) => Box::new(repository.push()),
            Place::Remote {
                registry, spool, ..
            } => Box::new(registry.push(spool)?),
        })
    }

    /// Names and manifests.
    pub fn catalog(&self) -> Arc<dyn Catalog> {
        match self {
            Place::Local(repository) => repository.clone(),
            Place::Remote { registry, .. } => Arc::new(registry.clone()),
        }
    }

    /// Chunks, of the place itself. Where there are mirrors, what it does not answer at once is an error.
    pub fn fetch(&self) -> Arc<dyn Fetch> {
        match self {
            Place::Local(repository) => repository.clone(),
            Place::Remote {
                registry, mirrors, ..
            } => match &mirrors[..] {
                [] => Arc::new(registry.clone()),
                _ => Arc::new(registry.asked_once()),
            },
        }
    }

    /// What is known of the place itself while its answers are waited for; nothing of a directory.
    pub fn hearing(&self) -> Option<Arc<dyn Hearing>> {
        match self {
            Place::Local(_) => None,
            Place::Remote { registry, .. } => Some(Arc::new(registry.clone())),
        }
    }

    /// Chunks, of mirrors.
    pub fn mirrors(&self) -> Vec<NamedFetch> {
        let mirrors = match self {
            Place::Local(_) => &[],
            Place::Remote { mirrors, .. } => &mirrors[..],
        };
        mirrors.iter().map(named).collect()
    }

    /// Chunks, of the mirror of this number.
    pub(crate) fn mirror(&self, number: usize) -> Option<NamedFetch> {
        match self {
            Place::Local(_) => None,
            Place::Remote { mirrors, .. } => mirrors.get(number).map(named),
        }
    }

    /// What boots read; nothing for a repository on this machine, whose content needs not be brought.
    pub fn boot_sets(&self) -> Option<Arc<dyn BootSets>> {
        match self {
            Place::Local(_) => None,
            Place::Remote { registry, .. } => Some(Arc::new(registry.clone())),
        }
    }
}

fn named(mirror: &RemoteRegistry) -> NamedFetch {
    NamedFetch {
        name: mirror.address().to_string(),
        fetch: Arc::new(mirror.asked_once()),
        hearing: Some(Arc::new(mirror.clone())),
    }
}

fn index_dir(path: &Path) -> PathBuf {
    path.join(shale_repo::paths::INDEX_DIR)
}

/// The directory `path` as a repository that this build can open; one is made where there is nothing.
fn files_of(path: &Path) -> Result<Arc<DirFiles>, PlaceError> {
    let files = Arc::new(DirFiles::create(path)?);
    match Repository::check(&*files) {
        Ok(()) => {}
        Err(shale_repo::OpenError::Missing) => {
            Repository::init(&*files).map_err(|source| PlaceError::Init {
                path: path.to_owned(),
                source,
            })?;
        }
        Err(source) => return Err(not_opened(path)(source)),
    }
    Ok(files)
}

fn open(
    path: &Path,
    files: Arc<DirFiles>,
    index: Arc<dyn ChunkIndex>,
    access: Access,
) -> Result<Arc<Repository>, PlaceError> {
    let opened = Repository::open(files, index, access);
    Ok(Arc::new(opened.map_err(not_opened(path))?))
}

fn not_opened(path: &Path) -> impl FnOnce(shale_repo::OpenError) -> PlaceError {
    let path = path.to_owned();
    move |source| PlaceError::Open { path, source }
}

/// Names the process that has an index which is in use: RocksDB's lock is one of fcntl(2) on this file.
fn in_use_by(error: shale_index::OpenError) -> PlaceError {
    match error {
        shale_index::OpenError::InUse { path, .. } => PlaceError::IndexInUse {
            by: record_lock_holders(&path.join("LOCK")),
            path,
        },
        other => PlaceError::Index(other),
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
