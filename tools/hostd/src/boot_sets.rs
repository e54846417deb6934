//! The boot sets that this host knows of: what boots of its templates read.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use shale_model::{ChunkId, TemplateId};
use shale_view::PlanFile;

use crate::error::HostResult;

/// Boot sets that are remembered: more than a host has templates of machines. Each takes at most 2.5 MB, mostly a tenth
/// of that. Where there are more, all are forgotten, and learned again when machines are started again.
const MAX_KNOWN: usize = 64;

/// Chunks of a boot set, with their bytes.
pub(crate) type BootSetChunks = Arc<[(ChunkId, u32)]>;

/// What is known of boot sets.
#[derive(Default)]
pub(crate) struct KnownBootSets(Mutex<HashMap<TemplateId, Known>>);

enum Known {
    /// Somebody finds out.
    Asked,
    Chunks(BootSetChunks),
}

impl KnownBootSets {
    /// Whether it is the caller's turn to find out what that of a template is.
    pub(crate) fn is_to_ask(&self, template: TemplateId) -> bool {
        let mut known = self.known();
        let is_to_ask = !known.contains_key(&template);
        if is_to_ask {
            put(&mut known, template, Known::Asked);
        }
        is_to_ask
    }

    /// What was found out; nothing if there is none, or it cannot be had now: where nothing is known, somebody may ask again.
    pub(crate) fn found(&self, template: TemplateId, chunks: Option<BootSetChunks>) {
        let mut known = self.known();
        match chunks {
            Some(chunks) => put(&mut known, template, Known::Chunks(chunks)),
            None => {
                if let Some(Known::Asked) = known.get(&template) {
                    known.remove(&template);
                }
            }
        }
    }

    /// The chunks of that of a template, if they are known.
    pub(crate) fn get(&self, template: TemplateId) -> Option<BootSetChunks> {
        match self.known().get(&template)? {
            Known::Asked => None,
            Known::Chunks(chunks) => Some(chunks.clone()),
        }
    }

    fn known(&self) -> MutexGuard<'_, HashMap<TemplateId, Known>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Puts it in, within [`MAX_KNOWN`].
fn put(known: &mut HashMap<TemplateId, Known>, template: TemplateId, what: Known) {
    if known.len() >= MAX_KNOWN && !known.contains_key(&template) {
        known.clear();
    }
    known.insert(template, what);
}

/// What a boot read, as far as the plan has it, each chunk once.
pub(crate) fn chunks_of_boot(plan: &PlanFile, read: &[ChunkId]) -> HostResult<BootSetChunks> {
    let mut wanted: HashSet<&ChunkId> = read.iter().collect();
    let mut found = Vec::with_capacity(wanted.len());
    for index in 0..plan.chunk_count() {
        let (id, len) = plan.chunk(index)?;
        if wanted.remove(&id) {
            found.push((id, len));
        }
    }
    Ok(found.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_asks_at_a_time_and_what_is_known_is_not_asked_again() {
        let known = KnownBootSets::default();
        let template = TemplateId::from_bytes([1; 32]);
        assert!(known.is_to_ask(template) && !known.is_to_ask(template));
        assert!(known.get(template).is_none());
        known.found(template, None);
        assert!(known.is_to_ask(template));
        let chunks: BootSetChunks = Arc::new([(ChunkId::of(b"a"), 1)]);
        known.found(template, Some(chunks.clone()));
        assert!(!known.is_to_ask(template));
        known.found(template, None);
        assert_eq!(known.get(template), Some(chunks), "nobody takes it back");
        for number in 2..=MAX_KNOWN as u8 + 1 {
            known.is_to_ask(TemplateId::from_bytes([number; 32]));
        }
        assert!(known.get(template).is_none(), "too many");
    }
}
