//! Chunks of a registry: where they lie, and ranges of packs.

use bytes::Bytes;
use http::header::{CONTENT_RANGE, RANGE};
use http::{HeaderMap, HeaderValue, Method};
use shale_model::limits::MAX_PACK_BYTES;
use shale_model::{
    BoxFuture, ChunkId, Fetch, Hearing, ID_LEN, Location, PackId, SeamError, SeamResult, Silence,
    Trouble,
};
use shale_wire::limits::MAX_IDS;
use shale_wire::{decode_locations, encode_ids, route};

use crate::call::{Answer, Call, CallBody, WrongAnswer};
use crate::remote::RemoteRegistry;

/// Bytes of a table of locations for each chunk, if each lies in another pack, and its head.
const LOCATION_BYTES: usize = 32 + ID_LEN;
const TABLE_HEAD_BYTES: usize = 8;

impl Fetch for RemoteRegistry {
    fn locate<'a>(
        &'a self,
        ids: &'a [ChunkId],
    ) -> BoxFuture<'a, SeamResult<Vec<Option<Location>>>> {
        Box::pin(async move {
            let count = ids.len();
            check_count(count)?;
            let body = CallBody::Bytes(Bytes::from(encode_ids(ids)));
            let action = format!("locate {count} chunks");
            let call = Call::new(Method::POST, route::LOCATE.into(), action.clone())
                .body(body)
                .max_answer((TABLE_HEAD_BYTES + count * LOCATION_BYTES) as u64);
            let answer = self.answer_on_runtime(call).await?;
            decode_locations(&answer.body, count).map_err(|error| self.wrong(&action, error))
        })
    }

    fn read(&self, pack: PackId, offset: u64, len: u64) -> BoxFuture<'_, SeamResult<Vec<u8>>> {
        Box::pin(async move {
            let action = format!("read {len} bytes of pack {pack} at {offset}");
            let end = offset.checked_add(len).filter(|_| len <= MAX_PACK_BYTES);
            let Some(end) = end else {
                return Err(SeamError::new(Trouble::Invalid, action));
            };
            if len == 0 {
                return Ok(Vec::new());
            }
            let range = HeaderValue::from_str(&format!("bytes={offset}-{}", end - 1));
            let invalid = |error| SeamError::caused(Trouble::Invalid, action.clone(), error);
            let call = Call::get(route::pack(pack), action.clone())
                .header(RANGE, range.map_err(invalid)?)
                .max_answer(len);
            let answer = self.answer_on_runtime(call).await?;
            check_range(&answer, offset, end).map_err(|(trouble, why)| {
                let action = format!("{action} at {}", self.address());
                SeamError::caused(trouble, action, WrongAnswer::saying(why))
            })?;
            Ok(answer.body)
        })
    }
}

impl Hearing for RemoteRegistry {
    fn silence(&self) -> Option<Silence> {
        self.transport().heard().silence()
    }
}

impl RemoteRegistry {
    /// Asks on the runtime, so that the caller may be on any.
    async fn answer_on_runtime(&self, call: Call) -> SeamResult<Answer> {
        let this = self.clone();
        let asked = async move {
            let transport = this.transport();
            let _open = transport.heard().asked();
            transport.answer_to(&call, this.asks()).await
        };
        let answer = self.on_runtime(asked).await;
        answer.map_err(|error| match error.trouble {
            // A registry that fails inside is like one that does not answer: a reader goes on waiting.
            Trouble::Failed => SeamError {
                trouble: Trouble::Unavailable,
                ..error
            },
            _ => error,
        })
    }
}

/// Refuses more ids than one call may have, before they are sent.
pub(crate) fn check_count(count: usize) -> SeamResult<()> {
    if count <= MAX_IDS {
        return Ok(());
    }
    let action = format!("ask for {count} chunks; the limit is {MAX_IDS}");
    Err(SeamError::new(Trouble::Invalid, action))
}

/// Whether an answer holds the bytes from `offset` to `end`, and not others.
fn check_range(answer: &Answer, offset: u64, end: u64) -> Result<(), (Trouble, String)> {
    if answer.status != 206 {
        let why = format!("it answers {} instead of a range", answer.status);
        return Err((Trouble::Integrity, why));
    }
    let Some((first, last, size)) = content_range(&answer.headers) else {
        return Err((
            Trouble::Integrity,
            "it does not say which range it sends".into(),
        ));
    };
    if end > size {
        return Err((Trouble::Invalid, format!("the pack has only {size} bytes")));
    }
    let sent = answer.body.len() as u64;
    if (first, last) == (offset, end - 1) && sent == end - offset {
        return Ok(());
    }
    let why = format!("it sends {sent} bytes as {first} to {last}");
    Err((Trouble::Integrity, why))
}

/// First and last byte, and bytes of the whole.
fn content_range(headers: &HeaderMap) -> Option<(u64, u64, u64)> {
    let text = headers.get(CONTENT_RANGE)?.to_str().ok()?;
    let (range, size) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    Some((first.parse().ok()?, last.parse().ok()?, size.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, range: &str, len: usize) -> Answer {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_RANGE, range.parse().unwrap());
        Answer {
            status,
            headers,
            body: vec![0; len],
        }
    }

    #[test]
    fn only_the_bytes_that_were_asked_for_pass() {
        let cases = [
            (206, "bytes 5-9/20", 5, None),
            (200, "bytes 5-9/20", 5, Some(Trouble::Integrity)),
            (206, "bytes 5-8/20", 4, Some(Trouble::Integrity)),
            (206, "bytes 4-8/20", 5, Some(Trouble::Integrity)),
            (206, "bytes 5-9/20", 4, Some(Trouble::Integrity)),
            (206, "bytes 5-7/8", 3, Some(Trouble::Invalid)),
            (206, "bytes 5-9/*", 5, Some(Trouble::Integrity)),
            (206, "lines 5-9/20", 5, Some(Trouble::Integrity)),
            (206, "", 5, Some(Trouble::Integrity)),
        ];
        for (status, range, len, expected) in cases {
            let checked = check_range(&answer(status, range, len), 5, 10);
            assert_eq!(
                checked.err().map(|(trouble, _)| trouble),
                expected,
                "{range}"
            );
        }
    }
}
