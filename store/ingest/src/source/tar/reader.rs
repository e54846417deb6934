//! An archive as a stream: headers, extended headers, and the bytes between them.

use std::io::{self, BufReader, Read};

use shale_model::limits::{MAX_FILE_BYTES, MAX_PATH_BYTES};
use tar::{EntryType, GnuExtSparseHeader, GnuSparseHeader, Header};

use super::fault;
use super::member::{Member, MemberKind, Names, describe, name};
use super::number::{number, unsigned};
use super::pax::{MAX_PAX_BYTES, Pax};
use super::sparse::{MAX_PARTS, MapText, SparseMap};
use crate::error::{SourceError, TarError, TarProblem};
use crate::source::{FileBytes, Run};

const BLOCK: usize = 512;

/// Bytes read at once for headers and small files; larger reads go around this buffer.
const READ_BYTES: usize = 128 * 1024;

/// Longest name that a GNU long-name member may hold: a path, `./` before and `/` after it, and NULs.
const MAX_LONG_NAME_BYTES: u64 = MAX_PATH_BYTES as u64 + 16;

/// Most bytes read after the end mark, so that a writer into a pipe can end its last record: 2,048 blocks,
/// far more than any blocking factor.
const MAX_DRAINED_BYTES: u64 = 1024 * 1024;

/// Reads an archive member by member.
pub(super) struct Members<R> {
    input: BufReader<R>,
    number: u64,
    /// Stored bytes of the current member that were not read, and the padding after them.
    unread: u64,
    padding: u64,
    /// What global extended headers said so far.
    globals: Pax,
}

impl<R: Read> Members<R> {
    pub(super) fn new(input: R) -> Self {
        Self {
            input: BufReader::with_capacity(READ_BYTES, input),
            number: 0,
            unread: 0,
            padding: 0,
            globals: Pax::default(),
        }
    }

    /// The next member; `None` at the end mark.
    pub(super) fn next_member(&mut self) -> Result<Option<Member>, TarError> {
        self.number += 1;
        let mut long = Names::default();
        let mut pax = None;
        let found = self.find(&mut long, &mut pax);
        let Some(header) = found.map_err(|problem| self.unnamed(problem))? else {
            return Ok(None);
        };
        let pax = pax.unwrap_or_else(|| self.globals.clone());
        let mut member = name(&header, long, &pax);
        match self.complete(&header, pax, &mut member) {
            Ok(()) => Ok(Some(member)),
            Err(problem) => Err(fault(&member, problem)),
        }
    }

    /// The bytes of the member that was returned last.
    pub(super) fn bytes<'a>(&'a mut self, member: &'a Member) -> MemberBytes<'a, R> {
        MemberBytes {
            members: self,
            member,
            at: 0,
            part: 0,
        }
    }

    /// Reads what may follow the end mark.
    pub(super) fn drain(&mut self) {
        // The archive was complete: how its reader ends does not matter any more.
        let rest = &mut (&mut self.input).take(MAX_DRAINED_BYTES);
        let _ = io::copy(rest, &mut io::sink());
    }

    /// Reads headers up to that of a member of its own.
    fn find(
        &mut self,
        long: &mut Names,
        pax: &mut Option<Pax>,
    ) -> Result<Option<Header>, TarProblem> {
        let mut extended = 0;
        loop {
            let Some(header) = self.header()? else {
                return match (&long.path, &long.link, &pax) {
                    (None, None, None) => Ok(None),
                    _ => Err(TarProblem::Truncated),
                };
            };
            let twice = TarProblem::Malformed("header: it has two long names of one kind");
            match header.entry_type() {
                EntryType::GNULongName if long.path.is_some() => return Err(twice),
                EntryType::GNULongLink if long.link.is_some() => return Err(twice),
                EntryType::GNULongName => long.path = Some(self.long_name()?),
                EntryType::GNULongLink => long.link = Some(self.long_name()?),
                EntryType::XHeader => {
                    // There may be several, and all of them together are kept.
                    extended += self.unread;
                    let (what, found, max) = ("extended header", extended, MAX_PAX_BYTES);
                    if found > max {
                        return Err(TarProblem::TooLong { what, found, max });
                    }
                    let bytes = self.extension(what, max)?;
                    pax.get_or_insert_with(|| self.globals.clone())
                        .read(&bytes)?;
                }
                EntryType::XGlobalHeader => {
                    let bytes = self.extension("extended header", MAX_PAX_BYTES)?;
                    self.read_globals(&bytes)?;
                }
                // The label of a volume.
                other if other.as_byte() == b'V' => {}
                _ => return Ok(Some(header)),
            }
        }
    }

