//! B6: a virtual machine that begins at the login prompt of another one, on a host that has nothing of it.

use anyhow::Result;

use crate::Settings;
use crate::measure::{in_turns, print};
use crate::rows::boot::verdict;
use crate::rows::network::{FAST, Lazily, Network};

/// Seconds from the command to a prompt that answers.
const TARGET: f64 = 1.0;

pub(crate) fn measure(settings: Settings) -> Result<()> {
    let network = Network::new(settings.link.unwrap_or(FAST))?;
    network.keep_warm()?;
    // Each run of the first makes a boot set anew, which that behind it uses.
    let mut contenders = [
        network.lazily(Lazily::Warm),
        network.lazily(Lazily::WarmWithBootSet),
        network.lazily(Lazily::WarmAgain),
        network.locally(),
    ];
    in_turns(settings.runs, &mut contenders)?;
    print("s to a prompt that answers", &contenders);
    network.print_moved(&contenders);
    for contender in &contenders[..2] {
        let seconds = contender.median();
        println!(
            "target: {} under {TARGET} s ({seconds:.2} s): {}",
            contender.name(),
            verdict(seconds < TARGET)
        );
    }
    Ok(())
}
