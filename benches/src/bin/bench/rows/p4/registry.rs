//! What a registry has resident while many hosts read from it.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use shale_client::{RemoteRegistry, Settings};
use shale_model::{ChunkId, Codec, Fetch, Location};
use tokio::runtime::{Handle, Runtime};
use tokio::task::JoinSet;

use super::archives::{FILES, random_content, small_files};
use super::push_archive;
use crate::programs::{Shale, resident_peak, size_of};
use crate::rows::boot::{serve_registry, verdict};

const TARGET_MB: f64 = 200.0;
const READERS: u64 = 200;
/// What each reader does, one after the other: it asks where chunks lie, and reads some of their frames.
const ROUNDS: usize = 50;
/// Chunks that a reader asks for at once: at first as for the pages of a layer of some hundred thousand entries, then more
/// than a guest's reads do. Half of them lie anywhere, which is what an index likes least; half are neighbours, as those of
/// a tree are.
const FIRST_IDS: u64 = 1000;
const IDS: u64 = 256;
const FRAMES: usize = 2;

/// A chunk of its own each: ten archives of [`FILES`] files.
const CHUNKS: u64 = 10 * FILES;
const CHUNK_BYTES: usize = 256;

/// Fills a repository, and prints what a registry over it has resident.
pub(super) fn measure(directory: &Path) -> Result<()> {
    let store = Shale::new(&directory.join("store"))?;
    let mut pushed: f64 = 0.0;
    for (part, first) in (1..).zip((0..CHUNKS).step_by(FILES as usize)) {
        let numbers = first..first + FILES;
        let archive = |out: &mut dyn std::io::Write| {
            small_files(out, numbers.clone(), random_content, CHUNK_BYTES)
        };
        pushed = pushed.max(push_archive(
            &store,
            &format!("bench/part-{part}"),
            &archive,
        )?);
    }
    println!(
        "registry: {CHUNKS} chunks of {CHUNK_BYTES} bytes, pushed in {} archives ({pushed:.1} MB resident at most); index {:.0} MB",
        CHUNKS / FILES,
        size_of(&store.repository().join("index"))? as f64 / 1e6
    );
    let (server, address) = serve_registry(&store, &directory.join("address"))?;
    let idle = resident_peak(server.id()).context("the registry runs")?;
    let runtime = Runtime::new().context("start threads")?;
    let read = runtime.block_on(read_all(address))?;
    let peak = resident_peak(server.id()).context("the registry still runs")? as f64 / 1e6;
    println!(
        "{:.1} MB resident when it listens, {peak:.1} MB at most while {READERS} readers asked for {} chunks and read {:.0} MB",
        idle as f64 / 1e6,
        READERS * (FIRST_IDS + (ROUNDS as u64 - 1) * IDS),
        read as f64 / 1e6
    );
    println!(
        "target: at most {TARGET_MB} MB: {}",
        verdict(peak <= TARGET_MB)
    );
    Ok(())
}

/// Lets all readers read at once; the bytes that they read.
async fn read_all(address: SocketAddr) -> Result<u64> {
    let mut readers = JoinSet::new();
    for seed in 0..READERS {
        readers.spawn(reader(address, seed));
    }
    let mut sum = 0;
    while let Some(read) = readers.join_next().await {
        sum += read??;
    }
    Ok(sum)
}

/// One host, with connections of its own; the bytes it read.
async fn reader(address: SocketAddr, seed: u64) -> Result<u64> {
    let settings = Settings::new(format!("http://{address}").parse()?);
    let registry = RemoteRegistry::new(settings, Handle::current())?;
    let mut random = fastrand::Rng::with_seed(seed);
    let mut read = 0;
    for round in 0..ROUNDS {
        let count = if round == 0 { FIRST_IDS } else { IDS };
        let first = random.u64(..CHUNKS - count);
        let numbers: Vec<u64> = (0..count)
            .map(|at| match at % 2 {
                0 => first + at,
                _ => random.u64(..CHUNKS),
            })
            .collect();
        let ids: Vec<ChunkId> = numbers.iter().map(|number| chunk(*number).1).collect();
        let found = registry.locate(&ids).await?;
        for at in (0..numbers.len()).step_by(numbers.len() / FRAMES) {
            let location = found[at].context("the registry lacks a chunk that was pushed")?;
            let frame = location.frame;
            let stored = registry
                .read(location.pack, frame.offset, u64::from(frame.stored))
                .await?;
            read += stored.len() as u64;
            check(numbers[at], &location, stored)?;
        }
    }
    Ok(read)
}

/// Whether the frame holds the chunk: a registry that answers nonsense needs little memory.
fn check(number: u64, location: &Location, stored: Vec<u8>) -> Result<()> {
    let plain = match location.frame.codec {
        Codec::Plain => stored,
        Codec::Zstd => zstd::decode_all(&stored[..])?,
    };
    let start = location.offset as usize;
    let bytes = plain.get(start..start + location.len as usize);
    ensure!(
        bytes == Some(&chunk(number).0[..]),
        "chunk {number} is another"
    );
    Ok(())
}

fn chunk(number: u64) -> ([u8; CHUNK_BYTES], ChunkId) {
    let mut bytes = [0; CHUNK_BYTES];
    random_content(number, &mut bytes);
    (bytes, ChunkId::of(&bytes))
}
