//! What makes one instance of a template a machine of its own: names, keys, users, network.
//!
//! None of it is in the template ([`lint`] finds what is): [`apply`] makes one more layer, which the
//! host lays out on top of the template's and keeps to itself. Both phases are pure: [`need`] names the
//! chunks whose bytes the changes start from, and keys and time come from the caller.

mod accounts;
mod layer;
mod leak;
mod network;

use std::fmt;

use shale_model::{ChunkId, Mtime, Tree, TreeLayer, TreePath};

use crate::merge::ChunkBytes;
use layer::Builder;

pub use leak::{Finding, Leak, lint, lint_entry};
pub use network::NetworkSetup;

/// Largest file that an identity changes, in bytes: a passwd of 100,000 users.
pub const MAX_CHANGED_FILE_BYTES: u64 = 16 * 1024 * 1024;

/// Longest host name: `HOST_NAME_MAX` of Linux.
pub const MAX_HOSTNAME_BYTES: usize = 64;

/// Longest user name that useradd(8) accepts.
pub const MAX_USER_BYTES: usize = 32;

/// Who an instance is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Its name, with or without a domain: labels of letters, digits and hyphens (RFC 1123).
    pub hostname: String,
    /// machine-id(5); random, and not zero.
    pub machine_id: [u8; 16],
    /// Keys by which SSH clients know it. Keys of the template are removed.
    pub ssh_host_keys: Vec<HostKey>,
    /// Who may log in.
    pub login: Option<Login>,
    /// How it finds its address.
    pub network: Network,
    /// Time of the files that are written.
    pub time: Mtime,
}

/// A key of the SSH server.
#[derive(Clone, PartialEq, Eq)]
pub struct HostKey {
    /// Name of the file with the private key, `ssh_host_ed25519_key`.
    pub name: String,
    /// The private key's file.
    pub private: Vec<u8>,
    /// The public key's file.
    pub public: Vec<u8>,
}

/// The private key stays out of logs.
impl fmt::Debug for HostKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostKey")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// A user who may log in with keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    /// The user, who is made if the template has none of this name.
    pub user: String,
    /// Number of a user who is made; the lowest free one from 1000 if there is none.
    pub uid: Option<u32>,
    /// Public keys, as lines of `authorized_keys`. They replace those of the template.
    pub authorized_keys: Vec<String>,
}

/// How an instance finds its address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// By DHCP on every card, with what the template has for it. A template that has a configuration
    /// keeps it.
    Dhcp,
    /// As the template says.
    Unchanged,
}

/// A file that an instance gets besides its identity, in place of what the template has there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExtraFile {
    path: &'static str,
    what: Extra,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Extra {
    File { mode: u16, bytes: Vec<u8> },
    Link { target: &'static str },
}

impl ExtraFile {
    /// A file of root's with this mode.
    pub fn new(path: &'static str, mode: u16, bytes: impl Into<Vec<u8>>) -> Self {
        let bytes = bytes.into();
        let what = Extra::File { mode, bytes };
        Self { path, what }
    }

    /// A symbolic link.
    pub fn link(path: &'static str, target: &'static str) -> Self {
        let what = Extra::Link { target };
        Self { path, what }
    }
}

/// What [`apply`] makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// The layer to put on top of the template's.
    pub layer: TreeLayer,
    /// The bytes of its files.
    pub synthetic: ChunkBytes,
    /// What brings the network up.
    pub network: NetworkSetup,
}

