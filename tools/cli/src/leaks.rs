//! Warnings about what belongs to one machine: in a template, every instance would have it.

use shale_image::identity::{Finding, lint_entry};
use shale_ingest::{FileBytes, PushError, Source, Visitor};
use shale_model::{Content, Entry, RootEntry, TreePath};

use crate::output::note;

/// Most findings that are told one by one; a person mends the first and looks again.
const MAX_TOLD: usize = 20;

/// Says on standard error what was found.
pub(crate) fn warn(findings: &[Finding]) {
    for finding in findings.iter().take(MAX_TOLD) {
        note!("warning: every instance would have {finding}");
    }
    if let Some(more) = findings.len().checked_sub(MAX_TOLD).filter(|n| *n > 0) {
        note!("warning: and {more} more: `shale template lint` lists all");
    }
}

/// A source whose entries are looked at while it is pushed.
pub(crate) struct Linted<'a> {
    source: &'a mut dyn Source,
    findings: Vec<Finding>,
}

impl<'a> Linted<'a> {
    pub(crate) fn new(source: &'a mut dyn Source) -> Self {
        let findings = Vec::new();
        Self { source, findings }
    }

    /// What was found in all that it told so far.
    pub(crate) fn findings(&self) -> &[Finding] {
        &self.findings
    }
}

impl Source for Linted<'_> {
    fn visit(&mut self, visitor: &mut dyn Visitor) -> Result<(), PushError> {
        let findings = &mut self.findings;
        self.source.visit(&mut Lint { visitor, findings })
    }
}

struct Lint<'a> {
    visitor: &'a mut dyn Visitor,
    findings: &'a mut Vec<Finding>,
}

impl Visitor for Lint<'_> {
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

    fn entry(&mut self, dir: &TreePath, entry: Entry) -> Result<(), PushError> {
        // A name that cannot be joined is refused below.
        if let Ok(path) = dir.join(&entry.name)
            && let Some(leak) = lint_entry(&path, &entry.kind)
        {
            self.findings.push(Finding { path, leak });
        }
        self.visitor.entry(dir, entry)
    }
}
