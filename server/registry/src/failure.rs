//! An error on its way out of a handler: what the caller is told, and what stays inside.

use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use shale_model::{SeamError, Trouble};
use shale_wire::{Code, PROBLEM_MEDIA_TYPE, Problem};

/// Seconds after which a caller that was turned away may come back.
const RETRY_AFTER_SECONDS: &str = "1";

/// An error answer. The outermost layer renders it, because it knows the request's id.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    /// What the caller is told.
    pub(crate) code: Code,
    pub(crate) detail: String,
    /// The whole story, for the operator.
    pub(crate) inside: String,
    /// Boxed to keep results small.
    header: Option<Box<(HeaderName, HeaderValue)>>,
}

impl Failure {
    /// An error without secrets: the operator reads what the caller reads.
    pub(crate) fn new(code: Code, detail: impl Into<String>) -> Self {
        let detail = detail.into();
        let later = HeaderValue::from_static(RETRY_AFTER_SECONDS);
        let retry = matches!(code, Code::Unavailable | Code::TooManyPushes);
        Self {
            code,
            inside: detail.clone(),
            detail,
            header: retry.then(|| Box::new((RETRY_AFTER, later))),
        }
    }

    /// An error inside, of which the caller learns only that there was one.
    pub(crate) fn internal(inside: impl Into<String>) -> Self {
        Self::new(Code::Failed, "the registry's log has the reason").with_inside(inside.into())
    }

    /// The same, with a longer story for the operator.
    pub(crate) fn with_inside(mut self, inside: String) -> Self {
        self.inside = inside;
        self
    }

    /// The same with a header that belongs to it.
    pub(crate) fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.header = Some(Box::new((name, value)));
        self
    }

    /// The answer with its body.
    pub(crate) fn render(self, request_id: &str) -> Response {
        let mut problem = Problem::new(self.code, self.detail);
        problem.request_id = request_id.to_owned();
        let mut response = problem.encode().into_response();
        *response.status_mut() = status(self.code);
        let media_type = HeaderValue::from_static(PROBLEM_MEDIA_TYPE);
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, media_type);
        headers.extend(self.header.map(|header| *header));
        response
    }
}

fn status(code: Code) -> StatusCode {
    StatusCode::from_u16(code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

impl From<SeamError> for Failure {
    fn from(error: SeamError) -> Self {
        let story = chain(&error);
        match error.trouble {
            // What the repository may not do on its own disk is none of the caller's rights.
            Trouble::Failed | Trouble::Denied => Self::internal(story),
            Trouble::NoSpace | Trouble::Unavailable => {
                Self::new(Code::of(error.trouble), error.action).with_inside(story)
            }
            trouble => Self::new(Code::of(trouble), story),
        }
    }
}

/// An error with all its causes, on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let mut response = status(self.code).into_response();
        response.extensions_mut().insert(self);
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_failed_inside_stays_inside() {
        let cause = std::io::Error::other("/srv/secret: bad sector");
        let failure = Failure::from(SeamError::caused(Trouble::Failed, "read", cause));
        assert!(failure.inside.contains("bad sector"));
        assert!(!failure.detail.contains("secret"));
    }

    #[test]
    fn the_repositorys_own_rights_are_not_the_callers() {
        let failure = Failure::from(SeamError::new(Trouble::Denied, "open"));
        assert_eq!(failure.code, Code::Failed);
    }
}
