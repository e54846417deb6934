//! The one table of rules: which files merge by record, and where the last layer may win.
//!
//! A file that no rule names is merged as a whole: two layers that changed it differently are a
//! conflict.

use shale_model::TreePath;

use super::glob::path_matches;

/// How the versions of one path become one.
#[derive(Debug, Clone, Copy)]
pub(super) enum How {
    /// By record, in this format.
    Records(Format, OnClash),
    /// The dynamic loader's cache.
    LoaderCache,
    /// The last layer's version stays, because nothing is lost by it: the reason.
    LastWins(&'static str),
}

/// What happens to a record that two layers changed differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OnClash {
    /// It is a conflict.
    Conflict,
    /// The last layer's record stays, and the report says so.
    LastWins,
}

/// How a file is made of records.
#[derive(Debug, Clone, Copy)]
pub(super) enum Format {
    /// Lines of this many fields with colons between, named by the first.
    Columns(&'static [Column]),
    /// As `Columns`, with ranges of subordinate ids that must not overlap.
    SubIds,
    /// Lines, each its own name.
    Lines,
    /// Lines of fields that white space separates, and a path, which names the line and may have white space
    /// in it.
    PathLines {
        /// Fields before the path.
        fields: usize,
    },
    /// Groups of three lines, named by the first.
    Triples,
    /// Paragraphs of fields with an empty line after each, named by the values of these fields.
    Stanzas(&'static [&'static str]),
    /// As `Stanzas`, and a stanza that two layers changed is merged field by field.
    StanzaFields(&'static [&'static str]),
}

/// How two versions of one field merge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Column {
    /// Two different changes clash.
    Exact,
    /// A list with commas between: what each added and removed is added and removed.
    Set,
    /// Of two different changes the last stays.
    Latest,
}

/// One line of the table.
#[derive(Debug)]
pub(super) struct Rule {
    /// A path from the root; `*` stands for any bytes of one name, `**` for any number of names.
    pattern: &'static str,
    /// Bytes of the pattern before its first `*`: what a path must begin with. Comparing these first spares nearly
    /// every path of a layer the walk through the patterns, which was a third of a merge's time.
    literal: usize,
    /// What holds for the paths that match.
    pub(super) how: How,
}

/// Users: name, password, uid, gid, full name, home, shell (passwd(5)).
pub(super) const PASSWD: &[Column] = &[Column::Exact; 7];
/// Groups: name, password, gid, members (group(5)).
pub(super) const GROUP: &[Column] = &[Column::Exact, Column::Exact, Column::Exact, Column::Set];
/// Passwords: the third field is the day of the last change, which differs between two builds of the
/// same package (shadow(5)).
const SHADOW: &[Column] = &[
    Column::Exact,
    Column::Exact,
    Column::Latest,
    Column::Exact,
    Column::Exact,
    Column::Exact,
    Column::Exact,
    Column::Exact,
    Column::Exact,
];
/// Group passwords: name, password, administrators, members (gshadow(5)).
const GSHADOW: &[Column] = &[Column::Exact, Column::Exact, Column::Set, Column::Set];
/// Ranges of subordinate ids: name, first, count (subuid(5)).
pub(super) const SUB_IDS: &[Column] = &[Column::Exact; 3];

const PACKAGE: &[&str] = &["Package", "Architecture"];
const QUESTION: &[&str] = &["Name"];

const BACKUP: &str = "a backup that its tool writes anew";
const CACHE: &str = "a cache that is filled anew";
const LOG: &str = "a log of the making of the layer";
const LOCK: &str = "a lock file without content";
const SCRATCH: &str = "temporary files";
const INDEX: &str = "an index that its tool makes anew";

