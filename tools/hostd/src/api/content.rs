//! Templates: new ones, what one would take, what of them is here.

use serde::{Deserialize, Serialize};
use shale_ingest::Pushed;
use shale_model::{LayerId, PlanId, Reference, TemplateId};

/// A template whose topmost layer was pushed. Its JSON is a stable interface.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NewTemplate {
    /// Its reference.
    pub reference: String,
    /// The template.
    pub template: TemplateId,
    /// The layer.
    pub layer: LayerId,
    /// Entries of the layer.
    pub entries: u64,
    /// Bytes of its files, holes among them.
    pub logical_bytes: u64,
    /// Chunks of its files.
    pub chunks: u64,
    /// Chunks, pages of the layer among them, that the repository lacked.
    pub sent_chunks: u64,
    /// Their plain bytes.
    pub sent_chunk_bytes: u64,
    /// Bytes of the packs that hold them.
    pub pack_bytes: u64,
    /// These packs.
    pub packs: u64,
}

impl NewTemplate {
    /// What a push made.
    pub fn new(reference: &Reference, template: TemplateId, pushed: &Pushed) -> Self {
        let (totals, stats) = (pushed.root.totals, pushed.stats);
        Self {
            reference: reference.name.to_string(),
            template,
            layer: pushed.layer,
            entries: totals.entries,
            logical_bytes: totals.bytes,
            chunks: totals.chunks,
            sent_chunks: stats.sent_chunks,
            sent_chunk_bytes: stats.sent_chunk_bytes,
            pack_bytes: stats.pack_bytes,
            packs: stats.packs,
        }
    }
}

/// What a deployment would bring, and how long it would take. Its JSON is a stable interface.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Forecast {
    /// The reference as it was given.
    pub reference: String,
    /// The template.
    pub template: TemplateId,
    /// The plan of its disk.
    pub plan: PlanId,
    /// Where what is not here comes from: a directory or a URL.
    pub source: String,
    /// Bytes of the template's content.
    pub content_bytes: u64,
    /// Bytes of these that this host has.
    pub local_bytes: u64,
    /// What a boot reads; `None` if nobody knows.
    pub boot: Option<BootForecast>,
    /// How fast the source sends; `None` if there was too little to bring.
    pub bytes_per_second: Option<f64>,
    /// When its login prompt would come by a boot; `None` if no machine of this host tells.
    pub ready: Option<ReadyForecast>,
    /// How it would begin if a warm start was asked for.
    pub warm: WarmForecast,
}

/// What a warm start would bring, or why there would be none.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WarmForecast {
    /// It would go on from this snapshot, which comes from where the template does.
    From {
        /// The template that is the snapshot.
        snapshot: TemplateId,
        /// Bytes of its content.
        content_bytes: u64,
        /// Bytes of these that this host has.
        local_bytes: u64,
        /// What of it is read until the login prompt; `None` if nobody knows.
        boot: Option<BootForecast>,
        /// How fast the source sends; `None` if there was too little to bring.
        bytes_per_second: Option<f64>,
        /// When the login prompt would come; `None` if no machine of this host has begun so.
        ready: Option<ReadyForecast>,
    },
    /// It would boot.
    Cold {
        /// Why.
        reason: String,
    },
}

/// What a boot of a template reads, as other boots showed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BootForecast {
    /// The template of those boots: this one, or the nearest that has any.
    pub template: TemplateId,
    /// Bytes of its boot set, as they are sent.
    pub stored_bytes: u64,
    /// Bytes of these that were not on this host.
    pub missing_bytes: u64,
}

/// When a login prompt would come.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ReadyForecast {
    /// The machine of this host that tells.
    pub machine: String,
    /// Whether it is of the same template, or of the same snapshot.
    pub is_same_template: bool,
    /// Seconds that its last start took, without those in which reads waited.
    pub machine_seconds: f64,
    /// Seconds from the command on, as if nothing of the boot set came while the guest boots; `None` if it is not known
    /// what a boot reads.
    pub seconds: Option<f64>,
}

/// The chunk cache of a host, and what is in it. Its JSON is a stable interface.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CacheShown {
    /// Most bytes of all its files together.
    pub cap_bytes: u64,
    /// Bytes of all its files.
    pub bytes: u64,
    /// Bytes of those that do not leave, because something in them is pinned.
    pub pinned_bytes: u64,
    /// Chunks in them.
    pub chunks: u64,
    /// Bytes of the plans, which are no part of the cache.
    pub plan_bytes: u64,
    /// The templates that this host has plans of, in order of their ids.
    pub templates: Vec<CachedTemplate>,
}

/// What a host has of a template. Its JSON is a stable interface.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CachedTemplate {
    /// The template.
    pub template: TemplateId,
    /// The plan of its disk.
    pub plan: PlanId,
    /// The references that machines and pins of this host know it by.
    pub references: Vec<String>,
    /// Bytes of its content.
    pub content_bytes: u64,
    /// Bytes of these that are in the cache.
    pub local_bytes: u64,
    /// Whether they stay there.
    pub pinned: bool,
    /// The machines of this host that are made from it.
    pub machines: Vec<String>,
    /// Why the plan of what is pinned cannot be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

/// What came of pruning the cache.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct CachePrune {
    /// Bytes of files that were removed.
    pub freed_bytes: u64,
}
