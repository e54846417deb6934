//! How much of what a reader will want is not here, and how fast its source sends: found out by bringing some of it.

use std::sync::Arc;

use shale_model::{BootSet, ChunkId};
use tokio::time::Instant;

use crate::observe::Purpose;
use crate::reader::{Batch, BootSetError, ChunkReader, ReadError};

/// Requests of a megabyte that are brought: as many as a boot set has on their way at once.
const REQUESTS: usize = 2;

/// Bytes that take longer than their request.
const TELLING_BYTES: u64 = 256 << 10;

/// What bringing some of it showed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample {
    /// Bytes that the source stores of all that is wanted, in whole frames.
    pub stored_bytes: u64,
    /// Bytes of these that were not here.
    pub missing_bytes: u64,
    /// Bytes a second; `None` if too little was missing to tell.
    pub bytes_per_second: Option<f64>,
}

/// Samples a boot set, and brings its beginning.
///
/// # Errors
/// It cannot be read, or is damaged.
pub async fn sample_boot_set(
    reader: &Arc<ChunkReader>,
    set: &BootSet,
) -> Result<Sample, BootSetError> {
    let contents = reader.open_boot_set(set).await?;
    let chunks: Vec<ChunkId> = contents.chunks().iter().map(|chunk| chunk.id).collect();
    Ok(sample(reader, &chunks).await?)
}

/// Samples these chunks, and brings the first that are missing.
///
/// # Errors
/// They cannot be read.
pub async fn sample(reader: &Arc<ChunkReader>, chunks: &[ChunkId]) -> Result<Sample, ReadError> {
    let stored = |batches: &[Batch]| -> u64 { batches.iter().map(Batch::stored_bytes).sum() };
    let stored_bytes = stored(&reader.batches(chunks).await?);
    let missing = chunks.iter().filter(|id| !reader.cache().contains(id));
    let missing: Vec<ChunkId> = missing.copied().collect();
    let mut batches = reader.batches(&missing).await?;
    let missing_bytes = stored(&batches);
    batches.truncate(REQUESTS);
    let begun = Instant::now();
    let flights: Vec<_> = batches
        .into_iter()
        .map(|batch| {
            let reader = reader.clone();
            tokio::spawn(async move { reader.fly_batch(batch, Purpose::BootSet).await })
        })
        .collect();
    let mut bytes = 0;
    for flight in flights {
        bytes += flight.await.unwrap_or(Ok(0))?;
    }
    let seconds = begun.elapsed().as_secs_f64();
    Ok(Sample {
        stored_bytes,
        missing_bytes,
        bytes_per_second: (bytes >= TELLING_BYTES).then(|| bytes as f64 / seconds),
    })
}
