//! What was done and what came of it.

use std::fmt;

use crate::guest::Guest;

/// Counts of a run.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) service_kills: u32,
    pub(crate) registry_kills: u32,
    pub(crate) machine_kills: u32,
    /// Bytes of the cache that were changed.
    pub(crate) flips: u32,
    /// Files of the cache that were cut off.
    pub(crate) cuts: u32,
    /// Pauses, stops, snapshots, drills, machines that came and went.
    pub(crate) others: u32,
    /// Commands that a blow made fail as they may: without a registry, or beside what is under way.
    pub(crate) refused: u32,
    /// Files that guests wrote, flushed and acknowledged.
    pub(crate) written: u64,
    /// Files that guests read and compared with their checksums.
    pub(crate) checked: u64,
    /// What was wrong: files with other bytes than theirs, and errors of reading and writing.
    pub(crate) wrong: Vec<String>,
    /// Processes and files that were left.
    pub(crate) left: Vec<String>,
}

impl Tally {
    pub(crate) fn add(&mut self, guest: &Guest) {
        let seen = guest.seen();
        self.written += seen.saved.len() as u64;
        self.checked += seen.checked;
        self.wrong.extend(seen.wrong.iter().cloned());
    }

    pub(crate) fn is_unharmed(&self) -> bool {
        self.wrong.is_empty() && self.left.is_empty() && self.checked > 0 && self.written > 0
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = [
            ("kills of the service", u64::from(self.service_kills)),
            ("kills of the registry", u64::from(self.registry_kills)),
            ("kills of machines", u64::from(self.machine_kills)),
            ("flips", u64::from(self.flips)),
            ("cuts", u64::from(self.cuts)),
            ("other blows", u64::from(self.others)),
            ("commands refused", u64::from(self.refused)),
            ("files written", self.written),
            ("files checked", self.checked),
            ("wrong bytes, lost files, errors", self.wrong.len() as u64),
            ("left over", self.left.len() as u64),
        ];
        for (what, count) in rows {
            writeln!(f, "{what:<32} {count:>8}")?;
        }
        for line in self.wrong.iter().chain(&self.left) {
            writeln!(f, "  {line}")?;
        }
        Ok(())
    }
}
