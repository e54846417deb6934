//! B1a: the first virtual machine of a template on a host that has nothing of it, over a network, of which the
//! registry knows no boot.

use anyhow::Result;

use crate::Settings;
use crate::measure::{in_turns, median, print};
use crate::rows::boot::verdict;
use crate::rows::network::{FAST, Lazily, Network};

pub(crate) fn measure(settings: Settings) -> Result<()> {
    let network = Network::new(settings.link.unwrap_or(FAST))?;
    let mut contenders = [
        network.lazily(Lazily::Alone),
        network.remotely(),
        network.copied(),
        network.locally(),
    ];
    in_turns(settings.runs, &mut contenders)?;
    print("s to login", &contenders);
    network.print_moved(&contenders);
    let behind = median(&contenders[0].differences_to(&contenders[3]));
    println!("over the raw file, paired: {behind:.2} s");
    for peer in &contenders[1..3] {
        println!(
            "target: faster than {}: {}",
            peer.name(),
            verdict(contenders[0].ratio_to(peer) < 1.0)
        );
    }
    Ok(())
}
