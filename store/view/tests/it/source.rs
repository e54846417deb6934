//! A source of chunks in memory with faults, and plans over it.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::time::Duration;

use shale_files::{LockFiles, MemoryFiles};
use shale_model::*;
use shale_view::*;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

/// What the next calls do instead of answering.
#[derive(Default)]
pub(crate) struct Faults {
    /// Nothing is answered at all.
    pub(crate) away: AtomicBool,
    /// Reads that find nobody.
    pub(crate) absent: AtomicU32,
    /// Reads that fail in the source itself.
    pub(crate) failing: AtomicU32,
    /// Reads that are denied.
    pub(crate) denied: AtomicU32,
    /// Reads that answer with other bytes.
    pub(crate) wrong: AtomicU32,
    /// Reads that answer with too few bytes.
    pub(crate) short: AtomicU32,
}

/// The pack of the boot set.
const BOOT_PACK: PackId = PackId::from_bytes([9; 32]);

/// The pack that is not of a boot set, unless a test wants others.
const PACK: PackId = PackId::from_bytes([7; 32]);

/// One pack in memory.
pub(crate) struct MemorySource {
    pub(crate) id: PackId,
    pack: Vec<u8>,
    contents: PackContents,
    pub(crate) boot_pack: Vec<u8>,
    pub(crate) boot_reads: AtomicU32,
    by_id: HashMap<ChunkId, Location>,
    pub(crate) faults: Faults,
    pub(crate) reads: AtomicU32,
    pub(crate) locates: AtomicU32,
    pub(crate) delay: Duration,
    /// Lets one read through for each permit.
    pub(crate) gate: Option<Arc<Semaphore>>,
}

impl MemorySource {
    /// Packs `chunks`, four to a frame.
    pub(crate) fn new(chunks: &[Vec<u8>]) -> Self {
        Self::packed(chunks, 4, PACK)
    }

    /// Packs `chunks`, so many to a frame, in a pack of this name.
    pub(crate) fn packed(chunks: &[Vec<u8>], in_frame: usize, pack: PackId) -> Self {
        let mut source = Self {
            id: pack,
            pack: pack_header().to_vec(),
            contents: PackContents::default(),
            boot_pack: Vec::new(),
            boot_reads: AtomicU32::new(0),
            by_id: HashMap::new(),
            faults: Faults::default(),
            reads: AtomicU32::new(0),
            locates: AtomicU32::new(0),
            delay: Duration::ZERO,
            gate: None,
        };
        let mut encoder = FrameEncoder::new().unwrap();
        for group in chunks.chunks(in_frame) {
            let ids: Vec<_> = group
                .iter()
                .map(|c| (ChunkId::of(c), c.len() as u32))
                .collect();
            let plain = group.concat();
            let (codec, stored) = match encoder.compress(&plain).unwrap() {
                Some(stored) => (Codec::Zstd, stored),
                None => (Codec::Plain, plain),
            };
            source.contents.push_frame(codec, stored.len() as u32, &ids);
            source.pack.extend_from_slice(&stored);
        }
        for chunk in source.contents.chunks() {
            let frame = source.contents.frames()[chunk.frame as usize];
            let (offset, len) = (chunk.offset, chunk.len);
            source.by_id.insert(
                chunk.id,
                Location {
                    pack,
                    frame,
                    offset,
                    len,
                },
            );
        }
        source
    }

    /// Bytes of all frames.
    pub(crate) fn stored_bytes(&self) -> u64 {
        let frames = self.contents.frames().iter();
        frames.map(|frame| u64::from(frame.stored)).sum()
    }

    /// Packs these of `chunks` in this order as a boot set.
    pub(crate) fn add_boot_set(&mut self, chunks: &[Vec<u8>]) -> BootSet {
        let other = Self::new(chunks);
        let footer_offset = other.pack.len() as u64;
        self.boot_pack = other.pack;
        self.boot_pack.extend(other.contents.encode_tail());
        BootSet {
            template: TemplateId::of(b"template"),
            pack: BOOT_PACK,
            footer_offset,
            pack_bytes: self.boot_pack.len() as u64,
        }
    }

