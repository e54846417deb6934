//! Ports of this host's loopback that lead to guests.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::sync::PoisonError;

use crate::error::{HostError, HostResult};
use crate::name::InstanceName;
use crate::record::Record;

use super::Host;
use super::instance::Instance;

/// The first port that is given to an instance for SSH: below those that the system gives to outgoing
/// connections, so that it is still free at the next start.
const FIRST_SSH_PORT: u16 = 22_000;

/// How many ports are tried: more instances than a host has.
const SSH_PORTS: u16 = 8_000;

impl Host {
    /// Makes the ports of an instance its own until its machine has ended: those that it publishes, and one
    /// for SSH, which is a new one if it has none or somebody else took it. Blocks.
    pub(super) fn take_ports(&self, instance: &Instance, record: &mut Record) -> HostResult<()> {
        let _alone = self
            .choosing_port
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let others = self.ports_of_others(&instance.name);
        let published: BTreeSet<u16> = record.ports.iter().map(|port| port.host).collect();
        let usable = |port: u16| !others.held.contains(&port) && is_free(port);
        if let Some(port) = published.iter().find(|port| !usable(**port)) {
            return Err(HostError::Port(*port));
        }
        let for_ssh = |port: u16| !published.contains(&port) && usable(port);
        if record.login.ssh_port == 0 || !for_ssh(record.login.ssh_port) {
            let mut ports = FIRST_SSH_PORT..FIRST_SSH_PORT + SSH_PORTS;
            let free = ports.find(|port| !others.kept.contains(port) && for_ssh(*port));
            record.login.ssh_port = free.ok_or(HostError::NoPort)?;
        }
        let mut live = instance.live();
        live.record = Some(record.clone());
        live.holds_ports = true;
        Ok(())
    }

    fn ports_of_others(&self, name: &InstanceName) -> PortsOfOthers {
        let mut ports = PortsOfOthers::default();
        for other in self.all().iter().filter(|other| other.name != *name) {
            let live = other.live();
            let Some(record) = &live.record else { continue };
            let Ports(all) = ports_of(record);
            if live.holds_ports {
                ports.held.extend(&all);
            }
            ports.kept.extend(all);
        }
        ports
    }
}

/// The ports that a machine of this record listens on.
pub(super) fn ports_of(record: &Record) -> Ports {
    let published = record.ports.iter().map(|port| port.host);
    Ports(published.chain([record.login.ssh_port]).collect())
}

/// Ports of a machine.
pub(super) struct Ports(Vec<u16>);

impl Ports {
    /// Whether somebody else has one of them; its machine does not run.
    pub(super) fn any_is_taken(&self) -> bool {
        !self.0.iter().all(|port| is_free(*port))
    }
}

/// Ports of this host's loopback that lead to other instances.
#[derive(Default)]
struct PortsOfOthers {
    /// Of those that run, or are about to: QEMU may not listen on them yet.
    held: BTreeSet<u16>,
    /// Of all: those that are stopped want to have them again.
    kept: BTreeSet<u16>,
}

/// Whether nobody listens on this port of the loopback.
fn is_free(port: u16) -> bool {
    TcpListener::bind(("127.0.0.1", port)).is_ok()
}
