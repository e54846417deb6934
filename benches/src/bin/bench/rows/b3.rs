//! B3: the second virtual machine of a template on a host, to its login prompt.

use std::cell::Cell;
use std::time::Instant;

use anyhow::{Context, Result};
use harness::{Disk, Input};

use crate::Settings;
use crate::measure::{Contender, Sample, in_turns, median, print};
use crate::programs::{Shale, clear};
use crate::rows::boot::{Deployed, boot, end_service, fresh_disk, push_base, verdict};

const TARGET: f64 = 0.15;

pub(crate) fn measure(settings: Settings) -> Result<()> {
    let base = Input::base()?;
    let directory = tempfile::tempdir()?;
    let path = |name: &str| directory.path().join(name);
    let shale = Shale::new(directory.path())?;
    push_base(&shale, &base)?;
    let (raw, copy) = (path("disk.raw"), path("copy.raw"));
    fresh_disk(&shale, &raw)?;
    let fetched = Cell::new(Some(0));
    let ours = || {
        clear(&path("nothing"))?;
        let machine = Deployed::new(&shale)?;
        fetched.set(fetched.get().zip(machine.fetched()).map(|(a, b)| a + b));
        Ok(Sample::of(machine.seconds))
    };
    // The first one fills the cache and makes the plan.
    ours()?;
    fetched.set(Some(0));
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
    println!("input: base, direct kernel boot, emulated; a repository on this machine");
    print("s to login", &contenders);
    let behind = median(&contenders[0].differences_to(&contenders[1]));
    let moved = fetched.get().context("deploy says what it fetched")?;
    end_service(&shale)?;
    println!(
        "target: no chunk is fetched ({moved} bytes): {}",
        verdict(moved == 0)
    );
    println!(
        "target: at most {TARGET} s over the raw file, paired ({behind:.2} s): {}",
        verdict(behind <= TARGET)
    );
    Ok(())
}
