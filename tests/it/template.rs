//! What templates are made of, through the program: bases and applications, platforms, layers of OCI images.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use harness::{Shale, run};
use serde_json::Value;

/// Runs `shale` to its end; its exit code and what it said on standard error.
pub(crate) fn outcome(shale: &Shale, args: &[&str]) -> Result<(Option<i32>, String)> {
    let output = shale.command().args(args).output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    Ok((output.status.code(), said))
}

/// What `shale` prints as JSON.
fn json(shale: &Shale, args: &[&str]) -> Result<Value> {
    let text = run(shale.command().args(args).args(["--format", "json"]))?;
    serde_json::from_str(&text).with_context(|| format!("read {text}"))
}

/// A tree of one file, `etc/name`.
fn tree_of(shale: &Shale, name: &str) -> Result<String> {
    let tree = shale.home().join(name);
    fs::create_dir_all(tree.join("etc"))?;
    fs::write(tree.join("etc").join(name), name)?;
    Ok(name.to_owned())
}

/// Adds a file to a tree.
fn add(shale: &Shale, tree: &str, name: &str) -> Result<()> {
    Ok(fs::write(
        shale.home().join(tree).join("etc").join(name),
        name,
    )?)
}

#[test]
fn an_application_without_a_base_is_not_left_out_in_silence() -> Result<()> {
    let shale = Shale::new()?;
    let (base, app) = (tree_of(&shale, "base")?, tree_of(&shale, "app")?);
    run(shale.command().args(["push", &base, "test/base"]))?;
    run(shale.command().args(["push", &app, "test/app"]))?;
    let create = ["template", "create", "test/web", "test/base+test/app"];
    let rebase = [
        "template",
        "rebase",
        "test/app",
        "--onto",
        "test/base",
        "--as",
        "test/web",
    ];
    for args in [&create[..], &rebase] {
        let (code, said) = outcome(&shale, args)?;
        let expected = "`test/app:latest` has no layer made on another; push it with --base";
        ensure!(
            code == Some(2) && said.contains(expected),
            "{code:?}: {said}"
        );
    }
    let (code, _) = outcome(&shale, &["template", "inspect", "test/web"])?;
    assert_eq!(code, Some(3), "nothing was made");

    add(&shale, "app", "base")?;
    run(shale
        .command()
        .args(["push", "--base", "test/base", &app, "test/app"]))?;
    for args in [&create[..], &rebase] {
        run(shale.command().args(args))?;
        let shown = json(&shale, &["template", "inspect", "test/web"])?;
        let layers = shown["template"]["layers"].as_array();
        assert_eq!(layers.map(Vec::len), Some(2), "{shown}");
    }
    Ok(())
}

/// Platforms of a name, with their templates, as `template inspect` shows them.
fn platforms(shale: &Shale, args: &[&str]) -> Result<Vec<(String, String)>> {
    let shown = json(shale, &[&["template", "inspect"], args].concat())?;
    let platforms = shown["platforms"].as_array().context("platforms")?;
    let text = |value: &Value| value.as_str().map(str::to_owned).context("a text");
    let one = |entry: &Value| {
        let platform = &entry["platform"];
        let name = format!(
            "{}/{}",
            text(&platform["os"])?,
            text(&platform["architecture"])?
        );
        Ok((name, text(&entry["template"])?))
    };
    platforms.iter().map(one).collect()
}

#[test]
fn a_name_has_a_template_for_each_platform() -> Result<()> {
    let shale = Shale::new()?;
    for name in ["amd", "arm", "app"] {
        tree_of(&shale, name)?;
    }
    let arm = ["--platform", "linux/arm64"];
    let push = |args: &[&str]| run(shale.command().arg("push").args(args));
    push(&["amd", "test/base"])?;
    let first = platforms(&shale, &["test/base"])?;
    push(&["arm", "test/base", arm[0], arm[1]])?;
    let both = platforms(&shale, &["test/base"])?;
    let names: Vec<_> = both.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["linux/amd64", "linux/arm64"]);
    assert_eq!(both[0], first[0], "the first stays");
    ensure!(both[1].1 != both[0].1, "{both:?}");
    for (platform, template) in &both {
        let shown = json(
            &shale,
            &["template", "inspect", "test/base", "--platform", platform],
        )?;
        assert_eq!(shown["id"].as_str(), Some(template.as_str()));
    }
    // A push replaces that of its own platform.
    push(&["app", "test/base", arm[0], arm[1]])?;
    let again = platforms(&shale, &["test/base"])?;
    ensure!(again[0] == both[0] && again[1] != both[1], "{again:?}");
    // Another name for it is one for all platforms.
    run(shale
        .command()
        .args(["template", "tag", "test/base", "test/other"]))?;
    assert_eq!(platforms(&shale, &["test/other"])?, again);
    Ok(())
}