    /// The next header, once the member before it is skipped; `None` at the end mark.
    fn header(&mut self) -> Result<Option<Header>, TarProblem> {
        self.skip_member()?;
        let mut header = Header::new_old();
        self.read_exact(header.as_mut_bytes())?;
        if header.as_bytes().iter().all(|b| *b == 0) {
            return Ok(None);
        }
        let bytes = header.as_bytes();
        let sum = |bytes: &[u8]| bytes.iter().map(|b| i64::from(*b)).sum::<i64>();
        // The field of the checksum counts as spaces.
        let found = sum(&bytes[..148]) + 8 * i64::from(b' ') + sum(&bytes[156..]);
        if number(&header.as_old().cksum) != Some(found) {
            return Err(TarProblem::Checksum);
        }
        let size = unsigned(&header.as_old().size).ok_or(TarProblem::Malformed("size"))?;
        self.set_stored(size)?;
        Ok(Some(header))
    }

    /// The current member takes `size` bytes of the archive.
    fn set_stored(&mut self, size: u64) -> Result<(), TarProblem> {
        if size > MAX_FILE_BYTES {
            return Err(TarProblem::TooLong {
                what: "content",
                found: size,
                max: MAX_FILE_BYTES,
            });
        }
        self.unread = size;
        self.padding = size.next_multiple_of(BLOCK as u64) - size;
        Ok(())
    }

    fn skip_member(&mut self) -> Result<(), TarProblem> {
        let left = self.unread + self.padding;
        let skipped = io::copy(&mut (&mut self.input).take(left), &mut io::sink())?;
        (self.unread, self.padding) = (0, 0);
        match skipped == left {
            true => Ok(()),
            false => Err(TarProblem::Truncated),
        }
    }

    fn read_exact(&mut self, bytes: &mut [u8]) -> Result<(), TarProblem> {
        self.input
            .read_exact(bytes)
            .map_err(|error| match error.kind() {
                io::ErrorKind::UnexpectedEof => TarProblem::Truncated,
                _ => TarProblem::Io(error),
            })
    }

    /// All bytes of the current member, which is an extension.
    fn extension(&mut self, what: &'static str, max: u64) -> Result<Vec<u8>, TarProblem> {
        let found = self.unread;
        if found > max {
            return Err(TarProblem::TooLong { what, found, max });
        }
        let mut bytes = vec![0; found as usize];
        self.read_exact(&mut bytes)?;
        self.unread = 0;
        Ok(bytes)
    }

    fn long_name(&mut self) -> Result<Vec<u8>, TarProblem> {
        let mut name = self.extension("name", MAX_LONG_NAME_BYTES)?;
        while name.last() == Some(&0) {
            name.pop();
        }
        Ok(name)
    }

    fn read_globals(&mut self, bytes: &[u8]) -> Result<(), TarProblem> {
        self.globals.read(bytes)?;
        if self.globals.is_of_one_member() {
            let what = "global extended headers with what only one member can have";
            return Err(TarProblem::Unsupported(what));
        }
        Ok(())
    }

    /// Everything about a member but its names.
    fn complete(
        &mut self,
        header: &Header,
        mut pax: Pax,
        member: &mut Member,
    ) -> Result<(), TarProblem> {
        if let Some(size) = pax.size {
            self.set_stored(size)?;
        }
        describe(header, &mut pax, member)?;
        if member.kind != MemberKind::File && self.unread > 0 {
            return Err(TarProblem::Unsupported(
                "members that are no files and have content",
            ));
        }
        member.map = self.map(header, &pax)?;
        Ok(())
    }

