//! References: one, and pages of them.

use serde::{Deserialize, Serialize};
use shale_model::{ChunkId, TemplateIndex};
use utoipa::{IntoParams, ToSchema};

/// What a page of references is asked for with.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct RefQuery {
    /// Only references of this project.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub project: String,
    /// Only references after this one: `next` of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// Most references wanted, 100 if not given, 1000 at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
}

/// A page of references, in order of name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RefPage {
    /// The references.
    pub refs: Vec<RefEntry>,
    /// Where the next page begins; absent on the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// One reference.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RefEntry {
    /// `project/name:tag`.
    pub name: String,
    /// The template for each platform.
    #[schema(value_type = Object)]
    pub index: TemplateIndex,
}

/// The entity tag of a reference that points at `index`: what `ETag`, `If-Match` and `If-None-Match`
/// hold.
pub fn ref_etag(index: &TemplateIndex) -> String {
    format!("\"{}\"", ChunkId::of(&index.encode()))
}
