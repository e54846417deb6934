//! Opens repositories: directories, and registries with their mirrors.

use std::fs;
use std::path::Path;

use anyhow::Context as _;
use shale_client::{Settings as ClientSettings, Trust};
use shale_hostd::api::{Credentials, Mirror, Repository};
use shale_hostd::{HostDirs, Place, private_dir};
use tokio::runtime::Handle;

use crate::global::is_url;
use crate::logging::warn_in_log;

/// What opens places.
pub(crate) struct Places {
    pub(crate) dirs: HostDirs,
    pub(crate) runtime: Handle,
}

impl Places {
    /// Opens a repository for what writes no chunks.
    pub(crate) fn open(&self, repository: &Repository) -> anyhow::Result<Place> {
        match is_url(&repository.address) {
            true => self.remote(repository),
            false => Ok(Place::local_beside(local(&repository.address)?)?),
        }
    }

    pub(crate) fn open_to_write(&self, repository: &Repository) -> anyhow::Result<Place> {
        match is_url(&repository.address) {
            true => self.remote(repository),
            false => Ok(Place::local(local(&repository.address)?)?),
        }
    }

    fn remote(&self, repository: &Repository) -> anyhow::Result<Place> {
        let settings = client_settings(&repository.address, &repository.credentials)?;
        let spool = self.dirs.spool();
        private_dir(&spool).with_context(|| format!("make `{}`", spool.display()))?;
        // Each with its own credentials: those of the registry are for that alone.
        let mirrors = repository.mirrors.iter().map(|mirror| {
            let Mirror {
                address,
                credentials,
            } = mirror;
            client_settings(address, credentials).or_else(|error| {
                // No mirror is needed: without its token it denies, and is left alone.
                let token_file = credentials.token_file.as_ref().ok_or(error)?;
                let shown = token_file.display();
                warn_in_log(&format!(
                    "the mirror {address} is shown no token, as `{shown}` cannot be read"
                ));
                let credentials = Credentials {
                    token_file: None,
                    ..credentials.clone()
                };
                client_settings(address, &credentials)
            })
        });
        let mirrors = mirrors.collect::<anyhow::Result<_>>()?;
        let runtime = self.runtime.clone();
        Ok(Place::remote(settings, mirrors, runtime, spool)?)
    }
}

/// How a registry is spoken to.
fn client_settings(address: &str, credentials: &Credentials) -> anyhow::Result<ClientSettings> {
    let Credentials {
        token_file,
        fingerprint,
    } = credentials;
    let mut settings = ClientSettings::new(address.parse()?);
    if let Some(path) = token_file {
        let token = fs::read_to_string(path);
        let token = token.with_context(|| format!("read the token `{}`", path.display()))?;
        settings.token = Some(token.trim().to_owned());
    }
    if let Some(fingerprint) = fingerprint {
        settings.trust = Trust::Pinned(fingerprint.parse()?);
    }
    Ok(settings)
}

/// The directory of a repository, with what is above it made.
fn local(address: &str) -> anyhow::Result<&Path> {
    let path = Path::new(address);
    if let Some(parent) = path.parent() {
        private_dir(parent).with_context(|| format!("make `{}`", parent.display()))?;
    }
    Ok(path)
}
