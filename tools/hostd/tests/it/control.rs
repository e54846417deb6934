//! The service's socket: what it answers to whom.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use shale_files::MemoryFiles;
use shale_hostd::api::{
    API_VERSION, Autostart, Begin, Credentials, Deploy, EventKind, EventsWish, FailureKind,
    LoginWish, MachineWish, Outcome, Repository, Request, Told, Until, Wait,
};
use shale_hostd::*;
use shale_hvplug::*;
use shale_nbd::listen_unix;
use shale_view::{Cache, CacheSettings, Counters, FillRate};
use tokio::runtime::Runtime;

/// A hypervisor that is not installed.
pub(crate) struct NoDriver;

impl Driver for NoDriver {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            driver: "none",
            missing: None,
            accelerations: vec![],
        }
    }

    fn start(&self, _: &Machine) -> DriverResult<Vm> {
        Err(DriverError::Ended)
    }

    fn attach(&self, _: &VmFiles) -> DriverResult<Option<Vm>> {
        Ok(None)
    }

    fn state(&self, _: &Vm) -> DriverResult<VmState> {
        Ok(VmState::Ended)
    }

    fn stop(&self, _: &Vm, _: Stop) -> DriverResult<()> {
        Ok(())
    }

    fn pause(&self, _: &Vm) -> DriverResult<()> {
        Err(DriverError::Ended)
    }

    fn resume(&self, _: &Vm) -> DriverResult<()> {
        Err(DriverError::Ended)
    }

    fn console(&self, _: &Vm) -> PathBuf {
        PathBuf::new()
    }
}

fn open(state: &Path, runtime: &Runtime) -> HostResult<Arc<Host>> {
    let (spool, handle) = (state.to_owned(), runtime.handle().clone());
    let open_place = move |asked: &Repository| match asked.address.parse() {
        Ok(address) if asked.address.starts_with("http:") => {
            let settings = shale_client::Settings::new(address);
            let mirrors = Vec::new();
            Ok(Place::remote(
                settings,
                mirrors,
                handle.clone(),
                spool.clone(),
            )?)
        }
        _ => Err(format!("`{}` is not there", asked.address).into()),
    };
    let cache = CacheSettings { cap_bytes: 8 << 20 };
    Host::open(HostParts {
        fill: FillRate::Off,
        dirs: HostDirs {
            state: state.join("state"),
            cache: state.join("cache"),
        },
        driver: Arc::new(NoDriver),
        open_place: Box::new(open_place),
        cache: Arc::new(Cache::open(Arc::new(MemoryFiles::new()), cache).unwrap()),
        counters: Arc::new(Counters::default()),
        clock: SystemTime::now,
        start_keeper: Box::new(|_| Err(std::io::ErrorKind::Unsupported.into())),
        tell: Box::new(|_| {}),
        runtime: runtime.handle().clone(),
    })
}

/// A service that runs until it is asked to end.
struct Service {
    dir: tempfile::TempDir,
    socket: PathBuf,
    runtime: Runtime,
}

fn serve() -> Service {
    let dir = tempfile::tempdir().unwrap();
    let runtime = Runtime::new().unwrap();
    let host = open(dir.path(), &runtime).unwrap();
    let socket = dir.path().join("socket");
    let listener = runtime.block_on(async { listen_unix(&socket) }).unwrap();
    let uid = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(dir.path()).unwrap());
    runtime.spawn(async move {
        let control = serve_control(host.clone(), listener, uid, host.ended());
        tokio::join!(control, host.run(std::future::pending()));
    });
    Service {
        dir,
        socket,
        runtime,
    }
}

impl Service {
    fn call(&self, request: Request) -> Result<Outcome, CallError> {
        HostClient::connect(&self.socket)?.call(request, |_| {})
    }

    /// The last line that comes back for these bytes.
    fn answer(&self, bytes: &[u8]) -> Value {
        let mut stream = UnixStream::connect(&self.socket).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        // The service may have enough before it has read all.
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let last = BufReader::new(stream).lines().map_while(Result::ok).last();
        serde_json::from_str(&last.unwrap_or_default()).unwrap_or_default()
    }
}

fn kind(result: Result<Outcome, CallError>) -> FailureKind {
    match result {
        Err(CallError::Failed(failure)) => failure.kind,
        other => panic!("{other:?}"),
    }
}

#[test]
fn requests_are_answered() {
    let service = serve();
    let here = service.call(Request::Hello);
    assert!(matches!(here, Ok(Outcome::Here { pid }) if pid == std::process::id()));
    let listed = service.call(Request::List).unwrap();
    let Outcome::Instances { instances, damaged } = listed else {
        panic!("{listed:?}")
    };
    assert!(instances.is_empty() && damaged.is_empty());
    let name = || "web".to_owned();
    assert_eq!(
        kind(service.call(Request::Inspect { name: name() })),
        FailureKind::NotFound
    );
    assert_eq!(
        kind(service.call(Request::Remove { name: name() })),
        FailureKind::NotFound
    );
    let odd = Request::Pause {
        name: "../x".into(),
    };
    assert_eq!(kind(service.call(odd)), FailureKind::Invalid);
    assert!(service.call(Request::End).is_ok());
    let gone = (0..1000).any(|_| {
        std::thread::sleep(Duration::from_millis(10));
        UnixStream::connect(&service.socket).is_err()
    });
    assert!(gone, "it ends when it is asked to");
    assert!(matches!(
        service.call(Request::Hello),
        Err(CallError::NoService(_))
    ));
}

