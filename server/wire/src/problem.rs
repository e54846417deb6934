//! Errors on the wire: RFC 9457 problem details with a stable code.

use serde::{Deserialize, Serialize};
use shale_model::{SeamError, Trouble};
use utoipa::ToSchema;

/// Media type of a [`Problem`].
pub const PROBLEM_MEDIA_TYPE: &str = "application/problem+json";

/// What went wrong, for programs. Never changes its meaning; new ones may come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// The request breaks a rule.
    Invalid,
    /// A token is needed, or the one given is not known.
    Unauthenticated,
    /// The token may not do this.
    Denied,
    /// There is no such thing.
    NotFound,
    /// There is no such route.
    NoSuchRoute,
    /// The push has ended, was idle for too long, or is another caller's.
    PushNotFound,
    /// The route has no such method.
    MethodNotAllowed,
    /// The request's body took too long.
    TooSlow,
    /// It depends on something that is missing.
    Conflict,
    /// The reference points elsewhere than the condition says.
    Changed,
    /// The body is larger than allowed.
    TooLarge,
    /// The range lies outside.
    RangeNotSatisfiable,
    /// Bytes do not match their id or checksum.
    Integrity,
    /// `If-Match` or `If-None-Match: *` is needed.
    ConditionRequired,
    /// There are too many pushes.
    TooManyPushes,
    /// Something failed inside.
    Failed,
    /// No answer now; the same request may succeed later.
    Unavailable,
    /// The storage is full.
    NoSpace,
}

impl Code {
    /// The status that goes with it.
    pub fn status(self) -> u16 {
        match self {
            Code::Invalid => 400,
            Code::Unauthenticated => 401,
            Code::Denied => 403,
            Code::NotFound | Code::NoSuchRoute | Code::PushNotFound => 404,
            Code::MethodNotAllowed => 405,
            Code::TooSlow => 408,
            Code::Conflict => 409,
            Code::Changed => 412,
            Code::TooLarge => 413,
            Code::RangeNotSatisfiable => 416,
            Code::Integrity => 422,
            Code::ConditionRequired => 428,
            Code::TooManyPushes => 429,
            Code::Failed => 500,
            Code::Unavailable => 503,
            Code::NoSpace => 507,
        }
    }

    /// One line for people, the same for every problem of this code.
    pub fn title(self) -> &'static str {
        match self {
            Code::Invalid => "the request breaks a rule",
            Code::Unauthenticated => "a valid token is needed",
            Code::Denied => "the token may not do this",
            Code::NotFound => "there is no such thing",
            Code::NoSuchRoute => "there is no such route",
            Code::PushNotFound => "the push has ended",
            Code::MethodNotAllowed => "the route has no such method",
            Code::TooSlow => "the request took too long",
            Code::Conflict => "something that it depends on is missing",
            Code::Changed => "the reference points elsewhere",
            Code::TooLarge => "the body is too large",
            Code::RangeNotSatisfiable => "the range lies outside",
            Code::Integrity => "bytes do not match their id",
            Code::ConditionRequired => "a condition is needed",
            Code::TooManyPushes => "there are too many pushes",
            Code::Failed => "something failed inside the registry",
            Code::Unavailable => "not available now",
            Code::NoSpace => "the registry's storage is full",
        }
    }

    /// The code for what went wrong behind a seam of the registry.
    pub fn of(trouble: Trouble) -> Self {
        match trouble {
            Trouble::NotFound => Code::NotFound,
            Trouble::Denied => Code::Denied,
            Trouble::Conflict => Code::Conflict,
            Trouble::Unavailable => Code::Unavailable,
            Trouble::Integrity => Code::Integrity,
            Trouble::Invalid => Code::Invalid,
            Trouble::NoSpace => Code::NoSpace,
            Trouble::Failed => Code::Failed,
        }
    }

    /// What the caller of a client's seam can do about it.
    pub fn trouble(self) -> Trouble {
        match self {
            Code::NotFound | Code::NoSuchRoute => Trouble::NotFound,
            Code::Unauthenticated | Code::Denied => Trouble::Denied,
            Code::Conflict | Code::Changed => Trouble::Conflict,
            // The whole push can be made again; the registry that forgot it may have restarted.
            Code::PushNotFound => Trouble::Unavailable,
            Code::TooSlow | Code::TooManyPushes | Code::Unavailable => Trouble::Unavailable,
            Code::Integrity => Trouble::Integrity,
            Code::Invalid | Code::TooLarge | Code::RangeNotSatisfiable => Trouble::Invalid,
            Code::MethodNotAllowed | Code::ConditionRequired => Trouble::Invalid,
            Code::Failed => Trouble::Failed,
            Code::NoSpace => Trouble::NoSpace,
        }
    }

    /// What an answer without a problem body means, as a proxy sends it.
    pub fn of_status(status: u16) -> Self {
        match status {
            401 | 407 => Code::Unauthenticated,
            403 => Code::Denied,
            404 | 410 => Code::NotFound,
            408 => Code::TooSlow,
            409 => Code::Conflict,
            412 => Code::Changed,
            413 => Code::TooLarge,
            416 => Code::RangeNotSatisfiable,
            425 | 429 | 502..=504 => Code::Unavailable,
            507 => Code::NoSpace,
            400..=499 => Code::Invalid,
            _ => Code::Failed,
        }
    }
}

