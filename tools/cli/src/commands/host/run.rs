//! `shale host run`: the service itself.

use std::ffi::CString;
use std::fs::{self, Permissions};
use std::future::Future;
use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use anyhow::Context as _;
use clap::Args;
use nix::unistd::{User, getgrouplist};
use shale_hostd::{
    Exposure, Host, HostDirs, HostParts, HttpError, HttpListener, listen_http, serve_control,
    serve_http,
};
use shale_hvplug::{Account, Driver, Qemu};
use shale_nbd::listen_unix;
use shale_view::{Counters, FillRate};
use tokio::net::UnixListener;

use crate::commands::keeper;
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::logging::{LogOf, LogOptions, say_to_log, warn_in_log};
use crate::output::parse_bytes;
use crate::settings::{Settings, SettingsError, parse_address, parse_switch};
use crate::system::Signals;

/// The user that machines of root's service run as, where there is one of this name.
const MACHINE_USER: &str = "shale-vm";

/// The setting that names another.
const MACHINE_USER_KEY: &str = "host.user";

/// Run the service that virtual machines of this host are made and served by
///
/// `shale vm deploy` starts it in the background where it does not run. It ends on SIGINT or SIGTERM.
/// Machines run on without it, their disks waiting, and are taken over by the next one, however it
/// ended. On SIGHUP it reads its settings again: the fill rate and the size of the cache change while it
/// runs. It logs on standard error. Where it is root, machines run as the user `shale-vm`, if there is one. A service manager may
/// listen on its socket (LISTEN_FDS), and is told how it is (NOTIFY_SOCKET).
///
/// Examples:
///   shale host run
///   shale host run --metrics 127.0.0.1:9420 --log-format json
///   systemctl reload shale-host
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Run {
    /// Leave the terminal's session
    #[arg(long, hide = true)]
    background: bool,
    #[command(flatten)]
    options: HostOptions,
    #[command(flatten)]
    log: LogOptions,
}

/// What a host service can be told.
#[derive(Debug, Args)]
pub(crate) struct HostOptions {
    /// How fast the content of machines is brought here before they ask for it: bytes a second, `max` or `off`
    ///
    /// 100M unless a file of settings says otherwise. Reads of machines come first. The service that `shale vm deploy`
    /// starts takes it from the environment or a file.
    #[arg(long, env = "SHALE_FILL_RATE", value_name = "SIZE|max|off", value_parser = parse_fill_rate)]
    fill_rate: Option<FillRate>,
    /// Serve /metrics, /healthz, /readyz and /version over HTTP there: an address of loopback and a port
    ///
    /// Not at all unless a file of settings says otherwise. `shale host metrics` prints the same.
    #[arg(long, env = "SHALE_METRICS", value_name = "ADDRESS")]
    metrics: Option<SocketAddr>,
    /// Serve that also beyond loopback: to everybody who reaches the address, without TLS and tokens
    #[arg(long)]
    insecure_metrics: bool,
}

impl HostOptions {
    /// Where metrics are to be had, and by whom.
    fn metrics(&self, settings: &Settings) -> anyhow::Result<Option<(SocketAddr, Exposure)>> {
        let said = settings.text("host.metrics");
        let address = match (self.metrics, said) {
            (Some(address), _) => address,
            (None, Some(_)) => settings.pick(None, "host.metrics", parse_address)?,
            (None, None) => return Ok(None),
        };
        let everybody = self.insecure_metrics.then_some(true);
        let everybody = settings.pick(everybody, "host.insecure-metrics", parse_switch)?;
        let exposure = match everybody {
            true => Exposure::Everybody,
            false => Exposure::ThisMachine,
        };
        Ok(Some((address, exposure)))
    }
}

impl Run {
    pub(super) fn run(self, context: &Context) -> anyhow::Result<()> {
        if self.background {
            // A session of its own: the end of a terminal does not reach it.
            nix::unistd::setsid().context("begin a session")?;
        }
        self.log.begin(LogOf::Host, &context.settings)?;
        let service = HostService::open(context, self.options)?;
        context.runtime.block_on(async {
            let signals = Signals::watch()?;
            let listener = service.listen(context)?;
            if let Some(address) = service.metrics_address {
                say_to_log(&format!("metrics on http://{address}/metrics"));
            }
            say_to_log(&format!("serving on {}", service.socket.display()));
            let reload = || {
                let settings = Settings::load().map_err(SettingsError::failure)?;
                service.reload(context, &settings)?;
                service.status(context, &settings)
            };
            let status = service.status(context, &context.settings)?;
            let attend = context.system.attend(signals, status, reload);
            let tell = async {
                // Whoever ends it: a signal or a client.
                service.host.ended().await;
                context.system.stopping();
            };
            tokio::join!(service.serve(listener, attend), tell);
            Ok(())
        })
    }
}

