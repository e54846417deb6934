//! The handshake, fixed newstyle, as a state machine without input or output.
//!
//! The shell reads exactly [`Handshake::wants`] bytes, gives them to [`Handshake::take`], and sends what
//! that wrote, until it says that the handshake is over. Nothing is read ahead, so whatever follows the
//! handshake (requests, or one day TLS) is still in the stream.

use std::sync::Arc;

use crate::export::{Access, Export, Exports};
use crate::limits::{
    MAX_OPTION_BYTES, MAX_OPTIONS, MAX_PAYLOAD_BYTES, MIN_BLOCK_BYTES, PREFERRED_BLOCK_BYTES,
};
use crate::option::{
    ClientOption, InfoRequest, MetaRequest, OPTION_HEADER_BYTES, OptionError, parse_header,
    put_reply,
};
use crate::proto;
use crate::reply::ReplyStyle;

/// Bytes of the client's flags, its first words.
const CLIENT_FLAGS_BYTES: usize = 4;

/// Zeros that end the oldest way to choose an export, unless client and server agreed to leave them out.
const EXPORT_NAME_PADDING: [u8; 124] = [0; 124];

/// The server's side of one handshake.
pub struct Handshake {
    exports: Arc<Exports>,
    stage: Stage,
    pads_export_name: bool,
    style: ReplyStyle,
    /// The export for which block status was chosen last.
    status_chosen_for: Option<String>,
    options: usize,
}

/// What is read next.
enum Stage {
    ClientFlags,
    OptionHeader,
    OptionData { option: u32, len: usize },
}

/// How far a handshake is.
pub enum Progress {
    /// Send what was written and go on.
    More,
    /// Send what was written, then serve requests.
    Transmit(Session),
    /// Send what was written, then close: the client asked for that.
    Closed,
}

/// What client and server agreed on.
#[derive(Clone)]
pub struct Session {
    /// The disk.
    pub export: Export,
    /// How reads are answered.
    pub style: ReplyStyle,
    /// Whether `base:allocation` was chosen, so that block status may be asked for.
    pub block_status: bool,
}

/// Why a handshake ends without a session. What [`Handshake::take`] wrote should still be sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    /// Flags that this server did not offer.
    #[error("the client sent handshake flags {0:#x}, which were not offered")]
    Flags(u32),
    /// Not an option, so the client speaks something else.
    #[error("an option does not begin with its magic")]
    Magic,
    /// More than [`MAX_OPTION_BYTES`] of data.
    #[error("an option has {0} bytes of data, more than {MAX_OPTION_BYTES}")]
    LongOption(u32),
    /// More than [`MAX_OPTIONS`].
    #[error("the client sent more than {MAX_OPTIONS} options")]
    TooManyOptions,
    /// The option `EXPORT_NAME` named no export; it has no error reply.
    #[error("there is no export of the name {0:?}")]
    NoExport(String),
    /// The data of `EXPORT_NAME` is not a name; it has no error reply.
    #[error("the client asked for an export by a bad name")]
    BadName(#[source] OptionError),
    /// Other than [`Handshake::wants`] bytes were given: a mistake of the caller.
    #[error("{given} bytes were given to the handshake, which wants {wanted}")]
    Misuse {
        /// Bytes given.
        given: usize,
        /// Bytes wanted.
        wanted: usize,
    },
}

impl Handshake {
    /// A handshake at its beginning.
    pub fn new(exports: Arc<Exports>) -> Self {
        Self {
            exports,
            stage: Stage::ClientFlags,
            pads_export_name: true,
            style: ReplyStyle::Simple,
            status_chosen_for: None,
            options: 0,
        }
    }

    /// What the server sends before the client says anything.
    pub fn greeting() -> Vec<u8> {
        let mut out = Vec::with_capacity(18);
        out.extend_from_slice(&proto::INIT_MAGIC.to_be_bytes());
        out.extend_from_slice(&proto::OPTION_MAGIC.to_be_bytes());
        let flags = proto::FLAG_FIXED_NEWSTYLE | proto::FLAG_NO_ZEROES;
        out.extend_from_slice(&flags.to_be_bytes());
        out
    }

    /// Bytes that the next [`Handshake::take`] needs: at most [`MAX_OPTION_BYTES`], possibly none.
    pub fn wants(&self) -> usize {
        match self.stage {
            Stage::ClientFlags => CLIENT_FLAGS_BYTES,
            Stage::OptionHeader => OPTION_HEADER_BYTES,
            Stage::OptionData { len, .. } => len,
        }
    }

