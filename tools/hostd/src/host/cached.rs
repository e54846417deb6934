//! What this host has of templates: brought before it is asked for, kept, counted, given up.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use shale_model::{ChunkId, PlanId, Reference, TemplateId};
use shale_view::{Cache, PlanFile, View, open_plan};

use crate::api::{
    Brought, CachePrune, CacheShown, CachedTemplate, Outcome, Precache, Repository, Stage, StayWish,
};
use crate::compose::{Image, kept_plans};
use crate::error::{HostError, HostResult};
use crate::local::local_bytes;
use crate::pins::{self, Pin};
use crate::source::Source;

use super::{Host, Progress};

/// Chunks that are pinned while this is there.
pub(super) struct Pinned {
    cache: Arc<Cache>,
    chunks: Vec<ChunkId>,
}

impl Pinned {
    fn new(cache: &Arc<Cache>, chunks: Vec<ChunkId>) -> Self {
        cache.pin(chunks.iter().copied());
        let cache = cache.clone();
        Self { cache, chunks }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        self.cache.unpin(self.chunks.iter().copied());
    }
}

impl Host {
    /// Pins what was pinned when an earlier service ended. A plan that is gone or damaged is shown as such, and keeps
    /// nobody from starting.
    pub(super) fn pin_all(&self) -> HostResult<()> {
        let kept = pins::read(&self.dirs.state)?;
        let pinned = kept.into_iter().map(|pin| {
            let chunks = self.chunks_of(pin.plan).unwrap_or_default();
            (pin, Pinned::new(self.sources.cache(), chunks))
        });
        *self.pins() = pinned.collect();
        Ok(())
    }

    /// Brings all of a template to this host, and may keep it there.
    pub(super) async fn precache(
        self: &Arc<Self>,
        wish: Precache,
        progress: Progress,
    ) -> HostResult<Outcome> {
        let composed = self.composed(&wish.reference, &wish.repository, &progress);
        let (source, image) = composed.await?;
        let (template, plan) = (image.id, image.plan_id);
        let view = View::for_command(image.plan, source.reader.clone());
        let cache = self.sources.cache();
        // What was brought does not leave for what comes behind it.
        let pinned = Pinned::new(cache, chunks_in(view.plan())?);
        let brought = || {
            let (of, bytes) = local_bytes(cache, view.plan()).ok()?;
            Some(Brought { bytes, of })
        };
        let work = async {
            tokio::select! {
                brought = source.filler.bring_whole(&view) => Ok(brought?),
                // What came stays as long as there is room; the command goes on where it was.
                () = progress.left() => Err(HostError::GivenUp(wish.reference.clone())),
            }
        };
        self.stage_with(&progress, Stage::Bring, work, brought)
            .await?;
        if wish.stay == StayWish::UntilUnpinned {
            let pin = Pin {
                reference: wish.reference,
                template,
                plan,
            };
            self.blocking(move |host| host.add_pin(pin, pinned)).await?;
        }
        let shown = self.blocking(move |host| host.cached(template, plan));
        Ok(Outcome::Cached(Box::new(shown.await?)))
    }

    /// The image that a reference means, and what reads it.
    pub(super) async fn composed(
        self: &Arc<Self>,
        reference: &str,
        repository: &Repository,
        progress: &Progress,
    ) -> HostResult<(Arc<Source>, Image)> {
        let (reference, repository) = (reference.parse::<Reference>()?, repository.clone());
        let compose = self.blocking(move |host| {
            let source = host.sources.get(&repository)?;
            let image = source.composer.image(source.resolve(&reference)?)?;
            Ok((source, image))
        });
        self.stage(progress, Stage::Compose, compose).await
    }

    /// Keeps that a template stays, in the place of what was pinned of it or by its name before. Blocks.
    fn add_pin(&self, pin: Pin, pinned: Pinned) -> HostResult<()> {
        let is_other =
            |other: &Pin| other.template != pin.template && other.reference != pin.reference;
        let mut pins = self.pins();
        let others = pins.iter().map(|(pin, _)| pin).filter(|pin| is_other(pin));
        let next: Vec<Pin> = others.chain([&pin]).cloned().collect();
        pins::write(&self.dirs.state, &next)?;
        pins.retain(|(other, _)| is_other(other));
        pins.push((pin, pinned));
        Ok(())
    }

    /// Lets the content of a template leave again. Blocks.
    pub(super) fn unpin(&self, template: &str) -> HostResult<Outcome> {
        // As it was kept: with its tag.
        let reference = template.parse::<Reference>().map(|it| it.to_string());
        let is_meant = |pin: &Pin| {
            reference.as_ref() == Ok(&pin.reference) || is_short_for(template, pin.template)
        };
        let mut pins = self.pins();
        let others = pins.iter().map(|(pin, _)| pin).filter(|pin| !is_meant(pin));
        let next: Vec<Pin> = others.cloned().collect();
        if next.len() == pins.len() {
            return Err(HostError::NotPinned(template.to_owned()));
        }
        pins::write(&self.dirs.state, &next)?;
        pins.retain(|(pin, _)| !is_meant(pin));
        Ok(Outcome::Nothing)
    }

