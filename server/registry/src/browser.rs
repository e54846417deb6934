//! A registry that asks for no token must not be used by whatever page a browser on the same machine
//! shows. Other programs than browsers send no `Origin`, and call the registry by the name they have.

use axum::http::HeaderMap;
use axum::http::header::{HOST, ORIGIN};
use shale_wire::{Code, names_this_machine};

use crate::failure::Failure;

/// Names by which a registry may be called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HostNames {
    /// Addresses and `localhost`. A name that a stranger made to lead here would make a stranger's page
    /// one of ours ("DNS rebinding").
    OfThisMachine,
    /// Any: the operator knows why.
    Any,
}

/// Refuses what the page of a stranger sends.
pub(crate) fn check_no_strange_page(headers: &HeaderMap, names: HostNames) -> Result<(), Failure> {
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    let host = host.unwrap_or_default();
    if names == HostNames::OfThisMachine && !names_this_machine(host) {
        let detail = "without tokens it answers to addresses and `localhost` only";
        return Err(Failure::new(Code::Denied, detail));
    }
    let Some(origin) = headers.get(ORIGIN) else {
        return Ok(());
    };
    let origin = origin
        .to_str()
        .ok()
        .and_then(|origin| origin.split_once("://"));
    match origin {
        Some((_, origin)) if origin == host => Ok(()),
        _ => Err(Failure::new(
            Code::Denied,
            "the page of another site asks for it",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passes(host: &str, origin: Option<&str>, names: HostNames) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, host.parse().unwrap());
        headers.extend(origin.map(|origin| (ORIGIN, origin.parse().unwrap())));
        check_no_strange_page(&headers, names).is_ok()
    }

    #[test]
    fn names_of_strangers_are_refused() {
        for host in ["localhost:5000", "[::1]"] {
            assert!(passes(host, None, HostNames::OfThisMachine), "{host}");
        }
        for host in ["evil.example:5000", ""] {
            assert!(!passes(host, None, HostNames::OfThisMachine), "{host}");
            assert!(passes(host, None, HostNames::Any), "{host}");
        }
    }

    #[test]
    fn pages_of_strangers_are_refused() {
        let host = "localhost:5000";
        for names in [HostNames::OfThisMachine, HostNames::Any] {
            assert!(passes(host, Some("http://localhost:5000"), names));
            for origin in ["http://evil.example", "null", "http://localhost:80"] {
                assert!(!passes(host, Some(origin), names), "{origin}");
            }
        }
    }
}
