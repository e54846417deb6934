//! A machine as arguments of `qemu-system-x86_64`. Pure.

use std::ffi::OsString;
use std::path::Path;

use serde_json::json;

use crate::machine::{Acceleration, DirectBoot, DiskOffer, Machine, Memory, VmFiles};

/// How long the guest's requests wait for an NBD server that went away, in seconds; then they fail, and
/// the machine pauses. A day: a read never fails because something is slow or gone (I8).
const NBD_RECONNECT_SECONDS: u32 = 86_400;

/// Bytes that a guest is told to ask a lazy disk for at a time: Linux reads twice that ahead, 512 KiB in place of
/// 128. A request costs such a disk more than its bytes do: a boot of Debian 12 asks 845 times in place of 1,040, for 47 MB
/// in place of 41.
const NBD_REQUEST_BYTES: u32 = 256 << 10;

/// The node that the first disk of a machine is when it starts.
pub(super) const DISK_NODE: &str = "disk0";

/// All arguments for `machine`, whose disk files `buffered` go through the host's page cache.
pub(super) fn arguments(machine: &Machine, buffered: &[&Path]) -> Vec<OsString> {
    let mut args = Arguments::default();
    args.add("-name", machine.name.replace(',', ",,"));
    args.add("-uuid", uuid(&machine.uuid));
    for flag in ["-nodefaults", "-no-user-config"] {
        args.0.push(flag.into());
    }
    args.add("-display", "none");
    // What a guest that breaks out of its machine cannot do either.
    args.add(
        "-sandbox",
        "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
    );
    args.memory(machine);
    let (acceleration, cpu) = match machine.resources.acceleration {
        Acceleration::Tcg => ("tcg,thread=multi", "max"),
        Acceleration::Kvm => ("kvm", "host"),
    };
    args.add("-accel", acceleration);
    args.add("-cpu", cpu);
    args.add("-smp", machine.resources.cpus.to_string());
    // Guests wait for randomness to make keys.
    args.add("-device", "virtio-rng-pci");
    args.files(&machine.files);
    for (kind, disks) in [("disk", &machine.disks), ("data", &machine.data_disks)] {
        for (number, disk) in disks.iter().enumerate() {
            args.disk(&format!("{kind}{number}"), disk, buffered);
        }
    }
    args.network(machine);
    // Behind the others, which so have the same place on the bus, and the guest's names for that, in every machine.
    if machine.memory != Memory::Own {
        args.channel(&machine.files);
    }
    if let Some(boot) = &machine.boot {
        args.boot(boot);
    }
    args.0
}

/// The argument that tells one machine's process from every other.
pub(super) fn control_argument(files: &VmFiles) -> OsString {
    socket("control", &files.control)
}

/// Arguments under way.
#[derive(Default)]
struct Arguments(Vec<OsString>);

impl Arguments {
    fn add(&mut self, option: &str, value: impl Into<OsString>) {
        self.0.push(option.into());
        self.0.push(value.into());
    }

    fn files(&mut self, files: &VmFiles) {
        let mut console = socket("console", &files.console);
        console.push(",logappend=on,logfile=");
        console.push(escaped(&files.console_log));
        self.add("-chardev", console);
        self.add("-serial", "chardev:console");
        self.add("-chardev", control_argument(files));
        self.add("-mon", "chardev=control,mode=control");
        self.add("-pidfile", &files.pid);
    }

    fn memory(&mut self, machine: &Machine) {
        let bytes = machine.resources.memory_bytes;
        let (path, share) = match &machine.memory {
            Memory::Own => (None, ""),
            Memory::Shared(path) => (Some(path), "on"),
            Memory::Private(path) => (Some(path), "off"),
        };
        match path {
            None => self.add("-machine", "q35"),
            Some(path) => {
                let mut backend = OsString::from(format!(
                    "memory-backend-file,id=memory,size={bytes}B,share={share},mem-path="
                ));
                backend.push(escaped(path));
                self.add("-object", backend);
                self.add("-machine", "q35,memory-backend=memory");
            }
        }
        self.add("-m", format!("size={bytes}B"));
    }

