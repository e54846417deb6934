//! A base that is booted over a network, by everybody: what the rows about that share.

use std::cell::RefCell;
use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::{Disk, Input, free_port, run};
use serde_json::Value;
use shale_benches::proxy::Link;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

use crate::measure::{Contender, Sample, median};
use crate::programs::{Running, Shale, clear, peer};
use crate::rows::boot::{
    Deployed, boot, end_service, fresh_disk, nbd_disk, push_base, serve_file, serve_registry,
};
use crate::rows::tunnel::{Task, Tunnel, print_link};

/// A link of today's machine rooms.
pub(crate) const FAST: Link = Link {
    bits_a_second: 1_000_000_000,
    round_trip: Duration::from_millis(5),
};

/// A link between sites.
pub(crate) const SLOW: Link = Link {
    bits_a_second: 100_000_000,
    round_trip: Duration::from_millis(20),
};

/// How long a busy registry may take to pack a boot set.
const BOOT_SET_WITHIN: Duration = Duration::from_secs(60);

/// How long a host that is busy with its guests may take until it has all of a template.
const FILLED_WITHIN: Duration = Duration::from_secs(120);

/// A registry, its rivals, and a slow link to each.
pub(crate) struct Network {
    directory: TempDir,
    runtime: Runtime,
    link: Link,
    base: Input,
    store: Shale,
    registry: SocketAddr,
    remote: SocketAddr,
    _servers: [Running; 2],
    moved: RefCell<Vec<Moved>>,
}

/// What came over the link for one boot.
struct Moved {
    by: &'static str,
    bytes: u64,
    /// Seconds that reads waited, where somebody counts them.
    waited: Option<f64>,
}

/// A deployment over the link.
struct OverLink {
    /// Seconds to the login prompt.
    seconds: f64,
    /// Those of them that reads waited.
    waited: f64,
    /// Bytes that came until then.
    bytes: u64,
}

/// Deployments that were made at once.
pub(crate) struct AtOnce<T> {
    /// What waiting for them gave.
    pub(crate) ready: T,
    /// Bytes that came over the link until all content was there.
    pub(crate) bytes: u64,
}

/// What a registry knows of boots, and whether the host brings more than what is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lazily {
    /// Nothing; the host fills.
    Alone,
    /// It has a boot set; the host fills.
    WithBootSet,
    /// It has a boot set; the host brings nothing else that is not read.
    WithBootSetAlone,
    /// Nothing, but a warm snapshot, from which the machine starts.
    Warm,
    /// It has a boot set of that; the host brings nothing else that is not read.
    WarmWithBootSet,
    /// The same, and the host has started a machine from it before.
    WarmAgain,
}

impl Lazily {
    fn is_warm(self) -> bool {
        matches!(self, Self::Warm | Self::WarmWithBootSet | Self::WarmAgain)
    }

    /// Whether nothing is known of boots before.
    fn is_first(self) -> bool {
        matches!(self, Self::Alone | Self::Warm)
    }
}

impl Network {
    /// Pushes the base, and starts everybody. Prints what link and input are.
    pub(crate) fn new(link: Link) -> Result<Self> {
        let runtime = Runtime::new().context("start threads")?;
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
        let (registry_server, registry) = serve_registry(&store, &path("address"))?;
        let (remote_server, remote) = serve_remote(&raw)?;
        print_link(&runtime, link)?;
        println!(
            "input: base, {:.1} MB as packed disk; peers have the kernel and its initrd on the host already",
            packed.metadata()?.len() as f64 / 1e6
        );
        Ok(Self {
            directory,
            runtime,
            link,
            base,
            store,
            registry,
            remote,
            _servers: [registry_server, remote_server],
            moved: RefCell::default(),
        })
    }

