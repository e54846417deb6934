//! `shale host`: the service that owns this host's cache, overlays and virtual machines.

mod metrics;
mod run;
mod shutdown;

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use shale_hostd::api::{
    Failure as HostFailure, FailureKind, Outcome, Request, StageReport, ToMount,
};
use shale_hostd::{CallError, GiveMount, HostClient, private_dir};
use shale_hvplug::ProcessId;

use crate::context::Context;
use crate::failure::{Exit, Failure};

pub(crate) use run::{HostOptions, HostService, parse_fill_rate};

/// How long a service in the background may take until it answers: it opens the cache and finds the
/// machines that run.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// How long a service may take to close its disks and tell registries of boots.
const ENDS_WITHIN: Duration = Duration::from_secs(60);

/// How long it may take another command's service, of two that were started at once, to answer. Who has what a service
/// needs and is none does not answer at all.
const OTHER_READY_WITHIN: Duration = Duration::from_secs(10);

/// How often a starting service is asked.
const POLL: Duration = Duration::from_millis(20);

/// Bytes of the service's log that an error shows.
const SAID_BYTES: usize = 1000;

/// The service of this host
#[derive(Debug, Subcommand)]
pub(crate) enum HostCommand {
    Run(run::Run),
    Stop(StopService),
    Shutdown(shutdown::Shutdown),
    Metrics(metrics::Metrics),
}

impl HostCommand {
    pub(crate) fn run(self, context: &Context) -> anyhow::Result<()> {
        match self {
            HostCommand::Run(run) => run.run(context),
            HostCommand::Stop(stop) => stop.run(context),
            HostCommand::Shutdown(shutdown) => shutdown.run(context),
            HostCommand::Metrics(metrics) => metrics.run(context),
        }
    }
}

/// End the service; virtual machines run on, their disks waiting for the next one, as do those who use mounts
#[derive(Debug, Args)]
pub(crate) struct StopService {}

impl StopService {
    fn run(self, context: &Context) -> anyhow::Result<()> {
        let socket = context.dirs.host_socket();
        let client = match HostClient::connect(&socket) {
            Ok(client) => client,
            Err(CallError::NoService(_)) => return Ok(()),
            Err(error) => return Err(failure(error)),
        };
        let outcome = client.call(Request::End, |_| {}).map_err(failure)?;
        let Outcome::Ending { pid } = outcome else {
            return Err(unexpected(&outcome));
        };
        // The socket is no sign: where a service manager listens on it, a connection starts the next service.
        match ProcessId::of(pid).is_none_or(|service| service.wait(ENDS_WITHIN)) {
            true => Ok(()),
            false => {
                let text = "the host service does not end";
                Err(Failure::new(Exit::Unavailable, text).into())
            }
        }
    }
}

/// As [`call`], for a request in whose middle the service has this command mount.
pub(crate) fn call_to_mount(
    context: &Context,
    request: Request,
    on_stage: impl FnMut(StageReport),
    mount: impl FnOnce(ToMount) -> anyhow::Result<GiveMount>,
) -> anyhow::Result<Outcome> {
    let mount = |how| mount(how).map_err(MountFailure::Here);
    let done = connect(context)?.call_to_mount(request, on_stage, mount);
    done.map_err(|error| match error {
        MountFailure::Call(error) => failure(error),
        MountFailure::Here(error) => error,
    })
}

/// Why a mount failed: the service, or this command.
enum MountFailure {
    Call(CallError),
    Here(anyhow::Error),
}

impl From<CallError> for MountFailure {
    fn from(error: CallError) -> Self {
        Self::Call(error)
    }
}

/// Tells the service that a directory was unmounted, if it runs; else the next one sees it.
pub(crate) fn tell_unmounted(context: &Context, directory: PathBuf) -> anyhow::Result<()> {
    match HostClient::connect(&context.dirs.host_socket()) {
        Err(CallError::NoService(_)) => Ok(()),
        connected => {
            let client = connected.map_err(failure)?;
            let told = client.call(Request::Unmounted { directory }, |_| {});
            told.map(drop).map_err(failure)
        }
    }
}

/// Asks the service of this host, which is started in the background where it does not run: it alone
/// knows which machines run.
pub(crate) fn call(
    context: &Context,
    request: Request,
    on_stage: impl FnMut(StageReport),
) -> anyhow::Result<Outcome> {
    connect(context)?.call(request, on_stage).map_err(failure)
}

/// A connection to the service of this host, started as for [`call`].
pub(crate) fn connect(context: &Context) -> anyhow::Result<HostClient> {
    match HostClient::connect(&context.dirs.host_socket()) {
        Err(CallError::NoService(_)) => start(context),
        connected => connected.map_err(failure),
    }
}

