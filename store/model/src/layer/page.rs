//! One page: a run of directories with their entries, in columns.
//!
//! A page begins with its version (1), then varints: directories, entries, extents that continue the
//! last file of the page before, and the length of each column; then the columns, in this order:
//!
//! | column | for each | holds |
//! |---|---|---|
//! | dirs | directory | bytes shared with the path before, bytes of the rest, the rest, entries |
//! | shared | entry | bytes that its name shares with the name before it in the page |
//! | names | entry | the rest of its name and a NUL |
//! | rows | entry | number of its row |
//! | row table | row | kind, mode, uid, gid, attributes: count, then name and value with lengths |
//! | times | entry | number of its time |
//! | time table | time | seconds since the time before (zigzag), nanoseconds |
//! | sizes | file | `2 len` of its only chunk, 0 if it is empty, else `2 extents + 1` |
//! | extents | extent | `2 len` of a chunk, `2 len + 1` of a hole |
//! | targets | link | target of a symbolic or hard link and a NUL |
//! | devices | device | major, minor |
//! | ids | chunk | its 32 bytes |
//!
//! Numbers are varints. Rows and times stand in order of first use. Columns put like things together,
//! which is what zstd compresses; the ids, which nothing compresses, are apart. Hard links and
//! whiteouts have no attributes and no time.

use std::collections::HashMap;

use crate::bytes::{FormatError, Problem, Reader, put_ivarint, put_uvarint};
use crate::entry::{Attrs, Content, Entry, Extent, Kind, LayerDir, MODE_BITS, Mtime, Rdev, Xattrs};
use crate::id::{ChunkId, ID_LEN};
use crate::limits::{MAX_PAGE_BYTES, MAX_PATH_BYTES, MAX_XATTR_BYTES, MAX_XATTRS};
use crate::name::{Name, TreePath};

const WHAT: &str = "layer page";
const VERSION: u8 = 1;
const COLUMNS: usize = 12;

/// Columns of a page, as indexes.
mod column {
    pub(super) const DIRS: usize = 0;
    pub(super) const SHARED: usize = 1;
    pub(super) const NAMES: usize = 2;
    pub(super) const ROWS: usize = 3;
    pub(super) const ROW_TABLE: usize = 4;
    pub(super) const TIMES: usize = 5;
    pub(super) const TIME_TABLE: usize = 6;
    pub(super) const SIZES: usize = 7;
    pub(super) const EXTENTS: usize = 8;
    pub(super) const TARGETS: usize = 9;
    pub(super) const DEVICES: usize = 10;
    pub(super) const IDS: usize = 11;
}

/// What a page holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct PageContent {
    /// Extents that continue the last file of the page before.
    pub(crate) more: Vec<Extent>,
    /// Directories in order of path.
    pub(crate) dirs: Vec<LayerDir>,
}

/// Kind, mode, owner and attributes: few distinct ones for many entries.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Row {
    tag: u8,
    mode: u16,
    uid: u32,
    gid: u32,
    xattrs: Xattrs,
}

const TAG_HARD_LINK: u8 = 3;
const TAG_WHITEOUT: u8 = 8;

fn tag(kind: &Kind) -> u8 {
    match kind {
        Kind::File(_) => 0,
        Kind::Directory => 1,
        Kind::Symlink(_) => 2,
        Kind::HardLink(_) => TAG_HARD_LINK,
        Kind::CharDevice(_) => 4,
        Kind::BlockDevice(_) => 5,
        Kind::Fifo => 6,
        Kind::Socket => 7,
        Kind::Whiteout => TAG_WHITEOUT,
        Kind::OpaqueDirectory => 9,
    }
}

/// Whether entries of this kind have attributes and a time of their own.
fn has_attrs(tag: u8) -> bool {
    tag != TAG_HARD_LINK && tag != TAG_WHITEOUT
}

/// A page that entries are appended to.
#[derive(Debug, Default)]
pub(crate) struct PageBuilder {
    columns: [Vec<u8>; COLUMNS],
    more: usize,
    rows: HashMap<Row, usize>,
    times: HashMap<Mtime, usize>,
    last_time: i64,
    last_dir: Vec<u8>,
    /// Entries of each directory; their counts are written when the page ends.
    dirs: Vec<(usize, Vec<u8>, usize)>,
    last_name: Vec<u8>,
    pub(crate) entries: usize,
    pub(crate) chunks: usize,
    pub(crate) first: Option<(TreePath, Name)>,
}

