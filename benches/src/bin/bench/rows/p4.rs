//! P4: the most memory that a push has resident, whatever it pushes, and a registry that many read from.

use std::io::{BufWriter, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use harness::Input;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufStream};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use crate::Settings;
use crate::measure::{Contender, Sample, in_turns, print, print_alone};
use crate::programs::{Running, Shale, clear, peer, resident_peak};
use crate::rows::boot::{push_base, serve_registry, verdict};

const TARGET_MB: f64 = 300.0;
const REGISTRY_TARGET_MB: f64 = 200.0;
const READERS: u64 = 200;
const RANGES_A_READER: u64 = 50;
/// About what a frame takes.
const RANGE_BYTES: u64 = 256 << 10;
const FILES: u64 = 1_000_000;
const LARGE_FILE_BYTES: u64 = 4 << 30;
const FILES_A_DIRECTORY: u64 = 1000;
const BLOCK: usize = 512;

pub(crate) fn measure(settings: Settings) -> Result<()> {
    let base = Input::base()?;
    let directory = tempfile::tempdir()?;
    let out = directory.path().join("out");
    println!(
        "inputs: base; an archive of {FILES} small files; an archive of one file of {} GiB",
        LARGE_FILE_BYTES >> 30
    );
    let push = |archive: &(dyn Fn(&mut dyn Write) -> Result<()> + Sync)| -> Result<Sample> {
        clear(&out)?;
        let shale = Shale::new(&out)?;
        let mut command = shale.command();
        command
            .args(["--quiet", "push", "-", "bench/large"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null());
        let mut push = Running::start(&mut command)?;
        let mut stdin = BufWriter::with_capacity(1 << 20, push.stdin()?);
        std::thread::scope(|scope| {
            let writing = scope.spawn(move || {
                archive(&mut stdin)?;
                stdin.write_all(&[0; 2 * BLOCK])?;
                Ok::<_, anyhow::Error>(stdin.flush()?)
            });
            let peak = push.peak_memory();
            if let Ok(written) = writing.join() {
                written?;
            }
            Ok(Sample::of(peak? as f64 / 1e6))
        })
    };
    let mut contenders = [
        Contender::new("shale push base.tar", || {
            clear(&out)?;
            let shale = Shale::new(&out)?;
            let mut command = shale.command();
            command
                .args(["--quiet", "push"])
                .arg(base.tar())
                .arg("bench/base")
                .stdout(Stdio::null());
            let peak = Running::start(&mut command)?.peak_memory()?;
            Ok(Sample::of(peak as f64 / 1e6))
        }),
        Contender::new("zstd -3 -T2 base.tar", || {
            clear(&out)?;
            let mut zstd = peer("zstd")?;
            zstd.args(["-q", "-3", "-T2"])
                .arg(base.tar())
                .arg("-o")
                .arg(&out);
            let peak = Running::start(&mut zstd)?.peak_memory()?;
            Ok(Sample::of(peak as f64 / 1e6))
        }),
        Contender::new("mksquashfs base/, zstd 3", || {
            clear(&out)?;
            let mut squash = peer("mksquashfs")?;
            squash.arg(base.tree()).arg(&out);
            squash.args([
                "-comp",
                "zstd",
                "-Xcompression-level",
                "3",
                "-no-progress",
                "-quiet",
            ]);
            squash.stdout(Stdio::null());
            let peak = Running::start(&mut squash)?.peak_memory()?;
            Ok(Sample::of(peak as f64 / 1e6))
        }),
    ];
    in_turns(settings.runs, &mut contenders)?;
    let mut large = [
        Contender::new("shale push, small files", || push(&small_files)),
        Contender::new("shale push, a large file", || push(&large_file)),
    ];
    // Once is enough for what takes a minute and hardly varies.
    in_turns(1, &mut large)?;
    clear(&out)?;
    print("MB resident", &contenders);
    print_alone("MB resident", &large);
    let most = contenders[..1]
        .iter()
        .chain(&large)
        .map(Contender::median)
        .fold(0.0, f64::max);
    println!(
        "target: at most {TARGET_MB} MB whatever the input: {}",
        verdict(most <= TARGET_MB)
    );
    registry(&base)
}

/// The most that a registry has resident while readers ask for ranges as fast as they get them.
fn registry(base: &Input) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let store = Shale::new(&directory.path().join("store"))?;
    push_base(&store, base)?;
    let packs = packs(&store.repository().join("packs"))?;
    let (server, address) = serve_registry(&store, &directory.path().join("address"))?;
    let idle = resident_peak(server.id()).context("the registry runs")?;
    let runtime = Runtime::new().context("start threads")?;
    let read = runtime.block_on(async {
        let mut readers = JoinSet::new();
        for number in 0..READERS {
            readers.spawn(reader(address, packs.clone(), number));
        }
        let mut sum = 0;
        while let Some(read) = readers.join_next().await {
            sum += read??;
        }
        Ok::<u64, anyhow::Error>(sum)
    })?;
    let peak = resident_peak(server.id()).context("the registry still runs")? as f64 / 1e6;
    println!(
        "registry over base: {:.1} MB resident when it listens, {peak:.1} MB at most after {READERS} readers read {:.0} MB",
        idle as f64 / 1e6,
        read as f64 / 1e6
    );
    println!(
        "target: at most {REGISTRY_TARGET_MB} MB: {}",
        verdict(peak <= REGISTRY_TARGET_MB)
    );
    println!("not measured: the same over 10 million chunks");
    Ok(())
}

