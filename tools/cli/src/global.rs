//! The options of every command, and which registries they mean.

use std::path::{Path, PathBuf};

use clap::Args;
use shale_client::{Address, AddressError};
use shale_hostd::api::{Credentials, MAX_MIRRORS, Mirror, Repository};
use shale_hostd::{HostDirs, registry_url};
use shale_wire::Fingerprint;

use crate::failure::{Exit, Failure};
use crate::output::{Format, parse_bytes};
use crate::progress::ProgressMode;
use crate::settings::{Settings, parse_mirrors};

/// Options of every command.
#[derive(Debug, Clone, Args)]
pub(crate) struct Global {
    /// The repository to use: a directory, or the URL of a registry
    #[arg(long, global = true, env = "SHALE_REPOSITORY", value_name = "DIR|URL")]
    pub(crate) repository: Option<String>,
    /// File that holds the token for the registry of --repository, or else of the references
    #[arg(long, global = true, env = "SHALE_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Fingerprint of that registry's self-signed certificate
    #[arg(long, global = true, env = "SHALE_FINGERPRINT", value_name = "SHA256")]
    fingerprint: Option<Fingerprint>,
    /// Another registry that may have the same chunks, asked before the one that the references are of; may be given
    /// several times, or as a list with commas
    ///
    /// Names come from the registry alone, and what a mirror sends is verified. What it lacks, sends wrong or does not send
    /// comes from the next one, and at last from the registry. A mirror is shown no token but its own: the files of
    /// settings have a section for each registry, [registry."URL"], with token-file and fingerprint. Without this option,
    /// the mirrors of the files are asked (mirrors = ["URL", ...]), for the repository that is named there.
    #[arg(
        long = "mirror",
        global = true,
        env = "SHALE_MIRRORS",
        value_name = "URL",
        value_delimiter = ','
    )]
    mirrors: Vec<Address>,
    /// Those of the files of settings, which are for the repository that is named there.
    #[arg(skip)]
    mirrors_of_files: Vec<Address>,
    /// Directory for what must survive: plans, instances, the local repository
    #[arg(long, global = true, env = "SHALE_STATE", value_name = "DIR")]
    pub(crate) state: Option<PathBuf>,
    /// Directory for what can be fetched again
    #[arg(long, global = true, env = "SHALE_CACHE", value_name = "DIR")]
    pub(crate) cache: Option<PathBuf>,
    /// Most bytes that the chunk cache takes
    ///
    /// 10G unless a file of settings says otherwise.
    #[arg(long, global = true, env = "SHALE_CACHE_SIZE", value_name = "SIZE",
        value_parser = parse_bytes)]
    pub(crate) cache_size: Option<u64>,
    /// How data is printed
    #[arg(
        long,
        global = true,
        value_enum,
        default_value_t,
        value_name = "FORMAT"
    )]
    pub(crate) format: Format,
    /// Print ids only
    #[arg(long, short, global = true)]
    pub(crate) quiet: bool,
    /// How progress is shown
    #[arg(long, global = true, value_enum, default_value_t, value_name = "MODE")]
    pub(crate) progress: ProgressMode,
    /// Show the causes of an error in full
    #[arg(long, global = true)]
    pub(crate) debug: bool,
}

impl Global {
    /// The repository of --repository, or the local one.
    pub(crate) fn repository(&self, dirs: &HostDirs, settings: &Settings) -> Repository {
        let directory = |path: &Path| Repository {
            address: path.to_string_lossy().into_owned(),
            ..Repository::default()
        };
        match &self.repository {
            Some(url) if is_url(url) => Repository {
                address: url.clone(),
                credentials: self.credentials(url, settings),
                mirrors: self.mirrors_of(url, Named::Same, settings),
            },
            Some(path) => directory(&absolute(Path::new(path))),
            None => directory(&dirs.repository()),
        }
    }

    /// The registry that a reference names. It is shown the token if that is for it: if --repository is the same
    /// registry, or none.
    pub(crate) fn registry(
        &self,
        host: &str,
        settings: &Settings,
    ) -> Result<Repository, AddressError> {
        let address = registry_url(host)?;
        let named = match &self.repository {
            Some(url) if is_url(url) && url.parse::<Address>()?.to_string() != address => {
                Named::Another
            }
            _ => Named::Same,
        };
        let credentials = match named {
            Named::Another => settings.credentials(&address),
            Named::Same => self.credentials(&address, settings),
        };
        Ok(Repository {
            mirrors: self.mirrors_of(&address, named, settings),
            address,
            credentials,
        })
    }

    /// The mirrors of a registry, each once, with what opens it; it is none of its own.
    fn mirrors_of(&self, registry: &str, named: Named, settings: &Settings) -> Vec<Mirror> {
        let all = match (&self.mirrors[..], named) {
            ([], Named::Same) => &self.mirrors_of_files,
            _ => &self.mirrors,
        };
        let mut mirrors: Vec<Mirror> = Vec::new();
        for address in all.iter().map(Address::to_string) {
            let is_there = mirrors.iter().any(|mirror| mirror.address == address);
            if address != registry.trim_end_matches('/') && !is_there {
                let credentials = settings.credentials(&address);
                mirrors.push(Mirror {
                    address,
                    credentials,
                });
            }
        }
        mirrors
    }

    /// What opens the registry of --repository at this URL.
    fn credentials(&self, url: &str, settings: &Settings) -> Credentials {
        let of_section = settings.credentials(url);
        let token_file = self.token_file.as_deref().map(absolute);
        let fingerprint = self.fingerprint.map(|fingerprint| fingerprint.to_string());
        Credentials {
            token_file: token_file.or(of_section.token_file),
            fingerprint: fingerprint.or(of_section.fingerprint),
        }
    }
}

/// Whether a registry is the one that the options and the files of settings are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Named {
    Same,
    Another,
}

/// The options of the command line, and those of the files where it has none.
pub(crate) fn with_files(global: Global, settings: &Settings) -> anyhow::Result<Global> {
    let fingerprint = match settings.text("fingerprint") {
        Some(text) => Some(text.parse()?),
        None => None,
    };
    let text = |key| settings.text(key).map(str::to_owned);
    // They were checked when the file was read.
    let mirrors = settings.text("mirrors").map(parse_mirrors);
    let of_files = mirrors.transpose().map_err(anyhow::Error::msg)?;
    let of_files = of_files.unwrap_or_default();
    let mirrors = global.mirrors.len().max(of_files.len());
    if mirrors > MAX_MIRRORS {
        let text = format!("{mirrors} mirrors; the limit is {MAX_MIRRORS}");
        return Err(Failure::new(Exit::Usage, text).into());
    }
    Ok(Global {
        mirrors_of_files: of_files,
        repository: global.repository.or_else(|| text("repository")),
        token_file: global.token_file.or_else(|| settings.path("token-file")),
        fingerprint: global.fingerprint.or(fingerprint),
        state: global.state.or_else(|| settings.path("state")),
        cache: global.cache.or_else(|| settings.path("cache")),
        ..global
    })
}

pub(crate) fn is_url(address: &str) -> bool {
    address.contains("://")
}

/// The path from the root: for processes with another working directory.
pub(crate) fn absolute(path: &Path) -> PathBuf {
    // It fails for the empty path only, or where the working directory is gone.
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}
