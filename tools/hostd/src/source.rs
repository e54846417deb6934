//! The repositories that a host's instances come from.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use shale_client::{Address, AddressError};
use shale_model::{
    BootSet, BootSets, Catalog, ChunkId, Fetch, Platform, Reference, SeamResult, TemplateId,
};
use shale_view::{
    Cache, ChunkReader, Counters, FillRate, FillSettings, Filler, NamedFetch, RetrySettings,
    SourceState, Trace,
};
use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::api::{EventKind, Repository};
use crate::boot_sets::{BootSetChunks, KnownBootSets, chunks_of_boot};
use crate::compose::Composer;
use crate::drill::{Drill, DrilledFetch, LinkFault};
use crate::error::{HostError, HostResult, PlaceFailure};
use crate::local::local_bytes;
use crate::metrics::SourceSums;
use crate::place::Place;
use crate::renewed::Renewed;
use crate::seen::Witness;
use crate::supply::supply;

/// Opens a repository. It must not wait for a network: guests that run are found again without one.
pub type OpenPlace = Box<dyn Fn(&Repository) -> Result<Place, PlaceFailure> + Send + Sync>;

/// The URL of a registry that a reference names by its host: HTTP on loopback, HTTPS everywhere else.
pub fn registry_url(host: &str) -> Result<String, AddressError> {
    Ok(host.parse::<Address>()?.to_string())
}

/// How long a service that ends waits for registries that it tells of boots.
const TELL_WITHIN: Duration = Duration::from_secs(3);

/// A repository with what reads it. All of a host's share one cache.
pub(crate) struct Source {
    pub(crate) catalog: Arc<dyn Catalog>,
    pub(crate) reader: Arc<ChunkReader>,
    pub(crate) composer: Composer,
    /// What is wrong on purpose with the way to all it comes from.
    pub(crate) link: Arc<Drill<LinkFault>>,
    /// Brings what instances from here have not read yet.
    pub(crate) filler: Arc<Filler>,
    /// Whether it is from elsewhere: what a fill would bring from this machine is here already.
    is_remote: bool,
    /// What boots read, where that is kept.
    boots: Option<Arc<dyn BootSets>>,
    /// What it is being told of boots.
    telling: Mutex<JoinSet<()>>,
    boot_sets: Arc<KnownBootSets>,
    pub(crate) witness: Witness,
}

impl Source {
    /// Brings what boots of a template read, if that is known: a machine is about to. Without it, it boots as well.
    pub(crate) fn bring_boot_set(&self, template: TemplateId) {
        let Some(boots) = self.boots.clone() else {
            return;
        };
        // Also where somebody finds out already: what is brought is what it then is.
        self.boot_sets.is_to_ask(template);
        let (filler, reader) = (self.filler.clone(), self.reader.clone());
        let (known, events) = (self.boot_sets.clone(), self.witness.events.clone());
        self.composer.runtime.spawn(async move {
            let mut brought = None;
            if let Ok(Some(set)) = boots.boot_set(template).await {
                match filler.bring_boot_set(&reader, &set).await {
                    Ok(chunks) => brought = Some(chunks),
                    Err(error) => tracing::warn!(%template, %error, "a boot set is not brought"),
                }
            }
            if let Some(chunks) = &brought {
                let bytes = chunks.iter().map(|(_, len)| u64::from(*len)).sum();
                events.happened(None, EventKind::BootSetBrought { template, bytes });
            }
            known.found(template, brought.map(Into::into));
        });
    }

    /// The same, unless all of the template's content is here; whether it is not. Blocks.
    pub(crate) fn bring_missing_boot_set(&self, template: TemplateId) -> bool {
        let composer = &self.composer;
        let plan = composer.kept_plan(template);
        let share = plan.and_then(|plan| local_bytes(self.reader.cache(), &plan).ok());
        let is_missing = share.is_none_or(|(all, here)| here < all);
        if is_missing {
            self.bring_boot_set(template);
        }
        is_missing
    }