#[test]
fn base_and_application_are_for_one_platform() -> Result<()> {
    let shale = Shale::new()?;
    for name in ["base", "app"] {
        tree_of(&shale, name)?;
    }
    let arm = ["--platform", "linux/arm64"];
    let done = |args: &[&str]| run(shale.command().args(args));
    done(&["push", "base", "test/amd"])?;
    done(&["push", "base", "test/arm", arm[0], arm[1]])?;
    let refused = |args: &[&str], code: i32, text: &str| -> Result<()> {
        let (found, said) = outcome(&shale, args)?;
        ensure!(
            found == Some(code) && said.contains(text),
            "{args:?}: {found:?}: {said}"
        );
        Ok(())
    };
    // By name, the other platform is not there; its id is told.
    let (_, id) = platforms(&shale, &["test/arm", arm[0], arm[1]])?.remove(0);
    let by_id = format!("test/arm:latest@{id}");
    let missing = "has no template for linux/amd64";
    refused(
        &["push", "--base", "test/arm", "app", "test/app"],
        3,
        missing,
    )?;
    refused(&["export", "test/arm", "disk.raw"], 3, &by_id)?;
    // By id it is, and not fit.
    let other = "is for linux/arm64, not for linux/amd64";
    refused(&["push", "--base", &by_id, "app", "test/app"], 2, other)?;

    add(&shale, "app", "base")?;
    done(&[
        "push", "--base", "test/arm", arm[0], arm[1], "app", "test/app",
    ])?;
    let (_, app) = platforms(&shale, &["test/app", arm[0], arm[1]])?.remove(0);
    let mixed = format!("test/amd+test/app@{app}");
    refused(&["template", "create", "test/web", &mixed], 2, other)?;
    let fits = ["template", "create", "test/web", "test/arm+test/app"];
    refused(&fits, 3, missing)?;
    done(&[&fits[..], &arm].concat())?;
    let web = platforms(&shale, &["test/web", arm[0], arm[1]])?;
    assert_eq!(web.len(), 1, "{web:?}");
    refused(
        &["push", "base", "test/x", "--platform", "arm"],
        2,
        "is not a platform",
    )
}

#[test]
fn a_difference_needs_a_base_and_an_archive() -> Result<()> {
    let shale = Shale::new()?;
    tree_of(&shale, "base")?;
    run(shale.command().args(["push", "base", "test/base"]))?;
    let cases: [(&[&str], &str); 2] = [
        (&["push", "--difference", "base", "test/app"], "--base"),
        (
            &[
                "push",
                "--difference",
                "--base",
                "test/base",
                "base",
                "test/app",
            ],
            "a directory holds no whiteouts",
        ),
    ];
    for (args, text) in cases {
        let (code, said) = outcome(&shale, args)?;
        ensure!(code == Some(2) && said.contains(text), "{code:?}: {said}");
    }
    // A whole tree is told from a difference by its whiteouts.
    archive_of(&shale.home().join("layer"), &["etc/.wh.base"])?;
    let (code, said) = outcome(
        &shale,
        &["push", "--base", "test/base", "layer.tar", "test/app"],
    )?;
    ensure!(
        code == Some(2) && said.contains("--difference"),
        "{code:?}: {said}"
    );
    // A file is no directory, whatever the difference says.
    archive_of(&shale.home().join("odd"), &["etc/base/below"])?;
    let push = ["push", "--base", "test/base", "--difference"];
    let odd = outcome(&shale, &[&push[..], &["odd.tar", "test/app"]].concat())?;
    ensure!(odd.0 == Some(5) && odd.1.contains("etc/base"), "{odd:?}");
    let (code, _) = outcome(&shale, &["template", "inspect", "test/app"])?;
    assert_eq!(code, Some(3), "nothing was made");
    run(shale.command().args(push).args(["layer.tar", "test/app"]))?;
    run(shale.command().args(["export", "test/app", "disk.raw"]))?;
    let listed = run(harness::tool("debugfs")?
        .args(["-R", "ls -p /etc"])
        .arg(shale.home().join("disk.raw")))?;
    ensure!(!listed.contains("/base/"), "{listed}");
    Ok(())
}

