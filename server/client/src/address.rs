//! Where a registry is.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use reqwest::Url;

/// Scheme, host and port of a registry.
///
/// Read from `host[:port]`, as references have it, or from a URL. Without a scheme it is `http` on
/// loopback and `https` everywhere else, so that nobody speaks in the clear without saying so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address(Url);

/// The text is not the address of a registry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not the address of a registry: host[:port] or http(s)://host[:port]")]
pub struct AddressError(String);

impl Address {
    pub(crate) fn url(&self, path_and_query: &str) -> Result<Url, AddressError> {
        let url = self.0.join(path_and_query);
        url.map_err(|_| AddressError(path_and_query.chars().take(200).collect()))
    }

    pub(crate) fn is_encrypted(&self) -> bool {
        self.0.scheme() == "https"
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str().trim_end_matches('/'))
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let error = || AddressError(without_secret(text));
        let url = match text.contains("://") {
            true => text.to_owned(),
            false => format!("https://{text}"),
        };
        let mut url: Url = url.parse().map_err(|_| error())?;
        let plain = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
        let anonymous = url.username().is_empty() && url.password().is_none();
        let known = matches!(url.scheme(), "http" | "https");
        let host = url.host_str().ok_or_else(error)?;
        if !(plain && anonymous && known) {
            return Err(error());
        }
        if !text.contains("://") && is_loopback(host) {
            url.set_scheme("http").map_err(|()| error())?;
        }
        Ok(Self(url))
    }
}

/// A text that is no address, for people and logs: what may be a password is left out.
fn without_secret(text: &str) -> String {
    let shown = match text.rsplit_once('@') {
        Some((before, host)) => {
            let scheme = before.find("://").map_or("", |at| &before[..at + 3]);
            format!("{scheme}..@{host}")
        }
        None => text.to_owned(),
    };
    shown.chars().take(200).collect()
}

fn is_loopback(host: &str) -> bool {
    let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_is_spoken_to_in_the_clear_unasked() {
        let cases = [
            ("localhost:5000", "http://localhost:5000"),
            ("127.0.0.1:80", "http://127.0.0.1"),
            ("[::1]:5000", "http://[::1]:5000"),
            ("registry.example", "https://registry.example"),
            ("registry.example:5000", "https://registry.example:5000"),
            (
                "http://registry.example:5000/",
                "http://registry.example:5000",
            ),
            ("https://localhost", "https://localhost"),
        ];
        for (text, expected) in cases {
            let address: Address = text.parse().unwrap();
            assert_eq!(address.to_string(), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_registry_is_refused() {
        let cases = [
            "",
            "ftp://x",
            "https://x/path",
            "user:secret@x",
            "x?y",
            "a b",
        ];
        for text in cases {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_password_in_a_url_is_refused_and_not_repeated() {
        for text in ["https://me:secret@a", "me:secret@a", "ftp://secret@a"] {
            let error = text.parse::<Address>().unwrap_err().to_string();
            assert!(
                !error.contains("secret") && error.contains("..@a"),
                "{error}"
            );
        }
    }
}