/// Why an identity cannot be given.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// Not labels of letters, digits and hyphens, or too long.
    #[error("`{0}` is not a host name of at most {MAX_HOSTNAME_BYTES} bytes")]
    Hostname(String),
    /// The machine id is zero, which systemd takes for none.
    #[error("the machine id is zero")]
    MachineId,
    /// Not a name that useradd(8) accepts.
    #[error("`{0}` is not a user name of at most {MAX_USER_BYTES} bytes")]
    User(String),
    /// A key's file name does not look like `ssh_host_ed25519_key`.
    #[error(
        "`{0}` is not the name of a host key: `ssh_host_` and `_key` with letters and digits between"
    )]
    KeyName(String),
    /// A line of `authorized_keys` that is none, or several.
    #[error("an authorized key is not one line")]
    AuthorizedKey,
    /// The caller gave no bytes, or too few, of a chunk that [`need`] named.
    #[error("the bytes of {chunk} are missing, which {path} consists of")]
    Missing {
        /// The chunk.
        chunk: ChunkId,
        /// The file.
        path: TreePath,
    },
    /// What must be a regular file of at most [`MAX_CHANGED_FILE_BYTES`] is something else.
    #[error("{0} is not a regular file of at most {MAX_CHANGED_FILE_BYTES} bytes")]
    NotAFile(TreePath),
    /// What must be a directory is something else, or links lead nowhere.
    #[error("{0} does not lead to a directory")]
    NotADirectory(TreePath),
    /// A user's line is not as passwd(5) says, or the home directory is no absolute path.
    #[error("the line of user {0} in /etc/passwd is damaged")]
    DamagedUser(String),
    /// The template has another user of the wanted number, or no number is left.
    #[error("user {0} cannot get a number of its own")]
    NoFreeId(String),
}

/// The chunks whose bytes [`apply`] reads, each once.
pub fn need(tree: &Tree) -> Vec<ChunkId> {
    let builder = Builder::new(tree, Mtime::default());
    let files = accounts::FILES.iter().map(|path| layer::known(path));
    let files = files.chain([layer::known(HOSTS)]);
    let mut wanted: Vec<_> = files
        .chain(network::files(&builder))
        .flat_map(|path| builder.chunks_of(&path))
        .collect();
    wanted.sort_unstable();
    wanted.dedup();
    wanted
}

/// Makes the layer that gives a composed template this identity. `bytes` holds the chunks that [`need`]
/// named, as verified by the caller.
///
/// Files that exist keep owner, mode and attributes.
pub fn apply(
    tree: &Tree,
    bytes: &ChunkBytes,
    identity: &Identity,
) -> Result<Applied, IdentityError> {
    apply_with(tree, bytes, identity, &[])
}

/// As [`apply`], with more files.
pub fn apply_with(
    tree: &Tree,
    bytes: &ChunkBytes,
    identity: &Identity,
    more: &[ExtraFile],
) -> Result<Applied, IdentityError> {
    identity.check()?;
    let mut builder = Builder::new(tree, identity.time);
    for finding in lint(tree) {
        if finding.leak.is_state() {
            builder.remove(&finding.path)?;
        }
    }
    names(&mut builder, bytes, identity)?;
    host_keys(&mut builder, identity)?;
    if let Some(login) = &identity.login {
        accounts::log_in(&mut builder, bytes, login)?;
    }
    let network = match identity.network {
        Network::Dhcp => network::set_up(&mut builder, bytes)?,
        Network::Unchanged => NetworkSetup::Template,
    };
    for file in more {
        match &file.what {
            Extra::File { mode, bytes } => builder.write_new(file.path, bytes, *mode)?,
            Extra::Link { target } => builder.link(file.path, target)?,
        }
    }
    let (layer, synthetic) = builder.finish();
    Ok(Applied {
        layer,
        synthetic,
        network,
    })
}

const HOSTNAME: &str = "etc/hostname";
const HOSTS: &str = "etc/hosts";
const MACHINE_ID: &str = "etc/machine-id";
const DBUS_MACHINE_ID: &str = "var/lib/dbus/machine-id";
const SSH: &str = "etc/ssh";

/// The address that Debian gives the host's own name (Debian Reference 5.1.1).
const OWN_ADDRESS: &[u8] = b"127.0.1.1";

/// `/etc/hosts` of a template that has none.
const NEW_HOSTS: &[u8] = b"127.0.0.1\tlocalhost\n\
    ::1\tlocalhost ip6-localhost ip6-loopback\n\
    ff02::1\tip6-allnodes\n\
    ff02::2\tip6-allrouters\n";

