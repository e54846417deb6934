//! The index itself.
//!
//! Three tables (column families): `default` holds the version, `packs` the number of each pack, `chunks` the
//! location of each chunk with its pack's number. What is done to a pack is one synced batch.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use rocksdb::{
    BoundColumnFamily, ColumnFamilyDescriptor, DBPinnableSlice, DBWithThreadMode, IteratorMode,
    MultiThreaded, Options, ReadOptions, WriteBatch,
};
use shale_model::{
    ChunkId, ChunkIndex, ID_LEN, Location, PackContents, PackId, SeamError, SeamResult, Trouble,
    locations_of,
};

use crate::damage;
use crate::error::{OpenError, failed};
use crate::options::{chunk_options, durable, index_options};
use crate::value::{self, PackNumber};

/// Keys of one look-up in RocksDB, which holds on to the block of each until it answers: 1 MiB. All 10,000 that a caller
/// may ask for at once would be 40 MiB, of each caller.
const KEYS_AT_ONCE: usize = 256;

pub(crate) type Db = DBWithThreadMode<MultiThreaded>;

/// What a table has in memory, in bytes, as RocksDB calls it.
const MEMTABLES: &str = "rocksdb.cur-size-all-mem-tables";

/// Bytes in memory that are written out when the index closes: whoever opens it next would read them from the log again,
/// some 12,000 chunks in 5 ms.
const WORTH_WRITING_BYTES: u64 = 1 << 20;

/// Where the version lies in the default table.
const VERSION_KEY: &[u8] = b"version";
/// The layout of the tables.
const VERSION: u16 = 1;
pub(crate) const PACKS: &str = "packs";
pub(crate) const CHUNKS: &str = "chunks";
const TABLES: [&str; 3] = ["default", PACKS, CHUNKS];

/// A chunk index in a directory. One process has it open; its threads share it.
pub struct RocksIndex {
    db: Db,
    packs: RwLock<Packs>,
    /// Held by whoever changes something.
    writer: Mutex<()>,
}

impl Drop for RocksIndex {
    fn drop(&mut self) {
        // What is not written out is in the log.
        let _ = self.write_out();
    }
}

/// The packs table in memory: some 100 bytes for each pack, of which a TiB has about 16,000.
#[derive(Default)]
pub(crate) struct Packs {
    /// Packs that the index has, with their numbers.
    numbers: HashMap<PackId, PackNumber>,
    /// What a number in a location means. Known from before the first location has it.
    ids: HashMap<PackNumber, PackId>,
    /// A number that no pack ever had in this process, and none in the table has.
    next: PackNumber,
}

impl RocksIndex {
    /// Opens the index in `path`, a directory of its own; makes it if there is none.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        damage::check(path)?;
        check_tables(path)?;
        let tables = [
            ColumnFamilyDescriptor::new("default", Options::default()),
            ColumnFamilyDescriptor::new(PACKS, Options::default()),
            ColumnFamilyDescriptor::new(CHUNKS, chunk_options()),
        ];
        let opened = Db::open_cf_descriptors(&index_options(), path, tables);
        let db = opened.map_err(|error| OpenError::of(path, error))?;
        check_version(&db, path)?;
        let packs = read_packs(&db).map_err(|source| OpenError::Damaged {
            path: path.to_owned(),
            source: source.into(),
        })?;
        Ok(Self {
            db,
            packs: RwLock::new(packs),
            writer: Mutex::new(()),
        })
    }

    /// Removes the index in `path`, whatever its state; one that is in use is left alone.
    pub fn discard(path: &Path) -> Result<(), OpenError> {
        let removed = Db::destroy(&index_options(), path);
        removed.map_err(|error| OpenError::of(path, error))?;
        damage::forget(path);
        Ok(())
    }

    fn table(&self, name: &str) -> SeamResult<Arc<BoundColumnFamily<'_>>> {
        table(&self.db, name)
    }

    fn packs(&self) -> RwLockReadGuard<'_, Packs> {
        self.packs.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn packs_mut(&self) -> RwLockWriteGuard<'_, Packs> {
        self.packs.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn writing(&self) -> MutexGuard<'_, ()> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, action: &str, batch: WriteBatch) -> SeamResult<()> {
        let written = self.db.write_opt(batch, &durable());
        written.map_err(|error| failed(action, error))
    }

    /// Writes out what is in memory, if it is much.
    fn write_out(&self) -> Result<(), rocksdb::Error> {
        let table = |name| self.db.cf_handle(name);
        let Some(chunks) = table(CHUNKS) else {
            return Ok(());
        };
        let in_memory = self.db.property_int_value_cf(&chunks, MEMTABLES)?;
        if in_memory.is_some_and(|bytes| bytes > WORTH_WRITING_BYTES) {
            // All: the log stays as long as one of them needs it.
            for table in TABLES.into_iter().filter_map(table) {
                self.db.flush_cf(&table)?;
            }
        }
        Ok(())
    }

    /// The keys of `chunks` that lie in the pack of this number. Reads the whole table: packs are removed
    /// rarely, and an index by pack would nearly double what every chunk costs.
    fn keys_in(&self, number: PackNumber) -> SeamResult<Vec<Box<[u8]>>> {
        let action = "look for the chunks of a pack";
        let mut options = ReadOptions::default();
        options.fill_cache(false);
        let chunks = self.table(CHUNKS)?;
        let mut keys = Vec::new();
        let entries = self
            .db
            .iterator_cf_opt(&chunks, options, IteratorMode::Start);
        for entry in entries {
            let (key, value) = entry.map_err(|error| failed(action, error))?;
            let pack = value::pack_of(&value)
                .map_err(|error| SeamError::caused(Trouble::Integrity, action, error))?;
            if pack == number {
                keys.push(key);
            }
        }
        Ok(keys)
    }
}