/// A host service, for whoever runs it.
pub(crate) struct HostService {
    pub(crate) host: Arc<Host>,
    pub(crate) socket: PathBuf,
    options: HostOptions,
    /// Where metrics are asked for, until it serves.
    metrics: Mutex<Option<HttpListener>>,
    metrics_address: Option<SocketAddr>,
}

impl HostService {
    /// Takes over what runs. Blocks.
    pub(crate) fn open(context: &Context, options: HostOptions) -> anyhow::Result<Self> {
        // First: what cannot be served is known before anything is taken over.
        let metrics = match options.metrics(&context.settings)? {
            Some((address, exposure)) => {
                let listen = listen_http(address, exposure);
                Some(context.runtime.block_on(listen).map_err(hinted)?)
            }
            None => None,
        };
        let account = machine_user(context)?;
        let driver = Arc::new(match account.clone() {
            Some(account) => Qemu::new().run_as(account),
            None => Qemu::new(),
        });
        if let Some(missing) = driver.capabilities().missing {
            warn_in_log(&format!("no machine can be started here: {missing}"));
        }
        let places = context.places();
        let handle = context.runtime.handle().clone();
        let host = Host::open(HostParts {
            dirs: context.dirs.clone(),
            driver,
            open_place: Box::new(move |repository| {
                let opened = places.open(repository);
                // So that the service sees which error it is.
                opened.map_err(anyhow::Error::reallocate_into_boxed_dyn_error_without_backtrace)
            }),
            cache: context.cache()?,
            counters: Arc::new(Counters::default()),
            fill: fill_rate(&options, &context.settings)?,
            clock: SystemTime::now,
            start_keeper: Box::new(keeper::start),
            tell: Box::new(|text| tracing::warn!("{text}")),
            runtime: handle,
        })?;
        if account.is_some() {
            open_ways(&context.dirs)?;
        }
        Ok(Self {
            host,
            socket: context.dirs.host_socket(),
            options,
            metrics_address: metrics.as_ref().map(|listener| listener.address),
            metrics: Mutex::new(metrics),
        })
    }

    /// The socket that clients connect to: the service manager's, if it listens already. Must be called within the
    /// runtime.
    pub(crate) fn listen(&self, context: &Context) -> anyhow::Result<UnixListener> {
        let given = context.system.unix_listener();
        match given.context("take over the socket that listens")? {
            Some(listener) => Ok(UnixListener::from_std(listener)?),
            None => Ok(listen_unix(&self.socket)?),
        }
    }

    /// Serves until it is told to end; `ended` is one way of that.
    pub(crate) async fn serve(&self, listener: UnixListener, ended: impl Future<Output = ()>) {
        let uid = nix::unistd::geteuid().as_raw();
        let control = tokio::spawn({
            let host = self.host.clone();
            async move { serve_control(host.clone(), listener, uid, host.ended()).await }
        });
        let metrics = {
            let mut metrics = self.metrics.lock().unwrap_or_else(PoisonError::into_inner);
            metrics.take()
        };
        let metrics = metrics.map(|listener| {
            let host = self.host.clone();
            tokio::spawn(async move { serve_http(host.clone(), listener, host.ended()).await })
        });
        self.host.run(ended).await;
        // Nobody is accepted any more.
        let _ = control.await;
        if let Some(metrics) = metrics {
            let _ = metrics.await;
        }
        // The socket stays, as nobody knows whose it is by now: the next service replaces one that nobody listens on.
    }

    /// Takes up what the settings say by now.
    pub(crate) fn reload(&self, context: &Context, settings: &Settings) -> anyhow::Result<()> {
        let fill = fill_rate(&self.options, settings)?;
        Ok(self.host.reload(fill, context.cache_settings(settings)?)?)
    }

