//! What a deployment would bring from where, and how long it would take.

use std::sync::Arc;

use shale_model::{ChunkId, TemplateId};
use shale_view::{BringError, Sample, View, sample, sample_boot_set};

use crate::api::{BootForecast, Forecast, ForecastWish, Outcome, ReadyForecast, Stage};
use crate::error::{HostError, HostResult};
use crate::local::local_bytes;
use crate::record::Record;
use crate::source::Source;

use super::{Host, Progress};

/// Chunks of a plan that say how fast its source sends, where no boot set does.
const SAMPLE_CHUNKS: usize = 1024;

impl Host {
    /// Says what a deployment would take. It composes the template, and brings some of its content to see how fast that
    /// comes; nothing of an instance is made.
    pub(super) async fn forecast(
        self: &Arc<Self>,
        wish: ForecastWish,
        progress: Progress,
    ) -> HostResult<Outcome> {
        let composed = self.composed(&wish.reference, &wish.repository, &progress);
        let (source, image) = composed.await?;
        let (template, plan) = (image.id, image.plan_id);
        let warm = self.forecast_warm(&wish, &source, &image);
        let warm = self.stage(&progress, Stage::FindWarm, warm).await?;
        let view = View::for_command(image.plan, source.reader.clone());
        let (content_bytes, local_bytes) = local_bytes(self.sources.cache(), view.plan())?;
        let sampled = sample_of(&source, template, &view);
        let (boot, bytes_per_second) = self.stage(&progress, Stage::Sample, sampled).await?;
        let like = self.last_ready(|record| {
            let fits = record.resources.acceleration == wish.machine.acceleration;
            let millis = record.ready_millis.filter(|_| fits)?;
            Some((record.origin.template == template, millis))
        });
        let is_here = local_bytes == content_bytes;
        let ready = like.map(|like| until_ready(like, boot.as_ref(), bytes_per_second, is_here));
        Ok(Outcome::Forecast(Box::new(Forecast {
            reference: wish.reference,
            template,
            plan,
            source: wish.repository.address,
            content_bytes,
            local_bytes,
            boot,
            bytes_per_second,
            ready,
            warm,
        })))
    }

    /// How long the last start took of the instance that is most like one: `of` says of a record whether it is of the same, and
    /// the milliseconds, reads that waited apart.
    pub(super) fn last_ready(
        &self,
        of: impl Fn(&Record) -> Option<(bool, u64)>,
    ) -> Option<ReadyForecast> {
        let instances = self.all();
        let started = instances.iter().filter_map(|instance| {
            let record = instance.live().record.clone()?;
            let (is_same, millis) = of(&record)?;
            let created = record.origin.created;
            Some((is_same, created, instance.name.to_string(), millis))
        });
        let (is_same, _, machine, millis) = started.max()?;
        Some(ReadyForecast {
            machine,
            is_same_template: is_same,
            machine_seconds: millis as f64 / 1e3,
            seconds: None,
        })
    }
}

/// When a machine is ready that is like another, if what it reads comes at this rate.
pub(super) fn until_ready(
    like: ReadyForecast,
    boot: Option<&BootForecast>,
    bytes_per_second: Option<f64>,
    is_here: bool,
) -> ReadyForecast {
    let takes = match (boot, bytes_per_second) {
        (Some(boot), Some(rate)) => Some(boot.missing_bytes as f64 / rate),
        // Too little to tell how fast it comes.
        (Some(_), None) => Some(0.0),
        // It is not known what it reads; at least whether its content is all here.
        (None, _) => is_here.then_some(0.0),
    };
    ReadyForecast {
        seconds: takes.map(|takes| takes + like.machine_seconds),
        ..like
    }
}

/// What a boot reads, if that is known, and how fast the source sends it.
pub(super) async fn sample_of(
    source: &Source,
    template: TemplateId,
    view: &View,
) -> HostResult<(Option<BootForecast>, Option<f64>)> {
    let set = source.boot_set(template).await?;
    let sampled = match &set {
        // One that cannot be read is as good as none, to a deployment too.
        Some(set) => sample_boot_set(&source.reader, set).await.ok(),
        None => None,
    };
    if let (Some(set), Some(sampled)) = (set, sampled) {
        let Sample {
            stored_bytes,
            missing_bytes,
            bytes_per_second,
        } = sampled;
        let boot = BootForecast {
            template: set.template,
            stored_bytes,
            missing_bytes,
        };
        return Ok((Some(boot), bytes_per_second));
    }
    let mut chunks: Vec<ChunkId> = Vec::new();
    for index in 0..view.plan().chunk_count().min(SAMPLE_CHUNKS) {
        chunks.push(view.plan().chunk(index)?.0);
    }
    let sampled = sample(&source.reader, &chunks).await;
    let sampled = sampled.map_err(|error| HostError::Bring(BringError::Read(error)))?;
    Ok((None, sampled.bytes_per_second))
}
