//! Clients of the NBD server that do what none may: it goes on serving others, in bounded memory.

use std::fs;

use anyhow::{Context, Result, ensure};
use harness::{Background, HOSTILE_AT, HOSTILE_CLIENTS, NbdClient, Random, Shale, run};

use super::{MOST_KIB, limited_background, peak_kib};

#[test]
fn a_hostile_client_does_not_disturb_others() -> Result<()> {
    let shale = Shale::new()?;
    let tree = tempfile::tempdir()?;
    fs::write(
        tree.path().join("file"),
        Random::printed("clients").bytes(500_000),
    )?;
    run(shale
        .command()
        .arg("push")
        .arg(tree.path())
        .arg("test/tree"))?;
    let socket = shale.home().join("s");
    let args = ["nbd", "test/tree", "--socket", "s", "--overlay", "overlay"];
    let mut server = Background::start_until(&mut limited_background(&shale, &args), "serving")?;
    let mut good = NbdClient::connect(&socket)?;
    ensure!(good.write(HOSTILE_AT + (4 << 20), &[9; 4096])? == 0);
    for round in 0..2 {
        // At once, with the good client between them; then again, after all of them.
        std::thread::scope(|scope| {
            let others: Vec<_> = HOSTILE_CLIENTS
                .iter()
                .map(|(name, act)| (name, scope.spawn(|| act(&socket))))
                .collect();
            while others.iter().any(|(_, other)| !other.is_finished()) {
                check(&mut good).context("beside them")?;
            }
            for (name, other) in others {
                other
                    .join()
                    .expect("no panic")
                    .with_context(|| format!("a client that {name}"))?;
            }
            anyhow::Ok(())
        })?;
        check(&mut good).context("after them")?;
        check(&mut NbdClient::connect(&socket)?).context("a new client")?;
        let peak = peak_kib(server.id());
        println!("round {round}: {peak} KiB at most");
        ensure!(server.ended()?.is_none() && peak < MOST_KIB, "{peak} KiB");
    }
    server.terminate()
}

/// Whether a client that behaves is served.
fn check(client: &mut NbdClient) -> Result<()> {
    let superblock = client.read(1024, 1024)?;
    let magic = superblock.map(|bytes| [bytes[56], bytes[57]]);
    ensure!(magic == Ok([0x53, 0xef]), "{magic:?}");
    ensure!(client.read(HOSTILE_AT + (4 << 20), 4096)? == Ok(vec![9; 4096]));
    ensure!(client.flush()? == 0, "it cannot flush");
    Ok(())
}
