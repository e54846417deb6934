//! What the keeper and its clients say to each other, as bytes.
//!
//! The keeper of a host outlives the program that started it, by years maybe. So this only ever gets more operations, and
//! nothing in it ever changes: an older keeper answers a new operation with [`Status::UnknownOperation`].
//!
//! Over a socket that keeps messages apart (`SOCK_SEQPACKET`). A client asks, the keeper answers, as often as the client
//! likes. Open files travel beside the bytes (`SCM_RIGHTS`).
//!
//! ```text
//! request  0  4  magic "SKP1"
//!          4  1  operation: 1 put, 2 get, 3 remove, 4 list
//!          5  1  open files beside it, of a put
//!          6  1  bytes of the name, 0 to 100; of a list, the name behind which it begins
//!          7  1  0
//!          8     name: a-z, 0-9, `.`, `-`
//! answer   0  4  magic "SKP1"
//!          4  1  status: 0 done, 1 nothing has this name, 2 not understood, 3 no room, 4 unknown operation, 5 denied
//!          5  1  open files beside it, of a get
//!          6  1  1 if a list goes on behind its last name
//!          7  1  0
//!          8     names of a list: a byte with the length of each, and the name
//! ```

use std::fmt;

/// How every message begins.
const MAGIC: &[u8; 4] = b"SKP1";
const HEADER_BYTES: usize = 8;

/// Longest name.
const MAX_NAME_BYTES: usize = 100;

/// Most open files under one name: a mount has two, `/dev/fuse` and the memory of its requests.
pub(crate) const MAX_FILES: usize = 4;

/// Longest request.
pub(crate) const MAX_REQUEST_BYTES: usize = HEADER_BYTES + MAX_NAME_BYTES;

/// Longest answer: forty of the longest names, and some hundred of those that are in use.
pub(crate) const MAX_ANSWER_BYTES: usize = 4096;

/// A name that files are kept under.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct KeptName(String);

impl KeptName {
    /// `None` if it is empty, too long, or has other characters than `a-z`, `0-9`, `.` and `-`.
    pub(crate) fn new(text: &str) -> Option<Self> {
        let known = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-');
        let is_name = (1..=MAX_NAME_BYTES).contains(&text.len()) && text.bytes().all(known);
        is_name.then(|| Self(text.to_owned()))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    fn of_bytes(bytes: &[u8]) -> Option<Self> {
        Self::new(std::str::from_utf8(bytes).ok()?)
    }
}

impl fmt::Display for KeptName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a client wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Request {
    /// Keep the files that come along, in place of those that are kept under this name.
    Put { name: KeptName, files: usize },
    /// Show the files of this name; they stay.
    Get(KeptName),
    /// Close the files of this name.
    Remove(KeptName),
    /// The names, in their order, of those behind this one.
    List { behind: Option<KeptName> },
}

/// How a request went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Status {
    Done = 0,
    NoSuchName = 1,
    NotUnderstood = 2,
    NoRoom = 3,
    UnknownOperation = 4,
    Denied = 5,
}

/// What the keeper says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: Status,
    /// Files that come along.
    pub(crate) files: usize,
    pub(crate) names: Vec<KeptName>,
    /// Whether there are names behind the last one.
    pub(crate) goes_on: bool,
}

impl Request {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let (operation, files, name) = match self {
            Request::Put { name, files } => (1, *files as u8, Some(name)),
            Request::Get(name) => (2, 0, Some(name)),
            Request::Remove(name) => (3, 0, Some(name)),
            Request::List { behind } => (4, 0, behind.as_ref()),
        };
        let name = name.map_or("", KeptName::as_str);
        let mut bytes = MAGIC.to_vec();
        bytes.extend([operation, files, name.len() as u8, 0]);
        bytes.extend(name.as_bytes());
        bytes
    }

    /// The error is what the client is told.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Status> {
        let Some(([operation, files, name_len, 0], name)) = after_magic(bytes) else {
            return Err(Status::NotUnderstood);
        };
        // A later operation may have more to say.
        if !(1..=4).contains(&operation) {
            return Err(Status::UnknownOperation);
        }
        let files = usize::from(files);
        let name_fits = name.len() == usize::from(name_len) && name.len() <= MAX_NAME_BYTES;
        let files_fit = match operation {
            1 => (1..=MAX_FILES).contains(&files),
            _ => files == 0,
        };
        if !name_fits || !files_fit {
            return Err(Status::NotUnderstood);
        }
        if operation == 4 && name.is_empty() {
            return Ok(Request::List { behind: None });
        }
        let name = KeptName::of_bytes(name).ok_or(Status::NotUnderstood)?;
        Ok(match operation {
            1 => Request::Put { name, files },
            2 => Request::Get(name),
            3 => Request::Remove(name),
            _ => Request::List { behind: Some(name) },
        })
    }
}

impl Answer {
    pub(crate) fn of(status: Status) -> Self {
        Self {
            status,
            files: 0,
            names: Vec::new(),
            goes_on: false,
        }
    }

