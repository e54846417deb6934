//! Small JSON answers.

use serde::{Deserialize, Serialize};
use shale_model::{BootSet, PackId, TemplateId};
use utoipa::ToSchema;

/// A boot set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BootSetInfo {
    /// The template whose boots it was made from: `blake3:` and 64 hex digits.
    #[schema(value_type = String)]
    pub template: TemplateId,
    /// Its pack: `sha256:` and 64 hex digits.
    #[schema(value_type = String)]
    pub pack: PackId,
    /// Where the pack's footer begins.
    pub footer_offset: u64,
    /// Bytes of the pack.
    pub pack_bytes: u64,
}

impl From<BootSet> for BootSetInfo {
    fn from(set: BootSet) -> Self {
        let BootSet {
            template,
            pack,
            footer_offset,
            pack_bytes,
        } = set;
        Self {
            template,
            pack,
            footer_offset,
            pack_bytes,
        }
    }
}

impl From<BootSetInfo> for BootSet {
    fn from(info: BootSetInfo) -> Self {
        let BootSetInfo {
            template,
            pack,
            footer_offset,
            pack_bytes,
        } = info;
        Self {
            template,
            pack,
            footer_offset,
            pack_bytes,
        }
    }
}

/// A push was opened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PushOpened {
    /// Its id: 32 hex digits.
    pub push: String,
    /// Seconds without any request after which the registry ends it.
    pub idle_seconds: u64,
}

/// What answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VersionInfo {
    /// `shale`.
    pub name: String,
    /// Version of the program.
    pub version: String,
    /// Versions of this interface that it speaks: `v1`.
    pub api: Vec<String>,
}
