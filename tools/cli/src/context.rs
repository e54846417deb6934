//! What every command gets: the global options, and the parts wired together.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{env, fs};

use anyhow::Context as _;
use clap::Args;
use shale_client::{Address, AddressError, Settings as ClientSettings, Trust};
use shale_files::{DirFiles, LockError};
use shale_hostd::api::{Credentials, MAX_MIRRORS, Mirror, Repository};
use shale_hostd::{Composer, HostDirs, Image, Place, boot_id, private_dir, registry_url, supply};
use shale_model::{Catalog, Platform, Reference, SeamResult, Sink, TemplateId, TemplateIndex};
use shale_view::{
    Cache, CacheError, CacheSettings, ChunkReader, Counters, MIN_CAP_BYTES, NamedFetch, Overlay,
    RetrySettings,
};
use shale_wire::Fingerprint;
use tokio::runtime::{Handle, Runtime};

use crate::failure::{Exit, Failure};
use crate::logging::warn_in_log;
use crate::output::{Format, bytes, note, parse_bytes};
use crate::patience::{Patience, Patient, PatientSink};
use crate::progress::ProgressMode;
use crate::settings::{Flags, Settings, SettingsError, parse_mirrors};
use crate::system::System;

/// Caches beside the host's, for commands that run while the host service has that one: more than people start at
/// once. Together they may be as large as the host's.
const CACHES_BESIDE: u32 = 8;

