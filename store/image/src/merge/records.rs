//! The three-way merge of a file by its records.

use std::borrow::Cow;
use std::collections::HashMap;

use super::rules::{Format, SUB_IDS};
use super::{columns, stanza};

/// Longest record, in bytes: a group of 65,000 members with names of 16 bytes.
const MAX_RECORD_BYTES: usize = 1024 * 1024;

/// Why bytes are not a file of records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Malformed {
    /// Line, counted from 1; 0 for the file as a whole.
    pub(super) line: usize,
    /// What is wrong.
    pub(super) problem: &'static str,
}

/// One record of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record<'a> {
    /// Its name, made unique within the file.
    pub(super) key: Vec<u8>,
    /// Its bytes without the final line end.
    pub(super) text: Cow<'a, [u8]>,
}

/// The outcome for one record that both sides changed.
#[derive(Debug)]
pub(super) enum Combined {
    /// Both changes fit.
    Fits(Vec<u8>),
    /// They do not; the bytes are what the last layer wants.
    Clash(Vec<u8>),
}

/// A record that both sides have, and changed differently.
#[derive(Debug, Clone, Copy)]
pub(super) struct Change<'a> {
    /// What both started from; `None` if both added it.
    pub(super) base: Option<&'a [u8]>,
    pub(super) ours: &'a [u8],
    pub(super) theirs: &'a [u8],
}

/// Merged records, and the names of those that clashed.
#[derive(Debug, Default)]
pub(super) struct United<'a> {
    pub(super) records: Vec<Record<'a>>,
    pub(super) clashes: Vec<Vec<u8>>,
}

/// The three versions of a file: what both sides started from, and each side.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sides<T> {
    pub(super) base: T,
    pub(super) ours: T,
    pub(super) theirs: T,
}

/// Splits a file into records.
pub(super) fn parse<'a>(format: &Format, bytes: &'a [u8]) -> Result<Vec<Record<'a>>, Malformed> {
    let mut records = match format {
        Format::Columns(columns) => lines(bytes, |line| column_key(line, columns.len())),
        Format::SubIds => lines(bytes, |line| column_key(line, SUB_IDS.len())),
        Format::Lines => lines(bytes, |line| Ok(line.to_vec())),
        Format::PathLines { fields } => lines(bytes, |line| Ok(path_key(line, *fields))),
        Format::Triples => triples(bytes),
        Format::Stanzas(keys) | Format::StanzaFields(keys) => stanza::parse(bytes, keys),
    }?;
    number_repetitions(&mut records);
    Ok(records)
}

/// The file of these records.
pub(super) fn write(format: &Format, records: &[Record<'_>]) -> Vec<u8> {
    let end: &[u8] = match format {
        Format::Stanzas(_) | Format::StanzaFields(_) => b"\n\n",
        _ => b"\n",
    };
    let bytes = records.iter().map(|r| r.text.len() + end.len()).sum();
    let mut file = Vec::with_capacity(bytes);
    for record in records {
        file.extend_from_slice(&record.text);
        file.extend_from_slice(end);
    }
    file
}

/// Applies what `theirs` added, changed and removed relative to `base` to `ours`.
///
/// The order is that of `ours`; what is added comes last, in the order of `theirs`.
pub(super) fn unite<'a>(format: &Format, sides: Sides<Vec<Record<'a>>>) -> United<'a> {
    // Keys are unique within a file.
    let by_key = |records: &[Record<'a>]| -> HashMap<Vec<u8>, usize> {
        let keys = records.iter().map(|record| record.key.clone());
        keys.zip(0..).collect()
    };
    let base = by_key(&sides.base);
    let theirs = by_key(&sides.theirs);
    let was = |key: &[u8]| base.get(key).map(|at| &sides.base[*at].text);
    let mut united = United::default();
    // Which of theirs we have too.
    let mut common = vec![false; sides.theirs.len()];
    for ours in sides.ours {
        let was = was(&ours.key);
        let Some(at) = theirs.get(&ours.key).copied() else {
            // They removed it, or never had it.
            match was {
                None => united.records.push(ours),
                Some(was) if *was != ours.text => united.clashes.push(ours.key),
                Some(_) => (),
            }
            continue;
        };
        common[at] = true;
        let new = &sides.theirs[at].text;
        let text = if *new == ours.text || was == Some(new) {
            ours.text
        } else if was == Some(&ours.text) {
            new.clone()
        } else {
            let change = Change {
                base: was.map(|text| &**text),
                ours: &ours.text,
                theirs: new,
            };
            match combine(format, &change) {
                Combined::Fits(text) => Cow::Owned(text),
                Combined::Clash(text) => {
                    united.clashes.push(ours.key.clone());
                    Cow::Owned(text)
                }
            }
        };
        let key = ours.key;
        united.records.push(Record { key, text });
    }
    for (new, common) in sides.theirs.into_iter().zip(common) {
        if common {
            continue;
        }
        match was(&new.key) {
            // We removed it, and they left it as it was.
            Some(was) if *was == new.text => continue,
            Some(_) => united.clashes.push(new.key.clone()),
            None => (),
        }
        united.records.push(new);
    }
    united
}

