//! The overlay: what one guest wrote, on this host's disk, over a read-only base.
//!
//! ```text
//! head   4096 bytes, written once
//!    0  8  magic "SHALEOVL"
//!    8  2  version, 1
//!   10  6  zero
//!   16  8  feature flags a reader must know, 0
//!   24  8  bytes of the disk
//!   32 32  plan under it
//!   64 32  BLAKE3-256 of the 64 bytes before
//! bits   a page of 4096 bytes for 32,768 units: bit 0 of byte 0 is the first; then, from the first
//!        multiple of 4096 behind the last page, a bit for each page that has any
//! data   the units at their place on the disk; what was not written is a hole
//! live   as bits, but written with every write, and synced only when it is made; then the id of the boot
//! ```
//! Every file has its whole length before there is a head, so another length is damage.
//! A *unit* is 4096 bytes. A unit whose bit is set is read here, any other from the base. Bits only go
//! from 0 to 1.
//!
//! Order of a flush: the data is synced, then the bits of what was written before that sync are written
//! and synced. So a bit on disk means that its data is on disk. A bit page that a power cut tears holds
//! old and new bits, and both are true.
//!
//! A flush must not need room: on a full disk the guest is told so by the write that needs it, and all that
//! was written before can still be made durable. So the first write to a page's units writes the page's zeros.

mod bits;
mod head;
mod live;

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use shale_files::{File, FileError, FilePath, IfHeld, Lock, LockError, LockFiles, LockKind};
use shale_files::{OpenMode, put_durably, read_file};
use shale_model::{FormatError, PlanId, Problem};

use bits::Bits;
use head::Head;
use live::Live;

pub use live::BootId;

/// Bytes of a unit.
pub const UNIT_BYTES: u64 = 4096;

/// Why an overlay does not open, or does not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum OverlayError {
    /// A file of it cannot be read or written.
    #[error(transparent)]
    Files(#[from] FileError),
    /// Another process writes to it.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// Its head is damaged or newer, or another of its files has not the length that belongs to the head.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// It was made over another plan.
    #[error("the overlay was made over plan {found}, not over {expected}")]
    OtherPlan {
        /// The plan that it was to be opened over.
        expected: PlanId,
        /// The plan that it was made over.
        found: PlanId,
    },
    /// It already exists.
    #[error("there is an overlay already")]
    Exists,
}

impl OverlayError {
    /// Whether there is no room for what was to be written.
    pub fn is_full(&self) -> bool {
        matches!(self, OverlayError::Files(error) if error.is_full())
    }
}

/// The writes of one guest. One writer at a time: it holds a lock.
pub struct Overlay {
    data: Arc<dyn File>,
    bits_file: Arc<dyn File>,
    marks: Mutex<Marks>,
    /// Held alone while a unit is filled from below, and together by all that write: what was written
    /// in between is never overwritten by older bytes.
    filling: RwLock<()>,
    /// One flush at a time: the second would otherwise return before the first has synced its data.
    flushing: Mutex<()>,
    head: Head,
    _lock: Lock,
}

/// Which units are here, in memory and in the file that outlives the process. A byte of that holds the bits of eight
/// units, and whoever writes it must know all of them: one lock for both.
struct Marks {
    bits: Bits,
    live: Live,
    /// Pages that have their room in the file of bits that is synced.
    reserved: BTreeSet<u64>,
}

impl Overlay {
    /// Makes an empty overlay in `files` for a disk of `disk_bytes` over `plan`, and opens it.
    pub fn create(
        files: &dyn LockFiles,
        plan: PlanId,
        disk_bytes: u64,
        boot: BootId,
    ) -> Result<Self, OverlayError> {
        Self::create_with(files, plan, disk_bytes, boot, |_| Ok(()))
    }