    /// Goes on with exactly [`Handshake::wants`] bytes of the client; appends the answer to `out`.
    pub fn take(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<Progress, HandshakeError> {
        let misuse = || HandshakeError::Misuse {
            given: input.len(),
            wanted: self.wants(),
        };
        match self.stage {
            Stage::ClientFlags => {
                let flags = *input.as_array().ok_or_else(misuse)?;
                self.client_flags(u32::from_be_bytes(flags))
            }
            Stage::OptionHeader => {
                let header = input.as_array().ok_or_else(misuse)?;
                self.option_header(header, out)
            }
            Stage::OptionData { option, len } => {
                if input.len() != len {
                    return Err(misuse());
                }
                self.stage = Stage::OptionHeader;
                self.option(option, input, out)
            }
        }
    }

    fn client_flags(&mut self, flags: u32) -> Result<Progress, HandshakeError> {
        let offered = u32::from(proto::FLAG_FIXED_NEWSTYLE | proto::FLAG_NO_ZEROES);
        if flags & !offered != 0 {
            return Err(HandshakeError::Flags(flags));
        }
        self.pads_export_name = flags & u32::from(proto::FLAG_NO_ZEROES) == 0;
        self.stage = Stage::OptionHeader;
        Ok(Progress::More)
    }

    fn option_header(
        &mut self,
        header: &[u8; OPTION_HEADER_BYTES],
        out: &mut Vec<u8>,
    ) -> Result<Progress, HandshakeError> {
        let (option, len) = parse_header(header).ok_or(HandshakeError::Magic)?;
        self.options = self.options.saturating_add(1);
        if self.options > MAX_OPTIONS {
            return Err(HandshakeError::TooManyOptions);
        }
        if len > MAX_OPTION_BYTES {
            let text = b"the option's data is too long";
            put_reply(out, option, proto::REP_ERR_TOO_BIG, &[text]);
            return Err(HandshakeError::LongOption(len));
        }
        let len = usize::try_from(len).map_err(|_| HandshakeError::LongOption(len))?;
        self.stage = Stage::OptionData { option, len };
        Ok(Progress::More)
    }

    fn option(
        &mut self,
        option: u32,
        data: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<Progress, HandshakeError> {
        if option == proto::OPT_SET_META_CONTEXT {
            // Also one that fails takes back what was chosen before.
            self.status_chosen_for = None;
        }
        let parsed = match ClientOption::parse(option, data) {
            Ok(parsed) => parsed,
            Err(error) if option == proto::OPT_EXPORT_NAME => {
                return Err(HandshakeError::BadName(error));
            }
            Err(error) => {
                let kind = match error {
                    OptionError::LongString => proto::REP_ERR_TOO_BIG,
                    _ => proto::REP_ERR_INVALID,
                };
                put_reply(out, option, kind, &[error.to_string().as_bytes()]);
                return Ok(Progress::More);
            }
        };
        match parsed {
            ClientOption::ExportName(name) => return self.export_name(name, out),
            ClientOption::Abort => {
                put_reply(out, option, proto::REP_ACK, &[]);
                return Ok(Progress::Closed);
            }
            ClientOption::List => self.list(option, out),
            ClientOption::Info(request) => {
                self.describe(option, &request, out);
            }
            ClientOption::Go(request) => {
                if let Some(export) = self.describe(option, &request, out) {
                    return Ok(Progress::Transmit(self.session(request.name, export)));
                }
            }
            ClientOption::StructuredReply => {
                self.style = ReplyStyle::Structured;
                put_reply(out, option, proto::REP_ACK, &[]);
            }
            ClientOption::ListMetaContext(request) => self.list_contexts(option, &request, out),
            ClientOption::SetMetaContext(request) => self.set_contexts(option, &request, out),
            ClientOption::Unknown => put_reply(out, option, proto::REP_ERR_UNSUP, &[]),
        }
        Ok(Progress::More)
    }

    fn export_name(&self, name: &str, out: &mut Vec<u8>) -> Result<Progress, HandshakeError> {
        let Some(export) = self.exports.get(name) else {
            return Err(HandshakeError::NoExport(name.to_owned()));
        };
        out.extend_from_slice(&export.device.size().to_be_bytes());
        out.extend_from_slice(&transmission_flags(export, self.style).to_be_bytes());
        if self.pads_export_name {
            out.extend_from_slice(&EXPORT_NAME_PADDING);
        }
        Ok(Progress::Transmit(self.session(name, export.clone())))
    }

    fn session(&self, name: &str, export: Export) -> Session {
        Session {
            export,
            style: self.style,
            block_status: self.status_chosen_for.as_deref() == Some(name),
        }
    }

    fn list(&self, option: u32, out: &mut Vec<u8>) {
        for (name, export) in self.exports.iter() {
            let len = string_len(name);
            let parts = [&len[..], name.as_bytes(), export.description.as_bytes()];
            put_reply(out, option, proto::REP_SERVER, &parts);
        }
        put_reply(out, option, proto::REP_ACK, &[]);
    }

    /// Answers `INFO` and `GO`; the export if it exists.
    fn describe(
        &self,
        option: u32,
        request: &InfoRequest<'_>,
        out: &mut Vec<u8>,
    ) -> Option<Export> {
        let export = self.find(option, request.name, out)?;
        let mut info = |kind: u16, parts: &[&[u8]]| {
            let kind = kind.to_be_bytes();
            let parts: Vec<&[u8]> = std::iter::once(&kind[..])
                .chain(parts.iter().copied())
                .collect();
            put_reply(out, option, proto::REP_INFO, &parts);
        };
        let size = export.device.size().to_be_bytes();
        let flags = transmission_flags(&export, self.style).to_be_bytes();
        info(proto::INFO_EXPORT, &[&size, &flags]);
        let sizes = [MIN_BLOCK_BYTES, PREFERRED_BLOCK_BYTES, MAX_PAYLOAD_BYTES];
        let [min, preferred, max] = sizes.map(u32::to_be_bytes);
        info(proto::INFO_BLOCK_SIZE, &[&min, &preferred, &max]);
        if request.wants_name {
            info(proto::INFO_NAME, &[request.name.as_bytes()]);
        }
        if request.wants_description && !export.description.is_empty() {
            info(proto::INFO_DESCRIPTION, &[export.description.as_bytes()]);
        }
        put_reply(out, option, proto::REP_ACK, &[]);
        Some(export)
    }

    fn list_contexts(&self, option: u32, request: &MetaRequest<'_>, out: &mut Vec<u8>) {
        if self.find(option, request.name, out).is_none() {
            return;
        }
        let matches = |query: &&str| matches!(*query, "base:" | proto::BASE_ALLOCATION);
        if request.queries.is_empty() || request.queries.iter().any(matches) {
            // The id means nothing in a list.
            let parts = [&0u32.to_be_bytes()[..], proto::BASE_ALLOCATION.as_bytes()];
            put_reply(out, option, proto::REP_META_CONTEXT, &parts);
        }
        put_reply(out, option, proto::REP_ACK, &[]);
    }

    fn set_contexts(&mut self, option: u32, request: &MetaRequest<'_>, out: &mut Vec<u8>) {
        if self.style == ReplyStyle::Simple {
            let text = b"block status needs structured replies first";
            put_reply(out, option, proto::REP_ERR_INVALID, &[text]);
            return;
        }
        if self.find(option, request.name, out).is_none() {
            return;
        }
        if request.queries.contains(&proto::BASE_ALLOCATION) {
            let id = proto::BASE_ALLOCATION_ID.to_be_bytes();
            let parts = [&id[..], proto::BASE_ALLOCATION.as_bytes()];
            put_reply(out, option, proto::REP_META_CONTEXT, &parts);
            self.status_chosen_for = Some(request.name.to_owned());
        }
        put_reply(out, option, proto::REP_ACK, &[]);
    }

    /// The export of that name, or an answer that there is none.
    fn find(&self, option: u32, name: &str, out: &mut Vec<u8>) -> Option<Export> {
        let export = self.exports.get(name).cloned();
        if export.is_none() {
            let text = b"there is no export of that name";
            put_reply(out, option, proto::REP_ERR_UNKNOWN, &[text]);
        }
        export
    }
}

/// What clients are told that they may send.
fn transmission_flags(export: &Export, style: ReplyStyle) -> u16 {
    // Several connections are fine: all go to one device, whose flush covers every answered write.
    let mut flags = proto::FLAG_HAS_FLAGS
        | proto::FLAG_SEND_FLUSH
        | proto::FLAG_SEND_FUA
        | proto::FLAG_CAN_MULTI_CONN
        | proto::FLAG_SEND_CACHE;
    if style == ReplyStyle::Structured {
        flags |= proto::FLAG_SEND_DF;
    }
    flags
        | match export.access {
            Access::ReadOnly => proto::FLAG_READ_ONLY,
            Access::ReadWrite => {
                proto::FLAG_SEND_TRIM | proto::FLAG_SEND_WRITE_ZEROES | proto::FLAG_SEND_FAST_ZERO
            }
        }
}

/// The length of a name, which [`Exports::add`] keeps below 4 GiB.
fn string_len(text: &str) -> [u8; 4] {
    u32::try_from(text.len()).unwrap_or(u32::MAX).to_be_bytes()
}