fn combine(format: &Format, change: &Change<'_>) -> Combined {
    match format {
        Format::Columns(columns) => columns::combine(columns, change),
        Format::SubIds => columns::combine(SUB_IDS, change),
        Format::StanzaFields(_) => stanza::combine(change),
        _ => Combined::Clash(change.theirs.to_vec()),
    }
}

/// Records of one line each; `name` gives a line its key.
fn lines<'a>(
    bytes: &'a [u8],
    name: impl Fn(&[u8]) -> Result<Vec<u8>, &'static str>,
) -> Result<Vec<Record<'a>>, Malformed> {
    let mut records = Vec::new();
    for (number, line) in split_lines(bytes).enumerate() {
        let line_number = number + 1;
        check_length(line, line_number)?;
        let key = name(line).map_err(|problem| Malformed {
            line: line_number,
            problem,
        })?;
        let text = Cow::Borrowed(line);
        records.push(Record { key, text });
    }
    Ok(records)
}

/// The lines of a file without their ends; the last need not have one.
pub(super) fn split_lines(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let whole = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    let mut start = (!bytes.is_empty()).then_some(0);
    let mut ends = memchr::memchr_iter(b'\n', whole);
    std::iter::from_fn(move || {
        let line = start?;
        let end = ends.next();
        start = end.map(|end| end + 1);
        Some(&whole[line..end.unwrap_or(whole.len())])
    })
}

pub(super) fn check_length(record: &[u8], line: usize) -> Result<(), Malformed> {
    let problem = "a record is longer than 1 MiB";
    if record.len() > MAX_RECORD_BYTES {
        return Err(Malformed { line, problem });
    }
    Ok(())
}

/// The first field of a line that must have `count` fields. A comment, an empty line, and what
/// nsswitch's `compat` service reads (`+`, `-`) are their own names.
fn column_key(line: &[u8], count: usize) -> Result<Vec<u8>, &'static str> {
    if is_raw(line) {
        return Ok([b"\n", line].concat());
    }
    let mut fields = line.split(|&b| b == b':');
    let name = fields.next().unwrap_or_default();
    if name.is_empty() {
        return Err("the name is empty");
    }
    if fields.count() + 1 != count {
        return Err("the number of fields is wrong");
    }
    Ok(name.to_vec())
}

/// Whether a line of an account database names nobody.
pub(super) fn is_raw(line: &[u8]) -> bool {
    matches!(line.first(), None | Some(b'#' | b'+' | b'-'))
}

/// What comes after so many fields; the whole line if nothing does.
fn path_key(line: &[u8], fields: usize) -> Vec<u8> {
    let mut rest = line.trim_ascii();
    for _ in 0..fields {
        let end = rest.iter().position(u8::is_ascii_whitespace);
        rest = end.map_or(&[], |end| rest[end..].trim_ascii_start());
    }
    match rest {
        [] => line.to_vec(),
        path => path.to_vec(),
    }
}

