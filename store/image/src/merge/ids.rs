//! Users and groups of layers made apart: which numbers of a layer become others.
//!
//! A layer's files belong to numbers, and what a number means is said by the databases of the tree that
//! the layer was made in. In the merged tree a *name* keeps its meaning: where it has another number
//! there, the layer's files get that number. A name that only this layer brings keeps its number if that
//! is free, and else gets the lowest free one of its range, as adduser(8) would pick.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::RangeInclusive;

use super::records::{Malformed, is_raw, split_lines};

/// Numbers for the users and groups of applications (Debian Policy 9.2.2); numbers below it are given
/// out by Debian, and an application that took such a one by itself gets one of these instead.
const SYSTEM_IDS: RangeInclusive<u32> = 100..=999;
/// Numbers for people (Debian Policy 9.2.2).
const PEOPLE_IDS: RangeInclusive<u32> = 1000..=59_999;

/// Whether a number is of a user or of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum IdKind {
    /// A user.
    User,
    /// A group.
    Group,
}

/// A name and its number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Account {
    pub(super) name: Vec<u8>,
    pub(super) id: u32,
}

/// A number that became another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Moved {
    pub(super) kind: IdKind,
    pub(super) name: Vec<u8>,
    pub(super) from: u32,
    pub(super) to: u32,
}

/// New numbers for those of a layer; what is not in it stays.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct IdMap {
    users: BTreeMap<u32, u32>,
    groups: BTreeMap<u32, u32>,
}