/// Starts the service in the background and waits until it answers.
fn start(context: &Context) -> anyhow::Result<HostClient> {
    let socket = context.dirs.host_socket();
    let said_before = fs::metadata(context.dirs.host_log()).map_or(0, |log| log.len());
    let mut child = spawn(context)?;
    let deadline = Instant::now() + READY_WITHIN;
    loop {
        if let Ok(client) = HostClient::connect(&socket) {
            return Ok(client);
        }
        if let Some(status) = child.try_wait()? {
            // Two commands may have started one each, of which one remains; it may not listen yet.
            let wait = match status.code() {
                Some(code) if code == Exit::Conflict as i32 => OTHER_READY_WITHIN,
                _ => Duration::ZERO,
            };
            return wait_for_other(&socket, wait)
                .ok_or_else(|| ended(context, status, said_before));
        }
        if Instant::now() > deadline {
            let text = format!("the host service does not answer within {READY_WITHIN:?}");
            let hint = format!("its log is {}", context.dirs.host_log().display());
            return Err(Failure::new(Exit::Unavailable, text).hint(hint).into());
        }
        sleep(POLL);
    }
}

/// The service that another command has started.
fn wait_for_other(socket: &Path, wait: Duration) -> Option<HostClient> {
    let deadline = Instant::now() + wait;
    loop {
        match HostClient::connect(socket) {
            Ok(client) => return Some(client),
            Err(_) if Instant::now() < deadline => sleep(POLL),
            Err(_) => return None,
        }
    }
}

/// Why a service ended that was started.
fn ended(context: &Context, status: ExitStatus, said_before: u64) -> anyhow::Error {
    let log = fs::read(context.dirs.host_log()).unwrap_or_default();
    // One that was begun anew meanwhile has nothing of before.
    let said = log.get(said_before as usize..).unwrap_or(&log);
    let said = last_words(&String::from_utf8_lossy(said)).to_owned();
    let start = said.floor_char_boundary(said.len().saturating_sub(SAID_BYTES));
    let text = format!(
        "the host service ended ({status}): {}",
        said[start..].trim()
    );
    let exit = match status.code() {
        Some(code) if code == Exit::Conflict as i32 => Exit::Conflict,
        _ => Exit::Failure,
    };
    Failure::new(exit, text).into()
}

/// What a program that failed said last, without its log.
fn last_words(said: &str) -> &str {
    let at = said.rfind("\nshale: ").map(|at| at + 1);
    at.map_or(said, |at| &said[at..])
}

fn spawn(context: &Context) -> anyhow::Result<Child> {
    let state = &context.dirs.state;
    private_dir(state).with_context(|| format!("make `{}`", state.display()))?;
    let path = context.dirs.host_log();
    let mut options = OpenOptions::new();
    options.create(true).append(true).mode(0o600);
    let log: File = options
        .open(&path)
        .with_context(|| format!("open `{}`", path.display()))?;
    let program = std::env::current_exe().context("find this program")?;
    let mut command = Command::new(program);
    command
        .args(context.as_arguments())
        .args(["host", "run", "--background"])
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    command.spawn().context("start the host service")
}

/// The service answered something else than was asked: a bug.
pub(crate) fn unexpected(outcome: &Outcome) -> anyhow::Error {
    anyhow::anyhow!("the host service answered {outcome:?}")
}

/// An error of the service as one of this command.
pub(crate) fn failure(error: CallError) -> anyhow::Error {
    match error {
        CallError::Failed(HostFailure {
            kind,
            message,
            hint,
            request,
        }) => {
            let failure = Failure::new(exit_of(kind), message).request(request);
            match hint {
                Some(hint) => failure.hint(hint).into(),
                None => failure.into(),
            }
        }
        CallError::Output(source) => source.into(),
        CallError::NoService(source) => {
            let text = format!("the host service does not run ({source})");
            let hint = "`shale vm deploy` and `shale vm start` start it";
            Failure::new(Exit::Unavailable, text).hint(hint).into()
        }
        CallError::Gone(source) => {
            let text = format!("the host service went away ({source})");
            let hint = "the next command starts another, which finds the machines again";
            Failure::new(Exit::Unavailable, text).hint(hint).into()
        }
    }
}

fn exit_of(kind: FailureKind) -> Exit {
    match kind {
        FailureKind::NotFound => Exit::NotFound,
        FailureKind::Denied => Exit::Denied,
        FailureKind::Conflict => Exit::Conflict,
        FailureKind::Unavailable => Exit::Unavailable,
        FailureKind::Integrity => Exit::Integrity,
        FailureKind::Invalid => Exit::Usage,
        FailureKind::NoSpace | FailureKind::Failed => Exit::Failure,
    }
}
