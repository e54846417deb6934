//! Numbers in tar headers: octal digits, or, as GNU tar and star write what octal cannot hold, a
//! big-endian number in two's complement whose first bit is set to tell it from octal.

/// The number in a header's field; an empty field is 0. `None` if it is malformed or beyond 64 bits.
pub(super) fn number(field: &[u8]) -> Option<i64> {
    match field.first() {
        Some(first) if first & 0x80 != 0 => binary(field),
        _ => octal(field),
    }
}

/// The same, where a negative number makes no sense.
pub(super) fn unsigned(field: &[u8]) -> Option<u64> {
    number(field).and_then(|n| u64::try_from(n).ok())
}

fn octal(field: &[u8]) -> Option<i64> {
    let is_end = |b: &u8| *b == 0 || *b == b' ';
    let start = field.iter().position(|b| *b != b' ').unwrap_or(field.len());
    let digits = field[start..].split(is_end).next()?;
    let mut value = 0i64;
    for digit in digits {
        let digit = digit.checked_sub(b'0').filter(|digit| *digit < 8)?;
        value = value.checked_mul(8)?.checked_add(digit.into())?;
    }
    Some(value)
}

fn binary(field: &[u8]) -> Option<i64> {
    let (first, rest) = field.split_first()?;
    // The first bit is the mark, the second is the sign.
    let mut value = i128::from((first << 1) as i8 >> 1);
    for byte in rest {
        value = value.checked_mul(256)?.checked_add((*byte).into())?;
    }
    i64::try_from(value).ok()
}

/// A decimal number of an extended header.
pub(super) fn decimal(text: &[u8]) -> Option<u64> {
    let is_digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    let text = std::str::from_utf8(text).ok().filter(|_| is_digits)?;
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn octal_as_tars_write_it() {
        for (field, value) in [
            (&b"0000644\0"[..], Some(0o644)),
            (b"   644 \0", Some(0o644)),
            (b"644 junk", Some(0o644)),
            (b"77777777777\0", Some(0o77777777777)),
            (b"\0\0\0\0", Some(0)),
            (b"        ", Some(0)),
            (b"", Some(0)),
            (b"0009", None),
            (b"-1", None),
        ] {
            assert_eq!(number(field), value, "{}", field.escape_ascii());
        }
    }

    #[test]
    fn binary_is_twos_complement() {
        let mut big = [0; 12];
        big[0] = 0x80;
        big[7] = 1;
        assert_eq!(number(&big), Some(1 << 32));
        assert_eq!(number(&[0xff; 12]), Some(-1));
        assert_eq!(unsigned(&[0xff; 12]), None);
        let mut huge = [0; 12];
        huge[..2].copy_from_slice(&[0x80, 1]);
        assert_eq!(number(&huge), None);
        assert_eq!(number(&[0xbf; 40]), None);
    }
}
