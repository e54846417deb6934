//! Where requests are read into: memory that outlives the process.
//!
//! The kernel hands a request out once. A server that dies with it would leave whoever asked waiting for ever. So
//! requests are read into a memfd, which a small process keeps beside `/dev/fuse`; the next server finds there what
//! was read and not answered.
//!
//! ```text
//! header   4096 bytes
//!    0  8  magic "SHALEFUS"
//!    8  4  version, 1
//!   12  4  slots
//!   16  4  bytes of a slot, a multiple of 4096
//!   20  4  kind of face
//!   24  4  minor version that was agreed on with the kernel, 0 before
//!   28  4  features that were agreed on
//! slots    16 bytes each, then zeros up to a multiple of 4096
//!    0  4  state: 0 free, 1 taken, 2 answering
//!    4  4  result of what is being answered: bytes, or an error below 0
//!    8  8  number of the request
//! buffers  one for each slot
//! ```
//! *Taken* is set, and the length that begins every request is cleared, before the kernel is asked: so a slot that is
//! taken holds a request exactly if its length is not 0, also if the process died before it saw that. *Answering* is set
//! before the answer to a request that changes something is written: it may have arrived, and what was written since must
//! not be written over, so that the next process only answers again.
#![expect(
    unsafe_code,
    reason = "memory that is shared with later processes: the invariants are at `Slots`"
)]

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use memmap2::{Advice, MmapOptions, MmapRaw, UncheckedAdvice};
use rustix::fs::{
    MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, ftruncate, memfd_create,
};

use crate::limits::{SLOT_KEPT_BYTES, WARM_SLOTS};

const PAGE: usize = 4096;
const MAGIC: &[u8; 8] = b"SHALEFUS";
const VERSION: u32 = 1;
const HEADER_WORDS: usize = 8;
const CONTROL_BYTES: usize = 16;

const FREE: u32 = 0;
const TAKEN: u32 = 1;
const ANSWERING: u32 = 2;

/// How many slots of which size, for which kind of face. Equal for all processes that serve one mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SlotShape {
    pub(crate) count: u32,
    /// A multiple of 4096.
    pub(crate) bytes: u32,
    pub(crate) kind: u32,
}

impl SlotShape {
    fn buffers_start(self) -> usize {
        PAGE + (self.count as usize * CONTROL_BYTES).next_multiple_of(PAGE)
    }

    fn file_bytes(self) -> usize {
        self.buffers_start() + self.count as usize * self.bytes as usize
    }

    fn header(self) -> [u32; HEADER_WORDS] {
        let [a, b, c, d, e, f, g, h] = *MAGIC;
        let (first, second) = ([a, b, c, d], [e, f, g, h]);
        let magic = [first, second].map(u32::from_ne_bytes);
        [
            magic[0], magic[1], VERSION, self.count, self.bytes, self.kind, 0, 0,
        ]
    }
}

/// Memory that holds no slots of this kind.
#[derive(Debug, thiserror::Error)]
pub enum SlotsError {
    /// It cannot be made or mapped.
    #[error("map the memory of requests")]
    Map(#[source] io::Error),
    /// It is of something else, or of another version or kind of mount.
    #[error("the memory of requests is not that of a mount of this kind")]
    Foreign,
}

/// All slots of a mount.
///
/// Invariants, on which the unsafe code of this file stands:
/// 1. The file has the length of its shape, and seals keep it so: no page of the map goes away.
/// 2. Within this process a buffer belongs to the one [`Slot`] with its index: `claimed` hands an index out once, until
///    the slot is freed; who drops a slot without freeing it keeps it for ever.
/// 3. Only one process at a time uses the memory: who keeps it starts the next when the one before has ended.
/// 4. Header and control words are only used as atomics.
pub(crate) struct Slots {
    file: OwnedFd,
    map: MmapRaw,
    shape: SlotShape,
    claimed: Mutex<Claimed>,
    freed: Condvar,
    /// Whether no more are handed out. It is set while `claimed` is locked.
    closed: AtomicBool,
}

/// Which slots this process has handed out, and which have all their pages: a bit for each.
struct Claimed {
    claimed: Vec<u64>,
    present: Vec<u64>,
}

impl Slots {
    /// New memory without requests.
    pub(crate) fn create(shape: SlotShape) -> Result<Self, SlotsError> {
        let make = || -> io::Result<OwnedFd> {
            let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
            let file = memfd_create("shale-fuse-requests", flags)?;
            ftruncate(&file, shape.file_bytes() as u64)?;
            fcntl_add_seals(&file, SEALS)?;
            Ok(file)
        };
        let this = Self::map(make().map_err(SlotsError::Map)?, shape)?;
        for (at, word) in shape.header().into_iter().enumerate() {
            this.header_word(at).store(word, Ordering::Relaxed);
        }
        Ok(this)
    }

