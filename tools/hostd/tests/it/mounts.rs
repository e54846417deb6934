//! What a machine reads its memory from outlives the service, however that ends, and ends with whoever has it.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use memmap2::{MmapMut, MmapOptions};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use shale_fusefs::{Access, Detached, MountOptions, Permissions, ReadAhead, mount_detached};
use shale_hostd::api::Repository;
use shale_hostd::*;
use shale_ingest::{DirSource, push_tree};
use shale_model::{Machine, Platform, Template, TemplateId, TemplateLayer};
use shale_view::{Cache, CacheSettings, Counters, FillRate};
use tokio::runtime::Runtime;

use crate::control::NoDriver;

/// Tells this binary to be a host service: its directory, and the template that it mounts.
const SERVE: &str = "SHALE_HOSTD_SERVE";
/// Tells it to be a keeper: its socket.
const KEEP: &str = "SHALE_HOSTD_KEEP";
const WITHIN: Duration = Duration::from_secs(30);
const PAGES: usize = 4096;
const PAGE: usize = 4096;

/// Not a test of its own: the keeper.
#[test]
fn privileged_keep_for_another_process() {
    if let Ok(socket) = std::env::var(KEEP) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(keep(socket.as_ref())).unwrap();
    }
}

/// Starts this binary to be what the variable is for.
fn start(name: &str, variable: &str, told: &str, error: Stdio) -> std::io::Result<Child> {
    Command::new(std::env::current_exe()?)
        .args(["--exact", name])
        .env_remove(SERVE)
        .env(variable, told)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(error)
        .spawn()
}

fn host(dir: &Path, runtime: &Runtime) -> Arc<Host> {
    let open_place = |asked: &Repository| Ok(Place::local_beside(asked.address.as_ref())?);
    let start_keeper = |socket: &Path| {
        let name = "mounts::privileged_keep_for_another_process";
        start(name, KEEP, socket.to_str().unwrap(), Stdio::null())
    };
    let chunks = dir.join("cache");
    private_dir(&chunks).unwrap();
    let chunks = Arc::new(shale_files::DirFiles::open(&chunks).unwrap());
    let cache = CacheSettings { cap_bytes: 8 << 20 };
    let host = Host::open(HostParts {
        fill: FillRate::Off,
        dirs: HostDirs {
            state: dir.join("state"),
            cache: dir.join("cache"),
        },
        driver: Arc::new(NoDriver),
        open_place: Box::new(open_place),
        cache: Arc::new(Cache::open(chunks, cache).unwrap()),
        counters: Arc::new(Counters::default()),
        clock: SystemTime::now,
        start_keeper: Box::new(start_keeper),
        tell: Box::new(|_| {}),
        runtime: runtime.handle().clone(),
    });
    host.unwrap()
}

/// Not a test of its own: the service. The first one serves the mount whose device it is handed as its standard error; each ends
/// when its input does.
#[test]
fn privileged_serve_mounts_for_another_process() {
    let Ok(told) = std::env::var(SERVE) else {
        return;
    };
    let (dir, template) = told.split_once(',').unwrap();
    let dir = Path::new(dir);
    let runtime = Runtime::new().unwrap();
    let host = host(dir, &runtime);
    let ready = dir.join("ready");
    let wish = MemoryMount {
        machine: "one".into(),
        repository: repository(dir),
        template: TemplateId::from_hex(template).unwrap(),
        trace: None,
    };
    if !dir.join("served").exists() {
        let device = || std::io::stderr().as_fd().try_clone_to_owned().unwrap();
        host.serve_memory(&wish, device()).unwrap();
        let again = host.serve_memory(&wish, device());
        assert!(matches!(again, Err(HostError::Busy(_))));
        fs::write(dir.join("served"), "").unwrap();
    }
    fs::write(&ready, std::process::id().to_string()).unwrap();
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
    if line == "ended\n" {
        host.wait_for_memory_end("one").unwrap();
        host.wait_for_memory_end("one").unwrap();
    }
    runtime.block_on(host.run(async {}));
    // What waits for requests of the mount ends with this process.
    runtime.shutdown_background();
}

fn repository(dir: &Path) -> Repository {
    Repository {
        address: dir.join("repository").to_str().unwrap().into(),
        ..Repository::default()
    }
}

/// A service in another process, killed when dropped.
struct Service(Child);

impl Service {
    fn start(dir: &Path, template: TemplateId) -> Self {
        Self::start_with(dir, template, Stdio::inherit())
    }

    fn start_with(dir: &Path, template: TemplateId, error: Stdio) -> Self {
        let _ = fs::remove_file(dir.join("ready"));
        let told = format!("{},{}", dir.display(), template.hex());
        let name = "mounts::privileged_serve_mounts_for_another_process";
        Self(start(name, SERVE, &told, error).unwrap())
    }