/// What a deployment asks for.
fn deployment(name: &str, repository: &str, limit_seconds: u64) -> Request {
    Request::Deploy(Box::new(Deploy {
        pause_after_seconds: None,
        autostart: Autostart::Off,
        begin: Begin::Boot,
        name: name.into(),
        reference: "demo/base".into(),
        repository: Repository {
            address: repository.into(),
            credentials: Credentials::default(),
            mirrors: vec![],
        },
        login: LoginWish::default(),
        machine: MachineWish::default(),
        ports: vec![],
        wait: Wait {
            until: Until::Started,
            limit_seconds,
        },
    }))
}

impl Service {
    /// Fails if anything of an instance is there.
    fn nothing_left(&self) {
        let entries = std::fs::read_dir(self.dir.path().join("state/instances")).unwrap();
        let left: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["host.lock"]);
    }
}

/// A registry that takes questions and does not answer.
fn silent_registry() -> (TcpListener, String) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    (listener, address)
}

#[test]
fn a_deployment_waits_for_its_content_as_long_as_it_may() {
    let service = serve();
    let (_registry, address) = silent_registry();
    let failed = service.call(deployment("web", &address, 1));
    assert_eq!(kind(failed), FailureKind::Unavailable);
    service.nothing_left();
}

#[test]
fn a_deployment_that_waits_is_given_up_by_its_removal_and_by_the_end() {
    let service = serve();
    let (registry, address) = silent_registry();
    for end in [false, true] {
        std::thread::scope(|scope| {
            // Longer than this test may take; no clock counts so many seconds.
            let deployed = scope.spawn(|| service.call(deployment("web", &address, u64::MAX)));
            // It asks its registry: it is there, and waits.
            let _asked = registry.accept().unwrap();
            let twice = service.call(deployment("web", &address, 1));
            assert_eq!(kind(twice), FailureKind::Conflict);
            let name = "web".into();
            let ended = match end {
                false => service.call(Request::Remove { name }),
                true => service.call(Request::End),
            };
            assert!(ended.is_ok(), "{ended:?}");
            assert_eq!(kind(deployed.join().unwrap()), FailureKind::Conflict);
        });
        service.nothing_left();
    }
}

#[test]
fn a_port_is_published_once() {
    let service = serve();
    let Request::Deploy(mut deploy) = deployment("web", "/nowhere", 1) else {
        panic!()
    };
    deploy.ports = [80, 81].map(|guest| Forward { host: 8080, guest }).into();
    let twice = service.call(Request::Deploy(deploy));
    assert_eq!(kind(twice), FailureKind::Invalid);
}

#[test]
fn a_deployment_that_fails_leaves_nothing() {
    let service = serve();
    let call = json!({ "version": API_VERSION, "request": { "deploy": {
        "name": "web", "reference": "demo/base", "repository": { "address": "/nowhere", "credentials": {} },
        "login": { "user": null, "authorized_keys": [], "identity_file": null },
        "machine": { "memory_bytes": null, "cpus": null, "disk_bytes": null, "acceleration": "tcg" },
        "ports": [], "autostart": "off", "wait": { "until": "started", "limit_seconds": 10 },
    } } });
    for _ in 0..2 {
        let answer = service.answer(format!("{call}\n").as_bytes());
        let message = answer["failed"]["message"].as_str().unwrap();
        assert_eq!(message, "open the repository: `/nowhere` is not there");
    }
    service.nothing_left();
}

#[test]
fn whatever_a_client_sends_it_gets_an_answer() {
    let service = serve();
    let good = json!({ "version": API_VERSION, "request": "hello" }).to_string();
    for (bytes, kind) in [
        (format!("{good}\n"), None),
        // The end of the input ends the line too.
        (good.clone(), None),
        (String::new(), Some("invalid")),
        ("\n".into(), Some("invalid")),
        ("hello\n".into(), Some("invalid")),
        (
            json!({ "version": API_VERSION, "request": "dance" }).to_string(),
            Some("invalid"),
        ),
        (
            json!({ "version": API_VERSION + 1, "request": "hello" }).to_string(),
            Some("conflict"),
        ),
        (json!({ "request": "hello" }).to_string(), Some("conflict")),
        ("[".repeat(100_000), Some("invalid")),
        ("x".repeat(3 << 20), Some("invalid")),
    ] {
        let answer = service.answer(bytes.as_bytes());
        let start: String = bytes.chars().take(60).collect();
        match kind {
            None => assert!(answer["done"]["here"].is_object(), "{start}: {answer}"),
            Some(kind) => assert_eq!(answer["failed"]["kind"], kind, "{start}: {answer}"),
        }
    }
}

