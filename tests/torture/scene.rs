//! A registry, a host, and machines whose guests work.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use harness::{Input, LoopMount, Registry, Shale, Vms, run, tool};

/// What of the template is read again and again: 250 MB, more than the caches of host and guest hold.
const READ: &str = "find usr/bin usr/lib -xdev -type f -size -4096k -print0 | LC_ALL=C sort -z | xargs -0 sha256sum";

/// Most bytes of the host's chunk cache: less than what is read, so that it always makes room.
const CACHE: &str = "96M";

/// `shale vm`. Each may be the one that starts the service.
pub(crate) fn vm(vms: &Vms, arguments: &[&str]) -> Command {
    let mut command = vms.command(arguments);
    command.env("SHALE_CACHE_SIZE", CACHE);
    command
}

/// All that is struck.
pub(crate) struct Scene {
    pub(crate) vms: Arc<Vms>,
    /// Checksums of files of the template, as `sha256sum -c` takes them.
    pub(crate) sums: Arc<str>,
    pub(crate) names: Vec<String>,
    pub(crate) reference: String,
    home: Shale,
    registry: Option<Registry>,
    port: u16,
}

impl Scene {
    /// Pushes the template and deploys the machines.
    pub(crate) fn new(names: &[&str]) -> Result<Self> {
        let base = Input::base()?;
        let sums = Command::new("sh")
            .args(["-c", READ])
            .current_dir(base.tree())
            .output()
            .context("sum up the template")?;
        ensure!(sums.status.success(), "{sums:?}");
        let sums = String::from_utf8(sums.stdout).context("names of the template")?;
        // As a guest sees them.
        let sums = sums.replace("  usr/", "  /usr/");
        let (home, vms) = (Shale::new()?, Arc::new(Vms::new()?));
        let registry = Registry::start(&home, 0)?;
        let reference = registry.name("test/base");
        run(vms
            .shale
            .command()
            .arg("push")
            .arg(base.tree())
            .arg(&reference))?;
        let port = registry.port()?;
        let scene = Self {
            vms,
            sums: sums.into(),
            names: names.iter().map(|&name| name.to_owned()).collect(),
            reference,
            home,
            registry: Some(registry),
            port,
        };
        for name in names {
            let mut deploy = scene.vm(&["deploy", &scene.reference, "--name", name]);
            run(deploy.args(["--disk", "16G", "--pause-after", "3"]))?;
        }
        Ok(scene)
    }

    pub(crate) fn shale(&self) -> Command {
        let mut command = self.vms.shale.command();
        command.env("SHALE_CACHE_SIZE", CACHE);
        command
    }

    pub(crate) fn vm(&self, arguments: &[&str]) -> Command {
        vm(&self.vms, arguments)
    }

    pub(crate) fn kill_registry(&mut self) -> Result<()> {
        match self.registry.take() {
            Some(registry) => registry.server.kill().map(drop),
            None => Ok(()),
        }
    }

    pub(crate) fn start_registry(&mut self) -> Result<()> {
        if self.registry.is_none() {
            self.registry = Some(Registry::start(&self.home, self.port)?);
        }
        Ok(())
    }

    /// The files of the chunk cache.
    pub(crate) fn cached(&self) -> Result<Vec<PathBuf>> {
        let chunks = self.vms.shale.home().join(".cache/chunks");
        let files = fs::read_dir(&chunks).with_context(|| format!("list {}", chunks.display()))?;
        let mut files: Vec<PathBuf> = files
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.is_file())
            .collect();
        files.sort();
        Ok(files)
    }

    /// Makes everything run that is to run.
    pub(crate) fn recover(&mut self) -> Result<()> {
        self.start_registry()?;
        for name in self.names.clone() {
            match self.vms.state(&name)?.as_str() {
                "running" => {}
                // Where the disk made it wait, it goes on by itself.
                "paused" => drop(self.vm(&["resume", &name]).output()),
                _ => drop(run(&mut self.vm(&["start", &name]))?),
            }
        }
        Ok(())
    }

    /// Ends the machines, whatever they do.
    pub(crate) fn end_machines(&self) {
        for name in &self.names {
            // One that does not run has ended.
            let _ = self.vms.kill_machine(name);
        }
    }

    /// Stops the machines, checks their disks, and removes everything; what is left.
    pub(crate) fn take_down(mut self) -> Result<Vec<String>> {
        for name in self.names.clone() {
            run(&mut self.vm(&["stop", &name, "--timeout", "120"]))?;
            let disk = self.vms.shale.home().join("disk.raw");
            let path = disk.to_str().context("a path in UTF-8")?;
            run(&mut self.vm(&["export", &name, path]))?;
            // What a kill of its machine left in the journal is the kernel's to replay.
            LoopMount::new(&disk, "rw")?.unmount()?;
            run(tool("e2fsck")?.arg("-fn").arg(&disk))?;
            fs::remove_file(&disk)?;
            run(&mut self.vm(&["rm", &name, "--yes"]))?;
        }
        let left = match self.vms.nothing_left() {
            Ok(()) => Vec::new(),
            Err(error) => vec![format!("{error:#}")],
        };
        match self.registry.take() {
            Some(registry) => registry.server.terminate()?,
            None => bail!("the registry is down"),
        }
        Ok(left)
    }
}
