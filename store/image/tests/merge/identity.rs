//! Identities on top of composed templates.

use std::fs;
use std::process::Command;

use shale_image::identity::{
    Applied, Finding, HostKey, Identity, IdentityError, Leak, Login, Network, NetworkSetup, apply,
    lint, lint_entry, need,
};
use shale_model::{Mtime, NodeData, compose};

use crate::helper::{Composed, Item, Layer, World, dir, file, link};

const TIME: Mtime = Mtime {
    seconds: 1_700_000_000,
    nanos: 5,
};
const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\nalice:x:1000:1000::/people/alice/:/bin/sh\n";
const GROUP: &str = "root:x:0:\nshadow:x:42:\nalice:x:1000:\n";
const SHADOW: &str = "root:!:19000:0:99999:7:::\nalice:!$y$x:19000:0:99999:7:::\n";

fn template() -> Vec<(&'static str, Item)> {
    vec![
        ("bin", link("usr/bin")),
        ("lib", link("usr/lib")),
        ("usr/bin/bash", file("bash").mode(0o755)),
        ("etc/passwd", file(PASSWD)),
        ("etc/group", file(GROUP)),
        ("etc/shadow", file(SHADOW).mode(0o640).owner(0, 42)),
        (
            "etc/gshadow",
            file("root:*::\nshadow:*::\nalice:!::\n")
                .mode(0o640)
                .owner(0, 42),
        ),
        ("etc/machine-id", file("").mode(0o444)),
        ("etc/skel/.profile", file("profile")),
        ("root", dir().mode(0o700)),
        ("home", link("people")),
        ("people", dir()),
        ("people/alice", dir().owner(1000, 1000).mode(0o750)),
        (
            "usr/lib/systemd/system/systemd-networkd.service",
            file("unit"),
        ),
    ]
}

fn identity(user: &str) -> Identity {
    Identity {
        hostname: "web-1.example.org".into(),
        machine_id: [0xab; 16],
        ssh_host_keys: vec![HostKey {
            name: "ssh_host_ed25519_key".into(),
            private: b"private\n".to_vec(),
            public: b"public\n".to_vec(),
        }],
        login: Some(Login {
            user: user.into(),
            uid: None,
            authorized_keys: vec!["ssh-ed25519 AAAA me".into(), "ssh-rsa BBBB you\n".into()],
        }),
        network: Network::Dhcp,
        time: TIME,
    }
}

struct Made {
    applied: Applied,
    after: Composed,
}

fn try_make(items: Vec<(&str, Item)>, identity: &Identity) -> Result<Made, IdentityError> {
    let mut world = World::default();
    let Layer { tree: layer, .. } = world.layer("template", items);
    let tree = compose([&layer]).unwrap();
    let wanted = need(&tree).into_iter();
    let bytes = wanted.map(|id| (id, world.bytes[&id].clone())).collect();
    let applied = apply(&tree, &bytes, identity)?;
    let tree = compose([&layer, &applied.layer]).unwrap();
    let mut bytes = world.bytes;
    bytes.extend(applied.synthetic.clone());
    let after = Composed { tree, bytes };
    Ok(Made { applied, after })
}

fn make(items: Vec<(&str, Item)>, identity: &Identity) -> Made {
    try_make(items, identity).unwrap()
}

impl Made {
    /// Content, mode and owner of a file.
    fn check(&self, at: &str, text: &str, mode: u16, owner: (u32, u32)) {
        assert_eq!(self.after.text(at).as_deref(), Some(text), "{at}");
        let attrs = &self.after.node(at).unwrap().attrs;
        assert_eq!(
            (attrs.mode, attrs.uid, attrs.gid),
            (mode, owner.0, owner.1),
            "{at}"
        );
        assert_eq!(attrs.mtime, TIME, "{at}");
    }
}

const KEYS: &str = "ssh-ed25519 AAAA me\nssh-rsa BBBB you\n";

