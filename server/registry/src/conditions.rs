//! Conditional requests and ranges, as RFC 9110 has them (13 and 14), for things that never change.

use std::ops::Range;

use axum::http::HeaderMap;
use axum::http::header::{IF_NONE_MATCH, IF_RANGE, RANGE};

/// What of a thing is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Part {
    /// All of it.
    Whole,
    /// These bytes; at least one.
    Bytes(Range<u64>),
    /// None: the range lies outside.
    Outside,
    /// None: the client has it.
    NotModified,
}

/// Whether `If-None-Match` says that the client has what `etag` names.
pub(crate) fn client_has(headers: &HeaderMap, etag: &str) -> bool {
    let values = headers.get_all(IF_NONE_MATCH).iter();
    let tags = values
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','));
    tags.map(str::trim).any(|tag| {
        // The comparison is the weak one (13.1.2).
        tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag
    })
}

/// What to send of `size` bytes that `etag` names. One range is served. Of several, of other units,
/// and of ones that are misspelled, the whole is sent, as 14.2 allows.
pub(crate) fn part(headers: &HeaderMap, etag: &str, size: u64) -> Part {
    if client_has(headers, etag) {
        return Part::NotModified;
    }
    let Some(range) = headers.get(RANGE) else {
        return Part::Whole;
    };
    // What has no modification date cannot match one (13.1.5).
    let same = |value: &axum::http::HeaderValue| value.as_bytes() == etag.as_bytes();
    if !headers.get(IF_RANGE).is_none_or(same) {
        return Part::Whole;
    }
    let range = range.to_str().ok().and_then(parse_range);
    range.map_or(Part::Whole, |range| range.of(size))
}

/// One range of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ByteRange {
    FromTo(u64, u64),
    From(u64),
    Last(u64),
}

fn parse_range(text: &str) -> Option<ByteRange> {
    let (unit, ranges) = text.split_once('=')?;
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return None;
    }
    let mut ranges = ranges
        .split(',')
        .map(str::trim)
        .filter(|range| !range.is_empty());
    let (range, None) = (ranges.next()?, ranges.next()) else {
        return None;
    };
    let (first, last) = range.split_once('-')?;
    match (first, last) {
        ("", last) => number(last).map(ByteRange::Last),
        (first, "") => number(first).map(ByteRange::From),
        (first, last) => {
            let (first, last) = (number(first)?, number(last)?);
            (first <= last).then_some(ByteRange::FromTo(first, last))
        }
    }
}

/// Digits; more than 64 bits are as good as the most.
fn number(digits: &str) -> Option<u64> {
    let all_digits = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    all_digits.then(|| digits.parse().unwrap_or(u64::MAX))
}

impl ByteRange {
    fn of(self, size: u64) -> Part {
        let range = match self {
            ByteRange::FromTo(first, last) => first..last.saturating_add(1).min(size),
            ByteRange::From(first) => first..size,
            ByteRange::Last(count) => size.saturating_sub(count)..size,
        };
        if range.is_empty() {
            Part::Outside
        } else {
            Part::Bytes(range)
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ETAG: &str = "\"sha256:ab\"";

    fn of(headers: &[(&'static str, &str)], size: u64) -> Part {
        let headers = headers.iter().map(|(name, value)| {
            let name = axum::http::HeaderName::from_static(name);
            (name, value.parse().unwrap())
        });
        part(&headers.collect(), ETAG, size)
    }

    #[test]
    fn ranges() {
        let cases = [
            ("bytes=0-9", Part::Bytes(0..10)),
            ("bytes=0-0", Part::Bytes(0..1)),
            ("bytes=99-", Part::Bytes(99..100)),
            ("bytes=-1", Part::Bytes(99..100)),
            ("bytes=-1000", Part::Bytes(0..100)),
            ("BYTES = 5-5", Part::Bytes(5..6)),
            ("bytes=, 5-5 ,", Part::Bytes(5..6)),
            ("bytes=50-99999999999999999999999999", Part::Bytes(50..100)),
            ("bytes=100-", Part::Outside),
            ("bytes=99999999999999999999999999-", Part::Outside),
            ("bytes=-0", Part::Outside),
            ("bytes=9-5", Part::Whole),
            ("bytes=0-1,5-6", Part::Whole),
            ("bytes=", Part::Whole),
            ("bytes=a-b", Part::Whole),
            ("bytes=+1-2", Part::Whole),
            ("bytes=--5", Part::Whole),
            ("lines=0-1", Part::Whole),
            ("0-1", Part::Whole),
        ];
        for (range, expected) in cases {
            assert_eq!(of(&[("range", range)], 100), expected, "{range}");
        }
        assert_eq!(of(&[("range", "bytes=0-")], 0), Part::Outside);
    }

    #[test]
    fn conditions() {
        let range = ("range", "bytes=0-9");
        let cases = [
            (("if-none-match", ETAG), Part::NotModified),
            (("if-none-match", "*"), Part::NotModified),
            (
                ("if-none-match", "\"x\", W/\"sha256:ab\""),
                Part::NotModified,
            ),
            (("if-none-match", "\"x\""), Part::Bytes(0..10)),
            (("if-range", ETAG), Part::Bytes(0..10)),
            (("if-range", "W/\"sha256:ab\""), Part::Whole),
            (("if-range", "Sun, 06 Nov 1994 08:49:37 GMT"), Part::Whole),
        ];
        for (condition, expected) in cases {
            assert_eq!(of(&[range, condition], 100), expected, "{condition:?}");
        }
    }

    proptest! {
        #[test]
        fn no_text_leads_outside(text in "bytes=[-0-9, ]{0,12}|\\PC*", size in 0..50u64) {
            let mut headers = HeaderMap::new();
            let Ok(value) = axum::http::HeaderValue::from_bytes(text.as_bytes()) else {
                return Ok(());
            };
            headers.insert(RANGE, value);
            if let Part::Bytes(range) = part(&headers, ETAG, size) {
                prop_assert!(range.start < range.end && range.end <= size);
            }
        }
    }
}