    /// Memory that an earlier process used, and the requests that it read and did not answer.
    pub(crate) fn open(
        file: OwnedFd,
        shape: SlotShape,
    ) -> Result<(Arc<Self>, Vec<Slot>), SlotsError> {
        let about =
            || -> io::Result<_> { Ok((fcntl_get_seals(&file)?, rustix::fs::fstat(&file)?)) };
        let (seals, stat) = about().map_err(SlotsError::Map)?;
        if !seals.contains(SEALS) || stat.st_size as usize != shape.file_bytes() {
            return Err(SlotsError::Foreign);
        }
        let this = Self::map(file, shape)?;
        let header = shape.header();
        // The last two words are what was agreed on.
        let is_ours = (0..HEADER_WORDS - 2)
            .all(|at| this.header_word(at).load(Ordering::Relaxed) == header[at]);
        if !is_ours {
            return Err(SlotsError::Foreign);
        }
        let this = Arc::new(this);
        let left = (0..shape.count)
            .filter_map(|index| this.left(index))
            .collect();
        Ok((this, left))
    }

    fn map(file: OwnedFd, shape: SlotShape) -> Result<Self, SlotsError> {
        let map = MmapOptions::new().len(shape.file_bytes()).map_raw(&file);
        let map = map.map_err(SlotsError::Map)?;
        let words = (shape.count as usize).div_ceil(64);
        let mut claimed = vec![0; words];
        // What the last word has beyond the last slot is never handed out.
        if let (Some(last), rest @ 1..) = (claimed.last_mut(), shape.count % 64) {
            *last = u64::MAX << rest;
        }
        let present = vec![0; words];
        Ok(Self {
            file,
            map,
            shape,
            claimed: Mutex::new(Claimed { claimed, present }),
            freed: Condvar::new(),
            closed: AtomicBool::new(false),
        })
    }

    /// The memory, to be kept for a later process.
    pub(crate) fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// What was agreed on with the kernel: minor version and features.
    pub(crate) fn negotiated(&self) -> Option<(u32, u32)> {
        let [minor, flags] = [6, 7].map(|at| self.header_word(at).load(Ordering::Acquire));
        (minor != 0).then_some((minor, flags))
    }

    pub(crate) fn set_negotiated(&self, minor: u32, flags: u32) {
        self.header_word(7).store(flags, Ordering::Relaxed);
        self.header_word(6).store(minor, Ordering::Release);
    }

