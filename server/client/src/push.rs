//! A push to a registry.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use http::header::{IF_MATCH, IF_NONE_MATCH};
use http::{HeaderValue, Method};
use shale_model::{
    Catalog, ChunkId, LayerId, PackWriter, RefName, SeamError, SeamResult, Sink, TemplateId,
    TemplateIndex, Trouble,
};
use shale_wire::limits::{MAX_LAYER_BODY_BYTES, MAX_TEMPLATE_BODY_BYTES};
use shale_wire::{Code, PushId, PushOpened, decode_missing, encode_ids, ref_etag, route};

use crate::call::{Call, CallBody, Why};
use crate::fetch::check_count;
use crate::remote::RemoteRegistry;
use crate::spool::SpooledPack;
use crate::uploads::Uploads;

/// Largest answer to the opening of a push, in bytes.
const MAX_OPENED_BYTES: u64 = 4096;

/// One push. Calls block. Dropping it ends it in the background; [`RemotePush::end`] waits for that.
pub struct RemotePush {
    registry: RemoteRegistry,
    id: PushId,
    spool: PathBuf,
    uploads: Uploads,
    ended: bool,
}

impl RemotePush {
    pub(crate) fn begin(registry: RemoteRegistry, spool: &Path) -> SeamResult<Self> {
        // Asked twice it opens two pushes, of which one is forgotten when it was idle for long enough.
        let call = Call::new(Method::POST, route::PUSHES.into(), "open a push");
        let call = call.max_answer(MAX_OPENED_BYTES);
        let answer = registry.wait(registry.transport().answer(&call))?;
        let opened: PushOpened = registry.json(&call.action, &answer.body)?;
        let id = opened.push.parse::<PushId>();
        let id = id.map_err(|error| registry.wrong(&call.action, error))?;
        Ok(Self {
            uploads: Uploads::new(registry.clone(), id),
            registry,
            id,
            spool: spool.to_owned(),
            ended: false,
        })
    }

    /// Ends the push. What it stored stays.
    pub fn end(mut self) -> SeamResult<()> {
        self.uploads.finish()?;
        self.ended = true;
        let call = end_call(self.id);
        match self.registry.wait(self.registry.transport().ask(&call)) {
            Ok(_) => Ok(()),
            // It has ended already, perhaps by an earlier attempt.
            Err(no) if code(&no.why) == Some(Code::PushNotFound) => Ok(()),
            Err(no) => Err(no.into_seam(&call.action, self.registry.address())),
        }
    }

    fn put(&self, path: String, bytes: &[u8], action: String) -> SeamResult<()> {
        let body = CallBody::Bytes(Bytes::copy_from_slice(bytes));
        let call = Call::new(Method::PUT, path, action).body(body).large();
        self.registry
            .wait(self.registry.transport().answer(&call))
            .map(drop)
    }
}

impl Sink for RemotePush {
    fn missing(&self, ids: &[ChunkId]) -> SeamResult<Vec<bool>> {
        check_count(ids.len())?;
        let action = format!("ask which of {} chunks are missing", ids.len());
        let call = Call::new(Method::POST, route::push_missing(self.id), action)
            .body(CallBody::Bytes(Bytes::from(encode_ids(ids))))
            .max_answer(ids.len().div_ceil(8) as u64);
        let answer = self
            .registry
            .wait(self.registry.transport().answer(&call))?;
        let missing = decode_missing(&answer.body, ids.len());
        missing.map_err(|error| self.registry.wrong(&call.action, error))
    }

    fn new_pack(&self) -> SeamResult<Box<dyn PackWriter + '_>> {
        self.uploads.check()?;
        Ok(Box::new(SpooledPack::begin(&self.spool, &self.uploads)?))
    }

    fn put_layer(&self, root: &[u8]) -> SeamResult<LayerId> {
        let id = LayerId::of(root);
        let action = format!("store layer {id}");
        check_len(root, MAX_LAYER_BODY_BYTES, &action)?;
        self.uploads.finish()?;
        self.put(route::push_layer(self.id, id), root, action)?;
        Ok(id)
    }

    fn put_template(&self, json: &[u8]) -> SeamResult<TemplateId> {
        let id = TemplateId::of(json);
        let action = format!("store template {id}");
        check_len(json, MAX_TEMPLATE_BODY_BYTES, &action)?;
        self.put(route::push_template(self.id, id), json, action)?;
        Ok(id)
    }

    fn set_ref(
        &self,
        name: &RefName,
        expected: Option<&TemplateIndex>,
        new: &TemplateIndex,
    ) -> SeamResult<()> {
        let action = format!("set reference {name}");
        let body = CallBody::Bytes(Bytes::from(new.encode()));
        let call = Call::new(Method::PUT, route::reference(name), action).body(body);
        let call = match expected {
            None => call.header(IF_NONE_MATCH, HeaderValue::from_static("*")),
            Some(expected) => {
                let etag = HeaderValue::from_str(&ref_etag(expected));
                let invalid = |e| SeamError::caused(Trouble::Invalid, call.action.clone(), e);
                let etag = etag.map_err(invalid)?;
                call.header(IF_MATCH, etag)
            }
        };
        let no = match self.registry.wait(self.registry.transport().ask(&call)) {
            Ok(_) => return Ok(()),
            Err(no) => no,
        };
        // It may be set to that already: by somebody else, or by an attempt whose answer was lost.
        if code(&no.why) == Some(Code::Changed) {
            let now = self.registry.get_ref(name)?;
            if now.as_ref() == Some(new) {
                return Ok(());
            }
        }
        Err(no.into_seam(&call.action, self.registry.address()))
    }
}

impl Drop for RemotePush {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        // Best effort: a push that is not heard of ends by itself.
        let (registry, call) = (self.registry.clone(), end_call(self.id));
        self.registry.runtime().spawn(async move {
            let _ = registry.transport().ask(&call).await;
        });
    }
}

fn end_call(id: PushId) -> Call {
    Call::new(Method::DELETE, route::push(id), "end a push")
}

fn code(why: &Why) -> Option<Code> {
    match why {
        Why::Problem(problem) => Some(problem.code),
        _ => None,
    }
}

fn check_len(bytes: &[u8], max: usize, action: &str) -> SeamResult<()> {
    if bytes.len() <= max {
        return Ok(());
    }
    let action = format!("{action}: it has {} bytes; the limit is {max}", bytes.len());
    Err(SeamError::new(Trouble::Invalid, action))
}
