//! B1a: the first virtual machine of a template on a host that has nothing, over a network.

use anyhow::{Result, bail};

use crate::Settings;

pub(crate) fn measure(_: Settings) -> Result<()> {
    bail!("this row needs `shale server run`, which is not there yet")
}
