//! An index for those who only read it, beside a process that has it open to write.

use std::path::Path;
use std::sync::{Mutex, PoisonError, RwLock};

use rocksdb::{ColumnFamilyDescriptor, InfoLogger, LogLevel, Options};
use shale_model::{
    ChunkId, ChunkIndex, Location, PackContents, PackId, SeamError, SeamResult, Trouble,
};

use crate::damage;
use crate::error::{OpenError, failed};
use crate::options::{chunk_options, reader_options};
use crate::rocks::{CHUNKS, Db, PACKS, Packs, check_tables, look_up, read_packs, read_version};

/// A chunk index that others may add packs to meanwhile, in this process or another; any number of readers
/// may have it open. It cannot be changed.
///
/// It is a *secondary instance* of RocksDB: it keeps the files that it knows open, also those that the
/// writer removes, and reads the writer's log when it is asked for a chunk that it does not know.
pub struct IndexReader {
    db: Db,
    packs: RwLock<Packs>,
    /// One catches up at a time.
    catching_up: Mutex<()>,
}

impl IndexReader {
    /// Opens the index in `path`. One that is missing, or that nobody has finished making, is
    /// [`OpenError::Damaged`]: whoever opens it to write makes it whole.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        if !path.join("CURRENT").exists() {
            return Err(OpenError::Damaged {
                path: path.to_owned(),
                source: "there is none yet".into(),
            });
        }
        damage::check(path)?;
        check_tables(path)?;
        let mut options = reader_options();
        // Without a logger it would write a text log, for which readers have no place of their own.
        options.set_info_logger(InfoLogger::new_callback_logger(LogLevel::Fatal, |_, _| {}));
        let tables = [
            ColumnFamilyDescriptor::new("default", Options::default()),
            ColumnFamilyDescriptor::new(PACKS, Options::default()),
            ColumnFamilyDescriptor::new(CHUNKS, chunk_options()),
        ];
        let opened = Db::open_cf_descriptors_as_secondary(&options, path, path, tables);
        let db = opened.map_err(|error| OpenError::of(path, error))?;
        let damaged = |source| OpenError::Damaged {
            path: path.to_owned(),
            source,
        };
        if read_version(&db, path)?.is_none() {
            return Err(damaged("it has no version yet".into()));
        }
        let packs = read_packs(&db).map_err(|error| damaged(error.into()))?;
        Ok(Self {
            db,
            packs: RwLock::new(packs),
            catching_up: Mutex::new(()),
        })
    }

    fn look_up(&self, ids: &[ChunkId]) -> SeamResult<Vec<Option<Location>>> {
        let packs = self.packs.read().unwrap_or_else(PoisonError::into_inner);
        look_up(&self.db, &packs, ids)
    }

    /// Takes up what was written since the last time.
    fn catch_up(&self) -> SeamResult<()> {
        let _alone = self
            .catching_up
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let caught_up = self.db.try_catch_up_with_primary();
        caught_up.map_err(|error| failed("catch up with the writer", error))?;
        let packs = read_packs(&self.db)?;
        *self.packs.write().unwrap_or_else(PoisonError::into_inner) = packs;
        Ok(())
    }
}

impl ChunkIndex for IndexReader {
    fn get(&self, ids: &[ChunkId]) -> SeamResult<Vec<Option<Location>>> {
        let found = self.look_up(ids)?;
        if found.iter().all(Option::is_some) {
            return Ok(found);
        }
        self.catch_up()?;
        self.look_up(ids)
    }

    fn add_pack(&self, _: PackId, _: &PackContents) -> SeamResult<()> {
        Err(read_only("add a pack"))
    }

    fn remove_pack(&self, _: PackId) -> SeamResult<()> {
        Err(read_only("remove a pack"))
    }

    fn packs(&self) -> SeamResult<Vec<PackId>> {
        self.catch_up()?;
        let packs = self.packs.read().unwrap_or_else(PoisonError::into_inner);
        Ok(packs.ids().collect())
    }

    fn clear(&self) -> SeamResult<()> {
        Err(read_only("remove everything"))
    }
}

fn read_only(action: &str) -> SeamError {
    let action = format!("{action} in a chunk index that was opened to be read");
    SeamError::new(Trouble::Failed, action)
}