    /// Finds out what boots of a template read, where that is not known, so that it can be said how much of it is here.
    pub(crate) fn learn_boot_set(&self, template: TemplateId) {
        let boots = self.boots.clone();
        let Some(boots) = boots.filter(|_| self.boot_sets.is_to_ask(template)) else {
            return;
        };
        let (reader, known) = (self.reader.clone(), self.boot_sets.clone());
        self.composer.runtime.spawn(async move {
            let mut chunks = None;
            if let Ok(Some(set)) = boots.boot_set(template).await {
                chunks = reader.boot_set_chunks(&set).await.ok();
            }
            known.found(template, chunks.map(Into::into));
        });
    }

    /// The boot set of a template, or of the one most like it, if boots are known here.
    pub(crate) async fn boot_set(&self, template: TemplateId) -> SeamResult<Option<BootSet>> {
        match &self.boots {
            Some(boots) => boots.boot_set(template).await,
            None => Ok(None),
        }
    }

    /// Tells what a boot of a template read, for the next host. If that cannot be told, another boot will. Blocks.
    pub(crate) fn tell_of_boot(&self, template: TemplateId, trace: &Trace) {
        let chunks = trace.end();
        self.know_boot_set(template, &chunks);
        if let Some(boots) = self.boots.clone() {
            let tell = async move { drop(boots.add_trace(template, &chunks).await) };
            let mut telling = self.telling.lock().unwrap_or_else(PoisonError::into_inner);
            // Those that have ended take no room.
            while telling.try_join_next().is_some() {}
            telling.spawn_on(tell, &self.composer.runtime);
        }
    }

    /// Notes what a boot here read, where nobody knew, so that the registry need not be asked for it.
    fn know_boot_set(&self, template: TemplateId, chunks: &[ChunkId]) {
        if self.boots.is_some()
            && self.boot_sets.get(template).is_none()
            && let Some(plan) = self.composer.kept_plan(template)
            && let Ok(known) = chunks_of_boot(&plan, chunks)
        {
            self.boot_sets.found(template, Some(known));
        }
    }

    /// Waits for what is being told, but not for long.
    async fn tell_all(&self) {
        let mut telling = {
            let mut telling = self.telling.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *telling)
        };
        let told = async { while telling.join_next().await.is_some() {} };
        // Another boot will tell what this one could not.
        let _ = timeout(TELL_WITHIN, told).await;
    }

    /// The template that a reference means, for the platform of this build. Blocks.
    pub(crate) fn resolve(&self, reference: &Reference) -> HostResult<TemplateId> {
        if let Some(id) = reference.id {
            return Ok(id);
        }
        let missing = |platform| HostError::NoTemplate {
            reference: reference.to_string(),
            platform,
        };
        let index = self.catalog.get_ref(&reference.name)?;
        let index = index.ok_or_else(|| missing(None))?;
        let platform = Platform::default();
        let name = || format!("{}/{}", platform.os, platform.architecture);
        index.get(&platform).ok_or_else(|| missing(Some(name())))
    }
}

/// A repository as the parts of a source see it.
type Seams = (Arc<dyn Catalog>, NamedFetch, Option<Arc<dyn BootSets>>);

/// The sources that were used so far.
pub(crate) struct Sources {
    open: Arc<OpenPlace>,
    cache: Arc<Cache>,
    counters: Arc<Counters>,
    fill: Mutex<FillRate>,
    runtime: Handle,
    plans: PathBuf,
    boot_sets: Arc<KnownBootSets>,
    witness: Witness,
    /// One for each way to open a repository: with another token, a registry may show something else.
    opened: Mutex<HashMap<Repository, Arc<Source>>>,
}

impl Sources {
    /// Sources that are opened by `open` when they are first asked for.
    pub(crate) fn new(
        open: OpenPlace,
        cache: Arc<Cache>,
        counters: Arc<Counters>,
        fill: FillRate,
        runtime: Handle,
        plans: PathBuf,
        witness: Witness,
    ) -> Self {
        Self {
            boot_sets: Arc::default(),
            witness,
            open: Arc::new(open),
            cache,
            counters,
            fill: Mutex::new(fill),
            runtime,
            plans,
            opened: Mutex::default(),
        }
    }

    pub(crate) fn counters(&self) -> &Counters {
        &self.counters
    }

    pub(crate) fn cache(&self) -> &Arc<Cache> {
        &self.cache
    }

