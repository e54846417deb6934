//! What the kernel asks: bytes become a [`Request`]. Pure, and bounded by the bytes themselves.

use crate::proto::{IN_HEADER_BYTES, WRITE_HEADER_BYTES, op};

/// A request of the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request<'a> {
    /// Its number, which the reply repeats.
    pub unique: u64,
    /// The inode that it is about; 1 is the root.
    pub node: u64,
    /// The user whose process asks.
    pub uid: u32,
    /// The thread that asks, 0 if it is not of this system's view.
    pub pid: u32,
    /// What is asked.
    pub op: Op<'a>,
}

/// What a request asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op<'a> {
    /// The first request: which version and features.
    Init {
        /// Major version.
        major: u32,
        /// Minor version.
        minor: u32,
        /// The kernel's features, the first 32.
        flags: u32,
    },
    /// A name in a directory.
    Lookup(&'a [u8]),
    /// Attributes.
    GetAttr,
    /// Changed attributes.
    SetAttr {
        /// The new size, if it is to change.
        size: Option<u64>,
        /// Whether anything else changes.
        other: bool,
    },
    /// The target of a symbolic link.
    ReadLink,
    /// A file is opened.
    Open,
    /// A directory is opened.
    OpenDir,
    /// A part of a file.
    Read {
        /// First byte.
        offset: u64,
        /// Bytes.
        size: u32,
    },
    /// A part of a file replaced.
    Write {
        /// First byte.
        offset: u64,
        /// The bytes.
        data: &'a [u8],
    },
    /// Names of a directory.
    ReadDir {
        /// Where to go on, 0 for the start.
        cookie: u64,
        /// Most bytes of the reply.
        size: u32,
        /// What to say of each.
        detail: Detail,
    },
    /// How large and how full the file system is.
    StatFs,
    /// Everything durable: `fsync`.
    Sync,
    /// A file is closed, by one of its users.
    Flush,
    /// The value of an extended attribute.
    GetXattr {
        /// Its name.
        name: &'a [u8],
        /// Bytes that there is room for; 0 asks for the length.
        size: u32,
    },
    /// Names of all extended attributes.
    ListXattr {
        /// Bytes that there is room for; 0 asks for the length.
        size: u32,
    },
    /// Room given back or taken.
    Fallocate {
        /// First byte.
        offset: u64,
        /// Bytes.
        len: u64,
        /// `mode` of fallocate(2).
        mode: u32,
    },
    /// The next data or hole.
    Seek {
        /// From which byte on.
        offset: u64,
        /// `whence` of lseek(2).
        whence: u32,
    },
    /// A process that waits for another request got a signal.
    Interrupt(u64),
    /// An open file or directory is no longer used.
    Release,
    /// The file system is unmounted.
    Destroy,
    /// The kernel forgot nodes; there is no answer.
    Forget,
    /// A change of the tree: names, attributes.
    Change,
    /// An operation that is not known.
    Unknown(u32),
}

/// What a directory's reader wants to know of each name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detail {
    /// Inode and type.
    Plain,
    /// All attributes.
    Full,
}

/// Bytes that are no request. With the request's number, if that could be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a request of the FUSE protocol")]
pub struct Malformed {
    /// The request's number.
    pub unique: Option<u64>,
}

impl<'a> Request<'a> {
    /// Reads a request, which takes all of `bytes`.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let (header, body) = bytes
            .split_at_checked(IN_HEADER_BYTES)
            .ok_or(Malformed { unique: None })?;
        let header = Fields(header);
        let malformed = Malformed {
            unique: header.u64(8),
        };
        let request = || {
            if header.u32(0)? as usize != bytes.len() {
                return None;
            }
            Some(Request {
                unique: header.u64(8)?,
                node: header.u64(16)?,
                uid: header.u32(24)?,
                pid: header.u32(32)?,
                op: Op::parse(header.u32(4)?, body)?,
            })
        };
        request().ok_or(malformed)
    }
}

impl<'a> Op<'a> {
    fn parse(code: u32, body: &'a [u8]) -> Option<Self> {
        let fields = Fields(body);
        Some(match code {
            op::INIT => Op::Init {
                major: fields.u32(0)?,
                minor: fields.u32(4)?,
                // Absent from a kernel of another major version.
                flags: fields.u32(12).unwrap_or(0),
            },
            op::LOOKUP => Op::Lookup(name(body)?),
            op::GETATTR => Op::GetAttr,
            op::SETATTR => {
                let valid = fields.u32(0)?;
                Op::SetAttr {
                    size: match valid & crate::proto::set::SIZE {
                        0 => None,
                        _ => Some(fields.u64(16)?),
                    },
                    other: valid & !(crate::proto::set::SIZE | crate::proto::set::NOTHING) != 0,
                }
            }
            op::READLINK => Op::ReadLink,
            op::OPEN => Op::Open,
            op::OPENDIR => Op::OpenDir,
            op::READ => Op::Read {
                offset: fields.u64(8)?,
                size: fields.u32(16)?,
            },
            op::WRITE => {
                let size = fields.u32(16)? as usize;
                let data = body.get(WRITE_HEADER_BYTES - IN_HEADER_BYTES..)?;
                Op::Write {
                    offset: fields.u64(8)?,
                    data: (data.len() == size).then_some(data)?,
                }
            }
            op::READDIR | op::READDIRPLUS => Op::ReadDir {
                cookie: fields.u64(8)?,
                size: fields.u32(16)?,
                detail: match code {
                    op::READDIR => Detail::Plain,
                    _ => Detail::Full,
                },
            },
            op::STATFS => Op::StatFs,
            op::FSYNC | op::FSYNCDIR => Op::Sync,
            op::FLUSH => Op::Flush,
            op::GETXATTR => Op::GetXattr {
                size: fields.u32(0)?,
                name: name(body.get(8..)?)?,
            },
            op::LISTXATTR => Op::ListXattr {
                size: fields.u32(0)?,
            },
            op::FALLOCATE => Op::Fallocate {
                offset: fields.u64(8)?,
                len: fields.u64(16)?,
                mode: fields.u32(24)?,
            },
            op::LSEEK => Op::Seek {
                offset: fields.u64(8)?,
                whence: fields.u32(16)?,
            },
            op::INTERRUPT => Op::Interrupt(fields.u64(0)?),
            op::RELEASE | op::RELEASEDIR => Op::Release,
            op::DESTROY => Op::Destroy,
            op::FORGET | op::BATCH_FORGET => Op::Forget,
            op::SYMLINK
            | op::MKNOD
            | op::MKDIR
            | op::UNLINK
            | op::RMDIR
            | op::RENAME
            | op::RENAME2
            | op::LINK
            | op::CREATE
            | op::SETXATTR
            | op::REMOVEXATTR => Op::Change,
            unknown => Op::Unknown(unknown),
        })
    }