fn names(
    builder: &mut Builder<'_>,
    bytes: &ChunkBytes,
    identity: &Identity,
) -> Result<(), IdentityError> {
    let hostname = &identity.hostname;
    builder.write(HOSTNAME, format!("{hostname}\n").as_bytes(), 0o644)?;
    let old = builder.read(HOSTS, bytes)?;
    let hosts = hosts(old.as_deref().unwrap_or(NEW_HOSTS), hostname);
    builder.write(HOSTS, &hosts, 0o644)?;
    let id: String = (identity.machine_id.iter())
        .map(|byte| format!("{byte:02x}"))
        .collect();
    builder.write(MACHINE_ID, format!("{id}\n").as_bytes(), 0o444)?;
    if builder.exists(DBUS_MACHINE_ID) {
        builder.link(DBUS_MACHINE_ID, "/etc/machine-id")?;
    }
    Ok(())
}

/// `/etc/hosts` with the line of the host's own name in place of an older one, or at the end.
fn hosts(old: &[u8], hostname: &str) -> Vec<u8> {
    let own = match hostname.split_once('.') {
        Some((short, _)) => format!("\t{hostname} {short}"),
        None => format!("\t{hostname}"),
    };
    let own = [OWN_ADDRESS, own.as_bytes()].concat();
    let is_own = |line: &[u8]| {
        let mut fields = line
            .split(u8::is_ascii_whitespace)
            .filter(|f| !f.is_empty());
        fields.next() == Some(OWN_ADDRESS)
    };
    let mut written = false;
    let mut hosts = Vec::with_capacity(old.len() + own.len() + 1);
    for line in layer::lines(old) {
        if !is_own(line) {
            hosts.extend_from_slice(line);
        } else if !written {
            hosts.extend_from_slice(&own);
            written = true;
        } else {
            continue;
        }
        hosts.push(b'\n');
    }
    if !written {
        hosts.extend_from_slice(&own);
        hosts.push(b'\n');
    }
    hosts
}

fn host_keys(builder: &mut Builder<'_>, identity: &Identity) -> Result<(), IdentityError> {
    for key in &identity.ssh_host_keys {
        let private = format!("{SSH}/{}", key.name);
        builder.write_new(&private, &key.private, 0o600)?;
        builder.write_new(&format!("{private}.pub"), &key.public, 0o644)?;
    }
    Ok(())
}

impl Identity {
    fn check(&self) -> Result<(), IdentityError> {
        let label = |label: &str| {
            let inner = |b: &u8| b.is_ascii_alphanumeric() || *b == b'-';
            (1..=63).contains(&label.len())
                && label.as_bytes().iter().all(inner)
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        let hostname = &self.hostname;
        if hostname.len() > MAX_HOSTNAME_BYTES || !hostname.split('.').all(label) {
            return Err(IdentityError::Hostname(hostname.clone()));
        }
        if self.machine_id == [0; 16] {
            return Err(IdentityError::MachineId);
        }
        for key in &self.ssh_host_keys {
            let middle = key.name.strip_prefix("ssh_host_");
            let middle = middle.and_then(|rest| rest.strip_suffix("_key"));
            let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
            if !middle.is_some_and(|text| !text.is_empty() && text.bytes().all(plain)) {
                return Err(IdentityError::KeyName(key.name.clone()));
            }
        }
        self.login.as_ref().map_or(Ok(()), Login::check)
    }
}

impl Login {
    fn check(&self) -> Result<(), IdentityError> {
        let user = self.user.as_bytes();
        let starts = user
            .first()
            .is_some_and(|b| b.is_ascii_lowercase() || *b == b'_');
        let plain = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_-".contains(b);
        if !starts || user.len() > MAX_USER_BYTES || !user.iter().all(plain) {
            return Err(IdentityError::User(self.user.clone()));
        }
        let one_line = |key: &String| {
            let text = key.trim();
            !text.is_empty() && !text.contains(['\n', '\r', '\0'])
        };
        if !self.authorized_keys.iter().all(one_line) {
            return Err(IdentityError::AuthorizedKey);
        }
        Ok(())
    }
}
