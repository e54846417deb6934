//! What of a guest's changes may become a template: what belongs to one machine does not.

use std::collections::{BTreeMap, HashSet};

use shale_image::identity::lint_entry;
use shale_image::merge::ChunkBytes;
use shale_ingest::{FileBytes, PushError, Run, Source, SourceError, Visitor};
use shale_model::{Content, Entry, Extent, Kind, Name, RootEntry, Tree, TreePath};

/// A difference to a template, less what `shale template lint` would find in it.
pub(crate) struct Impersonal<'a> {
    pub(crate) source: &'a mut dyn Source,
    /// The template.
    pub(crate) template: &'a Tree,
    /// The template with what makes the machine itself.
    pub(crate) itself: &'a Tree,
    /// The bytes of its chunks that no layer has, because merging made them.
    pub(crate) synthetic: &'a ChunkBytes,
}

impl Source for Impersonal<'_> {
    fn visit(&mut self, visitor: &mut dyn Visitor) -> Result<(), PushError> {
        let mut sieve = Sieve {
            visitor,
            template: self.template,
            synthetic: self.synthetic,
            left_out: HashSet::new(),
            kept: BTreeMap::new(),
        };
        self.source.visit(&mut sieve)?;
        sieve.tell_all(self.itself)
    }
}

struct Sieve<'a> {
    visitor: &'a mut dyn Visitor,
    template: &'a Tree,
    synthetic: &'a ChunkBytes,
    left_out: HashSet<TreePath>,
    kept: BTreeMap<TreePath, BTreeMap<Name, Entry>>,
}

impl Sieve<'_> {
    fn belongs_to_one(&self, path: &TreePath, kind: &Kind) -> bool {
        match kind {
            // What the guest removed of its own identity was never in the template.
            Kind::Whiteout => self.template.lookup(path).is_none(),
            Kind::HardLink(first) if self.left_out.contains(first) => true,
            kind => lint_entry(path, kind).is_some(),
        }
    }

    /// Tells what is kept, and the directories around it that are the machine's own: nobody else describes them.
    fn tell_all(mut self, itself: &Tree) -> Result<(), PushError> {
        let mut around: Vec<TreePath> = self.kept.keys().cloned().collect();
        while let Some(path) = around.pop() {
            let Some((dir, name)) = path.split() else {
                continue;
            };
            let node = itself.lookup(&path).map(|node| itself.node(node));
            let node = node.filter(|_| self.template.lookup(&path).is_none());
            if let Some(node) = node {
                let names = self.kept.entry(dir.clone()).or_default();
                names.entry(name.clone()).or_insert_with(|| Entry {
                    name,
                    attrs: node.attrs.clone(),
                    kind: Kind::Directory,
                });
                around.push(dir);
            }
        }
        for (dir, names) in std::mem::take(&mut self.kept) {
            for entry in names.into_values() {
                self.visitor.entry(&dir, entry)?;
            }
        }
        Ok(())
    }

    /// The bytes of a file that merging made: it keeps its content, which has to go with it.
    fn made(&self, content: &Content) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        for extent in content.extents() {
            let Extent::Chunk { id, .. } = extent else {
                return None;
            };
            bytes.extend_from_slice(self.synthetic.get(id)?);
        }
        Some(bytes).filter(|bytes| !bytes.is_empty())
    }
}

impl Visitor for Sieve<'_> {
    fn root(&mut self, root: RootEntry) -> Result<(), PushError> {
        self.visitor.root(root)
    }

    fn content(
        &mut self,
        path: &TreePath,
        bytes: &mut dyn FileBytes,
    ) -> Result<Content, PushError> {
        self.visitor.content(path, bytes)
    }

    fn entry(&mut self, dir: &TreePath, mut entry: Entry) -> Result<(), PushError> {
        // A name that cannot be joined is refused below.
        if let Ok(path) = dir.join(&entry.name) {
            if self.belongs_to_one(&path, &entry.kind) {
                self.left_out.insert(path);
                return Ok(());
            }
            if let Kind::File(content) = &entry.kind
                && let Some(bytes) = self.made(content)
            {
                let mut bytes = Rest(&bytes);
                entry.kind = Kind::File(self.visitor.content(&path, &mut bytes)?);
            }
        }
        let names = self.kept.entry(dir.clone()).or_default();
        names.insert(entry.name.clone(), entry);
        Ok(())
    }
}

/// Bytes in memory that were not read yet.
struct Rest<'a>(&'a [u8]);

impl FileBytes for Rest<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> Result<Run, SourceError> {
        let len = buffer.len().min(self.0.len());
        let (now, later) = self.0.split_at(len);
        buffer[..len].copy_from_slice(now);
        self.0 = later;
        Ok(match len {
            0 => Run::End,
            len => Run::Data(len),
        })
    }
}