/// A pack as a registry's readers know it.
type Pack = (String, u64);

/// The packs below a repository's directory of packs, with their bytes.
fn packs(directory: &Path) -> Result<Vec<Pack>> {
    let mut packs = Vec::new();
    for spread in std::fs::read_dir(directory)? {
        for pack in std::fs::read_dir(spread?.path())? {
            let pack = pack?;
            let name = pack.file_name().into_string().unwrap_or_default();
            if let Some(hex) = name.strip_suffix(".pack") {
                packs.push((format!("sha256:{hex}"), pack.metadata()?.len()));
            }
        }
    }
    ensure!(!packs.is_empty(), "the repository has no packs");
    Ok(packs)
}

/// One connection that asks for ranges, one after the other; the bytes it read.
async fn reader(address: SocketAddr, packs: Vec<Pack>, seed: u64) -> Result<u64> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut stream = BufStream::new(TcpStream::connect(address).await?);
    let mut body = vec![0; RANGE_BYTES as usize];
    for _ in 0..RANGES_A_READER {
        let (pack, len) = &packs[random.usize(..packs.len())];
        let start = random.u64(..len.saturating_sub(RANGE_BYTES).max(1));
        let end = (start + RANGE_BYTES).min(*len) - 1;
        let request = format!(
            "GET /api/v1/packs/{pack} HTTP/1.1\r\nhost: {address}\r\nrange: bytes={start}-{end}\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await?;
        stream.flush().await?;
        let mut line = String::new();
        stream.read_line(&mut line).await?;
        ensure!(line.contains(" 206 "), "a registry answered {line:?}");
        while line != "\r\n" {
            line.clear();
            ensure!(
                stream.read_line(&mut line).await? > 0,
                "a registry ended a connection"
            );
        }
        stream
            .read_exact(&mut body[..(end - start + 1) as usize])
            .await?;
    }
    Ok(RANGES_A_READER * RANGE_BYTES)
}

fn small_files(out: &mut dyn Write) -> Result<()> {
    let mut random = fastrand::Rng::with_seed(1);
    let mut content = [0; BLOCK];
    for number in 0..FILES {
        let directory = number / FILES_A_DIRECTORY;
        if number % FILES_A_DIRECTORY == 0 {
            header(out, &format!("d{directory:05}/"), b'5', 0)?;
        }
        random.fill(&mut content);
        header(
            out,
            &format!("d{directory:05}/file-{number:07}"),
            b'0',
            BLOCK as u64,
        )?;
        out.write_all(&content)?;
    }
    Ok(())
}

fn large_file(out: &mut dyn Write) -> Result<()> {
    header(out, "large", b'0', LARGE_FILE_BYTES)?;
    let mut random = fastrand::Rng::with_seed(2);
    let mut content = vec![0; 1 << 20];
    // Half of it can be compressed.
    let half = content.len() / 2;
    for _ in 0..LARGE_FILE_BYTES >> 20 {
        random.fill(&mut content[..half]);
        let number = random.u64(..).to_le_bytes();
        for word in content[half..].chunks_exact_mut(8) {
            word.copy_from_slice(&number);
        }
        out.write_all(&content)?;
    }
    Ok(())
}

/// A ustar header; the name has at most 100 bytes, and sizes of 8 GiB and more do not fit.
fn header(out: &mut dyn Write, name: &str, kind: u8, size: u64) -> Result<()> {
    let mut block = [0; BLOCK];
    let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, name.as_bytes());
    put(100, b"0000755\0");
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    put(124, format!("{size:011o}\0").as_bytes());
    put(136, b"14000000000\0");
    put(148, b"        ");
    put(156, &[kind]);
    put(257, b"ustar\x0000");
    let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    Ok(out.write_all(&block)?)
}