impl IdMap {
    pub(super) fn new(moved: &[Moved]) -> Self {
        let of = |kind| {
            let of_kind = moved.iter().filter(|moved| moved.kind == kind);
            of_kind.map(|moved| (moved.from, moved.to)).collect()
        };
        Self {
            users: of(IdKind::User),
            groups: of(IdKind::Group),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.users.is_empty() && self.groups.is_empty()
    }

    pub(super) fn get(&self, kind: IdKind, id: u32) -> u32 {
        let map = match kind {
            IdKind::User => &self.users,
            IdKind::Group => &self.groups,
        };
        map.get(&id).copied().unwrap_or(id)
    }

    /// A passwd or group file with new numbers in it, which must have parsed before.
    pub(super) fn rewrite(&self, file: &[u8], columns: &[(usize, IdKind)]) -> Vec<u8> {
        let mut rewritten = Vec::with_capacity(file.len());
        for line in split_lines(file) {
            if is_raw(line) {
                rewritten.extend_from_slice(line);
            } else {
                let mut fields: Vec<Vec<u8>> =
                    line.split(|&b| b == b':').map(<[u8]>::to_vec).collect();
                for (column, kind) in columns {
                    let Some(field) = fields.get_mut(*column) else {
                        continue;
                    };
                    if let Some(id) = number(field) {
                        *field = self.get(*kind, id).to_string().into_bytes();
                    }
                }
                rewritten.extend_from_slice(&fields.join(&b':'));
            }
            rewritten.push(b'\n');
        }
        rewritten
    }
}

/// Where the numbers are in a line of `/etc/passwd`.
pub(super) const PASSWD_IDS: &[(usize, IdKind)] = &[(2, IdKind::User), (3, IdKind::Group)];
/// Where the number is in a line of `/etc/group`.
pub(super) const GROUP_IDS: &[(usize, IdKind)] = &[(2, IdKind::Group)];

/// The accounts of a passwd or group file: both have the number in the third of at least four fields.
pub(super) fn accounts(file: &[u8]) -> Result<Vec<Account>, Malformed> {
    let mut accounts = Vec::new();
    for (index, line) in split_lines(file).enumerate() {
        if is_raw(line) {
            continue;
        }
        let fault = |problem| Malformed {
            line: index + 1,
            problem,
        };
        let mut fields = line.split(|&b| b == b':');
        let (name, _, id) = (fields.next(), fields.next(), fields.next());
        let name = name.filter(|name| !name.is_empty());
        let name = name.ok_or_else(|| fault("the name is empty"))?.to_vec();
        let id = id.and_then(number);
        let id = id.ok_or_else(|| fault("the number of the user or group is missing"))?;
        accounts.push(Account { name, id });
    }
    Ok(accounts)
}

fn number(text: &[u8]) -> Option<u32> {
    let plain = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(text)
        .ok()
        .filter(|_| plain)?
        .parse()
        .ok()
}

/// No number of a range is free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NoFreeId;

/// What a layer's accounts become above a stack: `base` is what the layer was made on, `ours` the stack,
/// `theirs` the layer.
pub(super) fn moved_ids(
    kind: IdKind,
    base: &[Account],
    ours: &[Account],
    theirs: &[Account],
) -> Result<Vec<Moved>, NoFreeId> {
    let by_name = |accounts: &[Account]| -> HashMap<Vec<u8>, u32> {
        let pair = |account: &Account| (account.name.clone(), account.id);
        // The first line of a name is the one that the C library finds.
        accounts.iter().rev().map(pair).collect()
    };
    let ids = |accounts: &[Account]| accounts.iter().map(|a| a.id).collect::<BTreeSet<_>>();
    let (base_ids, our_ids) = (ids(base), ids(ours));
    let (base, ours) = (by_name(base), by_name(ours));
    let mut taken: BTreeSet<u32> = our_ids.union(&ids(theirs)).copied().collect();
    let mut decided = BTreeSet::new();
    let mut moved = Vec::new();
    for account in theirs {
        let id = account.id;
        let to = match (base.get(&account.name), ours.get(&account.name)) {
            // The layer gave the name another number: what it wants is in its record.
            (Some(was), _) if *was != id => continue,
            (_, Some(ours)) => *ours,
            // The stack removed the name; no record will be left.
            (Some(_), None) => continue,
            // One more name of a number that the layer was made on.
            (None, None) if base_ids.contains(&id) => continue,
            (None, None) if !our_ids.contains(&id) => id,
            (None, None) if decided.contains(&id) => continue,
            (None, None) => {
                let free = free_id(id, &taken).ok_or(NoFreeId)?;
                taken.insert(free);
                free
            }
        };
        if decided.insert(id) && to != id {
            let name = account.name.clone();
            let from = id;
            moved.push(Moved {
                kind,
                name,
                from,
                to,
            });
        }
    }
    Ok(moved)
}

/// The lowest free number of the range that `id` is of.
fn free_id(id: u32, taken: &BTreeSet<u32>) -> Option<u32> {
    let range = if PEOPLE_IDS.contains(&id) {
        PEOPLE_IDS
    } else {
        SYSTEM_IDS
    };
    range.into_iter().find(|id| !taken.contains(id))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(text: &str) -> Vec<Account> {
        let account = |pair: &str| {
            let (name, id) = pair.split_once('=').unwrap();
            let (name, id) = (name.into(), id.parse().unwrap());
            Account { name, id }
        };
        text.split_whitespace().map(account).collect()
    }

    fn moved(base: &str, ours: &str, theirs: &str) -> Vec<(String, u32, u32)> {
        let moved = moved_ids(IdKind::User, &list(base), &list(ours), &list(theirs)).unwrap();
        let text = |moved: Moved| {
            let name = String::from_utf8(moved.name).unwrap();
            (name, moved.from, moved.to)
        };
        moved.into_iter().map(text).collect()
    }

    #[test]
    fn a_number_taken_twice_becomes_the_lowest_free_one() {
        let base = "root=0 sshd=100";
        assert_eq!(
            moved(
                base,
                "root=0 sshd=100 a=101 c=102",
                "root=0 sshd=100 b=101 d=103"
            ),
            [("b".to_string(), 101, 104)]
        );
        // The layer's own numbers are no free ones.
        assert_eq!(
            moved(base, "root=0 sshd=100 a=101", "root=0 sshd=100 b=101 d=102"),
            [("b".to_string(), 101, 103)]
        );
        assert_eq!(
            moved("", "a=1000", "b=1000"),
            [("b".to_string(), 1000, 1001)]
        );
        assert_eq!(moved("", "a=42", "b=42"), [("b".to_string(), 42, 100)]);
    }

    #[test]
    fn a_name_that_both_added_is_one() {
        assert_eq!(
            moved("root=0", "root=0 ssl=101", "root=0 x=101 ssl=102"),
            [("x".to_string(), 101, 100), ("ssl".to_string(), 102, 101)]
        );
        assert_eq!(moved("root=0", "root=0 ssl=101", "root=0 ssl=101"), []);
    }

    #[test]
    fn on_another_base_names_keep_their_meaning() {
        assert_eq!(
            moved(
                "bus=100 ssh=101",
                "ssh=100 bus=101",
                "bus=100 ssh=101 app=102"
            ),
            [("bus".to_string(), 100, 101), ("ssh".to_string(), 101, 100)]
        );
    }

    #[test]
    fn second_names_and_removed_ones_move_nothing() {
        assert_eq!(moved("root=0", "root=0", "root=0 toor=0"), []);
        assert_eq!(moved("a=100", "b=100", "a=100"), []);
        assert_eq!(moved("a=100", "a=100", "a=105"), []);
    }

    #[test]
    fn a_full_range_is_an_error() {
        let all: Vec<_> = SYSTEM_IDS.map(|id| format!("u{id}={id}")).collect();
        let error = moved_ids(IdKind::Group, &[], &list(&all.join(" ")), &list("x=500"));
        assert_eq!(error, Err(NoFreeId));
    }

    #[test]
    fn files_get_the_new_numbers() {
        let moved = |kind, from, to| Moved {
            kind,
            name: vec![],
            from,
            to,
        };
        let map = IdMap::new(&[moved(IdKind::User, 1, 2), moved(IdKind::Group, 2, 1)]);
        let file = b"# 1:1:1:1\na:x:1:2:::\nb:x:2:1:::\n+::::::";
        assert_eq!(
            map.rewrite(file, PASSWD_IDS),
            b"# 1:1:1:1\na:x:2:1:::\nb:x:2:1:::\n+::::::\n"
        );
    }

    #[test]
    fn numbers_are_plain_and_fit() {
        for line in ["a:x:", "a:x:+1:1", "a:x:4294967296:1", "a", ":x:1:1"] {
            assert!(accounts(line.as_bytes()).is_err(), "{line}");
        }
    }
}
