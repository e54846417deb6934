//! A deployed virtual machine whose applications are asked.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::{Vms, free_port, run};

/// How long a guest may take to its login prompt and to its services, without acceleration.
const ANSWERS_WITHIN: Duration = Duration::from_secs(300);

/// Deploys `reference`, asks both applications and the guest about them, and removes the machine.
pub(super) fn check_deployed(vms: &Vms, reference: &str) -> Result<()> {
    let http = free_port()?;
    let publish = format!("{http}:80");
    let limit = ANSWERS_WITHIN.as_secs().to_string();
    let begun = Instant::now();
    let mut deploy = vec!["deploy", reference, "--name", "web", "--memory", "1G"];
    deploy.extend(["--publish", &publish, "--timeout", &limit]);
    vms.run(&deploy)?;
    println!("{reference}: login after {:?}", begun.elapsed());
    until(begun, || ask_nginx(http)).context("nginx")?;
    println!("{reference}: nginx after {:?}", begun.elapsed());
    let select = "runuser -u postgres -- psql -tAc 'select 1'";
    let answer = until(begun, || vms.ssh("web", select)).context("PostgreSQL")?;
    println!("{reference}: PostgreSQL after {:?}", begun.elapsed());
    ensure!(answer == "1\n", "{answer}");

    for user in ["postgres", "www-data"] {
        let id = vms.ssh("web", &format!("id {user}"))?;
        let expected = format!("({user}) gid=");
        ensure!(id.starts_with("uid=") && id.contains(&expected), "{id}");
    }
    let owners = vms.ssh("web", "stat -c %U /var/lib/postgresql/*/main")?;
    ensure!(owners == "postgres\n", "{owners}");
    let audit = vms.ssh("web", "dpkg --audit")?;
    ensure!(audit.is_empty(), "dpkg --audit: {audit}");

    vms.run(&["stop", "web", "--timeout", &limit])?;
    vms.run(&["rm", "web", "--yes"])?;
    vms.nothing_left()?;
    // Until the next deployment the repository is free for other commands.
    run(vms.shale.command().args(["host", "stop"])).map(drop)
}

/// What `ask` answers, as soon as it does.
fn until<T>(begun: Instant, mut ask: impl FnMut() -> Result<T>) -> Result<T> {
    loop {
        let answer = ask();
        if answer.is_ok() || begun.elapsed() > ANSWERS_WITHIN {
            return answer;
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn ask_nginx(port: u16) -> Result<()> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut page = String::new();
    stream.read_to_string(&mut page)?;
    ensure!(
        page.starts_with("HTTP/1.1 200 OK") && page.contains("Welcome to nginx!"),
        "{page}"
    );
    Ok(())
}
