//! What was done and what came of it.

use std::fmt;

use crate::loads::Load;

/// Counts of a run.
#[derive(Debug, Default)]
pub(crate) struct Account {
    pub(crate) kills: Kills,
    /// Bytes of the cache that were changed.
    pub(crate) flips: u32,
    /// Files of the cache that were cut off.
    pub(crate) cuts: u32,
    /// Clients of a disk that do what none may.
    pub(crate) hostile: u32,
    /// Stalls of the link, pauses, stops, drills and other things that nobody is killed by.
    pub(crate) others: u32,
    /// Deeds with a machine whose disk is known, and how many of them were cut off in the middle.
    pub(crate) known: u32,
    pub(crate) cut_off: u32,
    /// Machines that came and went, and how many of them began warm.
    pub(crate) came: u32,
    pub(crate) warm: u32,
    /// Commands that a blow made fail as they may: without a registry, or beside what is under way.
    pub(crate) refused: u32,
    /// Files and pieces of disks that were written, flushed and acknowledged.
    pub(crate) written: u64,
    /// Files and pieces of disks that were read and compared.
    pub(crate) checked: u64,
    /// What was wrong: files with other bytes than theirs, and errors of reading and writing.
    pub(crate) wrong: Vec<String>,
    /// Processes, mounts and files that were left.
    pub(crate) left: Vec<String>,
}

/// What was killed, how often.
#[derive(Debug, Default)]
pub(crate) struct Kills {
    pub(crate) services: u32,
    /// Services that a copy of the program took over from.
    pub(crate) replaced: u32,
    pub(crate) keepers: u32,
    pub(crate) registries: u32,
    pub(crate) machines: u32,
    /// Hosts: all at once, and what was not synced.
    pub(crate) hosts: u32,
}

impl Account {
    /// Adds what a load did.
    pub(crate) fn add(&mut self, load: &Load) {
        let heard = load.heard();
        self.written += heard.saved.len() as u64;
        self.checked += heard.checked;
        self.wrong.extend(heard.wrong.iter().cloned());
    }

    /// How far it is, in a line.
    pub(crate) fn brief(&self, loads: &[Load]) -> String {
        let (mut checked, mut wrong) = (self.checked, self.wrong.len());
        let mut works = Vec::new();
        for load in loads {
            let heard = load.heard();
            checked += heard.checked;
            wrong += heard.wrong.len();
            works.push(format!("{} {}", load.name(), heard.checked));
        }
        format!("{checked} checked, {wrong} wrong ({})", works.join(", "))
    }

    pub(crate) fn is_unharmed(&self) -> bool {
        self.wrong.is_empty() && self.left.is_empty() && self.checked > 0 && self.written > 0
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kills = &self.kills;
        let rows = [
            ("kills of the service", u64::from(kills.services)),
            ("services replaced by a copy", kills.replaced.into()),
            ("kills of the keeper", kills.keepers.into()),
            ("kills of the registry", kills.registries.into()),
            ("kills of machines", kills.machines.into()),
            ("power cuts of the host", kills.hosts.into()),
            ("flips", self.flips.into()),
            ("cuts", self.cuts.into()),
            ("hostile clients", self.hostile.into()),
            ("deeds with a known disk", self.known.into()),
            ("of them cut off", self.cut_off.into()),
            ("machines that came and went", self.came.into()),
            ("of them warm", self.warm.into()),
            ("other blows", self.others.into()),
            ("commands refused", self.refused.into()),
            ("files and pieces written", self.written),
            ("files and pieces checked", self.checked),
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
