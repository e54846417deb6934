//! The repository: opening it, and reading from it.

use std::sync::{Arc, Mutex};

use shale_files::{File, Files, IfHeld, Lock, LockFiles, LockKind, OpenMode};
use shale_model::limits::{MAX_LAYER_ROOT_BYTES, MAX_TEMPLATE_BYTES};
use shale_model::{
    BoxFuture, Catalog, ChunkId, ChunkIndex, Fetch, LayerId, Location, MAX_MISSING_IDS, PackId,
    RefName, SeamError, SeamResult, TemplateId, TemplateIndex, Trouble, decode_frame,
};

use crate::format::{self, InitError, OpenError};
use crate::manifests::Manifest;
use crate::packs::list_packs;
use crate::paths;
use crate::push::Push;
use crate::reconcile::{Reconciled, reconcile};
use crate::refs::{FileRefs, Refs};
use crate::session::Session;
use crate::trouble::not_read;

/// Who else may have the repository open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Any number of readers and pushers.
    Shared,
    /// The same, with an index that another process keeps up to date: it is taken as it is.
    Read,
    /// Nobody: for deletion and for rebuilding the index.
    Exclusive,
}

/// An open repository.
pub struct Repository {
    pub(crate) files: Arc<dyn LockFiles>,
    pub(crate) index: Arc<dyn ChunkIndex>,
    pub(crate) refs: Box<dyn Refs>,
    pub(crate) session: Arc<Session>,
    access: Access,
    reconciled: Reconciled,
    /// Held while a boot set is made: one at a time, since each takes a processor.
    pub(crate) making_boot_set: Mutex<()>,
    /// Keeps deletion away as long as anybody reads or pushes.
    _in_use: Lock,
}

impl Repository {
    /// Makes an empty repository in an empty directory.
    pub fn init(files: &dyn LockFiles) -> Result<(), InitError> {
        format::init(files)
    }

    /// Whether `files` is a repository that this build can open. For those who must know before they
    /// open the index inside of it.
    pub fn check(files: &dyn Files) -> Result<(), OpenError> {
        format::check(files)
    }

    /// Opens a repository with its chunk index. What dead pushers left is swept, and, but for
    /// [`Access::Read`], the index is brought up to what lies there ([`Repository::reconciled`]); a new,
    /// empty index is filled.
    pub fn open(
        files: Arc<dyn LockFiles>,
        index: Arc<dyn ChunkIndex>,
        access: Access,
    ) -> Result<Self, OpenError> {
        format::check(&*files)?;
        let kind = match access {
            Access::Shared | Access::Read => LockKind::Shared,
            Access::Exclusive => LockKind::Exclusive,
        };
        let in_use = files.lock(&paths::use_lock(), kind, IfHeld::Fail)?;
        let session = Arc::new(Session::begin(Arc::clone(&files))?);
        let reconciled = match access {
            Access::Read => Reconciled::default(),
            Access::Shared | Access::Exclusive => {
                reconcile(&*files, &*index).map_err(OpenError::Index)?
            }
        };
        let refs = FileRefs::new(Arc::clone(&files), Arc::clone(&session));
        Ok(Self {
            files,
            index,
            refs: Box::new(refs),
            session,
            access,
            reconciled,
            making_boot_set: Mutex::default(),
            _in_use: in_use,
        })
    }

    /// What opening found where index and packs differed.
    pub fn reconciled(&self) -> &Reconciled {
        &self.reconciled
    }

    /// Whether the index has exactly the packs that lie there: otherwise opening it to write brings it up to them.
    pub fn knows_its_packs(&self) -> SeamResult<bool> {
        let mut known = self.index.packs()?;
        known.sort();
        Ok(known == list_packs(&*self.files)?)
    }

    /// Begins a push.
    pub fn push(self: &Arc<Self>) -> Push {
        Push::new(Arc::clone(self))
    }

    /// Clears the index and fills it from the footers of all packs. Needs [`Access::Exclusive`].
    pub fn rebuild_index(&self) -> SeamResult<Reconciled> {
        if self.access != Access::Exclusive {
            let action = "rebuild the index while others may push";
            return Err(SeamError::new(Trouble::Conflict, action));
        }
        self.index.clear()?;
        reconcile(&*self.files, &*self.index)
    }