fn triples(bytes: &[u8]) -> Result<Vec<Record<'_>>, Malformed> {
    let mut records = Vec::new();
    let mut start = 0;
    let mut first_line = 1;
    while start < bytes.len() {
        let ends = bytes[start..].iter().enumerate();
        let third = ends.filter(|(_, b)| **b == b'\n').nth(2);
        let Some((len, _)) = third else {
            let problem = "a group has less than three lines";
            return Err(Malformed {
                line: first_line,
                problem,
            });
        };
        let text = &bytes[start..start + len];
        check_length(text, first_line)?;
        let key = text.split(|&b| b == b'\n').next().unwrap_or_default();
        records.push(Record {
            key: key.to_vec(),
            text: Cow::Borrowed(text),
        });
        start += len + 1;
        first_line += 3;
    }
    Ok(records)
}

/// Two records with one name are the first and the second of that name, so that none is lost.
fn number_repetitions(records: &mut [Record<'_>]) {
    let mut seen: HashMap<Vec<u8>, usize> = HashMap::with_capacity(records.len());
    for record in records {
        let times = seen.entry(record.key.clone()).or_default();
        if *times > 0 {
            record
                .key
                .extend_from_slice(format!("\n{times}").as_bytes());
        }
        *times += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::merge::rules::{GROUP, PASSWD};
    use proptest::prelude::*;

    const PASSWD_FILE: Format = Format::Columns(PASSWD);
    const GROUP_FILE: Format = Format::Columns(GROUP);

    fn merged(format: &Format, base: &str, ours: &str, theirs: &str) -> (String, Vec<String>) {
        let side = |text| parse(format, str::as_bytes(text)).unwrap();
        let sides = Sides {
            base: side(base),
            ours: side(ours),
            theirs: side(theirs),
        };
        let united = unite(format, sides);
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        let clashes = united.clashes.into_iter().map(text).collect();
        (text(write(format, &united.records)), clashes)
    }

    fn check(format: &Format, [base, ours, theirs, expected]: [&str; 4]) {
        assert_eq!(
            merged(format, base, ours, theirs),
            (expected.to_string(), vec![]),
            "{format:?}"
        );
    }

    #[test]
    fn what_each_side_added_and_removed_is_added_and_removed() {
        check(
            &Format::Lines,
            ["a\nb\nc\n", "a\nb\nx\n", "b\nc\ny\n", "b\nx\ny\n"],
        );
        check(
            &Format::Lines,
            [
                "",
                "# list\n\n/bin/sh\n",
                "/bin/zsh",
                "# list\n\n/bin/sh\n/bin/zsh\n",
            ],
        );
    }

    #[test]
    fn users_merge_field_by_field() {
        let root = "root:x:0:0:root:/root:/bin/bash\n";
        let zsh = "root:x:0:0:root:/root:/bin/zsh\n";
        let full = "root:x:0:0:Charlie:/root:/bin/bash\n";
        let both = "root:x:0:0:Charlie:/root:/bin/zsh\n";
        check(&PASSWD_FILE, [root, zsh, full, both]);
        let (text, clashes) = merged(&PASSWD_FILE, root, zsh, "root:x:0:0:root:/root:/bin/sh\n");
        assert_eq!(text, "root:x:0:0:root:/root:/bin/sh\n");
        assert_eq!(clashes, ["root"]);
    }

    #[test]
    fn members_of_a_group_are_united() {
        check(
            &GROUP_FILE,
            [
                "ssl:x:1:\n",
                "ssl:x:1:a\n",
                "ssl:x:1:b,c\n",
                "ssl:x:1:a,b,c\n",
            ],
        );
        check(
            &GROUP_FILE,
            [
                "ssl:x:1:a,b\n",
                "ssl:x:1:a,b,c\n",
                "ssl:x:1:b\n",
                "ssl:x:1:b,c\n",
            ],
        );
        check(
            &GROUP_FILE,
            ["", "ssl:x:1:a\n", "ssl:x:1:b\n", "ssl:x:1:a,b\n"],
        );
    }

    #[test]
    fn a_removal_against_a_change_clashes() {
        let format = Format::PathLines { fields: 1 };
        let (text, clashes) = merged(&format, "1 /a\n", "2 /a\n", "");
        assert_eq!((text.as_str(), clashes), ("", vec!["/a".to_string()]));
        let (text, clashes) = merged(&format, "1 /a\n", "", "2 /a\n");
        assert_eq!((text.as_str(), clashes), ("2 /a\n", vec!["/a".to_string()]));
    }

    #[test]
    fn diversions_are_groups_of_three_lines() {
        let sh = "/bin/sh\n/bin/sh.distrib\ndash\n";
        let pg = "/usr/bin/pg_config\n/usr/bin/pg_config.libpq-dev\npostgresql-common\n";
        let perf = "/usr/bin/perf\n/usr/bin/perf.wrapper\nlinux-perf\n";
        let [ours, theirs, both] = [
            [sh, pg].concat(),
            [perf, sh].concat(),
            [sh, pg, perf].concat(),
        ];
        check(&Format::Triples, [sh, &ours, &theirs, &both]);
        let short = parse(&Format::Triples, b"/bin/sh\n/bin/sh.distrib\ndash\n/x\n").unwrap_err();
        assert_eq!(short.line, 4);
    }

    #[test]
    fn garbage_names_its_line() {
        let cases: [(&[u8], usize); 3] = [
            (b"root:x:0:0:root:/root:/bin/bash\nroot\n", 2),
            (b":x:0:0:root:/root:/bin/bash\n", 1),
            (b"# comment\n\n+::::::\n\xff\xfe", 4),
        ];
        for (bytes, line) in cases {
            assert_eq!(parse(&PASSWD_FILE, bytes).unwrap_err().line, line);
        }
        let huge = vec![b'x'; MAX_RECORD_BYTES + 1];
        assert!(parse(&Format::Lines, &huge).is_err());
    }

    #[test]
    fn two_records_of_one_name_stay_two() {
        let twice = "a:x:1:\na:x:2:\n";
        check(
            &GROUP_FILE,
            ["", twice, "b:x:3:\n", "a:x:1:\na:x:2:\nb:x:3:\n"],
        );
    }

    fn file() -> impl Strategy<Value = String> {
        proptest::collection::btree_map("[a-e]", 0..4u8, 0..5).prop_map(|records| {
            let line = |(name, id): (String, u8)| format!("{name}:x:{id}:\n");
            records.into_iter().map(line).collect()
        })
    }

    fn sorted(text: &str) -> Vec<&str> {
        let mut lines: Vec<_> = text.lines().collect();
        lines.sort_unstable();
        lines
    }

    proptest! {
        #[test]
        fn one_side_alone_changes_nothing_else(base in file(), changed in file()) {
            let (theirs, clashes) = merged(&GROUP_FILE, &base, &base, &changed);
            prop_assert_eq!(sorted(&theirs), sorted(&changed));
            prop_assert!(clashes.is_empty());
            let (ours, clashes) = merged(&GROUP_FILE, &base, &changed, &base);
            prop_assert_eq!(ours, changed);
            prop_assert!(clashes.is_empty());
        }

        #[test]
        fn the_same_change_twice_is_one_change(base in file(), changed in file()) {
            prop_assert_eq!(merged(&GROUP_FILE, &base, &changed, &changed), (changed, vec![]));
        }

        #[test]
        fn additions_are_united_in_either_order(base in file(), one in 0..9u8, two in 0..9u8) {
            let with = |name: &str, id: u8| format!("{base}{name}:x:{id}:\n");
            let (x, y) = (with("x", one), with("y", two));
            let (left, _) = merged(&GROUP_FILE, &base, &x, &y);
            let (right, _) = merged(&GROUP_FILE, &base, &y, &x);
            prop_assert_eq!(sorted(&left), sorted(&right));
            prop_assert_eq!(left.lines().count(), base.lines().count() + 2);
        }

        #[test]
        fn clashes_are_the_same_from_both_sides(base in file(), one in file(), two in file()) {
            let (_, mut left) = merged(&GROUP_FILE, &base, &one, &two);
            let (_, mut right) = merged(&GROUP_FILE, &base, &two, &one);
            left.sort();
            right.sort();
            prop_assert_eq!(left, right);
        }
    }
}
