//! `shale server run`: the registry over HTTP.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Args;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use shale_files::DirFiles;
use shale_hostd::{Place, private_dir};
use shale_registry::{
    Admission, Answered, BindError, Certificate, CertificateSlot, Encryption, Observer, Registry,
    Server, Settings as RegistrySettings, TokenStore,
};
use tokio::net::TcpListener;
use tracing::Level;

use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::logging::{LogOf, LogOptions, say_to_log};
use crate::settings::{Settings, SettingsError, parse_address, parse_switch};
use crate::system::Signals;

/// Serve the local repository over HTTP
///
/// On loopback, anybody may read and write until there is a token. On other addresses it wants TLS and
/// tokens: `shale token create` makes them; a certificate is given, or made and its fingerprint printed.
/// Ends on SIGINT or SIGTERM, after the requests on their way. On SIGHUP it reads its certificate again. A
/// service manager may listen on its socket (LISTEN_FDS), and is told how it is (NOTIFY_SOCKET).
///
/// Examples:
///   shale server run
///   shale server run --listen 0.0.0.0:7070 --tls-self-signed
///   shale server run --listen 0.0.0.0:7070 --tls-cert cert.pem --tls-key key.pem
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Run {
    /// Address and port to listen on; port 0 is any free one
    ///
    /// 127.0.0.1:7070 unless a file of settings says otherwise; none if a service manager listens already.
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
    #[command(flatten)]
    options: RegistryOptions,
    #[command(flatten)]
    log: LogOptions,
}

/// What a registry can be told besides where it listens.
#[derive(Debug, Args)]
pub(crate) struct RegistryOptions {
    /// File to write the address to, once it listens
    #[arg(long, value_name = "FILE")]
    address_file: Option<PathBuf>,
    /// Certificate chain, PEM
    #[arg(long, requires = "tls_key", value_name = "FILE")]
    tls_cert: Option<PathBuf>,
    /// Key of the certificate, PEM
    #[arg(long, requires = "tls_cert", value_name = "FILE")]
    tls_key: Option<PathBuf>,
    /// Make a certificate, keep it, and print its fingerprint
    #[arg(long, conflicts_with = "tls_cert")]
    tls_self_signed: bool,
    /// Serve without TLS also beyond loopback: behind a proxy that speaks it
    #[arg(long, conflicts_with_all = ["tls_cert", "tls_self_signed"])]
    insecure_no_tls: bool,
    /// Let everybody read and write, also beyond loopback
    #[arg(long)]
    insecure_no_auth: bool,
}

/// Time that requests on their way get when the server ends.
pub(crate) const GRACE: Duration = Duration::from_secs(20);

impl Run {
    pub(crate) fn run(self, context: &Context) -> anyhow::Result<()> {
        self.log.begin(LogOf::Registry, &context.settings)?;
        let (server, service) = RegistryService::open(context, self.listen, self.options)?;
        context.runtime.block_on(async {
            let signals = Signals::watch()?;
            service.announce(context, &server)?;
            let reload = || {
                let settings = Settings::load().map_err(SettingsError::failure)?;
                service.reload(&settings)?;
                Ok(service.status())
            };
            let attend = context.system.attend(signals, service.status(), reload);
            let ended = async {
                attend.await;
                context.system.stopping();
            };
            server.run(ended, GRACE).await;
            Ok(())
        })
    }
}

/// A registry, for whoever runs it.
pub(crate) struct RegistryService {
    /// Where it is reached.
    url: String,
    certificate: CertificateSlot,
    files: Arc<DirFiles>,
    address: SocketAddr,
    options: RegistryOptions,
}

impl RegistryService {
    /// Opens the repository and listens. Blocks.
    pub(crate) fn open(
        context: &Context,
        listen: Option<SocketAddr>,
        options: RegistryOptions,
    ) -> anyhow::Result<(Server, Self)> {
        let Place::Local(repository) = context.place_to_write(&[])? else {
            let text = "a registry serves a directory, not another registry";
            return Err(Failure::new(Exit::Usage, text).into());
        };
        raise_open_files();
        let state = &context.dirs.state;
        private_dir(state).with_context(|| format!("make `{}`", state.display()))?;
        let files = Arc::new(DirFiles::open(state)?);
        let tokens = TokenStore::new(files.clone(), Arc::new(Instant::now));
        let admission = match options.insecure_no_auth {
            true => Admission::InsecureNoAuth,
            // Refused below when others can reach it.
            false if tokens.list()?.is_empty() => Admission::OpenUntilTokens(Arc::new(tokens)),
            false => Admission::Tokens(Arc::new(tokens)),
        };
        let mut settings = RegistrySettings::new(admission);
        settings.observer = Arc::new(Log);
        let registry = Registry::new(repository, settings)?;
        let given = context.system.tcp_listener();
        let given = given.context("take over the socket that listens")?;
        let address = match &given {
            Some(listener) => listener.local_addr()?,
            None => context
                .settings
                .pick(listen, "server.listen", parse_address)?,
        };
        let encryption = options.encryption(&context.settings, &files, address)?;
        let server = context.runtime.block_on(async {
            match given {
                Some(listener) => registry.serve_on(TcpListener::from_std(listener)?, encryption),
                None => registry.bind(address, encryption).await,
            }
            .map_err(hinted)
        })?;
        let scheme = match server.fingerprint() {
            Some(_) => "https",
            None => "http",
        };
        let service = Self {
            url: format!("{scheme}://{}", server.address()),
            certificate: server.certificate_slot(),
            files,
            address,
            options,
        };
        Ok((server, service))
    }