    /// `shale vm deploy` on a host that has nothing.
    pub(crate) fn lazily(&self, how: Lazily) -> Contender<'_> {
        let name = match how {
            Lazily::Alone => "shale vm deploy on a host with nothing",
            Lazily::WithBootSet => "the same with a boot set",
            Lazily::WithBootSetAlone => "the same with a boot set, no fill",
            Lazily::Warm => "shale vm deploy --warm on a host with nothing",
            Lazily::WarmWithBootSet => "--warm with a boot set, no fill",
            Lazily::WarmAgain => "--warm, second machine of the host, no fill",
        };
        Contender::new(name, move || {
            if how.is_first() {
                self.forget_boots()?;
            }
            let tunnel = self.through(self.registry)?;
            let deployed = self.deploy(&tunnel, how)?;
            self.moved.borrow_mut().push(Moved {
                by: name,
                bytes: deployed.bytes,
                waited: Some(deployed.waited),
            });
            let seconds = deployed.seconds;
            if how.is_first() {
                self.wait_for_boot_set()?;
            }
            Ok(Sample::of(seconds))
        })
    }

    /// A boot on some host, so that the registry has a boot set.
    pub(crate) fn boot_once(&self) -> Result<()> {
        let tunnel = self.through(self.registry)?;
        self.deploy(&tunnel, Lazily::Alone).map(drop)?;
        self.wait_for_boot_set()
    }

    /// Waits until the registry has packed what it was told of.
    fn wait_for_boot_set(&self) -> Result<()> {
        let deadline = Instant::now() + BOOT_SET_WITHIN;
        while self.boot_set_bytes()? == 0 {
            ensure!(Instant::now() < deadline, "the registry has no boot set");
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Bytes of the boot set that the registry has.
    pub(crate) fn boot_set_bytes(&self) -> Result<u64> {
        let mut bytes = 0;
        let mut dirs = vec![self.store.repository().join("boot-packs")];
        while let Some(dir) = dirs.pop() {
            for entry in std::fs::read_dir(&dir).into_iter().flatten() {
                let entry = entry?;
                match entry.file_type()?.is_dir() {
                    true => dirs.push(entry.path()),
                    false => bytes += entry.metadata()?.len(),
                }
            }
        }
        Ok(bytes)
    }

    fn forget_boots(&self) -> Result<()> {
        for dir in ["traces", "boot-sets", "boot-packs"] {
            clear(&self.store.repository().join(dir))?;
        }
        Ok(())
    }

    /// A warm snapshot of the base, which the registry gets.
    pub(crate) fn keep_warm(&self) -> Result<()> {
        let host = self.path("warm");
        std::fs::create_dir(&host)?;
        let shale = Shale::new(&host)?.of_registry(&format!("http://{}", self.registry));
        let made = shale.json(&["template".as_ref(), "warm".as_ref(), "bench/base".as_ref()])?;
        println!(
            "warm snapshot: {:.1} MB of packs, {:.1} MB without its holes",
            made["pack_bytes"].as_f64().unwrap_or(f64::NAN) / 1e6,
            made["sent_chunk_bytes"].as_f64().unwrap_or(f64::NAN) / 1e6
        );
        end_service(&shale)
    }

    /// Deploys on a host that has nothing, and removes it.
    fn deploy(&self, registry: &Tunnel, how: Lazily) -> Result<OverLink> {
        let host = self.path("host");
        clear(&host)?;
        std::fs::create_dir(&host)?;
        let mut shale = Shale::new(&host)?.of_registry(&format!("http://{}", registry.address));
        let alone = [
            Lazily::WithBootSetAlone,
            Lazily::WarmWithBootSet,
            Lazily::WarmAgain,
        ];
        if alone.contains(&how) {
            shale = shale.without_fills();
        }
        if how.is_warm() {
            // The service is there, as on a host that does this every day.
            run(shale.command().args(["--quiet", "vm", "ls"]))?;
        }
        let deploy = || match how.is_warm() {
            true => Deployed::warm(&shale),
            false => Deployed::new(&shale),
        };
        if how == Lazily::WarmAgain {
            drop(deploy()?);
        }
        let before = registry.down_bytes();
        let machine = deploy()?;
        let done = OverLink {
            seconds: machine.seconds,
            waited: machine.waited(),
            bytes: registry.down_bytes() - before,
        };
        drop(machine);
        end_service(&shale)?;
        Ok(done)
    }

    /// So many deployments at once on a host that has nothing. `wait` is given when they began and the sockets of their
    /// exports.
    pub(crate) fn deploy_at_once<T>(
        &self,
        machines: usize,
        wait: impl FnOnce(Instant, &[PathBuf]) -> Result<T>,
    ) -> Result<AtOnce<T>> {
        let host = self.path("host");
        clear(&host)?;
        std::fs::create_dir(&host)?;
        let tunnel = self.through(self.registry)?;
        let registry = format!("http://{}", tunnel.address);
        let shale = Shale::new(&host)?.of_registry(&registry);
        // The service is there, as on a host that does this every day.
        run(shale.command().args(["--quiet", "vm", "ls"]))?;
        let names: Vec<String> = (0..machines).map(|n| format!("bench-{n}")).collect();
        let sockets = names
            .iter()
            .map(|name| shale.state().join("run").join(name).join("disk"));
        let sockets: Vec<PathBuf> = sockets.collect();
        let machines = Machines(&shale, &names);
        let begun = Instant::now();
        let mut deployments = Vec::new();
        for name in &names {
            let mut deploy = shale.command();
            deploy.args(["--quiet", "vm", "deploy", "bench/base", "--name", name]);
            deploy.args(["--wait", "none"]).stdout(Stdio::null());
            deployments.push(Running::start(&mut deploy)?);
        }
        let ready = wait(begun, &sockets);
        for deployment in deployments {
            deployment.finish()?;
        }
        wait_for_fills(&shale)?;
        let bytes = tunnel.down_bytes();
        drop(machines);
        end_service(&shale)?;
        Ok(AtOnce {
            ready: ready?,
            bytes,
        })
    }

    /// A disk whose lower part is the raw file behind `qemu-nbd` far away.
    pub(crate) fn remotely(&self) -> Contender<'_> {
        let name = "qcow2 over remote qemu-nbd";
        Contender::new(name, move || {
            let (overlay, socket) = (self.path("disk.qcow2"), self.path("qemu.sock"));
            clear(&overlay)?;
            clear(&socket)?;
            let tunnel = self.through(self.remote)?;
            let begun = Instant::now();
            let backing = format!("nbd://{}", tunnel.address);
            let mut create = peer("qemu-img")?;
            create.args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b", &backing]);
            run(create.arg(&overlay))?;
            let server = serve_file(&overlay, "qcow2", &socket)?;
            let (vm, login) = boot(&self.base, nbd_disk(&socket))?;
            vm.kill()?;
            drop(server);
            self.note(name, &tunnel, None);
            Ok(Sample::of((login - begun).as_secs_f64()))
        })
    }

    /// The packed disk, loaded and unpacked before it is booted.
    pub(crate) fn copied(&self) -> Contender<'_> {
        let name = "copy first: download, zstd -d, boot";
        Contender::new(name, move || {
            let copy = self.path("copy.raw");
            clear(&copy)?;
            let (_sender, sender) = serve_bytes(&self.runtime, &self.path("disk.raw.zst"))?;
            let tunnel = self.through(sender)?;
            let begun = Instant::now();
            download(&tunnel, &copy)?;
            let (vm, login) = boot(&self.base, Disk::Raw(copy))?;
            vm.kill()?;
            self.note(name, &tunnel, None);
            Ok(Sample::of((login - begun).as_secs_f64()))
        })
    }

    /// The disk as a file of this machine.
    pub(crate) fn locally(&self) -> Contender<'_> {
        Contender::new("local raw file", move || {
            let copy = self.path("local.raw");
            clear(&copy)?;
            std::fs::copy(self.path("disk.raw"), &copy)?;
            let begun = Instant::now();
            let (vm, login) = boot(&self.base, Disk::Raw(copy))?;
            vm.kill()?;
            Ok(Sample::of((login - begun).as_secs_f64()))
        })
    }

    /// Prints the medians of what came over the link, and of how long reads waited.
    pub(crate) fn print_moved(&self, contenders: &[Contender<'_>]) {
        for contender in contenders {
            let moved = self.moved.borrow();
            let of_it = || moved.iter().filter(|moved| moved.by == contender.name());
            let bytes: Vec<f64> = of_it().map(|moved| moved.bytes as f64).collect();
            let waited: Vec<f64> = of_it().filter_map(|moved| moved.waited).collect();
            if bytes.is_empty() {
                continue;
            }
            let waited = match waited.is_empty() {
                true => String::new(),
                false => format!("; reads waited {:.2} s", median(&waited)),
            };
            let (name, megabytes) = (contender.name(), median(&bytes) / 1e6);
            println!("{name}: {megabytes:.1} MB counted in the proxy{waited}");
        }
    }

    /// Median of the bytes that came over the link for this one.
    pub(crate) fn bytes(&self, contender: &Contender<'_>) -> f64 {
        let moved = self.moved.borrow();
        let of_it = moved.iter().filter(|moved| moved.by == contender.name());
        median(&of_it.map(|moved| moved.bytes as f64).collect::<Vec<_>>())
    }

    fn note(&self, by: &'static str, tunnel: &Tunnel, waited: Option<f64>) {
        let bytes = tunnel.down_bytes();
        self.moved.borrow_mut().push(Moved { by, bytes, waited });
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn through(&self, to: SocketAddr) -> Result<Tunnel> {
        Tunnel::new(&self.runtime, self.link, to)
    }
}

/// Waits until the host has all content of its machines.
fn wait_for_fills(shale: &Shale) -> Result<()> {
    let deadline = Instant::now() + FILLED_WITHIN;
    loop {
        let listed = shale.json(&["vm".as_ref(), "ls".as_ref()])?;
        let machines = listed.as_array().map_or(&[][..], Vec::as_slice);
        let is_whole = |machine: &Value| machine["disk"]["fill"]["state"] == "whole";
        if machines.iter().all(is_whole) {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "it is not filled: {listed}");
        std::thread::sleep(Duration::from_millis(100));
    }
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
    let deadline = Instant::now() + Duration::from_secs(20);
    while std::net::TcpStream::connect(address).is_err() {
        ensure!(Instant::now() < deadline, "qemu-nbd does not listen");
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok((server, address))
}

/// Sends a file to everybody who connects.
fn serve_bytes(runtime: &Runtime, file: &Path) -> Result<(Task, SocketAddr)> {
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
    let address = listener.local_addr()?;
    let file: PathBuf = file.to_owned();
    let task = Task::spawn(runtime, async move {
        while let Ok((mut client, _)) = listener.accept().await {
            if let Ok(mut file) = tokio::fs::File::open(&file).await {
                let _ = tokio::io::copy(&mut file, &mut client).await;
            }
        }
    });
    Ok((task, address))
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

/// Machines that are removed when the value is dropped, also where a row fails.
struct Machines<'a>(&'a Shale, &'a [String]);

impl Drop for Machines<'_> {
    fn drop(&mut self) {
        for name in self.1 {
            // One that was not made is not there.
            let _ = run(self
                .0
                .command()
                .args(["--quiet", "vm", "rm", "--yes", name]));
        }
    }
}