impl PageBuilder {
    /// Bytes that the page has so far, within a few bytes for its header and directory counts.
    pub(crate) fn len(&self) -> usize {
        let dirs: usize = self.dirs.iter().map(|(_, rest, _)| rest.len() + 12).sum();
        self.columns.iter().map(Vec::len).sum::<usize>() + dirs + 64
    }

    /// Appends extents that continue the last file of the page before; only to an empty page.
    pub(crate) fn push_more(&mut self, dir: &TreePath, name: &Name, extents: &[Extent]) {
        self.first = Some((dir.clone(), name.clone()));
        self.more = extents.len();
        self.push_extents(extents);
    }

    /// Appends extents to the file that was pushed last with `extents` of them announced.
    pub(crate) fn push_extents(&mut self, extents: &[Extent]) {
        for extent in extents {
            match extent {
                Extent::Chunk { id, len } => {
                    put_uvarint(&mut self.columns[column::EXTENTS], u64::from(*len) << 1);
                    self.push_id(id);
                }
                Extent::Hole { len } => {
                    put_uvarint(&mut self.columns[column::EXTENTS], len << 1 | 1);
                }
            }
        }
    }

    fn push_id(&mut self, id: &ChunkId) {
        self.columns[column::IDS].extend_from_slice(id.as_bytes());
        self.chunks += 1;
    }

    /// Appends an entry, with at most `extents` of its file's extents.
    pub(crate) fn push(&mut self, dir: &TreePath, entry: &Entry, extents: usize) {
        if self.first.is_none() {
            self.first = Some((dir.clone(), entry.name.clone()));
        }
        if self.dirs.is_empty() || self.last_dir != dir.as_bytes() {
            let shared = common(&self.last_dir, dir.as_bytes());
            self.dirs
                .push((shared, dir.as_bytes()[shared..].to_vec(), 0));
            self.last_dir = dir.as_bytes().to_vec();
        }
        if let Some((_, _, entries)) = self.dirs.last_mut() {
            *entries += 1;
        }
        self.entries += 1;
        let name = entry.name.as_bytes();
        let shared = common(&self.last_name, name);
        put_uvarint(&mut self.columns[column::SHARED], shared as u64);
        self.columns[column::NAMES].extend_from_slice(&name[shared..]);
        self.columns[column::NAMES].push(0);
        self.last_name = name.to_vec();
        self.push_attrs(entry);
        self.push_kind(&entry.kind, extents);
    }

    fn push_attrs(&mut self, entry: &Entry) {
        let tag = tag(&entry.kind);
        let (mode, uid, gid, xattrs) = match has_attrs(tag) {
            true => {
                let attrs = &entry.attrs;
                (attrs.mode, attrs.uid, attrs.gid, attrs.xattrs.clone())
            }
            false => Default::default(),
        };
        let row = Row {
            tag,
            mode,
            uid,
            gid,
            xattrs,
        };
        let next = self.rows.len();
        let number = *self.rows.entry(row.clone()).or_insert(next);
        if number == next {
            put_row(&mut self.columns[column::ROW_TABLE], &row);
        }
        put_uvarint(&mut self.columns[column::ROWS], number as u64);
        if has_attrs(tag) {
            self.push_time(entry.attrs.mtime);
        }
    }

    fn push_time(&mut self, time: Mtime) {
        let next = self.times.len();
        let number = *self.times.entry(time).or_insert(next);
        if number == next {
            let table = &mut self.columns[column::TIME_TABLE];
            put_ivarint(table, time.seconds.wrapping_sub(self.last_time));
            put_uvarint(table, time.nanos.into());
            self.last_time = time.seconds;
        }
        put_uvarint(&mut self.columns[column::TIMES], number as u64);
    }

    fn push_kind(&mut self, kind: &Kind, extents: usize) {
        match kind {
            Kind::File(content) => match content.extents() {
                [] => put_uvarint(&mut self.columns[column::SIZES], 0),
                [Extent::Chunk { id, len }] => {
                    put_uvarint(&mut self.columns[column::SIZES], u64::from(*len) << 1);
                    self.push_id(id);
                }
                all => {
                    let here = &all[..extents.min(all.len())];
                    let announced = (here.len() as u64) << 1 | 1;
                    put_uvarint(&mut self.columns[column::SIZES], announced);
                    self.push_extents(here);
                }
            },
            Kind::Symlink(target) => self.push_target(target),
            Kind::HardLink(target) => self.push_target(target.as_bytes()),
            Kind::CharDevice(rdev) | Kind::BlockDevice(rdev) => {
                put_uvarint(&mut self.columns[column::DEVICES], rdev.major.into());
                put_uvarint(&mut self.columns[column::DEVICES], rdev.minor.into());
            }
            Kind::Directory
            | Kind::OpaqueDirectory
            | Kind::Fifo
            | Kind::Socket
            | Kind::Whiteout => {}
        }
    }

