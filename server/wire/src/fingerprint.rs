//! The fingerprint of a server certificate, as the registry prints it and a client pins it.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest, Sha256};

/// SHA-256 of a certificate in DER. Written `sha256:<64 hex digits>`; read also as `openssl x509
/// -fingerprint -sha256` prints it, upper case with colons.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint([u8; 32]);

/// The text is not a fingerprint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a certificate fingerprint is `sha256:` and 64 hex digits")]
pub struct FingerprintError;

impl Fingerprint {
    /// The fingerprint of this certificate.
    pub fn of(certificate_der: &[u8]) -> Self {
        Self(Sha256::digest(certificate_der).into())
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sha256:")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for Fingerprint {
    type Err = FingerprintError;

    fn from_str(text: &str) -> Result<Self, FingerprintError> {
        let digits = text.strip_prefix("sha256:").unwrap_or(text).chars();
        let digits = digits.filter(|c| *c != ':').map(|c| c.to_digit(16));
        let digits = digits
            .collect::<Option<Vec<u32>>>()
            .ok_or(FingerprintError)?;
        let bytes: Vec<u8> = digits
            .chunks(2)
            .map(|pair| pair.iter().fold(0, |byte, digit| byte << 4 | *digit as u8))
            .collect();
        match <[u8; 32]>::try_from(bytes) {
            Ok(bytes) if digits.len() == 64 => Ok(Self(bytes)),
            _ => Err(FingerprintError),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_read_as_it_and_openssl_write_it() {
        let one = Fingerprint::of(b"certificate");
        let text = one.to_string();
        assert_eq!(text.parse(), Ok(one));
        let digits = text.trim_start_matches("sha256:").to_uppercase();
        let pairs: Vec<_> = digits
            .as_bytes()
            .chunks(2)
            .map(|p| std::str::from_utf8(p).unwrap())
            .collect();
        assert_eq!(pairs.join(":").parse(), Ok(one));
        for wrong in ["", "sha256:", &text[..70], &text[..69], "zz"] {
            assert_eq!(
                wrong.parse::<Fingerprint>(),
                Err(FingerprintError),
                "{wrong}"
            );
        }
    }
}
