//! References: what a name points at, changed by compare and set.

use std::ops::Bound;
use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_MATCH, IF_NONE_MATCH};
use axum::http::{HeaderMap, HeaderName, StatusCode};
use axum::response::{IntoResponse, Response};
use shale_model::{Catalog, RefName, SeamError, SeamResult, Sink, TemplateIndex};
use shale_wire::limits::{DEFAULT_REF_PAGE, MAX_REF_PAGE, MAX_TEMPLATE_BODY_BYTES, REF_PAGE_BYTES};
use shale_wire::{Code, RefEntry, RefPage, RefQuery, ref_etag, route};

use crate::body::read_body;
use crate::conditions::client_has;
use crate::failure::{Failure, chain};
use crate::handlers::{Problems, header, parse};
use crate::shared::Shared;
use crate::work::BodyKind;

/// Lists references in order of name, a page at a time.
#[utoipa::path(get, path = route::REFS, tag = "refs", params(RefQuery),
    responses((status = 200, description = "A page", body = RefPage), Problems))]
pub(crate) async fn list_refs(
    State(shared): State<Arc<Shared>>,
    query: Result<Query<RefQuery>, QueryRejection>,
) -> Result<Json<RefPage>, Failure> {
    let Query(query) = query.map_err(|e| Failure::new(Code::Invalid, e.body_text()))?;
    let after: Option<RefName> = query.after.as_deref().map(parse).transpose()?;
    let limit = query.limit.unwrap_or(DEFAULT_REF_PAGE);
    if !(1..=MAX_REF_PAGE).contains(&limit) {
        let detail = format!("a page has 1 to {MAX_REF_PAGE} references");
        return Err(Failure::new(Code::Invalid, detail));
    }
    let place = shared.work.listing().await?;
    let (repository, project) = (Arc::clone(&shared.repository), query.project);
    let work = move || -> SeamResult<_> {
        let _place = place;
        Ok(page(repository.list_refs(&project)?, after, limit))
    };
    shared.work.run(work).await.map(Json)
}

fn page(refs: Vec<(RefName, TemplateIndex)>, after: Option<RefName>, limit: usize) -> RefPage {
    let after = after.map_or(Bound::Unbounded, Bound::Excluded);
    let start = match &after {
        Bound::Excluded(after) => refs.partition_point(|(name, _)| name <= after),
        _ => 0,
    };
    let mut page = Vec::new();
    let mut bytes = 0;
    let mut rest = refs.into_iter().skip(start).peekable();
    while page.len() < limit && bytes < REF_PAGE_BYTES {
        let Some((name, index)) = rest.next() else {
            break;
        };
        bytes += index.encode().len();
        page.push(RefEntry {
            name: name.to_string(),
            index,
        });
    }
    let next = match (rest.peek(), page.last()) {
        (Some(_), Some(last)) => Some(last.name.clone()),
        _ => None,
    };
    RefPage { refs: page, next }
}

/// Reads what a reference points at.
#[utoipa::path(method(get, head), path = route::REF, tag = "refs",
    params(
        ("project" = String, Path, description = "The project"),
        ("name" = String, Path, description = "The name in it"),
        ("tag" = String, Path, description = "The tag")),
    responses(
        (status = 200, description = "The template for each platform, as canonical JSON",
            body = Object),
        (status = 304, description = "The client has it"),
        Problems))]
pub(crate) async fn get_ref(
    State(shared): State<Arc<Shared>>,
    Path(path): Path<(String, String, String)>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let name = ref_name(&path)?;
    let (repository, asked) = (Arc::clone(&shared.repository), name.clone());
    let index = shared.work.run(move || repository.get_ref(&asked)).await?;
    let detail = || format!("there is no reference {name}");
    let index = index.ok_or_else(|| Failure::new(Code::NotFound, detail()))?;
    let etag = ref_etag(&index);
    let named = [(ETAG, header(&etag)?), (CACHE_CONTROL, header("no-cache")?)];
    if client_has(&headers, &etag) {
        return Ok((StatusCode::NOT_MODIFIED, named).into_response());
    }
    let media_type = [(CONTENT_TYPE, "application/json")];
    Ok((named, media_type, index.encode()).into_response())
}

/// Points a reference at templates, if it points now where the condition says: `If-Match` with its
/// entity tag, or `If-None-Match: *` for one that must not exist.
#[utoipa::path(put, path = route::REF, tag = "refs",
    params(
        ("project" = String, Path, description = "The project"),
        ("name" = String, Path, description = "The name in it"),
        ("tag" = String, Path, description = "The tag"),
        ("if-match" = Option<String>, Header, description = "Entity tag of what it points at"),
        ("if-none-match" = Option<String>, Header, description = "`*`: it does not exist")),
    request_body(content = Object, content_type = "application/json"),
    responses((status = 204, description = "It points there"), Problems))]
