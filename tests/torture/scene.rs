//! What stands: a registry behind a link, and a host with machines and mounts that has its own power.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use harness::{Background, Input, LoopMount, Registry, Shale, Vms, free_port, run, tool};

use crate::account::Account;
use crate::commands::must;

/// What of the template is read again and again: 250 MB, more than the caches of host and guest hold.
const READ: &str = "find usr/bin usr/lib -xdev -type f -size -4096k -print0 | LC_ALL=C sort -z | xargs -0 sha256sum";

/// Most bytes of the host's chunk cache: less than what is read, so that it always makes room.
const CACHE: &str = "96M";

/// Bytes of the host's file system: room for exports, which are sparse. It is sparse, too.
const HOME_BYTES: u64 = 64 << 30;

/// Machines whose guests check their bytes. Without acceleration each takes a processor.
const GUESTS: [&str; 2] = ["t0", "t1"];

/// How the registry is reached.
const LINK: &str = "1000mbit,5ms";

/// How long a keeper may take that holds nothing any more.
const KEEPER_ENDS_WITHIN: Duration = Duration::from_secs(20);

/// All that is struck.
pub(crate) struct Scene {
    pub(crate) vms: Arc<Vms>,
    /// Checksums of files of the template, as `sha256sum -c` takes them.
    pub(crate) sums: Arc<str>,
    pub(crate) names: Vec<String>,
    /// A template that boots, and one that has nothing but a kernel.
    pub(crate) reference: String,
    pub(crate) kernel: String,
    pub(crate) account: Account,
    home: Shale,
    registry: Option<Registry>,
    registry_port: u16,
    link: Option<Background>,
    link_port: u16,
}

impl Scene {
    /// Pushes the templates, makes a warm snapshot, and deploys the machines.
    pub(crate) fn new() -> Result<Self> {
        let base = Input::base()?;
        let home = Shale::new()?;
        let shale = Shale::with_power(HOME_BYTES)?.with_variable("SHALE_CACHE_SIZE", CACHE);
        let vms = Arc::new(Vms { shale });
        let registry = Registry::start(&home, 0)?;
        let registry_port = registry.port()?;
        let link_port = free_port()?;
        let link = link(link_port, registry_port)?;
        let name = |name: &str| format!("127.0.0.1:{link_port}/test/{name}");
        let scene = Self {
            sums: sums(&base)?.into(),
            names: GUESTS.map(str::to_owned).to_vec(),
            reference: name("base"),
            kernel: name("kernel"),
            account: Account::default(),
            vms,
            home,
            registry: Some(registry),
            registry_port,
            link: Some(link),
            link_port,
        };
        let kernel = scene.home.home().join("kernel");
        fs::create_dir_all(kernel.join("boot"))?;
        fs::create_dir(kernel.join("etc"))?;
        fs::copy(base.kernel()?, kernel.join("boot/vmlinuz"))?;
        for (tree, reference) in [(base.tree(), &scene.reference), (kernel, &scene.kernel)] {
            run(scene.shale().arg("push").arg(tree).arg(reference))?;
        }
        must(
            scene
                .shale()
                .args(["template", "warm", &scene.reference, "--timeout", "600"]),
        )?;
        for name in &scene.names {
            let mut deploy = scene.vm(&["deploy", &scene.reference, "--name", name]);
            let how = ["--disk", "16G", "--pause-after", "3", "--wait", "none"];
            must(deploy.args(how))?;
        }
        Ok(scene)
    }

    pub(crate) fn shale(&self) -> Command {
        self.vms.shale.command()
    }

    pub(crate) fn vm(&self, arguments: &[&str]) -> Command {
        self.vms.command(arguments)
    }

    /// The name of a template in the registry.
    pub(crate) fn named(&self, name: &str) -> String {
        format!("127.0.0.1:{}/test/{name}", self.link_port)
    }

    pub(crate) fn kill_registry(&mut self) -> Result<()> {
        match self.registry.take() {
            Some(registry) => registry.server.kill().map(drop),
            None => Ok(()),
        }
    }

    pub(crate) fn start_registry(&mut self) -> Result<()> {
        if self.registry.is_none() {
            self.registry = Some(Registry::start(&self.home, self.registry_port)?);
        }
        Ok(())
    }

    /// The link to the registry, which holds what it was given for as long as it is stopped.
    pub(crate) fn link(&self) -> Result<&Background> {
        self.link.as_ref().context("a link")
    }

    /// Cuts every connection of the link, and makes another.
    pub(crate) fn replace_link(&mut self) -> Result<()> {
        // The port is free when the old one is gone.
        self.link = None;
        self.link = Some(link(self.link_port, self.registry_port)?);
        Ok(())
    }

