//! Ranges of subordinate ids: those that a layer added must not overlap others (subuid(5)).

use std::borrow::Cow;
use std::collections::HashSet;

use super::records::{Malformed, Record, Sides, is_raw};

/// First subordinate id that useradd gives out (`SUB_UID_MIN` of login.defs(5)).
const FIRST_SUB_ID: u32 = 100_000;

/// A range that begins elsewhere now.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct MovedRange {
    pub(super) name: String,
    pub(super) from: u32,
    pub(super) to: u32,
}

struct Range<'r> {
    name: &'r [u8],
    first: u32,
    count: u32,
}

impl Range<'_> {
    /// The number after the last.
    fn end(&self) -> u64 {
        u64::from(self.first) + u64::from(self.count)
    }

    fn overlaps(&self, other: &(u64, u64)) -> bool {
        u64::from(self.first) < other.1 && other.0 < self.end()
    }
}

/// Moves ranges that `theirs` added and that overlap one of `ours` behind all others. A user that has a
/// range in `ours` keeps that one. The error is a fault in `theirs`, or that no number is left.
pub(super) fn part_ranges(
    sides: &mut Sides<Vec<Record<'_>>>,
) -> Result<Vec<MovedRange>, Option<Malformed>> {
    let keys = |records: &[Record<'_>]| -> HashSet<Vec<u8>> {
        records.iter().map(|record| record.key.clone()).collect()
    };
    let (base, ours) = (keys(&sides.base), keys(&sides.ours));
    // A range of ours that cannot be read overlaps nothing, and stays as it is.
    let mut taken: Vec<(u64, u64)> = Vec::new();
    for record in &sides.ours {
        let range = parse(&record.text);
        taken.extend(range.map(|range| (u64::from(range.first), range.end())));
    }
    sides
        .theirs
        .retain(|record| base.contains(&record.key) || !ours.contains(&record.key));
    let mut end = taken.iter().map(|range| range.1).max().unwrap_or(0);
    for (index, record) in sides.theirs.iter().enumerate() {
        let problem = "a range of ids has no number, or ends behind the last one";
        let line = index + 1;
        match parse(&record.text) {
            Some(range) => end = end.max(range.end()),
            None if is_raw(&record.text) => (),
            None => return Err(Some(Malformed { line, problem })),
        }
    }
    let mut moved = Vec::new();
    for record in &mut sides.theirs {
        let text = record.text.clone();
        let Some(range) = parse(&text).filter(|_| !base.contains(&record.key)) else {
            continue;
        };
        let mut first = range.first;
        if taken.iter().any(|other| range.overlaps(other)) {
            let free = end.max(u64::from(FIRST_SUB_ID));
            end = free + u64::from(range.count);
            if end > 1 << 32 {
                return Err(None);
            }
            first = free as u32;
            let name = String::from_utf8_lossy(range.name).into_owned();
            let line = [range.name, format!(":{first}:{}", range.count).as_bytes()].concat();
            record.text = Cow::Owned(line);
            let (from, to) = (range.first, first);
            moved.push(MovedRange { name, from, to });
        }
        let first = u64::from(first);
        taken.push((first, first + u64::from(range.count)));
    }
    Ok(moved)
}

fn parse(line: &[u8]) -> Option<Range<'_>> {
    let mut fields = line.split(|&b| b == b':');
    let name = fields.next()?;
    let mut number = || {
        std::str::from_utf8(fields.next()?)
            .ok()?
            .parse::<u32>()
            .ok()
    };
    let (first, count) = (number()?, number()?);
    let range = Range { name, first, count };
    (range.end() <= 1 << 32).then_some(range)
}
