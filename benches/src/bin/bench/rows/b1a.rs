//! B1a: the first virtual machine of a template on a host that has nothing of it, over a network.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use harness::{Disk, Input, free_port, run};
use shale_benches::proxy::{Proxy, probe};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

use crate::Settings;
use crate::measure::{Contender, Sample, in_turns, median, print};
use crate::programs::{Running, Shale, clear, peer};
use crate::rows::boot::{
    Deployed, boot, end_service, fresh_disk, nbd_disk, push_base, serve_file, serve_registry,
    verdict,
};

pub(crate) fn measure(settings: Settings) -> Result<()> {
    let runtime = Runtime::new().context("start threads")?;
    let link = settings.link;
    let base = Input::base()?;
    let directory = tempfile::tempdir()?;
    let path = |name: &str| directory.path().join(name);

    let store = Shale::new(&path("store"))?;
    push_base(&store, &base)?;
    let (raw, packed) = (path("disk.raw"), path("disk.raw.zst"));
    fresh_disk(&store, &raw)?;
    run(peer("zstd")?
        .args(["-q", "-3", "-T2"])
        .arg(&raw)
        .arg("-o")
        .arg(&packed))?;
    let (_registry, registry) = serve_registry(&store, &path("address"))?;
    let (_remote, remote) = serve_remote(&raw)?;

    let measured = runtime.block_on(probe(link))?;
    println!(
        "link: {link}, measured {:.2} ms round trip, {:.0} Mbit/s",
        measured.round_trip.as_secs_f64() * 1e3,
        measured.bits_a_second / 1e6
    );
    println!(
        "input: base, {:.1} MB as packed disk; peers have the kernel and its initrd on the host already",
        packed.metadata()?.len() as f64 / 1e6
    );

    let through = |to: SocketAddr| Tunnel::new(&runtime, &settings, to);
    let (tunnels, waited) = (
        std::cell::RefCell::new([0; 3]),
        std::cell::RefCell::new(Vec::new()),
    );
    let lazily = || {
        let host = path("host");
        clear(&host)?;
        std::fs::create_dir(&host)?;
        let tunnel = through(registry)?;
        let shale = Shale::new(&host)?.of_registry(&format!("http://{}", tunnel.address));
        let machine = Deployed::new(&shale)?;
        tunnels.borrow_mut()[0] = tunnel.down_bytes();
        waited.borrow_mut().push(machine.waited());
        let seconds = machine.seconds;
        drop(machine);
        end_service(&shale)?;
        Ok(Sample::of(seconds))
    };
    let remotely = || {
        let (overlay, socket) = (path("disk.qcow2"), path("qemu.sock"));
        clear(&overlay)?;
        clear(&socket)?;
        let tunnel = through(remote)?;
        let begun = Instant::now();
        let backing = format!("nbd://{}", tunnel.address);
        let mut create = peer("qemu-img")?;
        create.args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b", &backing]);
        run(create.arg(&overlay))?;
        let server = serve_file(&overlay, "qcow2", &socket)?;
        let (vm, login) = boot(&base, nbd_disk(&socket))?;
        vm.kill()?;
        drop(server);
        tunnels.borrow_mut()[1] = tunnel.down_bytes();
        Ok(Sample::of((login - begun).as_secs_f64()))
    };
    let copied = || {
        let copy = path("copy.raw");
        clear(&copy)?;
        let (_sender, sender) = serve_bytes(&runtime, &packed)?;
        let tunnel = through(sender)?;
        let begun = Instant::now();
        download(&tunnel, &copy)?;
        let (vm, login) = boot(&base, Disk::Raw(copy))?;
        vm.kill()?;
        tunnels.borrow_mut()[2] = tunnel.down_bytes();
        Ok(Sample::of((login - begun).as_secs_f64()))
    };
    let locally = || {
        let copy = path("local.raw");
        clear(&copy)?;
        std::fs::copy(&raw, &copy)?;
        let begun = Instant::now();
        let (vm, login) = boot(&base, Disk::Raw(copy))?;
        vm.kill()?;
        Ok(Sample::of((login - begun).as_secs_f64()))
    };
    let mut contenders = [
        Contender::new("shale vm deploy on a host with nothing", lazily),
        Contender::new("qcow2 over remote qemu-nbd", remotely),
        Contender::new("copy first: download, zstd -d, boot", copied),
        Contender::new("local raw file", locally),
    ];
    in_turns(settings.runs, &mut contenders)?;
    print("s to login", &contenders);
    let behind = median(&contenders[0].differences_to(&contenders[3]));
    println!("over the raw file, paired: {behind:.2} s");
    let [ours, theirs, copy] = *tunnels.borrow();
    let mb = |bytes: u64| bytes as f64 / 1e6;
    println!(
        "MB counted in the proxy: {:.1} lazily, {:.1} qemu-nbd, {:.1} copied",
        mb(ours),
        mb(theirs),
        mb(copy)
    );
    println!("s that reads waited: {:.2}", median(&waited.borrow()));
    for peer in &contenders[1..3] {
        println!(
            "target: faster than {}: {}",
            peer.name(),
            verdict(contenders[0].ratio_to(peer) < 1.0)
        );
    }
    Ok(())
}

