//! The handlers, one file per family of operations.

pub(crate) mod boot_sets;
pub(crate) mod chunks;
pub(crate) mod manifests;
pub(crate) mod packs;
pub(crate) mod pushes;
pub(crate) mod refs;
pub(crate) mod service;

use std::str::FromStr;

use axum::http::HeaderValue;
use shale_wire::{Code, IMMUTABLE, IMMUTABLE_PRIVATE, PROBLEM_MEDIA_TYPE, Problem};
use utoipa::openapi::response::{ResponseBuilder, ResponsesBuilder};
use utoipa::openapi::{ContentBuilder, Ref, RefOr, Response};
use utoipa::{IntoResponses, ToSchema};

use crate::access::Caller;
use crate::failure::Failure;

/// A part of a path as the name that it must be.
fn parse<T: FromStr>(text: &str) -> Result<T, Failure>
where
    T::Err: std::fmt::Display,
{
    let invalid = |error: T::Err| Failure::new(Code::Invalid, error.to_string());
    text.parse().map_err(invalid)
}

/// The header value of a text that we made of plain ASCII.
fn header(text: &str) -> Result<HeaderValue, Failure> {
    let impossible = |error| Failure::internal(format!("header `{text}`: {error}"));
    HeaderValue::from_str(text).map_err(impossible)
}

/// `Cache-Control` of what never changes, when `caller` reads it.
fn caching(caller: &Caller) -> HeaderValue {
    HeaderValue::from_static(match caller {
        Caller::Anyone => IMMUTABLE,
        Caller::Token(_) => IMMUTABLE_PRIVATE,
    })
}

/// In the OpenAPI document: any error answer.
pub(crate) struct Problems;

impl IntoResponses for Problems {
    fn responses() -> std::collections::BTreeMap<String, RefOr<Response>> {
        let schema = Ref::from_schema_name(Problem::name());
        let content = ContentBuilder::new().schema(Some(schema)).build();
        let response = ResponseBuilder::new()
            .description("What went wrong, as RFC 9457 has it")
            .content(PROBLEM_MEDIA_TYPE, content);
        let all = ResponsesBuilder::new().response("default", response);
        all.build().into()
    }
}
