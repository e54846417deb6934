//! `shale vm deploy`.

use std::path::{Path, PathBuf};
use std::{env, fs};

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use shale_fusefs::{Access, Detached, MountOptions, Permissions, ReadAhead, mount_detached};
use shale_hostd::GiveMount;
use shale_hostd::api::{
    self, Autostart, Begin, LoginWish, MachineWish, MountPlace, Request, ToMount,
};
use shale_hvplug::{Acceleration, Forward};
use shale_model::Reference;

use super::forecast::forecast;
use super::{Waiting, show_stage, show_started};
use crate::commands::host::call_to_mount;
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::output::parse_bytes;

/// Deploy a template as a virtual machine
///
/// The machine boots at once: what it reads is fetched when it reads it. It gets a host name, keys and a
/// machine id of its own, and keeps what it writes until it is removed. By default your own SSH keys
/// (~/.ssh/*.pub) log in, or one that is made.
///
/// Examples:
///   shale vm deploy demo/web:1 --name web --publish 8080:80
///   shale vm deploy demo/base:12 --name big --memory 4G --cpus 4 --disk 100G --ssh-key key.pub
///   shale vm deploy demo/db:1 --name db --data-disk 50G
///   shale vm deploy demo/web:1 --name web3 --warm
///   shale vm deploy demo/web:1 --plan
///   shale vm ssh web
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Deploy {
    /// The template
    reference: Reference,
    /// Name of the machine, which is also its host name
    #[arg(long, required_unless_present = "plan")]
    name: Option<String>,
    /// Make nothing: say what would be brought from where, and when the login prompt would come, by a boot and warm
    ///
    /// The template is composed, and so is its warm snapshot, if there is one that fits; of each, up to two megabytes are
    /// brought to see how fast they come.
    #[arg(long)]
    plan: bool,
    /// File with the public key that may log in
    #[arg(long, value_name = "FILE")]
    ssh_key: Option<PathBuf>,
    /// User who logs in; made if the template has none of this name
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// Port of this host's loopback that leads to a port of the guest; may be given several times
    #[arg(long, value_name = "HOST:GUEST", value_parser = parse_forward)]
    publish: Vec<Forward>,
    /// Memory; at least that of the template
    #[arg(long, value_name = "SIZE", value_parser = parse_memory)]
    memory: Option<u64>,
    /// Processors
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=256))]
    cpus: Option<u32>,
    /// Size of the disk; at least that of the template
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    disk: Option<u64>,
    /// Size of a further disk, empty, which the guest finds at /dev/disk/by-id/virtio-data0; may be given several times
    ///
    /// It is a sparse file, is kept by `shale vm reimage`, and goes with the machine.
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    data_disk: Vec<u64>,
    /// How the processors run
    #[arg(long, value_enum, default_value_t, value_name = "HOW")]
    accel: Accel,
    /// Seconds that a read may wait for content until the machine is paused; it goes on by itself
    #[arg(long, value_name = "SECONDS|never", default_value = "10", value_parser = parse_pause)]
    pause_after: PauseAfter,
    /// Start the machine by itself after a boot of this host, if it ran before; `vm autostart` changes that
    #[arg(long)]
    autostart: bool,
    /// Go on where the template's warm snapshot was made, which takes a fraction of a boot; boot where there is none that fits
    ///
    /// `shale template warm` makes one. It fits a machine of the same memory, processors and disk, on a host with the same
    /// hypervisor; `shale vm inspect` says why another machine booted.
    #[arg(long)]
    warm: bool,
    #[command(flatten)]
    waiting: Waiting,
}

/// When a machine whose content does not come is paused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct PauseAfter(Option<u64>);

/// How processors run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Accel {
    /// Translated; runs everywhere.
    #[default]
    Tcg,
    /// On the host's processors, through /dev/kvm.
    Kvm,
}

impl From<Accel> for Acceleration {
    fn from(accel: Accel) -> Self {
        match accel {
            Accel::Tcg => Self::Tcg,
            Accel::Kvm => Self::Kvm,
        }
    }
}

impl Deploy {
    pub(crate) fn run(self, context: &Context) -> anyhow::Result<()> {
        let machine = MachineWish {
            memory_bytes: self.memory,
            cpus: self.cpus,
            disk_bytes: self.disk,
            data_disks: self.data_disk,
            acceleration: self.accel.into(),
        };
        if self.plan {
            return forecast(context, &self.reference, machine);
        }
        let login = LoginWish {
            user: self.user.clone(),
            ..login_wish(self.ssh_key.as_deref())?
        };
        let request = Request::Deploy(Box::new(api::Deploy {
            name: self.name.unwrap_or_default(),
            reference: self.reference.to_string(),
            repository: context.repository_of(&[&self.reference])?,
            login,
            machine,
            ports: self.publish,
            pause_after_seconds: self.pause_after.0,
            autostart: match self.autostart {
                true => Autostart::On,
                false => Autostart::Off,
            },
            begin: match self.warm {
                true => Begin::Warm,
                false => Begin::Boot,
            },
            wait: self.waiting.wish(),
        }));
        let mount = |how| Ok(mount_memory(context, how));
        let outcome = call_to_mount(context, request, show_stage(context), mount)?;
        show_started(context, outcome)
    }
}