    /// Makes the source say that a chunk lies where another one does.
    pub(crate) fn lie(&mut self, of: &[u8], at: &[u8]) {
        let at = self.by_id[&ChunkId::of(at)];
        self.by_id.insert(ChunkId::of(of), at);
    }

    /// Makes the source forget where a chunk lies.
    pub(crate) fn lose(&mut self, chunk: &[u8]) {
        self.by_id.remove(&ChunkId::of(chunk));
    }
}

fn counts_down(counter: &AtomicU32) -> bool {
    counter
        .fetch_update(SeqCst, SeqCst, |n| n.checked_sub(1))
        .is_ok()
}

impl Fetch for MemorySource {
    fn locate<'a>(
        &'a self,
        ids: &'a [ChunkId],
    ) -> BoxFuture<'a, SeamResult<Vec<Option<Location>>>> {
        self.locates.fetch_add(1, SeqCst);
        assert!(ids.len() <= MAX_MISSING_IDS);
        if self.faults.away.load(SeqCst) {
            return Box::pin(async { Err(SeamError::new(Trouble::Unavailable, "it is away")) });
        }
        Box::pin(async move { Ok(ids.iter().map(|id| self.by_id.get(id).copied()).collect()) })
    }

    fn read(&self, pack: PackId, offset: u64, len: u64) -> BoxFuture<'_, SeamResult<Vec<u8>>> {
        if pack == BOOT_PACK {
            self.boot_reads.fetch_add(1, SeqCst);
            let part = self.boot_pack.get(offset as usize..(offset + len) as usize);
            let gone = || SeamError::new(Trouble::NotFound, "read a boot set");
            let part = part.map(<[u8]>::to_vec).ok_or_else(gone);
            return Box::pin(async { part });
        }
        self.reads.fetch_add(1, SeqCst);
        Box::pin(async move {
            if self.faults.away.load(SeqCst) {
                return Err(SeamError::new(Trouble::Unavailable, "it is away"));
            }
            if pack != self.id {
                return Err(SeamError::new(Trouble::NotFound, "there is no such pack"));
            }
            if let Some(gate) = &self.gate {
                gate.acquire().await.unwrap().forget();
            }
            tokio::time::sleep(self.delay).await;
            if counts_down(&self.faults.absent) {
                return Err(SeamError::new(Trouble::Unavailable, "nobody is there"));
            }
            if counts_down(&self.faults.failing) {
                return Err(SeamError::new(Trouble::Failed, "the disk is broken"));
            }
            if counts_down(&self.faults.denied) {
                let cause = std::io::Error::other("the token was removed");
                return Err(SeamError::caused(Trouble::Denied, "read a pack", cause));
            }
            let mut bytes = self.pack[offset as usize..(offset + len) as usize].to_vec();
            if counts_down(&self.faults.wrong) {
                bytes[len as usize / 2] ^= 1;
            }
            if counts_down(&self.faults.short) {
                bytes.pop();
            }
            Ok(bytes)
        })
    }
}

/// The content of chunk `n`: mostly compressible, of odd lengths.
pub(crate) fn chunk(n: usize) -> Vec<u8> {
    (0..5000 + n * 331 % 9000)
        .map(|at| (at / 7 * (n + 3)) as u8 ^ n as u8)
        .collect()
}

/// A source, the plan of a disk over it, and that disk as bytes.
pub(crate) struct Fixture {
    pub(crate) source: Arc<MemorySource>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) disk: Vec<u8>,
    pub(crate) plan_id: PlanId,
    dir: tempfile::TempDir,
}

impl Fixture {
    pub(crate) fn new() -> Self {
        Self::with(|_| {})
    }

