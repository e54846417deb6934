//! Clients of an NBD server that do what none may. None of what they send may reach the disk.

use std::io::{ErrorKind, Write};
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::nbd::{NbdClient, NbdCommand, nbd_option};

/// What a client does, and that it does it to the server on a socket; `Err` is for what it needs and does not get.
pub type HostileClient = (&'static str, fn(&Path) -> Result<()>);

/// The option that asks for the names of the exports.
const LIST: u32 = 3;

/// Bytes of a write that is as long as a length can say.
const HUGE: u32 = u32::MAX;

/// Where they would write.
pub const HOSTILE_AT: u64 = 512 << 20;

/// All of them.
pub const HOSTILE_CLIENTS: [HostileClient; 11] = [
    ("goes after the greeting", |socket| {
        NbdClient::greeted(socket).map(drop)
    }),
    ("sends a million options", |socket| {
        let options = nbd_option(LIST, 0).repeat(1000);
        refused(socket, &options, 1000)
    }),
    ("sends a million unknown options", |socket| {
        let options = nbd_option(0x7fff_ffff, 0).repeat(1000);
        refused(socket, &options, 1000)
    }),
    ("says that an option is of 4 GiB", |socket| {
        refused(
            socket,
            &[nbd_option(LIST, HUGE), vec![0; 1 << 20]].concat(),
            64,
        )
    }),
    ("sends no option", |socket| {
        refused(socket, &[0xa5; 1 << 16], 64)
    }),
    ("sends half an option", |socket| {
        NbdClient::greeted(socket)?.write_all(&nbd_option(LIST, 5)[..11])?;
        Ok(())
    }),
    ("sends half a request", |socket| {
        let mut client = NbdClient::connect(socket)?;
        client.send_bytes(&[0x25, 0x60, 0x95, 0x13, 0, 0])
    }),
    ("says that a write is of 4 GiB", |socket| {
        let mut client = NbdClient::connect(socket)?;
        client.send(NbdCommand::Write, HOSTILE_AT, HUGE, &[])?;
        // Some of it; it is refused, or the connection ends.
        for _ in 0..64 {
            if client.send_bytes(&[7; 1 << 20]).is_err() {
                break;
            }
        }
        Ok(())
    }),
    ("writes beyond the end", |socket| {
        let mut client = NbdClient::connect(socket)?;
        ensure!(
            client.write(u64::MAX - 5, &[7; 4096])? != 0,
            "it was written"
        );
        ensure!(client.read(u64::MAX, HUGE)?.is_err(), "it was read");
        Ok(())
    }),
    ("goes in the middle of a write", |socket| {
        let mut client = NbdClient::connect(socket)?;
        client.send(NbdCommand::Write, HOSTILE_AT, 1 << 20, &[7; 1 << 19])
    }),
    ("reads and never takes what it gets", |socket| {
        let mut client = NbdClient::connect(socket)?;
        // More than the server has under way for one client; then it takes no more.
        for _ in 0..200 {
            client.send(NbdCommand::Read, 0, 32 << 20, &[])?;
        }
        std::thread::sleep(Duration::from_millis(300));
        Ok(())
    }),
];

/// Sends this up to so many times, until the server has enough of it.
fn refused(socket: &Path, bytes: &[u8], times: usize) -> Result<()> {
    let mut stream = NbdClient::greeted(socket)?;
    let mut answers = stream.try_clone()?;
    let refused = std::thread::scope(|scope| -> Result<bool> {
        // So that it is not the server that waits.
        let reader = scope.spawn(move || std::io::copy(&mut answers, &mut std::io::sink()));
        for _ in 0..times {
            if let Err(error) = stream.write_all(bytes) {
                let kinds = [ErrorKind::BrokenPipe, ErrorKind::ConnectionReset];
                ensure!(kinds.contains(&error.kind()), "{error}");
                return Ok(true);
            }
        }
        stream.shutdown(std::net::Shutdown::Both)?;
        let _ = reader.join();
        Ok(false)
    })?;
    ensure!(refused, "it took all of that");
    Ok(())
}
