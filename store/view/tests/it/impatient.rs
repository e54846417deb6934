//! A disk that gives requests up whose content does not come.

use std::sync::Arc;
use std::time::Duration;

use shale_files::MemoryFiles;
use shale_model::{BlockDevice, DeviceError, DeviceResult};
use shale_view::{BootId, Disk, ImpatientDisk, Overlay, View};
use tokio::sync::Semaphore;

use crate::source::{Fixture, read_all};

const PATIENCE: Duration = Duration::from_millis(50);

/// Byte of the disk where a file begins, in the middle of whose first unit the tests read and write.
const AT: u64 = 8 * 4096;

/// A disk over a source that lets a read through for each permit, and its parts.
struct Slow {
    fixture: Fixture,
    gate: Arc<Semaphore>,
    view: Arc<View>,
    files: MemoryFiles,
    disk: Arc<ImpatientDisk>,
}

impl Slow {
    fn new(patience: Option<Duration>) -> Self {
        let gate = Arc::new(Semaphore::new(0));
        let fixture = Fixture::with(|source| source.gate = Some(gate.clone()));
        let (view, files) = (fixture.view(), MemoryFiles::new());
        let size = fixture.disk.len() as u64;
        let overlay = Overlay::create(&files, fixture.plan_id, size, BootId([1; 16])).unwrap();
        let disk = Arc::new(Disk::writable(view.clone(), Arc::new(overlay)));
        let disk = Arc::new(ImpatientDisk::new(disk, patience));
        Self {
            fixture,
            gate,
            view,
            files,
            disk,
        }
    }

    async fn read(&self, at: u64) -> DeviceResult<Vec<u8>> {
        let mut bytes = vec![0; 512];
        self.disk.read(at, &mut bytes).await.map(|()| bytes)
    }

    async fn comes(&self) {
        self.gate.add_permits(100);
        while self.disk.is_late() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

fn is_late<T>(result: &DeviceResult<T>) -> bool {
    matches!(result, Err(DeviceError::Late))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_come_is_late_and_comes_later() {
    let slow = Slow::new(Some(PATIENCE));
    assert!(is_late(&slow.read(AT).await));
    assert!(slow.disk.is_late());
    // What is there is there: bytes that the plan itself has.
    let synthesised = slow.read(2 * 4096).await.unwrap();
    assert!(synthesised == slow.fixture.disk[2 * 4096..2 * 4096 + 512]);
    slow.comes().await;
    assert!(slow.view.waits().now().is_none());
    assert!(slow.read(AT).await.unwrap() == slow.fixture.disk[AT as usize..AT as usize + 512]);
    let failed = slow.disk.failed();
    assert!(failed.count == 1 && failed.reason.is_none(), "{failed:?}");
    assert!(read_all(&*slow.disk).await == slow.fixture.disk);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_one_is_late_all_that_wait_are() {
    let slow = Slow::new(Some(Duration::from_secs(3600)));
    let first = tokio::spawn({
        let disk = slow.disk.clone();
        async move { disk.read(AT, &mut [0; 512]).await }
    });
    let short = Arc::new(Disk::read_only(slow.view.clone()));
    let short = ImpatientDisk::new(short, Some(PATIENCE));
    // Each disk has its own patience; those of one share it.
    assert!(is_late(&short.read(AT, &mut [0; 512]).await));
    assert!(!first.is_finished());
    first.abort();

    let slow = Slow::new(Some(PATIENCE));
    let last = slow.fixture.disk.len() as u64 - 12 * 4096;
    let others: Vec<_> = (0..8)
        .map(|_| {
            let disk = slow.disk.clone();
            tokio::spawn(async move { disk.read(AT, &mut [0; 512]).await })
        })
        .collect();
    for other in others {
        assert!(is_late(&other.await.unwrap()));
    }
    // Without waiting, while the others are: far longer than its patience would be a test that hangs.
    assert!(is_late(&slow.read(last).await));
    assert_eq!(slow.disk.failed().count, 9);
    slow.comes().await;
    slow.read(last).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_into_a_unit_that_is_not_here_is_late_and_can_be_done_again() {
    let slow = Slow::new(Some(PATIENCE));
    let data = vec![0xee; 3 * 4096];
    assert!(is_late(&slow.disk.write(AT + 512, &data).await));
    assert!(is_late(&slow.disk.zero(AT + 512, 100).await));
    // Whole units need nothing.
    slow.disk.write(AT + 16 * 4096, &data).await.unwrap();
    slow.disk.flush().await.unwrap();
    slow.comes().await;
    slow.disk.write(AT + 512, &data).await.unwrap();
    slow.disk.zero(AT + 512, 100).await.unwrap();
    let mut expected = slow.fixture.disk.clone();
    let at = AT as usize;
    expected[at + 512..at + 512 + data.len()].copy_from_slice(&data);
    expected[at + 512..at + 612].fill(0);
    expected[at + 16 * 4096..at + 19 * 4096].copy_from_slice(&data);
    assert!(read_all(&*slow.disk).await == expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_it_brings_ends_with_it() {
    let slow = Slow::new(Some(PATIENCE));
    for _ in 0..3 {
        assert!(is_late(&slow.read(AT).await));
    }
    let open = || Overlay::open(&slow.files, slow.fixture.plan_id, BootId([1; 16]));
    let disk = slow.disk.clone();
    assert!(open().is_err(), "it is in use");
    disk.end().await;
    assert!(!disk.is_late() && slow.view.waits().now().is_none());
    drop(disk);
    let Slow {
        files,
        disk,
        fixture,
        ..
    } = slow;
    drop(disk);
    Overlay::open(&files, fixture.plan_id, BootId([1; 16])).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_limit_it_waits_and_errors_are_told() {
    let slow = Slow::new(None);
    let waiting = tokio::time::timeout(PATIENCE * 2, slow.read(AT)).await;
    assert!(waiting.is_err(), "{waiting:?}");
    assert_eq!(slow.disk.failed().count, 0);
    let lost = ImpatientDisk::new(Arc::new(Disk::read_only(slow.view.clone())), None);
    lost.write(AT, &[1]).await.unwrap_err();
    let failed = lost.failed();
    assert_eq!(failed.count, 1);
    assert!(matches!(failed.reason, Some(DeviceError::ReadOnly)));
}
