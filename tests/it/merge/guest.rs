//! A virtual machine whose applications are asked.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use harness::{Background, Disk, Forward, Machine, Qemu, Shale, free_port};

use super::Inputs;

/// How long a guest may take to its services, without acceleration and beside other tests.
const ANSWERS_WITHIN: Duration = Duration::from_secs(300);

/// Boots `reference` lazily and waits until both applications answer.
pub(super) fn boot(shale: &Shale, inputs: &Inputs, reference: &str) -> Result<()> {
    let work = tempfile::tempdir()?;
    let socket = work.path().join("s");
    let mut serve = shale.command();
    serve.args(["nbd", reference, "--socket"]).arg(&socket);
    serve.arg("--overlay").arg(work.path().join("overlay"));
    let server = Background::start_until(&mut serve, "serving")?;
    let disk = Disk::Nbd {
        socket,
        export: String::new(),
    };
    let mut machine = Machine::new(inputs.base.kernel()?, inputs.base.initrd()?, disk);
    machine.memory = 1024;
    let (http, sql) = (free_port()?, free_port()?);
    machine.forwards = vec![
        Forward {
            host: http,
            guest: 80,
        },
        Forward {
            host: sql,
            guest: 5432,
        },
    ];
    let begun = Instant::now();
    let mut vm = Qemu::start(&machine)?;
    vm.wait_for("login:", ANSWERS_WITHIN)?;
    println!("{reference}: login after {:?}", begun.elapsed());
    for (name, port, ask) in [
        ("nginx", http, ask_nginx as Ask),
        ("PostgreSQL", sql, ask_postgresql),
    ] {
        let mut answer = ask(port);
        while answer.is_err() && begun.elapsed() < ANSWERS_WITHIN {
            std::thread::sleep(Duration::from_millis(200));
            answer = ask(port);
        }
        let answer = answer.with_context(|| format!("{name} of {reference}"));
        answer.with_context(|| vm.console().unwrap_or_default())?;
        println!("{reference}: {name} after {:?}", begun.elapsed());
    }
    vm.power_down(ANSWERS_WITHIN)?;
    server.terminate()
}

/// Asks a service on this port, and fails while it does not answer as it should.
type Ask = fn(u16) -> Result<()>;

fn connect(port: u16) -> Result<TcpStream> {
    let stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    Ok(stream)
}

fn ask_nginx(port: u16) -> Result<()> {
    let mut stream = connect(port)?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut page = String::new();
    stream.read_to_string(&mut page)?;
    ensure!(
        page.starts_with("HTTP/1.1 200 OK") && page.contains("Welcome to nginx!"),
        "{page}"
    );
    Ok(())
}

/// Begins a session (PostgreSQL documentation, "Message Flow"). The package's configuration lets nobody in from
/// other machines: the server says so once it is up.
fn ask_postgresql(port: u16) -> Result<()> {
    let mut stream = connect(port)?;
    // Protocol 3.0, parameters, and an empty name that ends them.
    let startup = [&196_608_u32.to_be_bytes()[..], b"user\0postgres\0\0"].concat();
    let len = startup.len() as u32 + 4;
    stream.write_all(&[&len.to_be_bytes()[..], &startup].concat())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let text = String::from_utf8_lossy(&answer);
    match answer.first() {
        Some(b'E') if text.contains("no pg_hba.conf entry") => Ok(()),
        _ => bail!("it says {:?}", answer.escape_ascii().to_string()),
    }
}
