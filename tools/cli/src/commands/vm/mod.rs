//! `shale vm`: virtual machines on this host.

mod autostart;
mod commit;
mod confirm;
mod console;
mod deploy;
mod export;
mod forecast;
mod inspect;
mod localize;
mod logs;
mod ls;
mod pause;
mod reimage;
mod rm;
mod snapshot;
mod ssh;
mod start;
mod stop;

use clap::{Subcommand, ValueEnum};
use serde::Serialize;
use shale_hostd::api::{
    BootSetShare, Fill, Instance, InstanceState, LoginTime, Outcome, Request, ShownDisk,
    ShownPlace, ShownSourceState, ShownStalls, Stage, StageReport, Survives, Until, Wait,
    WarmStart,
};

use crate::commands::host::{call, unexpected};
use crate::context::Context;
use crate::output::{Row, bytes, note};

pub(super) use deploy::parse_memory;
pub(crate) use deploy::{Accel, Deploy};
pub(crate) use ls::Ls;
pub(super) use ssh::arguments;

/// Deploy and run virtual machines
#[derive(Debug, Subcommand)]
pub(crate) enum Vm {
    Deploy(Box<Deploy>),
    Ls(Ls),
    Inspect(inspect::Inspect),
    Start(start::Start),
    Stop(stop::Stop),
    Restart(stop::Restart),
    Autostart(autostart::AutostartCommand),
    Pause(pause::Pause),
    Resume(pause::Resume),
    Console(console::Console),
    Ssh(ssh::Ssh),
    Logs(logs::Logs),
    Export(export::Export),
    Commit(commit::Commit),
    Localize(localize::Localize),
    #[command(subcommand)]
    Snapshot(snapshot::Snapshot),
    Reimage(reimage::Reimage),
    Rm(rm::Rm),
}

impl Vm {
    pub(crate) fn run(self, context: &Context) -> anyhow::Result<()> {
        match self {
            Vm::Deploy(deploy) => deploy.run(context),
            Vm::Ls(ls) => ls.run(context),
            Vm::Inspect(inspect) => inspect.run(context),
            Vm::Start(start) => start.run(context),
            Vm::Stop(stop) => stop.run(context),
            Vm::Restart(restart) => restart.run(context),
            Vm::Autostart(autostart) => autostart.run(context),
            Vm::Pause(pause) => pause.run(context),
            Vm::Resume(resume) => resume.run(context),
            Vm::Console(console) => console.run(context),
            Vm::Ssh(ssh) => ssh.run(context),
            Vm::Logs(logs) => logs.run(context),
            Vm::Export(export) => export.run(context),
            Vm::Commit(commit) => commit.run(context),
            Vm::Localize(localize) => localize.run(context),
            Vm::Snapshot(snapshot) => snapshot.run(context),
            Vm::Reimage(reimage) => reimage.run(context),
            Vm::Rm(rm) => rm.run(context),
        }
    }
}

/// What a start waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum WaitFor {
    /// The login prompt on the serial console.
    #[default]
    Login,
    /// Nothing: the machine runs, the guest may not yet.
    None,
}

/// How a start waits.
#[derive(Debug, clap::Args)]
pub(crate) struct Waiting {
    /// What to wait for
    #[arg(long, value_enum, default_value_t, value_name = "WHAT")]
    wait: WaitFor,
    /// Longest wait, in seconds, for what is fetched first and then for that; a machine that boots runs on
    #[arg(long, default_value_t = 300, value_name = "SECONDS")]
    timeout: u64,
}

impl Waiting {
    fn wish(&self) -> Wait {
        Wait {
            until: match self.wait {
                WaitFor::None => Until::Started,
                WaitFor::Login => Until::Login,
            },
            limit_seconds: self.timeout,
        }
    }
}

/// One instance, asked of the service.
pub(super) fn inspect_one(context: &Context, name: &str) -> anyhow::Result<Instance> {
    let name = name.to_owned();
    match call(context, Request::Inspect { name }, |_| {})? {
        Outcome::Instance(instance) => Ok(*instance),
        other => Err(unexpected(&other)),
    }
}