/// Mounts what a machine that starts warm reads its memory from, for its hypervisor alone. The service may have no right to.
fn mount_memory(context: &Context, how: ToMount) -> GiveMount {
    if how.place != MountPlace::Nowhere {
        return GiveMount::Not("it has no directory".into());
    }
    let options = MountOptions {
        source: how.source,
        access: match how.writable {
            true => Access::ReadWrite,
            false => Access::ReadOnly,
        },
        permissions: Permissions::Unchecked,
    };
    match mount_detached(&options, ReadAhead::Large, &context.dirs.run()) {
        Ok(Detached { device, root }) => GiveMount::Nowhere { device, root },
        Err(error) => GiveMount::Not(format!("{:#}", anyhow::Error::from(error))),
    }
}

/// Keys from a file, or the user's own; without any, the service takes its own.
fn login_wish(file: Option<&Path>) -> anyhow::Result<LoginWish> {
    let Some(file) = file else {
        let authorized_keys = own_keys();
        return Ok(LoginWish {
            authorized_keys,
            ..LoginWish::default()
        });
    };
    let text = fs::read_to_string(file).with_context(|| format!("read `{}`", file.display()))?;
    let keys = keys_in(&text);
    if keys.is_empty() {
        let text = format!("`{}` has no public key", file.display());
        let hint = "a line like `ssh-ed25519 AAAA... name`; `ssh-keygen` makes one";
        return Err(Failure::new(Exit::Usage, text).hint(hint).into());
    }
    // `ssh` is told the private key, if it lies beside the public one.
    let private = file.with_extension("");
    let beside = file.extension().is_some_and(|extension| extension == "pub") && private.exists();
    let identity_file = match beside {
        true => Some(std::path::absolute(&private)?),
        false => None,
    };
    Ok(LoginWish {
        user: None,
        authorized_keys: keys,
        identity_file,
    })
}

/// The public keys in the user's own directory; one that cannot be read is left out.
pub(super) fn own_keys() -> Vec<String> {
    let Some(home) = env::var_os("HOME") else {
        return Vec::new();
    };
    let entries = fs::read_dir(Path::new(&home).join(".ssh"));
    let mut paths: Vec<PathBuf> = entries
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "pub"))
        // A public key without its private one is somebody else's.
        .filter(|path| path.with_extension("").exists())
        .collect();
    paths.sort();
    let texts = paths
        .iter()
        .filter_map(|path| fs::read_to_string(path).ok());
    texts.flat_map(|text| keys_in(&text)).collect()
}

/// The lines of `authorized_keys` in a text. A private key has none.
fn keys_in(text: &str) -> Vec<String> {
    const KINDS: [&str; 3] = ["ssh-", "ecdsa-", "sk-"];
    let lines = text.lines().map(str::trim);
    let keys = lines.filter(|line| KINDS.iter().any(|kind| line.starts_with(kind)));
    keys.map(str::to_owned).collect()
}

fn parse_forward(text: &str) -> Result<Forward, String> {
    let port = |text: &str| {
        let port: Option<u16> = text.parse().ok().filter(|port| *port > 0);
        port.ok_or_else(|| format!("`{text}` is not a port"))
    };
    let (host, guest) = text.split_once(':').unwrap_or((text, text));
    Ok(Forward {
        host: port(host)?,
        guest: port(guest)?,
    })
}

fn parse_pause(text: &str) -> Result<PauseAfter, String> {
    let seconds = match text {
        "never" => None,
        seconds => Some(
            seconds
                .parse()
                .ok()
                .filter(|seconds| *seconds > 0)
                .ok_or_else(|| format!("`{text}` is neither seconds, at least one, nor `never`"))?,
        ),
    };
    Ok(PauseAfter(seconds))
}

/// Memory of a machine: what less cannot hold is a kernel.
pub(in crate::commands) fn parse_memory(text: &str) -> Result<u64, String> {
    const LEAST: u64 = 64 << 20;
    match parse_bytes(text)? {
        bytes if bytes < LEAST => Err(format!("`{text}` is too little: at least 64M")),
        bytes => Ok(bytes.next_multiple_of(1 << 20)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_pairs() {
        assert_eq!(
            parse_forward("8080:80"),
            Ok(Forward {
                host: 8080,
                guest: 80
            })
        );
        assert_eq!(
            parse_forward("80"),
            Ok(Forward {
                host: 80,
                guest: 80
            })
        );
        for text in ["", ":", "0:80", "80:", "70000:1", "a:b", "1:2:3"] {
            assert!(parse_forward(text).is_err(), "{text}");
        }
    }

    #[test]
    fn public_keys_are_told_from_others() {
        let text =
            "# mine\nssh-ed25519 AAAA me\n\n  ssh-rsa BBBB\nsk-ssh-ed25519@openssh.com C d\n";
        assert_eq!(keys_in(text).len(), 3);
        assert_eq!(
            keys_in("-----BEGIN OPENSSH PRIVATE KEY-----\nb3Bl\n"),
            [""; 0]
        );
    }
}