    fn push_target(&mut self, target: &[u8]) {
        self.columns[column::TARGETS].extend_from_slice(target);
        self.columns[column::TARGETS].push(0);
    }

    /// The bytes of the page.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        for (shared, rest, entries) in &self.dirs {
            let dirs = &mut self.columns[column::DIRS];
            put_uvarint(dirs, *shared as u64);
            put_uvarint(dirs, rest.len() as u64);
            dirs.extend_from_slice(rest);
            put_uvarint(dirs, *entries as u64);
        }
        let mut out = vec![VERSION];
        for count in [self.dirs.len(), self.entries, self.more] {
            put_uvarint(&mut out, count as u64);
        }
        for column in &self.columns {
            put_uvarint(&mut out, column.len() as u64);
        }
        for column in &self.columns {
            out.extend_from_slice(column);
        }
        out
    }
}

fn put_row(out: &mut Vec<u8>, row: &Row) {
    out.push(row.tag);
    put_attrs(out, row.mode, row.uid, row.gid);
    put_xattrs(out, &row.xattrs);
}

/// Appends mode, uid and gid as varints.
pub(super) fn put_attrs(out: &mut Vec<u8>, mode: u16, uid: u32, gid: u32) {
    for value in [u64::from(mode), uid.into(), gid.into()] {
        put_uvarint(out, value);
    }
}

/// Appends the count of attributes, then each name and value with its length.
pub(super) fn put_xattrs(out: &mut Vec<u8>, xattrs: &Xattrs) {
    put_uvarint(out, xattrs.iter().len() as u64);
    for (name, value) in xattrs.iter() {
        for bytes in [name, value] {
            put_uvarint(out, bytes.len() as u64);
            out.extend_from_slice(bytes);
        }
    }
}

/// Reads what [`put_attrs`] wrote.
pub(super) fn read_attrs(reader: &mut Reader<'_>) -> Result<(u16, u32, u32), FormatError> {
    let mode = reader.count("mode", MODE_BITS.into())? as u16;
    let uid = reader.count("uid", u32::MAX as usize)? as u32;
    let gid = reader.count("gid", u32::MAX as usize)? as u32;
    Ok((mode, uid, gid))
}

/// Reads what [`put_xattrs`] wrote.
pub(super) fn read_xattrs(reader: &mut Reader<'_>) -> Result<Xattrs, FormatError> {
    let count = reader.count("extended attributes", MAX_XATTRS)?;
    let mut pairs = Vec::new();
    for _ in 0..count {
        let len = reader.count("extended attribute name", MAX_XATTR_BYTES)?;
        let name = reader.take(len)?.into();
        let len = reader.count("extended attribute value", MAX_XATTR_BYTES)?;
        pairs.push((name, reader.take(len)?.into()));
    }
    Xattrs::new(pairs).map_err(|_| reader.error(Problem::Rule("impossible extended attributes")))
}

/// Reads seconds and nanoseconds; the seconds count from `base`.
pub(super) fn read_time(reader: &mut Reader<'_>, base: i64) -> Result<Mtime, FormatError> {
    Ok(Mtime {
        seconds: base.wrapping_add(reader.ivarint()?),
        nanos: reader.count("nanoseconds", 999_999_999)? as u32,
    })
}

