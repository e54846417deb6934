//! What a template must not hold, because every instance would have it.

use std::fmt;

use shale_model::{ChunkId, Content, Extent, Kind, NodeData, Tree, TreePath};

use crate::merge::path_matches;

/// Something in a template that belongs to one machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Where it is.
    pub path: TreePath,
    /// What it is.
    pub leak: Leak,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.leak)
    }
}

/// What belongs to one machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leak {
    /// A machine id.
    MachineId,
    /// A name.
    Hostname,
    /// A key of the SSH server.
    HostKey,
    /// Keys of people who may log in.
    AuthorizedKeys,
    /// Some other private key.
    PrivateKey,
    /// A seed of random numbers: two machines would draw the same.
    RandomSeed,
    /// What cloud-init noted about an instance: it would take the next one for the same.
    CloudInit,
    /// An address that was given to one machine.
    Lease,
}

impl fmt::Display for Leak {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Leak::MachineId => "a machine id; empty the file",
            Leak::Hostname => "a host name; remove the file",
            Leak::HostKey => "a key of the SSH server; remove it",
            Leak::AuthorizedKeys => "keys of people who may log in; remove them",
            Leak::PrivateKey => "a private key; remove it",
            Leak::RandomSeed => "a seed of random numbers; remove it",
            Leak::CloudInit => "what cloud-init noted about an instance; run `cloud-init clean`",
            Leak::Lease => "an address lease; remove it",
        })
    }
}

impl Leak {
    /// Whether it is a machine's own state, which an instance is better off without.
    pub(super) fn is_state(self) -> bool {
        matches!(
            self,
            Leak::HostKey | Leak::RandomSeed | Leak::CloudInit | Leak::Lease
        )
    }
}

/// Where to find what. A file without content is none, and neither is a directory.
const LEAKS: &[(&str, Leak)] = &[
    ("etc/machine-id", Leak::MachineId),
    ("var/lib/dbus/machine-id", Leak::MachineId),
    ("etc/hostname", Leak::Hostname),
    ("etc/ssh/ssh_host_*", Leak::HostKey),
    ("**/.ssh/authorized_keys", Leak::AuthorizedKeys),
    ("**/.ssh/authorized_keys2", Leak::AuthorizedKeys),
    ("etc/ssl/private/*", Leak::PrivateKey),
    ("etc/dropbear/*_host_key", Leak::HostKey),
    ("var/lib/systemd/random-seed", Leak::RandomSeed),
    ("var/lib/systemd/credential.secret", Leak::PrivateKey),
    ("var/lib/NetworkManager/secret_key", Leak::PrivateKey),
    ("var/lib/urandom/random-seed", Leak::RandomSeed),
    ("var/lib/cloud/instance", Leak::CloudInit),
    ("var/lib/cloud/instances/**", Leak::CloudInit),
    ("var/lib/cloud/data/**", Leak::CloudInit),
    ("var/lib/cloud/sem/**", Leak::CloudInit),
    ("var/lib/dhcp/*.leases", Leak::Lease),
    ("var/lib/dhcpcd/*.lease", Leak::Lease),
    ("var/lib/NetworkManager/*.lease", Leak::Lease),
    ("run/systemd/netif/leases/*", Leak::Lease),
];

/// Contents that say nothing about a machine: what systemd writes for "not yet set" (machine-id(5)), and
/// the name that debootstrap gives.
const HARMLESS: [&[u8]; 2] = [b"uninitialized\n", b"localhost\n"];

/// What a composed template holds that belongs to one machine, in order of path. A template that is clean
/// gives nothing.
pub fn lint(tree: &Tree) -> Vec<Finding> {
    let held = |data: &NodeData| match data {
        NodeData::File(content) => file_holds(content),
        NodeData::Symlink(target) => link_holds(target),
        _ => false,
    };
    let mut findings: Vec<_> = tree
        .walk()
        .filter_map(|(path, _, node)| {
            let leak = leak_at(&path).filter(|_| held(&node.data))?;
            Some(Finding { path, leak })
        })
        .collect();
    findings.sort_by(|a, b| a.path.cmp(&b.path));
    findings
}

/// The same for one entry of a layer, at `path`.
pub fn lint_entry(path: &TreePath, kind: &Kind) -> Option<Leak> {
    let held = || match kind {
        Kind::File(content) => file_holds(content),
        Kind::Symlink(target) => link_holds(target),
        // What it is another name of is not known here.
        Kind::HardLink(_) => true,
        _ => false,
    };
    leak_at(path).filter(|_| held())
}

fn leak_at(path: &TreePath) -> Option<Leak> {
    let matching = LEAKS
        .iter()
        .find(|(pattern, _)| path_matches(pattern, path));
    if let Some((_, leak)) = matching {
        return Some(*leak);
    }
    // Keys that people made for themselves, with the names that ssh-keygen gives them.
    let own = path_matches("**/.ssh/id_*", path) && !path.as_bytes().ends_with(b".pub");
    own.then_some(Leak::PrivateKey)
}

fn file_holds(content: &Content) -> bool {
    match content.extents() {
        [] => false,
        [Extent::Chunk { id, .. }] => !HARMLESS.map(ChunkId::of).contains(id),
        _ => true,
    }
}

/// D-Bus's machine id is a link to systemd's in a template that is clean.
fn link_holds(target: &[u8]) -> bool {
    !target.ends_with(b"etc/machine-id")
}