#[test]
fn names_and_keys_are_written() {
    let made = make(template(), &identity("root"));
    let root = (0, 0);
    made.check("etc/hostname", "web-1.example.org\n", 0o644, root);
    made.check("etc/machine-id", &("ab".repeat(16) + "\n"), 0o444, root);
    made.check("etc/ssh/ssh_host_ed25519_key", "private\n", 0o600, root);
    made.check("etc/ssh/ssh_host_ed25519_key.pub", "public\n", 0o644, root);
    made.check("root/.ssh/authorized_keys", KEYS, 0o600, root);
    assert_eq!(made.after.node("root/.ssh").unwrap().attrs.mode, 0o700);
    // Of the home directory nothing changes.
    assert_eq!(made.after.node("root").unwrap().attrs.mode, 0o700);
    let hosts = made.after.text("etc/hosts").unwrap();
    assert!(hosts.starts_with("127.0.0.1\tlocalhost\n"), "{hosts}");
    assert!(
        hosts.ends_with("127.0.1.1\tweb-1.example.org web-1\n"),
        "{hosts}"
    );
    // The account is not locked any more, and still has no password.
    made.check(
        "etc/shadow",
        &SHADOW.replacen("root:!:", "root:*:", 1),
        0o640,
        (0, 42),
    );
    assert_eq!(made.after.text("etc/passwd").unwrap(), PASSWD);
}

#[test]
fn a_user_of_the_template_keeps_numbers_and_home() {
    // The home directory is named through a symbolic link.
    let mut items = template();
    items[3].1 = file(PASSWD.replace("/people/alice/", "/home/alice"));
    let made = make(items, &identity("alice"));
    made.check(
        "people/alice/.ssh/authorized_keys",
        KEYS,
        0o600,
        (1000, 1000),
    );
    assert_eq!(
        made.after.node("people/alice/.ssh").unwrap().attrs.mode,
        0o700
    );
    assert_eq!(made.after.owner("people/alice/.ssh"), (1000, 1000));
    assert_eq!(made.after.node("people/alice").unwrap().attrs.mode, 0o750);
    assert!(matches!(
        made.after.node("home").unwrap().data,
        NodeData::Symlink(_)
    ));
    assert!(
        made.after
            .text("etc/shadow")
            .unwrap()
            .contains("\nalice:*:19000:")
    );
}

#[test]
fn a_new_user_is_made() {
    let made = make(template(), &identity("bob"));
    let passwd = format!("{PASSWD}bob:x:1001:1001::/home/bob:/bin/bash\n");
    made.check("etc/passwd", &passwd, 0o644, (0, 0));
    made.check("etc/group", &format!("{GROUP}bob:x:1001:\n"), 0o644, (0, 0));
    let shadow = format!("{SHADOW}bob:*:19675:0:99999:7:::\n");
    made.check("etc/shadow", &shadow, 0o640, (0, 42));
    assert!(
        made.after
            .text("etc/gshadow")
            .unwrap()
            .ends_with("\nbob:!::\n")
    );
    assert_eq!(made.after.owner("people/bob"), (1001, 1001));
    made.check("people/bob/.profile", "profile", 0o644, (1001, 1001));
    made.check("people/bob/.ssh/authorized_keys", KEYS, 0o600, (1001, 1001));

    let mut wanted = identity("bob");
    wanted.login.as_mut().unwrap().uid = Some(2000);
    assert_eq!(
        make(template(), &wanted).after.owner("people/bob"),
        (2000, 2000)
    );
    wanted.login.as_mut().unwrap().uid = Some(1000);
    assert!(matches!(
        try_make(template(), &wanted),
        Err(IdentityError::NoFreeId(_))
    ));
}

#[test]
fn the_databases_are_what_pwck_and_grpck_accept() {
    let made = make(template(), &identity("bob"));
    let root = tempfile::TempDir::new().unwrap();
    let put = |name: &str| {
        let path = root.path().join(name);
        fs::write(&path, made.after.text(&format!("etc/{name}")).unwrap()).unwrap();
        path
    };
    for (tool, files) in [
        ("pwck", ["passwd", "shadow"]),
        ("grpck", ["group", "gshadow"]),
    ] {
        let output = Command::new(tool)
            .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
            .env("LC_ALL", "C")
            .args(["-r", "-q"])
            .args(files.map(put))
            .output()
            .expect("pwck or grpck is missing (Debian: passwd)");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        // Homes and shells are those of the machine that runs the test.
        let about_this_machine = |line: &str| {
            line.is_empty() || line.contains("does not exist") || line.contains("no changes")
        };
        assert!(said.lines().all(about_this_machine), "{tool}: {said}");
    }
}

#[test]
fn own_lines_of_hosts_are_replaced() {
    let with = |hosts: &'static str| {
        let mut items = template();
        items.push(("etc/hosts", file(hosts).mode(0o600).owner(7, 8)));
        make(items, &identity("root"))
    };
    let own = "127.0.1.1\tweb-1.example.org web-1\n";
    let made = with("127.0.0.1 localhost\n 127.0.1.1 old\n10.0.0.1 peer\n127.0.1.1 older");
    let expected = format!("127.0.0.1 localhost\n{own}10.0.0.1 peer\n");
    made.check("etc/hosts", &expected, 0o600, (7, 8));
    let made = with("127.0.1.10 other");
    made.check(
        "etc/hosts",
        &format!("127.0.1.10 other\n{own}"),
        0o600,
        (7, 8),
    );
}

