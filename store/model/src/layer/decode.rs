//! Pages and a root become entries again.

use crate::bytes::{FormatError, Problem};
use crate::entry::{Content, Entry, Extent, Kind, LayerDir, TreeLayer};

use super::check::{LayerChecker, fault};
use super::root::LayerRoot;

/// Puts a layer together from its pages, in order, checking each against the root.
#[derive(Debug)]
pub struct LayerDecoder<'a> {
    checker: LayerChecker<'a>,
    tree: TreeLayer,
    /// The extents of a last file that pages continue; all of them are checked.
    open: Vec<Extent>,
}

impl<'a> LayerDecoder<'a> {
    /// A decoder for the pages of `root`.
    pub fn new(root: &'a LayerRoot) -> Self {
        Self {
            checker: LayerChecker::new(root),
            tree: TreeLayer {
                root: root.root.clone(),
                dirs: Vec::new(),
            },
            open: Vec::new(),
        }
    }

    /// Appends the next page.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), FormatError> {
        let content = self.checker.check(bytes)?;
        self.continue_file(content.more);
        if !content.dirs.is_empty() {
            self.close_file()?;
            self.append(content.dirs);
        }
        Ok(())
    }

    /// The layer, once every page was pushed.
    pub fn finish(mut self) -> Result<TreeLayer, FormatError> {
        self.close_file()?;
        self.checker.finish()?;
        Ok(self.tree)
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

    /// Takes up extents that continue the last file. A file of many pages is put together once, at its end.
    fn continue_file(&mut self, more: Vec<Extent>) {
        if more.is_empty() {
            return;
        }
        if self.open.is_empty()
            && let Some(content) = last_file(&mut self.tree)
        {
            self.open = std::mem::take(content).into_extents();
        }
        self.open.extend(more);
    }

    /// Gives the last file the extents that pages continued it with.
    fn close_file(&mut self) -> Result<(), FormatError> {
        if self.open.is_empty() {
            return Ok(());
        }
        let whole = Content::new(std::mem::take(&mut self.open))
            .map_err(|_| fault(0, Problem::Rule("impossible content of a file")))?;
        if let Some(content) = last_file(&mut self.tree) {
            *content = whole;
        }
        Ok(())
    }

    fn append(&mut self, dirs: Vec<LayerDir>) {
        for dir in dirs {
            match self.tree.dirs.last_mut() {
                Some(last) if last.path == dir.path => last.entries.extend(dir.entries),
                _ => self.tree.dirs.push(dir),
            }
        }
    }
}

/// The content of the last entry, if it is a file.
fn last_file(tree: &mut TreeLayer) -> Option<&mut Content> {
    match tree.dirs.last_mut()?.entries.last_mut()? {
        Entry {
            kind: Kind::File(content),
            ..
        } => Some(content),
        _ => None,
    }
}
