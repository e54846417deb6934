//! Who may do what: the layer that every route of the interface lies behind.

use std::sync::Arc;

use axum::extract::{MatchedPath, Request, State};
use axum::http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderValue, Method};
use axum::middleware::Next;
use axum::response::Response;
use shale_wire::{Code, route};

use crate::browser::{HostNames, check_no_strange_page};
use crate::failure::{Failure, chain};
use crate::settings::Admission;
use crate::shared::Shared;
use crate::token::{Scope, TokenError, TokenInfo, TokenStore};

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Caller {
    /// Nobody is asked who they are.
    Anyone,
    /// The holder of the token with this id.
    Token(String),
}

/// Lets a request through whose token allows it.
pub(crate) async fn admit(
    State(shared): State<Arc<Shared>>,
    matched: MatchedPath,
    mut request: Request,
    next: Next,
) -> Result<Response, Failure> {
    let caller = match door(&shared).await? {
        Door::Open(names) => {
            check_no_strange_page(request.headers(), names)?;
            Caller::Anyone
        }
        Door::Locked(tokens) => {
            let info = authenticate(&shared, tokens, request.headers()).await?;
            let needed = needed_scope(request.method(), matched.as_str());
            if info.scope < needed {
                let detail = format!("this needs a token of scope `{needed}`");
                return Err(Failure::new(Code::Denied, detail));
            }
            Caller::Token(info.id)
        }
    };
    request.extensions_mut().insert(caller);
    Ok(next.run(request).await)
}

/// Whether a token is needed now.
enum Door<'a> {
    /// Not, if the registry is called by one of these names.
    Open(HostNames),
    /// One of these.
    Locked(&'a Arc<TokenStore>),
}

async fn door(shared: &Shared) -> Result<Door<'_>, Failure> {
    Ok(match &shared.settings.admission {
        Admission::Open => Door::Open(HostNames::OfThisMachine),
        Admission::InsecureNoAuth => Door::Open(HostNames::Any),
        Admission::Tokens(tokens) => Door::Locked(tokens),
        Admission::OpenUntilTokens(tokens) => match any_token(shared, tokens).await? {
            true => Door::Locked(tokens),
            false => Door::Open(HostNames::OfThisMachine),
        },
    })
}

async fn any_token(shared: &Shared, tokens: &Arc<TokenStore>) -> Result<bool, Failure> {
    if let Some(any) = tokens.recall_any() {
        return Ok(any);
    }
    let tokens = Arc::clone(tokens);
    shared.work.run(move || tokens.look_for_any()).await
}

/// Reading is what changes nothing: `GET`, `HEAD`, the question where chunks lie, whose ids are too many for a URL,
/// and what hosts tell of the boots that they read.
fn needed_scope(method: &Method, route: &str) -> Scope {
    match *method {
        Method::GET | Method::HEAD => Scope::Read,
        _ if [route::LOCATE, route::TRACES].contains(&route) => Scope::Read,
        _ => Scope::Write,
    }
}

async fn authenticate(
    shared: &Shared,
    tokens: &Arc<TokenStore>,
    headers: &HeaderMap,
) -> Result<TokenInfo, Failure> {
    let token = bearer(headers).ok_or_else(|| unauthenticated("a token is needed"))?;
    let found = match tokens.recall(token) {
        Some(found) => found,
        None => {
            let (tokens, token) = (Arc::clone(tokens), token.to_owned());
            shared.work.run(move || tokens.look_up(&token)).await?
        }
    };
    found.ok_or_else(|| unauthenticated("the token is not known"))
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

fn unauthenticated(detail: &str) -> Failure {
    let challenge = HeaderValue::from_static("Bearer realm=\"shale\"");
    Failure::new(Code::Unauthenticated, detail).with_header(WWW_AUTHENTICATE, challenge)
}

impl From<TokenError> for Failure {
    fn from(error: TokenError) -> Self {
        Self::internal(format!("read tokens: {}", chain(&error)))
    }
}