/// Options of every command.
#[derive(Debug, Clone, Args)]
pub(crate) struct Global {
    /// The repository to use: a directory, or the URL of a registry
    #[arg(long, global = true, env = "SHALE_REPOSITORY", value_name = "DIR|URL")]
    repository: Option<String>,
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
    state: Option<PathBuf>,
    /// Directory for what can be fetched again
    #[arg(long, global = true, env = "SHALE_CACHE", value_name = "DIR")]
    cache: Option<PathBuf>,
    /// Most bytes that the chunk cache takes
    ///
    /// 10G unless a file of settings says otherwise.
    #[arg(long, global = true, env = "SHALE_CACHE_SIZE", value_name = "SIZE",
        value_parser = parse_bytes)]
    cache_size: Option<u64>,
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
    fn repository(&self, dirs: &HostDirs, settings: &Settings) -> Repository {
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
    fn registry(&self, host: &str, settings: &Settings) -> Result<Repository, AddressError> {
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

/// The global options, with those of files and defaults filled in.
pub(crate) struct Context {
    pub(crate) global: Global,
    /// What the files of settings say.
    pub(crate) settings: Settings,
    /// Settings that the command line has as flags.
    pub(crate) flags: Flags,
    pub(crate) dirs: HostDirs,
    pub(crate) system: System,
    pub(crate) runtime: Runtime,
}

impl Context {
    pub(crate) fn new(global: Global, flags: Flags, system: System) -> anyhow::Result<Self> {
        let mut settings = Settings::load().map_err(SettingsError::failure)?;
        if let Some(repository) = &global.repository {
            settings.without_credentials_unless_for(repository);
        }
        let global = with_files(global, &settings)?;
        let mirrors = global.mirrors.len().max(global.mirrors_of_files.len());
        if mirrors > MAX_MIRRORS {
            let text = format!("{mirrors} mirrors; the limit is {MAX_MIRRORS}");
            return Err(Failure::new(Exit::Usage, text).into());
        }
        let root = nix::unistd::geteuid().is_root();
        let pick = |given: &Option<PathBuf>, system: &str, variable: &str, home: &str| {
            let of_user = || {
                let base = env::var_os(variable).map(PathBuf::from);
                let home_dir = || env::var_os("HOME").map(|dir| PathBuf::from(dir).join(home));
                Some(base.or_else(home_dir)?.join("shale"))
            };
            let default = || {
                if root {
                    Some(PathBuf::from(system))
                } else {
                    of_user()
                }
            };
            let dir = given.clone().or_else(default).context("HOME is not set")?;
            anyhow::Ok(absolute(&dir))
        };
        let state = pick(
            &global.state,
            "/var/lib/shale",
            "XDG_DATA_HOME",
            ".local/share",
        )?;
        let cache = pick(
            &global.cache,
            "/var/cache/shale",
            "XDG_CACHE_HOME",
            ".cache",
        )?;
        let dirs = HostDirs { state, cache };
        let runtime = Runtime::new().context("start threads")?;
        Ok(Self {
            global,
            settings,
            flags,
            dirs,
            system,
            runtime,
        })
    }

    /// What the cache takes at most, with `settings` as they are now.
    pub(crate) fn cache_settings(&self, settings: &Settings) -> anyhow::Result<CacheSettings> {
        let cap_bytes = settings.pick(self.global.cache_size, "cache-size", parse_bytes)?;
        Ok(CacheSettings { cap_bytes })
    }

    /// The repository that commands work on, unless a reference names a registry.
    pub(crate) fn place(&self) -> anyhow::Result<Place> {
        self.places()
            .open(&self.global.repository(&self.dirs, &self.settings))
    }

    /// The place that all of these references are of, for a command that writes chunks: a repository of this
    /// machine is then closed to others that do.
    pub(crate) fn place_to_write(&self, references: &[&Reference]) -> anyhow::Result<Place> {
        self.places()
            .open_to_write(&self.repository_of(references)?)
    }

    /// The place that all of these references are of.
    pub(crate) fn place_of(&self, references: &[&Reference]) -> anyhow::Result<Place> {
        self.places().open(&self.repository_of(references)?)
    }

    /// The repository that all of these references are of.
    pub(crate) fn repository_of(&self, references: &[&Reference]) -> anyhow::Result<Repository> {
        let registry = references.first().and_then(|first| first.registry.clone());
        let other = references.iter().find(|other| other.registry != registry);
        if let Some(other) = other {
            let text = format!("`{other}` is of another registry than the others");
            return Err(Failure::new(Exit::Usage, text).into());
        }
        match registry {
            Some(registry) => Ok(self.global.registry(&registry, &self.settings)?),
            None => Ok(self.global.repository(&self.dirs, &self.settings)),
        }
    }

    /// What opens places, also when this context is gone.
    pub(crate) fn places(&self) -> Places {
        Places {
            dirs: self.dirs.clone(),
            runtime: self.runtime.handle().clone(),
        }
    }

    /// The options that give another `shale` the same directories.
    pub(crate) fn as_arguments(&self) -> Vec<OsString> {
        let mut arguments: Vec<OsString> = Vec::new();
        let mut add = |option: &str, value: &OsStr| {
            arguments.push(option.into());
            arguments.push(value.into());
        };
        add("--state", self.dirs.state.as_os_str());
        add("--cache", self.dirs.cache.as_os_str());
        if let Some(bytes) = self.global.cache_size {
            add("--cache-size", bytes.to_string().as_ref());
        }
        arguments
    }

    /// The host's chunk cache, which no other process may use.
    pub(crate) fn cache(&self) -> anyhow::Result<Arc<Cache>> {
        open_cache(&self.dirs.chunks(), self.cache_settings(&self.settings)?)
    }

    /// A chunk cache for a command. Where another process has the host's, mostly the host service, it is a
    /// smaller one beside it, which stays for the next such command.
    fn cache_of_command(&self) -> anyhow::Result<Arc<Cache>> {
        let mut opened = self.cache();
        let whole = self.cache_settings(&self.settings)?.cap_bytes;
        for number in 1..=CACHES_BESIDE {
            match &opened {
                Err(error) if is_held(error) => {
                    let cap_bytes = (whole / u64::from(CACHES_BESIDE)).max(MIN_CAP_BYTES);
                    let dir = self.dirs.chunks_beside(number);
                    opened = open_cache(&dir, CacheSettings { cap_bytes });
                }
                _ => break,
            }
        }
        opened
    }

    /// Names and manifests of `place`, with a word when they are waited for.
    pub(crate) fn catalog(&self, place: &Place) -> Arc<dyn Catalog> {
        Arc::new(Patient {
            inner: place.catalog(),
            patience: self.patience(place),
            runtime: self.runtime.handle().clone(),
        })
    }

    /// Begins a push into `place`, with a word when a registry is waited for. What takes long in a directory is work.
    pub(crate) fn sink(&self, place: &Place) -> SeamResult<Box<dyn Sink>> {
        match place {
            Place::Local(_) => place.sink(),
            Place::Remote { .. } => {
                let (patience, runtime) = (self.patience(place), self.runtime.handle().clone());
                let opened = PatientSink::open(patience, runtime, || place.sink())?;
                Ok(Box::new(opened))
            }
        }
    }

    fn patience(&self, place: &Place) -> Arc<Patience> {
        Patience::new(place_name(place), self.global.progress)
    }

    /// A host on `place`: cache, reader and composer.
    pub(crate) fn host(&self, place: Place) -> anyhow::Result<Host> {
        let cache = self.cache_of_command()?;
        let plans = self.dirs.plans();
        private_dir(&plans).with_context(|| format!("make `{}`", plans.display()))?;
        let counters = Arc::new(Counters::default());
        let retry = RetrySettings::default();
        let handle = self.runtime.handle().clone();
        let fetch = Arc::new(Patient {
            inner: place.fetch(),
            patience: self.patience(&place),
            runtime: handle.clone(),
        });
        let registry = NamedFetch {
            name: place_name(&place),
            fetch,
            hearing: place.hearing(),
        };
        let supply = supply(place.mirrors(), registry, counters.clone(), |fetch| fetch);
        let reader = ChunkReader::new(Arc::new(supply), cache, retry, handle.clone());
        let catalog = self.catalog(&place);
        let composer = Composer::new(catalog.clone(), reader.clone(), handle, plans);
        Ok(Host {
            place,
            catalog,
            reader,
            composer,
            counters,
        })
    }
}

/// What people know a place by.
fn place_name(place: &Place) -> String {
    match place {
        Place::Local(_) => "the repository".into(),
        Place::Remote { registry, .. } => format!("the registry {}", registry.address()),
    }
}

/// What opens places.
pub(crate) struct Places {
    dirs: HostDirs,
    runtime: Handle,
}

impl Places {
    /// Opens a repository for what writes no chunks.
    pub(crate) fn open(&self, repository: &Repository) -> anyhow::Result<Place> {
        match is_url(&repository.address) {
            true => self.remote(repository),
            false => Ok(Place::local_beside(local(&repository.address)?)?),
        }
    }

    fn open_to_write(&self, repository: &Repository) -> anyhow::Result<Place> {
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

/// The options of the command line, and those of the files where it has none.
fn with_files(global: Global, settings: &Settings) -> anyhow::Result<Global> {
    let fingerprint = match settings.text("fingerprint") {
        Some(text) => Some(text.parse()?),
        None => None,
    };
    let text = |key| settings.text(key).map(str::to_owned);
    // They were checked when the file was read.
    let mirrors = settings.text("mirrors").map(parse_mirrors);
    let mirrors = mirrors.transpose().map_err(anyhow::Error::msg)?;
    Ok(Global {
        mirrors_of_files: mirrors.unwrap_or_default(),
        repository: global.repository.or_else(|| text("repository")),
        token_file: global.token_file.or_else(|| settings.path("token-file")),
        fingerprint: global.fingerprint.or(fingerprint),
        state: global.state.or_else(|| settings.path("state")),
        cache: global.cache.or_else(|| settings.path("cache")),
        ..global
    })
}

fn open_cache(dir: &Path, settings: CacheSettings) -> anyhow::Result<Arc<Cache>> {
    private_dir(dir).with_context(|| format!("make `{}`", dir.display()))?;
    let files = Arc::new(DirFiles::open(dir)?);
    Ok(Arc::new(Cache::open(files, settings)?))
}

/// Whether a cache did not open because another process has it.
fn is_held(error: &anyhow::Error) -> bool {
    let cause = error.downcast_ref::<CacheError>();
    matches!(cause, Some(CacheError::Lock(LockError::Held { .. })))
}

fn is_url(address: &str) -> bool {
    address.contains("://")
}

/// The path from the root: for processes with another working directory.
fn absolute(path: &Path) -> PathBuf {
    // It fails for the empty path only, or where the working directory is gone.
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// A host's parts.
pub(crate) struct Host {
    pub(crate) place: Place,
    pub(crate) catalog: Arc<dyn Catalog>,
    pub(crate) reader: Arc<ChunkReader>,
    pub(crate) composer: Composer,
    pub(crate) counters: Arc<Counters>,
}

impl Host {
    /// The overlay over `image` in `dir`. It is made if there is none, then for a disk of `disk_bytes` if that is asked
    /// for.
    pub(crate) fn overlay(
        &self,
        image: &Image,
        dir: &Path,
        disk_bytes: Option<u64>,
    ) -> anyhow::Result<Overlay> {
        if !dir.join("head").exists() {
            let bytes = image.disk_bytes(disk_bytes)?;
            return Ok(self.composer.sized_overlay(image, bytes, dir)?);
        }
        Ok(Overlay::open(
            &DirFiles::open(dir)?,
            image.plan_id,
            boot_id()?,
        )?)
    }

    /// A line on what was read, from where, and how long it was waited for.
    pub(crate) fn note_reads(&self) {
        let read = &self.counters;
        let waited = read.waited().as_secs_f64();
        let (cached, fetched) = (bytes(read.cache_bytes()), bytes(read.fetched_bytes()));
        note!("{cached} read from the cache, {fetched} fetched, {waited:.2} s waited");
    }
}

/// What a reference points at.
pub(crate) fn get_index(
    catalog: &dyn Catalog,
    reference: &Reference,
) -> anyhow::Result<Option<TemplateIndex>> {
    Ok(catalog.get_ref(&reference.name)?)
}

/// The template that a reference means, for the platform of this build.
pub(crate) fn resolve(catalog: &dyn Catalog, reference: &Reference) -> anyhow::Result<TemplateId> {
    resolve_for(catalog, reference, &Platform::default())
}

/// The template that a reference means on `platform`.
pub(crate) fn resolve_for(
    catalog: &dyn Catalog,
    reference: &Reference,
    platform: &Platform,
) -> anyhow::Result<TemplateId> {
    if let Some(id) = reference.id {
        return Ok(id);
    }
    let missing = || {
        Failure::new(
            Exit::NotFound,
            format!("there is no template `{}`", reference.name),
        )
        .hint("`shale template ls` lists what there is")
    };
    let index = get_index(catalog, reference)?.ok_or_else(missing)?;
    index.get(platform).ok_or_else(|| {
        let text = format!("`{}` has no template for {platform}", reference.name);
        let others = index.entries().iter();
        let others = others.map(|other| {
            let (name, id) = (&reference.name, other.template);
            format!("the one for {} is `{name}@{id}`", other.platform)
        });
        let hint = others.collect::<Vec<_>>().join("; ");
        Failure::new(Exit::NotFound, text).hint(hint).into()
    })
}
