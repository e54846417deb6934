//! `shale vm ssh`.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::Context as _;
use clap::Args;
use shale_hostd::api::{self, InstanceState};

use super::inspect_one;
use crate::context::Context;
use crate::failure::{Exit, Failure};

/// Log in to a virtual machine, or run a command in it
///
/// The guest's host key is known from its deployment, and is checked.
///
/// Examples:
///   shale vm ssh web
///   shale vm ssh web -- systemctl status nginx
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Ssh {
    /// The machine
    name: String,
    /// The command, with its arguments; arguments of `ssh` may stand before it
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

impl Ssh {
    pub(crate) fn run(self, context: &Context) -> anyhow::Result<()> {
        let instance = inspect_one(context, &self.name)?;
        if instance.state == InstanceState::Stopped {
            let text = format!("`{}` does not run", self.name);
            let hint = format!("`shale vm start {}` starts it", self.name);
            return Err(Failure::new(Exit::Conflict, text).hint(hint).into());
        }
        let mut command = Command::new("ssh");
        command.args(arguments(&instance.ssh)).args(&self.command);
        // Returns only where it fails.
        let error = command.exec();
        Err(error).context("run `ssh` (Debian package openssh-client)")
    }
}

/// The arguments of `ssh` up to the command.
pub(in crate::commands) fn arguments(ssh: &api::Ssh) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = Vec::new();
    let mut option = |name: &str, value: OsString| {
        let mut text = OsString::from(format!("{name}="));
        text.push(value);
        arguments.push("-o".into());
        arguments.push(text);
    };
    let known_hosts = format!("\"{}\"", ssh.known_hosts.display());
    option("UserKnownHostsFile", known_hosts.into());
    option("GlobalKnownHostsFile", "/dev/null".into());
    option("HostKeyAlias", ssh.host_key_alias.clone().into());
    option("StrictHostKeyChecking", "yes".into());
    // The prompt may be there before the SSH server.
    option("ConnectionAttempts", "5".into());
    if ssh.identity_file.is_some() {
        option("IdentitiesOnly", "yes".into());
    }
    if let Some(file) = &ssh.identity_file {
        arguments.extend(["-i".into(), file.into()]);
    }
    arguments.extend(["-p".into(), ssh.port.to_string().into()]);
    arguments.push(format!("{}@127.0.0.1", ssh.user).into());
    arguments
}
