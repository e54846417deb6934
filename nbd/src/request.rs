//! Requests: the client's 28 bytes to a request, and a request to a checked command.
//!
//! ```text
//! u32 magic | u16 flags | u16 command | u64 cookie | u64 offset | u32 length | data of a write
//! ```

use crate::export::Access;
use crate::limits::MAX_PAYLOAD_BYTES;
use crate::proto::{self, Errno};
use crate::reply::ReplyStyle;

/// Bytes of a request without the data of a write.
pub const REQUEST_BYTES: usize = 28;

/// A request as it was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// Command flags.
    pub flags: u16,
    /// Command.
    pub command: u16,
    /// The client's name for it, repeated in the reply.
    pub cookie: u64,
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub len: u32,
}

/// The stream does not hold a request where one must begin, so nothing behind it can be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a request begins with {0:#010x}, which is not its magic")]
pub struct BadMagic(pub u32);

/// What is needed to judge a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// Bytes of the disk.
    pub size: u64,
    /// Whether it may be changed.
    pub access: Access,
    /// Whether structured replies were agreed on.
    pub style: ReplyStyle,
    /// Whether block status was agreed on.
    pub block_status: bool,
}

/// A request that may be done: its range lies in the disk, its flags fit, the client may do it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Send `len` bytes, at most [`MAX_PAYLOAD_BYTES`], in one piece.
    Read {
        /// First byte.
        offset: u64,
        /// Bytes.
        len: u32,
    },
    /// Write the `len` bytes that follow, at most [`MAX_PAYLOAD_BYTES`].
    Write {
        /// First byte.
        offset: u64,
        /// Bytes.
        len: u32,
        /// When to answer.
        answer: Answer,
    },
    /// Make everything that was answered durable.
    Flush,
    /// Make bytes read as zeros.
    Zero {
        /// First byte.
        offset: u64,
        /// Bytes.
        len: u32,
        /// When to answer.
        answer: Answer,
        /// What becomes of their room.
        room: Room,
    },
    /// Tell where there is data and where zeros.
    Status {
        /// First byte.
        offset: u64,
        /// Bytes, at least one.
        len: u32,
        /// Most runs in the answer.
        runs: usize,
    },
    /// Read ahead and send nothing, at most [`MAX_PAYLOAD_BYTES`].
    Cache {
        /// First byte.
        offset: u64,
        /// Bytes.
        len: u32,
    },
    /// Finish what is in flight and close; has no reply.
    Disconnect,
}

/// When a change is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// When a read would see it.
    Done,
    /// When it is durable (FUA).
    Durable,
}

/// What becomes of the room that zeroed bytes took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    /// It is given back where that can be.
    GiveBack,
    /// It is kept, or taken now, so that a later write there finds room.
    Keep,
}

/// A request that gets an error, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    /// The number for the client.
    pub errno: Errno,
    /// The text for people, sent in structured replies.
    pub reason: &'static str,
}

impl Request {
    /// Reads a request.
    pub fn parse(bytes: &[u8; REQUEST_BYTES]) -> Result<Self, BadMagic> {
        let [
            m0,
            m1,
            m2,
            m3,
            f0,
            f1,
            t0,
            t1,
            c0,
            c1,
            c2,
            c3,
            c4,
            c5,
            c6,
            c7,
            o0,
            o1,
            o2,
            o3,
            o4,
            o5,
            o6,
            o7,
            l0,
            l1,
            l2,
            l3,
        ] = *bytes;
        let magic = u32::from_be_bytes([m0, m1, m2, m3]);
        if magic != proto::REQUEST_MAGIC {
            return Err(BadMagic(magic));
        }
        Ok(Self {
            flags: u16::from_be_bytes([f0, f1]),
            command: u16::from_be_bytes([t0, t1]),
            cookie: u64::from_be_bytes([c0, c1, c2, c3, c4, c5, c6, c7]),
            offset: u64::from_be_bytes([o0, o1, o2, o3, o4, o5, o6, o7]),
            len: u32::from_be_bytes([l0, l1, l2, l3]),
        })
    }

    /// The bytes of a request, as a client sends them.
    pub fn encode(&self) -> [u8; REQUEST_BYTES] {
        let mut bytes = [0; REQUEST_BYTES];
        bytes[..4].copy_from_slice(&proto::REQUEST_MAGIC.to_be_bytes());
        bytes[4..6].copy_from_slice(&self.flags.to_be_bytes());
        bytes[6..8].copy_from_slice(&self.command.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.cookie.to_be_bytes());
        bytes[16..24].copy_from_slice(&self.offset.to_be_bytes());
        bytes[24..].copy_from_slice(&self.len.to_be_bytes());
        bytes
    }

    /// Bytes that follow the request in the stream, whether or not it is refused.
    pub fn payload_len(&self) -> u32 {
        match self.command {
            proto::CMD_WRITE => self.len,
            _ => 0,
        }
    }

