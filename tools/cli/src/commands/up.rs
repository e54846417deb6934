//! `shale up`: all of Shale in one process.

use std::net::SocketAddr;

use clap::Args;
use shale_registry::Server;
use tokio::sync::watch;

use super::host::{HostOptions, HostService};
use super::server::{GRACE, RegistryOptions, RegistryService};
use crate::context::Context;
use crate::logging::{LogOf, LogOptions};
use crate::output::note;
use crate::settings::{Settings, SettingsError};
use crate::system::Signals;

/// Run a registry and the host service together, with storage of their own
///
/// The registry serves the local repository, and machines of this host are made and served, as `shale server
/// run` and `shale host run` would. Ends on SIGINT or SIGTERM; machines run on. On SIGHUP it reads its settings again.
///
/// Examples:
///   shale up
///   shale up --listen 0.0.0.0:7420 --tls-self-signed
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Up {
    /// Address and port of the registry; port 0 is any free one
    #[arg(long, default_value = "127.0.0.1:7420", value_name = "ADDRESS")]
    listen: SocketAddr,
    #[command(flatten)]
    registry: RegistryOptions,
    #[command(flatten)]
    host: HostOptions,
    #[command(flatten)]
    log: LogOptions,
}

impl Up {
    pub(crate) fn run(self, context: &Context) -> anyhow::Result<()> {
        self.log.begin(LogOf::Host, &context.settings)?;
        let opened = RegistryService::open(context, Some(self.listen), self.registry)?;
        let (server, registry) = opened;
        let host = HostService::open(context, self.host)?;
        context.runtime.block_on(async {
            let signals = Signals::watch()?;
            let listener = host.listen(context)?;
            registry.announce(context, &server)?;
            next_steps(context, &server);
            let status = |settings: &Settings| -> anyhow::Result<String> {
                let host = host.status(context, settings)?;
                Ok(format!("registry {}; host {host}", registry.status()))
            };
            let reload = || {
                let settings = Settings::load().map_err(SettingsError::failure)?;
                registry.reload(&settings)?;
                host.reload(context, &settings)?;
                status(&settings)
            };
            let attend = context
                .system
                .attend(signals, status(&context.settings)?, reload);
            let (end, ended) = watch::channel(false);
            let ended = || {
                let mut ended = ended.clone();
                // The error is when nobody can end it any more, which means the same.
                async move { drop(ended.wait_for(|ended| *ended).await) }
            };
            let attend = async {
                tokio::select! {
                    () = attend => {}
                    () = host.host.ended() => {}
                }
                context.system.stopping();
                end.send_replace(true);
            };
            tokio::join!(
                attend,
                server.run(ended(), GRACE),
                host.serve(listener, ended())
            );
            Ok(())
        })
    }
}

/// What a person would do now.
fn next_steps(context: &Context, server: &Server) {
    if context.global.quiet {
        return;
    }
    let address = server.address();
    note!("push:    shale push DIR {address}/demo/base:1");
    note!("deploy:  shale vm deploy {address}/demo/base:1 --name one");
    note!("see:     shale vm ls");
}
