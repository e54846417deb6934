//! B2: the first virtual machine of a template on a host that has nothing of it, over a slow network.

use anyhow::Result;

use crate::Settings;
use crate::measure::{in_turns, print};
use crate::rows::boot::verdict;
use crate::rows::network::{Lazily, Network, SLOW};

/// Time to the prompt with a boot set, of that from a raw file.
const TARGET: f64 = 1.25;

pub(crate) fn measure(settings: Settings) -> Result<()> {
    let network = Network::new(settings.link.unwrap_or(SLOW))?;
    // Each run of the first makes a boot set anew, which that behind it uses.
    let mut contenders = [
        network.lazily(Lazily::Alone),
        network.lazily(Lazily::WithBootSet),
        network.copied(),
        network.locally(),
    ];
    in_turns(settings.runs, &mut contenders)?;
    print("s to login", &contenders);
    network.print_moved(&contenders);
    let ratio = contenders[1].ratio_to(&contenders[3]);
    println!(
        "target: with a boot set at most {TARGET} x the raw file ({ratio:.2} x): {}",
        verdict(ratio <= TARGET)
    );
    println!(
        "target: without one faster than copying first: {}",
        verdict(contenders[0].ratio_to(&contenders[2]) < 1.0)
    );
    Ok(())
}