    /// What is served, and how, in a line.
    pub(crate) fn status(&self, context: &Context, settings: &Settings) -> anyhow::Result<String> {
        let rate = match fill_rate(&self.options, settings)? {
            FillRate::Off => "off".to_owned(),
            FillRate::Unlimited => "max".to_owned(),
            FillRate::PerSecond(rate) => format!("{}/s", crate::output::bytes(rate.get())),
        };
        let cache = context.cache_settings(settings)?.cap_bytes;
        let cache = crate::output::bytes(cache);
        let socket = self.socket.display();
        let metrics = self.metrics_address;
        let metrics = metrics.map(|at| format!(", metrics on http://{at}/metrics"));
        let metrics = metrics.unwrap_or_default();
        Ok(format!(
            "serving on {socket}, cache of {cache}, fill rate {rate}{metrics}"
        ))
    }
}

/// The user that machines run as, if this is root and there is one.
fn machine_user(context: &Context) -> anyhow::Result<Option<Account>> {
    if !nix::unistd::geteuid().is_root() {
        return Ok(None);
    }
    let said = context.settings.text(MACHINE_USER_KEY);
    let name = said.unwrap_or(MACHINE_USER);
    let user = User::from_name(name).with_context(|| format!("look up the user `{name}`"))?;
    let Some(user) = user.filter(|user| !user.uid.is_root()) else {
        return match said {
            None => Ok(None),
            Some("root") => Ok(None),
            Some(name) => {
                let text = format!("{MACHINE_USER_KEY}: there is no user `{name}`");
                Err(Failure::new(Exit::Usage, text).into())
            }
        };
    };
    if let Some(closed) = closed_way(&context.dirs) {
        let closed = closed.display();
        let text = format!("machines cannot run as `{name}`, whom `{closed}` does not let through");
        if said.is_none() {
            warn_in_log(&format!("{text}: they run as root"));
            return Ok(None);
        }
        let hint = format!("chmod o+x {closed}, or choose another --state");
        return Err(Failure::new(Exit::Usage, text).hint(hint).into());
    }
    let own = CString::new(name)?;
    let groups = getgrouplist(&own, user.gid).context("look up its groups")?;
    // Its own group would be shared by all machines.
    let groups = groups.iter().filter(|group| **group != user.gid);
    Ok(Some(Account {
        uid: user.uid.as_raw(),
        groups: groups.map(|group| group.as_raw()).collect(),
    }))
}

/// Says how to be allowed to listen.
fn hinted(error: HttpError) -> anyhow::Error {
    match error {
        HttpError::Exposed(_) => {
            let hint = "--metrics 127.0.0.1:PORT, with a proxy before it that has TLS and asks who \
                        comes; or say --insecure-metrics";
            Failure::new(Exit::Usage, error.to_string())
                .hint(hint)
                .into()
        }
        HttpError::Address { .. } => error.into(),
    }
}

/// A directory above those of the service that does not let everybody through. It is not the service's to open.
fn closed_way(dirs: &HostDirs) -> Option<PathBuf> {
    let above = dirs.state.ancestors().skip(1);
    let above = above.filter(|dir| fs::metadata(dir).is_ok_and(|found| found.mode() & 1 == 0));
    above.last().map(Path::to_owned)
}

/// Lets machines that run as another user pass on the way to their own files. What lies in these directories says for
/// itself who may read it.
fn open_ways(dirs: &HostDirs) -> anyhow::Result<()> {
    for dir in [dirs.state.clone(), dirs.instances(), dirs.run()] {
        let failed = || format!("let machines pass through `{}`", dir.display());
        let mode = fs::metadata(&dir).with_context(failed)?.mode() & 0o7777;
        let passable = Permissions::from_mode(mode | 0o011);
        fs::set_permissions(&dir, passable).with_context(failed)?;
    }
    Ok(())
}

fn fill_rate(options: &HostOptions, settings: &Settings) -> anyhow::Result<FillRate> {
    settings.pick(options.fill_rate, "host.fill-rate", parse_fill_rate)
}

/// A rate in bytes a second, `max` or `off`.
pub(crate) fn parse_fill_rate(text: &str) -> Result<FillRate, String> {
    match text {
        "off" => Ok(FillRate::Off),
        "max" => Ok(FillRate::Unlimited),
        size => {
            let rate = NonZeroU64::new(parse_bytes(size)?);
            let rate = rate.ok_or_else(|| "a rate of nothing is `off`".to_owned())?;
            Ok(FillRate::PerSecond(rate))
        }
    }
}