/// The first rule that matches holds.
static RULES: &[Rule] = &[
    records("etc/passwd", Format::Columns(PASSWD)),
    records("etc/group", Format::Columns(GROUP)),
    records("etc/shadow", Format::Columns(SHADOW)),
    records("etc/gshadow", Format::Columns(GSHADOW)),
    records("etc/subuid", Format::SubIds),
    records("etc/subgid", Format::SubIds),
    records("etc/shells", Format::Lines),
    rule("etc/ld.so.cache", How::LoaderCache),
    records("var/lib/dpkg/status", Format::Stanzas(PACKAGE)),
    records("var/lib/dpkg/diversions", Format::Triples),
    // User, group, mode, path.
    records("var/lib/dpkg/statoverride", Format::PathLines { fields: 3 }),
    last("var/lib/dpkg/triggers/Lock", LOCK),
    records("var/lib/dpkg/triggers/*", Format::Lines),
    // dselect's list of what could be installed; apt does not read it.
    newest("var/lib/dpkg/available", Format::Stanzas(PACKAGE)),
    newest("var/lib/apt/extended_states", Format::Stanzas(PACKAGE)),
    newest(
        "var/cache/debconf/config.dat",
        Format::StanzaFields(QUESTION),
    ),
    newest(
        "var/cache/debconf/templates.dat",
        Format::StanzaFields(QUESTION),
    ),
    newest(
        "var/cache/debconf/passwords.dat",
        Format::StanzaFields(QUESTION),
    ),
    // A checksum, or a package, and the path.
    records("var/lib/ucf/hashfile", Format::PathLines { fields: 1 }),
    records("var/lib/ucf/registry", Format::PathLines { fields: 1 }),
    last("var/lib/ucf/hashfile.*", BACKUP),
    last("var/lib/ucf/registry.*", BACKUP),
    last("etc/passwd-", BACKUP),
    last("etc/group-", BACKUP),
    last("etc/shadow-", BACKUP),
    last("etc/gshadow-", BACKUP),
    last("etc/subuid-", BACKUP),
    last("etc/subgid-", BACKUP),
    last("var/lib/dpkg/*-old", BACKUP),
    last("var/cache/debconf/*-old", BACKUP),
    last("var/backups/**", BACKUP),
    last("etc/.pwd.lock", LOCK),
    last("var/lib/dpkg/lock*", LOCK),
    last("var/lib/apt/lists/**", CACHE),
    last("var/cache/apt/**", CACHE),
    last("var/cache/ldconfig/aux-cache", CACHE),
    last("var/cache/man/**", CACHE),
    last("var/cache/fontconfig/**", CACHE),
    last("**/__pycache__/**", CACHE),
    last("var/log/**", LOG),
    last("tmp/**", SCRATCH),
    last("var/tmp/**", SCRATCH),
    last("run/**", SCRATCH),
    // insserv's dependencies of System V scripts: only a concurrent System V boot reads them.
    last("etc/init.d/.depend.*", INDEX),
    last("var/lib/systemd/catalog/database", INDEX),
    last("usr/share/info/dir", INDEX),
    last("usr/share/info/dir.old", INDEX),
    last("var/lib/plocate/plocate.db", INDEX),
];

const fn rule(pattern: &'static str, how: How) -> Rule {
    let bytes = pattern.as_bytes();
    let mut literal = 0;
    while literal < bytes.len() && bytes[literal] != b'*' {
        literal += 1;
    }
    Rule {
        pattern,
        literal,
        how,
    }
}

const fn records(pattern: &'static str, format: Format) -> Rule {
    rule(pattern, How::Records(format, OnClash::Conflict))
}

const fn newest(pattern: &'static str, format: Format) -> Rule {
    rule(pattern, How::Records(format, OnClash::LastWins))
}

const fn last(pattern: &'static str, reason: &'static str) -> Rule {
    rule(pattern, How::LastWins(reason))
}

/// The rule for `path`, if one names it.
pub(super) fn rule_for(path: &TreePath) -> Option<How> {
    let begins = |rule: &&Rule| {
        let literal = &rule.pattern.as_bytes()[..rule.literal];
        path.as_bytes().starts_with(literal)
    };
    let mut candidates = RULES.iter().filter(begins);
    let found = candidates.find(|rule| path_matches(rule.pattern, path))?;
    Some(found.how)
}

/// The pattern of each rule: a path from the root in which `*` stands for any bytes of one name, and `**` for any
/// number of names. Files that match none are merged as a whole.
pub fn rule_patterns() -> impl Iterator<Item = &'static str> {
    RULES.iter().map(|rule| rule.pattern)
}

/// Whether the versions of `path` are read to be merged.
pub(super) fn reads_bytes(path: &TreePath) -> bool {
    matches!(rule_for(path), Some(How::Records(..) | How::LoaderCache))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_names_no_other_paths() {
        for path in [
            "",
            "etc",
            "etc/passwd/x",
            "home/etc/passwd",
            "etc/alternatives/editor",
            "var/log",
            "usr/__pycache__",
        ] {
            let found = rule_for(&TreePath::new(path.as_bytes()).unwrap());
            assert!(found.is_none(), "{path}: {found:?}");
        }
    }

    /// Every rule is found by a path that it matches and no rule before it does.
    #[test]
    fn every_rule_can_be_found() {
        for (at, rule) in RULES.iter().enumerate() {
            let path = rule.pattern.replace("**", "x/y").replace('*', "z");
            let path = TreePath::new(path.as_bytes()).unwrap();
            let first = RULES
                .iter()
                .position(|rule| path_matches(rule.pattern, &path));
            assert_eq!(first, Some(at), "{path}");
            let found = rule_for(&path).map(|how| format!("{how:?}"));
            assert_eq!(found, Some(format!("{:?}", rule.how)), "{path}");
        }
    }

    #[test]
    fn the_table_only_holds_what_the_matcher_knows() {
        for rule in RULES {
            let parts = rule.pattern.split('/').filter(|part| *part != "**");
            assert!(parts.into_iter().all(|part| part.matches('*').count() <= 1));
        }
    }
}
