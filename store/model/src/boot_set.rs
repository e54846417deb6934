//! Boot sets: what a boot reads, in the order in which it reads it, so that the next host gets it in one go.

use std::collections::HashMap;

use crate::id::{ChunkId, PackId, TemplateId};

/// Most chunks of a trace: four GiB of content in chunks of the usual size, and 2 MiB of ids.
pub const MAX_TRACE_CHUNKS: usize = 65_536;

/// Traces of a template that count. What none of the last boots has read is no longer part of its boot set.
pub const MAX_TRACES: usize = 8;

/// A pack with the chunks that a boot reads, in that order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BootSet {
    /// The template whose boots it was made from: the one that was asked for, or the nearest that has one.
    pub template: TemplateId,
    /// The pack. It is in no chunk index: its chunks lie elsewhere too.
    pub pack: PackId,
    /// Where its footer begins: what comes before is frames.
    pub footer_offset: u64,
    /// Bytes of the whole pack.
    pub pack_bytes: u64,
}

/// The chunks that at least half of the boots read, those first that boots read first on the average. Each trace
/// names a chunk once.
pub fn merge_traces(traces: &[Vec<ChunkId>]) -> Vec<ChunkId> {
    let mut places: HashMap<ChunkId, Places> = HashMap::new();
    for trace in traces {
        for (place, id) in (0u64..).zip(trace) {
            let places = places.entry(*id).or_default();
            places.sum += place;
            places.boots += 1;
        }
    }
    let mut wanted: Vec<(ChunkId, Places)> = places
        .into_iter()
        .filter(|(_, places)| places.boots as usize * 2 >= traces.len())
        .collect();
    // As products, so that averages are exact; equal ones have one order on every machine.
    wanted.sort_by(|(a, at), (b, other)| {
        let (mine, theirs) = (at.sum * other.boots, other.sum * at.boots);
        mine.cmp(&theirs).then(a.cmp(b))
    });
    wanted.into_iter().map(|(id, _)| id).collect()
}

/// At which places of how many traces a chunk stands.
#[derive(Debug, Default)]
struct Places {
    sum: u64,
    boots: u64,
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn ids(names: &[u8]) -> Vec<ChunkId> {
        names.iter().map(|name| ChunkId::of(&[*name])).collect()
    }

    #[test]
    fn what_half_of_the_boots_read_stays_in_the_order_of_reading() {
        assert_eq!(merge_traces(&[]), []);
        assert_eq!(merge_traces(&[ids(&[3, 1, 2])]), ids(&[3, 1, 2]));
        // 9 and 8 were read once in three boots; 2 comes before 1 in two of three.
        let traces = [ids(&[3, 2, 1, 9]), ids(&[3, 2, 1]), ids(&[3, 1, 2, 8])];
        assert_eq!(merge_traces(&traces), ids(&[3, 2, 1]));
        // Of two boots each counts.
        assert_eq!(merge_traces(&[ids(&[1, 2]), ids(&[1, 3])])[0], ids(&[1])[0]);
        assert_eq!(merge_traces(&[ids(&[1, 2]), ids(&[1, 3])]).len(), 3);
    }

    proptest! {
        #[test]
        fn merging_keeps_exactly_what_is_common(traces in vec(vec(0u8..40, 0..40), 1..9)) {
            let traces: Vec<Vec<ChunkId>> = traces
                .into_iter()
                .map(|mut names| {
                    let mut seen = std::collections::HashSet::new();
                    names.retain(|name| seen.insert(*name));
                    ids(&names)
                })
                .collect();
            let merged = merge_traces(&traces);
            for name in 0u8..40 {
                let id = ids(&[name])[0];
                let boots = traces.iter().filter(|trace| trace.contains(&id)).count();
                let expected = boots > 0 && boots * 2 >= traces.len();
                let found = merged.iter().filter(|other| **other == id).count();
                prop_assert_eq!(found, usize::from(expected));
            }
            // The order of boots does not matter, and one boot repeated changes nothing.
            let mut turned = traces.clone();
            turned.reverse();
            prop_assert_eq!(&merge_traces(&turned), &merged);
            let twice = [traces[0].clone(), traces[0].clone()];
            prop_assert_eq!(merge_traces(&twice), traces[0].clone());
        }
    }
}