    /// What boots of a template read, if that is known.
    pub(crate) fn boot_set(&self, template: TemplateId) -> Option<BootSetChunks> {
        self.boot_sets.get(template)
    }

    /// What each source of content did so far, by its name. Repositories that share one are added up.
    pub(crate) fn sums(&self) -> BTreeMap<String, SourceSums> {
        let mut sums = BTreeMap::<String, SourceSums>::new();
        let known = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        for report in known
            .values()
            .flat_map(|source| source.reader.supply().report())
        {
            let sum = sums.entry(report.name).or_default();
            sum.requests += report.requests;
            sum.failures += report.failures;
            sum.bytes += report.bytes;
            sum.is_broken |= report.state != SourceState::Asked;
        }
        sums
    }

    /// Waits until registries know what was read in the boots that they are being told of, but not for long.
    pub(crate) async fn tell_all(&self) {
        let opened: Vec<Arc<Source>> = {
            let known = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
            known.values().cloned().collect()
        };
        for source in opened {
            source.tell_all().await;
        }
    }

    /// `repository`, for whoever adds to it. Blocks.
    pub(crate) fn open_to_write(&self, repository: &Repository) -> HostResult<Place> {
        let place = match Path::new(&repository.address) {
            // One in a directory has one process at a time that writes chunks: this, for as long as the answer lives.
            path if path.is_absolute() => Place::local(path).map_err(PlaceFailure::from),
            _ => (self.open)(repository),
        };
        place.map_err(HostError::Place)
    }

    /// Fills at another rate from now on. What has ended for lack of room is begun again.
    pub(crate) fn set_fill(&self, rate: FillRate) {
        // First held as in `get`, so that no source is opened with the rate before.
        let known = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        *self.fill.lock().unwrap_or_else(PoisonError::into_inner) = rate;
        for source in known.values().filter(|source| source.is_remote) {
            source.filler.set_rate(rate);
        }
    }

    /// What reads `repository`. Blocks.
    pub(crate) fn get(&self, repository: &Repository) -> HostResult<Arc<Source>> {
        // Held while a place opens: a local repository can be opened once.
        let mut known = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(source) = known.get(repository) {
            return Ok(source.clone());
        }
        let place = (self.open)(repository).map_err(HostError::Place)?;
        let is_remote = matches!(place, Place::Remote { .. });
        let fill = match is_remote {
            true => *self.fill.lock().unwrap_or_else(PoisonError::into_inner),
            false => FillRate::Off,
        };
        let boots = place.boot_sets();
        let name = repository.address.clone();
        let (catalog, registry, boots): Seams = match repository.credentials.token_file {
            None => {
                let registry = NamedFetch {
                    name,
                    fetch: place.fetch(),
                    hearing: place.hearing(),
                };
                (place.catalog(), registry, boots)
            }
            Some(_) => {
                let renewed = Renewed::new(repository.clone(), self.open.clone(), place.clone());
                let renewed = Arc::new(renewed);
                let boots = boots.map(|_| renewed.clone() as Arc<dyn BootSets>);
                let registry = NamedFetch {
                    name,
                    fetch: renewed.clone(),
                    hearing: Some(renewed.clone()),
                };
                (renewed, registry, boots)
            }
        };
        let mirrors = Renewed::mirrors(repository, &self.open, &place);
        let link = Arc::<Drill<LinkFault>>::default();
        let drilled = |inner| -> Arc<dyn Fetch> {
            let link = link.clone();
            Arc::new(DrilledFetch { inner, link })
        };
        let supply = supply(mirrors, registry, self.counters.clone(), drilled);
        let reader = ChunkReader::new(
            Arc::new(supply),
            self.cache.clone(),
            RetrySettings::default(),
            self.runtime.clone(),
        );
        let composer = Composer::new(
            catalog.clone(),
            reader.clone(),
            self.runtime.clone(),
            self.plans.clone(),
        );
        let source = Arc::new(Source {
            catalog,
            reader,
            composer,
            link,
            boots,
            telling: Mutex::default(),
            filler: Arc::new(Filler::new(FillSettings::at(fill))),
            is_remote,
            boot_sets: self.boot_sets.clone(),
            witness: self.witness.clone(),
        });
        known.insert(repository.clone(), source.clone());
        Ok(source)
    }
}
