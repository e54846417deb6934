//! Which handler answers which route, and the OpenAPI document made from the same list.

use std::sync::{Arc, LazyLock};

use axum::Router;
use axum::middleware::from_fn_with_state;
use shale_wire::{Code, Problem};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{Modify, OpenApi};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::access::admit;
use crate::account::account;
use crate::failure::Failure;
use crate::handlers::{boot_sets, chunks, manifests, packs, pushes, refs, service};
use crate::shared::Shared;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Shale registry",
        description = "Templates, layers and packs of chunks. Binary bodies are described in docs/format.md.",
    ),
    components(schemas(Problem, Code)),
    modifiers(&Tokens),
    security(("token" = [])),
)]
struct Document;

/// Adds how tokens are sent.
struct Tokens;

impl Modify for Tokens {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
        let components = document.components.get_or_insert_default();
        components.add_security_scheme("token", SecurityScheme::Http(scheme));
    }
}

/// What needs a token where tokens are needed.
fn guarded() -> OpenApiRouter<Arc<Shared>> {
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(pushes::open_push))
        .routes(routes!(pushes::end_push))
        .routes(routes!(pushes::missing))
        .routes(routes!(pushes::put_pack))
        .routes(routes!(pushes::put_layer))
        .routes(routes!(pushes::put_template))
        .routes(routes!(manifests::get_layer))
        .routes(routes!(manifests::get_template))
        .routes(routes!(refs::list_refs))
        .routes(routes!(refs::get_ref, refs::put_ref))
        .routes(routes!(chunks::locate))
        .routes(routes!(packs::get_pack))
        .routes(routes!(boot_sets::add_trace))
        .routes(routes!(boot_sets::get_boot_set))
        .routes(routes!(service::metrics))
}

/// What everybody may ask.
fn public() -> OpenApiRouter<Arc<Shared>> {
    OpenApiRouter::new()
        .routes(routes!(service::health))
        .routes(routes!(service::ready))
        .routes(routes!(service::version))
        .routes(routes!(service::openapi))
}

/// All routes with the layers around them.
pub(crate) fn router(shared: Arc<Shared>) -> Router {
    let admit = from_fn_with_state(Arc::clone(&shared), admit);
    let (router, _) = guarded()
        .route_layer(admit)
        .merge(public())
        .split_for_parts();
    router
        .fallback(async || Failure::new(Code::NoSuchRoute, "the paths are in /openapi.json"))
        .layer(from_fn_with_state(Arc::clone(&shared), account))
        .with_state(shared)
}

/// The OpenAPI document of all routes, as JSON.
pub fn openapi_json() -> &'static str {
    static JSON: LazyLock<String> = LazyLock::new(|| {
        let (_, document) = guarded().merge(public()).split_for_parts();
        // Strings and lists serialize without a way to fail.
        document.to_pretty_json().unwrap_or_default()
    });
    &JSON
}