/// Bytes at the start that both have.
fn common(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// The content of a page, checked: every rule of the columns, and that these bytes are the one form
/// of this content.
pub(crate) fn decode_page(bytes: &[u8]) -> Result<PageContent, FormatError> {
    let mut header = Reader::new(WHAT, bytes);
    header.limit("page length", bytes.len() as u64, MAX_PAGE_BYTES as u64)?;
    let version = header.u8()?;
    if version != VERSION {
        let (found, known) = (version.into(), VERSION.into());
        return Err(header.error(Problem::Newer { found, known }));
    }
    let mut counts = [0; 3];
    for count in &mut counts {
        *count = header.count("page counts", MAX_PAGE_BYTES)?;
    }
    let mut lengths = [0; COLUMNS];
    for length in &mut lengths {
        *length = header.count("column length", MAX_PAGE_BYTES)?;
    }
    let mut readers = Vec::with_capacity(COLUMNS);
    for length in lengths {
        readers.push(Reader::new(WHAT, header.take(length)?));
    }
    header.finish()?;
    let mut parser = PageParser {
        rows: read_rows(&mut readers[column::ROW_TABLE])?,
        times: read_times(&mut readers[column::TIME_TABLE])?,
        readers,
        last_name: Vec::new(),
    };
    let [dirs, entries, more] = counts;
    let content = parser.content(dirs, entries, more)?;
    for reader in &parser.readers {
        reader.finish()?;
    }
    let canonical = encode_again(&content) == bytes;
    match canonical {
        true => Ok(content),
        false => Err(header.error(Problem::NotCanonical)),
    }
}

fn encode_again(content: &PageContent) -> Vec<u8> {
    let mut builder = PageBuilder {
        more: content.more.len(),
        ..PageBuilder::default()
    };
    builder.push_extents(&content.more);
    for dir in &content.dirs {
        for entry in &dir.entries {
            builder.push(&dir.path, entry, usize::MAX);
        }
    }
    builder.finish()
}

fn read_rows(reader: &mut Reader<'_>) -> Result<Vec<Row>, FormatError> {
    let mut rows = Vec::new();
    while reader.remaining() > 0 {
        let tag = reader.u8()?;
        let (mode, uid, gid) = read_attrs(reader)?;
        let xattrs = read_xattrs(reader)?;
        rows.push(Row {
            tag,
            mode,
            uid,
            gid,
            xattrs,
        });
    }
    Ok(rows)
}

fn read_times(reader: &mut Reader<'_>) -> Result<Vec<Mtime>, FormatError> {
    let mut times: Vec<Mtime> = Vec::new();
    while reader.remaining() > 0 {
        let base = times.last().map_or(0, |time| time.seconds);
        times.push(read_time(reader, base)?);
    }
    Ok(times)
}

/// The columns of a page while they are read side by side.
struct PageParser<'a> {
    readers: Vec<Reader<'a>>,
    rows: Vec<Row>,
    times: Vec<Mtime>,
    last_name: Vec<u8>,
}

