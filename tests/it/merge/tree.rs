//! Two trees of applications as one: accounts, owners, packages, libraries.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};
use harness::run;

use super::Inputs;

/// What `program` says with `root` as its root directory.
pub(super) fn inside(root: &Path, program: &[&str]) -> Result<String> {
    let mut command = Command::new("chroot");
    command
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    run(command.arg(root).args(program))
}

/// The users, or the groups, of a tree: names by number.
fn names(root: &Path, file: &str) -> Result<BTreeMap<u32, String>> {
    let text = fs::read_to_string(root.join(file))?;
    let mut names = BTreeMap::new();
    let mut seen = BTreeSet::new();
    for line in text.lines() {
        let fields: Vec<&str> = line.split(':').collect();
        let (name, number) = (fields[0].to_owned(), fields[2].parse()?);
        ensure!(seen.insert(name.clone()), "{name} is twice in {file}");
        let other = names.insert(number, name.clone());
        ensure!(
            other.is_none(),
            "{name} and {other:?} of {file} are both {number}"
        );
    }
    Ok(names)
}

/// Every name in a tree with its mode and the names of its owner and group, which a merge may give other numbers.
fn owners(root: &Path) -> Result<BTreeMap<PathBuf, (u32, String, String)>> {
    let (users, groups) = (names(root, "etc/passwd")?, names(root, "etc/group")?);
    let name = |names: &BTreeMap<u32, String>, number: u32| match names.get(&number) {
        Some(name) => name.clone(),
        None => number.to_string(),
    };
    let mut owners = BTreeMap::new();
    let mut todo = vec![root.to_owned()];
    while let Some(path) = todo.pop() {
        let meta = path.symlink_metadata()?;
        if meta.is_dir() {
            for entry in fs::read_dir(&path)? {
                todo.push(entry?.path());
            }
        }
        let owner = (
            meta.mode(),
            name(&users, meta.uid()),
            name(&groups, meta.gid()),
        );
        owners.insert(path.strip_prefix(root)?.to_owned(), owner);
    }
    Ok(owners)
}

/// Checks that `tree` is what `base` and the applications installed on it are together.
pub(super) fn check_together(tree: &Path, base: &Path, inputs: &Inputs) -> Result<()> {
    let apps = [inputs.nginx.tree(), inputs.postgresql.tree()];
    check_owners(tree, base, inputs)?;
    for (of_user, app) in [("www-data", &apps[0]), ("postgres", &apps[1])] {
        let id = inside(tree, &["id", of_user])?;
        let groups = |root: &Path| -> Result<BTreeSet<String>> {
            let names = inside(root, &["id", "-Gn", of_user])?;
            Ok(names.split_whitespace().map(str::to_owned).collect())
        };
        ensure!(groups(tree)? == groups(app)?, "{id}");
    }
    for (file, shadow) in [("etc/passwd", "etc/shadow"), ("etc/group", "etc/gshadow")] {
        let shadows = fs::read_to_string(tree.join(shadow))?;
        let shadows = shadows.lines().filter_map(|line| line.split(':').next());
        let shadows: BTreeSet<_> = shadows.map(str::to_owned).collect();
        let names: BTreeSet<_> = names(tree, file)?.into_values().collect();
        ensure!(names == shadows, "{file} and {shadow} name different ones");
    }

    let installed = ["dpkg-query", "-W", "-f", "${db:Status-Abbrev} ${Package}\n"];
    let packages = |root: &Path| -> Result<BTreeSet<String>> {
        Ok(inside(root, &installed)?
            .lines()
            .map(str::to_owned)
            .collect())
    };
    let libraries = |root: &Path| -> Result<BTreeSet<String>> {
        let text = inside(root, &["ldconfig", "-p"])?;
        Ok(text
            .lines()
            .skip(1)
            .map(|line| line.trim().to_owned())
            .collect())
    };
    let (mut all_packages, mut all_libraries) = (packages(base)?, BTreeSet::new());
    for app in &apps {
        all_packages.append(&mut packages(app)?);
        all_libraries.append(&mut libraries(app)?);
    }
    let (packages, libraries) = (packages(tree)?, libraries(tree)?);
    ensure!(packages == all_packages, "{packages:?}\n{all_packages:?}");
    let cached = |text: &String| text.contains(" => ");
    let missing: Vec<_> = all_libraries
        .iter()
        .filter(|l| cached(l) && !libraries.contains(*l))
        .collect();
    ensure!(missing.is_empty(), "ldconfig -p lacks {missing:?}");
    let listed = inside(tree, &["dpkg", "-l"])?;
    for package in ["nginx", "postgresql", "postgresql-15"] {
        ensure!(listed.contains(&format!("ii  {package} ")), "{listed}");
    }
    let audit = inside(tree, &["dpkg", "--audit"])?;
    ensure!(audit.is_empty(), "dpkg --audit: {audit}");
    Ok(())
}

/// Checks that everything has the mode and the owner that it has where it comes from, and nothing is lost.
fn check_owners(tree: &Path, base: &Path, inputs: &Inputs) -> Result<()> {
    let (found, base, old) = (owners(tree)?, owners(base)?, owners(&inputs.base.tree())?);
    let mut expected = base.clone();
    for app in [&inputs.nginx, &inputs.postgresql] {
        let own = owners(&app.tree())?;
        for path in old.keys().filter(|path| !own.contains_key(*path)) {
            expected.remove(path);
        }
        // What the application has from the base is as the base has it now.
        expected.extend(
            own.into_iter()
                .filter(|(path, owner)| old.get(path) != Some(owner)),
        );
    }
    let lost_and_found = Path::new("lost+found");
    let mut wrong = Vec::new();
    for path in expected
        .keys()
        .chain(found.keys().filter(|path| !expected.contains_key(*path)))
    {
        let (found, expected) = (found.get(path), expected.get(path));
        if found != expected && path != lost_and_found {
            wrong.push(format!("{}: {found:?}, not {expected:?}", path.display()));
        }
    }
    ensure!(
        wrong.is_empty(),
        "{} wrong:\n{}",
        wrong.len(),
        wrong[..wrong.len().min(20)].join("\n")
    );
    Ok(())
}