    /// The devices of a machine that goes on as another: what tells it that it is (its id is a new one at each start), and
    /// a channel to what in it waits for that.
    fn channel(&mut self, files: &VmFiles) {
        self.add("-device", "vmgenid,guid=auto");
        self.add("-chardev", socket("channel", &files.channel));
        self.add("-device", "virtio-serial-pci");
        let port = format!("virtserialport,chardev=channel,name={}", VmFiles::CHANNEL);
        self.add("-device", port);
    }

    fn disk(&mut self, node: &str, disk: &DiskOffer, buffered: &[&Path]) {
        let drive = match disk {
            DiskOffer::Nbd(path) => json!({
                "driver": "raw", "node-name": node, "discard": "unmap", "file": {
                    "driver": "nbd", "server": { "type": "unix", "path": path.to_string_lossy() },
                    "reconnect-delay": NBD_RECONNECT_SECONDS, "discard": "unmap",
                },
            }),
            DiskOffer::Block(path) => file_below(node, path, buffered),
        };
        self.add("-blockdev", drive.to_string());
        // What pauses the machine, to be asked for again when it goes on: a write that fails, on a full disk for
        // instance, and a read that is answered with "no space", because its content does not come. A read that
        // fails for another reason never succeeds, and is the guest's.
        let mut device =
            format!("virtio-blk-pci,drive={node},serial={node},werror=stop,rerror=enospc");
        if let DiskOffer::Nbd(_) = disk {
            device += &format!(",opt_io_size={NBD_REQUEST_BYTES}");
        }
        self.add("-device", device);
    }

    /// A network of its own with DHCP and a way out, and the forwarded ports as the only way in.
    fn network(&mut self, machine: &Machine) {
        let forwards = machine.forwards.iter();
        let forwards = forwards.map(|f| format!(",hostfwd=tcp:127.0.0.1:{}-:{}", f.host, f.guest));
        self.add(
            "-netdev",
            format!("user,id=net0{}", forwards.collect::<String>()),
        );
        let [a, b, c, ..] = machine.uuid;
        // The prefix of QEMU's own addresses.
        let address = format!("52:54:00:{a:02x}:{b:02x}:{c:02x}");
        self.add(
            "-device",
            format!("virtio-net-pci,netdev=net0,romfile=,mac={address}"),
        );
    }

    fn boot(&mut self, boot: &DirectBoot) {
        self.add("-kernel", &boot.kernel);
        if let Some(initrd) = &boot.initrd {
            self.add("-initrd", initrd);
        }
        let line = format!("root=/dev/vda rw console=ttyS0 {}", boot.command_line);
        self.add("-append", line.trim_end());
    }
}

/// The node `node`, which is the plain bytes of a file; one that is `buffered` goes through the host's page cache.
pub(super) fn file_below(node: &str, path: &Path, buffered: &[&Path]) -> serde_json::Value {
    json!({
        "driver": "raw", "node-name": node, "discard": "unmap", "file": {
            "driver": "file", "filename": path.to_string_lossy(), "discard": "unmap",
            "cache": { "direct": !buffered.contains(&path) },
        },
    })
}

/// A socket that QEMU listens on, without waiting for anybody.
fn socket(id: &str, path: &Path) -> OsString {
    let mut argument = OsString::from(format!("socket,id={id},server=on,wait=off,path="));
    argument.push(escaped(path));
    argument
}

/// A path inside an argument, whose commas are doubled.
fn escaped(path: &Path) -> OsString {
    match path.to_str() {
        Some(text) => text.replace(',', ",,").into(),
        None => path.into(),
    }
}

