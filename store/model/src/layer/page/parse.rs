//! Columns become entries again, every rule checked.

use crate::bytes::{FormatError, Problem, Reader};
use crate::entry::{Attrs, Content, Entry, Extent, Kind, LayerDir, Mtime, Rdev};
use crate::id::{ChunkId, ID_LEN};
use crate::limits::{MAX_PAGE_BYTES, MAX_PAGE_EXPANDED_BYTES, MAX_PATH_BYTES};
use crate::name::{Name, TreePath};

use super::build::encode_page;
use super::{
    COLUMNS, PageContent, Row, TAG_HARD_LINK, TAG_WHITEOUT, VERSION, WHAT, column, expanded,
    has_attrs, read_attrs, read_time, read_xattrs,
};

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
        expanded: 0,
    };
    let [dirs, entries, more] = counts;
    let rows = parser.readers[column::ROWS].remaining();
    header.limit("entries", entries as u64, rows as u64)?;
    let content = parser.content(dirs, entries, more)?;
    for reader in &parser.readers {
        reader.finish()?;
    }
    let canonical = encode_page(&content) == bytes;
    match canonical {
        true => Ok(content),
        false => Err(header.error(Problem::NotCanonical)),
    }
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
    /// Bytes that the entries so far stand for.
    expanded: usize,
}

impl PageParser<'_> {
    /// Counts bytes that entries stand for, before more of them are read.
    fn expand(&mut self, bytes: usize) -> Result<(), FormatError> {
        self.expanded += bytes;
        let (found, max) = (self.expanded as u64, MAX_PAGE_EXPANDED_BYTES as u64);
        self.readers[column::NAMES].limit("bytes that the entries stand for", found, max)
    }

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
            self.expand(path.len())?;
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
            let entry = Entry { name, attrs, kind };
            self.expand(expanded(&entry))?;
            entries.push(entry);
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
