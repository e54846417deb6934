//! How much of some content is on this host.

use std::collections::HashSet;

use shale_model::ChunkId;
use shale_view::{Cache, PlanFile};

use crate::error::HostResult;

/// Bytes of the content of a plan, each chunk once, and those of them that the cache has.
pub(crate) fn local_bytes(cache: &Cache, plan: &PlanFile) -> HostResult<(u64, u64)> {
    let mut seen = HashSet::with_capacity(plan.chunk_count());
    let (mut all, mut local) = (0, 0);
    for index in 0..plan.chunk_count() {
        let (id, len) = plan.chunk(index)?;
        if seen.insert(id) {
            all += u64::from(len);
            if cache.contains(&id) {
                local += u64::from(len);
            }
        }
    }
    Ok((all, local))
}

/// The same of a list of chunks.
pub(crate) fn local_bytes_of(cache: &Cache, chunks: &[(ChunkId, u32)]) -> (u64, u64) {
    let here = chunks.iter().filter(|(id, _)| cache.contains(id));
    let bytes = |len: &u32| u64::from(*len);
    let all = chunks.iter().map(|(_, len)| bytes(len)).sum();
    (all, here.map(|(_, len)| bytes(len)).sum())
}
