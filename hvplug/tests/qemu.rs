//! The driver on the real QEMU, with a machine that finds nothing to boot.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use shale_hvplug::*;

/// Ends the machine when a test fails.
struct Ended<'a>(&'a Qemu, Vm);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        let _ = self.0.stop(&self.1, Stop::PowerCut);
    }
}

fn machine(dir: &Path) -> Machine {
    let disk = dir.join("disk.raw");
    fs::write(&disk, vec![0; 1 << 20]).unwrap();
    Machine {
        name: "empty".into(),
        uuid: [7; 16],
        resources: Resources {
            memory_bytes: 64 << 20,
            cpus: 1,
            acceleration: Acceleration::Tcg,
        },
        boot: None,
        disks: vec![DiskOffer::Block(disk)],
        data_disks: vec![],
        forwards: vec![],
        memory: Memory::Own,
        files: VmFiles {
            control: dir.join("control"),
            console: dir.join("console"),
            channel: dir.join("channel"),
            pid: dir.join("pid"),
            console_log: dir.join("console.log"),
            log: dir.join("log"),
        },
    }
}

#[test]
fn a_machine_is_started_found_paused_and_ended() {
    let dir = tempfile::tempdir().unwrap();
    let qemu = Qemu::new();
    assert_eq!(qemu.capabilities().missing, None);
    let machine = machine(dir.path());
    assert_eq!(qemu.attach(&machine.files).unwrap(), None);

    let vm = Ended(&qemu, qemu.start(&machine).unwrap());
    assert_eq!(qemu.state(&vm.1).unwrap(), VmState::Running);
    assert!(qemu.console(&vm.1).exists());
    let status = fs::read_to_string(format!("/proc/{}/stat", vm.1.process.pid)).unwrap();
    let session = status
        .rsplit(')')
        .next()
        .unwrap()
        .split(' ')
        .nth(4)
        .unwrap();
    assert_eq!(
        session,
        vm.1.process.pid.to_string(),
        "it leads a session of its own"
    );

    // A second one on the same disk would destroy it.
    let before = fs::read(&machine.files.pid).unwrap();
    let twice = Machine {
        files: VmFiles {
            control: dir.path().join("other-control"),
            console: dir.path().join("other-console"),
            ..machine.files.clone()
        },
        ..machine.clone()
    };
    assert!(matches!(qemu.start(&twice), Err(DriverError::Start { .. })));
    assert_eq!(fs::read(&machine.files.pid).unwrap(), before);

    qemu.pause(&vm.1).unwrap();
    assert_eq!(qemu.state(&vm.1).unwrap(), VmState::Paused("paused".into()));
    // Another process of the host finds it.
    let found = Qemu::new().attach(&machine.files).unwrap();
    assert_eq!(found.as_ref(), Some(&vm.1));
    qemu.resume(&vm.1).unwrap();
    assert_eq!(qemu.state(&vm.1).unwrap(), VmState::Running);

    qemu.stop(&vm.1, Stop::PowerButton).unwrap();
    qemu.stop(&vm.1, Stop::PowerCut).unwrap();
    assert_eq!(qemu.state(&vm.1).unwrap(), VmState::Ended);
    assert_eq!(qemu.attach(&machine.files).unwrap(), None);
    qemu.stop(&vm.1, Stop::PowerCut).unwrap();
    assert!(matches!(qemu.pause(&vm.1), Err(DriverError::Ended)));
}

#[test]
fn a_machine_that_does_not_start_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let mut machine = machine(dir.path());
    machine.disks = vec![DiskOffer::Nbd(dir.path().join("nobody"))];
    let begun = Instant::now();
    let error = Qemu::new().start(&machine).unwrap_err();
    assert!(matches!(error, DriverError::Start { .. }));
    assert!(error.to_string().contains("nobody"), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(10));

    machine.disks = vec![];
    let error = Qemu::with_program("/nowhere/qemu".into()).start(&machine);
    assert!(
        matches!(error, Err(DriverError::Missing { .. })),
        "{error:?}"
    );

    machine.files.control = dir.path().join("x".repeat(100));
    let error = Qemu::new().start(&machine);
    assert!(matches!(error, Err(DriverError::LongPath(_))), "{error:?}");
}