#[test]
fn a_state_directory_has_one_service() {
    let service = serve();
    let error = open(service.dir.path(), &service.runtime).err().unwrap();
    assert_eq!(error.failure().kind, FailureKind::Conflict);
    assert!(error.failure().hint.is_some());
}

#[test]
fn what_was_half_made_is_removed_and_damage_is_shown() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = Runtime::new().unwrap();
    let instances = dir.path().join("state/instances");
    let put = |name: &str, record: Option<&str>| {
        std::fs::create_dir_all(instances.join(name).join("overlay")).unwrap();
        if let Some(record) = record {
            std::fs::write(instances.join(name).join("record.json"), record).unwrap();
        }
    };
    put("removed", None);
    put("damaged", Some("{"));
    put("Not-Ours", None);
    let host = open(dir.path(), &runtime).unwrap();
    assert!(!instances.join("removed").exists());
    assert!(instances.join("Not-Ours").exists());
    let socket = dir.path().join("socket");
    let listener = runtime.block_on(async { listen_unix(&socket) }).unwrap();
    runtime.spawn(async move { serve_control(host, listener, 0, std::future::pending()).await });
    let client = || HostClient::connect(&socket).unwrap();
    let listed = client().call(Request::List, |_| {}).unwrap();
    let Outcome::Instances { damaged, .. } = listed else {
        panic!("{listed:?}")
    };
    assert_eq!(damaged[0].name, "damaged");
    let name = || "damaged".to_owned();
    let inspected = client().call(Request::Inspect { name: name() }, |_| {});
    assert_eq!(kind(inspected), FailureKind::Integrity);
    let removed = client().call(Request::Remove { name: name() }, |_| {});
    assert!(removed.is_ok(), "{removed:?}");
    assert!(!instances.join("damaged").exists());
}

#[test]
fn what_happens_is_told_with_who_asked_for_it_and_followed_until_the_end() {
    let service = serve();
    let failed = service.call(deployment("web", "/nowhere", 1));
    let Err(CallError::Failed(failure)) = failed else {
        panic!("{failed:?}")
    };
    let request = failure.request.unwrap();
    assert!(request.len() == 16 && request.bytes().all(|b| b.is_ascii_hexdigit()));
    let told = |wish: EventsWish| {
        let mut told = Vec::new();
        let client = HostClient::connect(&service.socket).unwrap();
        let done = client.events(wish, |new| {
            told.push(new);
            Ok(())
        });
        done.unwrap();
        told
    };
    let all = told(EventsWish::default());
    let [Told::Event(started), Told::Event(failed)] = &all[..] else {
        panic!("{all:?}")
    };
    assert!(matches!(
        &started.what,
        EventKind::ServiceStarted { previous: None, pid, .. } if *pid == std::process::id()
    ));
    assert_eq!(failed.machine.as_deref(), Some("web"));
    assert_eq!(failed.caller.request, Some(request));
    assert_eq!(failed.caller.uid, Some(rustix::process::getuid().as_raw()));
    assert!(
        matches!(&failed.what, EventKind::StartFailed { reason } if reason.contains("/nowhere"))
    );
    // Nobody else's, and nothing twice.
    let of_other = EventsWish {
        machine: Some("other".into()),
        ..EventsWish::default()
    };
    assert_eq!(told(of_other), []);
    let followed = std::thread::scope(|scope| {
        let (begins, begun) = std::sync::mpsc::channel();
        let client = HostClient::connect(&service.socket).unwrap();
        let follow = EventsWish {
            after: Some(started.id),
            follow: true,
            ..EventsWish::default()
        };
        let following = scope.spawn(move || {
            let mut told = Vec::new();
            let done = client.events(follow, |new| {
                told.push(new);
                // Only the first is waited for.
                let _ = begins.send(());
                Ok(())
            });
            done.map(|()| told).unwrap()
        });
        begun.recv().unwrap();
        assert!(service.call(Request::End).is_ok());
        following.join().unwrap()
    });
    let kinds = followed.iter().map(|told| match told {
        Told::Event(event) => event.what.name(),
        Told::Lost { .. } => "lost",
    });
    assert_eq!(
        kinds.collect::<Vec<_>>(),
        ["start_failed", "service_stopping"]
    );
}

#[test]
fn metrics_are_told_over_the_socket() {
    let service = serve();
    let told = service.call(Request::Metrics).unwrap();
    let Outcome::Metrics(text) = told else {
        panic!("{told:?}")
    };
    assert!(
        text.contains("shale_machines{state=\"running\"} 0.0\n"),
        "{text}"
    );
    assert!(
        text.contains("shale_cache_capacity_bytes 8388608.0\n"),
        "{text}"
    );
}
