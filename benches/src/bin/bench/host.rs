//! Shale's parts in this process, for rows that measure calls and not programs.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use serde_json::Value;
use shale_files::DirFiles;
use shale_hostd::{Composer, Place, private_dir, supply};
use shale_model::{ChunkId, TemplateId};
use shale_view::{Cache, CacheSettings, ChunkReader, Counters, NamedFetch, RetrySettings};
use tokio::runtime::Runtime;

use crate::programs::Shale;

/// Room for every chunk of the inputs.
const CACHE_BYTES: u64 = 10 << 30;

/// A host with a local repository.
pub(crate) struct Host {
    runtime: Runtime,
    place: Place,
    reader: Arc<ChunkReader>,
}

impl Host {
    /// Opens the repository that `shale` pushed to, with an empty cache.
    pub(crate) fn open(shale: &Shale, cache: &Path) -> Result<Self> {
        let place = Place::local(&shale.repository())?;
        let runtime = Runtime::new().context("start threads")?;
        private_dir(cache)?;
        let settings = CacheSettings {
            cap_bytes: CACHE_BYTES,
        };
        let cache = Arc::new(Cache::open(Arc::new(DirFiles::open(cache)?), settings)?);
        let counters = Arc::new(Counters::default());
        let handle = runtime.handle().clone();
        let repository = NamedFetch {
            name: "the repository".into(),
            fetch: place.fetch(),
            hearing: place.hearing(),
        };
        let supply = supply(place.mirrors(), repository, counters, |fetch| fetch);
        let reader = ChunkReader::new(Arc::new(supply), cache, RetrySettings::default(), handle);
        Ok(Self {
            runtime,
            place,
            reader,
        })
    }

    /// A composer that keeps its plans in `plans`.
    pub(crate) fn composer(&self, plans: &Path) -> Result<Composer> {
        private_dir(plans)?;
        let handle = self.runtime.handle().clone();
        Ok(Composer::new(
            self.place.catalog(),
            self.reader.clone(),
            handle,
            plans.to_owned(),
        ))
    }

    /// The bytes of chunks.
    pub(crate) fn chunks(&self, wanted: &[(ChunkId, u32)]) -> Result<Vec<Vec<u8>>> {
        Ok(self.runtime.block_on(self.reader.chunks(wanted))?)
    }
}

/// The template that a command of `shale` printed as JSON.
pub(crate) fn template_in(answer: &Value) -> Result<TemplateId> {
    let text = answer["template"]
        .as_str()
        .context("an answer names a template")?;
    text.parse()
        .with_context(|| format!("the template id {text}"))
}