    /// With as many of these names as an answer holds.
    pub(crate) fn list<'a>(names: impl Iterator<Item = &'a KeptName>) -> Self {
        let mut answer = Self::of(Status::Done);
        let mut bytes = HEADER_BYTES;
        for name in names {
            bytes += 1 + name.as_str().len();
            if bytes > MAX_ANSWER_BYTES {
                answer.goes_on = true;
                break;
            }
            answer.names.push(name.clone());
        }
        answer
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend([
            self.status as u8,
            self.files as u8,
            u8::from(self.goes_on),
            0,
        ]);
        for name in &self.names {
            bytes.push(name.as_str().len() as u8);
            bytes.extend(name.as_str().as_bytes());
        }
        bytes
    }

    /// `None` if it is no answer of a keeper.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let ([status, files, goes_on @ (0 | 1), 0], mut rest) = after_magic(bytes)? else {
            return None;
        };
        let mut names = Vec::new();
        while let Some((len, after)) = rest.split_first() {
            let (name, after) = after.split_at_checked(usize::from(*len))?;
            names.push(KeptName::of_bytes(name)?);
            rest = after;
        }
        Some(Self {
            status: Status::of(status)?,
            files: usize::from(files),
            names,
            goes_on: goes_on == 1,
        })
    }
}

impl Status {
    fn of(number: u8) -> Option<Self> {
        let all = [
            Self::Done,
            Self::NoSuchName,
            Self::NotUnderstood,
            Self::NoRoom,
            Self::UnknownOperation,
            Self::Denied,
        ];
        all.into_iter().find(|status| *status as u8 == number)
    }
}

/// The four bytes behind the magic, and what comes after them.
fn after_magic(bytes: &[u8]) -> Option<([u8; 4], &[u8])> {
    let rest = bytes.strip_prefix(MAGIC)?;
    let (fields, rest) = rest.split_first_chunk()?;
    Some((*fields, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn name(text: &str) -> KeptName {
        KeptName::new(text).unwrap()
    }

    #[test]
    fn the_bytes_stay_what_they_are() {
        let put = Request::Put {
            name: name("mount.1"),
            files: 2,
        };
        let list = |behind| Request::List { behind };
        let cases: [(Request, &[u8]); 5] = [
            (put, b"SKP1\x01\x02\x07\0mount.1"),
            (Request::Get(name("a")), b"SKP1\x02\0\x01\0a"),
            (Request::Remove(name("a")), b"SKP1\x03\0\x01\0a"),
            (list(None), b"SKP1\x04\0\0\0"),
            (list(Some(name("b"))), b"SKP1\x04\0\x01\0b"),
        ];
        for (request, bytes) in cases {
            assert_eq!(request.encode(), bytes);
            assert_eq!(Request::decode(bytes), Ok(request));
        }
        let answer = Answer {
            status: Status::NoRoom,
            files: 1,
            names: vec![name("a"), name("bc")],
            goes_on: true,
        };
        assert_eq!(answer.encode(), b"SKP1\x03\x01\x01\0\x01a\x02bc");
        assert_eq!(Answer::decode(&answer.encode()), Some(answer));
    }

    #[test]
    fn what_breaks_a_rule_is_refused() {
        let wrong: [&[u8]; 9] = [
            b"",
            b"SKP2\x02\0\x01\0a",
            b"SKP1\x02\0\x01",
            b"SKP1\x02\0\x02\0a",
            b"SKP1\x02\0\x01\0ab",
            b"SKP1\x02\x01\x01\0a",
            b"SKP1\x01\x05\x01\0a",
            b"SKP1\x02\0\x01\0/",
            b"SKP1\x02\0\0\0",
        ];
        for bytes in wrong {
            assert_eq!(Request::decode(bytes), Err(Status::NotUnderstood));
        }
        let long = [b"SKP1\x02\0\x65\0".as_slice(), &[b'a'; 101]].concat();
        assert_eq!(Request::decode(&long), Err(Status::NotUnderstood));
        let new = b"SKP1\x09\x01\x01\0a and more";
        assert_eq!(Request::decode(new), Err(Status::UnknownOperation));
        assert!(Answer::decode(b"SKP1\0\0\0\0\x05abc").is_none());
        assert!(Answer::decode(b"SKP1\x63\0\0\0").is_none());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused_and_what_is_read_is_written_the_same(
            bytes in proptest::collection::vec(any::<u8>(), 0..300),
            has_magic in any::<bool>(),
        ) {
            let bytes = match has_magic {
                true => [MAGIC.as_slice(), &bytes].concat(),
                false => bytes,
            };
            if let Ok(request) = Request::decode(&bytes) {
                prop_assert_eq!(request.encode(), bytes.clone());
            }
            if let Some(answer) = Answer::decode(&bytes) {
                prop_assert_eq!(answer.encode(), bytes);
            }
        }
    }

    #[test]
    fn a_long_list_comes_in_parts() {
        let names: Vec<KeptName> = (0..1000).map(|n| name(&format!("mount.{n:04}"))).collect();
        let (mut got, mut parts) = (Vec::new(), 0);
        loop {
            let behind = got.last();
            let rest = names.iter().filter(|name| behind.is_none_or(|b| *name > b));
            let part = Answer::list(rest);
            assert!(part.encode().len() <= MAX_ANSWER_BYTES);
            parts += 1;
            got.extend(part.names);
            if !part.goes_on {
                break;
            }
        }
        assert!(got == names && parts > 2);
    }
}
