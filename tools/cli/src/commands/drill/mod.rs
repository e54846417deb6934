//! `shale drill`: what happens to a machine when something fails, rehearsed.

mod guest;
mod watch;

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use serde::Serialize;
use shale_hostd::api::{DrillFault, InstanceState, MAX_DRILL_SECONDS, Outcome, Request};
use shale_hvplug::ProcessId;

use super::host::{call, unexpected};
use super::vm::{inspect_one, state};
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::output::{Row, note, parse_bytes, print_one};
use guest::{Guest, GuestSaw, Lines, Login, Longest};
use watch::{LOOK_EVERY, Seen, Watch};

/// Operations of the guest before the fault, and after it: enough to know what is usual.
const OPERATIONS: usize = 3;

/// How long a process that was killed may take to be gone.
const GONE_WITHIN: Duration = Duration::from_secs(10);

/// How long an operation may take beyond the fault: a machine that stands still goes on within ten seconds.
const PATIENCE: Duration = Duration::from_secs(120);

/// Rehearse a failure with a machine, and tell what its guest saw
///
/// Choose a machine that nobody needs: its guest may stand still meanwhile. Before, during and
/// after the failure the guest reads and writes a little, if you can log in with `shale vm ssh`.
/// The failure is over by itself after its time, also when this command is killed. Exit code 0:
/// the guest saw no error and no wrong byte.
///
/// Examples:
///   shale drill registry-down --vm canary --for 30
///   shale drill slow-link --vm canary --delay 200 --rate 1M --yes
///   shale drill daemon-kill --vm canary --format json --yes
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Drill {
    /// What fails
    #[arg(value_enum)]
    what: What,
    /// The machine
    #[arg(long, value_name = "NAME")]
    vm: String,
    /// For how long
    #[arg(long = "for", value_name = "SECONDS", default_value_t = 20,
        value_parser = clap::value_parser!(u64).range(1..=MAX_DRILL_SECONDS))]
    seconds: u64,
    /// With slow-link: how much longer every request takes, in milliseconds
    #[arg(long, value_name = "MILLISECONDS", default_value_t = 200)]
    delay: u64,
    /// With slow-link: bytes a second of each request
    #[arg(long, value_name = "SIZE", default_value = "1M", value_parser = parse_bytes)]
    rate: u64,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

/// What fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
enum What {
    /// The registry and its mirrors count as unreachable, for all machines that come from there.
    RegistryDown,
    /// The host service is killed, and started again.
    DaemonKill,
    /// Every request to registry and mirrors takes longer (--delay, --rate).
    SlowLink,
    /// What the guest writes has no room.
    DiskFull,
}

/// What came of a drill. Its JSON is a stable interface.
#[derive(Debug, Serialize)]
struct Report {
    vm: String,
    drill: What,
    /// How long the failure was to last.
    seconds: u64,
    /// Other machines that felt it.
    others: Vec<String>,
    /// `None`: nobody could log in.
    guest: Option<GuestSaw>,
    /// What the machine did, as the host saw it, from the beginning of the failure on.
    states: Vec<Seen>,
    /// Whether the guest saw no error and no wrong byte, as far as it is known, and runs.
    passed: bool,
}

impl Drill {
    pub(crate) fn run(self, context: &Context) -> anyhow::Result<()> {
        let instance = inspect_one(context, &self.vm)?;
        if instance.state != InstanceState::Running {
            let text = format!("`{}` is {}, and does not run", self.vm, state(&instance));
            return Err(Failure::new(Exit::Conflict, text).into());
        }
        if !self.yes && !self.asked()? {
            return Ok(());
        }
        let report = match Login::open(&instance)? {
            None => {
                note!(
                    "nobody can log in to `{}`: only what the host sees is told",
                    self.vm
                );
                self.rehearse(context, None)?
            }
            Some(login) => login.during(|lines| self.rehearse(context, Some(lines)))?,
        };
        print_one(&report, context.global.format, context.global.quiet)?;
        let exit = match &report.guest {
            _ if report.passed => return Ok(()),
            Some(guest) if guest.wrong > 0 => Exit::Integrity,
            _ => Exit::Failure,
        };
        let text = format!("`{}` did not come through this unharmed", self.vm);
        Err(Failure::new(exit, text).into())
    }

    /// Whether the user wants it.
    fn asked(&self) -> anyhow::Result<bool> {
        if !io::stdin().is_terminal() {
            let text = format!("a drill disturbs the guest of `{}`", self.vm);
            let hint = "--yes says that you mean it";
            return Err(Failure::new(Exit::Usage, text).hint(hint).into());
        }
        let mut terminal = io::stderr();
        write!(terminal, "Disturb the guest of `{}`? [y/N] ", self.vm)?;
        terminal.flush()?;
        let mut line = String::new();
        io::stdin().read_line(&mut line)?;
        Ok(matches!(line.trim(), "y" | "Y" | "yes"))
    }