    /// A free slot; waits until there is one. `None` once [`Slots::close`] was called.
    pub(crate) fn take(self: &Arc<Self>) -> Option<Slot> {
        let mut claimed = self.claimed();
        loop {
            if self.is_closed() {
                return None;
            }
            if let Some(index) = claimed.first_free() {
                let is_present = claimed.mark_present(index);
                drop(claimed);
                let slot = Slot {
                    slots: self.clone(),
                    index,
                    len: 0,
                };
                if !is_present {
                    slot.populate();
                }
                return Some(slot);
            }
            let waited = self.freed.wait(claimed);
            claimed = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Hands out no more slots: another process will.
    pub(crate) fn close(&self) {
        let claimed = self.claimed();
        self.closed.store(true, Ordering::Release);
        drop(claimed);
        self.freed.notify_all();
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Whether a request with this number was read and is not answered.
    pub(crate) fn holds(&self, unique: u64) -> bool {
        (0..self.shape.count).any(|index| {
            self.state(index).load(Ordering::Acquire) != FREE
                && self.unique(index).load(Ordering::Relaxed) == unique
        })
    }

    /// What an earlier process left in a slot.
    fn left(self: &Arc<Self>, index: u32) -> Option<Slot> {
        let mut slot = Slot {
            slots: self.clone(),
            index,
            len: 0,
        };
        let len = slot
            .buffer()
            .first_chunk()
            .map_or(0, |len| u32::from_ne_bytes(*len));
        slot.len = len.min(self.shape.bytes) as usize;
        let is_left = match self.state(index).load(Ordering::Acquire) {
            TAKEN => slot.len > 0,
            ANSWERING => true,
            _ => false,
        };
        match is_left {
            true => {
                self.claimed().claim(index);
                Some(slot)
            }
            false => {
                self.state(index).store(FREE, Ordering::Release);
                None
            }
        }
    }

    fn claimed(&self) -> MutexGuard<'_, Claimed> {
        // Nothing panics while it is locked.
        self.claimed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn header_word(&self, at: usize) -> &AtomicU32 {
        assert!(at < HEADER_WORDS);
        // SAFETY: inside the first page of the map, aligned, and only used as an atomic (invariants 1 and 4).
        unsafe { AtomicU32::from_ptr(self.map.as_mut_ptr().cast::<u32>().add(at)) }
    }

    fn state(&self, index: u32) -> &AtomicU32 {
        // SAFETY: `control` lies inside the map and is aligned; only used as an atomic (invariants 1 and 4).
        unsafe { AtomicU32::from_ptr(self.control(index).cast()) }
    }

    fn outcome(&self, index: u32) -> &AtomicI32 {
        // SAFETY: as in `state`, four bytes further.
        unsafe { AtomicI32::from_ptr(self.control(index).add(4).cast()) }
    }

    fn unique(&self, index: u32) -> &AtomicU64 {
        // SAFETY: as in `state`, eight bytes further; control words begin at multiples of 16 of a page.
        unsafe { AtomicU64::from_ptr(self.control(index).add(8).cast()) }
    }

    fn control(&self, index: u32) -> *mut u8 {
        assert!(index < self.shape.count);
        // SAFETY: the control words of every slot of the shape lie inside the map (invariant 1).
        unsafe {
            self.map
                .as_mut_ptr()
                .add(PAGE + index as usize * CONTROL_BYTES)
        }
    }

    fn buffer_start(&self, index: u32) -> usize {
        self.shape.buffers_start() + index as usize * self.shape.bytes as usize
    }
}

const SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW);

impl Claimed {
    /// Claims the first slot that is free, so that few are used, and their memory again and again.
    fn first_free(&mut self) -> Option<u32> {
        let word = self.claimed.iter().position(|word| *word != u64::MAX)?;
        let bit = self.claimed[word].trailing_ones();
        let index = word as u32 * 64 + bit;
        self.claim(index);
        Some(index)
    }

    fn claim(&mut self, index: u32) {
        self.claimed[index as usize / 64] |= 1 << (index % 64);
    }

    /// Whether the slot had all its pages; from now on it has.
    fn mark_present(&mut self, index: u32) -> bool {
        let (word, bit) = (&mut self.present[index as usize / 64], 1 << (index % 64));
        let had = *word & bit != 0;
        *word |= bit;
        had
    }
}

/// A slot of this process. Dropped without [`Slot::free`], it stays taken: for the next process, if it holds a request.
pub(crate) struct Slot {
    slots: Arc<Slots>,
    index: u32,
    /// Bytes of the request.
    len: usize,
}

impl Slot {
    /// Reads the next request from `device`; waits for one.
    pub(crate) fn receive(&mut self, device: BorrowedFd<'_>) -> rustix::io::Result<()> {
        self.buffer_mut()[..4].fill(0);
        let state = self.slots.state(self.index);
        self.slots.unique(self.index).store(0, Ordering::Relaxed);
        state.store(TAKEN, Ordering::Release);
        self.len = rustix::io::read(device, self.buffer_mut())?;
        if let Some(unique) = self.bytes().get(8..).and_then(|rest| rest.first_chunk()) {
            let unique = u64::from_ne_bytes(*unique);
            self.slots
                .unique(self.index)
                .store(unique, Ordering::Relaxed);
        }
        Ok(())
    }

    /// The request.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.buffer()[..self.len]
    }

    /// Says that the answer to a change is about to be written, and what it is.
    pub(crate) fn set_answering(&self, outcome: i32) {
        self.slots
            .outcome(self.index)
            .store(outcome, Ordering::Relaxed);
        self.slots
            .state(self.index)
            .store(ANSWERING, Ordering::Release);
    }

    /// The result of a request that an earlier process carried out and may have answered.
    pub(crate) fn outcome(&self) -> Option<i32> {
        let state = self.slots.state(self.index).load(Ordering::Acquire);
        (state == ANSWERING).then(|| self.slots.outcome(self.index).load(Ordering::Relaxed))
    }

    /// The request is answered, or needs no answer.
    pub(crate) fn free(mut self) {
        let slots = self.slots.clone();
        slots.state(self.index).store(FREE, Ordering::Release);
        let is_warm = (self.index as usize) < WARM_SLOTS;
        let gives_back = !is_warm && self.len > SLOT_KEPT_BYTES && self.give_back();
        let mut claimed = slots.claimed();
        let (word, bit) = (self.index as usize / 64, 1u64 << (self.index % 64));
        claimed.claimed[word] &= !bit;
        if gives_back {
            claimed.present[word] &= !bit;
        }
        drop(claimed);
        slots.freed.notify_one();
    }

    /// Makes sure that all pages are there and mapped. Where the kernel has to find one while it copies a request, a
    /// process that is killed meanwhile makes the copy fail, and the request with it.
    fn populate(&self) {
        let start = self.slots.buffer_start(self.index);
        let len = self.slots.shape.bytes as usize;
        // Where it fails, what is said above may happen, and nothing worse.
        let _ = self
            .slots
            .map
            .advise_range(Advice::PopulateWrite, start, len);
    }

    /// Gives the memory back to the system; whether it did.
    fn give_back(&mut self) -> bool {
        let start = self.slots.buffer_start(self.index);
        let len = self.slots.shape.bytes as usize;
        // SAFETY: the range is this slot's buffer, of which there is no reference now (invariant 2); its bytes become
        // zeros, which is allowed for a slot that is free.
        let advised = unsafe {
            self.slots
                .map
                .unchecked_advise_range(UncheckedAdvice::Remove, start, len)
        };
        advised.is_ok()
    }

    fn buffer(&self) -> &[u8] {
        let (start, len) = self.buffer_parts();
        // SAFETY: the buffer lies inside the map, which lives as long as `slots` (invariant 1); nobody else writes to it
        // while this slot is borrowed (invariants 2 and 3).
        unsafe { std::slice::from_raw_parts(start, len) }
    }

    fn buffer_mut(&mut self) -> &mut [u8] {
        let (start, len) = self.buffer_parts();
        // SAFETY: as in `buffer`, and this slot is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(start, len) }
    }

    fn buffer_parts(&self) -> (*mut u8, usize) {
        let map = self.slots.map.as_mut_ptr();
        // SAFETY: the buffer lies inside the map (invariant 1).
        let start = unsafe { map.add(self.slots.buffer_start(self.index)) };
        (start, self.slots.shape.bytes as usize)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    use super::*;

    const SHAPE: SlotShape = SlotShape {
        count: 70,
        bytes: 8192,
        kind: 1,
    };

    fn file_of(slots: &Slots) -> OwnedFd {
        slots.file().try_clone_to_owned().unwrap()
    }

    /// A request of 40 bytes and more with this number, through a socket.
    fn receive(slots: &Arc<Slots>, unique: u64) -> Slot {
        let (mut to, from) = UnixStream::pair().unwrap();
        let mut request = vec![unique as u8; 48];
        request[..4].copy_from_slice(&48u32.to_ne_bytes());
        request[8..16].copy_from_slice(&unique.to_ne_bytes());
        to.write_all(&request).unwrap();
        let mut slot = slots.take().unwrap();
        slot.receive(from.as_fd()).unwrap();
        assert_eq!(slot.bytes(), request);
        slot
    }

    #[test]
    fn what_was_read_and_not_answered_is_found_again() {
        let first = Arc::new(Slots::create(SHAPE).unwrap());
        assert_eq!(first.negotiated(), None);
        first.set_negotiated(31, 5);
        receive(&first, 1).free();
        let (waits, answers, idle) = (
            receive(&first, 2),
            receive(&first, 3),
            first.take().unwrap(),
        );
        answers.set_answering(-5);
        assert!(first.holds(2) && first.holds(3) && !first.holds(1));
        // Asked for a request and died: an empty length.
        let (mut gone, _) = (first.take().unwrap(), UnixStream::pair().unwrap());
        let (_, from) = UnixStream::pair().unwrap();
        assert!(
            gone.receive(from.as_fd())
                .is_ok_and(|()| gone.bytes().is_empty())
        );
        let file = file_of(&first);
        drop((waits, answers, idle, gone, first));

        let (second, left) = Slots::open(file, SHAPE).unwrap();
        assert_eq!(second.negotiated(), Some((31, 5)));
        let found: Vec<_> = left
            .iter()
            .map(|slot| (slot.bytes()[8], slot.outcome()))
            .collect();
        assert_eq!(found, [(2, None), (3, Some(-5))]);
        for slot in left {
            slot.free();
        }
        let (_, left) = Slots::open(file_of(&second), SHAPE).unwrap();
        assert!(left.is_empty());
    }

    #[test]
    fn slots_are_handed_out_once_and_the_first_first() {
        let slots = Arc::new(Slots::create(SHAPE).unwrap());
        let mut all: Vec<Slot> = (0..SHAPE.count).map(|_| slots.take().unwrap()).collect();
        assert!(all.iter().zip(0..).all(|(slot, index)| slot.index == index));
        let (a, b) = (all.remove(50), all.remove(7));
        std::thread::scope(|scope| {
            let taken = scope.spawn(|| slots.take().unwrap().index);
            a.free();
            assert_eq!(taken.join().unwrap(), 50);
        });
        b.free();
        assert_eq!(slots.take().unwrap().index, 7);
        slots.close();
        assert!(slots.take().is_none());
    }

    #[test]
    fn foreign_memory_is_refused() {
        let slots = Slots::create(SHAPE).unwrap();
        let other = SlotShape { kind: 2, ..SHAPE };
        assert!(matches!(
            Slots::open(file_of(&slots), other),
            Err(SlotsError::Foreign)
        ));
        let smaller = SlotShape { count: 9, ..SHAPE };
        assert!(Slots::open(file_of(&slots), smaller).is_err());
        let file = OwnedFd::from(tempfile::tempfile().unwrap());
        assert!(Slots::open(file, SHAPE).is_err());
        let loose = memfd_create("x", MemfdFlags::ALLOW_SEALING).unwrap();
        ftruncate(&loose, SHAPE.file_bytes() as u64).unwrap();
        assert!(matches!(
            Slots::open(loose, SHAPE),
            Err(SlotsError::Foreign)
        ));
    }
}