    /// Whether this is a read, which must be answered in the agreed style even if it is refused.
    pub fn is_read(&self) -> bool {
        self.command == proto::CMD_READ
    }

    /// Judges the request.
    pub fn check(&self, rules: &Rules) -> Result<Command, Refusal> {
        self.check_flags(rules)?;
        let Self { offset, len, .. } = *self;
        let answer = match self.flags & proto::CMD_FLAG_FUA {
            0 => Answer::Done,
            _ => Answer::Durable,
        };
        match self.command {
            proto::CMD_READ => {
                self.check_range(rules, Errno::Inval)?;
                self.check_payload()?;
                Ok(Command::Read { offset, len })
            }
            proto::CMD_WRITE => {
                check_access(rules)?;
                self.check_range(rules, Errno::NoSpc)?;
                self.check_payload()?;
                Ok(Command::Write {
                    offset,
                    len,
                    answer,
                })
            }
            proto::CMD_DISC => Ok(Command::Disconnect),
            proto::CMD_FLUSH => match (offset, len) {
                (0, 0) => Ok(Command::Flush),
                _ => Err(invalid("a flush has neither offset nor length")),
            },
            proto::CMD_TRIM | proto::CMD_WRITE_ZEROES => self.check_zero(rules, answer),
            proto::CMD_BLOCK_STATUS => self.check_status(rules),
            proto::CMD_CACHE => {
                self.check_range(rules, Errno::Inval)?;
                self.check_payload()?;
                Ok(Command::Cache { offset, len })
            }
            _ => Err(invalid("unknown command")),
        }
    }

    fn check_flags(&self, rules: &Rules) -> Result<(), Refusal> {
        // Clients are known to send FUA with any command, so it is always allowed.
        let allowed = proto::CMD_FLAG_FUA
            | match self.command {
                proto::CMD_READ if rules.style == ReplyStyle::Structured => proto::CMD_FLAG_DF,
                proto::CMD_WRITE_ZEROES => proto::CMD_FLAG_NO_HOLE | proto::CMD_FLAG_FAST_ZERO,
                proto::CMD_BLOCK_STATUS => proto::CMD_FLAG_REQ_ONE,
                // Whatever a client says on leaving, it leaves.
                proto::CMD_DISC => u16::MAX,
                _ => 0,
            };
        match self.flags & !allowed {
            0 => Ok(()),
            _ => Err(invalid("a flag does not belong to the command")),
        }
    }

    fn check_range(&self, rules: &Rules, beyond: Errno) -> Result<(), Refusal> {
        match self.offset.checked_add(u64::from(self.len)) {
            Some(end) if end <= rules.size => Ok(()),
            _ => Err(Refusal {
                errno: beyond,
                reason: "the range ends beyond the disk",
            }),
        }
    }

    fn check_payload(&self) -> Result<(), Refusal> {
        if self.len > MAX_PAYLOAD_BYTES {
            return Err(invalid("the range is longer than the maximum block size"));
        }
        Ok(())
    }

    fn check_zero(&self, rules: &Rules, answer: Answer) -> Result<Command, Refusal> {
        check_access(rules)?;
        let beyond = match self.command {
            proto::CMD_TRIM => Errno::Inval,
            _ => Errno::NoSpc,
        };
        self.check_range(rules, beyond)?;
        let room = match self.flags & proto::CMD_FLAG_NO_HOLE {
            0 => Room::GiveBack,
            _ => Room::Keep,
        };
        if room == Room::Keep && self.flags & proto::CMD_FLAG_FAST_ZERO != 0 {
            return Err(Refusal {
                errno: Errno::NotSup,
                reason: "zeroing that keeps its room writes zeros, which is not fast",
            });
        }
        Ok(Command::Zero {
            offset: self.offset,
            len: self.len,
            answer,
            room,
        })
    }

    fn check_status(&self, rules: &Rules) -> Result<Command, Refusal> {
        if !rules.block_status {
            return Err(invalid("base:allocation was not chosen for this export"));
        }
        if self.len == 0 {
            return Err(invalid("block status of no bytes"));
        }
        self.check_range(rules, Errno::Inval)?;
        Ok(Command::Status {
            offset: self.offset,
            len: self.len,
            runs: match self.flags & proto::CMD_FLAG_REQ_ONE {
                0 => crate::limits::MAX_STATUS_RUNS,
                _ => 1,
            },
        })
    }
}

fn check_access(rules: &Rules) -> Result<(), Refusal> {
    match rules.access {
        Access::ReadWrite => Ok(()),
        Access::ReadOnly => Err(Refusal {
            errno: Errno::Perm,
            reason: "the export is read-only",
        }),
    }
}

