//! What a power cut, or a killed process, leaves of [`MemoryFiles`].
//!
//! The model is harsher than any one file system. Whatever was not synced may have reached the disk or
//! not, each part for itself: every sector of 512 bytes, the length of every file, every name in every
//! directory. What it does not do: keep one of several versions that lie between two syncs, or lose a
//! durable file whose rename reached the disk by half.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::content::{Content, PAGE_BYTES, Page};
use crate::memory::{MemoryFiles, Names, Node, NodeId, Nodes};

/// The smallest unit that a disk writes as a whole.
const SECTOR_BYTES: usize = 512;

impl MemoryFiles {
    /// The storage after a power cut now, without the locks. `seed` chooses what of the unsynced
    /// survived; of every three seeds in a row one keeps nothing, one everything, one random parts.
    pub fn after_power_cut(&self, seed: u64) -> MemoryFiles {
        let mut nodes = self.nodes().clone();
        let mut coin = Coin::new(seed);
        let survivors: Vec<Node> = nodes.0.iter().map(|node| coin.survivor(node)).collect();
        let before = std::mem::replace(&mut nodes.0, survivors);
        keep_renamed(&before, &mut nodes);
        for node in &mut nodes.0 {
            match node {
                Node::Dir { live, synced } => synced.clone_from(live),
                Node::File { live, synced } => synced.clone_from(live),
            }
        }
        MemoryFiles::holding(nodes)
    }

    /// The storage after this process was killed: all is there, the locks are free.
    pub fn after_kill(&self) -> MemoryFiles {
        MemoryFiles::holding(self.nodes().clone())
    }
}

/// Gives files that had a durable name, and were renamed, the new name where none survived.
fn keep_renamed(before: &[Node], after: &mut Nodes) {
    let ids = |node: &Node, live: bool| -> Vec<NodeId> {
        match node {
            Node::Dir { live: names, .. } if live => names.values().copied().collect(),
            Node::Dir { synced: names, .. } => names.values().copied().collect(),
            Node::File { .. } => Vec::new(),
        }
    };
    let durable: BTreeSet<NodeId> = before.iter().flat_map(|node| ids(node, false)).collect();
    let kept: BTreeSet<NodeId> = after.0.iter().flat_map(|node| ids(node, true)).collect();
    for (old, new) in before.iter().zip(&mut after.0) {
        if let (Node::Dir { live: old, .. }, Node::Dir { live: new, .. }) = (old, new) {
            let lost = |id: &NodeId| durable.contains(id) && !kept.contains(id);
            let renamed = old.iter().filter(|(_, id)| lost(id));
            new.extend(renamed.map(|(name, id)| (name.clone(), *id)));
        }
    }
}

/// Chooses what survives.
struct Coin {
    state: u64,
    odds: Odds,
}

enum Odds {
    Nothing,
    Everything,
    Even,
}

impl Coin {
    fn new(seed: u64) -> Self {
        let odds = match seed % 3 {
            0 => Odds::Nothing,
            1 => Odds::Everything,
            _ => Odds::Even,
        };
        Self { state: seed, odds }
    }

    /// SplitMix64 (Steele, Lea and Flood, 2014).
    fn flip(&mut self) -> bool {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        match self.odds {
            Odds::Nothing => false,
            Odds::Everything => true,
            Odds::Even => (mixed ^ mixed >> 31) & 1 == 1,
        }
    }

    fn survivor(&mut self, node: &Node) -> Node {
        match node {
            Node::Dir { live, synced } => Node::Dir {
                live: self.names(live, synced),
                synced: Names::new(),
            },
            Node::File { live, synced } => Node::File {
                live: self.content(live, synced),
                synced: Content::default(),
            },
        }
    }

    fn names(&mut self, live: &Names, synced: &Names) -> Names {
        let all: BTreeSet<_> = live.keys().chain(synced.keys()).collect();
        let chosen = all.into_iter().filter_map(|name| {
            let (new, old) = (live.get(name), synced.get(name));
            let id = if new == old || self.flip() { new } else { old };
            Some((name.clone(), *id?))
        });
        chosen.collect()
    }

    fn content(&mut self, live: &Content, synced: &Content) -> Content {
        let all: BTreeSet<u64> = live
            .pages
            .keys()
            .chain(synced.pages.keys())
            .copied()
            .collect();
        let mut pages = BTreeMap::new();
        for page in all {
            let chosen = self.page(live.pages.get(&page), synced.pages.get(&page));
            pages.extend(chosen.map(|bytes| (page, bytes)));
        }
        let len = if self.flip() { live.len } else { synced.len };
        let longest = live.len.max(synced.len);
        let mut content = Content {
            len: longest,
            pages,
        };
        content.set_len(len);
        content
    }