#[test]
fn a_machine_goes_on_where_another_was_kept() {
    let dir = tempfile::tempdir().unwrap();
    let qemu = Qemu::new();
    let warm = qemu.warm_start().unwrap();
    assert!(warm.version().unwrap().contains("version"));
    let memory = dir.path().join("memory");
    let machine = machine(dir.path());
    let bytes = machine.resources.memory_bytes;
    fs::File::create(&memory).unwrap().set_len(bytes).unwrap();
    let kept = Machine {
        memory: Memory::Shared(memory.clone()),
        ..machine.clone()
    };
    let vm = Ended(&qemu, qemu.start(&kept).unwrap());
    // The firmware has come as far as it comes.
    sleep(Duration::from_secs(2));
    let state = warm.keep(&vm.1).unwrap();
    assert!(!state.is_empty());
    assert_eq!(
        qemu.state(&vm.1).unwrap(),
        VmState::Paused("postmigrate".into())
    );
    drop(vm);
    let before = fs::read(&memory).unwrap();
    assert!(before.iter().any(|byte| *byte != 0), "the firmware ran");

    let other = Machine {
        memory: Memory::Private("memory".into()),
        ..machine
    };
    let directory = fs::File::open(dir.path()).unwrap();
    let vm = Ended(
        &qemu,
        warm.start_from(&other, &state, directory.as_fd()).unwrap(),
    );
    assert_eq!(qemu.state(&vm.1).unwrap(), VmState::Paused("paused".into()));
    assert!(other.files.channel.exists());
    qemu.resume(&vm.1).unwrap();
    assert_eq!(qemu.state(&vm.1).unwrap(), VmState::Running);
    sleep(Duration::from_millis(500));
    assert!(fs::read(&memory).unwrap() == before, "it is only read");
    drop(vm);

    // Half of a state is none, and leaves no machine.
    let error = warm.start_from(&other, &state[..state.len() / 2], directory.as_fd());
    assert!(
        matches!(error, Err(DriverError::Refused { .. })),
        "{error:?}"
    );
    assert_eq!(qemu.attach(&other.files).unwrap(), None);
}

#[test]
fn a_machine_that_is_killed_from_outside_has_ended() {
    let dir = tempfile::tempdir().unwrap();
    let qemu = Qemu::new();
    let vm = Ended(&qemu, qemu.start(&machine(dir.path())).unwrap());
    assert!(vm.1.process.kill(Duration::from_secs(10)));
    let deadline = Instant::now() + Duration::from_secs(10);
    while qemu.state(&vm.1).unwrap() != VmState::Ended {
        assert!(Instant::now() < deadline);
        sleep(Duration::from_millis(10));
    }
    assert!(matches!(qemu.resume(&vm.1), Err(DriverError::Ended)));
}

/// The fields of a process that say who it is.
fn identity(vm: &Vm) -> String {
    let status = fs::read_to_string(format!("/proc/{}/status", vm.process.pid)).unwrap();
    let wanted = ["Uid:", "Gid:", "Groups:", "Seccomp:"];
    let lines = status.lines();
    let lines = lines.filter(|line| wanted.iter().any(|field| line.starts_with(field)));
    let fields = lines.map(|line| line.split_ascii_whitespace().collect::<Vec<_>>().join(" "));
    fields.collect::<Vec<_>>().join("\n")
}

#[test]
fn privileged_a_machine_runs_as_another_user_after_one_that_did_not() {
    let dir = tempfile::tempdir().unwrap();
    let uid = std::os::unix::fs::MetadataExt::uid(&fs::metadata(dir.path()).unwrap());
    assert_eq!(uid, 0, "only root can become another user");
    let machine = machine(dir.path());
    let other = Qemu::new().run_as(Account {
        uid: 5,
        groups: vec![60, 61],
    });
    let before = Ended(&other, Qemu::new().start(&machine).unwrap());
    assert!(identity(&before.1).starts_with("Uid: 0 0 0 0\nGid: 0"));
    // It is found all the same, and leaves its files.
    assert_eq!(
        other.attach(&machine.files).unwrap().as_ref(),
        Some(&before.1)
    );
    other.stop(&before.1, Stop::PowerCut).unwrap();

    // A port that is root's alone, which the machine may have all the same.
    let free = (600..1024).find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok());
    let forward = Forward {
        host: free.unwrap(),
        guest: 80,
    };
    let machine = Machine {
        forwards: vec![forward],
        ..machine
    };
    let vm = Ended(&other, other.start(&machine).unwrap());
    assert!(TcpStream::connect(("127.0.0.1", forward.host)).is_ok());
    let group = 0x7000_0000 + 0x0707_0707;
    let expected =
        format!("Uid: 5 5 5 5\nGid: {group} {group} {group} {group}\nGroups: 60 61\nSeccomp: 2");
    assert_eq!(identity(&vm.1), expected);
    assert_eq!(
        Qemu::new().attach(&machine.files).unwrap().as_ref(),
        Some(&vm.1)
    );
    other.pause(&vm.1).unwrap();
    assert_eq!(
        other.state(&vm.1).unwrap(),
        VmState::Paused("paused".into())
    );
    drop(vm);

    // Where its number should be, what has broken out of a machine put the way to another file.
    let secret = dir.path().join("secret");
    fs::write(&secret, "1").unwrap();
    fs::remove_file(&machine.files.pid).unwrap();
    std::os::unix::fs::symlink(&secret, &machine.files.pid).unwrap();
    assert!(other.attach(&machine.files).is_err());
}
