//! `/etc/ld.so.cache`: where the dynamic loader finds libraries.
//!
//! The format is glibc's (`sysdeps/generic/dl-cache.h`, `elf/cache.c`), in the byte order of the
//! machine; this reads and writes little-endian ones.
//!
//! ```text
//!  0 20  magic "glibc-ld.so.cache1.1"
//! 20  4  libraries
//! 24  4  bytes of the strings
//! 28  1  byte order: 0 not said, 2 little-endian
//! 29  3  zero
//! 32  4  where in the file the extensions are; 0 for none (before glibc 2.33)
//! 36 12  zero
//! 48     libraries, 24 bytes each: flags 4, name 4, path 4, OS version 4, hardware 8
//!        strings, each with a NUL; a string that ends another is a part of it
//!        to a multiple of 4: extensions: magic 4, sections 4, then for each section tag 4, flags 4,
//!        offset in the file 4, bytes 4. Tag 0 says who wrote the cache, tag 1 is an array of the
//!        strings of the `glibc-hwcaps` directories.
//! ```
//! Names and paths are offsets from the magic. A cache of before glibc 2.32 begins with a table for the
//! loaders of before glibc 2.2: magic `ld.so-1.7.0`, a zero, their number 4, then 12 bytes each (flags,
//! name, path; offsets from the table's end), to a multiple of 8.

use std::cmp::Ordering;
use std::collections::HashSet;

use super::records::Sides;
use super::string_table::StringTable;

const MAGIC: &[u8] = b"glibc-ld.so.cache1.1";
const HEADER_BYTES: usize = 48;
const LIBRARY_BYTES: usize = 24;
const OLD_MAGIC: &[u8] = b"ld.so-1.7.0\0";
const OLD_HEADER_BYTES: usize = 16;
const OLD_LIBRARY_BYTES: usize = 12;
/// The table after an old one begins at a multiple of this.
const TABLE_ALIGN: usize = 8;
const LITTLE_ENDIAN: u8 = 2;
const EXTENSION_MAGIC: u32 = 0xeaa4_2174;
const SECTION_BYTES: usize = 16;
const GENERATOR: u32 = 0;
const HWCAPS: u32 = 1;

/// Most libraries in a cache; a machine with everything that Debian has installed at once has less.
const MAX_LIBRARIES: usize = 65_536;
/// Longest name or path: `PATH_MAX`.
const MAX_STRING_BYTES: usize = 4096;
/// Most sections of the extensions, of which glibc knows two.
const MAX_SECTIONS: usize = 16;

/// High half of a hardware word that names a `glibc-hwcaps` directory, without the level's bits.
const HWCAP_DIRECTORY: u32 = 1 << 30;
/// Bits of the high half that hold the level of the instruction set that a library needs.
const ISA_LEVEL_BITS: u32 = (1 << 10) - 1;

/// A cache as a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LoaderCache<'a> {
    /// Whether the table for the loaders of before glibc 2.2 comes first.
    old_table: bool,
    /// Whether there are extensions, and who wrote the cache.
    generator: Option<&'a [u8]>,
    libraries: Vec<Library<'a>>,
}

/// One library.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Library<'a> {
    name: &'a [u8],
    path: &'a [u8],
    /// Kind of binary, and processor.
    flags: i32,
    os_version: u32,
    hardware: Hardware<'a>,
}

/// The hardware that a library needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Hardware<'a> {
    /// That of these bits, which are the processor's own.
    Bits(u64),
    /// That of a `glibc-hwcaps` directory.
    Directory { name: &'a [u8], isa_level: u32 },
}

/// What is wrong with bytes that should be a cache.
pub(super) type Fault = &'static str;

impl<'a> LoaderCache<'a> {
    /// Reads a cache.
    pub(super) fn parse(file: &'a [u8]) -> Result<Self, Fault> {
        let start = if file.starts_with(OLD_MAGIC) {
            let count = u32_at(file, OLD_MAGIC.len())? as usize;
            let table = count.checked_mul(OLD_LIBRARY_BYTES).ok_or(CUT_OFF)?;
            let end = table.checked_add(OLD_HEADER_BYTES).ok_or(CUT_OFF)?;
            end.checked_next_multiple_of(TABLE_ALIGN).ok_or(CUT_OFF)?
        } else {
            0
        };
        let table = file.get(start..).ok_or(CUT_OFF)?;
        if !table.starts_with(MAGIC) {
            return Err("not a loader cache of this format");
        }
        let count = u32_at(table, 20)? as usize;
        let order = *table.get(28).ok_or(CUT_OFF)?;
        if order != 0 && order != LITTLE_ENDIAN {
            return Err("the byte order is not little-endian");
        }
        if count > MAX_LIBRARIES {
            return Err("more than 65,536 libraries");
        }
        let extensions = match u32_at(table, 32)? as usize {
            0 => None,
            at => Some(Extensions::parse(file, at)?),
        };
        let hwcaps = extensions.as_ref().map_or(&[][..], |ext| &ext.hwcaps);
        let entry = |at| parse_library(table, HEADER_BYTES + at * LIBRARY_BYTES, hwcaps);
        Ok(Self {
            old_table: start > 0,
            generator: extensions.as_ref().map(|ext| ext.generator),
            libraries: (0..count).map(entry).collect::<Result<_, _>>()?,
        })
    }

