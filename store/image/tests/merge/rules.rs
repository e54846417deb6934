//! One case for each line of the table of rules: what two layers made of one base become.

use std::collections::BTreeSet;

use shale_image::merge::{Conflict, MergeNote, rule_patterns};

use crate::helper::{World, file, path};

/// What comes of a case.
#[derive(Debug, Clone, Copy)]
enum Gives {
    /// This file, without a conflict.
    Text(&'static str),
    /// A conflict of this record.
    Clash(&'static str),
    /// This file, and a note that the last layer won in this record.
    LastRecord(&'static str, &'static str),
}
use Gives::{Clash, LastRecord, Text};

/// A pattern of the table, a path that it matches, the versions of base, one and two, and the result.
type Case = (&'static str, &'static str, [&'static str; 3], Gives);

const STATUS: &str = "var/lib/dpkg/status";
const AVAILABLE: &str = "var/lib/dpkg/available";
const EXTENDED: &str = "var/lib/apt/extended_states";
const CONFIG: &str = "var/cache/debconf/config.dat";
const TEMPLATES: &str = "var/cache/debconf/templates.dat";
const PASSWORDS: &str = "var/cache/debconf/passwords.dat";
const DIVERSIONS: &str = "var/lib/dpkg/diversions";
const OVERRIDES: &str = "var/lib/dpkg/statoverride";
const TRIGGERS: (&str, &str) = ("var/lib/dpkg/triggers/*", "var/lib/dpkg/triggers/File");
const HASHES: &str = "var/lib/ucf/hashfile";
const REGISTRY: &str = "var/lib/ucf/registry";

/// Files that merge by record.
#[rustfmt::skip]
const RECORDS: &[Case] = &[
    ("etc/passwd", "etc/passwd",
        ["root:x:0:0::/root:/bin/sh\n",
         "root:x:0:0::/root:/bin/sh\none:x:101:65534::/:/bin/no\n",
         "root:x:0:0:Root:/root:/bin/sh\ntwo:x:102:65534::/:/bin/no\n"],
        Text("root:x:0:0:Root:/root:/bin/sh\none:x:101:65534::/:/bin/no\ntwo:x:102:65534::/:/bin/no\n")),
    ("etc/passwd", "etc/passwd",
        ["a:x:7:7::/:/bin/sh\n", "a:x:7:7::/one:/bin/sh\n", "a:x:7:7::/two:/bin/sh\n"], Clash("a")),
    ("etc/group", "etc/group",
        ["ssl:x:50:\n", "ssl:x:50:one\n", "ssl:x:50:two\nnew:x:51:\n"],
        Text("ssl:x:50:one,two\nnew:x:51:\n")),
    ("etc/shadow", "etc/shadow",
        ["root:*:19000:0:99999:7:::\n",
         "root:*:19001:0:99999:7:::\none:!:19001::::::\n",
         "root:*:19002:0:99999:7:::\ntwo:!:19002::::::\n"],
        Text("root:*:19002:0:99999:7:::\none:!:19001::::::\ntwo:!:19002::::::\n")),
    ("etc/shadow", "etc/shadow",
        ["a:*:1::::::\n", "a:one:1::::::\n", "a:two:1::::::\n"], Clash("a")),
    ("etc/gshadow", "etc/gshadow",
        ["adm:*::root\nssl:!:boss:\n",
         "adm:*::one\nssl:!:boss,one:\none:!::\n",
         "adm:*::root,two\nssl:!:boss,two:x\ntwo:!::\n"],
        Text("adm:*::one,two\nssl:!:boss,one,two:x\none:!::\ntwo:!::\n")),
    ("etc/gshadow", "etc/gshadow", ["a:!::\n", "a:one::\n", "a:two::\n"], Clash("a")),
    // A range that is taken twice moves.
    ("etc/subuid", "etc/subuid",
        ["a:100000:65536\n", "a:100000:65536\none:165536:65536\n", "a:100000:65536\ntwo:165536:65536\n"],
        Text("a:100000:65536\none:165536:65536\ntwo:231072:65536\n")),
    ("etc/subgid", "etc/subgid",
        ["", "one:100000:65536\n", "two:100000:65536\n"],
        Text("one:100000:65536\ntwo:165536:65536\n")),
    ("etc/shells", "etc/shells",
        ["# shells\n/bin/sh\n/bin/old\n", "# shells\n/bin/sh\n/bin/old\n/bin/one\n", "# shells\n/bin/sh\n/bin/two\n"],
        Text("# shells\n/bin/sh\n/bin/one\n/bin/two\n")),
    (STATUS, STATUS,
        ["Package: a\nVersion: 1\n\nPackage: x\n\n", "Package: a\nVersion: 1\n\nPackage: x\n\nPackage: one\n\n",
         "Package: a\nVersion: 2\n\nPackage: two\n\n"],
        Text("Package: a\nVersion: 2\n\nPackage: one\n\nPackage: two\n\n")),
    (STATUS, STATUS,
        ["Package: a\nArchitecture: all\nVersion: 1\n\n", "Package: a\nArchitecture: all\nVersion: 2\n\n",
         "Package: a\nArchitecture: all\nVersion: 3\n\n"],
        Clash("a all")),
    (DIVERSIONS, DIVERSIONS,
        ["/bin/sh\n/bin/sh.distrib\ndash\n",
         "/bin/sh\n/bin/sh.distrib\ndash\n/usr/bin/one\n/usr/bin/one.real\none\n",
         "/usr/bin/two\n/usr/bin/two.real\n:\n"],
        Text("/usr/bin/one\n/usr/bin/one.real\none\n/usr/bin/two\n/usr/bin/two.real\n:\n")),
    (DIVERSIONS, DIVERSIONS, ["", "/x\n/x.one\none\n", "/x\n/x.two\ntwo\n"], Clash("/x")),
    (OVERRIDES, OVERRIDES,
        ["root crontab 2755 /usr/bin/crontab\n",
         "root crontab 2755 /usr/bin/crontab\nroot one 4750 /usr/lib/one\n",
         "root crontab 755 /usr/bin/crontab\nroot two 4750 /usr/lib/two\n"],
        Text("root crontab 755 /usr/bin/crontab\nroot one 4750 /usr/lib/one\nroot two 4750 /usr/lib/two\n")),
    (OVERRIDES, OVERRIDES, ["", "root one 755 /x\n", "root two 755 /x\n"], Clash("/x")),
    // Two programs in directories with a blank in their names are two, though their last words are one.
    (OVERRIDES, OVERRIDES, ["", "root one 755 /a x/b\n", "root two 755 /c x/b\n"],
        Text("root one 755 /a x/b\nroot two 755 /c x/b\n")),
    (TRIGGERS.0, TRIGGERS.1,
        ["/x base\n", "/x base\n/one one\n", "/x base\n/x two/noawait\n"],
        Text("/x base\n/one one\n/x two/noawait\n")),
    (AVAILABLE, AVAILABLE,
        ["Package: a\n\n", "Package: a\n\nPackage: one\n\n", "Package: a\n\nPackage: two\n\n"],
        Text("Package: a\n\nPackage: one\n\nPackage: two\n\n")),
    (AVAILABLE, AVAILABLE,
        ["Package: a\nVersion: 1\n\n", "Package: a\nVersion: 2\n\n", "Package: a\nVersion: 3\n\n"],
        LastRecord("Package: a\nVersion: 3\n\n", "a ")),
    (EXTENDED, EXTENDED,
        ["Package: a\nArchitecture: amd64\nAuto-Installed: 1\n\n",
         "Package: a\nArchitecture: amd64\nAuto-Installed: 1\n\nPackage: one\nArchitecture: amd64\nAuto-Installed: 1\n\n",
         "Package: two\nArchitecture: amd64\nAuto-Installed: 1\n\n"],
        Text("Package: one\nArchitecture: amd64\nAuto-Installed: 1\n\nPackage: two\nArchitecture: amd64\nAuto-Installed: 1\n\n")),
    (EXTENDED, EXTENDED,
        ["", "Package: a\nArchitecture: amd64\nAuto-Installed: 1\n\n", "Package: a\nArchitecture: amd64\nAuto-Installed: 0\n\n"],
        LastRecord("Package: a\nArchitecture: amd64\nAuto-Installed: 0\n\n", "a amd64")),
    (CONFIG, CONFIG,
        ["Name: a/q\nTemplate: a/q\nValue: x\nOwners: a\n\n",
         "Name: a/q\nTemplate: a/q\nValue: x\nOwners: a, one\n\nName: one/q\nTemplate: one/q\n\n",
         "Name: a/q\nTemplate: a/q\nValue: y\nOwners: a, two\nFlags: seen\n\n"],
        Text("Name: a/q\nTemplate: a/q\nValue: y\nOwners: a, one, two\nFlags: seen\n\nName: one/q\nTemplate: one/q\n\n")),
    (CONFIG, CONFIG,
        ["Name: a/q\nValue: x\nOwners: a\n\n", "Name: a/q\nValue: one\nOwners: a, b\n\n", "Name: a/q\nValue: two\nOwners: a\n\n"],
        LastRecord("Name: a/q\nValue: two\nOwners: a, b\n\n", "a/q")),
    (TEMPLATES, TEMPLATES,
        ["Name: a/q\nType: select\nChoices: x, y\nOwners: a/q\n\n",
         "Name: a/q\nType: select\nChoices: x, y\nOwners: a/q, one/q\n\n",
         "Name: a/q\nType: select\nChoices: x, y, z\nExtended_description: more\\n and more\nOwners: a/q\n\nName: two/q\nType: note\nOwners: two/q\n\n"],
        Text("Name: a/q\nType: select\nChoices: x, y, z\nOwners: a/q, one/q\nExtended_description: more\\n and more\n\nName: two/q\nType: note\nOwners: two/q\n\n")),
    (PASSWORDS, PASSWORDS,
        ["", "Name: one/password\nValue:\nOwners: one\n\n", "Name: two/password\nValue:\nOwners: two\n\n"],
        Text("Name: one/password\nValue:\nOwners: one\n\nName: two/password\nValue:\nOwners: two\n\n")),
    (HASHES, HASHES,
        ["d41d8cd9  /etc/default/a\n", "d41d8cd9  /etc/default/a\n11111111  /etc/one\n",
         "22222222  /etc/default/a\n33333333  /etc/two\n"],
        Text("22222222  /etc/default/a\n11111111  /etc/one\n33333333  /etc/two\n")),
    (HASHES, HASHES, ["", "11111111  /etc/a\n", "22222222  /etc/a\n"], Clash("/etc/a")),
    (REGISTRY, REGISTRY,
        ["ssh \t /etc/ssh/sshd_config\n", "ssh \t /etc/ssh/sshd_config\none \t /etc/one\n", "two \t /etc/two\n"],
        Text("one \t /etc/one\ntwo \t /etc/two\n")),
];

/// Files of which the last layer's version stays, each with its pattern.
const LAST: &[(&str, &str)] = &[
    ("var/lib/dpkg/triggers/Lock", "var/lib/dpkg/triggers/Lock"),
    ("var/lib/ucf/hashfile.*", "var/lib/ucf/hashfile.0"),
    ("var/lib/ucf/registry.*", "var/lib/ucf/registry.12"),
    ("etc/passwd-", "etc/passwd-"),
    ("etc/group-", "etc/group-"),
    ("etc/shadow-", "etc/shadow-"),
    ("etc/gshadow-", "etc/gshadow-"),
    ("etc/subuid-", "etc/subuid-"),
    ("etc/subgid-", "etc/subgid-"),
    ("var/lib/dpkg/*-old", "var/lib/dpkg/status-old"),
    (
        "var/cache/debconf/*-old",
        "var/cache/debconf/config.dat-old",
    ),
    ("var/backups/**", "var/backups/dpkg.status.0"),
    ("etc/.pwd.lock", "etc/.pwd.lock"),
    ("var/lib/dpkg/lock*", "var/lib/dpkg/lock-frontend"),
    ("var/lib/apt/lists/**", "var/lib/apt/lists/partial/x"),
    ("var/cache/apt/**", "var/cache/apt/pkgcache.bin"),
    (
        "var/cache/ldconfig/aux-cache",
        "var/cache/ldconfig/aux-cache",
    ),
    ("var/cache/man/**", "var/cache/man/de/index.db"),
    ("var/cache/fontconfig/**", "var/cache/fontconfig/x.cache-7"),
    ("**/__pycache__/**", "usr/lib/python3/a/__pycache__/x.pyc"),
    ("var/log/**", "var/log/apt/history.log"),
    ("tmp/**", "tmp/x"),
    ("var/tmp/**", "var/tmp/x"),
    ("run/**", "run/lock/x"),
    ("etc/init.d/.depend.*", "etc/init.d/.depend.boot"),
    (
        "var/lib/systemd/catalog/database",
        "var/lib/systemd/catalog/database",
    ),
    ("usr/share/info/dir", "usr/share/info/dir"),
    ("usr/share/info/dir.old", "usr/share/info/dir.old"),
    ("var/lib/plocate/plocate.db", "var/lib/plocate/plocate.db"),
];

/// The loader's cache is no text: `loader.rs` has its cases.
const IN_LOADER: &str = "etc/ld.so.cache";

/// Merges one file of two layers on a base: what it became, and what was said of it.
fn merged(at: &str, versions: [&str; 3]) -> (Option<String>, Vec<MergeNote>, Vec<Conflict>) {
    let mut world = World::default();
    let [base, one, two] = ["base", "one", "two"];
    let ids = [base, one, two].into_iter().zip(versions);
    let layers: Vec<_> = ids
        .map(|(id, text)| world.layer(id, [(at, file(text))]))
        .collect();
    let [base, one, two] = &layers[..] else {
        unreachable!("three layers")
    };
    let merged = world.merge(&[base.on(&[]), one.on(&[base]), two.on(&[base])]);
    let text = world.tree(&merged).text(at);
    (text, merged.notes, merged.conflicts)
}

/// The records, or whole files, in which the last layer won.
fn won(notes: &[MergeNote]) -> Vec<Option<&str>> {
    let records = notes.iter().filter_map(|note| match note {
        MergeNote::LastWon { record, .. } => Some(record.as_deref()),
        _ => None,
    });
    records.collect()
}

#[test]
fn each_rule_makes_of_two_layers_what_its_case_says() {
    for (_, at, versions, gives) in RECORDS {
        let (text, notes, conflicts) = merged(at, *versions);
        let clashes: Vec<_> = conflicts.iter().map(|c| c.record.as_deref()).collect();
        let said = (&clashes[..], &won(&notes)[..]);
        match *gives {
            Text(expected) => {
                assert_eq!(text.as_deref(), Some(expected), "{at}");
                assert_eq!(said, (&[][..], &[][..]), "{at}");
            }
            Clash(record) => assert_eq!(said, (&[Some(record)][..], &[][..]), "{at}"),
            LastRecord(expected, record) => {
                assert_eq!(text.as_deref(), Some(expected), "{at}");
                assert_eq!(said, (&[][..], &[Some(record)][..]), "{at}");
            }
        }
    }
}

#[test]
fn of_files_that_are_made_anew_the_last_stays() {
    for (_, at) in LAST {
        let (text, notes, conflicts) = merged(at, ["base", "one", "two"]);
        assert_eq!((text.as_deref(), conflicts), (Some("two"), vec![]), "{at}");
        assert_eq!(won(&notes), [None], "{at}");
        assert!(
            matches!(&notes[..], [MergeNote::LastWon { path: of, .. }] if *of == path(at)),
            "{at}: {notes:?}"
        );
    }
}

#[test]
fn every_rule_has_a_case() {
    let mut tested: BTreeSet<_> = RECORDS.iter().map(|case| case.0).collect();
    tested.extend(LAST.iter().map(|case| case.0));
    tested.insert(IN_LOADER);
    let rules: BTreeSet<_> = rule_patterns().collect();
    assert_eq!(
        rules, tested,
        "each line of the table has a case, and each case a line"
    );
}
