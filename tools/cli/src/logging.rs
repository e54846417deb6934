//! The log of a service, on standard error: lines for people, or an object of JSON each. Every line of a request has its
//! id, which is what a failed command shows with `--debug`. What is logged is named field by field, so that no token
//! and no request as a whole gets in.

use clap::{Args, ValueEnum};
use tracing::level_filters::LevelFilter;
use tracing::{Level, dispatcher};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer as _, fmt};

use crate::output::note;
use crate::settings::Settings;

/// What a service logs, and how.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct LogOptions {
    /// How the log is written
    ///
    /// `text` unless a file of settings says otherwise.
    #[arg(long, value_enum, env = "SHALE_LOG_FORMAT", value_name = "FORMAT")]
    log_format: Option<LogFormat>,
    /// The least that is logged
    ///
    /// `info` unless a file of settings says otherwise. `debug` also has requests that only look.
    #[arg(long, value_enum, env = "SHALE_LOG_LEVEL", value_name = "LEVEL")]
    log_level: Option<LogLevel>,
}

/// How a log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// A line for people.
    Text,
    /// An object a line: `timestamp`, `level`, `message`, `target`, `span` and the fields of the event.
    Json,
}

/// How much is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogLevel {
    /// What the service cannot do.
    Error,
    /// What failed, too.
    Warn,
    /// What happened, too.
    Info,
    /// Requests that change nothing, too.
    Debug,
    /// All there is.
    Trace,
}

/// Whose log it is: where the files of settings have it.
#[derive(Debug, Clone, Copy)]
pub(crate) enum LogOf {
    Host,
    Registry,
}

impl LogOptions {
    /// Logs from now on. Call it once.
    pub(crate) fn begin(self, of: LogOf, settings: &Settings) -> anyhow::Result<()> {
        let (format, level) = match of {
            LogOf::Host => ("host.log-format", "host.log-level"),
            LogOf::Registry => ("server.log-format", "server.log-level"),
        };
        let format = settings.pick(self.log_format, format, parse_log_format)?;
        let level = settings.pick(self.log_level, level, parse_log_level)?;
        let level = match level {
            LogLevel::Error => Level::ERROR,
            LogLevel::Warn => Level::WARN,
            LogLevel::Info => Level::INFO,
            LogLevel::Debug => Level::DEBUG,
            LogLevel::Trace => Level::TRACE,
        };
        // Our crates begin with this name; what others say matters where something is wrong.
        let others = LevelFilter::WARN.min(level.into());
        let targets = Targets::new()
            .with_default(others)
            .with_target("shale", level);
        // A log that nobody reads any more is no reason to say anything, let alone to fail.
        let layer = fmt::layer()
            .with_writer(std::io::stderr)
            .log_internal_errors(false);
        let layer = match format {
            LogFormat::Text => layer.with_ansi(false).boxed(),
            LogFormat::Json => layer
                .json()
                .flatten_event(true)
                .with_span_list(false)
                .boxed(),
        };
        tracing_subscriber::registry()
            .with(layer.with_filter(targets))
            .try_init()?;
        Ok(())
    }
}

/// `text` or `json`.
pub(crate) fn parse_log_format(text: &str) -> Result<LogFormat, String> {
    LogFormat::from_str(text, false).map_err(|_| format!("`{text}` is neither text nor json"))
}

/// `error`, `warn`, `info`, `debug` or `trace`.
pub(crate) fn parse_log_level(text: &str) -> Result<LogLevel, String> {
    let levels = "error, warn, info, debug or trace";
    LogLevel::from_str(text, false).map_err(|_| format!("`{text}` is none of {levels}"))
}

/// Says something to whoever watches a service: in its log, where there is one.
pub(crate) fn say_to_log(text: &str) {
    match dispatcher::has_been_set() {
        true => tracing::info!("{text}"),
        false => note!("{text}"),
    }
}

/// The same for what may be wrong.
pub(crate) fn warn_in_log(text: &str) {
    match dispatcher::has_been_set() {
        true => tracing::warn!("{text}"),
        false => note!("{text}"),
    }
}
