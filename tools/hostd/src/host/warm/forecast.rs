//! What a warm start would bring, or why a machine would boot.

use std::sync::Arc;

use shale_model::Reference;
use shale_view::View;

use crate::api::{ForecastWish, WarmForecast, WarmStart};
use crate::compose::Image;
use crate::error::HostResult;
use crate::local::local_bytes;
use crate::source::Source;
use crate::warm::{Common, WarmSnapshot};

use super::super::Host;
use super::super::forecast::{sample_of, until_ready};
use super::begin::no_snapshot;
use super::common;

impl Host {
    /// Says what a warm start of a machine would take whose image was composed. It brings some of its snapshot, if there is
    /// one.
    pub(in crate::host) async fn forecast_warm(
        self: &Arc<Self>,
        wish: &ForecastWish,
        source: &Arc<Source>,
        image: &Image,
    ) -> HostResult<WarmForecast> {
        let hypervisor = match self.blocking(|host| host.hypervisor()).await {
            Ok(hypervisor) => hypervisor,
            Err(error) => {
                let reason = error.failure().message;
                return Ok(WarmForecast::Cold { reason });
            }
        };
        // As a deployment would fail.
        let wanted = common(&wish.machine, image, hypervisor)?;
        let (reference, from) = (wish.reference.clone(), source.clone());
        let found = self.blocking(move |_| Ok(fitting(from, &reference, &wanted)));
        let snapshot = match found.await? {
            Ok(snapshot) => snapshot,
            Err(reason) => return Ok(WarmForecast::Cold { reason }),
        };
        let WarmSnapshot { image, .. } = snapshot;
        let view = View::for_command(image.plan, source.reader.clone());
        let (content_bytes, local_bytes) = local_bytes(self.sources.cache(), view.plan())?;
        let (boot, bytes_per_second) = sample_of(source, image.id, &view).await?;
        let like = self.last_ready(|record| {
            let Some(WarmStart::From { snapshot }) = &record.warm else {
                return None;
            };
            Some((*snapshot == image.id, record.warm_ready_millis?))
        });
        let is_here = local_bytes == content_bytes;
        let ready = like.map(|like| until_ready(like, boot.as_ref(), bytes_per_second, is_here));
        Ok(WarmForecast::From {
            snapshot: image.id,
            content_bytes,
            local_bytes,
            boot,
            bytes_per_second,
            ready,
        })
    }
}

/// The snapshot that a machine would go on from, or why there is none. Blocks.
fn fitting(source: Arc<Source>, reference: &str, wanted: &Common) -> Result<WarmSnapshot, String> {
    let find = || -> HostResult<Option<WarmSnapshot>> {
        let name = reference.parse::<Reference>()?.name;
        let found = WarmSnapshot::find(&source, &name, wanted.template)?;
        let open = |id| WarmSnapshot::open(source.clone(), id);
        found.map(open).transpose()
    };
    match find() {
        Ok(Some(snapshot)) => match snapshot.kept.machine.differs(wanted) {
            None => Ok(snapshot),
            Some(differs) => Err(differs.to_string()),
        },
        Ok(None) => Err(no_snapshot(reference)),
        Err(error) => Err(error.failure().message),
    }
}
