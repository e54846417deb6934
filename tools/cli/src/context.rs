//! What every command gets: the global options, and the parts wired together.

use std::env;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use clap::Args;
use shale_files::DirFiles;
use shale_hostd::{Composer, HostDirs, Place, private_dir};
use shale_model::{Platform, Reference, TemplateId, TemplateIndex};
use shale_view::{Cache, CacheSettings, ChunkReader, Counters, RetrySettings};
use tokio::runtime::Runtime;

use crate::failure::{Exit, Failure};
use crate::output::{Format, parse_bytes};
use crate::progress::ProgressMode;

/// Options of every command.
#[derive(Debug, Args)]
pub(crate) struct Global {
    /// Directory of the repository to use
    #[arg(long, global = true, env = "SHALE_REPOSITORY", value_name = "DIR")]
    repository: Option<PathBuf>,
    /// Directory for what must survive: plans, instances, the local repository
    #[arg(long, global = true, env = "SHALE_STATE", value_name = "DIR")]
    state: Option<PathBuf>,
    /// Directory for what can be fetched again
    #[arg(long, global = true, env = "SHALE_CACHE", value_name = "DIR")]
    cache: Option<PathBuf>,
    /// Most bytes that the chunk cache takes
    #[arg(long, global = true, env = "SHALE_CACHE_SIZE", value_name = "SIZE",
        default_value = "10G", value_parser = parse_bytes)]
    cache_size: u64,
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

/// The global options, with defaults filled in.
pub(crate) struct Context {
    pub(crate) global: Global,
    pub(crate) dirs: HostDirs,
}

impl Context {
    pub(crate) fn new(global: Global) -> anyhow::Result<Self> {
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
            given.clone().or_else(default).context("HOME is not set")
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
        Ok(Self { global, dirs })
    }

    /// The repository that commands work on.
    pub(crate) fn place(&self) -> anyhow::Result<Place> {
        let default = || self.dirs.repository();
        let path = self.global.repository.clone().unwrap_or_else(default);
        if let Some(parent) = path.parent() {
            private_dir(parent).with_context(|| format!("make `{}`", parent.display()))?;
        }
        Ok(Place::local(&path)?)
    }

    /// A host on `place`: cache, reader and composer.
    pub(crate) fn host(&self, place: Place) -> anyhow::Result<Host> {
        let runtime = Runtime::new().context("start threads")?;
        for dir in [self.dirs.plans(), self.dirs.chunks()] {
            private_dir(&dir).with_context(|| format!("make `{}`", dir.display()))?;
        }
        let files = Arc::new(DirFiles::open(&self.dirs.chunks())?);
        let settings = CacheSettings {
            cap_bytes: self.global.cache_size,
        };
        let cache = Arc::new(Cache::open(files, settings)?);
        let counters = Arc::new(Counters::default());
        let retry = RetrySettings::default();
        let handle = runtime.handle().clone();
        let reader = ChunkReader::new(
            place.fetch(),
            cache,
            counters.clone(),
            retry,
            handle.clone(),
        );
        let composer = Composer::new(place.catalog(), reader.clone(), handle, self.dirs.plans());
        Ok(Host {
            runtime,
            place,
            reader,
            composer,
            counters,
        })
    }
}

/// A host's parts.
pub(crate) struct Host {
    pub(crate) runtime: Runtime,
    pub(crate) place: Place,
    pub(crate) reader: Arc<ChunkReader>,
    pub(crate) composer: Composer,
    pub(crate) counters: Arc<Counters>,
}

/// What a reference points at.
pub(crate) fn get_index(
    place: &Place,
    reference: &Reference,
) -> anyhow::Result<Option<TemplateIndex>> {
    Ok(place.catalog().get_ref(&reference.name)?)
}

/// The template that a reference means, for the platform of this build.
pub(crate) fn resolve(place: &Place, reference: &Reference) -> anyhow::Result<TemplateId> {
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
    let index = get_index(place, reference)?.ok_or_else(missing)?;
    let platform = Platform::default();
    index.get(&platform).ok_or_else(|| {
        let Platform { os, architecture } = &platform;
        let text = format!(
            "`{}` has no template for {os}/{architecture}",
            reference.name
        );
        Failure::new(Exit::NotFound, text).into()
    })
}
