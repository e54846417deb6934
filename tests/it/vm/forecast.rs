//! `shale vm deploy --plan`: what it says is what comes.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::{Vms, run};
use serde_json::Value;

use crate::seen::wait_for;

/// What `shale vm deploy --plan` says.
fn forecast(vms: &Vms, reference: &str) -> Result<Value> {
    let said = vms.run(&["deploy", reference, "--plan", "--format", "json"])?;
    Ok(serde_json::from_str(&said)?)
}

/// A machine `a` of this host has booted from the template of `reference`, which is in a registry.
pub(super) fn after_a_boot(vms: &Vms, reference: &str) -> Result<()> {
    // What its own boot read is known to this host, before it asks anybody.
    let shown: Value = serde_json::from_str(&vms.run(&["inspect", "a", "--format", "json"])?)?;
    let share = &shown["disk"]["boot_set"];
    ensure!(share["bytes"].as_u64() > Some(1 << 20), "{share}");
    ensure!(share["local_bytes"] == share["bytes"], "{share}");
    // The registry is told of the boot behind the login prompt.
    let begun = Instant::now();
    let here = loop {
        let here = forecast(vms, reference)?;
        if !here["boot"].is_null() {
            break here;
        }
        ensure!(begun.elapsed() < Duration::from_secs(20), "{here}");
        sleep(Duration::from_millis(100));
    };
    let number = |of: &Value, path: &str| {
        let number = of.pointer(path).and_then(Value::as_f64);
        number.with_context(|| format!("{path} in {of}"))
    };
    assert_eq!(here["boot"]["missing_bytes"], 0);
    assert_eq!(here["ready"]["machine"], "a");
    assert_eq!(here["ready"]["is_same_template"], true);
    ensure!(number(&here, "/ready/seconds")? == number(&here, "/ready/machine_seconds")?);

    // A host that has nothing, and of which no machine tells.
    let other = Vms::new()?;
    let there = forecast(&other, reference)?;
    let stored = number(&there, "/boot/stored_bytes")?;
    ensure!(stored == number(&here, "/boot/stored_bytes")?);
    // All of it but what was read to compose the template.
    let missing = number(&there, "/boot/missing_bytes")?;
    ensure!(missing > stored * 0.9 && missing <= stored, "{there}");
    ensure!(number(&there, "/bytes_per_second")? > 0.0);
    ensure!(there["ready"].is_null(), "{there}");
    // Nothing was made; some of the content came.
    ensure!(other.run(&["ls", "--quiet"])?.is_empty());
    let again = forecast(&other, reference)?;
    ensure!(number(&again, "/boot/missing_bytes")? < missing, "{again}");

    // What is known of the template by now keeps a deployment from nothing: what boots read is brought for it.
    other.run(&["deploy", reference, "--name", "p", "--wait", "none"])?;
    wait_for(&other, "boot_set_brought", &[])?;
    other.run(&["rm", "p", "--yes"])?;
    other.nothing_left()?;
    run(other.shale.command().args(["host", "stop"])).map(drop)
}
