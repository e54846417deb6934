//! Names of instances.

use std::fmt;

use crate::error::HostError;

/// A name of an instance: one label of a host name (RFC 1123) in lower case, so that it is also a file
/// name, and short enough for the path of a socket.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InstanceName(Box<str>);

/// Longest label of a host name, in bytes.
const MAX_LABEL_BYTES: usize = 63;

impl InstanceName {
    /// Checks `text`.
    pub fn new(text: &str) -> Result<Self, HostError> {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        let fits = (1..=MAX_LABEL_BYTES).contains(&text.len())
            && text.bytes().all(plain)
            && !text.starts_with('-')
            && !text.ends_with('-');
        match fits {
            true => Ok(Self(text.into())),
            false => Err(HostError::Name(text.chars().take(100).collect())),
        }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for InstanceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_labels() {
        for name in ["a", "web-1", "0", &"x".repeat(63)] {
            assert_eq!(InstanceName::new(name).unwrap().as_str(), name);
        }
        for name in [
            "",
            "-a",
            "a-",
            "A",
            "a.b",
            "a/b",
            "..",
            "a b",
            &"x".repeat(64),
        ] {
            assert!(InstanceName::new(name).is_err(), "{name}");
        }
    }
}
