//! Entries, in layer order, become pages and a root.

use crate::entry::{Content, Entry, Extent, Kind, RootEntry, TreeLayer};
use crate::id::ChunkId;
use crate::limits::{
    MAX_ENTRIES, MAX_LAYER_EXPANDED_BYTES, MAX_PAGE_BYTES, MAX_PAGE_EXPANDED_BYTES,
};
use crate::name::{Name, TreePath};

use super::page::PageBuilder;
use super::root::{Chunker, LayerRoot, LayerTotals, PageRef};

/// From this length on a page may end where a directory begins.
const MIN_PAGE_BYTES: usize = 64 * 1024;
/// One directory in this many begins a page, once the page has its least length.
const DIRS_A_PAGE: u8 = 4;
/// From this length on a page may end at any entry: large directories are cut, too.
const SPLIT_PAGE_BYTES: usize = 256 * 1024;
/// One entry in this many begins a page, once the page is that long.
const ENTRIES_A_PAGE: u8 = 64;
/// A page that is longer ends before the next entry: what is left holds the longest entry that is
/// not a file (a name, a row with [`crate::limits::MAX_XATTR_BYTES`], a target).
const FULL_PAGE_BYTES: usize = MAX_PAGE_BYTES - 256 * 1024;
/// Most extents that one page takes of a file at once: 600 KiB of ids and lengths.
const MAX_EXTENTS_A_PAGE: usize = 16 * 1024;

/// A finished page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedPage {
    /// Its id.
    pub id: ChunkId,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// Why entries do not make a layer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LayerError {
    /// An entry was pushed out of order, or twice.
    #[error("{path} is out of order, or there twice")]
    Order {
        /// The entry.
        path: TreePath,
    },
    /// More than [`MAX_ENTRIES`].
    #[error("more than {MAX_ENTRIES} entries")]
    TooManyEntries,
    /// Paths, names and extended attributes of more than [`MAX_LAYER_EXPANDED_BYTES`].
    #[error(
        "paths, names and extended attributes have more than {MAX_LAYER_EXPANDED_BYTES} bytes together"
    )]
    TooLarge,
}

/// Encodes entries as they come, holding one page in memory.
#[derive(Debug)]
pub struct LayerEncoder {
    page: PageBuilder,
    root: LayerRoot,
    last: Option<(TreePath, Name)>,
    /// Bytes that the entries of the finished pages stand for.
    pub(super) expanded: u64,
}

impl LayerEncoder {
    /// An empty layer whose content was cut by `chunker`.
    pub fn new(chunker: Chunker, root: Option<RootEntry>) -> Self {
        Self {
            page: PageBuilder::default(),
            root: LayerRoot {
                chunker,
                totals: LayerTotals::default(),
                root,
                pages: Vec::new(),
            },
            last: None,
            expanded: 0,
        }
    }

    /// Appends an entry of `dir`; the pages that this completes are returned, most often none.
    ///
    /// Entries come in order of directory, then of name.
    pub fn push(&mut self, dir: &TreePath, entry: &Entry) -> Result<Vec<EncodedPage>, LayerError> {
        let last = self.last.as_ref().map(|(dir, name)| (dir, name));
        if last.is_some_and(|last| last >= (dir, &entry.name)) {
            let path = dir.join(&entry.name).unwrap_or_else(|_| dir.clone());
            return Err(LayerError::Order { path });
        }
        if self.root.totals.entries >= MAX_ENTRIES {
            return Err(LayerError::TooManyEntries);
        }
        let mut done = Vec::new();
        let new_dir = last.is_none_or(|(last, _)| last != dir);
        if self.cuts_before(dir, entry, new_dir) {
            done.extend(self.end_page());
        }
        let expanded = self.expanded + self.page.expanded_with(dir, entry) as u64;
        if expanded > MAX_LAYER_EXPANDED_BYTES {
            return Err(LayerError::TooLarge);
        }
        self.last = Some((dir.clone(), entry.name.clone()));
        self.root.totals.entries += 1;
        self.page.push(dir, entry, MAX_EXTENTS_A_PAGE);
        if let Kind::File(content) = &entry.kind {
            self.root.totals.bytes += content.size();
            self.push_rest(dir, entry, content, &mut done);
        }
        Ok(done)
    }

    /// The extents of a file that one page does not hold.
    fn push_rest(
        &mut self,
        dir: &TreePath,
        entry: &Entry,
        content: &Content,
        done: &mut Vec<EncodedPage>,
    ) {
        let rest = content.extents().get(MAX_EXTENTS_A_PAGE..).unwrap_or(&[]);
        for extents in rest.chunks(MAX_EXTENTS_A_PAGE) {
            done.extend(self.end_page());
            self.page.push_more(dir, &entry.name, extents);
        }
    }

    /// Ends the layer: its last page, and its root.
    pub fn finish(mut self) -> (Option<EncodedPage>, LayerRoot) {
        let page = self.end_page();
        (page, self.root)
    }

    /// All of `tree` at once: its pages and its root.
    pub fn encode(
        tree: &TreeLayer,
        chunker: Chunker,
    ) -> Result<(Vec<EncodedPage>, LayerRoot), LayerError> {
        let mut encoder = Self::new(chunker, tree.root.clone());
        let mut pages = Vec::new();
        for (dir, entry) in tree.entries() {
            pages.extend(encoder.push(dir, entry)?);
        }
        let (last, root) = encoder.finish();
        pages.extend(last);
        Ok((pages, root))
    }

    /// Whether a page ends before this entry. Where it may, the hash of a path decides, so that the
    /// same content is cut alike whatever comes before it.
    fn cuts_before(&self, dir: &TreePath, entry: &Entry, new_dir: bool) -> bool {
        let len = self.page.len();
        let extents = match &entry.kind {
            Kind::File(content) => content.extents().len().min(MAX_EXTENTS_A_PAGE),
            _ => 0,
        };
        let most = len + extents * (size_of::<Extent>() + 6);
        let expands = self.page.expanded_with(dir, entry) > MAX_PAGE_EXPANDED_BYTES;
        if expands || len > FULL_PAGE_BYTES || most > FULL_PAGE_BYTES && len > MIN_PAGE_BYTES {
            return true;
        }
        let chosen = |bytes: &[u8], of| blake3::hash(bytes).as_bytes()[0].is_multiple_of(of);
        len >= MIN_PAGE_BYTES && new_dir && chosen(dir.as_bytes(), DIRS_A_PAGE)
            || len >= SPLIT_PAGE_BYTES && chosen(entry.name.as_bytes(), ENTRIES_A_PAGE)
    }

    fn end_page(&mut self) -> Option<EncodedPage> {
        let page = std::mem::take(&mut self.page);
        let (first_dir, first_name) = page.first.clone()?;
        self.expanded += page.expanded as u64;
        let (entries, chunks) = (page.entries as u32, page.chunks as u32);
        let bytes = page.finish();
        let id = ChunkId::of(&bytes);
        self.root.totals.chunks += u64::from(chunks);
        self.root.pages.push(PageRef {
            id,
            len: bytes.len() as u32,
            entries,
            chunks,
            first_dir,
            first_name,
        });
        Some(EncodedPage { id, bytes })
    }
}