impl PageParser<'_> {
    fn content(
        &mut self,
        dirs: usize,
        entries: usize,
        more: usize,
    ) -> Result<PageContent, FormatError> {
        let mut content = PageContent {
            more: self.extents(more)?,
            dirs: Vec::new(),
        };
        let mut path = Vec::new();
        let mut left = entries;
        for _ in 0..dirs {
            let reader = &mut self.readers[column::DIRS];
            let shared = reader.count("shared path", path.len())?;
            let rest = reader.count("path", MAX_PATH_BYTES)?;
            path.truncate(shared);
            path.extend_from_slice(reader.take(rest)?);
            let count = reader.count("entries of a directory", left)?;
            left -= count;
            let checked = TreePath::new(&path)
                .map_err(|_| reader.error(Problem::Rule("not a path inside the tree")))?;
            let ordered = content.dirs.last().is_none_or(|last| last.path < checked);
            reader.rule(ordered, "directories are out of order")?;
            reader.rule(count > 0, "a directory without entries")?;
            let entries = self.entries(count)?;
            content.dirs.push(LayerDir {
                path: checked,
                entries,
            });
        }
        let reader = &self.readers[column::DIRS];
        reader.rule(left == 0, "entries without a directory")?;
        Ok(content)
    }

    fn entries(&mut self, count: usize) -> Result<Vec<Entry>, FormatError> {
        let mut entries: Vec<Entry> = Vec::with_capacity(count);
        for _ in 0..count {
            let name = self.name()?;
            let ordered = entries.last().is_none_or(|last| last.name < name);
            self.readers[column::NAMES].rule(ordered, "names are out of order")?;
            let (tag, attrs) = self.attrs()?;
            let kind = self.kind(tag)?;
            entries.push(Entry { name, attrs, kind });
        }
        Ok(entries)
    }

    fn name(&mut self) -> Result<Name, FormatError> {
        let shared = self.readers[column::SHARED].count("shared name", self.last_name.len())?;
        self.last_name.truncate(shared);
        let rest = take_until_nul(&mut self.readers[column::NAMES])?;
        self.last_name.extend_from_slice(rest);
        Name::new(&self.last_name)
            .map_err(|_| self.readers[column::NAMES].error(Problem::Rule("not a name")))
    }

    fn attrs(&mut self) -> Result<(u8, Attrs), FormatError> {
        let reader = &mut self.readers[column::ROWS];
        let number = reader.count("row", self.rows.len().saturating_sub(1))?;
        let row = self.rows.get(number);
        let row = row.ok_or_else(|| reader.error(Problem::Rule("a row does not exist")))?;
        if !has_attrs(row.tag) {
            return Ok((row.tag, Attrs::default()));
        }
        let reader = &mut self.readers[column::TIMES];
        let number = reader.count("time", self.times.len().saturating_sub(1))?;
        let time = self.times.get(number);
        let mtime = *time.ok_or_else(|| reader.error(Problem::Rule("a time does not exist")))?;
        let attrs = Attrs {
            mode: row.mode,
            uid: row.uid,
            gid: row.gid,
            mtime,
            xattrs: row.xattrs.clone(),
        };
        Ok((row.tag, attrs))
    }

    fn kind(&mut self, tag: u8) -> Result<Kind, FormatError> {
        Ok(match tag {
            0 => Kind::File(self.file()?),
            1 => Kind::Directory,
            2 => {
                let reader = &mut self.readers[column::TARGETS];
                Kind::symlink(take_until_nul(reader)?)
                    .map_err(|_| reader.error(Problem::Rule("impossible symbolic link")))?
            }
            TAG_HARD_LINK => {
                let reader = &mut self.readers[column::TARGETS];
                let path = TreePath::new(take_until_nul(reader)?);
                let path = path.map_err(|_| reader.error(Problem::Rule("impossible hard link")))?;
                Kind::HardLink(path)
            }
            4 => Kind::CharDevice(self.rdev()?),
            5 => Kind::BlockDevice(self.rdev()?),
            6 => Kind::Fifo,
            7 => Kind::Socket,
            TAG_WHITEOUT => Kind::Whiteout,
            9 => Kind::OpaqueDirectory,
            _ => {
                let reader = &self.readers[column::ROW_TABLE];
                return Err(reader.error(Problem::Rule("no such kind of entry")));
            }
        })
    }

    fn rdev(&mut self) -> Result<Rdev, FormatError> {
        let reader = &mut self.readers[column::DEVICES];
        Ok(Rdev {
            major: reader.count("major device number", (1 << 12) - 1)? as u32,
            minor: reader.count("minor device number", (1 << 20) - 1)? as u32,
        })
    }

    fn file(&mut self) -> Result<Content, FormatError> {
        let reader = &mut self.readers[column::SIZES];
        let code = reader.uvarint()?;
        let extents = match code {
            0 => Vec::new(),
            code if code & 1 == 0 => {
                let len = u32::try_from(code >> 1);
                let len = len.map_err(|_| reader.error(Problem::Rule("too long a chunk")))?;
                let id = self.id()?;
                vec![Extent::Chunk { id, len }]
            }
            code => self.extents((code >> 1) as usize)?,
        };
        Content::new(extents).map_err(|_| {
            self.readers[column::SIZES].error(Problem::Rule("impossible content of a file"))
        })
    }

    fn extents(&mut self, count: usize) -> Result<Vec<Extent>, FormatError> {
        let reader = &self.readers[column::EXTENTS];
        reader.limit("extents", count as u64, reader.remaining() as u64)?;
        let mut extents = Vec::with_capacity(count);
        for _ in 0..count {
            let reader = &mut self.readers[column::EXTENTS];
            let code = reader.uvarint()?;
            extents.push(match code & 1 {
                1 => Extent::Hole { len: code >> 1 },
                _ => {
                    let len = u32::try_from(code >> 1);
                    let len = len.map_err(|_| reader.error(Problem::Rule("too long a chunk")))?;
                    let id = self.id()?;
                    Extent::Chunk { id, len }
                }
            });
        }
        Ok(extents)
    }

    fn id(&mut self) -> Result<ChunkId, FormatError> {
        let bytes: [u8; ID_LEN] = self.readers[column::IDS].array()?;
        Ok(ChunkId::from_bytes(bytes))
    }
}

fn take_until_nul<'a>(reader: &mut Reader<'a>) -> Result<&'a [u8], FormatError> {
    let rest = reader.clone().take(reader.remaining())?;
    let end = rest.iter().position(|&b| b == 0);
    let end = end.ok_or_else(|| reader.error(Problem::Truncated))?;
    let taken = reader.take(end)?;
    reader.u8()?;
    Ok(taken)
}