#[test]
fn what_the_template_leaked_is_gone() {
    let mut items = template();
    items.extend([
        ("etc/ssh/ssh_host_rsa_key", file("old")),
        ("etc/ssh/ssh_host_ed25519_key", file("old").mode(0o644)),
        ("etc/ssh/sshd_config", file("config")),
        ("var/lib/systemd/random-seed", file("seed")),
        ("var/lib/dbus/machine-id", file("old")),
        ("var/lib/dhcp/dhclient.eth0.leases", file("lease")),
    ]);
    let made = make(items, &identity("root"));
    assert_eq!(made.after.text("etc/ssh/ssh_host_rsa_key"), None);
    made.check("etc/ssh/ssh_host_ed25519_key", "private\n", 0o600, (0, 0));
    assert!(made.after.text("etc/ssh/sshd_config").is_some());
    assert!(made.after.node("var/lib/systemd/random-seed").is_none());
    assert!(
        made.after
            .node("var/lib/dhcp/dhclient.eth0.leases")
            .is_none()
    );
    let dbus = &made.after.node("var/lib/dbus/machine-id").unwrap().data;
    assert_eq!(dbus, &NodeData::Symlink(b"/etc/machine-id"[..].into()));
}

#[test]
fn the_network_comes_up_with_what_the_template_has() {
    let setup = |more: Vec<(&'static str, Item)>, without_networkd: usize| {
        let mut items = template();
        items.truncate(items.len() - without_networkd);
        items.extend(more);
        make(items, &identity("root"))
    };
    let made = setup(vec![], 0);
    assert_eq!(made.applied.network, NetworkSetup::Networkd);
    assert!(
        made.after
            .text("etc/systemd/network/80-shale.network")
            .is_some()
    );
    let wanted = "etc/systemd/system/multi-user.target.wants/systemd-networkd.service";
    let unit = b"/usr/lib/systemd/system/systemd-networkd.service";
    assert_eq!(
        made.after.node(wanted).unwrap().data,
        NodeData::Symlink(unit[..].into())
    );

    let configured = vec![
        (wanted, link("/lib/systemd/system/systemd-networkd.service")),
        ("etc/systemd/network/80-dhcp.network", file("x")),
    ];
    assert_eq!(setup(configured, 0).applied.network, NetworkSetup::Template);
    assert_eq!(setup(vec![], 1).applied.network, NetworkSetup::Nothing);

    let interfaces = |text: &'static str| {
        vec![
            ("usr/sbin/ifup", file("ifup")),
            ("etc/network/interfaces", file(text)),
        ]
    };
    let made = setup(interfaces("auto lo\niface lo inet loopback\n"), 0);
    assert_eq!(made.applied.network, NetworkSetup::Ifupdown);
    let config = made.after.text("etc/network/interfaces.d/shale").unwrap();
    assert!(
        config.contains("allow-hotplug ens3\niface ens3 inet dhcp\n"),
        "{config}"
    );
    let made = setup(interfaces("iface eth0 inet static\n"), 0);
    assert_eq!(made.applied.network, NetworkSetup::Template);
}

#[test]
fn bad_identities_are_refused() {
    type Change = fn(&mut Identity);
    let cases: [(Change, IdentityError); 9] = [
        (
            |i| i.hostname = "a_b".into(),
            IdentityError::Hostname("a_b".into()),
        ),
        (
            |i| i.hostname = "a..b".into(),
            IdentityError::Hostname("a..b".into()),
        ),
        (
            |i| i.hostname = "a\nb".into(),
            IdentityError::Hostname("a\nb".into()),
        ),
        (|i| i.machine_id = [0; 16], IdentityError::MachineId),
        (
            |i| i.ssh_host_keys[0].name = "../x".into(),
            IdentityError::KeyName("../x".into()),
        ),
        (
            |i| i.login.as_mut().unwrap().user = "a:b".into(),
            IdentityError::User("a:b".into()),
        ),
        (
            |i| i.login.as_mut().unwrap().user = String::new(),
            IdentityError::User(String::new()),
        ),
        (
            |i| i.login.as_mut().unwrap().authorized_keys = vec!["a\nb".into()],
            IdentityError::AuthorizedKey,
        ),
        (
            |i| i.login.as_mut().unwrap().authorized_keys = vec![" ".into()],
            IdentityError::AuthorizedKey,
        ),
    ];
    for (change, expected) in cases {
        let mut wrong = identity("root");
        change(&mut wrong);
        assert_eq!(try_make(template(), &wrong).err(), Some(expected));
    }
    let text = format!("{:?}", identity("root"));
    assert!(!text.contains("112, 114, 105"), "a private key in {text}");
}

