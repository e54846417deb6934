//! Boot sets of a registry.

use bytes::Bytes;
use http::Method;
use shale_model::{
    BootSet, BootSets, BoxFuture, ChunkId, MAX_TRACE_CHUNKS, SeamError, SeamResult, TemplateId,
    Trouble, limits::MAX_PACK_BYTES,
};
use shale_wire::{BootSetInfo, Code, encode_ids, route};

use crate::call::{Call, CallBody, Why, WrongAnswer};
use crate::remote::RemoteRegistry;

/// Largest answer, in bytes.
const MAX_ANSWER_BYTES: u64 = 4096;

impl BootSets for RemoteRegistry {
    fn boot_set(&self, template: TemplateId) -> BoxFuture<'_, SeamResult<Option<BootSet>>> {
        Box::pin(async move {
            let action = format!("ask for the boot set of template {template}");
            let call = Call::get(route::boot_set(template), action).max_answer(MAX_ANSWER_BYTES);
            let this = self.clone();
            self.on_runtime(async move { this.ask_for_boot_set(&call).await })
                .await
        })
    }

    fn add_trace<'a>(
        &'a self,
        template: TemplateId,
        chunks: &'a [ChunkId],
    ) -> BoxFuture<'a, SeamResult<()>> {
        Box::pin(async move {
            let action = format!("tell what a boot of template {template} read");
            if chunks.len() > MAX_TRACE_CHUNKS {
                let action = format!(
                    "{action}: {} chunks; the limit is {MAX_TRACE_CHUNKS}",
                    chunks.len()
                );
                return Err(SeamError::new(Trouble::Invalid, action));
            }
            let body = CallBody::Bytes(Bytes::from(encode_ids(chunks)));
            // The registry packs the boot set before it answers.
            let call = Call::new(Method::POST, route::traces(template), action)
                .body(body)
                .large();
            let this = self.clone();
            let told = async move { this.transport().answer(&call).await };
            self.on_runtime(told).await.map(drop)
        })
    }
}

impl RemoteRegistry {
    async fn ask_for_boot_set(&self, call: &Call) -> SeamResult<Option<BootSet>> {
        let answer = match self.transport().ask(call).await {
            Ok(answer) => answer,
            Err(no) => match &no.why {
                // An older registry has no such route.
                Why::Problem(problem)
                    if matches!(problem.code, Code::NotFound | Code::NoSuchRoute) =>
                {
                    return Ok(None);
                }
                _ => return Err(no.into_seam(&call.action, self.address())),
            },
        };
        let info: BootSetInfo = self.json(&call.action, &answer.body)?;
        let fits = info.footer_offset < info.pack_bytes && info.pack_bytes <= MAX_PACK_BYTES;
        match fits {
            true => Ok(Some(info.into())),
            false => {
                let action = format!("{} at {}", call.action, self.address());
                let wrong = WrongAnswer::saying("it has impossible sizes");
                Err(SeamError::caused(Trouble::Integrity, action, wrong))
            }
        }
    }
}