    /// The files of the chunk cache.
    pub(crate) fn cached(&self) -> Result<Vec<PathBuf>> {
        let chunks = self.vms.shale.home().join(".cache/chunks");
        let files = match fs::read_dir(&chunks) {
            Ok(files) => files,
            // The host lost it with its power.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error).with_context(|| format!("list {}", chunks.display())),
        };
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
                _ => drop(must(&mut self.vm(&["start", &name, "--wait", "none"]))?),
            }
        }
        Ok(())
    }

    /// Ends all that runs on the host.
    pub(crate) fn end_all(&self) {
        // Whatever is wrong with it is told already.
        if let Ok(power) = self.vms.shale.power() {
            let _ = power.cut(harness::Unsynced::Kept);
        }
    }

    /// Stops the machines, checks their disks, and removes everything; what is left is noted.
    pub(crate) fn take_down(mut self, account: &mut Account) -> Result<()> {
        for name in self.names.clone() {
            run(&mut self.vm(&["stop", &name, "--timeout", "600"]))?;
            let disk = self.vms.shale.home().join("disk.raw");
            let path = disk.to_str().context("a path in UTF-8")?;
            run(&mut self.vm(&["export", &name, path]))?;
            // What a kill of its machine left in the journal is the kernel's to replay.
            LoopMount::new(&disk, "rw")?.unmount()?;
            run(tool("e2fsck")?.arg("-fn").arg(&disk))?;
            fs::remove_file(&disk)?;
            run(&mut self.vm(&["rm", &name, "--yes"]))?;
        }
        for mount in ["tree", "disk"] {
            let point = self.vms.shale.home().join("mnt").join(mount);
            self.unmount(&point)?;
        }
        let left = |error: anyhow::Error| format!("{error:#}");
        account.left.extend(self.vms.nothing_left().err().map(left));
        run(self.shale().args(["host", "stop"]))?;
        account.left.extend(self.nothing_stays().err().map(left));
        match self.registry.take() {
            Some(registry) => registry.server.terminate(),
            None => bail!("the registry is down"),
        }
    }

    /// Ends a mount, whose last readers may just be ending.
    pub(crate) fn unmount(&self, point: &Path) -> Result<()> {
        let begun = Instant::now();
        loop {
            let done = run(self.shale().arg("umount").arg(point));
            if done.is_ok() || begun.elapsed() > Duration::from_secs(20) {
                return done.map(drop);
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Fails if something is mounted, runs, or lies about when the host has nothing and its service has ended.
    fn nothing_stays(&self) -> Result<()> {
        let begun = Instant::now();
        while !self.vms.processes()?.is_empty() {
            ensure!(
                begun.elapsed() < KEEPER_ENDS_WITHIN,
                "these still run: {:?}",
                self.vms.processes()?
            );
            std::thread::sleep(Duration::from_millis(50));
        }
        let mounts = self.vms.shale.power()?.mounts()?;
        ensure!(mounts.is_empty(), "these are still mounted: {mounts:?}");
        for (below, may_have) in [("mounts", &[][..]), ("run", &["host.sock", "keep.sock"])] {
            for entry in fs::read_dir(self.vms.path(below))? {
                let name = entry?.file_name().to_string_lossy().into_owned();
                ensure!(may_have.contains(&&*name), "{below}/{name} is left");
            }
        }
        Ok(())
    }
}

/// Relays what goes to the registry and comes from there. It lies beside this program.
fn link(listen: u16, to: u16) -> Result<Background> {
    let this = std::env::current_exe()?;
    let program = this.with_file_name("shale-proxy");
    ensure!(program.exists(), "{} is not built", program.display());
    let mut command = Command::new(program);
    command.args(["--link", LINK]);
    command.args(["--listen", &format!("127.0.0.1:{listen}")]);
    command.args(["--to", &format!("127.0.0.1:{to}")]);
    let link = Background::start(command.stdout(Stdio::null()))?;
    let begun = Instant::now();
    while std::net::TcpStream::connect(("127.0.0.1", listen)).is_err() {
        ensure!(
            begun.elapsed() < Duration::from_secs(10),
            "the link does not listen"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(link)
}

/// Checksums of what is read, by the names under which a guest has it.
fn sums(base: &Input) -> Result<String> {
    let sums = Command::new("sh")
        .args(["-c", READ])
        .current_dir(base.tree())
        .output()
        .context("sum up the template")?;
    ensure!(sums.status.success(), "{sums:?}");
    let sums = String::from_utf8(sums.stdout).context("names of the template")?;
    Ok(sums.replace("  usr/", "  /usr/"))
}