    /// As [`Overlay::create`], with what `write` writes to it: there is no overlay before all of that is
    /// durable.
    pub fn create_with<E: From<OverlayError>>(
        files: &dyn LockFiles,
        plan: PlanId,
        disk_bytes: u64,
        boot: BootId,
        write: impl FnOnce(&Self) -> Result<(), E>,
    ) -> Result<Self, E> {
        let head = Head { plan, disk_bytes };
        let overlay = Self::begin(files, head, boot)?;
        write(&overlay)?;
        overlay.flush()?;
        // The head comes last: with it, the overlay is there.
        let _ = files.remove(&named("head.new"));
        put_durably(files, &named("head.new"), &named("head"), |file| {
            file.write_at(0, &head.encode())
        })
        .map_err(OverlayError::Files)?;
        Ok(overlay)
    }

    /// All of an empty overlay but its head.
    fn begin(files: &dyn LockFiles, head: Head, boot: BootId) -> Result<Self, OverlayError> {
        let lock = files.lock(&named("lock"), LockKind::Exclusive, IfHeld::Fail)?;
        match files.open(&named("head"), OpenMode::Read) {
            Err(error) if error.is_missing() => {}
            Err(error) => return Err(error.into()),
            Ok(_) => return Err(OverlayError::Exists),
        }
        for (name, bytes) in [
            ("bits", Bits::file_bytes(head.units())),
            ("data", head.disk_bytes),
        ] {
            // What an earlier try left is of no use without a head.
            let _ = files.remove(&named(name));
            let file = files.open(&named(name), OpenMode::CreateNew)?;
            file.set_size(bytes)?;
            if name == "bits" {
                Bits::reserve_upper(&*file, head.units())?;
            }
            file.sync()?;
        }
        Live::begin(files, head.units(), boot)?;
        Self::with_lock(files, head, boot, lock)
    }

    /// Opens the overlay in `files`, which must have been made over `plan`. In the boot in which it was
    /// written, it holds all that was written, whatever ended the process that wrote; in a later one, what
    /// was flushed.
    pub fn open(files: &dyn LockFiles, plan: PlanId, boot: BootId) -> Result<Self, OverlayError> {
        let lock = files.lock(&named("lock"), LockKind::Exclusive, IfHeld::Fail)?;
        let head = Head::decode(&read_file(files, &named("head"), UNIT_BYTES as usize)?)?;
        match head.plan == plan {
            true => Self::with_lock(files, head, boot, lock),
            false => Err(OverlayError::OtherPlan {
                expected: plan,
                found: head.plan,
            }),
        }
    }

    fn with_lock(
        files: &dyn LockFiles,
        head: Head,
        boot: BootId,
        lock: Lock,
    ) -> Result<Self, OverlayError> {
        let data: Arc<dyn File> = files.open(&named("data"), OpenMode::Write)?.into();
        let bits_file: Arc<dyn File> = files.open(&named("bits"), OpenMode::Write)?.into();
        check_len("overlay's data", &*data, head.disk_bytes)?;
        check_len(
            "overlay's bits",
            &*bits_file,
            Bits::file_bytes(head.units()),
        )?;
        let mut bits = Bits::load(&*bits_file, head.units())?;
        // What the other file knows may never have been flushed.
        let reserved = bits.pages().collect();
        let (live, written) = Live::open(files, head.units(), boot)?;
        if let Some(written) = written {
            bits.unite(&written);
        }
        Ok(Self {
            data,
            bits_file,
            marks: Mutex::new(Marks {
                bits,
                live,
                reserved,
            }),
            filling: RwLock::default(),
            flushing: Mutex::default(),
            head,
            _lock: lock,
        })
    }

    /// Bytes of the disk.
    pub fn disk_bytes(&self) -> u64 {
        self.head.disk_bytes
    }

