//! `shale config`: settings, and where they come from.

use std::env;

use clap::{Args, Subcommand};
use serde::Serialize;

use crate::context::Context;
use crate::output::{Row, print_list};
use crate::settings::{Origin, SETTINGS};

/// Show the settings of this machine and this user
#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    Show(Show),
}

impl ConfigCommand {
    pub(crate) fn run(self, context: &Context) -> anyhow::Result<()> {
        match self {
            ConfigCommand::Show(show) => show.run(context),
        }
    }
}

/// Print every setting with its value, and where that comes from
///
/// A flag is over a variable, that over the user's file ($XDG_CONFIG_HOME/shale/config.toml), that over the
/// system's (/etc/shale/config.toml.d/*.toml, then /etc/shale/config.toml), that over the default. SHALE_CONFIG
/// names another file of the system.
///
/// Examples:
///   shale config show --origin
///   shale config show --format json
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Show {
    /// Also say where each value comes from
    #[arg(long)]
    origin: bool,
}

/// A setting with its value.
#[derive(Debug, Serialize)]
struct Shown {
    key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    origin: String,
}

/// The same where nobody asked for the origin.
#[derive(Debug, Serialize)]
struct Plain {
    key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<String>,
}

impl Row for Shown {
    const COLUMNS: &'static [&'static str] = &["SETTING", "VALUE", "ORIGIN"];

    fn cells(&self) -> Vec<String> {
        let value = self.value.clone().unwrap_or_else(|| "-".to_owned());
        vec![self.key.clone(), value, self.origin.clone()]
    }
}

impl Row for Plain {
    const COLUMNS: &'static [&'static str] = &["SETTING", "VALUE"];

    fn cells(&self) -> Vec<String> {
        let value = self.value.clone().unwrap_or_else(|| "-".to_owned());
        vec![self.key.clone(), value]
    }
}

impl Show {
    fn run(self, context: &Context) -> anyhow::Result<()> {
        let (format, quiet) = (context.global.format, context.global.quiet);
        let shown: Vec<Shown> = all(context);
        if self.origin {
            return print_list(&shown, format, quiet);
        }
        let plain = shown
            .into_iter()
            .map(|Shown { key, value, .. }| Plain { key, value });
        print_list(&plain.collect::<Vec<_>>(), format, quiet)
    }
}

fn all(context: &Context) -> Vec<Shown> {
    let dirs = &context.dirs;
    let of_this_machine = |key: &str| match key {
        "repository" => Some(dirs.repository()),
        "state" => Some(dirs.state.clone()),
        "cache" => Some(dirs.cache.clone()),
        _ => None,
    };
    let shown = SETTINGS.iter().map(|setting| {
        let variable = setting.variable.and_then(|name| env::var(name).ok());
        let flag = context.flags.get(setting.key);
        let said = context.settings.with_origin(setting, flag, variable);
        let (value, origin) = match said {
            Some((value, origin)) => (Some(value), origin),
            None => {
                let path = of_this_machine(setting.key);
                (path.map(|path| path.display().to_string()), Origin::Default)
            }
        };
        Shown {
            key: setting.key.to_owned(),
            value,
            origin: origin.to_string(),
        }
    });
    let of_registries = context.settings.of_registries();
    let of_registries = of_registries.map(|(key, value, origin)| Shown {
        key,
        value: Some(value),
        origin: origin.to_string(),
    });
    shown.chain(of_registries).collect()
}
