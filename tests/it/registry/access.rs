//! Who may use a registry: tokens and certificates, through the program.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::{Registry, Shale, run};
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use serde_json::Value;

use super::{CONFLICT, DENIED};

#[test]
fn a_registry_beyond_loopback_wants_tls_and_tokens() -> Result<()> {
    let home = Shale::new()?;
    let refused = |args: &[&str], because: &str| -> Result<()> {
        let mut command = home.command();
        command
            .args(["server", "run", "--listen", "0.0.0.0:0"])
            .args(args);
        let output = command.output()?;
        let text = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.code() == Some(2) && text.contains(because),
            "{text}"
        );
        Ok(())
    };
    refused(&[], "give a certificate")?;
    refused(&["--tls-self-signed"], "make tokens and require them")?;
    refused(
        &["--tls-self-signed"],
        "`shale token create NAME` makes one",
    )?;
    refused(&["--insecure-no-tls"], "make tokens and require them")?;
    let token = run(home
        .command()
        .args(["token", "create", "ci", "--scope", "write"]))?;
    refused(&[], "give a certificate")?;
    let listed = run(home.command().args(["token", "ls", "--format", "json"]))?;
    ensure!(!listed.contains(token.trim()), "a list shows the token");
    let taken = home.command().args(["token", "create", "ci"]).output()?;
    assert_eq!(taken.status.code(), Some(CONFLICT));
    run(home.command().args(["token", "rm", "ci"]))?;
    let gone = home.command().args(["token", "rm", "ci"]).output()?;
    assert_eq!(gone.status.code(), Some(3));
    Ok(())
}

#[test]
fn the_first_token_closes_a_running_registry() -> Result<()> {
    let (home, author) = (Shale::new()?, Shale::new()?);
    let registry = Registry::start(&home, 0)?;
    let source = author.home().join("tree");
    fs::create_dir(&source)?;
    let push = |token: Option<&Path>| -> Result<Option<i32>> {
        let mut command = author.command();
        if let Some(token) = token {
            command.arg("--token-file").arg(token);
        }
        command.arg("push").arg(&source);
        let output = command.arg(registry.name("test/tree")).output()?;
        Ok(output.status.code())
    };
    assert_eq!(push(None)?, Some(0));
    let token = author.home().join("token");
    let create = ["token", "create", "ci", "--scope", "write"];
    fs::write(&token, run(home.command().args(create))?)?;
    // What the help promises.
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(push(None)?, Some(DENIED), "who has no token may not push");
    assert_eq!(push(Some(&token))?, Some(0));
    run(home.command().args(["token", "rm", "ci"]))?;
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(push(Some(&token))?, Some(DENIED), "the token is gone");
    assert_eq!(push(None)?, Some(DENIED), "it opens again");
    registry.server.terminate()
}

#[test]
fn a_registry_with_tls_and_tokens_lets_in_those_who_have_them() -> Result<()> {
    let (home, author) = (Shale::new()?, Shale::new()?);
    let make = |name: &str, scope: &str| -> Result<PathBuf> {
        let token = run(home
            .command()
            .args(["token", "create", name, "--scope", scope]))?;
        let file = author.home().join(name);
        fs::write(&file, token)?;
        Ok(file)
    };
    let (reader, writer) = (make("reader", "read")?, make("writer", "write")?);
    let registry = Registry::start_with(&home, 0, &["--tls-self-signed"])?;
    let log = fs::read_to_string(home.home().join("log"))?;
    let fingerprint = log
        .lines()
        .find_map(|line| Some(line.split_once("fingerprint ")?.1));
    let fingerprint = fingerprint
        .context("the fingerprint is printed")?
        .to_owned();
    let source = author.home().join("tree");
    fs::create_dir(&source)?;
    fs::write(source.join("file"), "content")?;
    let push = |token: Option<&Path>, fingerprint: &str| -> Result<Option<i32>> {
        let mut command = author.command();
        command.args([
            "--repository",
            &registry.url(),
            "--fingerprint",
            fingerprint,
        ]);
        if let Some(token) = token {
            command.arg("--token-file").arg(token);
        }
        Ok(command
            .arg("push")
            .arg(&source)
            .arg("test/tree")
            .output()?
            .status
            .code())
    };
    assert_eq!(push(Some(&writer), &fingerprint)?, Some(0));
    assert_eq!(
        push(Some(&reader), &fingerprint)?,
        Some(DENIED),
        "a reader may not push"
    );
    assert_eq!(push(None, &fingerprint)?, Some(DENIED), "nobody may push");
    let other = "0".repeat(fingerprint.len() - "sha256:".len());
    let other = match fingerprint.starts_with("sha256:") {
        true => format!("sha256:{other}"),
        false => "0".repeat(fingerprint.len()),
    };
    assert_eq!(
        push(Some(&writer), &other)?,
        Some(DENIED),
        "another's certificate is not believed"
    );
    registry.server.terminate()
}