fn invalid(reason: &'static str) -> Refusal {
    Refusal {
        errno: Errno::Inval,
        reason,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const RULES: Rules = Rules {
        size: 1 << 40,
        access: Access::ReadWrite,
        style: ReplyStyle::Structured,
        block_status: true,
    };

    fn request(command: u16, flags: u16, offset: u64, len: u32) -> Request {
        Request {
            flags,
            command,
            cookie: 7,
            offset,
            len,
        }
    }

    proptest! {
        #[test]
        fn a_request_reads_back(flags: u16, command: u16, cookie: u64, offset: u64, len: u32) {
            let request = Request { flags, command, cookie, offset, len };
            prop_assert_eq!(Request::parse(&request.encode()), Ok(request));
        }

        #[test]
        fn a_checked_command_lies_in_the_disk(
            flags in 0u16..64, command in 0u16..10, offset in 0u64..3000, len in 0u32..3000, size in 0u64..3000,
        ) {
            let rules = Rules { size, ..RULES };
            let range = match request(command, flags, offset, len).check(&rules) {
                Ok(Command::Read { offset, len } | Command::Write { offset, len, .. }
                    | Command::Zero { offset, len, .. } | Command::Status { offset, len, .. }
                    | Command::Cache { offset, len }) => offset..offset + u64::from(len),
                Ok(Command::Flush | Command::Disconnect) | Err(_) => 0..0,
            };
            prop_assert!(range.end <= size);
        }
    }

    #[test]
    fn refusals_have_the_protocols_numbers() {
        let end = RULES.size;
        let read_only = Rules {
            access: Access::ReadOnly,
            ..RULES
        };
        let simple = Rules {
            style: ReplyStyle::Simple,
            block_status: false,
            ..RULES
        };
        let long = MAX_PAYLOAD_BYTES + 1;
        let cases = [
            (proto::CMD_READ, 0, end, 1, RULES, Errno::Inval),
            (proto::CMD_READ, 0, u64::MAX, 2, RULES, Errno::Inval),
            (proto::CMD_READ, 0, 0, long, RULES, Errno::Inval),
            (
                proto::CMD_READ,
                proto::CMD_FLAG_DF,
                0,
                1,
                simple,
                Errno::Inval,
            ),
            (
                proto::CMD_READ,
                proto::CMD_FLAG_REQ_ONE,
                0,
                1,
                RULES,
                Errno::Inval,
            ),
            (proto::CMD_WRITE, 0, end - 1, 2, RULES, Errno::NoSpc),
            (proto::CMD_WRITE, 0, 0, long, RULES, Errno::Inval),
            (proto::CMD_WRITE, 0, 0, 1, read_only, Errno::Perm),
            (proto::CMD_TRIM, 0, 0, 1, read_only, Errno::Perm),
            (proto::CMD_TRIM, 0, end, 1, RULES, Errno::Inval),
            (proto::CMD_WRITE_ZEROES, 0, 0, 1, read_only, Errno::Perm),
            (proto::CMD_WRITE_ZEROES, 0, end, 1, RULES, Errno::NoSpc),
            (
                proto::CMD_WRITE_ZEROES,
                proto::CMD_FLAG_FAST_ZERO | proto::CMD_FLAG_NO_HOLE,
                0,
                1,
                RULES,
                Errno::NotSup,
            ),
            (proto::CMD_FLUSH, 0, 0, 1, RULES, Errno::Inval),
            (proto::CMD_BLOCK_STATUS, 0, 0, 1, simple, Errno::Inval),
            (proto::CMD_BLOCK_STATUS, 0, 0, 0, RULES, Errno::Inval),
            (proto::CMD_BLOCK_STATUS, 0, end, 1, RULES, Errno::Inval),
            (proto::CMD_CACHE, 0, 0, long, RULES, Errno::Inval),
            (99, 0, 0, 0, RULES, Errno::Inval),
        ];
        for (command, flags, offset, len, rules, errno) in cases {
            let got = request(command, flags, offset, len).check(&rules);
            let got = got.map_err(|refusal| refusal.errno);
            assert_eq!(
                got,
                Err(errno),
                "command {command} flags {flags} at {offset} + {len}"
            );
        }
    }

    #[test]
    fn fua_is_allowed_everywhere_and_counts_where_it_writes() {
        let fua = proto::CMD_FLAG_FUA;
        assert!(request(proto::CMD_READ, fua, 0, 1).check(&RULES).is_ok());
        assert_eq!(
            request(proto::CMD_WRITE, fua, 0, 1).check(&RULES),
            Ok(Command::Write {
                offset: 0,
                len: 1,
                answer: Answer::Durable
            })
        );
    }

    #[test]
    fn other_magic_is_refused() {
        let mut bytes = request(0, 0, 0, 0).encode();
        bytes[3] = 0;
        assert_eq!(Request::parse(&bytes), Err(BadMagic(0x2560_9500)));
    }
}
