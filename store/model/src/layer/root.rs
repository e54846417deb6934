//! The root of a layer.

use crate::bytes::{FormatError, Problem, Reader, put_ivarint, put_uvarint};
use crate::entry::{Attrs, RootEntry};
use crate::id::{ChunkId, ID_LEN, LayerId};
use crate::limits::{
    MAX_ENTRIES, MAX_LAYER_ROOT_BYTES, MAX_NAME_BYTES, MAX_PAGE_BYTES, MAX_PATH_BYTES,
};
use crate::name::{Name, TreePath};

use super::page::{put_attrs, put_xattrs, read_attrs, read_time, read_xattrs};

const MAGIC: &[u8; 8] = b"SHALELYR";
const VERSION: u16 = 1;
const KIND_TREE: u8 = 1;
const HEADER_BYTES: usize = 56;
/// Fewest bytes that a page takes in a root.
const MIN_PAGE_REF_BYTES: usize = ID_LEN + 12 + 2;

/// How content was cut into chunks. A closed set: a new way is a new number, never a changed meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Chunker {
    /// FastCDC of 2020 (Xia et al., "The Design of Fast Content-Defined Chunking for Data
    /// Deduplication Based Storage Systems"), normalization level 1, at least 16, on average 64, at
    /// most 256 KiB; a file of less than 16 KiB is one chunk.
    FastCdc,
    /// The same, with each cut moved to the next multiple of 4 KiB in the file.
    FastCdcSnapped,
}

impl Chunker {
    fn tag(self) -> u8 {
        match self {
            Chunker::FastCdc => 1,
            Chunker::FastCdcSnapped => 2,
        }
    }

    fn from_tag(tag: u8) -> Option<Self> {
        match tag {
            1 => Some(Chunker::FastCdc),
            2 => Some(Chunker::FastCdcSnapped),
            _ => None,
        }
    }
}

/// One page in a layer root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageRef {
    /// The page, as a chunk.
    pub id: ChunkId,
    /// Its plain bytes.
    pub len: u32,
    /// Entries that begin in it.
    pub entries: u32,
    /// Chunks of content that it names, with repetitions.
    pub chunks: u32,
    /// Directory of its first entry, or of the file that it continues.
    pub first_dir: TreePath,
    /// Name of its first entry, or of the file that it continues.
    pub first_name: Name,
}

/// Sums over a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LayerTotals {
    /// Entries, without the root directory.
    pub entries: u64,
    /// Bytes of all files, holes included.
    pub bytes: u64,
    /// Chunks of content, with repetitions.
    pub chunks: u64,
}

/// A layer root: everything about a layer but its entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerRoot {
    /// How content was cut.
    pub chunker: Chunker,
    /// Sums.
    pub totals: LayerTotals,
    /// What it says about the root directory.
    pub root: Option<RootEntry>,
    /// The pages in order.
    pub pages: Vec<PageRef>,
}

