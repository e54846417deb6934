//! Entries become columns.

use std::collections::HashMap;

use crate::bytes::{put_ivarint, put_uvarint};
use crate::entry::{Entry, Extent, Kind, Mtime};
use crate::id::ChunkId;
use crate::name::{Name, TreePath};

use super::{
    COLUMNS, PageContent, Row, VERSION, column, expanded, has_attrs, put_attrs, put_xattrs, tag,
};

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
    /// Bytes that the entries stand for.
    pub(crate) expanded: usize,
    pub(crate) first: Option<(TreePath, Name)>,
}

impl PageBuilder {
    /// Bytes that the page has so far, within a few bytes for its header and directory counts.
    pub(crate) fn len(&self) -> usize {
        let dirs: usize = self.dirs.iter().map(|(_, rest, _)| rest.len() + 12).sum();
        self.columns.iter().map(Vec::len).sum::<usize>() + dirs + 64
    }

    /// Bytes that the entries would stand for with one more.
    pub(crate) fn expanded_with(&self, dir: &TreePath, entry: &Entry) -> usize {
        let path = match self.begins(dir) {
            true => dir.as_bytes().len(),
            false => 0,
        };
        self.expanded + path + expanded(entry)
    }

    /// Whether an entry of `dir` needs a directory of its own in the page.
    fn begins(&self, dir: &TreePath) -> bool {
        self.dirs.is_empty() || self.last_dir != dir.as_bytes()
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
        self.expanded = self.expanded_with(dir, entry);
        if self.begins(dir) {
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

/// The one form that this content has.
pub(super) fn encode_page(content: &PageContent) -> Vec<u8> {
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

fn put_row(out: &mut Vec<u8>, row: &Row) {
    out.push(row.tag);
    put_attrs(out, row.mode, row.uid, row.gid);
    put_xattrs(out, &row.xattrs);
}

/// Bytes at the start that both have.
fn common(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}
