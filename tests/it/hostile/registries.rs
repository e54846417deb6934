//! Registries that answer what none may: a command ends with a clear error, or says what it waits for and goes on
//! waiting; in bounded memory.

use std::fs;
use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::{Background, Random, Registry, Shale, run};

use super::{MOST_KIB, limited_background, peak_kib};
use crate::registry::{Passed, between};

/// What a hostile registry sends in place of an answer; then the connection ends.
type Answer = (&'static str, fn(&mut TcpStream) -> io::Result<()>);

/// Each ends when the command is gone, if not before.
const ANSWERS: [Answer; 14] = [
    ("nothing", |to| io::copy(to, &mut io::sink()).map(drop)),
    ("an end", |_| Ok(())),
    ("no HTTP", |to| to.write_all(&[0x16; 5000])),
    ("endless headers", |to| {
        to.write_all(b"HTTP/1.1 200 OK\r\n")?;
        endless(to, b"x-more: of the same, and more of the same\r\n")
    }),
    ("an endless header", |to| {
        to.write_all(b"HTTP/1.1 200 OK\r\nx-long: ")?;
        endless(to, &[b'a'; 4096])
    }),
    ("a header, byte by byte", |to| {
        drip(to, b"HTTP/1.1 200 OK\r\nx-slow: a", b"a")
    }),
    ("an endless body", |to| {
        to.write_all(b"HTTP/1.1 200 OK\r\n\r\n")?;
        endless(to, &[b'['; 65536])
    }),
    ("an endless body in chunks", |to| {
        to.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")?;
        endless(to, b"10\r\n0123456789abcdef\r\n")
    }),
    ("a body as long as the largest number", |to| {
        to.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 18446744073709551615\r\n\r\n")?;
        endless(to, &[0; 65536])
    }),
    ("less than it says", |to| {
        to.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n{}")
    }),
    ("chunks that are none", |to| {
        to.write_all(
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nfffffffffffffffff\r\nzz",
        )
    }),
    ("JSON that nests deeply", |to| body(to, &[b'['; 60_000])),
    ("other bytes", |to| body(to, &[0x5a; 3000])),
    ("an error that nests deeply", |to| {
        let head = "HTTP/1.1 404 Not Found\r\ncontent-type: application/problem+json\r\n";
        to.write_all(format!("{head}content-length: 10000\r\n\r\n").as_bytes())?;
        to.write_all(&[b'['; 10_000])
    }),
];

fn endless(to: &mut TcpStream, piece: &[u8]) -> io::Result<()> {
    loop {
        to.write_all(piece)?;
    }
}

fn drip(to: &mut TcpStream, first: &[u8], piece: &[u8]) -> io::Result<()> {
    to.write_all(first)?;
    loop {
        std::thread::sleep(Duration::from_millis(20));
        to.write_all(piece)?;
    }
}

/// A whole answer.
fn body(to: &mut TcpStream, bytes: &[u8]) -> io::Result<()> {
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", bytes.len());
    to.write_all(head.as_bytes())?;
    to.write_all(bytes)
}

/// Stands before a registry, passes requests on, and answers those itself that have `part` in their first line.
struct Hostile<'a> {
    real: &'a str,
    part: &'a str,
    answer: Answer,
    /// Requests that it answered itself.
    answered: AtomicUsize,
}

impl Hostile<'_> {
    /// Runs `command`, which gets the address, beside it. What the command has started must have ended by then.
    fn beside<T>(&self, command: impl FnOnce(SocketAddr) -> Result<T>) -> Result<T> {
        between(&|client| self.serve(client), command)
    }

    /// One request of a connection.
    fn serve(&self, mut client: TcpStream) -> io::Result<()> {
        let Some(request) = Passed::read(&client)? else {
            return Ok(());
        };
        if request.first().contains(self.part) {
            self.answered.fetch_add(1, Ordering::Relaxed);
            return (self.answer.1)(&mut client);
        }
        let mut server = request.forward(self.real)?;
        io::copy(&mut server, &mut client).map(drop)
    }
}

/// What a command did in the end.
#[derive(Debug)]
enum Outcome {
    /// It ended with this code.
    Ended(i32),
    /// It said that it waits.
    Waits,
}

/// Within this time a command has ended, or said that it waits: that it does after two seconds.
const PATIENCE: Duration = Duration::from_secs(30);