    /// A cache of nothing in the same form.
    pub(super) fn without_libraries(&self) -> Self {
        Self {
            libraries: Vec::new(),
            ..*self
        }
    }

    /// Applies what `theirs` added and removed relative to `base` to `ours`; the form is that of `theirs`.
    pub(super) fn unite(sides: Sides<Self>) -> Self {
        let Sides { base, ours, theirs } = sides;
        let set = |libraries: &[Library<'a>]| -> HashSet<Library<'a>> {
            libraries.iter().copied().collect()
        };
        let (base, wanted) = (set(&base.libraries), set(&theirs.libraries));
        let mut united = ours.libraries;
        united.retain(|library| wanted.contains(library) || !base.contains(library));
        let had = set(&united);
        let added = theirs
            .libraries
            .into_iter()
            .filter(|library| !had.contains(library) && !base.contains(library));
        united.extend(added);
        // Equal ones stay as they are: ldconfig too puts the directory that it reads first before others.
        united.sort_by(Library::cache_order);
        Self {
            libraries: united,
            ..theirs
        }
    }

    /// The cache as ldconfig writes it.
    pub(super) fn write(&self) -> Vec<u8> {
        let strings = StringTable::new(self.strings());
        let hwcaps = self.hwcaps();
        let needs_nothing = |library: &&Library<'_>| library.hardware == Hardware::Bits(0);
        let mut old: Vec<_> = self.libraries.iter().filter(needs_nothing).collect();
        // With an even number the new table begins at a multiple of 8 without padding.
        if old.len() % 2 == 1 {
            old.extend(old.last().copied());
        }
        let table_bytes = HEADER_BYTES + self.libraries.len() * LIBRARY_BYTES;
        let mut file = Vec::new();
        if self.old_table {
            file.extend_from_slice(OLD_MAGIC);
            put(&mut file, &[old.len() as u32]);
            let at = |text| (table_bytes + strings.offset(text)) as u32;
            for library in old {
                put(
                    &mut file,
                    &[library.flags as u32, at(library.name), at(library.path)],
                );
            }
        }
        let start = file.len();
        let strings_end = start + table_bytes + strings.bytes.len();
        let extensions = strings_end.next_multiple_of(4);
        file.extend_from_slice(MAGIC);
        put(
            &mut file,
            &[self.libraries.len() as u32, strings.bytes.len() as u32],
        );
        // Extensions and the mark of the byte order came with the same version.
        match self.generator {
            Some(_) => put(&mut file, &[u32::from(LITTLE_ENDIAN), extensions as u32]),
            None => put(&mut file, &[0, 0]),
        }
        put(&mut file, &[0; 3]);
        for library in &self.libraries {
            let at = |text| (table_bytes + strings.offset(text)) as u32;
            let [name, path] = [library.name, library.path].map(at);
            put(
                &mut file,
                &[library.flags as u32, name, path, library.os_version],
            );
            file.extend_from_slice(&library.hardware.word(&hwcaps).to_le_bytes());
        }
        file.extend_from_slice(&strings.bytes);
        if let Some(generator) = self.generator {
            file.resize(extensions, 0);
            let hwcaps: Vec<u32> = hwcaps
                .iter()
                .map(|name| (start + table_bytes + strings.offset(name)) as u32)
                .collect();
            write_extensions(&mut file, generator, &hwcaps);
        }
        file
    }

    /// The names of the `glibc-hwcaps` directories, in order.
    fn hwcaps(&self) -> Vec<&'a [u8]> {
        let name = |library: &Library<'a>| match library.hardware {
            Hardware::Directory { name, .. } => Some(name),
            Hardware::Bits(_) => None,
        };
        let mut names: Vec<_> = self.libraries.iter().filter_map(name).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    fn strings(&self) -> Vec<&'a [u8]> {
        let pairs = self.libraries.iter().flat_map(|l| [l.name, l.path]);
        pairs.chain(self.hwcaps()).collect()
    }
}

const CUT_OFF: Fault = "the file ends too early";

fn u32_at(file: &[u8], at: usize) -> Result<u32, Fault> {
    let bytes = at.checked_add(4).and_then(|end| file.get(at..end));
    let bytes = bytes.and_then(|bytes| bytes.try_into().ok());
    bytes.map(u32::from_le_bytes).ok_or(CUT_OFF)
}