pub(crate) async fn put_ref(
    State(shared): State<Arc<Shared>>,
    Path(path): Path<(String, String, String)>,
    headers: HeaderMap,
    body: Body,
) -> Result<impl IntoResponse, Failure> {
    let name = ref_name(&path)?;
    let condition = Condition::of(&headers)?;
    let most = (BodyKind::Small, MAX_TEMPLATE_BODY_BYTES);
    let json = read_body(&shared, &headers, body, most).await?;
    let new = TemplateIndex::decode(&json);
    let new = new.map_err(|e| Failure::new(Code::Invalid, chain(&e)))?;
    let etag = ref_etag(&new);
    let repository = Arc::clone(&shared.repository);
    let work = move || -> Result<(), Refused> {
        let _held = json;
        let current = repository.get_ref(&name)?;
        if !condition.holds(current.as_ref()) {
            return Err(Refused::Changed(name));
        }
        Ok(repository.push().set_ref(&name, current.as_ref(), &new)?)
    };
    shared.work.run(work).await?;
    Ok((StatusCode::NO_CONTENT, [(ETAG, header(&etag)?)]))
}

/// Why a reference was not set.
enum Refused {
    Changed(RefName),
    Seam(SeamError),
}

impl From<SeamError> for Refused {
    fn from(error: SeamError) -> Self {
        Refused::Seam(error)
    }
}

impl From<Refused> for Failure {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Seam(error) => error.into(),
            Refused::Changed(name) => {
                let detail = format!("reference {name} points elsewhere than the condition says");
                Failure::new(Code::Changed, detail)
            }
        }
    }
}

/// What must hold for a reference to be set.
enum Condition {
    Absent,
    Is(String),
}

impl Condition {
    fn of(headers: &HeaderMap) -> Result<Self, Failure> {
        let one = |name: HeaderName| {
            let mut values = headers.get_all(name).iter();
            let value = values.next().and_then(|v| v.to_str().ok()).map(str::trim);
            (value, values.next().is_some())
        };
        match (one(IF_MATCH), one(IF_NONE_MATCH)) {
            ((Some(etag), false), (None, false)) if is_strong_tag(etag) => {
                Ok(Condition::Is(etag.to_owned()))
            }
            ((None, false), (Some("*"), false)) => Ok(Condition::Absent),
            _ => {
                let detail = "give `If-Match` with one entity tag, or `If-None-Match: *`";
                Err(Failure::new(Code::ConditionRequired, detail))
            }
        }
    }

    fn holds(&self, current: Option<&TemplateIndex>) -> bool {
        match (self, current) {
            (Condition::Absent, None) => true,
            (Condition::Is(etag), Some(current)) => ref_etag(current) == *etag,
            _ => false,
        }
    }
}

fn is_strong_tag(text: &str) -> bool {
    let inner = text
        .strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'));
    inner.is_some_and(|inner| !inner.contains('"'))
}

fn ref_name((project, name, tag): &(String, String, String)) -> Result<RefName, Failure> {
    let name = RefName::new(project, name, tag);
    name.map_err(|error| Failure::new(Code::Invalid, error.to_string()))
}

#[cfg(test)]
mod tests {
    use shale_model::{Platform, TemplateId};
    use shale_wire::limits::MAX_REF_PAGE_BYTES;

    use super::*;

    #[test]
    fn a_page_of_large_references_ends_early() {
        let platform = |n: usize| Platform {
            os: "linux".into(),
            architecture: format!("a{n:04}"),
        };
        let template = TemplateId::of(b"large");
        let large = |bytes: usize| {
            let one = TemplateIndex::one(platform(0), template);
            let each = one.clone().with(platform(1), template).encode().len() - one.encode().len();
            let more = 1..=(bytes - one.encode().len()) / each;
            more.fold(one, |index, n| index.with(platform(n), template))
        };
        let entry = |n: usize, index: &TemplateIndex| {
            let name = RefName::new("demo", &format!("n{n:02}"), "1").unwrap();
            (name, index.clone())
        };
        // The worst page: almost full, and then the largest that there may be.
        let (half, largest) = (
            large(REF_PAGE_BYTES / 2 - 1),
            large(MAX_TEMPLATE_BODY_BYTES),
        );
        let refs = [&half, &half, &largest, &half].into_iter().enumerate();
        let refs: Vec<_> = refs.map(|(n, index)| entry(n, index)).collect();
        let page = page(refs, None, MAX_REF_PAGE);
        assert_eq!(page.refs.len(), 3);
        assert_eq!(page.next.as_deref(), Some("demo/n02:1"));
        let json = serde_json::to_vec(&page).unwrap().len();
        assert!(
            json > 2 * REF_PAGE_BYTES - 1000 && json <= MAX_REF_PAGE_BYTES,
            "{json}"
        );
    }

    #[test]
    fn pages_join_to_the_whole() {
        let index = |n: usize| TemplateIndex::one(Platform::default(), TemplateId::of(&[n as u8]));
        let refs: Vec<(RefName, _)> = (0..25)
            .map(|n| {
                (
                    RefName::new("demo", &format!("n{n:02}"), "1").unwrap(),
                    index(n),
                )
            })
            .collect();
        for limit in [1, 7, 25, 100] {
            let (mut all, mut after) = (Vec::new(), None);
            loop {
                let page = page(refs.clone(), after, limit);
                assert!(page.refs.len() <= limit);
                all.extend(page.refs.into_iter().map(|entry| entry.name));
                let Some(next) = page.next else { break };
                after = Some(next.parse().unwrap());
            }
            let names: Vec<_> = refs.iter().map(|(name, _)| name.to_string()).collect();
            assert_eq!(all, names, "{limit}");
        }
        assert!(page(Vec::new(), None, 1).next.is_none());
    }
}