    /// Says where it is reached.
    pub(crate) fn announce(&self, context: &Context, server: &Server) -> anyhow::Result<()> {
        if !context.global.quiet {
            say_to_log(&format!("serving on {}", self.url));
            if let Some(fingerprint) = server.fingerprint() {
                say_to_log(&format!("fingerprint {fingerprint}"));
            }
        }
        if let Some(file) = &self.options.address_file {
            let written = fs::write(file, &self.url);
            written.with_context(|| format!("write `{}`", file.display()))?;
        }
        Ok(())
    }

    /// What is served, and how, in a line.
    pub(crate) fn status(&self) -> String {
        match self.certificate.fingerprint() {
            Some(fingerprint) => format!("serving on {}, fingerprint {fingerprint}", self.url),
            None => format!("serving on {}", self.url),
        }
    }

    /// Reads its certificate again. Tokens are read again without being told.
    pub(crate) fn reload(&self, settings: &Settings) -> anyhow::Result<()> {
        let encryption = self
            .options
            .encryption(settings, &self.files, self.address)?;
        if let Encryption::Tls(certificate) = encryption {
            self.certificate.replace(certificate);
        }
        Ok(())
    }
}

impl RegistryOptions {
    /// What the options say, or else the files of settings.
    fn encryption(
        &self,
        settings: &Settings,
        files: &Arc<DirFiles>,
        address: SocketAddr,
    ) -> anyhow::Result<Encryption> {
        if self.insecure_no_tls {
            return Ok(Encryption::InsecureNone);
        }
        let said = self.tls_cert.is_some() || self.tls_self_signed;
        let (chain, key, self_signed) = match said {
            true => (
                self.tls_cert.clone(),
                self.tls_key.clone(),
                self.tls_self_signed,
            ),
            false => {
                let key = "server.tls-self-signed";
                let self_signed = settings.pick(None, key, parse_switch)?;
                let path = |key| settings.path(key);
                (path("server.tls-cert"), path("server.tls-key"), self_signed)
            }
        };
        match (chain, key) {
            (Some(chain), Some(key)) => {
                let read = |path: &PathBuf| {
                    fs::read(path).with_context(|| format!("read `{}`", path.display()))
                };
                let certificate = Certificate::from_pem(&read(&chain)?, &read(&key)?)?;
                Ok(Encryption::Tls(certificate))
            }
            (None, None) if self_signed => {
                let names = vec![address.ip().to_string(), "localhost".to_owned()];
                Ok(Encryption::Tls(Certificate::self_signed(&**files, names)?))
            }
            (None, None) => Ok(Encryption::None),
            _ => {
                let text = "the settings have one of server.tls-cert and server.tls-key";
                Err(Failure::new(Exit::Usage, text).hint("give both").into())
            }
        }
    }
}

/// Each connection and each pack that is read takes a file descriptor, and the usual soft limit of 1,024 is less
/// than the connections that a registry accepts. Best effort: with fewer, connections wait.
fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    let _ = setrlimit(Resource::Nofile, raised);
}

/// Says how to be allowed to listen.
fn hinted(error: BindError) -> anyhow::Error {
    let hint = match &error {
        BindError::NeedsTls(_) => "--tls-self-signed makes a certificate; see --help",
        BindError::NeedsTokens(_) => "`shale token create NAME` makes one; see --help",
        BindError::Address { .. } | BindError::Socket(_) => return error.into(),
    };
    Failure::new(Exit::Usage, error.to_string())
        .hint(hint)
        .into()
}

/// What the server does, in its log. A line of a request has its id, which is what a client that failed was told.
struct Log;

/// How much a request matters to whoever reads the log.
fn level(request: &Answered<'_>) -> Level {
    let only_looks = matches!(request.method, "GET" | "HEAD");
    match request.status {
        500.. => Level::ERROR,
        // Somebody comes without a token, or tries one that has ended.
        401 | 403 => Level::WARN,
        _ if only_looks => Level::DEBUG,
        _ => Level::INFO,
    }
}

impl Observer for Log {
    fn answered(&self, answered: &Answered<'_>) {
        let Answered {
            request_id: request,
            method,
            route,
            status,
            took,
            failure,
        } = answered;
        let seconds = took.as_secs_f64();
        // At the highest level, so that every line has it.
        let span = tracing::error_span!("request", request, method, route);
        let _inside = span.enter();
        let said = if failure.is_some() { "failed" } else { "done" };
        match level(answered) {
            Level::ERROR => tracing::error!(status, seconds, failure, "{said}"),
            Level::WARN => tracing::warn!(status, seconds, failure, "{said}"),
            Level::INFO => tracing::info!(status, seconds, failure, "{said}"),
            _ => tracing::debug!(status, seconds, failure, "{said}"),
        }
    }

    fn cut_off(&self, action: &str, failure: &str) {
        tracing::error!(action, failure, "an answer was cut off");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_matters_is_logged_and_looks_are_not() {
        let of = |method, status| {
            level(&Answered {
                request_id: "1",
                method,
                route: "",
                status,
                took: Duration::ZERO,
                failure: None,
            })
        };
        assert_eq!(of("GET", 200), Level::DEBUG);
        assert_eq!(of("HEAD", 404), Level::DEBUG);
        assert_eq!(of("PUT", 201), Level::INFO);
        assert_eq!(of("PUT", 409), Level::INFO);
        assert_eq!(of("GET", 401), Level::WARN);
        assert_eq!(of("GET", 503), Level::ERROR);
    }
}