fn put(file: &mut Vec<u8>, values: &[u32]) {
    file.extend(values.iter().flat_map(|value| value.to_le_bytes()));
}

fn string_at(file: &[u8], at: u32) -> Result<&[u8], Fault> {
    let rest = file.get(at as usize..).ok_or(CUT_OFF)?;
    let rest = &rest[..rest.len().min(MAX_STRING_BYTES)];
    let end = rest.iter().position(|&b| b == 0);
    Ok(&rest[..end.ok_or("a name does not end")?])
}

fn parse_library<'a>(
    table: &'a [u8],
    at: usize,
    hwcaps: &[&'a [u8]],
) -> Result<Library<'a>, Fault> {
    let mut words = [0; LIBRARY_BYTES / 4];
    for (index, word) in words.iter_mut().enumerate() {
        *word = u32_at(table, at + 4 * index)?;
    }
    let [flags, name, path, os_version, low, high] = words;
    let hardware = if high & !ISA_LEVEL_BITS == HWCAP_DIRECTORY && !hwcaps.is_empty() {
        let isa_level = high & ISA_LEVEL_BITS;
        let name = hwcaps.get(low as usize);
        let name = name.ok_or("a library is in a glibc-hwcaps directory that is not listed")?;
        Hardware::Directory { name, isa_level }
    } else {
        Hardware::Bits(u64::from(high) << 32 | u64::from(low))
    };
    Ok(Library {
        name: string_at(table, name)?,
        path: string_at(table, path)?,
        flags: flags as i32,
        os_version,
        hardware,
    })
}

struct Extensions<'a> {
    generator: &'a [u8],
    hwcaps: Vec<&'a [u8]>,
}

impl<'a> Extensions<'a> {
    fn parse(file: &'a [u8], at: usize) -> Result<Self, Fault> {
        if u32_at(file, at)? != EXTENSION_MAGIC {
            return Err("the extensions do not begin where they should");
        }
        let count = u32_at(file, at + 4)? as usize;
        if count > MAX_SECTIONS {
            return Err("too many extensions");
        }
        let (generator, hwcaps) = (&[][..], Vec::new());
        let mut found = Self { generator, hwcaps };
        for index in 0..count {
            let at = at + 8 + index * SECTION_BYTES;
            let [offset, len] = [u32_at(file, at + 8)?, u32_at(file, at + 12)?];
            let start = offset as usize;
            let end = start.checked_add(len as usize).ok_or(CUT_OFF)?;
            let section = file.get(start..end).ok_or(CUT_OFF)?;
            match u32_at(file, at)? {
                GENERATOR if len as usize <= MAX_STRING_BYTES => found.generator = section,
                HWCAPS if len as usize <= 4 * MAX_STRING_BYTES => {
                    let offset = |at| string_at(file, u32_at(section, 4 * at)?);
                    found.hwcaps = (0..section.len() / 4)
                        .map(offset)
                        .collect::<Result<_, _>>()?;
                }
                _ => return Err("an extension is unknown or too long"),
            }
        }
        Ok(found)
    }
}

fn write_extensions(file: &mut Vec<u8>, generator: &[u8], hwcaps: &[u32]) {
    let sections = if hwcaps.is_empty() { 1 } else { 2 };
    let hwcaps_at = file.len() + 8 + sections * SECTION_BYTES;
    let hwcaps_bytes = 4 * hwcaps.len();
    put(file, &[EXTENSION_MAGIC, sections as u32]);
    let at = (hwcaps_at + hwcaps_bytes) as u32;
    put(file, &[GENERATOR, 0, at, generator.len() as u32]);
    if !hwcaps.is_empty() {
        put(file, &[HWCAPS, 0, hwcaps_at as u32, hwcaps_bytes as u32]);
        put(file, hwcaps);
    }
    file.extend_from_slice(generator);
}

impl Hardware<'_> {
    fn word(&self, hwcaps: &[&[u8]]) -> u64 {
        match self {
            Hardware::Bits(bits) => *bits,
            Hardware::Directory { name, isa_level } => {
                let index = hwcaps.partition_point(|other| other < name);
                u64::from(HWCAP_DIRECTORY | isa_level) << 32 | index as u64
            }
        }
    }

    /// Directories before bits, by name; of bits the most demanding first.
    fn cache_order(&self, other: &Self) -> Ordering {
        use Hardware::{Bits, Directory};
        match (self, other) {
            (Directory { name, .. }, Directory { name: with, .. }) => name.cmp(with),
            (Directory { .. }, Bits(_)) => Ordering::Less,
            (Bits(_), Directory { .. }) => Ordering::Greater,
            (Bits(bits), Bits(with)) => {
                let key = |bits: &u64| (bits.count_ones(), *bits);
                key(with).cmp(&key(bits))
            }
        }
    }
}