    /// Whether doing it twice differs from doing it once, when others may have done something in between.
    pub(crate) fn changes(&self) -> bool {
        matches!(
            self,
            Op::Write { .. } | Op::Fallocate { .. } | Op::SetAttr { .. } | Op::Change
        )
    }
}

/// The name that a body is, with the zero that ends it.
fn name(body: &[u8]) -> Option<&[u8]> {
    let (name, rest) = body.split_at_checked(body.iter().position(|byte| *byte == 0)?)?;
    (rest.len() == 1).then_some(name)
}

/// Integers at offsets.
#[derive(Clone, Copy)]
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn u32(self, at: usize) -> Option<u32> {
        let bytes = self.0.get(at..)?.first_chunk()?;
        Some(u32::from_ne_bytes(*bytes))
    }

    fn u64(self, at: usize) -> Option<u64> {
        let bytes = self.0.get(at..)?.first_chunk()?;
        Some(u64::from_ne_bytes(*bytes))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn request(code: u32, body: &[u8]) -> Vec<u8> {
        let mut bytes = ((IN_HEADER_BYTES + body.len()) as u32)
            .to_ne_bytes()
            .to_vec();
        bytes.extend_from_slice(&code.to_ne_bytes());
        bytes.extend_from_slice(&7u64.to_ne_bytes());
        bytes.extend_from_slice(&2u64.to_ne_bytes());
        for id in [1000u32, 100, 42, 0] {
            bytes.extend_from_slice(&id.to_ne_bytes());
        }
        bytes.extend_from_slice(body);
        bytes
    }

    /// Fields of 8 bytes.
    fn words(words: &[u64]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_ne_bytes()).collect()
    }

    #[test]
    fn requests_are_read_with_their_header() {
        let bytes = request(op::LOOKUP, b"etc\0");
        let read = Request::parse(&bytes).unwrap();
        assert_eq!(
            read,
            Request {
                unique: 7,
                node: 2,
                uid: 1000,
                pid: 42,
                op: Op::Lookup(b"etc")
            }
        );
        let write = [words(&[0, 4096, 5, 0, 0]), b"bytes".to_vec()].concat();
        let bytes = request(op::WRITE, &write);
        let Op::Write { offset, data } = Request::parse(&bytes).unwrap().op else {
            panic!("a write");
        };
        assert_eq!((offset, data), (4096, &b"bytes"[..]));
    }

    #[test]
    fn what_is_cut_or_too_long_is_none() {
        let write = [words(&[0, 4096, 5, 0, 0]), b"bytes".to_vec()].concat();
        let whole = [
            (op::LOOKUP, b"etc\0".to_vec()),
            (op::WRITE, write.clone()),
            (op::READ, words(&[0, 0, 9, 0, 0])),
            (op::GETXATTR, [words(&[0]), b"user.a\0".to_vec()].concat()),
            (op::SETATTR, words(&[8, 0, 77, 0])),
            (op::FALLOCATE, words(&[0, 1, 2, 3])),
            (op::LSEEK, words(&[0, 1, 3])),
            (op::INTERRUPT, words(&[9])),
        ];
        for (code, body) in whole {
            let bytes = request(code, &body);
            assert!(Request::parse(&bytes).is_ok(), "{code}");
            for len in 0..bytes.len() {
                let found = Request::parse(&bytes[..len]);
                let unique = (len >= IN_HEADER_BYTES).then_some(7);
                assert_eq!(found, Err(Malformed { unique }), "{code} {len}");
            }
            let cut = request(code, &body[..body.len() - 1]);
            // The last four bytes of these are padding.
            let is_padded = matches!(code, op::READ | op::FALLOCATE | op::LSEEK | op::SETATTR);
            assert_eq!(Request::parse(&cut).is_ok(), is_padded, "{code}");
        }
        let long = [&write[..], b"more"].concat();
        assert!(Request::parse(&request(op::WRITE, &long)).is_err());
        assert!(Request::parse(&request(op::LOOKUP, b"a\0b\0")).is_err());
        let lying = [&u32::MAX.to_ne_bytes()[..], &request(op::GETATTR, &[])[4..]].concat();
        assert!(Request::parse(&lying).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_request_or_none(code in 0u32..60, body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Request::parse(&request(code, &body));
            let _ = Request::parse(&body);
        }
    }
}
