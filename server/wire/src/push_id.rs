//! The id of a push.

use std::fmt;
use std::str::FromStr;

/// Random bytes of a push id: enough that nobody guesses one.
pub const PUSH_ID_BYTES: usize = 16;

/// Names a push at one registry while it lasts. Not a credential: only the token that opened a push
/// can use it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PushId(u128);

/// The text is not a push id: 32 lower-case hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a push id is 32 lower-case hex digits")]
pub struct PushIdError;

impl PushId {
    /// The id with these bytes, which must be random.
    pub const fn from_bytes(bytes: [u8; PUSH_ID_BYTES]) -> Self {
        Self(u128::from_be_bytes(bytes))
    }
}

impl fmt::Display for PushId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl FromStr for PushId {
    type Err = PushIdError;

    fn from_str(text: &str) -> Result<Self, PushIdError> {
        let digit = |b: u8| b.is_ascii_digit() || matches!(b, b'a'..=b'f');
        if text.len() != 2 * PUSH_ID_BYTES || !text.bytes().all(digit) {
            return Err(PushIdError);
        }
        u128::from_str_radix(text, 16)
            .map(Self)
            .map_err(|_| PushIdError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_back() {
        let id = PushId::from_bytes([0x0a; PUSH_ID_BYTES]);
        let text = id.to_string();
        assert_eq!(text.parse(), Ok(id));
        for wrong in [
            &text[1..],
            &text.to_uppercase(),
            &format!("+{}", &text[1..]),
        ] {
            assert_eq!(wrong.parse::<PushId>(), Err(PushIdError), "{wrong}");
        }
    }
}
