//! Where a host keeps what.
//!
//! ```text
//! <state>/repository/         the local repository, unless another is named
//! <state>/plans/<id>.plan     plans, immutable
//! <state>/plans/<template>    the plan that this version made of a template: its id in hex
//! <state>/instances/<name>/   a virtual machine: see `host/instance.rs`
//! <state>/mounts/<name>.json  a mount
//! <state>/pins.json           templates whose content stays in the cache
//! <state>/ssh/id_ed25519      the key that logs in to machines that were given no other
//! <state>/host.log            what a service in the background said
//! <cache>/chunks/             the chunk cache
//! <cache>/spool/              packs that wait for their upload
//! <run>/host.sock             the host service
//! <run>/keeper.sock           the keeper of open files
//! <run>/<name>/               sockets of a virtual machine
//! ```
//! `<run>` is `/run/shale` for the system's own state directory and `<state>/run` for any other, so that no
//! two states share a socket.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use shale_files::FilePath;
use shale_view::BootId;

use crate::error::{HostResult, system};

/// The directories of a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostDirs {
    /// What must survive: plans, instances, the local repository.
    pub state: PathBuf,
    /// What can be fetched again.
    pub cache: PathBuf,
}

impl HostDirs {
    /// The local repository.
    pub fn repository(&self) -> PathBuf {
        self.state.join("repository")
    }

    /// Plans.
    pub fn plans(&self) -> PathBuf {
        self.state.join("plans")
    }

    /// Packs on their way to a registry.
    pub fn spool(&self) -> PathBuf {
        self.cache.join("spool")
    }

    /// Virtual machines.
    pub fn instances(&self) -> PathBuf {
        self.state.join("instances")
    }

    /// The private key that logs in to machines that were given no other.
    pub fn ssh_key(&self) -> PathBuf {
        self.state.join("ssh/id_ed25519")
    }

    /// What a service in the background says.
    pub fn host_log(&self) -> PathBuf {
        self.state.join("host.log")
    }

    /// Sockets.
    pub fn run(&self) -> PathBuf {
        match self.state == Path::new("/var/lib/shale") {
            true => PathBuf::from("/run/shale"),
            false => self.state.join("run"),
        }
    }

    /// The host service's socket.
    pub fn host_socket(&self) -> PathBuf {
        self.run().join("host.sock")
    }

    /// The socket of the keeper of open files.
    pub fn keeper_socket(&self) -> PathBuf {
        self.run().join("keeper.sock")
    }

    /// Records of mounts.
    pub fn mounts(&self) -> PathBuf {
        self.state.join("mounts")
    }

    /// The chunk cache.
    pub fn chunks(&self) -> PathBuf {
        self.cache.join("chunks")
    }

    /// A chunk cache of a command that runs while another process has the chunk cache.
    pub fn chunks_beside(&self, number: u32) -> PathBuf {
        self.cache.join(format!("chunks-beside-{number}"))
    }
}

/// Makes `path` and what is missing above it, for the owner only: guests' data lies there.
pub fn private_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Removes a directory with all that is in it; one that is not there is no error.
pub(crate) fn remove_dir(path: &Path) -> HostResult<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(system("remove", path)(error)),
        _ => Ok(()),
    }
}

/// A path below a directory that this crate spells, or whose parts it has checked.
pub(crate) fn known_path(text: &str) -> FilePath {
    FilePath::new(text).unwrap_or_default()
}

/// Where Linux shows the id of this boot.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// As [`boot_id`], for the host.
pub(crate) fn current_boot() -> HostResult<BootId> {
    boot_id().map_err(system("read", Path::new(BOOT_ID)))
}

/// The id of this boot of the machine, as Linux shows it.
pub fn boot_id() -> io::Result<BootId> {
    let text = std::fs::read_to_string(BOOT_ID)?;
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    let text = String::from_utf8_lossy(&digits).into_owned();
    let id = u128::from_str_radix(&text, 16);
    let id = id.map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "boot_id is no UUID"))?;
    Ok(BootId(id.to_be_bytes()))
}