    fn page(&mut self, live: Option<&Page>, synced: Option<&Page>) -> Option<Page> {
        const ZEROS: [u8; PAGE_BYTES] = [0; PAGE_BYTES];
        match (live, synced) {
            (Some(live), Some(synced)) if Arc::ptr_eq(live, synced) => return Some(live.clone()),
            (None, None) => return None,
            _ => {}
        }
        let bytes = |page: Option<&Page>| page.map_or(ZEROS, |page| **page);
        let (live, mut mixed) = (bytes(live), bytes(synced));
        let sectors = mixed.chunks_mut(SECTOR_BYTES);
        for (sector, new) in sectors.zip(live.chunks(SECTOR_BYTES)) {
            if self.flip() {
                sector.copy_from_slice(new);
            }
        }
        Some(Arc::new(mixed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{FilePath, Files, OpenMode, put_durably, read_file};

    fn path(text: &str) -> FilePath {
        FilePath::new(text).unwrap()
    }

    #[test]
    fn unsynced_parts_survive_each_for_itself() {
        let files = MemoryFiles::new();
        put_durably(&files, &path("temp"), &path("file"), |file| {
            file.write_at(0, &[1; 4 * SECTOR_BYTES])
        })
        .unwrap();
        let file = files.open(&path("file"), OpenMode::Write).unwrap();
        file.write_at(0, &[2; 6 * SECTOR_BYTES]).unwrap();

        let mut seen = BTreeSet::new();
        for seed in 0..300 {
            let bytes = read_file(&files.after_power_cut(seed), &path("file"), 9999).unwrap();
            assert!(
                [4, 6].contains(&(bytes.len() / SECTOR_BYTES)),
                "seed {seed}"
            );
            for sector in bytes.chunks(SECTOR_BYTES) {
                assert!(sector.iter().all(|&b| b == sector[0]), "a torn sector");
            }
            seen.insert(bytes);
        }
        // 4 old-or-new sectors, and 2 zero-or-new ones or not there: at most 80 outcomes.
        assert!(seen.len() > 40, "{}", seen.len());

        file.sync().unwrap();
        for seed in 0..9 {
            let bytes = read_file(&files.after_power_cut(seed), &path("file"), 9999).unwrap();
            assert_eq!(bytes, [2; 6 * SECTOR_BYTES]);
        }
    }

    #[test]
    fn unsynced_names_come_and_go() {
        let files = MemoryFiles::new();
        let file = files.open(&path("new"), OpenMode::CreateNew).unwrap();
        file.sync().unwrap();
        let exists = |seed, name: &str| {
            let after = files.after_power_cut(seed);
            after.open(&path(name), OpenMode::Read).is_ok()
        };
        assert!(!exists(0, "new"));
        assert!(exists(1, "new"));
        files.sync_dir(&FilePath::root()).unwrap();
        assert!(exists(0, "new"));

        files.rename(&path("new"), &path("old")).unwrap();
        for seed in 0..30 {
            assert!(exists(seed, "new") || exists(seed, "old"), "lost by {seed}");
        }
        assert!(!exists(0, "old"));
        assert!(!exists(1, "new"));
        files.remove(&path("old")).unwrap();
        files.sync_dir(&FilePath::root()).unwrap();
        for seed in 0..9 {
            assert!(!exists(seed, "new") && !exists(seed, "old"));
        }
    }

    #[test]
    fn what_was_put_durably_is_there_whole_and_before_that_not_at_all() {
        use crate::{Fault, FaultyFiles};

        let dirs = |files: &MemoryFiles| files.list(&FilePath::root()).unwrap().len();
        let mut acknowledged = 0;
        for stop in 0..20 {
            let memory = MemoryFiles::new();
            let files = FaultyFiles::new(Arc::new(memory.clone()));
            files.fail_at(Some((stop, Fault::Stopped)));
            let put = put_durably(&files, &path("temp"), &path("a/b/file"), |file| {
                file.write_at(0, &[7; 2000])
            });
            acknowledged += usize::from(put.is_ok());
            for seed in 0..12 {
                let after = memory.after_power_cut(seed);
                match read_file(&after, &path("a/b/file"), 9999) {
                    Ok(bytes) => assert_eq!(bytes, [7; 2000], "stop {stop}, seed {seed}"),
                    Err(error) => {
                        assert!(
                            error.is_missing() && put.is_err(),
                            "stop {stop}, seed {seed}"
                        );
                    }
                }
                assert!(dirs(&after) <= 2);
            }
        }
        assert!((5..15).contains(&acknowledged), "{acknowledged}");
    }
}