/// The body of every error answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// `urn:shale:problem:` and the code.
    #[serde(rename = "type")]
    pub kind: String,
    /// One line for people, the same for every problem of this code.
    pub title: String,
    /// The status of the answer.
    pub status: u16,
    /// What went wrong, for programs.
    pub code: Code,
    /// What failed, on what, for people.
    pub detail: String,
    /// Id of the request, as in the header.
    #[serde(default)]
    pub request_id: String,
}

impl Problem {
    /// A problem of this code; the request id is filled in by whoever sends it.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        let name = serde_json::to_value(code).unwrap_or_default();
        Self {
            kind: format!("urn:shale:problem:{}", name.as_str().unwrap_or_default()),
            title: code.title().into(),
            status: code.status(),
            code,
            detail: detail.into(),
            request_id: String::new(),
        }
    }

    /// The JSON.
    pub fn encode(&self) -> Vec<u8> {
        // Strings and numbers serialize into a vector without a way to fail.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Reads the body of an error answer; `None` if it is not a problem of ours.
    pub fn decode(body: &[u8]) -> Option<Self> {
        serde_json::from_slice(body).ok()
    }

    /// An answer of somebody else, a proxy or another program, that has only its status to tell.
    pub fn of_status(status: u16) -> Self {
        let detail = format!(
            "the answer is {status}, and a proxy or another program sent it, not a registry"
        );
        Self::new(Code::of_status(status), detail)
    }

    /// The error of a client's seam that was doing `action`.
    pub fn into_seam(self, action: &str) -> SeamError {
        let mut text = format!("{action}: {}", self.detail);
        if !self.request_id.is_empty() {
            text.push_str(&format!(" (request {})", self.request_id));
        }
        SeamError::new(self.code.trouble(), text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trouble_keeps_its_kind_across_the_wire() {
        let all = [
            Trouble::NotFound,
            Trouble::Denied,
            Trouble::Conflict,
            Trouble::Unavailable,
            Trouble::Integrity,
            Trouble::Invalid,
            Trouble::NoSpace,
            Trouble::Failed,
        ];
        for trouble in all {
            assert_eq!(Code::of(trouble).trouble(), trouble);
            let problem = Problem::new(Code::of(trouble), "why");
            assert_eq!(Problem::decode(&problem.encode()), Some(problem));
        }
    }

    #[test]
    fn a_proxys_error_page_is_told_by_its_status() {
        assert_eq!(Problem::decode(b"<html>Bad Gateway</html>"), None);
        let problem = Problem::of_status(502);
        assert_eq!(problem.code, Code::Unavailable);
        assert_eq!(problem.into_seam("read").trouble, Trouble::Unavailable);
    }

    #[test]
    fn the_json_stays() {
        let json = String::from_utf8(Problem::new(Code::PushNotFound, "x").encode()).unwrap();
        assert_eq!(
            json,
            r#"{"type":"urn:shale:problem:push_not_found","title":"the push has ended","status":404,"code":"push_not_found","detail":"x","request_id":""}"#
        );
    }
}
