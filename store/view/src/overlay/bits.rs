//! Which units are in an overlay: a bit for each, in pages that are made when they are needed.

use std::collections::BTreeMap;
use std::ops::Range;

use shale_files::{File, FileResult};

/// Bytes of a page of bits.
const PAGE_BYTES: usize = 4096;
/// Units that a page covers: 128 MiB of disk.
const PAGE_UNITS: u64 = 8 * PAGE_BYTES as u64;

type Page = Box<[u8; PAGE_BYTES]>;

/// The bits in memory. A disk of 16 TiB that was written everywhere takes 512 MiB.
pub(super) struct Bits {
    pages: BTreeMap<u64, Page>,
    /// Pages with bits that are not on disk.
    changed: BTreeMap<u64, ()>,
    units: u64,
}

/// Pages as they were when a flush began.
pub(super) struct Changed {
    pages: BTreeMap<u64, Page>,
    /// The bytes of the upper level that name them, with their offset in it.
    upper: BTreeMap<u64, u8>,
    upper_start: u64,
}

fn page_count(units: u64) -> u64 {
    units.div_ceil(PAGE_UNITS)
}

impl Bits {
    /// All bytes of a page.
    pub(super) const WHOLE: Range<usize> = 0..PAGE_BYTES;

    /// Bytes of the file of bits for a disk of so many units.
    pub(super) fn file_bytes(units: u64) -> u64 {
        let pages = page_count(units);
        pages * PAGE_BYTES as u64 + pages.div_ceil(8)
    }

    /// Takes the room of the upper level in a new file of zeros.
    pub(super) fn reserve_upper(file: &dyn File, units: u64) -> FileResult<()> {
        let count = page_count(units);
        let zeros = vec![0; count.div_ceil(8) as usize];
        file.write_at(count * PAGE_BYTES as u64, &zeros)
    }

    /// Takes the room of a page that the file does not have, and which therefore is zeros there.
    pub(super) fn reserve_page(file: &dyn File, number: u64) -> FileResult<()> {
        file.write_at(number * PAGE_BYTES as u64, &[0; PAGE_BYTES])
    }

    /// Reads the upper level and the pages that it names.
    pub(super) fn load(file: &dyn File, units: u64) -> FileResult<Self> {
        let count = page_count(units);
        let mut upper = vec![0; count.div_ceil(8) as usize];
        file.read_at(count * PAGE_BYTES as u64, &mut upper)?;
        let mut pages = BTreeMap::new();
        for number in 0..count {
            if upper[(number / 8) as usize] & 1 << (number % 8) != 0 {
                let mut page = Box::new([0; PAGE_BYTES]);
                file.read_at(number * PAGE_BYTES as u64, &mut *page)?;
                pages.insert(number, page);
            }
        }
        Ok(Self {
            pages,
            changed: BTreeMap::new(),
            units,
        })
    }

    pub(super) fn get(&self, unit: u64) -> bool {
        let (byte, bit) = place(unit);
        let page = self.pages.get(&(unit / PAGE_UNITS));
        page.is_some_and(|page| page[byte] & bit != 0)
    }

    /// The first unit behind `unit` whose bit differs from that of `unit`, at most `end`. A page that was never
    /// made is passed over at once: disks are large, and what is written to them is not.
    pub(super) fn same_until(&self, unit: u64, end: u64) -> u64 {
        let here = self.get(unit);
        let mut at = unit + 1;
        while at < end {
            let page_end = (at / PAGE_UNITS + 1) * PAGE_UNITS;
            match self.pages.get(&(at / PAGE_UNITS)) {
                None if here => return at,
                None => at = page_end,
                Some(page) => {
                    let (byte, bit) = place(at);
                    let same = if here { 0xff } else { 0 };
                    if bit == 1 && page[byte] == same {
                        at += 8;
                    } else if (page[byte] & bit != 0) == here {
                        at += 1;
                    } else {
                        return at;
                    }
                }
            }
        }
        end
    }