impl ChunkIndex for RocksIndex {
    fn get(&self, ids: &[ChunkId]) -> SeamResult<Vec<Option<Location>>> {
        look_up(&self.db, &self.packs(), ids)
    }

    /// The whole pack is one batch in memory, about as large as its footer.
    fn add_pack(&self, pack: PackId, contents: &PackContents) -> SeamResult<()> {
        let _writing = self.writing();
        if self.packs().numbers.contains_key(&pack) {
            return Ok(());
        }
        let number = self.packs_mut().begin(pack)?;
        let (packs, chunks) = (self.table(PACKS)?, self.table(CHUNKS)?);
        let mut batch = WriteBatch::default();
        batch.put_cf(&packs, pack.as_bytes(), number.to_le_bytes());
        let mut value = Vec::new();
        for (id, location) in locations_of(pack, contents) {
            value::encode(number, &location, &mut value);
            batch.put_cf(&chunks, id.as_bytes(), &value);
        }
        self.write("add a pack", batch)?;
        self.packs_mut().numbers.insert(pack, number);
        Ok(())
    }

    fn remove_pack(&self, pack: PackId) -> SeamResult<()> {
        let _writing = self.writing();
        let Some(number) = self.packs().numbers.get(&pack).copied() else {
            return Ok(());
        };
        let (packs, chunks) = (self.table(PACKS)?, self.table(CHUNKS)?);
        let mut batch = WriteBatch::default();
        batch.delete_cf(&packs, pack.as_bytes());
        for key in self.keys_in(number)? {
            batch.delete_cf(&chunks, key);
        }
        self.write("remove a pack", batch)?;
        let mut known = self.packs_mut();
        known.numbers.remove(&pack);
        known.ids.remove(&number);
        Ok(())
    }

    fn packs(&self) -> SeamResult<Vec<PackId>> {
        Ok(self.packs().ids().collect())
    }

    fn clear(&self) -> SeamResult<()> {
        // Keys are ids; one byte longer than the last of them is after them all.
        const AFTER_ALL: [u8; ID_LEN + 1] = [0xff; ID_LEN + 1];
        let _writing = self.writing();
        let mut batch = WriteBatch::default();
        for name in [PACKS, CHUNKS] {
            batch.delete_range_cf(&self.table(name)?, &[][..], &AFTER_ALL[..]);
        }
        self.write("remove everything", batch)?;
        let mut known = self.packs_mut();
        known.numbers.clear();
        known.ids.clear();
        drop(known);
        // Gives back the room, and spares later reads the way past what was removed.
        let chunks = self.table(CHUNKS)?;
        self.db
            .compact_range_cf(&chunks, None::<&[u8]>, None::<&[u8]>);
        Ok(())
    }
}

impl Packs {
    /// Every pack, in no particular order.
    pub(crate) fn ids(&self) -> impl Iterator<Item = PackId> {
        self.numbers.keys().copied()
    }

