//! TLS, fingerprints and tokens.

use std::sync::Arc;
use std::time::Instant;

use shale_client::{Address, RemoteRegistry, Settings, Trust};
use shale_files::MemoryFiles;
use shale_model::{Catalog, SeamResult, Trouble};
use shale_registry::{Admission, Certificate, Encryption, Scope, TokenStore};
use shale_repo::conformance::Sample;
use shale_wire::Fingerprint;
use tokio::runtime::Runtime;

use crate::harness::{Running, SHORT, any_port, repository};

#[test]
fn a_self_signed_registry_is_believed_by_its_fingerprint_and_wants_a_token() {
    let runtime = Runtime::new().unwrap();
    let spool = tempfile::tempdir().unwrap();
    let files = Arc::new(MemoryFiles::new());
    let certificate = Certificate::self_signed(&*files, vec!["registry".into()]).unwrap();
    let fingerprint = certificate.fingerprint();
    let tokens = TokenStore::new(files, Arc::new(Instant::now));
    let (write, _) = tokens.create("writer", Scope::Write, 1).unwrap();
    let (read, _) = tokens.create("reader", Scope::Read, 1).unwrap();
    let settings = shale_registry::Settings::new(Admission::Tokens(Arc::new(tokens)));
    let encryption = Encryption::Tls(certificate);
    let server = Running::start(&runtime, repository(), any_port(), settings, encryption);
    let address: Address = format!("https://{}", server.address).parse().unwrap();
    let remote = |trust, token: Option<&str>| {
        let settings = Settings {
            token: token.map(str::to_owned),
            trust,
            deadlines: SHORT,
            ..Settings::new(address.clone())
        };
        assert!(!format!("{settings:?}").contains("shale_"));
        RemoteRegistry::new(settings, runtime.handle().clone()).unwrap()
    };
    let pinned = Trust::Pinned(fingerprint);
    let sample = Sample::new("demo/secret", 1);
    let writer = remote(pinned, Some(write.reveal()));
    sample.push(&writer.push(spool.path()).unwrap()).unwrap();
    let reader = remote(pinned, Some(read.reveal()));
    sample.check(&reader, &reader);

    let trouble = |result: SeamResult<()>| result.unwrap_err().trouble;
    assert_eq!(
        trouble(reader.push(spool.path()).map(drop)),
        Trouble::Denied
    );
    let nobody = remote(pinned, None);
    assert_eq!(trouble(nobody.list_refs("").map(drop)), Trouble::Denied);
    let begun = Instant::now();
    let other = Trust::Pinned(Fingerprint::of(b"another"));
    for trust in [other, Trust::System] {
        let error = remote(trust, Some(write.reveal()))
            .list_refs("")
            .unwrap_err();
        assert_eq!(error.trouble, Trouble::Denied, "{error:?}");
        assert!(error.action.contains("fingerprint"), "{}", error.action);
    }
    assert!(begun.elapsed() < SHORT.give_up, "it does not try again");
    server.kill(&runtime);
}