    /// Removes what no machine of this host and no pin needs. Blocks.
    pub(super) fn prune_cache(&self) -> HostResult<Outcome> {
        let mut needed = HashSet::new();
        for plan in self.machines_by_plan().keys() {
            // Without its plan a machine needs nothing: it cannot start.
            needed.extend(self.chunks_of(*plan).unwrap_or_default());
        }
        let freed_bytes = self.sources.cache().prune(|id| needed.contains(id));
        Ok(Outcome::Pruned(CachePrune { freed_bytes }))
    }

    /// The cache, and the templates that this host has plans of. Blocks.
    pub(super) fn show_cache(&self) -> HostResult<Outcome> {
        let mut plans: BTreeSet<(TemplateId, PlanId)> =
            kept_plans(&self.dirs.plans())?.into_iter().collect();
        let pins: Vec<Pin> = self.pins().iter().map(|(pin, _)| pin.clone()).collect();
        plans.extend(pins.iter().map(|pin| (pin.template, pin.plan)));
        for instance in self.all() {
            let live = instance.live();
            plans.extend(live.origins().map(|origin| (origin.template, origin.plan)));
        }
        let mut templates = Vec::new();
        for (template, plan) in plans {
            match self.cached(template, plan) {
                Ok(shown) => templates.push(shown),
                // What is damaged is made again when it is wanted; what is pinned is not to vanish from sight.
                Err(error) => {
                    let pin = pins.iter().find(|pin| pin.plan == plan);
                    templates.extend(pin.map(|pin| CachedTemplate {
                        template,
                        plan,
                        references: vec![pin.reference.clone()],
                        content_bytes: 0,
                        local_bytes: 0,
                        pinned: true,
                        machines: Vec::new(),
                        trouble: Some(error.failure().message),
                    }));
                }
            }
        }
        let usage = self.sources.cache().usage();
        Ok(Outcome::Cache(Box::new(CacheShown {
            cap_bytes: usage.cap_bytes,
            bytes: usage.bytes,
            pinned_bytes: usage.pinned_bytes,
            chunks: usage.chunks as u64,
            plan_bytes: super::show::room_of(&self.dirs.plans()),
            templates,
        })))
    }

    /// What this host has of a template. Blocks.
    fn cached(&self, template: TemplateId, plan: PlanId) -> HostResult<CachedTemplate> {
        let file = open_plan(&self.plan_path(plan), plan)?;
        let (content_bytes, local_bytes) = local_bytes(self.sources.cache(), &file)?;
        let pin = {
            let pins = self.pins();
            let pin = pins.iter().find(|(pin, _)| pin.plan == plan);
            pin.map(|(pin, _)| pin.clone())
        };
        let used = self.machines_by_plan().remove(&plan).unwrap_or_default();
        let mut references = used.references;
        references.extend(pin.iter().map(|pin| pin.reference.clone()));
        Ok(CachedTemplate {
            template,
            plan,
            references: references.into_iter().collect(),
            content_bytes,
            local_bytes,
            pinned: pin.is_some(),
            machines: used.machines.into_iter().collect(),
            trouble: None,
        })
    }

    fn machines_by_plan(&self) -> BTreeMap<PlanId, Use> {
        let mut uses: BTreeMap<PlanId, Use> = BTreeMap::new();
        for instance in self.all() {
            for origin in instance.live().origins() {
                let used = uses.entry(origin.plan).or_default();
                used.machines.insert(instance.name.to_string());
                used.references.insert(origin.reference.clone());
            }
        }
        uses
    }

    fn chunks_of(&self, plan: PlanId) -> HostResult<Vec<ChunkId>> {
        chunks_in(&open_plan(&self.plan_path(plan), plan)?)
    }
}

/// Who uses a plan.
#[derive(Default)]
struct Use {
    machines: BTreeSet<String>,
    references: BTreeSet<String>,
}

/// Digits of an id that are enough to name it.
const SHORT_ID: usize = 12;

fn is_short_for(text: &str, template: TemplateId) -> bool {
    let digits = text.strip_prefix("blake3:").unwrap_or(text);
    digits.len() >= SHORT_ID && template.hex().starts_with(digits)
}

/// The chunks of a plan, each once.
fn chunks_in(plan: &PlanFile) -> HostResult<Vec<ChunkId>> {
    let mut seen = HashSet::with_capacity(plan.chunk_count());
    for index in 0..plan.chunk_count() {
        seen.insert(plan.chunk(index)?.0);
    }
    Ok(seen.into_iter().collect())
}