    /// Cuts `len` bytes from `offset` into runs that lie here (`true`) or in the base, in order.
    pub fn runs(&self, offset: u64, len: u64) -> Vec<(Range<u64>, bool)> {
        let end = offset + len;
        let bits = &self.marks().bits;
        let mut runs = Vec::new();
        let mut at = offset;
        while at < end {
            let unit = at / UNIT_BYTES;
            let stop = bits.same_until(unit, end.div_ceil(UNIT_BYTES)) * UNIT_BYTES;
            let stop = stop.min(end);
            runs.push((at..stop, bits.get(unit)));
            at = stop;
        }
        runs
    }

    /// Reads bytes that lie here.
    pub fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), OverlayError> {
        Ok(self.data.read_at(offset, buffer)?)
    }

    /// Writes bytes to units that are here, or whole units.
    pub fn write(&self, offset: u64, data: &[u8]) -> Result<(), OverlayError> {
        let _writing = self.filling.read().unwrap_or_else(PoisonError::into_inner);
        self.data.write_at(offset, data)?;
        self.mark(offset, data.len() as u64)
    }

    /// Makes whole units, or parts of units that are here, zeros.
    pub fn zero(&self, offset: u64, len: u64) -> Result<(), OverlayError> {
        let _writing = self.filling.read().unwrap_or_else(PoisonError::into_inner);
        self.data.zero(offset, len)?;
        self.mark(offset, len)
    }

    /// Takes over a unit from below, whose bytes are `below`, unless something was written to it.
    pub fn fill(&self, unit: u64, below: &[u8]) -> Result<(), OverlayError> {
        let _alone = self.filling.write().unwrap_or_else(PoisonError::into_inner);
        if self.contains(unit) {
            return Ok(());
        }
        let offset = unit * UNIT_BYTES;
        self.data.write_at(offset, below)?;
        self.mark(offset, below.len() as u64)
    }

    /// Whether the unit is here.
    pub fn contains(&self, unit: u64) -> bool {
        self.marks().bits.get(unit)
    }

    /// Makes everything durable that was written before this call. Blocks for as long as the disk
    /// takes.
    pub fn flush(&self) -> Result<(), OverlayError> {
        let _one = self.flushing.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = self.marks().bits.take_changed();
        let result = self
            .data
            .sync()
            .and_then(|()| changed.write(&*self.bits_file));
        if result.is_err() {
            self.marks().bits.put_back(changed);
        }
        Ok(result?)
    }

    /// Units that are here.
    pub fn units(&self) -> u64 {
        self.marks().bits.count()
    }

    /// The bits are set after the data is written, so that a flush never makes a bit durable whose
    /// data it did not sync.
    fn mark(&self, offset: u64, len: u64) -> Result<(), OverlayError> {
        let units = offset / UNIT_BYTES..(offset + len).div_ceil(UNIT_BYTES);
        let mut marks = self.marks();
        let Marks {
            bits,
            live,
            reserved,
        } = &mut *marks;
        for (number, _) in Bits::places(units.clone()) {
            if !reserved.contains(&number) {
                Bits::reserve_page(&*self.bits_file, number)?;
                reserved.insert(number);
            }
        }
        let changed = bits.set(units.clone());
        match changed || !live.has(units.clone()) {
            true => Ok(live.write(bits, units)?),
            false => Ok(()),
        }
    }

    fn marks(&self) -> MutexGuard<'_, Marks> {
        self.marks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Checks that a file of the overlay has the length that belongs to its head: what is missing would read as never
/// written.
fn check_len(what: &'static str, file: &dyn File, expected: u64) -> Result<(), OverlayError> {
    let found = file.size()?;
    let problem = match found {
        found if found == expected => return Ok(()),
        found if found < expected => Problem::Truncated,
        _ => Problem::Rule("longer than the disk in the head needs"),
    };
    let at = found as usize;
    Err(OverlayError::Format(FormatError { what, at, problem }))
}

/// A path of one fixed, valid component.
fn named(name: &str) -> FilePath {
    FilePath::new(name).unwrap_or_default()
}
