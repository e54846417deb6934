//! B1: the first virtual machine of a template on a host that has nothing of it, over a fast network, when the registry
//! has learned from another host what a boot reads.

use anyhow::Result;

use crate::Settings;
use crate::measure::{in_turns, median, print};
use crate::rows::boot::verdict;
use crate::rows::network::{FAST, Lazily, Network};

/// Seconds over the raw file.
const TARGET: f64 = 0.6;

/// Bytes over the link, in boot sets.
const TARGET_BYTES: f64 = 1.15;

pub(crate) fn measure(settings: Settings) -> Result<()> {
    let network = Network::new(settings.link.unwrap_or(FAST))?;
    network.boot_once()?;
    let mut contenders = [
        network.lazily(Lazily::WithBootSet),
        network.lazily(Lazily::WithBootSetAlone),
        network.locally(),
    ];
    in_turns(settings.runs, &mut contenders)?;
    print("s to login", &contenders);
    network.print_moved(&contenders);
    let set = network.boot_set_bytes()? as f64;
    let share = network.bytes(&contenders[1]) / set;
    println!("the boot set has {:.1} MB", set / 1e6);
    for contender in &contenders[..2] {
        let behind = median(&contender.differences_to(&contenders[2]));
        println!(
            "target: at most {TARGET} s over the raw file, paired ({behind:.2} s), {}: {}",
            contender.name(),
            verdict(behind <= TARGET)
        );
    }
    println!(
        "target: without fill, at most {TARGET_BYTES} x what a boot reads ({share:.3} x): {}",
        verdict(share <= TARGET_BYTES)
    );
    Ok(())
}
