//! Options of the handshake: the client's bytes to values, and our replies to bytes.
//!
//! ```text
//! option:  u64 IHAVEOPT | u32 option | u32 length | data
//! reply:   u64 magic    | u32 option | u32 type | u32 length | data
//! ```

use crate::limits::MAX_STRING_BYTES;
use crate::proto;

/// Bytes of an option's header.
pub(crate) const OPTION_HEADER_BYTES: usize = 16;

/// What a client asks for while it negotiates. Borrowed from the option's data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientOption<'a> {
    /// Use this export at once; there is no way to answer an error.
    ExportName(&'a str),
    /// Leave.
    Abort,
    /// Name all exports.
    List,
    /// Describe an export.
    Info(InfoRequest<'a>),
    /// Describe an export and use it.
    Go(InfoRequest<'a>),
    /// Answer reads in structured replies.
    StructuredReply,
    /// Name the metadata contexts that match.
    ListMetaContext(MetaRequest<'a>),
    /// Choose metadata contexts for block status.
    SetMetaContext(MetaRequest<'a>),
    /// An option that this server does not know.
    Unknown,
}

/// The data of `INFO` and `GO`: `u32 length | name | u16 count | count * u16`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InfoRequest<'a> {
    /// The export.
    pub name: &'a str,
    /// The name is asked back.
    pub wants_name: bool,
    /// The description is asked for.
    pub wants_description: bool,
}

/// The data of the metadata options: `u32 length | name | u32 count | count * (u32 length | query)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetaRequest<'a> {
    /// The export.
    pub name: &'a str,
    /// The queries, in the client's order. As many as fit into an option's data.
    pub queries: Vec<&'a str>,
}

/// Why an option is refused; the text goes to the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OptionError {
    /// The data ends before what its lengths promise.
    #[error("the option's data is too short for the lengths in it")]
    Short,
    /// There is data behind what the option has.
    #[error("the option has more data than its kind allows")]
    Excess,
    /// A string that is not UTF-8, or holds NUL.
    #[error("a string of the option is not UTF-8 without NUL")]
    BadString,
    /// A string longer than [`MAX_STRING_BYTES`].
    #[error("a string of the option is longer than 4096 bytes")]
    LongString,
}

impl<'a> ClientOption<'a> {
    /// Reads an option's data.
    pub fn parse(option: u32, data: &'a [u8]) -> Result<Self, OptionError> {
        let mut cursor = Cursor { rest: data };
        let parsed = match option {
            proto::OPT_EXPORT_NAME => Self::ExportName(cursor.string(data.len())?),
            // The protocol asks to ignore data here.
            proto::OPT_ABORT => return Ok(Self::Abort),
            proto::OPT_LIST => Self::List,
            proto::OPT_INFO => Self::Info(InfoRequest::parse(&mut cursor)?),
            proto::OPT_GO => Self::Go(InfoRequest::parse(&mut cursor)?),
            proto::OPT_STRUCTURED_REPLY => Self::StructuredReply,
            proto::OPT_LIST_META_CONTEXT => Self::ListMetaContext(MetaRequest::parse(&mut cursor)?),
            proto::OPT_SET_META_CONTEXT => Self::SetMetaContext(MetaRequest::parse(&mut cursor)?),
            _ => return Ok(Self::Unknown),
        };
        if cursor.rest.is_empty() {
            Ok(parsed)
        } else {
            Err(OptionError::Excess)
        }
    }
}

impl<'a> InfoRequest<'a> {
    fn parse(cursor: &mut Cursor<'a>) -> Result<Self, OptionError> {
        let len = cursor.length()?;
        let name = cursor.string(len)?;
        let mut request = Self {
            name,
            wants_name: false,
            wants_description: false,
        };
        for _ in 0..cursor.u16()? {
            match cursor.u16()? {
                proto::INFO_NAME => request.wants_name = true,
                proto::INFO_DESCRIPTION => request.wants_description = true,
                // Size, flags and block sizes are sent in any case; unknown ones are to be ignored.
                _ => {}
            }
        }
        Ok(request)
    }
}

impl<'a> MetaRequest<'a> {
    fn parse(cursor: &mut Cursor<'a>) -> Result<Self, OptionError> {
        let len = cursor.length()?;
        let name = cursor.string(len)?;
        let count = cursor.u32()?;
        let mut queries = Vec::new();
        for _ in 0..count {
            // Each query takes four bytes of the data at least, so a lying count ends here soon.
            let len = cursor.length()?;
            queries.push(cursor.string(len)?);
        }
        Ok(Self { name, queries })
    }
}

/// What is not yet read of an option's data.
struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], OptionError> {
        let (head, rest) = self.rest.split_first_chunk().ok_or(OptionError::Short)?;
        self.rest = rest;
        Ok(*head)
    }

    fn u16(&mut self) -> Result<u16, OptionError> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32, OptionError> {
        self.array().map(u32::from_be_bytes)
    }

    fn length(&mut self) -> Result<usize, OptionError> {
        usize::try_from(self.u32()?).map_err(|_| OptionError::Short)
    }

    fn string(&mut self, len: usize) -> Result<&'a str, OptionError> {
        let (head, rest) = self.rest.split_at_checked(len).ok_or(OptionError::Short)?;
        if len > MAX_STRING_BYTES {
            return Err(OptionError::LongString);
        }
        self.rest = rest;
        let text = str::from_utf8(head).map_err(|_| OptionError::BadString)?;
        if text.contains('\0') {
            return Err(OptionError::BadString);
        }
        Ok(text)
    }
}

