//! Speed and memory of the registry on loopback: `cargo run --release -p shale-client --example measure`.
//!
//! The registry runs as a child, on a repository in a directory, so that its memory is its own.

#![expect(clippy::print_stdout, reason = "it prints what it measured")]
#![expect(
    clippy::disallowed_methods,
    reason = "it reads clocks and starts threads"
)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use shale_client::{Address, RemoteRegistry, Settings};
use shale_files::DirFiles;
use shale_model::{
    ChunkId, Codec, Fetch, MAX_MISSING_IDS, MemoryIndex, PackContents, PackId, Sink, pack_header,
};
use shale_registry::{Admission, Encryption, Registry};
use shale_repo::{Access, Repository};
use tokio::runtime::Runtime;

const MIB: u64 = 1 << 20;
const CHUNK_BYTES: usize = 256 * 1024;
const CHUNKS: u64 = 256;
const READERS: usize = 200;

type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

fn main() -> Outcome<()> {
    match std::env::args().nth(1) {
        Some(dir) => serve(&dir),
        None => measure(),
    }
}

/// The child: a registry on a new repository in `dir`, until its standard input ends.
fn serve(dir: &str) -> Outcome<()> {
    let files = Arc::new(DirFiles::open(std::path::Path::new(dir))?);
    Repository::init(&*files)?;
    let index = Arc::new(MemoryIndex::new());
    let repository = Arc::new(Repository::open(files, index, Access::Shared)?);
    let runtime = Runtime::new()?;
    let registry = Registry::new(repository, shale_registry::Settings::new(Admission::Open))?;
    let any_port = "127.0.0.1:0".parse()?;
    let server = runtime.block_on(registry.bind(any_port, Encryption::None))?;
    println!("{}", server.address());
    let ended = tokio::task::spawn_blocking;
    runtime.block_on(async {
        let stop = async {
            let _ = ended(|| std::io::stdin().read_to_end(&mut Vec::new())).await;
        };
        server.run(stop, Duration::from_secs(1)).await;
    });
    Ok(())
}

struct Serving(Child);

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn measure() -> Outcome<()> {
    let dir = tempfile::tempdir()?;
    let (repository, spool) = (dir.path().join("repository"), dir.path().join("spool"));
    std::fs::create_dir(&repository)?;
    std::fs::create_dir(&spool)?;
    let child = Command::new(std::env::current_exe()?)
        .arg(&repository)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let mut serving = Serving(child?);
    let stdout = serving.0.stdout.take().ok_or("no output")?;
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line)?;
    let address: SocketAddr = line.trim().parse()?;
    let runtime = Runtime::new()?;
    let settings = Settings::new(address.to_string().parse::<Address>()?);
    let remote = RemoteRegistry::new(settings, runtime.handle().clone())?;

    let (bytes, contents, id) = pack();
    let push = remote.push(&spool)?;
    let begun = Instant::now();
    let mut writer = push.new_pack()?;
    writer.write(&bytes)?;
    writer.finish(id, contents.clone())?;
    // Waits for the upload, and is refused for what it is.
    let _ = push.put_layer(b"");
    speed("upload of a pack, checked", bytes.len(), begun);

    for (name, range, at_once) in [
        ("read whole, one connection", 64 * MIB, 1),
        ("read by 1 MiB, one after the other", MIB, 1),
        ("read by 1 MiB, 8 at once", MIB, 8),
        ("read by 256 KiB, 8 at once", MIB / 4, 8),
    ] {
        let begun = Instant::now();
        for _ in 0..4 {
            read_all(&runtime, &remote, id, range, at_once)?;
        }
        speed(name, 4 * (64 * MIB) as usize, begun);
    }

    let ids: Vec<ChunkId> = (0..MAX_MISSING_IDS as u64)
        .map(|n| ChunkId::of(&n.to_le_bytes()))
        .collect();
    let begun = Instant::now();
    for _ in 0..50 {
        push.missing(&ids)?;
    }
    let each = begun.elapsed() / 50;
    println!("missing, 10,000 ids: {each:?}");
    let begun = Instant::now();
    for _ in 0..50 {
        runtime.block_on(remote.locate(&ids))?;
    }
    let each = begun.elapsed() / 50;
    println!("locate, 10,000 ids: {each:?}");
    let present: Vec<ChunkId> = contents.chunks().iter().map(|chunk| chunk.id).collect();
    let begun = Instant::now();
    for _ in 0..1000 {
        runtime.block_on(remote.locate(&present[..1]))?;
    }
    println!("locate, 1 id: {:?}", begun.elapsed() / 1000);

    println!("memory before readers: {}", resident(&serving)?);
    let readers: Vec<_> = (0..READERS)
        .map(|_| std::thread::spawn(move || slow_reader(address, id)))
        .collect();
    std::thread::sleep(Duration::from_secs(2));
    println!(
        "memory with {READERS} slow readers: {}",
        resident(&serving)?
    );
    for reader in readers {
        reader.join().map_err(|_| "a reader failed")??;
    }
    println!("memory after them: {}", resident(&serving)?);
    Ok(())
}

/// A pack of 64 MiB that does not compress.
fn pack() -> (Vec<u8>, PackContents, PackId) {
    use sha2::Digest;
    let mut contents = PackContents::default();
    let mut bytes = pack_header().to_vec();
    for number in 0..CHUNKS {
        let mut chunk = vec![0; CHUNK_BYTES];
        let seed = number.to_le_bytes();
        blake3::Hasher::new()
            .update(&seed)
            .finalize_xof()
            .fill(&mut chunk);
        let len = chunk.len() as u32;
        contents.push_frame(Codec::Plain, len, &[(ChunkId::of(&chunk), len)]);
        bytes.extend_from_slice(&chunk);
    }
    bytes.extend_from_slice(&contents.encode_tail());
    let id = PackId::from_bytes(sha2::Sha256::digest(&bytes).into());
    (bytes, contents, id)
}

fn read_all(
    runtime: &Runtime,
    remote: &RemoteRegistry,
    pack: PackId,
    range: u64,
    at_once: u64,
) -> Outcome<()> {
    let tasks: Vec<_> = (0..at_once)
        .map(|worker| {
            let remote = remote.clone();
            runtime.spawn(async move {
                for number in (0..64 * MIB / range).filter(|n| n % at_once == worker) {
                    remote.read(pack, number * range, range).await?;
                }
                Ok::<_, shale_model::SeamError>(())
            })
        })
        .collect();
    for task in tasks {
        runtime.block_on(task)??;
    }
    Ok(())
}

/// Reads the pack at 16 MiB/s.
fn slow_reader(address: SocketAddr, id: PackId) -> Outcome<()> {
    let mut stream = TcpStream::connect(address)?;
    let path = shale_wire::route::pack(id);
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    )?;
    let mut buffer = vec![0; 1 << 18];
    while stream.read(&mut buffer)? > 0 {
        std::thread::sleep(Duration::from_millis(16));
    }
    Ok(())
}

fn speed(name: &str, bytes: usize, begun: Instant) {
    let seconds = begun.elapsed().as_secs_f64();
    let rate = bytes as f64 / seconds / 1e6;
    println!("{name}: {rate:.0} MB/s");
}

fn resident(serving: &Serving) -> Outcome<String> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", serving.0.id()))?;
    let line = status.lines().find(|line| line.starts_with("VmRSS"));
    Ok(line
        .unwrap_or("unknown")
        .replace("VmRSS:", "")
        .trim()
        .to_owned())
}