fn uuid(bytes: &[u8; 16]) -> String {
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let parts = [
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..],
    ];
    parts.join("-")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::{Forward, Resources};

    #[test]
    fn a_machine_is_spelled_out() {
        let path = |name: &str| Path::new("/run/a,b").join(name);
        let machine = Machine {
            name: "web".into(),
            uuid: std::array::from_fn(|n| n as u8),
            resources: Resources {
                memory_bytes: 512 << 20,
                cpus: 2,
                acceleration: Acceleration::Tcg,
            },
            boot: Some(DirectBoot {
                kernel: "/k".into(),
                initrd: Some("/i".into()),
                command_line: "quiet".into(),
            }),
            disks: vec![DiskOffer::Nbd(path("disk"))],
            data_disks: ["x", "y"].map(|name| DiskOffer::Block(path(name))).into(),
            memory: Memory::Own,
            forwards: vec![Forward {
                host: 8080,
                guest: 80,
            }],
            files: VmFiles {
                control: path("control"),
                console: path("console"),
                channel: path("channel"),
                pid: path("pid"),
                console_log: path("console.log"),
                log: path("log"),
            },
        };
        let slow = path("y");
        let args = arguments(&machine, &[&slow]);
        let value = |option: &str, nth: usize| {
            let mut at = (0..args.len()).filter(|at| args[*at] == option);
            args[at.nth(nth).unwrap() + 1].to_str().unwrap()
        };
        assert_eq!(value("-uuid", 0), "00010203-0405-0607-0809-0a0b0c0d0e0f");
        assert_eq!(value("-m", 0), "size=536870912B");
        assert_eq!(
            value("-chardev", 0),
            "socket,id=console,server=on,wait=off,path=/run/a,,b/console,logappend=on,logfile=/run/a,,b/console.log"
        );
        assert_eq!(value("-append", 0), "root=/dev/vda rw console=ttyS0 quiet");
        assert_eq!(
            value("-netdev", 0),
            "user,id=net0,hostfwd=tcp:127.0.0.1:8080-:80"
        );
        assert!(value("-device", 4).ends_with("mac=52:54:00:00:01:02"));
        for (nth, direct) in [(1, true), (2, false)] {
            let drive: serde_json::Value = serde_json::from_str(value("-blockdev", nth)).unwrap();
            assert_eq!(drive["file"]["cache"]["direct"], direct);
            let serial = format!(",serial=data{},", nth - 1);
            let device = value("-device", nth + 1);
            assert!(device.contains(&serial), "{device}");
            assert!(!device.contains("opt_io_size"), "a file is no lazy disk");
        }
        assert!(value("-device", 1).ends_with(",opt_io_size=262144"));
        let drive: serde_json::Value = serde_json::from_str(value("-blockdev", 0)).unwrap();
        assert_eq!(drive["file"]["server"]["path"], "/run/a,b/disk");
        assert_eq!(drive["file"]["reconnect-delay"], NBD_RECONNECT_SECONDS);
        assert!(args.contains(&control_argument(&machine.files)));
    }

    #[test]
    fn a_machine_with_its_memory_in_a_file_has_a_channel_behind_all_other_devices() {
        let path = |name: &str| Path::new("/run/a,b").join(name);
        let mut machine = Machine {
            name: "web".into(),
            uuid: [1; 16],
            resources: Resources {
                memory_bytes: 512 << 20,
                cpus: 2,
                acceleration: Acceleration::Tcg,
            },
            boot: None,
            disks: vec![DiskOffer::Nbd(path("disk"))],
            data_disks: vec![],
            memory: Memory::Own,
            forwards: vec![],
            files: VmFiles {
                control: path("control"),
                console: path("console"),
                channel: path("channel"),
                pid: path("pid"),
                console_log: path("console.log"),
                log: path("log"),
            },
        };
        let devices = |machine: &Machine| -> Vec<String> {
            let args = arguments(machine, &[]);
            let pairs = args.windows(2).filter(|pair| pair[0] == "-device");
            pairs.map(|pair| pair[1].to_string_lossy().into()).collect()
        };
        let plain = devices(&machine);
        for (memory, share) in [
            (Memory::Shared(path("memory")), "on"),
            (Memory::Private(path("memory")), "off"),
        ] {
            machine.memory = memory;
            let args = arguments(&machine, &[]);
            let backend = format!(
                "memory-backend-file,id=memory,size=536870912B,share={share},mem-path=/run/a,,b/memory"
            );
            assert!(args.contains(&backend.into()), "{args:?}");
            let all = devices(&machine);
            assert_eq!(all[..plain.len()], plain, "where the guest has them always");
            assert_eq!(all.len(), plain.len() + 3);
        }
    }
}