    /// The file of a pack, to be read or sent as it is.
    pub fn open_pack(&self, pack: PackId) -> SeamResult<Box<dyn File>> {
        let file = match self.files.open(&paths::pack(pack), OpenMode::Read) {
            Err(error) if error.is_missing() => {
                self.files.open(&paths::boot_pack(pack), OpenMode::Read)
            }
            opened => opened,
        };
        file.map_err(|error| not_read(format!("open pack {pack}"), error))
    }

    /// The plain bytes of one chunk, verified.
    pub fn chunk(&self, id: ChunkId) -> SeamResult<Vec<u8>> {
        let action = || format!("read chunk {id}");
        let found = self.index.get(&[id])?.first().copied().flatten();
        let at = found.ok_or_else(|| SeamError::new(Trouble::NotFound, action()))?;
        let (offset, stored) = (at.frame.offset, at.frame.stored);
        let stored = self.read_pack(at.pack, offset, stored.into())?;
        let damaged = |error| SeamError::caused(Trouble::Integrity, action(), error);
        let mut plain = decode_frame(at.frame.codec, stored, at.frame.plain).map_err(damaged)?;
        let (start, len) = (at.offset as usize, at.len as usize);
        plain.drain(..start.min(plain.len()));
        plain.truncate(len);
        match ChunkId::of(&plain) == id {
            true => Ok(plain),
            false => Err(SeamError::new(
                Trouble::Integrity,
                format!("{}: its bytes in pack {} do not match", action(), at.pack),
            )),
        }
    }

    fn read_pack(&self, pack: PackId, offset: u64, len: u64) -> SeamResult<Vec<u8>> {
        let action = || format!("read pack {pack} at {offset}");
        let file = self.open_pack(pack)?;
        let size = file.size().map_err(|error| not_read(action(), error))?;
        // Checked before memory is taken for it.
        if offset.checked_add(len).is_none_or(|end| end > size) {
            let action = format!("{}: {len} bytes from there are not in it", action());
            return Err(SeamError::new(Trouble::Invalid, action));
        }
        let mut bytes = vec![0; len as usize];
        let read = file.read_at(offset, &mut bytes);
        read.map_err(|error| not_read(action(), error))?;
        Ok(bytes)
    }
}

/// The manifest of a layer's root.
pub(crate) fn layer_manifest(id: LayerId) -> Manifest {
    Manifest {
        shown: format!("layer {id}"),
        path: paths::layer(id),
        max_bytes: MAX_LAYER_ROOT_BYTES,
    }
}

/// The manifest of a template.
pub(crate) fn template_manifest(id: TemplateId) -> Manifest {
    Manifest {
        shown: format!("template {id}"),
        path: paths::template(id),
        max_bytes: MAX_TEMPLATE_BYTES,
    }
}

impl Catalog for Repository {
    fn get_ref(&self, name: &RefName) -> SeamResult<Option<TemplateIndex>> {
        self.refs.get(name)
    }

    fn list_refs(&self, project: &str) -> SeamResult<Vec<(RefName, TemplateIndex)>> {
        self.refs.list(project)
    }

    fn template(&self, id: TemplateId) -> SeamResult<Vec<u8>> {
        template_manifest(id).read(&*self.files, |bytes| TemplateId::of(bytes) == id)
    }

    fn layer(&self, id: LayerId) -> SeamResult<Vec<u8>> {
        layer_manifest(id).read(&*self.files, |bytes| LayerId::of(bytes) == id)
    }
}

/// The futures are ready when they are first polled: they block while they read. A caller that must
/// not be blocked polls them on a thread of its own.
impl Fetch for Repository {
    fn locate<'a>(
        &'a self,
        ids: &'a [ChunkId],
    ) -> BoxFuture<'a, SeamResult<Vec<Option<Location>>>> {
        Box::pin(async move {
            check_count(ids)?;
            self.index.get(ids)
        })
    }

    fn read(&self, pack: PackId, offset: u64, len: u64) -> BoxFuture<'_, SeamResult<Vec<u8>>> {
        Box::pin(async move { self.read_pack(pack, offset, len) })
    }
}

/// Refuses more ids than one call may have.
pub(crate) fn check_count(ids: &[ChunkId]) -> SeamResult<()> {
    if ids.len() <= MAX_MISSING_IDS {
        return Ok(());
    }
    let action = format!(
        "ask for {} chunks; the limit is {MAX_MISSING_IDS}",
        ids.len()
    );
    Err(SeamError::new(Trouble::Invalid, action))
}