impl Library<'_> {
    /// The order in which ldconfig writes: the loader searches by halving, and takes the first that fits.
    fn cache_order(&self, other: &Self) -> Ordering {
        compare_names(other.name, self.name)
            .then(other.flags.cmp(&self.flags))
            .then(self.hardware.cache_order(&other.hardware))
            .then(other.os_version.cmp(&self.os_version))
    }
}

/// Part of a library's name: runs of digits order by value, and after every other byte.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Token {
    Byte(i8),
    Number(i32),
}

/// The order of library names that loader and ldconfig share: `libx.so.10` comes after `libx.so.9`.
fn compare_names(a: &[u8], b: &[u8]) -> Ordering {
    tokens(a).cmp(tokens(b))
}

/// A name as the loader compares it: with the NUL that ends it, and numbers that wrap around as there.
fn tokens(name: &[u8]) -> impl Iterator<Item = Token> {
    let mut rest = Some(name);
    std::iter::from_fn(move || {
        let text = rest?;
        let digits = text.iter().take_while(|b| b.is_ascii_digit()).count();
        if digits > 0 {
            rest = Some(&text[digits..]);
            let add = |sum: i32, b: &u8| sum.wrapping_mul(10).wrapping_add(i32::from(b - b'0'));
            return Some(Token::Number(text[..digits].iter().fold(0, add)));
        }
        match text.split_first() {
            Some((first, below)) => {
                rest = Some(below);
                Some(Token::Byte(*first as i8))
            }
            None => {
                rest = None;
                Some(Token::Byte(0))
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The cache of the machine that runs the tests, as its ldconfig wrote it.
    fn real() -> Vec<u8> {
        std::fs::read("/etc/ld.so.cache")
            .expect("no /etc/ld.so.cache: run ldconfig (Debian: libc-bin)")
    }

    #[test]
    fn a_real_cache_is_written_as_it_was_read() {
        let file = real();
        let cache = LoaderCache::parse(&file).unwrap();
        assert!(cache.libraries.len() > 10);
        assert!(cache.write() == file, "the bytes differ");
    }

    #[test]
    fn the_order_is_that_of_ldconfig() {
        let file = real();
        let mut cache = LoaderCache::parse(&file).unwrap();
        cache.libraries.reverse();
        cache.libraries.sort_by(Library::cache_order);
        assert!(cache.write() == file, "the bytes differ");
        let ordered = ["a", "ab", "lib.so.9", "lib.so.9.1", "lib.so.10", "lib.soa"];
        let after = |pair: &[&str]| compare_names(pair[0].as_bytes(), pair[1].as_bytes());
        assert!(
            ordered[..5]
                .windows(2)
                .all(|pair| after(pair) == Ordering::Less)
        );
        assert_eq!(compare_names(b"lib.so.1", b"lib.so.01"), Ordering::Equal);
        assert_eq!(compare_names(b"lib.so.1", b"lib.soa"), Ordering::Less);
        assert_eq!(compare_names(b"lib1", b"liba"), Ordering::Greater);
    }

    #[test]
    fn uniting_takes_and_gives_libraries() {
        let file = real();
        let all = LoaderCache::parse(&file).unwrap();
        let part = |keep: &dyn Fn(usize) -> bool| LoaderCache {
            libraries: (all.libraries.iter().enumerate())
                .filter(|(at, _)| keep(*at))
                .map(|(_, library)| *library)
                .collect(),
            ..all.clone()
        };
        let sides = Sides {
            base: part(&|at| at % 3 == 0),
            ours: part(&|at| at % 3 != 2),
            theirs: part(&|at| at % 3 != 1),
        };
        assert!(LoaderCache::unite(sides).write() == file);
        let sides = Sides {
            base: all.clone(),
            ours: part(&|at| at != 1),
            theirs: part(&|at| at != 2),
        };
        assert_eq!(LoaderCache::unite(sides), part(&|at| at != 1 && at != 2));
    }

    #[test]
    fn damaged_caches_are_errors() {
        let file = real();
        for at in (0..file.len()).step_by(7) {
            // An error, or another cache: never a panic.
            let _ = LoaderCache::parse(&file[..at]);
            let mut wrong = file.clone();
            wrong[at] ^= 0x55;
            if let Ok(cache) = LoaderCache::parse(&wrong) {
                let _ = cache.write();
            }
        }
        assert!(LoaderCache::parse(&file[..file.len() - 1]).is_err());
        let mut big_endian = file.clone();
        big_endian[28] = 3;
        assert!(LoaderCache::parse(&big_endian).is_err());
        let mut many = file.clone();
        many[20..24].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(LoaderCache::parse(&many).is_err());
        let old_only = [OLD_MAGIC, &u32::MAX.to_le_bytes()].concat();
        assert!(LoaderCache::parse(&old_only).is_err());
    }
}
