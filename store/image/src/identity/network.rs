//! An address by DHCP, with what the template has for it.

use shale_model::{Name, TreePath};

use super::IdentityError;
use super::layer::{Builder, known, lines};
use crate::merge::ChunkBytes;

/// What brings an instance's network up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NetworkSetup {
    /// The template's own configuration, which stays as it is.
    Template,
    /// systemd-networkd, with a file of this layer.
    Networkd,
    /// ifupdown, with a file of this layer.
    Ifupdown,
    /// Nothing: the template has none of those that are known here.
    Nothing,
}

const NETWORKD_FILES: &str = "etc/systemd/network";
const NETWORKD_UNIT: &str = "usr/lib/systemd/system/systemd-networkd.service";
/// The same before the directories were united.
const NETWORKD_OLD_UNIT: &str = "lib/systemd/system/systemd-networkd.service";
const NETWORKD_WANTED: &str = "etc/systemd/system/multi-user.target.wants/systemd-networkd.service";
const NETWORKD_FILE: &str = "etc/systemd/network/80-shale.network";
const NETWORKD_CONFIG: &[u8] = b"[Match]\nName=en* eth*\n\n[Network]\nDHCP=yes\n";

/// What `systemctl enable systemd-networkd` links, below `/etc/systemd/system`, to which unit.
const NETWORKD_LINKS: [(&str, &str); 4] = [
    (
        "dbus-org.freedesktop.network1.service",
        "systemd-networkd.service",
    ),
    (
        "multi-user.target.wants/systemd-networkd.service",
        "systemd-networkd.service",
    ),
    (
        "sockets.target.wants/systemd-networkd.socket",
        "systemd-networkd.socket",
    ),
    (
        "network-online.target.wants/systemd-networkd-wait-online.service",
        "systemd-networkd-wait-online.service",
    ),
];

/// NetworkManager asks for an address on every card by itself.
const NETWORK_MANAGER_WANTED: &str =
    "etc/systemd/system/multi-user.target.wants/NetworkManager.service";

const IFUP: [&str; 2] = ["usr/sbin/ifup", "sbin/ifup"];
const INTERFACES: &str = "etc/network/interfaces";
const INTERFACES_DIRECTORY: &str = "etc/network/interfaces.d";
const IFUPDOWN_FILE: &str = "etc/network/interfaces.d/shale";
const NEW_INTERFACES: &[u8] =
    b"source /etc/network/interfaces.d/*\n\nauto lo\niface lo inet loopback\n";

/// The names that the first card of a virtual machine gets on the machines of QEMU, Xen and Firecracker.
/// A name of no card is never brought up.
const CARD_NAMES: [&str; 8] = [
    "eth0", "enX0", "ens1", "ens2", "ens3", "ens4", "enp0s2", "enp1s0",
];

/// The files that are read.
pub(super) fn files(builder: &Builder<'_>) -> Vec<TreePath> {
    let directory = known(INTERFACES_DIRECTORY);
    let names = builder.names_in(&directory).into_iter();
    let inside = names.filter_map(|name: Name| directory.join(&name).ok());
    std::iter::once(known(INTERFACES)).chain(inside).collect()
}

/// Sets DHCP up, unless the template has a network configuration.
pub(super) fn set_up(
    builder: &mut Builder<'_>,
    bytes: &ChunkBytes,
) -> Result<NetworkSetup, IdentityError> {
    let is_network = |name: &Name| name.as_bytes().ends_with(b".network");
    let files = builder.names_in(&known(NETWORKD_FILES));
    let networkd_enabled = builder.exists(NETWORKD_WANTED);
    if networkd_enabled && files.iter().any(is_network) {
        return Ok(NetworkSetup::Template);
    }
    if builder.exists(NETWORK_MANAGER_WANTED) {
        return Ok(NetworkSetup::Template);
    }
    if IFUP.iter().any(|path| builder.exists(path)) && !networkd_enabled {
        return ifupdown(builder, bytes);
    }
    let unit = [NETWORKD_UNIT, NETWORKD_OLD_UNIT]
        .into_iter()
        .find(|path| builder.exists(path));
    let Some((units, _)) = unit.and_then(|unit| unit.rsplit_once('/')) else {
        return Ok(NetworkSetup::Nothing);
    };
    builder.write(NETWORKD_FILE, NETWORKD_CONFIG, 0o644)?;
    for (link, unit) in NETWORKD_LINKS {
        let link = format!("etc/systemd/system/{link}");
        if !builder.exists(&link) {
            builder.link(&link, &format!("/{units}/{unit}"))?;
        }
    }
    Ok(NetworkSetup::Networkd)
}

fn ifupdown(builder: &mut Builder<'_>, bytes: &ChunkBytes) -> Result<NetworkSetup, IdentityError> {
    for path in files(builder) {
        let file = builder.read_path(&path, bytes)?.unwrap_or_default();
        if lines(&file).any(configures_a_card) {
            return Ok(NetworkSetup::Template);
        }
    }
    if !builder.exists(INTERFACES) {
        builder.write(INTERFACES, NEW_INTERFACES, 0o644)?;
    }
    let stanza = |name: &&str| format!("allow-hotplug {name}\niface {name} inet dhcp\n");
    let config: String = CARD_NAMES.iter().map(stanza).collect();
    builder.write(IFUPDOWN_FILE, config.as_bytes(), 0o644)?;
    Ok(NetworkSetup::Ifupdown)
}

/// Whether a line of interfaces(5) configures something other than the loopback.
fn configures_a_card(line: &[u8]) -> bool {
    let mut words = line
        .split(u8::is_ascii_whitespace)
        .filter(|w| !w.is_empty());
    words.next() == Some(b"iface") && words.next().is_some_and(|card| card != b"lo")
}
