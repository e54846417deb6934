//! B3: the second virtual machine of a template on a host, to its login prompt.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use harness::{Disk, Input};
use tokio::runtime::Runtime;

use crate::Settings;
use crate::measure::{Contender, Sample, in_turns, median, print, spread};
use crate::programs::{Shale, clear};
use crate::rows::boot::{
    Deployed, boot, end_service, fresh_disk, push_base, serve_registry, verdict,
};
use crate::rows::network::FAST;
use crate::rows::tunnel::{Tunnel, print_link};

const TARGET: f64 = 0.15;

/// Bytes that the link may carry for a second machine, which asks what its name stands for. No chunk of a large file
/// would fit.
const NAMES_BYTES: f64 = 16384.0;

/// The first machine has settled when nothing came over the link for so long, and is waited for so long at most.
const QUIET: Duration = Duration::from_secs(10);
const QUIET_WITHIN: Duration = Duration::from_secs(180);

pub(crate) fn measure(settings: Settings) -> Result<()> {
    let runtime = Runtime::new().context("start threads")?;
    let base = Input::base()?;
    let directory = tempfile::tempdir()?;
    let path = |name: &str| directory.path().join(name);
    let store = Shale::new(&path("store"))?;
    push_base(&store, &base)?;
    let (raw, copy) = (path("disk.raw"), path("copy.raw"));
    fresh_disk(&store, &raw)?;
    let (_registry, registry) = serve_registry(&store, &path("address"))?;
    let link = settings.link.unwrap_or(FAST);
    print_link(&runtime, link)?;
    let tunnel = Tunnel::new(&runtime, link, registry)?;
    let host = path("host");
    std::fs::create_dir(&host)?;
    let shale = Shale::new(&host)?.of_registry(&format!("http://{}", tunnel.address));

    // Of each run: the bytes that came through the link, and those of chunks as Shale counts them.
    let (moved, fetched) = (RefCell::new(Vec::new()), RefCell::new(Vec::new()));
    let ours = || {
        clear(&path("nothing"))?;
        let before = tunnel.down_bytes();
        let machine = Deployed::new(&shale)?;
        moved
            .borrow_mut()
            .push((tunnel.down_bytes() - before) as f64);
        let bytes = machine.fetched().context("deploy says what it fetched")?;
        fetched.borrow_mut().push(bytes as f64);
        Ok(Sample::of(machine.seconds))
    };
    // The first one fills the cache and makes the plan. At its prompt it is still busy with services that a second one
    // may get to before its own.
    let first = Deployed::new(&shale)?;
    let first_login = first.seconds;
    wait_until_quiet(&tunnel);
    drop(first);
    let first_bytes = tunnel.down_bytes();
    let mut contenders = [
        Contender::new("shale vm deploy, second machine", ours),
        Contender::new("local raw file", || {
            clear(&copy)?;
            std::fs::copy(&raw, &copy)?;
            clear(&path("nothing"))?;
            let begun = Instant::now();
            let (vm, login) = boot(&base, Disk::Raw(copy.clone()))?;
            vm.kill()?;
            Ok(Sample::of((login - begun).as_secs_f64()))
        }),
    ];
    in_turns(settings.runs, &mut contenders)?;
    println!("input: base, direct kernel boot, emulated; a registry behind the link");
    print("s to login", &contenders);
    let behind = median(&contenders[0].differences_to(&contenders[1]));
    end_service(&shale)?;
    println!(
        "the first machine: {first_login:.1} s, {:.1} MB over the link until it read nothing for {} s",
        first_bytes as f64 / 1e6,
        QUIET.as_secs()
    );
    let (moved, fetched) = (moved.take(), fetched.take());
    println!(
        "bytes over the link for a second one, counted in the proxy: {}; of chunks, counted by the host: {}",
        spread(&moved, 0),
        spread(&fetched, 0)
    );
    let names_only = moved.iter().all(|bytes| *bytes <= NAMES_BYTES);
    let no_chunks = fetched.iter().all(|bytes| *bytes == 0.0);
    println!(
        "target: no bytes of chunks or packs, at most {NAMES_BYTES} of names: {}",
        verdict(names_only && no_chunks)
    );
    println!(
        "target: at most {TARGET} s over the raw file, paired ({behind:.2} s): {}",
        verdict(behind <= TARGET)
    );
    Ok(())
}

/// Waits until a machine has read what it reads when nobody uses it.
fn wait_until_quiet(tunnel: &Tunnel) {
    let deadline = Instant::now() + QUIET_WITHIN;
    let (mut bytes, mut since) = (tunnel.down_bytes(), Instant::now());
    while since.elapsed() < QUIET && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(200));
        let now = tunnel.down_bytes();
        if now != bytes {
            (bytes, since) = (now, Instant::now());
        }
    }
}
