//! The string table of a loader cache.

use std::collections::HashMap;

/// A table of strings with a NUL after each, in which a string that ends another is a part of it.
#[derive(Debug, Default)]
pub(super) struct StringTable<'a> {
    pub(super) bytes: Vec<u8>,
    offsets: HashMap<&'a [u8], usize>,
}

impl<'a> StringTable<'a> {
    /// The table that ldconfig makes of these strings (glibc `elf/stringtable.c`).
    pub(super) fn new(mut strings: Vec<&'a [u8]>) -> Self {
        // From the last byte to the first, the highest first: a string comes right before those that end it.
        strings.sort_unstable_by(|a, b| b.iter().rev().cmp(a.iter().rev()));
        strings.dedup();
        let mut table = Self::default();
        let mut before: Option<(&[u8], usize)> = None;
        for text in strings {
            let at = match before {
                Some((longer, at)) if longer.ends_with(text) => at + longer.len() - text.len(),
                _ => {
                    let at = table.bytes.len();
                    table.bytes.extend_from_slice(text);
                    table.bytes.push(0);
                    at
                }
            };
            table.offsets.insert(text, at);
            before = Some((text, at));
        }
        table
    }

    /// Where in the table one of its strings begins.
    pub(super) fn offset(&self, text: &[u8]) -> usize {
        self.offsets.get(text).copied().unwrap_or_default()
    }
}