    fn ready(mut self, dir: &Path) -> Self {
        let begun = Instant::now();
        while !dir.join("ready").exists() {
            assert!(begun.elapsed() < WITHIN, "the service is not ready");
            assert!(self.0.try_wait().unwrap().is_none(), "it ended");
            std::thread::sleep(Duration::from_millis(2));
        }
        self
    }

    fn end(mut self, line: &str) {
        let mut input = self.0.stdin.take().unwrap();
        input.write_all(line.as_bytes()).unwrap();
        drop(input);
        assert!(self.0.wait().unwrap().success());
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn page(number: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(number as u64);
    let mut bytes = vec![0; PAGE];
    random.fill(&mut bytes);
    bytes
}

/// Pushes a tree with one file, as large as a small guest's memory.
fn push(dir: &Path) -> TemplateId {
    let source = dir.join("source");
    fs::create_dir(&source).unwrap();
    let mut file = File::create(source.join("memory")).unwrap();
    file.set_permissions(fs::Permissions::from_mode(0o400))
        .unwrap();
    for number in 0..PAGES {
        file.write_all(&page(number)).unwrap();
    }
    let place = Place::local(&dir.join("repository")).unwrap();
    let sink = place.sink().unwrap();
    let mut tree = DirSource::open(&source).unwrap();
    let layer = push_tree(&mut tree, &*sink, CHUNKER, &()).unwrap().layer;
    let layers = vec![TemplateLayer {
        id: layer,
        made_on: Vec::new(),
    }];
    let template = Template::new(Platform::default(), layers, Machine::default());
    sink.put_template(&template.encode()).unwrap()
}

#[test]
fn privileged_a_private_map_of_a_file_outlives_services_that_are_killed_or_end() {
    let temp = tempfile::tempdir_in("/var/tmp").unwrap();
    let dir = temp.path();
    let template = push(dir);
    let options = MountOptions {
        source: "memory".into(),
        access: Access::ReadWrite,
        permissions: Permissions::Unchecked,
    };
    let Detached { device, root } = mount_detached(&options, ReadAhead::Off, dir).unwrap();
    let mut service = Service::start_with(dir, template, device.into()).ready(dir);
    let path = PathBuf::from(format!("/proc/self/fd/{}/memory", root.as_raw_fd()));
    assert!(
        fs::read_to_string("/proc/mounts")
            .unwrap()
            .lines()
            .all(|line| !line.starts_with("memory "))
    );
    // So that the kernel asks nobody when the file is closed in the processes that are started below.
    drop(File::open(&path).unwrap());
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&path)
        .unwrap();
    // Whoever is handed the root can open it so, whatever its mode says.
    let opened = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .args([
            "sh",
            "-c",
            "exec 3<>/proc/self/fd/0/memory && head -c 1 <&3",
        ])
        .stdin(root.try_clone().unwrap())
        .output()
        .unwrap();
    assert!(
        opened.status.success() && opened.stdout == page(0)[..1],
        "{opened:?}"
    );
    let refused = file.write_at(b"no", 0).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(Errno::ROFS.raw_os_error()));
    // SAFETY: the file never changes, and nobody else has this copy.
    #[expect(unsafe_code, reason = "a map of a file")]
    let mut map: MmapMut = unsafe { MmapOptions::new().map_copy(&file).unwrap() };
    let is_right =
        |map: &MmapMut, number: usize| map[number * PAGE..(number + 1) * PAGE] == page(number)[..];
    assert!(is_right(&map, 0));
    map[PAGE] ^= 0xff;
    for (round, number) in [700, 1500, 2300, 3100].into_iter().enumerate() {
        match round {
            // Killed, then started while somebody waits; and ended, which leaves the mount.
            0..=2 => drop(service),
            _ => service.end("end\n"),
        }
        let begun = Instant::now();
        service = std::thread::scope(|scope| {
            let read = scope.spawn(|| {
                assert!(is_right(&map, number), "page {number}");
                begun.elapsed()
            });
            std::thread::sleep(Duration::from_millis(50));
            assert!(!read.is_finished(), "somebody else answers");
            let service = Service::start(dir, template).ready(dir);
            println!(
                "a page came {:?} after the end of a service",
                read.join().unwrap()
            );
            service
        });
    }
    assert_eq!(map[PAGE] ^ 0xff, page(1)[0]);
    drop((map, file, root));
    service.end("ended\n");
    assert_eq!(fs::read_dir(dir.join("state/mounts")).unwrap().count(), 0);
    let begun = Instant::now();
    // The keeper has nothing to keep any more.
    while keeper_listens(dir) {
        assert!(begun.elapsed() < WITHIN, "the keeper does not end");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn keeper_listens(dir: &Path) -> bool {
    let address = SocketAddrUnix::new(dir.join("state/run/keep.sock")).unwrap();
    let flags = SocketFlags::CLOEXEC;
    let probe = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
    connect(probe, &address).is_ok()
}
