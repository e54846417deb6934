//! Every route, as the server registers it, and functions that fill in the names.

use shale_model::{LayerId, PackId, RefName, TemplateId};

use crate::push_id::PushId;

/// Opens a push (`POST`).
pub const PUSHES: &str = "/api/v1/pushes";
/// Ends a push (`DELETE`).
pub const PUSH: &str = "/api/v1/pushes/{push}";
/// Asks which chunks are missing (`POST`).
pub const PUSH_MISSING: &str = "/api/v1/pushes/{push}/missing";
/// Uploads a pack (`PUT`).
pub const PUSH_PACK: &str = "/api/v1/pushes/{push}/packs/{pack}";
/// Stores a layer root (`PUT`).
pub const PUSH_LAYER: &str = "/api/v1/pushes/{push}/layers/{layer}";
/// Stores a template (`PUT`).
pub const PUSH_TEMPLATE: &str = "/api/v1/pushes/{push}/templates/{template}";
/// Reads a layer root (`GET`, `HEAD`).
pub const LAYER: &str = "/api/v1/layers/{layer}";
/// Reads a template (`GET`, `HEAD`).
pub const TEMPLATE: &str = "/api/v1/templates/{template}";
/// Tells what a boot of a template read (`POST`).
pub const TRACES: &str = "/api/v1/templates/{template}/traces";
/// Asks for the boot set of a template, or of the nearest that has one (`GET`).
pub const BOOT_SET: &str = "/api/v1/templates/{template}/boot-set";
/// Lists references (`GET`).
pub const REFS: &str = "/api/v1/refs";
/// Reads (`GET`, `HEAD`) or sets (`PUT`) a reference.
pub const REF: &str = "/api/v1/refs/{project}/{name}/{tag}";
/// Asks where chunks lie (`POST`).
pub const LOCATE: &str = "/api/v1/chunks/locate";
/// Reads a pack or a range of it (`GET`, `HEAD`).
pub const PACK: &str = "/api/v1/packs/{pack}";
/// Whether the process lives (`GET`).
pub const HEALTH: &str = "/healthz";
/// Whether it can do its work (`GET`).
pub const READY: &str = "/readyz";
/// Its metrics, in the OpenMetrics text format (`GET`).
pub const METRICS: &str = "/metrics";
/// Which version it is (`GET`).
pub const VERSION: &str = "/version";
/// This interface as an OpenAPI document (`GET`).
pub const OPENAPI: &str = "/openapi.json";

/// Path of a push.
pub fn push(push: PushId) -> String {
    PUSH.replace("{push}", &push.to_string())
}

/// Path that answers which chunks are missing.
pub fn push_missing(push: PushId) -> String {
    PUSH_MISSING.replace("{push}", &push.to_string())
}

/// Path that a pack is uploaded to.
pub fn push_pack(push: PushId, pack: PackId) -> String {
    let path = PUSH_PACK.replace("{push}", &push.to_string());
    path.replace("{pack}", &pack.to_string())
}

/// Path that a layer root is uploaded to.
pub fn push_layer(push: PushId, layer: LayerId) -> String {
    let path = PUSH_LAYER.replace("{push}", &push.to_string());
    path.replace("{layer}", &layer.to_string())
}

/// Path that a template is uploaded to.
pub fn push_template(push: PushId, template: TemplateId) -> String {
    let path = PUSH_TEMPLATE.replace("{push}", &push.to_string());
    path.replace("{template}", &template.to_string())
}

/// Path of a layer root.
pub fn layer(layer: LayerId) -> String {
    LAYER.replace("{layer}", &layer.to_string())
}

/// Path of a template.
pub fn template(template: TemplateId) -> String {
    TEMPLATE.replace("{template}", &template.to_string())
}

/// Path that takes what boots of a template read.
pub fn traces(template: TemplateId) -> String {
    TRACES.replace("{template}", &template.to_string())
}

/// Path of the boot set of a template.
pub fn boot_set(template: TemplateId) -> String {
    BOOT_SET.replace("{template}", &template.to_string())
}

/// Path of a reference.
pub fn reference(name: &RefName) -> String {
    // The grammar of references has no character that a path would have to escape.
    format!("{REFS}/{}/{}/{}", name.project(), name.name(), name.tag())
}

/// Path of a pack.
pub fn pack(pack: PackId) -> String {
    PACK.replace("{pack}", &pack.to_string())
}
