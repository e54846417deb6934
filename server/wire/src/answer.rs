//! Small JSON answers.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

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
