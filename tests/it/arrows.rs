//! Which crate may know which: the arrows of `ARCHITECTURE.md`, held over what Cargo knows.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use harness::{repository, run};
use serde_json::Value;

use crate::sources::rust_files;

/// Every crate of the workspace with the other crates of the workspace that it may use.
///
/// Everything may use `shale-model`. Engines (ingest, repo, image, view, client) do not know each other, and
/// image and view meet through the plan in the model. Faces (nbd, fusefs) know a disk, and fusefs how a plan's tree is
/// read. The parts are wired together in `tools`, and there only.
const ARROWS: &[(&str, Uses)] = &[
    ("shale-model", Only(&[])),
    ("shale-files", Only(&[])),
    ("shale-ingest", Only(&["shale-model"])),
    ("shale-index", Only(&["shale-model"])),
    ("shale-repo", Only(&["shale-model", "shale-files"])),
    ("shale-image", Only(&["shale-model"])),
    ("shale-view", Only(&["shale-model", "shale-files"])),
    ("shale-nbd", Only(&["shale-model"])),
    ("shale-fusefs", Only(&["shale-model", "shale-image"])),
    ("shale-wire", Only(&["shale-model"])),
    ("shale-client", Only(&["shale-model", "shale-wire"])),
    (
        "shale-registry",
        Only(&["shale-model", "shale-files", "shale-repo", "shale-wire"]),
    ),
    ("shale-hvplug", Only(&["shale-model"])),
    ("shale-hostd", Anything),
    ("shale-cli", Anything),
    ("shale-tests", Anything),
    ("shale-benches", Anything),
];

/// Crates of others that only these may use, so that each stays replaceable in one place.
const OWNERS: &[(&str, &[&str])] = &[
    ("axum", &["shale-registry"]),
    ("clap", &["shale-cli", "shale-benches"]),
    ("fastcdc", &["shale-ingest"]),
    // The registry under axum, and the host's few pages of metrics, which need no router.
    ("hyper", &["shale-registry", "shale-hostd"]),
    ("prometheus-client", &["shale-registry", "shale-hostd"]),
    ("reqwest", &["shale-client"]),
    ("rocksdb", &["shale-index"]),
    ("tar", &["shale-ingest"]),
    // What is below `tools` tells an observer that it is handed.
    ("tracing", &["shale-hostd", "shale-cli"]),
    ("tracing-subscriber", &["shale-cli"]),
];

/// What a crate may use of the workspace.
#[derive(Clone, Copy)]
enum Uses {
    Only(&'static [&'static str]),
    /// It is outside of the product, or wires the product together.
    Anything,
}
use Uses::{Anything, Only};

#[test]
fn every_crate_keeps_to_its_arrows() -> Result<()> {
    let packages = packages()?;
    let mut wrong = Vec::new();
    for package in &packages {
        let Some((_, uses)) = ARROWS.iter().find(|(name, _)| *name == package.name) else {
            wrong.push(format!("{} has no row in ARROWS", package.name));
            continue;
        };
        let Only(allowed) = uses else { continue };
        let inside = package
            .normal
            .iter()
            .filter(|name| packages.iter().any(|p| p.name == **name));
        let forbidden = inside.filter(|name| !allowed.contains(&name.as_str()));
        wrong.extend(forbidden.map(|name| format!("{} must not use {name}", package.name)));
    }
    assert!(
        wrong.is_empty(),
        "see ARROWS in {}:\n{}",
        file!(),
        wrong.join("\n")
    );
    Ok(())
}

#[test]
fn replaceable_crates_have_one_owner() -> Result<()> {
    let mut wrong = Vec::new();
    for package in packages()?
        .iter()
        .filter(|package| package.name != "shale-tests")
    {
        let owned = OWNERS
            .iter()
            .filter(|(name, _)| package.normal.iter().any(|dependency| dependency == name));
        let foreign = owned.filter(|(_, owners)| !owners.contains(&package.name.as_str()));
        wrong.extend(foreign.map(|(name, owners)| {
            format!("{} uses {name}, which is for {owners:?}", package.name)
        }));
    }
    assert!(
        wrong.is_empty(),
        "see OWNERS in {}:\n{}",
        file!(),
        wrong.join("\n")
    );
    Ok(())
}

#[test]
fn every_dependency_is_used() -> Result<()> {
    let mut unused = Vec::new();
    for package in packages()? {
        let mut text = String::new();
        for file in rust_files(&package.directory)? {
            text.push_str(
                &std::fs::read_to_string(&file).with_context(|| format!("read {file:?}"))?,
            );
        }
        let named = |dependency: &str| {
            // Its library has another name than its package.
            let name = match dependency {
                "shale-tests" => "harness".to_owned(),
                _ => dependency.replace('-', "_"),
            };
            text.split(|c: char| !c.is_alphanumeric() && c != '_')
                .any(|word| word == name)
        };
        let all = package.normal.iter().chain(&package.other);
        unused.extend(
            all.filter(|name| !named(name))
                .map(|name| format!("{} does not use {name}", package.name)),
        );
    }
    assert!(
        unused.is_empty(),
        "dependencies that no source names:\n{}",
        unused.join("\n")
    );
    Ok(())
}

struct Package {
    name: String,
    directory: PathBuf,
    /// Names of what it depends on.
    normal: Vec<String>,
    /// The same, for tests and build scripts only.
    other: Vec<String>,
}

fn packages() -> Result<Vec<Package>> {
    let mut cargo = Command::new(env!("CARGO"));
    cargo
        .args([
            "metadata",
            "--no-deps",
            "--offline",
            "--format-version",
            "1",
        ])
        .current_dir(repository());
    let metadata: BTreeMap<String, Value> = serde_json::from_str(&run(&mut cargo)?)?;
    let packages = metadata["packages"]
        .as_array()
        .context("cargo metadata lists packages")?;
    packages.iter().map(package).collect()
}

fn package(value: &Value) -> Result<Package> {
    let text = |value: &Value| {
        value
            .as_str()
            .map(str::to_owned)
            .context("cargo metadata has a text")
    };
    let manifest = text(&value["manifest_path"])?;
    let dependencies = value["dependencies"]
        .as_array()
        .context("a package has dependencies")?;
    let (mut normal, mut other) = (Vec::new(), Vec::new());
    for dependency in dependencies {
        let name = text(&dependency["name"])?;
        if dependency["kind"].is_null() {
            normal.push(name)
        } else {
            other.push(name)
        }
    }
    Ok(Package {
        name: text(&value["name"])?,
        directory: Path::new(&manifest)
            .parent()
            .context("a manifest is in a directory")?
            .to_owned(),
        normal,
        other,
    })
}
