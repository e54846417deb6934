//! What a deployment would bring from where, and how long it would take.

use std::sync::Arc;

use shale_hvplug::Acceleration;
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
        let view = View::for_command(image.plan, source.reader.clone());
        let (content_bytes, local_bytes) = local_bytes(self.sources.cache(), view.plan())?;
        let sampled = sample_of(&source, template, &view);
        let (boot, bytes_per_second) = self.stage(&progress, Stage::Sample, sampled).await?;
        let ready = self.ready(template, wish.acceleration).map(|like| {
            let missing = boot.as_ref().map(|boot| boot.missing_bytes);
            let takes = match (missing, bytes_per_second) {
                (Some(missing), Some(rate)) => Some(missing as f64 / rate),
                // Too little to tell how fast it comes.
                (Some(_), None) => Some(0.0),
                // It is not known what a boot reads; at least that its content is all here.
                _ => (local_bytes == content_bytes).then_some(0.0),
            };
            ReadyForecast {
                seconds: takes.map(|takes| takes + like.machine_seconds),
                ..like
            }
        });
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
        })))
    }

    /// How long the last start took of an instance that is most like one of this template, reads that waited apart.
    fn ready(&self, template: TemplateId, acceleration: Acceleration) -> Option<ReadyForecast> {
        let instances = self.all();
        let started = instances.iter().filter_map(|instance| {
            let record: Record = instance.live().record.clone()?;
            let fits = record.resources.acceleration == acceleration;
            let millis = record.ready_millis.filter(|_| fits)?;
            let is_same = record.origin.template == template;
            Some((
                is_same,
                record.origin.created,
                instance.name.to_string(),
                millis,
            ))
        });
        let (is_same, _, machine, millis) = started.max()?;
        Some(ReadyForecast {
            machine,
            is_same_template: is_same,
            machine_seconds: millis as f64 / 1e3,
            seconds: Some(millis as f64 / 1e3),
        })
    }
}

/// What a boot reads, if that is known, and how fast the source sends it.
async fn sample_of(
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