impl LayerRoot {
    /// The canonical bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER_BYTES + 80 * (self.pages.len() + 1));
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&[KIND_TREE, self.chunker.tag()]);
        out.resize(24, 0);
        for total in [self.totals.entries, self.totals.bytes, self.totals.chunks] {
            out.extend_from_slice(&total.to_le_bytes());
        }
        out.extend_from_slice(&(self.pages.len() as u64).to_le_bytes());
        put_root_entry(&mut out, self.root.as_ref());
        for page in &self.pages {
            out.extend_from_slice(page.id.as_bytes());
            for number in [page.len, page.entries, page.chunks] {
                out.extend_from_slice(&number.to_le_bytes());
            }
            for bytes in [page.first_dir.as_bytes(), page.first_name.as_bytes()] {
                put_uvarint(&mut out, bytes.len() as u64);
                out.extend_from_slice(bytes);
            }
        }
        out
    }

    /// The layer's id.
    pub fn id(&self) -> LayerId {
        LayerId::of(&self.encode())
    }

    /// Reads and checks a root.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut reader = Reader::new("layer root", bytes);
        let length = bytes.len() as u64;
        reader.limit("layer root length", length, MAX_LAYER_ROOT_BYTES as u64)?;
        let chunker = read_header(&mut reader)?;
        let totals = LayerTotals {
            entries: reader.u64()?,
            bytes: reader.u64()?,
            chunks: reader.u64()?,
        };
        reader.limit("entries", totals.entries, MAX_ENTRIES)?;
        let pages = reader.u64()?;
        reader.limit("pages", pages, (bytes.len() / MIN_PAGE_REF_BYTES) as u64)?;
        let root = read_root_entry(&mut reader)?;
        let mut this = Self {
            chunker,
            totals,
            root,
            pages: Vec::with_capacity(pages as usize),
        };
        for _ in 0..pages {
            let page = read_page_ref(&mut reader)?;
            this.pages.push(page);
        }
        reader.finish()?;
        let sum = |each: fn(&PageRef) -> u32| this.pages.iter().map(|p| u64::from(each(p))).sum();
        let entries: u64 = sum(|page| page.entries);
        let chunks: u64 = sum(|page| page.chunks);
        let sums = (entries, chunks) == (totals.entries, totals.chunks);
        reader.rule(sums, "the sums differ from those of the pages")?;
        match this.encode() == bytes {
            true => Ok(this),
            false => Err(reader.error(Problem::NotCanonical)),
        }
    }
}

fn read_header(reader: &mut Reader<'_>) -> Result<Chunker, FormatError> {
    reader.start(MAGIC, VERSION)?;
    let kind = reader.u8()?;
    reader.rule(kind == KIND_TREE, "no such kind of layer")?;
    let chunker = Chunker::from_tag(reader.u8()?);
    let chunker = chunker.ok_or_else(|| reader.error(Problem::Rule("no such chunker")))?;
    reader.zeros::<4>()?;
    reader.no_features()?;
    Ok(chunker)
}

fn put_root_entry(out: &mut Vec<u8>, root: Option<&RootEntry>) {
    let Some(RootEntry { attrs, opaque }) = root else {
        out.push(0);
        return;
    };
    out.push(1 + u8::from(*opaque));
    put_attrs(out, attrs.mode, attrs.uid, attrs.gid);
    put_ivarint(out, attrs.mtime.seconds);
    put_uvarint(out, attrs.mtime.nanos.into());
    put_xattrs(out, &attrs.xattrs);
}

fn read_root_entry(reader: &mut Reader<'_>) -> Result<Option<RootEntry>, FormatError> {
    let opaque = match reader.u8()? {
        0 => return Ok(None),
        1 => false,
        2 => true,
        _ => return Err(reader.error(Problem::Rule("no such kind of root directory"))),
    };
    let (mode, uid, gid) = read_attrs(reader)?;
    let mtime = read_time(reader, 0)?;
    let xattrs = read_xattrs(reader)?;
    let attrs = Attrs {
        mode,
        uid,
        gid,
        mtime,
        xattrs,
    };
    Ok(Some(RootEntry { attrs, opaque }))
}

fn read_page_ref(reader: &mut Reader<'_>) -> Result<PageRef, FormatError> {
    let id = ChunkId::from_bytes(reader.array()?);
    let (len, entries, chunks) = (reader.u32()?, reader.u32()?, reader.u32()?);
    reader.limit("page length", len.into(), MAX_PAGE_BYTES as u64)?;
    let path = reader.count("path", MAX_PATH_BYTES)?;
    let first_dir = TreePath::new(reader.take(path)?);
    let name = reader.count("name", MAX_NAME_BYTES)?;
    let first_name = Name::new(reader.take(name)?);
    let bad = || reader.error(Problem::Rule("not a path inside the tree"));
    Ok(PageRef {
        id,
        len,
        entries,
        chunks,
        first_dir: first_dir.map_err(|_| bad())?,
        first_name: first_name.map_err(|_| bad())?,
    })
}
