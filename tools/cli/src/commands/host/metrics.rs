//! `shale host metrics`.

use clap::Args;
use shale_hostd::HostClient;
use shale_hostd::api::{Outcome, Request};

use super::{failure, unexpected};
use crate::context::Context;
use crate::output::say;

/// Print what the service counts, as Prometheus reads it
///
/// `shale host run --metrics ADDRESS` serves the same over HTTP.
///
/// Examples:
///   shale host metrics
///   shale host metrics | grep shale_stall_seconds_total
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Metrics {}

impl Metrics {
    pub(super) fn run(self, context: &Context) -> anyhow::Result<()> {
        // A service that this starts would have counted nothing.
        let client = HostClient::connect(&context.dirs.host_socket()).map_err(failure)?;
        match client.call(Request::Metrics, |_| {}).map_err(failure)? {
            Outcome::Metrics(text) => Ok(say!("{}", text.trim_end())?),
            other => Err(unexpected(&other)),
        }
    }
}