/// The option and the length of its data, from a header; `None` if its magic is wrong.
pub(crate) fn parse_header(header: &[u8; OPTION_HEADER_BYTES]) -> Option<(u32, u32)> {
    let [
        m0,
        m1,
        m2,
        m3,
        m4,
        m5,
        m6,
        m7,
        o0,
        o1,
        o2,
        o3,
        l0,
        l1,
        l2,
        l3,
    ] = *header;
    let magic = u64::from_be_bytes([m0, m1, m2, m3, m4, m5, m6, m7]);
    (magic == proto::OPTION_MAGIC).then(|| {
        (
            u32::from_be_bytes([o0, o1, o2, o3]),
            u32::from_be_bytes([l0, l1, l2, l3]),
        )
    })
}

/// Appends a reply to `option`. `parts` are its data, in order; together they are far below 4 GiB, as
/// each is a string or a fixed record.
pub(crate) fn put_reply(out: &mut Vec<u8>, option: u32, kind: u32, parts: &[&[u8]]) {
    let len: usize = parts.iter().map(|part| part.len()).sum();
    out.extend_from_slice(&proto::OPTION_REPLY_MAGIC.to_be_bytes());
    out.extend_from_slice(&option.to_be_bytes());
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(&u32::try_from(len).unwrap_or(u32::MAX).to_be_bytes());
    for part in parts {
        out.extend_from_slice(part);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn info(name: &str, wants: &[u16]) -> Vec<u8> {
        let mut data = (name.len() as u32).to_be_bytes().to_vec();
        data.extend_from_slice(name.as_bytes());
        data.extend_from_slice(&(wants.len() as u16).to_be_bytes());
        for want in wants {
            data.extend_from_slice(&want.to_be_bytes());
        }
        data
    }

    fn meta(name: &str, queries: &[String]) -> Vec<u8> {
        let mut data = (name.len() as u32).to_be_bytes().to_vec();
        data.extend_from_slice(name.as_bytes());
        data.extend_from_slice(&(queries.len() as u32).to_be_bytes());
        for query in queries {
            data.extend_from_slice(&(query.len() as u32).to_be_bytes());
            data.extend_from_slice(query.as_bytes());
        }
        data
    }

    proptest! {
        #[test]
        fn info_reads_back(name in "[^\0]{0,40}", wants in prop::collection::vec(0u16..9, 0..8)) {
            let data = info(&name, &wants);
            let parsed = ClientOption::parse(proto::OPT_GO, &data).unwrap();
            prop_assert_eq!(parsed, ClientOption::Go(InfoRequest {
                name: &name,
                wants_name: wants.contains(&proto::INFO_NAME),
                wants_description: wants.contains(&proto::INFO_DESCRIPTION),
            }));
        }

        #[test]
        fn meta_reads_back(name in "[^\0]{0,40}", queries in prop::collection::vec("[a-z:]{0,20}", 0..8)) {
            let data = meta(&name, &queries);
            let parsed = ClientOption::parse(proto::OPT_SET_META_CONTEXT, &data).unwrap();
            let queries = queries.iter().map(String::as_str).collect();
            prop_assert_eq!(parsed, ClientOption::SetMetaContext(MetaRequest { name: &name, queries }));
        }

        #[test]
        fn a_cut_or_longer_option_is_refused(
            name in "[^\0]{0,10}", queries in prop::collection::vec("[a-z:]{0,9}", 0..4), cut in 0usize..100,
        ) {
            for (option, data) in [
                (proto::OPT_INFO, info(&name, &[1, 2])),
                (proto::OPT_LIST_META_CONTEXT, meta(&name, &queries)),
            ] {
                let shorter = &data[..cut % data.len()];
                prop_assert!(ClientOption::parse(option, shorter).is_err());
                let mut longer = data.clone();
                longer.push(0);
                prop_assert_eq!(ClientOption::parse(option, &longer), Err(OptionError::Excess));
            }
        }

        #[test]
        fn no_bytes_make_the_parser_panic(option in 0u32..12, data in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = ClientOption::parse(option, &data);
        }
    }

    #[test]
    fn lying_lengths_are_refused() {
        let mut data = info("disk", &[]);
        data[..4].copy_from_slice(&u32::MAX.to_be_bytes());
        assert_eq!(
            ClientOption::parse(proto::OPT_GO, &data),
            Err(OptionError::Short)
        );
        let mut data = meta("disk", &[]);
        data[8..].copy_from_slice(&u32::MAX.to_be_bytes());
        assert_eq!(
            ClientOption::parse(proto::OPT_SET_META_CONTEXT, &data),
            Err(OptionError::Short)
        );
    }

    #[test]
    fn strings_keep_the_protocols_rules() {
        let long = info(&"x".repeat(MAX_STRING_BYTES + 1), &[]);
        let cases: [(u32, &[u8], OptionError); 3] = [
            (proto::OPT_EXPORT_NAME, b"a\0b", OptionError::BadString),
            (proto::OPT_EXPORT_NAME, b"\xff", OptionError::BadString),
            (proto::OPT_GO, &long, OptionError::LongString),
        ];
        for (option, data, error) in cases {
            assert_eq!(ClientOption::parse(option, data), Err(error));
        }
    }
}
