//! What every command gets: the global options, and the parts wired together.

use std::env;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use shale_files::{DirFiles, LockError};
use shale_hostd::api::Repository;
use shale_hostd::{Composer, HostDirs, Image, Place, boot_id, private_dir, supply};
use shale_model::{Catalog, Platform, Reference, SeamResult, Sink, TemplateId, TemplateIndex};
use shale_view::{
    Cache, CacheError, CacheSettings, ChunkReader, Counters, MIN_CAP_BYTES, NamedFetch, Overlay,
    RetrySettings,
};
use tokio::runtime::Runtime;

use crate::failure::{Exit, Failure};
use crate::global::{Global, absolute, with_files};
use crate::output::{bytes, note, parse_bytes};
use crate::patience::{Patience, Patient, PatientSink};
use crate::places::Places;
use crate::settings::{Flags, Settings, SettingsError};
use crate::system::System;

/// Caches beside the host's, for commands that run while the host service has that one: more than people start at
/// once. Together they may be as large as the host's.
const CACHES_BESIDE: u32 = 8;

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
