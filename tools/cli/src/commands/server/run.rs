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
    Admission, Answered, BindError, Certificate, Encryption, Observer, Registry, Settings,
    TokenStore,
};
use tokio::signal::unix::{SignalKind, signal};

use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::output::note;

/// Serve the local repository over HTTP
///
/// On loopback, anybody may read and write until there is a token. On other addresses it wants TLS and
/// tokens: `shale token create` makes them; a certificate is given, or made and its fingerprint printed.
/// Ends on SIGINT or SIGTERM, after the requests on their way.
///
/// Examples:
///   shale server run
///   shale server run --listen 0.0.0.0:7070 --tls-self-signed
///   shale server run --listen 0.0.0.0:7070 --tls-cert cert.pem --tls-key key.pem
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Run {
    /// Address and port to listen on; port 0 is any free one
    #[arg(long, default_value = "127.0.0.1:7070", value_name = "ADDRESS")]
    listen: SocketAddr,
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
const GRACE: Duration = Duration::from_secs(20);

impl Run {
    pub(crate) fn run(self, context: &Context) -> anyhow::Result<()> {
        let Place::Local(repository) = context.place_to_write(&[])? else {
            let text = "a registry serves a directory, not another registry";
            return Err(Failure::new(Exit::Usage, text).into());
        };
        raise_open_files();
        let state = &context.dirs.state;
        private_dir(state).with_context(|| format!("make `{}`", state.display()))?;
        let files = Arc::new(DirFiles::open(state)?);
        let tokens = TokenStore::new(files.clone(), Arc::new(Instant::now));
        let admission = match self.insecure_no_auth {
            true => Admission::InsecureNoAuth,
            // Refused below when others can reach it.
            false if tokens.list()?.is_empty() => Admission::OpenUntilTokens(Arc::new(tokens)),
            false => Admission::Tokens(Arc::new(tokens)),
        };
        let mut settings = Settings::new(admission);
        settings.observer = Arc::new(Log);
        let registry = Registry::new(repository, settings)?;
        let encryption = self.encryption(&files)?;
        context.runtime.block_on(async {
            let server = registry
                .bind(self.listen, encryption)
                .await
                .map_err(hinted)?;
            let scheme = if server.fingerprint().is_some() {
                "https"
            } else {
                "http"
            };
            let url = format!("{scheme}://{}", server.address());
            if !context.global.quiet {
                note!("serving on {url}");
                if let Some(fingerprint) = server.fingerprint() {
                    note!("fingerprint {fingerprint}");
                }
            }
            if let Some(file) = &self.address_file {
                let written = fs::write(file, url);
                written.with_context(|| format!("write `{}`", file.display()))?;
            }
            let mut terminate = signal(SignalKind::terminate()).context("watch signals")?;
            let ended = async move {
                tokio::select! {
                    _ = tokio::signal::ctrl_c() => {}
                    _ = terminate.recv() => {}
                }
            };
            server.run(ended, GRACE).await;
            Ok(())
        })
    }

    fn encryption(&self, files: &Arc<DirFiles>) -> anyhow::Result<Encryption> {
        if let (Some(chain), Some(key)) = (&self.tls_cert, &self.tls_key) {
            let read = |path: &PathBuf| {
                fs::read(path).with_context(|| format!("read `{}`", path.display()))
            };
            let certificate = Certificate::from_pem(&read(chain)?, &read(key)?)?;
            return Ok(Encryption::Tls(certificate));
        }
        if self.tls_self_signed {
            let names = vec![self.listen.ip().to_string(), "localhost".to_owned()];
            return Ok(Encryption::Tls(Certificate::self_signed(&**files, names)?));
        }
        Ok(match self.insecure_no_tls {
            true => Encryption::InsecureNone,
            false => Encryption::None,
        })
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
        BindError::Address { .. } => return error.into(),
    };
    Failure::new(Exit::Usage, error.to_string())
        .hint(hint)
        .into()
}

/// Failures of the server, a line each, on standard error.
struct Log;

impl Observer for Log {
    fn answered(&self, request: &Answered<'_>) {
        let Some(failure) = request.failure.filter(|_| request.status >= 500) else {
            return;
        };
        let Answered {
            request_id,
            method,
            route,
            status,
            ..
        } = request;
        note!("{request_id} {method} {route} {status}: {failure}");
    }

    fn cut_off(&self, action: &str, failure: &str) {
        note!("{action}: cut off: {failure}");
    }
}
