//! B3: the second virtual machine of a template on a host, to its login prompt.

use std::time::Instant;

use anyhow::Result;
use harness::{Disk, Input};

use crate::Settings;
use crate::measure::{Contender, Sample, in_turns, median, print};
use crate::programs::{Shale, clear};
use crate::rows::boot::{boot, export_base, nbd_disk, push_base, serve_base, verdict};

const TARGET: f64 = 0.15;

pub(crate) fn measure(settings: Settings) -> Result<()> {
    let base = Input::base()?;
    let directory = tempfile::tempdir()?;
    let path = |name: &str| directory.path().join(name);
    let shale = Shale::new(directory.path())?;
    push_base(&shale, &base)?;
    export_base(&shale, &path("disk.raw"))?;
    let (overlay, socket, copy) = (path("overlay"), path("nbd.sock"), path("copy.raw"));
    let ours = || {
        clear(&overlay)?;
        clear(&socket)?;
        let begun = Instant::now();
        let _server = serve_base(&shale, &socket, Some(&overlay))?;
        let (vm, login) = boot(&base, nbd_disk(&socket))?;
        vm.kill()?;
        Ok(Sample::of((login - begun).as_secs_f64()))
    };
    // The first one fills the cache and makes the plan.
    ours()?;
    let mut contenders = [
        Contender::new("shale nbd --overlay, second machine", ours),
        Contender::new("local raw file", || {
            clear(&copy)?;
            std::fs::copy(path("disk.raw"), &copy)?;
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
    println!(
        "target: at most {TARGET} s over the raw file, paired ({behind:.2} s): {}",
        verdict(behind <= TARGET)
    );
    Ok(())
}