/// Runs a command against such a registry.
fn outcome(args: &[&str]) -> Result<(Outcome, String)> {
    let host = Shale::new()?;
    fs::create_dir(host.home().join("tree"))?;
    // That of no other case: what one of them stored, a registry that lies to another might have after all.
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    fs::write(host.home().join("tree/file"), format!("content {number}"))?;
    let said_file = host.home().join(".said");
    let mut command = limited_background(&host, args);
    command.stderr(fs::File::create(&said_file)?);
    command.stdout(fs::File::create(host.home().join(".out"))?);
    let mut child = Background::start(&mut command)?;
    let (begun, mut peak) = (Instant::now(), 0);
    loop {
        let ended = child.ended()?;
        let said = fs::read_to_string(&said_file)?;
        ensure!(!said.contains("panicked at"), "{said}");
        if let Some(status) = ended {
            let code = status.code().with_context(|| format!("{status}: {said}"))?;
            ensure!((1..100).contains(&code), "{status}: {said}");
            ensure!(
                said.lines().any(|line| line.starts_with("shale: ")),
                "{status}: {said}"
            );
            ensure!(!host.home().join("disk.raw").exists(), "a disk is there");
            return Ok((Outcome::Ended(code), said));
        }
        peak = peak.max(peak_kib(child.id()));
        ensure!(peak < MOST_KIB, "{peak} KiB: {said}");
        if said.contains("waiting for the registry") {
            child.kill()?;
            return Ok((Outcome::Waits, said));
        }
        ensure!(
            begun.elapsed() < PATIENCE,
            "it neither ends nor says why: {said}"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// What is asked of a registry by reading commands, in order.
const READ: [&str; 5] = [
    "/api/v1/refs/test/tree",
    "/api/v1/templates/",
    "/api/v1/layers/",
    "/api/v1/chunks/locate",
    "/api/v1/packs/",
];

/// And by a push.
const WRITTEN: [&str; 6] = [
    "POST /api/v1/pushes ",
    "/missing",
    "/packs/sha256",
    "/layers/blake3",
    "/templates/blake3",
    "PUT /api/v1/refs/",
];

/// How often each way out must be seen at least, of all: otherwise the test tests something else.
const LEAST: usize = 10;

/// Commands that run at once: most of them wait.
const AT_ONCE: usize = 24;

#[test]
fn a_registry_that_answers_nonsense_is_an_error_or_a_wait_with_a_reason() -> Result<()> {
    let (home, author) = (Shale::new()?, Shale::new()?);
    let registry = Registry::start(&home, 0)?;
    let tree = tempfile::tempdir()?;
    fs::write(
        tree.path().join("file"),
        Random::printed("hostile").bytes(300_000),
    )?;
    let mut push = author.command();
    push.arg("push")
        .arg(tree.path())
        .arg(registry.name("test/tree"));
    run(&mut push)?;
    let mut cases: Vec<(&str, &'static str, Answer)> = Vec::new();
    for answer in ANSWERS {
        cases.extend(READ.map(|part| ("export", part, answer)));
        cases.extend(WRITTEN.map(|part| ("push", part, answer)));
        cases.push(("nbd", READ[3], answer));
        cases.push(("create", READ[2], answer));
    }
    let next = AtomicUsize::new(0);
    let work = || -> Result<[usize; 2]> {
        let mut seen = [0; 2];
        while let Some((command, part, answer)) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
            let what = || format!("{command}, {part}: {}", answer.0);
            let hostile = Hostile {
                real: registry.address(),
                part,
                answer: *answer,
                answered: AtomicUsize::new(0),
            };
            let (outcome, said) = hostile
                .beside(|address| {
                    let name = format!("{address}/test/tree");
                    let other = format!("{address}/test/other-{}", address.port());
                    match *command {
                        "export" => outcome(&["export", &name, "disk.raw"]),
                        "push" => outcome(&["push", "tree", &other]),
                        "nbd" => outcome(&["nbd", &name, "--socket", "s"]),
                        _ => outcome(&["template", "create", &other, &name]),
                    }
                })
                .with_context(what)?;
            println!("{}: {outcome:?} {}", what(), said.trim_end());
            let answered = hostile.answered.load(Ordering::Relaxed);
            ensure!(answered > 0, "{}: not asked", what());
            match outcome {
                Outcome::Ended(code) => {
                    ensure!([6, 7].contains(&code), "{}: {code}, {said}", what());
                    seen[0] += 1;
                }
                Outcome::Waits => seen[1] += 1,
            }
        }
        Ok(seen)
    };
    let seen = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(work)).collect();
        let ended = workers
            .into_iter()
            .map(|worker| worker.join().expect("no panic"));
        ended.collect::<Result<Vec<_>>>()
    })?;
    let [ended, waits] = [0, 1].map(|way| seen.iter().map(|seen| seen[way]).sum::<usize>());
    println!("{ended} commands ended, {waits} wait");
    ensure!(ended >= LEAST && waits >= LEAST);
    registry.server.terminate()
}
