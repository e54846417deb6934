//! The same checks as for the local repository, over HTTP.

use std::sync::Mutex;

use shale_client::Deadlines;
use shale_repo::conformance::{Store, check_store};
use tokio::runtime::Runtime;

use crate::harness::{Running, client, repository};

#[test]
fn a_registry_does_what_a_repository_does() {
    let runtime = Runtime::new().unwrap();
    let spool = tempfile::tempdir().unwrap();
    let running = Mutex::new(Vec::new());
    check_store(|| {
        let server = Running::open(&runtime, repository());
        let remote = client(&runtime, server.address, Deadlines::default());
        running.lock().unwrap().push(server);
        Store {
            sink: Box::new(remote.push(spool.path()).unwrap()),
            catalog: Box::new(remote.clone()),
            fetch: Box::new(remote.clone()),
            boots: Box::new(remote),
        }
    });
    let left: Vec<_> = spool.path().read_dir().unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_long_listing_comes_in_pages() {
    use shale_model::{Catalog, Sink};
    let runtime = Runtime::new().unwrap();
    let repository = repository();
    let sample = shale_repo::conformance::Sample::new("demo/first", 1);
    let push = repository.push();
    sample.push(&push).unwrap();
    for number in 0..1500 {
        let name = format!("demo/n{number:04}:1").parse().unwrap();
        push.set_ref(&name, None, &sample.index).unwrap();
    }
    let server = Running::open(&runtime, repository.clone());
    let remote = client(&runtime, server.address, Deadlines::default());
    assert_eq!(
        remote.list_refs("").unwrap(),
        repository.list_refs("").unwrap()
    );
    assert_eq!(remote.list_refs("demo").unwrap().len(), 1501);
    assert!(remote.list_refs("other").unwrap().is_empty());
    assert_eq!(remote.version().unwrap().name, "shale");
}
