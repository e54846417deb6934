//! What a machine is made of, the same for every driver.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// A machine to be started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// The name that tools of the hypervisor show.
    pub name: String,
    /// What the guest sees as the machine's UUID; its network address is made from it.
    pub uuid: [u8; 16],
    /// Memory and processors.
    pub resources: Resources,
    /// The kernel to start; without one the firmware boots from the first disk.
    pub boot: Option<DirectBoot>,
    /// Disks, in the order that the guest finds them.
    pub disks: Vec<DiskOffer>,
    /// More disks, which come behind those; the guest finds them by their serial numbers `data0`, `data1` and so on.
    pub data_disks: Vec<DiskOffer>,
    /// Ports of this host that lead into the guest.
    pub forwards: Vec<Forward>,
    /// Where its memory is.
    pub memory: Memory,
    /// Where the machine's sockets and logs are made.
    pub files: VmFiles,
}

/// Where the memory of a machine is. With a file, the machine has two more devices: a channel to a program of the guest
/// ([`VmFiles::channel`]), and one that tells the guest when it is not the machine any more that it was (VMGENID).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Memory {
    /// In the hypervisor's process, and nowhere else.
    #[default]
    Own,
    /// In this file of the memory's size, which has all that the guest writes: such a machine can be kept
    /// ([`WarmStart::keep`](crate::WarmStart::keep)).
    Shared(PathBuf),
    /// It begins as this file, which is read where the guest touches it. What the guest writes is the hypervisor's own. The
    /// file is opened for writing, and never written. Its path is relative to the directory that
    /// [`WarmStart::start_from`](crate::WarmStart::start_from) is given.
    Private(PathBuf),
}

/// Memory and processors of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// Processors.
    pub cpus: u32,
    /// How they run.
    pub acceleration: Acceleration,
}

/// How the guest's processors run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Acceleration {
    /// Translated, on any machine; ten times slower.
    #[default]
    Tcg,
    /// On the host's processors, through `/dev/kvm`.
    Kvm,
}

/// A kernel that is started without firmware and boot loader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectBoot {
    /// The kernel; read while the machine starts.
    pub kernel: PathBuf,
    /// The initial RAM disk; read while the machine starts.
    pub initrd: Option<PathBuf>,
    /// The kernel's command line, without what the driver adds for console and root.
    pub command_line: String,
}

/// How a disk is offered to a driver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DiskOffer {
    /// The default export of an NBD server on a unix socket. The server may go away and come back;
    /// meanwhile the guest's requests wait.
    Nbd(PathBuf),
    /// A file or block device with the plain bytes of the disk. It is read and written around the host's page cache,
    /// where its file system allows that.
    Block(PathBuf),
}

/// A TCP port of this host's loopback that leads to a port of the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forward {
    /// Here, on 127.0.0.1.
    pub host: u16,
    /// In the guest.
    pub guest: u16,
}

/// Where a machine's sockets and logs are. Sockets have paths of at most
/// [`VmFiles::MAX_SOCKET_PATH`] bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmFiles {
    /// The hypervisor's control socket.
    pub control: PathBuf,
    /// The socket of the serial console.
    pub console: PathBuf,
    /// The socket of the channel to a program of the guest, which finds it at `/dev/virtio-ports/` and
    /// [`VmFiles::CHANNEL`]; only of machines whose memory is in a file.
    pub channel: PathBuf,
    /// The number of the machine's process, in decimal.
    pub pid: PathBuf,
    /// All that the guest printed on the serial console is appended here.
    pub console_log: PathBuf,
    /// What the hypervisor says for itself is appended here.
    pub log: PathBuf,
}

impl VmFiles {
    /// Longest path of a unix socket, in bytes (`sun_path` of Linux, less its end).
    pub const MAX_SOCKET_PATH: usize = 107;

    /// What the guest knows the channel by.
    pub const CHANNEL: &str = "shale.identity";
}