    /// Where the member's bytes lie in its file. Reads the parts of the map that follow the header.
    fn map(&mut self, header: &Header, pax: &Pax) -> Result<SparseMap, TarProblem> {
        if header.entry_type() == EntryType::GNUSparse {
            let (parts, size) = self.gnu_map(header)?;
            return SparseMap::new(parts, size, self.unread);
        }
        let Some(size) = pax.sparse.size else {
            return Ok(SparseMap::whole(self.unread));
        };
        let parts = match (pax.sparse.major, pax.sparse.minor) {
            (0, _) => pax
                .sparse
                .map
                .chunks(2)
                .map(|pair| match pair {
                    [offset, len] => Ok((*offset, *len)),
                    _ => Err(TarProblem::Malformed("map of a sparse file")),
                })
                .collect::<Result<_, _>>()?,
            (1, 0) => self.text_map()?,
            _ => {
                return Err(TarProblem::Unsupported(
                    "sparse files of a newer form than 1.0",
                ));
            }
        };
        SparseMap::new(parts, size, self.unread)
    }

    /// The map of type `S`: four parts in the header, 21 in each block after it.
    fn gnu_map(&mut self, header: &Header) -> Result<(Vec<(u64, u64)>, u64), TarProblem> {
        let malformed = || TarProblem::Malformed("map of a sparse file");
        let gnu = header.as_gnu().ok_or_else(malformed)?;
        let mut parts = Vec::new();
        let mut add = |all: &[GnuSparseHeader]| {
            for part in all
                .iter()
                .filter(|part| part.offset[0] != 0 || part.numbytes[0] != 0)
            {
                let part = (unsigned(&part.offset), unsigned(&part.numbytes));
                let (Some(offset), Some(len)) = part else {
                    return Err(malformed());
                };
                parts.push((offset, len));
            }
            match parts.len() > MAX_PARTS {
                true => Err(malformed()),
                false => Ok(()),
            }
        };
        add(&gnu.sparse)?;
        let mut goes_on = gnu.isextended[0] == 1;
        while goes_on {
            let mut block = GnuExtSparseHeader::new();
            self.read_exact(block.as_mut_bytes())?;
            add(&block.sparse)?;
            goes_on = block.isextended[0] == 1;
        }
        let size = unsigned(&gnu.realsize).ok_or_else(malformed)?;
        Ok((parts, size))
    }

    /// The map of form 1.0: text in whole blocks before the content.
    fn text_map(&mut self) -> Result<Vec<(u64, u64)>, TarProblem> {
        let mut text = MapText::default();
        let mut block = [0; BLOCK];
        loop {
            let left = self.unread.checked_sub(BLOCK as u64);
            self.unread = left.ok_or(TarProblem::Malformed("map of a sparse file"))?;
            self.read_exact(&mut block)?;
            if text.push(&block)? {
                return Ok(text.parts());
            }
        }
    }

    /// An error of a member whose name is not known yet.
    fn unnamed(&self, problem: TarProblem) -> TarError {
        TarError {
            member: format!("number {}", self.number),
            problem,
        }
    }
}

/// The bytes of a member, holes told from data.
pub(super) struct MemberBytes<'a, R> {
    members: &'a mut Members<R>,
    member: &'a Member,
    at: u64,
    part: usize,
}

impl<R: Read> FileBytes for MemberBytes<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> Result<Run, SourceError> {
        let map = &self.member.map;
        loop {
            let (offset, len) = map.part(self.part);
            if self.at < offset {
                let zeros = offset - self.at;
                self.at = offset;
                return Ok(Run::Zeros(zeros));
            }
            let left = offset + len - self.at;
            if left > 0 {
                let most = usize::try_from(left).unwrap_or(usize::MAX);
                let most = most.min(buffer.len());
                let read = self.members.input.read(&mut buffer[..most]);
                return match read {
                    Ok(0) => Err(fault(self.member, TarProblem::Truncated).into()),
                    Ok(read) => {
                        self.at += read as u64;
                        self.members.unread -= read as u64;
                        Ok(Run::Data(read))
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(error) => Err(fault(self.member, error.into()).into()),
                };
            }
            if self.part >= map.parts() {
                return Ok(Run::End);
            }
            self.part += 1;
        }
    }
}