    /// 40 chunks in files of one to four with gaps between them, and some synthesised bytes.
    pub(crate) fn with(change: impl FnOnce(&mut MemorySource)) -> Self {
        let chunks: Vec<Vec<u8>> = (0..40).map(chunk).collect();
        let mut source = MemorySource::new(&chunks);
        change(&mut source);
        let mut disk = vec![0; 2 * 4096];
        let mut runs = vec![];
        let mut content = 0;
        let synthesised: Vec<u8> = (0..10_000).map(|n| (n % 251) as u8).collect();
        let mut put = |disk: &mut Vec<u8>, bytes: &[u8], source| {
            let block = (disk.len() / 4096) as u32;
            runs.push(Run {
                block,
                bytes: bytes.len() as u64,
                source,
            });
            disk.extend_from_slice(bytes);
            disk.resize(disk.len().next_multiple_of(4096), 0);
        };
        put(&mut disk, &synthesised, RunSource::Synthesised(0));
        let mut next = 0;
        while next < chunks.len() {
            let file = chunks[next..chunks.len().min(next + 1 + next % 4)].concat();
            put(&mut disk, &file, RunSource::Content(content));
            content += file.len() as u64;
            next += 1 + next % 4;
            disk.resize(disk.len() + (next % 3) * 4096, 0);
        }
        disk.resize(disk.len() + 8 * 4096, 0);
        let parts = PlanParts {
            template: TemplateId::of(b"template"),
            disk_bytes: disk.len() as u64,
            runs,
            chunks: chunks
                .iter()
                .map(|c| (ChunkId::of(c), c.len() as u32))
                .collect(),
            synthesised,
        };
        let (plan_id, bytes) = parts.encode();
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("plan"), bytes).unwrap();
        let counters = Arc::default();
        Self {
            source: Arc::new(source),
            counters,
            disk,
            plan_id,
            dir,
        }
    }

    pub(crate) fn plan_path(&self) -> std::path::PathBuf {
        Path::join(self.dir.path(), "plan")
    }

    pub(crate) fn reader(&self, files: Arc<dyn LockFiles>) -> Arc<ChunkReader> {
        let supply = Supply::of(named("registry", &self.source), self.counters.clone());
        self.reader_of(Arc::new(supply), files)
    }

    /// A reader over a cache in `files`.
    pub(crate) fn reader_of(
        &self,
        supply: Arc<Supply>,
        files: Arc<dyn LockFiles>,
    ) -> Arc<ChunkReader> {
        let settings = CacheSettings {
            cap_bytes: MIN_CAP_BYTES,
        };
        let cache = Arc::new(Cache::open(files, settings).unwrap());
        let retry = RetrySettings {
            first_wait: Duration::from_millis(1),
            ..RetrySettings::default()
        };
        ChunkReader::new(supply, cache, retry, Handle::current())
    }

    /// A view over an empty cache, of what `mirrors` have, and the source of the fixture.
    pub(crate) fn mirrored(&self, mirrors: &[&Arc<MemorySource>]) -> Arc<View> {
        let names = ["first", "second", "third"];
        let mirrors = names.iter().zip(mirrors);
        self.supplied(mirrors.map(|(name, mirror)| named(name, mirror)).collect())
    }

    /// The same, whatever the mirrors are.
    pub(crate) fn supplied(&self, mirrors: Vec<NamedFetch>) -> Arc<View> {
        let registry = named("registry", &self.source);
        let supply = Supply::new(mirrors, registry, || 0.5, self.counters.clone());
        let reader = self.reader_of(Arc::new(supply), Arc::new(MemoryFiles::new()));
        let plan = open_plan(&self.plan_path(), self.plan_id).unwrap();
        Arc::new(View::new(plan, reader))
    }

    /// A view over a cache in `files`.
    pub(crate) fn view_over(&self, files: Arc<dyn LockFiles>) -> Arc<View> {
        let plan = open_plan(&self.plan_path(), self.plan_id).unwrap();
        Arc::new(View::new(plan, self.reader(files)))
    }

    /// A view over an empty cache.
    pub(crate) fn view(&self) -> Arc<View> {
        self.view_over(Arc::new(MemoryFiles::new()))
    }
}

/// A source with its name.
pub(crate) fn named(name: &str, source: &Arc<MemorySource>) -> NamedFetch {
    NamedFetch {
        name: name.into(),
        fetch: source.clone(),
        hearing: None,
    }
}

/// All bytes of a device.
pub(crate) async fn read_all(device: &dyn BlockDevice) -> Vec<u8> {
    let mut bytes = vec![0xaa; device.size() as usize];
    device.read(0, &mut bytes).await.unwrap();
    bytes
}