/// Prints how far a request is on standard error.
pub(crate) fn show_stage(context: &Context) -> impl FnMut(StageReport) + use<> {
    let quiet = context.global.quiet;
    move |report| {
        let text = match report.stage {
            Stage::Compose => "composing the template",
            Stage::Sample => "bringing some of its content",
            Stage::Copy => "copying its disk",
            Stage::Export => "writing its disk",
            Stage::Commit => "pushing what its guest changed",
            Stage::Bring => "bringing its content",
            Stage::Identity => "making its disk and identity",
            Stage::FindWarm => "looking for its warm snapshot",
            Stage::Wake => "waking it, with an identity",
            Stage::Keep => "pushing its memory and devices",
            Stage::Kernel => "reading its kernel",
            Stage::Machine => "starting the machine",
            Stage::Boot => "booting",
            Stage::ShutDown => "shutting down",
        };
        let seconds = report.seconds;
        match report.stall {
            _ if quiet => {}
            None => note!("{seconds:7.2} s  {text}"),
            Some(stall) => note!("{seconds:7.2} s  {text} waits: {stall}"),
        }
    }
}

/// Prints how a start went: the times for people, the instance for programs.
fn show_started(context: &Context, outcome: Outcome) -> anyhow::Result<()> {
    let Outcome::Started { instance, login } = outcome else {
        return Err(unexpected(&outcome));
    };
    if let (Some(WarmStart::Cold { reason }), false) = (&instance.warm, context.global.quiet) {
        note!("           it booted instead of starting warm: {reason}");
    }
    if let (Some(login), false) = (login, context.global.quiet) {
        note!("{:7.2} s  login prompt", login.seconds);
        let (waited, fetched) = (login.waited_seconds, bytes(login.fetched_bytes));
        note!("           {waited:.2} s of it reads waited for {fetched}");
        if login.boot_set_bytes > 0 {
            let brought = bytes(login.boot_set_bytes);
            note!("           {brought} came as the boot set of the template, or of one like it");
        }
    }
    let shown = Shown {
        instance: *instance,
        login,
    };
    crate::output::print_one(&shown, context.global.format, context.global.quiet)
}

/// An instance with all that there is to say.
#[derive(Debug, Serialize)]
struct Shown {
    #[serde(flatten)]
    instance: Instance,
    #[serde(skip_serializing_if = "Option::is_none")]
    login: Option<LoginTime>,
}

impl Row for Shown {
    const COLUMNS: &'static [&'static str] = &[
        "Name",
        "State",
        "Autostart",
        "Started",
        "Template",
        "Machine",
        "Disk",
        "Data disks",
        "Local",
        "Boot set",
        "ETA",
        "Stall",
        "Stalls",
        "Sources",
        "Survives",
        "SSH",
        "Ports",
        "Console",
        "Log",
    ];

    fn cells(&self) -> Vec<String> {
        let instance = &self.instance;
        let machine = &instance.machine;
        let disk = &instance.disk;
        vec![
            instance.name.clone(),
            state(instance),
            if instance.autostart { "on" } else { "off" }.to_owned(),
            started(instance.warm.as_ref()),
            format!("{} {}", instance.reference, instance.template.short()),
            format!(
                "{} processors, {}",
                machine.cpus,
                bytes(machine.memory_bytes)
            ),
            format!(
                "{}, {} written",
                bytes(disk.bytes),
                bytes(disk.written_bytes)
            ),
            data_disks(instance),
            local(disk),
            boot_set(disk),
            eta(disk),
            stall(disk),
            stalls(&disk.stalls),
            sources(disk),
            survives(disk.survives).into(),
            format!("{}@127.0.0.1 port {}", instance.ssh.user, instance.ssh.port),
            ports(instance),
            instance.console.socket.display().to_string(),
            instance.console.log.display().to_string(),
        ]
    }
}

pub(super) fn state(instance: &Instance) -> String {
    let state = match instance.state {
        InstanceState::Deploying => "deploying",
        InstanceState::Stopped => "stopped",
        InstanceState::Running => "running",
        InstanceState::Paused => "paused",
        InstanceState::Silent => "silent",
    };
    match &instance.reason {
        // A pause that somebody asked for has no other reason.
        Some(reason) if reason != state => format!("{state} ({reason})"),
        _ => state.to_owned(),
    }
}

/// How an instance began.
fn started(warm: Option<&WarmStart>) -> String {
    match warm {
        None => "by a boot".into(),
        Some(WarmStart::From { snapshot }) => format!("warm, from {}", snapshot.short()),
        Some(WarmStart::Cold { reason }) => format!("by a boot, not warm: {reason}"),
    }
}