    /// Sets the bits of `units`; whether any of them was not set.
    pub(super) fn set(&mut self, units: Range<u64>) -> bool {
        let mut any = false;
        let mut unit = units.start;
        while unit < units.end {
            let number = unit / PAGE_UNITS;
            let end = units.end.min((number + 1) * PAGE_UNITS);
            let new = || Box::new([0; PAGE_BYTES]);
            let page = self.pages.entry(number).or_insert_with(new);
            let mut changed = false;
            for unit in unit..end {
                let (byte, bit) = place(unit);
                changed |= page[byte] & bit == 0;
                page[byte] |= bit;
            }
            if changed {
                self.changed.insert(number, ());
            }
            any |= changed;
            unit = end;
        }
        any
    }

    /// Numbers of the pages that there are.
    pub(super) fn pages(&self) -> impl Iterator<Item = u64> {
        self.pages.keys().copied()
    }

    /// The pages of `units`, with the bytes in each that hold their bits.
    pub(super) fn places(units: Range<u64>) -> impl Iterator<Item = (u64, Range<usize>)> {
        let pages = units.start / PAGE_UNITS..units.end.div_ceil(PAGE_UNITS);
        pages.map(move |number| {
            let first = units.start.max(number * PAGE_UNITS);
            let last = units.end.min((number + 1) * PAGE_UNITS) - 1;
            (number, place(first).0..place(last).0 + 1)
        })
    }

    /// Bytes of a page, and where they lie in the file; none of a page that there is not.
    pub(super) fn part(&self, number: u64, bytes: Range<usize>) -> (u64, &[u8]) {
        let offset = number * PAGE_BYTES as u64 + bytes.start as u64;
        let page = self.pages.get(&number);
        (offset, page.map_or(&[], |page| &page[bytes]))
    }

    /// The byte of the upper level that names a page, and where it lies in the file.
    pub(super) fn upper(&self, number: u64) -> (u64, u8) {
        let byte = number / 8;
        (self.upper_start() + byte, self.upper_byte(byte))
    }

    /// Sets every bit that `other` has, which are to be made durable by the next flush.
    pub(super) fn unite(&mut self, other: &Bits) {
        for (number, theirs) in &other.pages {
            let new = || Box::new([0; PAGE_BYTES]);
            let page = self.pages.entry(*number).or_insert_with(new);
            for (byte, their) in page.iter_mut().zip(&**theirs) {
                if *byte | their != *byte {
                    *byte |= their;
                    self.changed.insert(*number, ());
                }
            }
        }
    }

    /// The byte of the upper level that names the pages from `8 * byte` on.
    fn upper_byte(&self, byte: u64) -> u8 {
        let names = self.pages.range(byte * 8..(byte + 1) * 8);
        names.fold(0, |bits, (number, _)| bits | 1 << (number % 8))
    }

    fn upper_start(&self) -> u64 {
        page_count(self.units) * PAGE_BYTES as u64
    }

    pub(super) fn count(&self) -> u64 {
        let ones = |page: &Page| {
            page.iter()
                .map(|byte| u64::from(byte.count_ones()))
                .sum::<u64>()
        };
        self.pages.values().map(ones).sum()
    }

    /// A copy of the pages that changed since the last call.
    pub(super) fn take_changed(&mut self) -> Changed {
        let numbers = std::mem::take(&mut self.changed);
        let bytes = numbers.keys().map(|number| number / 8);
        let upper = bytes.map(|byte| (byte, self.upper_byte(byte))).collect();
        let copies = numbers
            .keys()
            .filter_map(|number| Some((*number, self.pages.get(number)?.clone())));
        Changed {
            pages: copies.collect(),
            upper,
            upper_start: self.upper_start(),
        }
    }

    /// Marks pages as changed again, whose writing failed.
    pub(super) fn put_back(&mut self, changed: Changed) {
        self.changed
            .extend(changed.pages.keys().map(|number| (*number, ())));
    }
}

impl Changed {
    /// Writes the pages and syncs them; nothing to do for none.
    pub(super) fn write(&self, file: &dyn File) -> FileResult<()> {
        if self.pages.is_empty() {
            return Ok(());
        }
        for (number, page) in &self.pages {
            file.write_at(number * PAGE_BYTES as u64, &page[..])?;
        }
        for (at, byte) in &self.upper {
            file.write_at(self.upper_start + at, &[*byte])?;
        }
        file.sync()
    }
}

fn place(unit: u64) -> (usize, u8) {
    let in_page = unit % PAGE_UNITS;
    ((in_page / 8) as usize, 1 << (in_page % 8))
}