    /// Takes the next number for `pack`, which is not in the index yet.
    fn begin(&mut self, pack: PackId) -> SeamResult<PackNumber> {
        let number = self.next;
        let full = || SeamError::new(Trouble::Failed, "number a pack: rebuild the chunk index");
        self.next = number.checked_add(1).ok_or_else(full)?;
        self.ids.insert(number, pack);
        Ok(number)
    }
}

/// The location of each id. A pack that was removed meanwhile is not there any more, and nor are its chunks.
pub(crate) fn look_up(
    db: &Db,
    packs: &Packs,
    ids: &[ChunkId],
) -> SeamResult<Vec<Option<Location>>> {
    let action = "look up chunks";
    let chunks = table(db, CHUNKS)?;
    let location = |value: Result<Option<DBPinnableSlice<'_>>, rocksdb::Error>| {
        let value = value.inspect_err(|error| damage::note(db.path(), error));
        let Some(value) = value.map_err(|error| failed(action, error))? else {
            return Ok(None);
        };
        value::decode(&value, |number| packs.ids.get(&number).copied())
            .map_err(|error| SeamError::caused(Trouble::Integrity, action, error))
    };
    let mut found = Vec::with_capacity(ids.len());
    for ids in ids.chunks(KEYS_AT_ONCE) {
        let keys = ids.iter().map(|id| id.as_bytes());
        for value in db.batched_multi_get_cf(&chunks, keys, false) {
            found.push(location(value)?);
        }
    }
    Ok(found)
}

fn table<'a>(db: &'a Db, name: &str) -> SeamResult<Arc<BoundColumnFamily<'a>>> {
    let table = db.cf_handle(name);
    table.ok_or_else(|| SeamError::new(Trouble::Failed, format!("find the table {name}")))
}

/// Refuses an index with tables that this build does not know: RocksDB would only say that they were
/// not opened.
pub(crate) fn check_tables(path: &Path) -> Result<(), OpenError> {
    if !path.join("CURRENT").exists() {
        return Ok(());
    }
    let tables = Db::list_cf(&index_options(), path).map_err(|error| OpenError::of(path, error))?;
    match tables.iter().all(|name| TABLES.contains(&name.as_str())) {
        true => Ok(()),
        false => Err(OpenError::Newer { path: path.into() }),
    }
}

/// Checks the version, or writes it into a new index.
fn check_version(db: &Db, path: &Path) -> Result<(), OpenError> {
    if read_version(db, path)?.is_some() {
        return Ok(());
    }
    let written = db.put_opt(VERSION_KEY, VERSION.to_le_bytes(), &durable());
    written.map_err(|error| OpenError::of(path, error))
}

/// The version, which is the one that this build knows; none in an index that is new.
pub(crate) fn read_version(db: &Db, path: &Path) -> Result<Option<u16>, OpenError> {
    let found = db.get(VERSION_KEY);
    let Some(found) = found.map_err(|error| OpenError::of(path, error))? else {
        return Ok(None);
    };
    match found[..].try_into().map(u16::from_le_bytes) {
        Ok(VERSION) => Ok(Some(VERSION)),
        Ok(newer) if newer > VERSION => Err(OpenError::Newer { path: path.into() }),
        _ => Err(OpenError::Damaged {
            path: path.into(),
            source: "its version makes no sense".into(),
        }),
    }
}

pub(crate) fn read_packs(db: &Db) -> Result<Packs, SeamError> {
    let action = "read the packs";
    let damaged = || SeamError::new(Trouble::Integrity, action);
    let table = db.cf_handle(PACKS).ok_or_else(damaged)?;
    let mut packs = Packs::default();
    for entry in db.iterator_cf(&table, IteratorMode::Start) {
        let (key, value) = entry.map_err(|error| failed(action, error))?;
        let pack = PackId::from_bytes(key[..].try_into().map_err(|_| damaged())?);
        let number = PackNumber::from_le_bytes(value[..].try_into().map_err(|_| damaged())?);
        packs.numbers.insert(pack, number);
        packs.ids.insert(number, pack);
        // Numbers of packs that are gone are used again: nothing refers to them.
        packs.next = packs.next.max(number.checked_add(1).ok_or_else(damaged)?);
    }
    match packs.ids.len() == packs.numbers.len() {
        true => Ok(packs),
        false => Err(damaged()),
    }
}