/// How much of an instance's content this host has.
fn local(disk: &ShownDisk) -> String {
    let share = match disk.content_bytes {
        0 => 100,
        all => u128::from(disk.local_bytes) * 100 / u128::from(all),
    };
    let all = bytes(disk.content_bytes);
    if disk.place == ShownPlace::File {
        return "all, in a plain file".into();
    }
    match &disk.fill {
        Fill::Running if share < 100 => format!("{share}% of {all}, rising"),
        Fill::Waiting { reason } => format!("{share}% of {all}, waiting: {reason}"),
        Fill::CacheFull => format!("{share}% of {all}, the cache is full"),
        Fill::Damaged { reason } => format!("{share}% of {all}, {reason}"),
        Fill::Off | Fill::Running | Fill::Whole => format!("{share}% of {all}"),
    }
}

/// How much this host has of what boots of a machine's template read.
fn boot_set(disk: &ShownDisk) -> String {
    match disk.boot_set {
        None => "unknown".into(),
        Some(BootSetShare { bytes: 0, .. }) => "100%".into(),
        Some(BootSetShare {
            bytes: of,
            local_bytes,
        }) => {
            let share = u128::from(local_bytes) * 100 / u128::from(of);
            format!("{share}% of {}", bytes(of))
        }
    }
}

/// When all of a machine's content will be here.
fn eta(disk: &ShownDisk) -> String {
    match disk.eta_seconds {
        Some(0.0) => "all here".into(),
        Some(seconds) => rough_time(seconds),
        // It comes when it is read.
        None if disk.fill == Fill::Off => "-".into(),
        None => "unknown".into(),
    }
}

/// Why and for how long a machine is stalled, in short.
fn stall(disk: &ShownDisk) -> String {
    match &disk.stalls.now {
        Some(now) => format!("{} for {}", now.cause, rough_time(now.seconds)),
        None => "-".into(),
    }
}

/// The stalls of a machine so far, and why it is in one.
fn stalls(stalls: &ShownStalls) -> String {
    let causes = stalls.causes.iter();
    let causes = causes.map(|(cause, seconds)| format!("{cause} {seconds:.1} s"));
    let causes = causes.collect::<Vec<_>>().join(", ");
    let now = stalls.now.as_ref();
    let now = now.map_or_else(String::new, |now| format!("; now: {}", now.reason));
    match stalls.count {
        0 => "none".into(),
        count => format!("{count}, {:.1} s ({causes}){now}", stalls.seconds),
    }
}

/// A time for people: two units at most.
fn rough_time(seconds: f64) -> String {
    let whole = seconds.ceil().clamp(0.0, 1e15) as u64;
    match whole {
        0..60 => format!("{whole} s"),
        60..3600 => format!("{} min {} s", whole / 60, whole % 60),
        3600..86_400 => format!("{} h {} min", whole / 3600, whole % 3600 / 60),
        _ => format!("{} d {} h", whole / 86_400, whole % 86_400 / 3600),
    }
}

/// What a machine runs on without.
fn survives(survives: Survives) -> &'static str {
    match (survives.service, survives.registry) {
        (true, true) => "the loss of the host service and of the registry",
        (true, false) => "the loss of the host service",
        (false, true) => "the loss of the registry; without the host service it waits",
        (false, false) => "none: without the registry or the host service it waits",
    }
}

fn data_disks(instance: &Instance) -> String {
    let disks = instance.data_disks.iter();
    let disks = disks.map(|disk| {
        let (size, written) = (bytes(disk.bytes), bytes(disk.written_bytes));
        format!("{} {size}, {written} written", disk.serial)
    });
    match disks.collect::<Vec<_>>().join("; ") {
        none if none.is_empty() => "none".to_owned(),
        disks => disks,
    }
}

/// Where content comes from, how much came, and who is not asked now.
fn sources(disk: &ShownDisk) -> String {
    let sources = disk.sources.iter().map(|source| {
        let came = format!("{} {}", source.url, bytes(source.bytes));
        match source.state {
            ShownSourceState::Asked => came,
            ShownSourceState::LeftAlone { millis } => {
                let seconds = millis.div_ceil(1000);
                format!("{came} (failed, left alone for {seconds} s)")
            }
            ShownSourceState::Probed => format!("{came} (failed, to be tried again)"),
        }
    });
    sources.collect::<Vec<_>>().join(", ")
}

fn ports(instance: &Instance) -> String {
    let ports = instance.ports.iter();
    let ports = ports.map(|port| format!("{}:{}", port.host, port.guest));
    ports.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rough() {
        for (seconds, text) in [
            (0.2, "1 s"),
            (59.0, "59 s"),
            (61.5, "1 min 2 s"),
            (7260.0, "2 h 1 min"),
            (90_000.0, "1 d 1 h"),
        ] {
            assert_eq!(rough_time(seconds), text);
        }
    }
}
