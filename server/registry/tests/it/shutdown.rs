//! Stopping.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use shale_repo::conformance::Sample;

use crate::harness::{GRACE, Running, read_answer, write_request};

#[test]
fn requests_on_their_way_are_finished_and_no_others_begun() {
    let mut running = Running::start();
    let push = running.open_push();
    let sample = Sample::new("demo/stopped", 1);
    let pack = &sample.packs[0];
    let path = format!("{push}/packs/{}", pack.id);
    let mut idle = running.connect();
    write_request(&mut idle, ("GET", "/healthz"), &[], b"");
    read_answer(&mut idle, "GET");
    let mut busy = running.connect();
    let length = format!("content-length: {}", pack.bytes.len());
    write_request(&mut busy, ("PUT", &path), &[&length], b"");
    busy.write_all(&pack.bytes[..10]).unwrap();
    std::thread::sleep(Duration::from_millis(100));

    running.begin_to_stop();
    // The idle connection is ended, which is when nobody can come any more.
    assert_eq!(idle.read(&mut [0]).unwrap_or(0), 0);
    assert!(TcpStream::connect(running.address).is_err());
    busy.write_all(&pack.bytes[10..]).unwrap();
    assert_eq!(read_answer(&mut busy, "PUT").status, 204);
    running.wait();
    assert!(running.repository.open_pack(pack.id).is_ok());
}

#[test]
fn a_request_that_never_ends_does_not_hold_the_server() {
    let mut running = Running::start();
    let mut stuck = running.connect();
    let length = ["content-length: 32"];
    write_request(&mut stuck, ("POST", "/api/v1/chunks/locate"), &length, b"");
    std::thread::sleep(Duration::from_millis(100));
    let begun = Instant::now();
    running.begin_to_stop();
    running.wait();
    assert!(begun.elapsed() >= GRACE && begun.elapsed() < 10 * GRACE);
}
