//! Pages are checked against the root and each other, one at a time.

use crate::bytes::{FormatError, Problem};
use crate::entry::{Content, Entry, Extent, Kind, LayerDir};
use crate::id::ChunkId;
use crate::limits::MAX_FILE_BYTES;
use crate::name::{Name, TreePath};

use super::page::{PageContent, decode_page};
use super::root::{LayerRoot, PageRef};

/// Checks the pages of a layer, in order, and keeps none of them: a layer of any size takes the memory of
/// a page. What it lets through, [`LayerDecoder`](super::LayerDecoder) puts together.
#[derive(Debug)]
pub struct LayerChecker<'a> {
    root: &'a LayerRoot,
    next: usize,
    bytes: u64,
    last: Option<Last>,
}

/// The entry that the pages so far end with.
#[derive(Debug)]
struct Last {
    dir: TreePath,
    name: Name,
    file: Option<OpenFile>,
}

/// The content so far of a file that the next page may continue.
#[derive(Debug, Clone, Copy, Default)]
struct OpenFile {
    bytes: u64,
    ends_in_hole: bool,
}

impl<'a> LayerChecker<'a> {
    /// A checker for the pages of `root`.
    pub fn new(root: &'a LayerRoot) -> Self {
        Self {
            root,
            next: 0,
            bytes: 0,
            last: None,
        }
    }

    /// Checks the next page. Returns the chunks of file content that it names, with their plain lengths,
    /// in order and with repetitions.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Vec<(ChunkId, u32)>, FormatError> {
        let content = self.check(bytes)?;
        let chunks = extents(&content).filter_map(|extent| match extent {
            Extent::Chunk { id, len } => Some((*id, *len)),
            Extent::Hole { .. } => None,
        });
        Ok(chunks.collect())
    }

    /// Checks that every page was pushed, and what only all of them show.
    pub fn finish(self) -> Result<(), FormatError> {
        if self.next != self.root.pages.len() {
            return Err(fault(0, Problem::Truncated));
        }
        match self.bytes == self.root.totals.bytes {
            true => Ok(()),
            false => Err(rule("the bytes of its files differ")),
        }
    }

    /// Checks the next page; its content.
    pub(super) fn check(&mut self, bytes: &[u8]) -> Result<PageContent, FormatError> {
        let page = self.root.pages.get(self.next);
        let page = page.ok_or_else(|| rule("more pages than the root lists"))?;
        if ChunkId::of(bytes) != page.id {
            return Err(fault(0, Problem::Checksum));
        }
        let mut content = decode_page(bytes)?;
        check_against(page, &content, self.next)?;
        self.next += 1;
        content.more = self.check_continued(page, content.more)?;
        self.check_order(&content.dirs)?;
        let bytes = extents(&content).map(Extent::len);
        self.bytes = bytes.fold(self.bytes, u64::saturating_add);
        Ok(content)
    }

    /// Checks extents that continue the last file of the page before.
    fn check_continued(
        &mut self,
        page: &PageRef,
        more: Vec<Extent>,
    ) -> Result<Vec<Extent>, FormatError> {
        if more.is_empty() {
            return Ok(more);
        }
        let last = self.last.as_mut();
        let open = last.and_then(|last| Some((&last.dir, &last.name, last.file.as_mut()?)));
        let Some((dir, name, file)) = open else {
            return Err(rule("a page continues what is no file"));
        };
        if (&page.first_dir, &page.first_name) != (dir, name) {
            return Err(rule("a page continues another file"));
        }
        let impossible = || rule("impossible content of a file");
        let more = Content::new(more).map_err(|_| impossible())?;
        if file.ends_in_hole && matches!(more.extents().first(), Some(Extent::Hole { .. })) {
            return Err(impossible());
        }
        *file = file.then(&more);
        match file.bytes <= MAX_FILE_BYTES {
            true => Ok(more.into_extents()),
            false => Err(impossible()),
        }
    }

    /// Checks that directories and names go on where the page before ended.
    fn check_order(&mut self, dirs: &[LayerDir]) -> Result<(), FormatError> {
        let (Some(first), Some(end)) = (dirs.first(), dirs.last()) else {
            return Ok(());
        };
        let ordered = match (&self.last, first.entries.first()) {
            (Some(last), Some(entry)) => (&last.dir, &last.name) < (&first.path, &entry.name),
            _ => true,
        };
        if !ordered {
            return Err(rule("pages are out of order"));
        }
        self.last = end.entries.last().map(|entry| Last::of(&end.path, entry));
        Ok(())
    }
}

impl Last {
    fn of(dir: &TreePath, entry: &Entry) -> Self {
        let file = match &entry.kind {
            Kind::File(content) => Some(OpenFile::default().then(content)),
            _ => None,
        };
        Self {
            dir: dir.clone(),
            name: entry.name.clone(),
            file,
        }
    }
}

impl OpenFile {
    /// This content, continued by `more`.
    fn then(self, more: &Content) -> Self {
        let ends_in_hole = match more.extents().last() {
            Some(extent) => matches!(extent, Extent::Hole { .. }),
            None => self.ends_in_hole,
        };
        Self {
            bytes: self.bytes.saturating_add(more.size()),
            ends_in_hole,
        }
    }
}

/// All extents of a page in order.
fn extents(content: &PageContent) -> impl Iterator<Item = &Extent> {
    let entries = content.dirs.iter().flat_map(|dir| &dir.entries);
    let in_files = entries.flat_map(|entry| match &entry.kind {
        Kind::File(content) => content.extents(),
        _ => &[],
    });
    content.more.iter().chain(in_files)
}

/// Checks that a page holds what the root says it does.
fn check_against(page: &PageRef, content: &PageContent, number: usize) -> Result<(), FormatError> {
    let entries: usize = content.dirs.iter().map(|dir| dir.entries.len()).sum();
    let chunks = extents(content)
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

fn rule(rule: &'static str) -> FormatError {
    fault(0, Problem::Rule(rule))
}

pub(super) fn fault(at: usize, problem: Problem) -> FormatError {
    FormatError {
        what: "layer",
        at,
        problem,
    }
}