#[test]
fn hostile_templates_are_errors() {
    let with = |at: &'static str, item: Item| {
        let mut items: Vec<_> = template()
            .into_iter()
            .filter(|(old, _)| *old != at)
            .collect();
        items.push((at, item));
        try_make(items, &identity("root")).map(|_| ())
    };
    let bad_line = file("root:x:zero:0:root:/root:/bin/bash\n");
    assert!(matches!(
        with("etc/passwd", bad_line),
        Err(IdentityError::DamagedUser(_))
    ));
    let no_home = file("root:x:0:0:root:../..:/bin/bash\n");
    assert!(matches!(
        with("etc/passwd", no_home),
        Err(IdentityError::DamagedUser(_))
    ));
    let outside = file("root:x:0:0:root:/../../x:/bin/bash\n");
    assert!(matches!(
        with("etc/passwd", outside),
        Err(IdentityError::DamagedUser(_))
    ));
    assert!(matches!(
        with("etc/passwd", dir()),
        Err(IdentityError::NotAFile(_))
    ));
    assert!(matches!(
        with("root", file("x")),
        Err(IdentityError::NotADirectory(_))
    ));
    assert!(matches!(
        with("root", link("root")),
        Err(IdentityError::NotADirectory(_))
    ));
    assert!(matches!(
        with("root", link("/etc/passwd")),
        Err(IdentityError::NotADirectory(_))
    ));
    // A link upwards ends at the root of the tree, as it does in the guest.
    assert_eq!(with("root", link("../../people")), Ok(()));
}

#[test]
fn lint_finds_what_belongs_to_one_machine() {
    let mut world = World::default();
    let clean = world.layer("clean", template());
    assert_eq!(lint(&compose([&clean.tree]).unwrap()), []);
    let leaks = [
        ("etc/hostname", Leak::Hostname),
        ("etc/machine-id", Leak::MachineId),
        ("etc/ssh/ssh_host_rsa_key", Leak::HostKey),
        ("etc/ssh/ssh_host_rsa_key.pub", Leak::HostKey),
        ("etc/ssl/private/ssl-cert-snakeoil.key", Leak::PrivateKey),
        ("people/alice/.ssh/id_ed25519", Leak::PrivateKey),
        ("root/.ssh/authorized_keys", Leak::AuthorizedKeys),
        ("var/lib/cloud/instances/i-1/user-data.txt", Leak::CloudInit),
        ("var/lib/dbus/machine-id", Leak::MachineId),
        ("var/lib/dhcp/dhclient.leases", Leak::Lease),
        ("var/lib/systemd/random-seed", Leak::RandomSeed),
    ];
    let dirty = world.layer("dirty", leaks.map(|(at, _)| (at, file("x"))));
    let expected = leaks.map(|(at, leak)| {
        let path = crate::helper::path(at);
        Finding { path, leak }
    });
    assert_eq!(
        lint(&compose([&clean.tree, &dirty.tree]).unwrap()),
        expected
    );
    // The same of the layer, entry by entry.
    let entries = dirty.tree.entries().filter_map(|(dir, entry)| {
        let path = dir.join(&entry.name).unwrap();
        let leak = lint_entry(&path, &entry.kind)?;
        Some(Finding { path, leak })
    });
    let mut found: Vec<_> = entries.collect();
    found.sort_by(|a, b| a.path.cmp(&b.path));
    assert_eq!(found, expected);
    // Files without content, and what says that nothing is set, are no findings.
    let mut empty: Vec<_> = leaks.iter().map(|(at, _)| (*at, file(""))).collect();
    empty[0].1 = file("localhost\n");
    empty[1].1 = file("uninitialized\n");
    empty[8].1 = link("/etc/machine-id");
    empty.push(("people/alice/.ssh/id_ed25519.pub", file("public")));
    let empty = world.layer("empty", empty);
    assert_eq!(lint(&compose([&clean.tree, &empty.tree]).unwrap()), []);
}