/// `qemu-nbd` of a raw file, read-only, on a port.
fn serve_remote(raw: &Path) -> Result<(Running, SocketAddr)> {
    let port = free_port()?;
    let mut command = peer("qemu-nbd")?;
    command.args([
        "--persistent",
        "--read-only",
        "--shared=8",
        "-f",
        "raw",
        "--bind=127.0.0.1",
        "-p",
    ]);
    // It complains about the connection below, which only looks whether it listens.
    command.arg(port.to_string()).arg(raw).stderr(Stdio::null());
    let server = Running::start(&mut command)?;
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let deadline = Instant::now() + std::time::Duration::from_secs(20);
    while std::net::TcpStream::connect(address).is_err() {
        ensure!(Instant::now() < deadline, "qemu-nbd does not listen");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    Ok((server, address))
}

/// A task that ends with its owner.
struct Task(tokio::task::JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A proxy of this run alone, so that its counters are.
struct Tunnel {
    proxy: Arc<Proxy>,
    address: SocketAddr,
    _serving: Task,
}

impl Tunnel {
    fn new(runtime: &Runtime, settings: &Settings, to: SocketAddr) -> Result<Self> {
        let proxy = Proxy::new(settings.link, to)?;
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
        let address = listener.local_addr()?;
        let serving = proxy.clone();
        let serving = runtime.spawn(async move {
            let _ = serving.serve(listener).await;
        });
        Ok(Self {
            proxy,
            address,
            _serving: Task(serving),
        })
    }

    fn down_bytes(&self) -> u64 {
        self.proxy.traffic().down_bytes
    }
}

/// Sends a file to everybody who connects.
fn serve_bytes(runtime: &Runtime, file: &Path) -> Result<(Task, SocketAddr)> {
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
    let address = listener.local_addr()?;
    let file: PathBuf = file.to_owned();
    let task = runtime.spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            if let Ok(mut file) = tokio::fs::File::open(&file).await {
                let _ = tokio::io::copy(&mut file, &mut client).await;
            }
        }
    });
    Ok((Task(task), address))
}

/// Loads what the tunnel leads to and unpacks it while it arrives.
fn download(tunnel: &Tunnel, to: &Path) -> Result<()> {
    let mut stream = std::net::TcpStream::connect(tunnel.address)?;
    let mut command: Command = peer("zstd")?;
    command
        .args(["-q", "-d", "--sparse", "-c"])
        .stdin(Stdio::piped())
        .stdout(File::create(to)?);
    let mut unpack = Running::start(&mut command)?;
    let mut stdin = unpack.stdin()?;
    std::io::copy(&mut stream, &mut stdin)?;
    drop(stdin);
    unpack.finish()
}