/// A certificate for `localhost` of an authority that is made with it.
struct Authority {
    /// What those who trust the authority are given, PEM.
    authority: PathBuf,
    certificate: PathBuf,
    key: PathBuf,
}

impl Authority {
    fn make(directory: &Path) -> Result<Self> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages.push(KeyUsagePurpose::KeyCertSign);
        let key = KeyPair::generate()?;
        let authority = params.self_signed(&key)?.pem();
        let issuer = Issuer::new(params, key);
        let mut params = CertificateParams::new(vec!["localhost".to_owned()])?;
        params
            .extended_key_usages
            .push(ExtendedKeyUsagePurpose::ServerAuth);
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &issuer)?.pem();
        let write = |name: &str, pem: String| -> Result<PathBuf> {
            let path = directory.join(name);
            fs::write(&path, pem)?;
            Ok(path)
        };
        Ok(Self {
            authority: write("authority.pem", authority)?,
            certificate: write("certificate.pem", certificate)?,
            key: write("key.pem", key.serialize_pem())?,
        })
    }
}

#[test]
fn a_certificate_is_believed_when_the_system_trusts_its_authority() -> Result<()> {
    let (home, author) = (Shale::new()?, Shale::new()?);
    let (made, other) = (home.home().join("made"), home.home().join("other"));
    for directory in [&made, &other] {
        fs::create_dir(directory)?;
    }
    let (made, other) = (Authority::make(&made)?, Authority::make(&other)?);
    let [certificate, key] = [&made.certificate, &made.key].map(|path| path.to_string_lossy());
    let tls = ["--tls-cert", &*certificate, "--tls-key", &*key];
    let registry = Registry::start_with(&home, 0, &tls)?;
    let source = author.home().join("tree");
    fs::create_dir(&source)?;
    let push = |host: &str, trusted: &Path| -> Result<(Option<i32>, String)> {
        let url = format!("https://{host}:{}", registry.port()?);
        let mut command = author.command();
        command.env("SSL_CERT_FILE", trusted);
        command.args(["--repository", &url, "push"]).arg(&source);
        let output = command.arg("test/tree").output()?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        Ok((output.status.code(), said))
    };
    let (code, said) = push("localhost", &made.authority)?;
    assert_eq!(code, Some(0), "{said}");
    let (code, said) = push("localhost", &other.authority)?;
    assert_eq!(code, Some(DENIED), "another authority: {said}");
    let (code, said) = push("127.0.0.1", &made.authority)?;
    assert_eq!(code, Some(DENIED), "another name: {said}");
    registry.server.terminate()
}

#[test]
fn the_log_of_a_registry_names_the_request_of_which_its_client_tells() -> Result<()> {
    let (home, author) = (Shale::new()?, Shale::new()?);
    let token = author.home().join("token");
    let create = ["token", "create", "reader", "--scope", "read"];
    fs::write(&token, run(home.command().args(create))?)?;
    let json = ["--log-format", "json", "--log-level", "debug"];
    let registry = Registry::start_with(&home, 0, &json)?;
    let source = author.home().join("tree");
    fs::create_dir(&source)?;
    let mut push = author.command();
    push.arg("--token-file")
        .arg(&token)
        .arg("push")
        .arg(&source);
    let output = push.arg(registry.name("test/tree")).output()?;
    assert_eq!(output.status.code(), Some(DENIED), "{output:?}");
    let said = String::from_utf8(output.stderr)?;
    let id = said
        .split_once("(request ")
        .and_then(|(_, rest)| rest.split_once(')'));
    let (id, _) = id.with_context(|| format!("a request: {said}"))?;

    let log = fs::read_to_string(home.home().join("log"))?;
    let secret = fs::read_to_string(&token)?;
    ensure!(!log.contains(secret.trim()), "{log}");
    let mut found = None;
    for line in log.lines() {
        let line: Value = serde_json::from_str(line).with_context(|| line.to_owned())?;
        if line["span"]["request"] == id {
            found = Some(line);
        }
    }
    let found = found.with_context(|| format!("{id} in {log}"))?;
    ensure!(
        found["level"] == "WARN" && found["status"] == 403 && found["message"] == "failed",
        "{found}"
    );
    ensure!(
        found["seconds"].is_number() && found["failure"].is_string(),
        "{found}"
    );
    registry.server.terminate()
}
