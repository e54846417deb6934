//! Commands beside the host service, which has the host's cache and reads the repository of its machine.

use std::fs;

use anyhow::{Result, ensure};
use harness::{Shale, run};

/// Ends the service that the first command on machines started.
struct Service<'a>(&'a Shale);

impl Drop for Service<'_> {
    fn drop(&mut self) {
        // It fails when the test has failed before there was one.
        let _ = run(self.0.command().args(["host", "stop"]));
    }
}

#[test]
fn commands_work_beside_the_host_service() -> Result<()> {
    let shale = Shale::new()?;
    let tree = tempfile::tempdir()?;
    fs::create_dir(tree.path().join("etc"))?;
    fs::write(tree.path().join("etc/one"), "one")?;
    let push = |more: &[&str], name: &str| {
        let mut push = shale.command();
        push.arg("push").args(more).arg(tree.path()).arg(name);
        run(&mut push)
    };
    push(&[], "test/base")?;
    let _service = Service(&shale);
    // The service reads the repository, and says why it cannot deploy: there is no kernel.
    let deploy = |name: &str| {
        let mut deploy = shale.command();
        deploy.args(["vm", "deploy", name, "--name", "a", "--wait", "none"]);
        anyhow::Ok(deploy.output()?)
    };
    let said = deploy("test/base")?;
    let said = String::from_utf8_lossy(&said.stderr);
    ensure!(said.contains("kernel"), "{said}");

    fs::write(tree.path().join("etc/two"), vec![2; 100_000])?;
    push(&["--base", "test/base"], "test/app")?;
    let create = ["template", "create", "test/both", "test/base+test/app"];
    run(shale.command().args(create))?;
    let disk = shale.home().join("disk.raw");
    run(shale.command().args(["export", "test/both"]).arg(&disk))?;
    ensure!(disk.metadata()?.len() > 0);
    // What was pushed beside it, the service finds.
    let said = deploy("test/both")?;
    let said = String::from_utf8_lossy(&said.stderr);
    ensure!(said.contains("kernel"), "{said}");
    Ok(())
}
