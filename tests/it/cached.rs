//! What a host brings before it is asked for, keeps, and gives up: `shale precache` and `shale cache`.

use std::fs;

use anyhow::{Context, Result, ensure};
use harness::{Random, Registry, Shale, Vms, run};
use serde_json::Value;

/// Exit codes, as `shale --help` lists them.
const FAILURE: i32 = 1;
const NOT_FOUND: i32 = 3;

/// Bytes of the file in each template; three of them do not fit into the cache, whose segments are a quarter of it, and
/// two do.
const FILE_BYTES: usize = 36 << 20;
const CACHE_SIZE: &str = "96M";

#[test]
fn templates_are_brought_kept_and_given_up() -> Result<()> {
    let (home, author, vms) = (Shale::new()?, Shale::new()?, Vms::new()?);
    let registry = Registry::start(&home, 0)?;
    let mut random = Random::printed("cached");
    let names =
        ["one", "two", "three", "large"].map(|name| registry.name(&format!("test/{name}:1")));
    for (name, files) in names.iter().zip([1, 1, 1, 4]) {
        let tree = tempfile::tempdir()?;
        for n in 0..files {
            fs::write(tree.path().join(n.to_string()), random.bytes(FILE_BYTES))?;
        }
        run(author.command().arg("push").arg(tree.path()).arg(name))?;
    }
    let [one, two, three, large] = &names;
    let host = Host { vms: &vms };

    let before = host.forecast(one)?;
    assert_eq!(before["local_bytes"], 0);
    ensure!(before["bytes_per_second"].as_f64() > Some(0.0), "{before}");
    ensure!(before["boot"].is_null() && before["ready"].is_null());
    host.ok(&["cache", "pin", one])?;
    let after = host.forecast(one)?;
    assert_eq!(after["local_bytes"], after["content_bytes"]);
    ensure!(after["bytes_per_second"].is_null(), "{after}");
    host.ok(&["precache", two])?;
    let listed = host.templates()?;
    ensure!(listed.len() == 2, "{listed:?}");
    ensure!(
        listed.iter().all(|template| template.is_whole),
        "{listed:?}"
    );
    let pinned = |templates: &[Cached]| -> Vec<String> {
        let pinned = templates.iter().filter(|template| template.pinned);
        pinned
            .flat_map(|template| template.references.clone())
            .collect()
    };
    assert_eq!(pinned(&listed), [one.as_str()]);

    // The next service knows it, and another template makes those leave that are not pinned.
    vms.kill_service()?;
    host.ok(&["precache", three])?;
    let listed = host.templates()?;
    assert_eq!(pinned(&listed), [one.as_str()]);
    let whole = listed.iter().filter(|template| template.is_whole).count();
    assert_eq!(whole, 2, "{listed:?}");
    ensure!(
        listed
            .iter()
            .any(|template| template.pinned && template.is_whole)
    );
    let used = host.used()?;
    ensure!(used.bytes <= 96 << 20 && used.pinned >= FILE_BYTES as u64);

    // What does not fit is told before anything leaves.
    let said = host.fails(&["precache", large], FAILURE)?;
    ensure!(said.contains("room") && said.contains("unpin"), "{said}");
    // Its layer was read, to know what would come.
    let before = used.bytes;
    let used = host.used()?;
    ensure!(used.bytes >= before && used.bytes < before + (1 << 20));

    // No machine needs what is not pinned.
    let freed: Value = serde_json::from_str(&host.ok(&["cache", "prune", "--format", "json"])?)?;
    let freed = freed["freed_bytes"].as_u64().context("freed_bytes")?;
    assert_eq!(host.used()?.bytes, used.bytes - freed);
    ensure!(freed > 0 && host.templates()?.iter().any(|template| template.is_whole));

    host.fails(&["cache", "unpin", two], NOT_FOUND)?;
    host.ok(&["cache", "unpin", one])?;
    host.ok(&["cache", "prune"])?;
    assert_eq!(host.used()?.bytes, 0);
    host.fails(&["precache", &registry.name("test/none")], NOT_FOUND)?;
    registry.server.terminate()
}

/// A host with a small cache.
struct Host<'a> {
    vms: &'a Vms,
}

/// What `shale cache ls` says of a template.
#[derive(Debug)]
struct Cached {
    references: Vec<String>,
    is_whole: bool,
    pinned: bool,
}

/// What `shale cache df` says.
struct Used {
    bytes: u64,
    pinned: u64,
}

impl Host<'_> {
    fn command(&self, arguments: &[&str]) -> std::process::Command {
        let mut command = self.vms.shale.command();
        command.env("SHALE_CACHE_SIZE", CACHE_SIZE).args(arguments);
        command
    }

    fn ok(&self, arguments: &[&str]) -> Result<String> {
        run(&mut self.command(arguments))
    }

    /// What a command said that fails with this code.
    fn fails(&self, arguments: &[&str], code: i32) -> Result<String> {
        let output = self.command(arguments).output()?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(
            output.status.code() == Some(code),
            "{arguments:?}: {}, {said}",
            output.status
        );
        Ok(said)
    }

    fn forecast(&self, reference: &str) -> Result<Value> {
        let said = self.ok(&["vm", "deploy", reference, "--plan", "--format", "json"])?;
        Ok(serde_json::from_str(&said)?)
    }

    fn templates(&self) -> Result<Vec<Cached>> {
        let listed = self.ok(&["cache", "ls", "--format", "json"])?;
        let listed: Vec<Value> = serde_json::from_str(&listed)?;
        let cached = listed.iter().map(|template| {
            let names = template["references"].as_array().into_iter().flatten();
            Cached {
                references: names
                    .filter_map(|name| Some(name.as_str()?.to_owned()))
                    .collect(),
                is_whole: template["local_bytes"] == template["content_bytes"],
                pinned: template["pinned"] == true,
            }
        });
        Ok(cached.collect())
    }

    fn used(&self) -> Result<Used> {
        let used: Value = serde_json::from_str(&self.ok(&["cache", "df", "--format", "json"])?)?;
        let number = |name: &str| {
            used[name]
                .as_u64()
                .with_context(|| format!("{name} in {used}"))
        };
        Ok(Used {
            bytes: number("bytes")?,
            pinned: number("pinned_bytes")?,
        })
    }
}
