//! That the harness's machines boot, so that a failing boot elsewhere is the disk's fault.

use std::time::Duration;

use anyhow::Result;
use harness::{Disk, Input, Machine, Qemu, need_root, run, tool};

/// The base takes 15 s to its login prompt on two quiet cores.
const LOGIN_WITHIN: Duration = Duration::from_secs(180);

#[test]
fn privileged_boot_the_harness_boots_a_raw_disk() -> Result<()> {
    need_root()?;
    let base = Input::base()?;
    let directory = tempfile::tempdir()?;
    let disk = directory.path().join("disk.raw");
    run(tool("mke2fs")?
        .args(["-q", "-t", "ext4", "-d"])
        .arg(base.tree())
        .arg(&disk)
        .arg("1G"))?;

    let mut vm = Qemu::start(&Machine::new(
        base.kernel()?,
        base.initrd()?,
        Disk::Raw(disk.clone()),
    ))?;
    vm.wait_for("login:", LOGIN_WITHIN)?;
    assert_eq!(vm.qmp().status()?, "running");
    // Root has no password, so this is as far as a console comes: the guest reads what is typed.
    vm.send("root\n")?;
    vm.wait_for("Password:", Duration::from_secs(60))?;
    vm.power_down(Duration::from_secs(120))?;
    run(tool("e2fsck")?.arg("-fn").arg(&disk))?;
    Ok(())
}
