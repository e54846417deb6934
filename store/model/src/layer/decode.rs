//! Pages and a root become entries again.

use crate::bytes::{FormatError, Problem};
use crate::entry::{Content, Entry, Extent, Kind, LayerDir, TreeLayer};
use crate::id::ChunkId;

use super::page::{PageContent, decode_page};
use super::root::{LayerRoot, PageRef};

/// Puts a layer together from its pages, in order, checking each against the root.
#[derive(Debug)]
pub struct LayerDecoder<'a> {
    root: &'a LayerRoot,
    next: usize,
    tree: TreeLayer,
    /// The extents of a last file that the next page may continue.
    open: Vec<Extent>,
}

impl<'a> LayerDecoder<'a> {
    /// A decoder for the pages of `root`.
    pub fn new(root: &'a LayerRoot) -> Self {
        Self {
            root,
            next: 0,
            tree: TreeLayer {
                root: root.root.clone(),
                dirs: Vec::new(),
            },
            open: Vec::new(),
        }
    }

    /// Appends the next page.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), FormatError> {
        let page = self.root.pages.get(self.next);
        let page = page.ok_or_else(|| fault(0, Problem::Rule("more pages than the root lists")))?;
        if ChunkId::of(bytes) != page.id {
            return Err(fault(0, Problem::Checksum));
        }
        let content = decode_page(bytes)?;
        check_against(page, &content, self.next)?;
        self.next += 1;
        self.continue_file(page, content.more)?;
        self.append(content.dirs)
    }

    /// The layer, once every page was pushed.
    pub fn finish(mut self) -> Result<TreeLayer, FormatError> {
        if self.next != self.root.pages.len() {
            return Err(fault(0, Problem::Truncated));
        }
        self.close_file()?;
        let bytes: u64 = self
            .tree
            .entries()
            .map(|(_, entry)| match &entry.kind {
                Kind::File(content) => content.size(),
                _ => 0,
            })
            .fold(0, u64::saturating_add);
        match bytes == self.root.totals.bytes {
            true => Ok(self.tree),
            false => Err(fault(0, Problem::Rule("the bytes of its files differ"))),
        }
    }

    /// A whole layer from the bytes of its pages.
    pub fn decode<'b>(
        root: &LayerRoot,
        pages: impl IntoIterator<Item = &'b [u8]>,
    ) -> Result<TreeLayer, FormatError> {
        let mut decoder = LayerDecoder::new(root);
        for page in pages {
            decoder.push(page)?;
        }
        decoder.finish()
    }

    /// Takes up extents that continue the last file of the page before.
    fn continue_file(&mut self, page: &PageRef, more: Vec<Extent>) -> Result<(), FormatError> {
        if more.is_empty() {
            return self.close_file();
        }
        let last = self.tree.dirs.last_mut();
        let last = last.and_then(|dir| Some((&dir.path, dir.entries.last_mut()?)));
        let Some((
            path,
            Entry {
                name,
                kind: Kind::File(content),
                ..
            },
        )) = last
        else {
            return Err(fault(0, Problem::Rule("a page continues what is no file")));
        };
        if (&page.first_dir, &page.first_name) != (path, name) {
            return Err(fault(0, Problem::Rule("a page continues another file")));
        }
        if self.open.is_empty() {
            self.open = content.extents().to_vec();
        }
        self.open.extend(more);
        Ok(())
    }

    /// Gives the last file the extents that pages continued it with.
    fn close_file(&mut self) -> Result<(), FormatError> {
        if self.open.is_empty() {
            return Ok(());
        }
        let whole = Content::new(std::mem::take(&mut self.open))
            .map_err(|_| fault(0, Problem::Rule("impossible content of a file")))?;
        let last = self
            .tree
            .dirs
            .last_mut()
            .and_then(|dir| dir.entries.last_mut());
        if let Some(Entry {
            kind: Kind::File(content),
            ..
        }) = last
        {
            *content = whole;
        }
        Ok(())
    }

    fn append(&mut self, dirs: Vec<LayerDir>) -> Result<(), FormatError> {
        if !dirs.is_empty() {
            self.close_file()?;
        }
        for dir in dirs {
            let rule = Problem::Rule("pages are out of order");
            match self.tree.dirs.last_mut() {
                Some(last) if last.path > dir.path => return Err(fault(0, rule)),
                Some(last) if last.path == dir.path => {
                    let (before, after) = (last.entries.last(), dir.entries.first());
                    let ordered = before.zip(after).is_none_or(|(b, a)| b.name < a.name);
                    if !ordered {
                        return Err(fault(0, rule));
                    }
                    last.entries.extend(dir.entries);
                }
                _ => self.tree.dirs.push(dir),
            }
        }
        Ok(())
    }
}

/// Checks that a page holds what the root says it does.
fn check_against(page: &PageRef, content: &PageContent, number: usize) -> Result<(), FormatError> {
    let entries: usize = content.dirs.iter().map(|dir| dir.entries.len()).sum();
    let in_files = content
        .dirs
        .iter()
        .flat_map(|dir| &dir.entries)
        .flat_map(|e| match &e.kind {
            Kind::File(content) => content.extents(),
            _ => &[],
        });
    let chunks = in_files
        .chain(&content.more)
        .filter(|extent| matches!(extent, Extent::Chunk { .. }))
        .count();
    let first = content.dirs.first();
    let first = first.and_then(|dir| Some((&dir.path, &dir.entries.first()?.name)));
    let same_first = first == Some((&page.first_dir, &page.first_name));
    let counted = (page.entries, page.chunks) == (entries as u32, chunks as u32);
    match counted && (same_first || !content.more.is_empty()) {
        true => Ok(()),
        false => Err(fault(
            number,
            Problem::Rule("a page differs from what the root says"),
        )),
    }
}

fn fault(at: usize, problem: Problem) -> FormatError {
    FormatError {
        what: "layer",
        at,
        problem,
    }
}