    fn rehearse(&self, context: &Context, lines: Option<Lines<'_>>) -> anyhow::Result<Report> {
        let mut watch = Watch::new(context, &self.vm);
        let limit = PATIENCE + Duration::from_secs(self.seconds);
        let mut guest = lines.map(|lines| Guest::new(lines, limit));
        if let Some(guest) = &mut guest {
            guest.begin(&mut watch)?;
            for _ in 0..OPERATIONS {
                let took = guest.operate(&mut watch)?;
                guest.saw.longest_seconds.before = guest.saw.longest_seconds.before.max(took);
            }
        }
        watch.begin();
        let others = self.fail(context)?;
        let until = Instant::now() + Duration::from_secs(self.seconds);
        while Instant::now() < until {
            match &mut guest {
                None => watch.look_for(LOOK_EVERY),
                Some(guest) => {
                    let took = guest.operate(&mut watch)?;
                    guest.saw.longest_seconds.during = guest.saw.longest_seconds.during.max(took);
                }
            }
        }
        if let Some(guest) = &mut guest {
            for _ in 0..OPERATIONS {
                let took = guest.operate(&mut watch)?;
                guest.saw.longest_seconds.after = guest.saw.longest_seconds.after.max(took);
            }
            guest.end(&mut watch)?;
        }
        let runs = watch.until_it_runs();
        let guest = guest.map(|guest| guest.saw);
        let unharmed = guest.as_ref().is_none_or(GuestSaw::is_unharmed);
        Ok(Report {
            vm: self.vm.clone(),
            drill: self.what,
            seconds: self.seconds,
            others,
            guest,
            states: watch.seen,
            passed: runs && unharmed,
        })
    }

    /// Lets it fail; the other machines that feel it.
    fn fail(&self, context: &Context) -> anyhow::Result<Vec<String>> {
        let fault = match self.what {
            What::DaemonKill => {
                kill_service(context)?;
                call(context, Request::Hello, |_| {})?;
                return Ok(Vec::new());
            }
            What::RegistryDown => DrillFault::RegistryDown,
            What::DiskFull => DrillFault::DiskFull,
            What::SlowLink => DrillFault::SlowLink {
                delay_millis: self.delay,
                bytes_per_second: self.rate,
            },
        };
        let (name, seconds) = (self.vm.clone(), self.seconds);
        let request = Request::Drill {
            name,
            fault,
            seconds,
        };
        match call(context, request, |_| {})? {
            Outcome::Drilled { others } => {
                if !others.is_empty() {
                    note!("{} come from there, too", others.join(", "));
                }
                Ok(others)
            }
            other => Err(unexpected(&other)),
        }
    }
}

/// The service says who it is: where a service manager listens for it, the socket is the manager's.
fn kill_service(context: &Context) -> anyhow::Result<()> {
    let pid = match call(context, Request::Hello, |_| {})? {
        Outcome::Here { pid } => pid,
        other => return Err(unexpected(&other)),
    };
    let service = ProcessId::of(pid).context("find the host service")?;
    match service.kill(GONE_WITHIN) {
        true => Ok(()),
        false => Err(anyhow::anyhow!("the host service cannot be killed")),
    }
}

impl Row for Report {
    const COLUMNS: &'static [&'static str] = &["VM", "Drill", "Guest", "Machine", "Passed"];

    fn cells(&self) -> Vec<String> {
        let guest = match &self.guest {
            None => "nobody could log in".into(),
            Some(guest) => {
                let Longest {
                    before,
                    during,
                    after,
                } = guest.longest_seconds;
                let kernel = guest.kernel_errors;
                let kernel = kernel.map_or("unknown".into(), |errors| errors.to_string());
                format!(
                    "{} operations, {} errors, {} wrong, {kernel} in its kernel log; the longest took \
                     {before:.2} s before, {during:.2} s during, {after:.2} s after",
                    guest.operations, guest.errors, guest.wrong
                )
            }
        };
        let states = self.states.iter();
        let states = states.map(|seen| format!("{:.1} s {}", seen.seconds, seen.state));
        vec![
            self.vm.clone(),
            format!("{:?} for {} s", self.what_name(), self.seconds).replace('"', ""),
            guest,
            states.collect::<Vec<_>>().join(", "),
            match self.passed {
                true => "yes".into(),
                false => "no".into(),
            },
        ]
    }
}

impl Report {
    fn what_name(&self) -> String {
        let value = self.drill.to_possible_value();
        value.map_or_else(String::new, |value| value.get_name().to_owned())
    }
}
