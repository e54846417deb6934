//! `shale token`: who may use this machine's registry.

use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;
use shale_files::DirFiles;
use shale_hostd::private_dir;
use shale_registry::{Scope, TokenError, TokenInfo, TokenStore};

use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::output::{Row, note, print_list, say};

/// Make, list and remove tokens for this machine's registry
///
/// A running registry notices a change within a second.
///
/// Examples:
///   shale token create ci --scope write > token
///   shale token ls
///   shale token rm ci
#[derive(Debug, Subcommand)]
#[command(verbatim_doc_comment)]
pub(crate) enum Token {
    /// Make a token and print it; it is shown only once
    Create(Create),
    /// List tokens; what they are is not shown
    #[command(visible_alias = "list")]
    Ls,
    /// Remove a token
    #[command(visible_alias = "delete")]
    Rm(Rm),
}

#[derive(Debug, Args)]
pub(crate) struct Create {
    /// What to call it
    name: String,
    /// What it allows
    #[arg(long, value_enum, default_value_t)]
    scope: TokenScope,
}

#[derive(Debug, Args)]
pub(crate) struct Rm {
    /// Id or name
    token: String,
}

/// What a token allows.
#[derive(Debug, Clone, Copy, Default, ValueEnum)]
enum TokenScope {
    /// Reading: deploying templates.
    #[default]
    Read,
    /// Reading and writing: pushing too.
    Write,
}

/// A token in a list.
#[derive(Debug, Serialize)]
struct Listed {
    id: String,
    name: String,
    scope: Scope,
    created: u64,
}

impl Row for Listed {
    const COLUMNS: &'static [&'static str] = &["ID", "NAME", "SCOPE", "CREATED"];

    fn cells(&self) -> Vec<String> {
        let scope = match self.scope {
            Scope::Read => "read",
            Scope::Write => "write",
        };
        let created = format!("{} s after 1970", self.created);
        vec![
            self.id.clone(),
            self.name.clone(),
            scope.to_owned(),
            created,
        ]
    }
}

impl Token {
    pub(crate) fn run(self, context: &Context) -> anyhow::Result<()> {
        let state = &context.dirs.state;
        private_dir(state).with_context(|| format!("make `{}`", state.display()))?;
        let files = Arc::new(DirFiles::open(state)?);
        let store = TokenStore::new(files, Arc::new(Instant::now));
        match self {
            Token::Create(create) => {
                let scope = match create.scope {
                    TokenScope::Read => Scope::Read,
                    TokenScope::Write => Scope::Write,
                };
                let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
                let (token, _) = store.create(&create.name, scope, now).map_err(coded)?;
                Ok(say!("{}", token.reveal())?)
            }
            Token::Ls => {
                let listed = |info: TokenInfo| Listed {
                    id: info.id,
                    name: info.name,
                    scope: info.scope,
                    created: info.created,
                };
                let rows: Vec<Listed> = store.list()?.into_iter().map(listed).collect();
                print_list(&rows, context.global.format, context.global.quiet)
            }
            Token::Rm(rm) => {
                let removed = store.remove(&rm.token).map_err(coded)?;
                note!("removed {} ({})", removed.name, removed.id);
                Ok(())
            }
        }
    }
}

fn coded(error: TokenError) -> anyhow::Error {
    let exit = match &error {
        TokenError::NotFound(_) => Exit::NotFound,
        TokenError::Exists(_) => Exit::Conflict,
        TokenError::Name => Exit::Usage,
        _ => return error.into(),
    };
    Failure::new(exit, error.to_string()).into()
}