/// Archives `tree`, made of empty files, beside it, with nothing but these members.
fn archive_of(tree: &Path, members: &[&str]) -> Result<()> {
    for member in members {
        let path = tree.join(member);
        fs::create_dir_all(path.parent().context("its directory")?)?;
        fs::write(path, "")?;
    }
    let mut tar = harness::tool("tar")?;
    tar.arg("--create")
        .arg("--file")
        .arg(tree.with_extension("tar"));
    run(tar.arg("--directory").arg(tree).args(members)).map(drop)
}

#[test]
fn an_answer_that_loses_is_told() -> Result<()> {
    let shale = Shale::new()?;
    let tree = shale.home().join("tree");
    let config = tree.join("var/cache/debconf/config.dat");
    fs::create_dir_all(config.parent().context("its directory")?)?;
    fs::create_dir_all(tree.join("etc"))?;
    let log = tree.join("var/log/x.log");
    fs::create_dir_all(log.parent().context("its directory")?)?;
    for (name, answer) in [("base", "none"), ("one", "yes"), ("two", "no")] {
        fs::write(&config, format!("Name: a/question\nValue: {answer}\n\n"))?;
        fs::write(tree.join("etc/shells"), format!("/bin/sh\n/bin/{name}\n"))?;
        fs::write(&log, name)?;
        let on = (name != "base").then_some(["--base", "test/base"]);
        let mut push = shale.command();
        push.arg("push").args(on.into_iter().flatten());
        run(push.args(["tree", &format!("test/{name}")]))?;
    }
    let create = [
        "template",
        "create",
        "test/both",
        "test/base+test/one+test/two",
    ];
    let (code, said) = outcome(&shale, &create)?;
    let answer = "/var/cache/debconf/config.dat (a/question): layers differ";
    let sum = "files: 1 merged by record, 0 kept as a lower layer changed them, 1 caches";
    for expected in [answer, sum] {
        ensure!(
            code == Some(0) && said.contains(expected),
            "{code:?}: {said}"
        );
    }
    let log = "/var/log/x.log: layers differ";
    ensure!(!said.contains(log), "{said}");
    let (_, said) = outcome(&shale, &[&create[..], &["--debug"]].concat())?;
    ensure!(
        said.contains(log) && said.contains("/etc/shells: merged"),
        "{said}"
    );
    Ok(())
}

#[test]
fn what_belongs_to_one_machine_is_told() -> Result<()> {
    let shale = Shale::new()?;
    let tree = shale.home().join("tree");
    fs::create_dir_all(tree.join("etc/ssh"))?;
    fs::write(tree.join("etc/machine-id"), "")?;
    let warning = "warning: every instance would have";
    let clean = outcome(&shale, &["push", "tree", "test/base"])?;
    ensure!(
        clean.0 == Some(0) && !clean.1.contains(warning),
        "{clean:?}"
    );
    let (code, _) = outcome(&shale, &["template", "lint", "test/base"])?;
    assert_eq!(code, Some(0));

    fs::write(tree.join("etc/ssh/ssh_host_rsa_key"), "secret")?;
    let key = "/etc/ssh/ssh_host_rsa_key: a key of the SSH server";
    let create = ["template", "create", "test/web", "test/base+test/app"];
    for args in [
        &["push", "--base", "test/base", "tree", "test/app"][..],
        &create,
    ] {
        let (code, said) = outcome(&shale, args)?;
        ensure!(
            code == Some(0) && said.contains(&format!("{warning} {key}")),
            "{code:?}: {said}"
        );
    }
    let lint = ["template", "lint", "test/web", "--format", "json"];
    let output = shale.command().args(lint).output()?;
    assert_eq!(output.status.code(), Some(1));
    let found: Value = serde_json::from_slice(&output.stdout)?;
    assert_eq!(found[0]["path"], "/etc/ssh/ssh_host_rsa_key");
    assert_eq!(found.as_array().map(Vec::len), Some(1), "{found}");
    Ok(())
}
