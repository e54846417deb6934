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
//!
//! What the columns share makes a page stand for more bytes than it has: at most
//! [`crate::limits::MAX_PAGE_EXPANDED_BYTES`].

mod build;
mod parse;

use crate::bytes::{FormatError, Problem, Reader, put_uvarint};
use crate::entry::{Entry, Extent, Kind, LayerDir, MODE_BITS, Mtime, Xattrs};
use crate::limits::{MAX_XATTR_BYTES, MAX_XATTRS};

pub(crate) use build::PageBuilder;
pub(crate) use parse::decode_page;

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

impl PageContent {
    /// Bytes that the entries stand for, at most [`crate::limits::MAX_PAGE_EXPANDED_BYTES`].
    pub(crate) fn expanded(&self) -> usize {
        let dirs = self.dirs.iter();
        dirs.map(|dir| {
            let entries = dir.entries.iter().map(expanded);
            dir.path.as_bytes().len() + entries.sum::<usize>()
        })
        .sum()
    }
}

/// Bytes that an entry stands for, beside the path of its directory.
fn expanded(entry: &Entry) -> usize {
    entry.name.as_bytes().len() + entry.attrs.xattrs.bytes()
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
