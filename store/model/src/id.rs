//! Identifiers: one type per kind of thing, 32 bytes, `Copy`.
//!
//! Content ids are BLAKE3-256 of canonical bytes and are written `blake3:<64 hex digits>`; a pack is
//! named by the SHA-256 of its file, so that it is also an OCI blob, and is written `sha256:<hex>`.
//! The algorithm tag is part of the text, so that another algorithm can join without ambiguity.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Bytes of every identifier.
pub const ID_LEN: usize = 32;

/// Hex digits that a person may shorten an id to.
pub const SHORT_ID_DIGITS: usize = 12;

/// Why a text is not an identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// The tag before the colon names another algorithm than this kind of id uses.
    #[error("`{found}` does not start with `{expected}:`")]
    Algorithm {
        /// The tag this kind of id has.
        expected: &'static str,
        /// The text that was given.
        found: String,
    },
    /// Not exactly 64 lower-case hex digits.
    #[error("`{found}` is not 64 lower-case hex digits")]
    Digits {
        /// The text that was given.
        found: String,
    },
}

macro_rules! id_type {
    ($(#[$doc:meta])* $name:ident, $algorithm:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; ID_LEN]);

        impl $name {
            /// The algorithm tag in the id's text.
            pub const ALGORITHM: &'static str = $algorithm;

            /// The id with these 32 bytes.
            pub const fn from_bytes(bytes: [u8; ID_LEN]) -> Self {
                Self(bytes)
            }

            /// The 32 bytes.
            pub const fn as_bytes(&self) -> &[u8; ID_LEN] {
                &self.0
            }

            /// 64 lower-case hex digits, without the algorithm tag.
            pub fn hex(&self) -> String {
                hex(&self.0)
            }

            /// The first digits, for people.
            pub fn short(&self) -> String {
                let mut text = hex(&self.0);
                text.truncate(SHORT_ID_DIGITS);
                text
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}:{}", Self::ALGORITHM, hex(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.short())
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                let digits = text
                    .strip_prefix($algorithm)
                    .and_then(|rest| rest.strip_prefix(':'))
                    .ok_or_else(|| IdError::Algorithm {
                        expected: $algorithm,
                        found: clip(text),
                    })?;
                parse_hex(digits).map(Self)
            }
        }

        impl $name {
            /// The id with these 64 lower-case hex digits, as file names hold it.
            pub fn from_hex(digits: &str) -> Result<Self, IdError> {
                parse_hex(digits).map(Self)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

id_type!(
    /// A run of content bytes, named by the BLAKE3-256 of its plain bytes.
    ChunkId,
    "blake3"
);
id_type!(
    /// A layer, named by the BLAKE3-256 of its root.
    LayerId,
    "blake3"
);
id_type!(
    /// A template, named by the BLAKE3-256 of its canonical JSON.
    TemplateId,
    "blake3"
);
id_type!(
    /// A plan, named by the BLAKE3-256 of its file.
    PlanId,
    "blake3"
);
id_type!(
    /// A pack, named by the SHA-256 of its file.
    PackId,
    "sha256"
);

macro_rules! named_by_content {
    ($($name:ident),*) => {$(
        impl $name {
            /// The id of these bytes.
            pub fn of(bytes: &[u8]) -> Self {
                Self(*blake3::hash(bytes).as_bytes())
            }
        }
    )*};
}
named_by_content!(ChunkId, LayerId, TemplateId, PlanId);

impl PlanId {
    /// The id of these bytes, one part after the other.
    pub fn of_parts<const N: usize>(parts: [&[u8]; N]) -> Self {
        let mut hasher = blake3::Hasher::new();
        for part in parts {
            hasher.update(part);
        }
        Self(*hasher.finalize().as_bytes())
    }
}

fn hex(bytes: &[u8; ID_LEN]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(2 * ID_LEN);
    for byte in bytes {
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    text
}

fn parse_hex(digits: &str) -> Result<[u8; ID_LEN], IdError> {
    let bad = || IdError::Digits {
        found: clip(digits),
    };
    let digits_bytes = digits.as_bytes();
    if digits_bytes.len() != 2 * ID_LEN {
        return Err(bad());
    }
    let mut bytes = [0; ID_LEN];
    for (byte, pair) in bytes.iter_mut().zip(digits_bytes.chunks_exact(2)) {
        let high = nibble(pair[0]).ok_or_else(bad)?;
        let low = nibble(pair[1]).ok_or_else(bad)?;
        *byte = high << 4 | low;
    }
    Ok(bytes)
}

fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

/// Errors quote at most this many characters of what they were given.
const QUOTED_CHARS: usize = 80;

fn clip(text: &str) -> String {
    text.chars().take(QUOTED_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_back() {
        let id = ChunkId::of(b"shale");
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(ChunkId::from_hex(&id.hex()), Ok(id));
        assert_eq!(id.short().len(), SHORT_ID_DIGITS);
    }

    #[test]
    fn wrong_texts_name_their_fault() {
        let hex = ChunkId::of(b"").hex();
        assert!(matches!(
            hex.parse::<ChunkId>(),
            Err(IdError::Algorithm { .. })
        ));
        assert!(matches!(
            format!("sha256:{hex}").parse::<ChunkId>(),
            Err(IdError::Algorithm { .. })
        ));
        for digits in [&hex[1..], &hex.to_uppercase(), &format!("{hex}0")] {
            assert!(matches!(
                ChunkId::from_hex(digits),
                Err(IdError::Digits { .. })
            ));
        }
    }

    #[test]
    fn the_empty_chunk_has_the_published_blake3() {
        assert_eq!(
            ChunkId::of(b"").hex(),
            "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
        );
    }
}
