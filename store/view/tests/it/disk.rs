//! The disk against a vector of bytes.

use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::*;
use shale_files::MemoryFiles;
use shale_model::{BlockDevice, DeviceError};
use shale_view::{BootId, Disk, Overlay};

const BOOT: BootId = BootId([1; 16]);

use crate::source::{Fixture, read_all};

#[derive(Debug, Clone)]
enum Step {
    Write(u64, usize, u8),
    Zero(u64, u64),
    Read(u64, usize),
    Flush,
    Reopen,
}

fn steps() -> impl Strategy<Value = Step> {
    // Half of the offsets and lengths are those of whole units.
    let aligned = |n: u64| {
        if n.is_multiple_of(2) {
            n / 4096 * 4096
        } else {
            n
        }
    };
    let place = (any::<u32>(), 1u64..40_000)
        .prop_map(move |(offset, len)| (aligned(offset.into()), aligned(len).max(1)));
    (0u8..9, place, any::<u8>()).prop_map(|(kind, (offset, len), byte)| match kind {
        0..=3 => Step::Write(offset, len as usize, byte),
        4 => Step::Zero(offset, len),
        5 | 6 => Step::Read(offset, len as usize),
        7 => Step::Flush,
        _ => Step::Reopen,
    })
}

fn open(fixture: &Fixture, files: &Arc<MemoryFiles>) -> Disk {
    let overlay = Overlay::open(&**files, fixture.plan_id, BOOT).unwrap();
    Disk::writable(fixture.view(), Arc::new(overlay))
}

async fn run(fixture: &Fixture, steps: Vec<Step>, grown: u64) {
    let files = Arc::new(MemoryFiles::new());
    let size = fixture.disk.len() as u64 + grown;
    drop(Overlay::create(&*files, fixture.plan_id, size, BOOT).unwrap());
    let mut model = fixture.disk.clone();
    model.resize(size as usize, 0);
    let mut disk = open(fixture, &files);
    assert_eq!(disk.size(), size);
    for step in steps {
        let cut = |offset: u64, len: u64| {
            let offset = offset % size;
            (offset, len.min(size - offset))
        };
        match step {
            Step::Write(offset, len, byte) => {
                let (offset, len) = cut(offset, len as u64);
                disk.write(offset, &vec![byte; len as usize]).await.unwrap();
                model[offset as usize..(offset + len) as usize].fill(byte);
            }
            Step::Zero(offset, len) => {
                let (offset, len) = cut(offset, len);
                disk.zero(offset, len).await.unwrap();
                model[offset as usize..(offset + len) as usize].fill(0);
            }
            Step::Read(offset, len) => {
                let (offset, len) = cut(offset, len as u64);
                let mut bytes = vec![0xaa; len as usize];
                disk.read(offset, &mut bytes).await.unwrap();
                assert!(bytes == model[offset as usize..(offset + len) as usize]);
                check_status(&disk, &model, offset, len).await;
            }
            Step::Flush => disk.flush().await.unwrap(),
            Step::Reopen => {
                disk.flush().await.unwrap();
                drop(disk);
                disk = open(fixture, &files);
            }
        }
    }
    assert!(read_all(&disk).await == model);
}

async fn check_status(disk: &Disk, model: &[u8], offset: u64, len: u64) {
    let mut at = offset as usize;
    for run in disk.status(offset, len).await.unwrap() {
        let end = at + run.len as usize;
        assert!(!run.zero || model[at..end].iter().all(|byte| *byte == 0));
        at = end;
    }
    assert_eq!(at as u64, offset + len);
}

#[test]
fn reads_writes_and_zeros_are_those_of_a_vector() {
    let fixture = Fixture::new();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    let cases = ProptestConfig::with_cases(64);
    proptest!(cases, |(steps in vec(steps(), 1..60), grown in 0u64..20)| {
        runtime.block_on(run(&fixture, steps, grown * 4096));
    });
}

#[tokio::test]
async fn without_an_overlay_it_is_read_only() {
    let fixture = Fixture::new();
    let disk = Disk::read_only(fixture.view());
    assert!(matches!(
        disk.write(0, &[1]).await,
        Err(DeviceError::ReadOnly)
    ));
    assert!(matches!(disk.zero(0, 1).await, Err(DeviceError::ReadOnly)));
    disk.flush().await.unwrap();
}

#[tokio::test]
async fn discarding_a_whole_disk_keeps_what_is_zeros_below_out_of_the_overlay() {
    let fixture = Fixture::new();
    let files = MemoryFiles::new();
    let size = fixture.disk.len() as u64 + (64 << 20);
    let overlay = Arc::new(Overlay::create(&files, fixture.plan_id, size, BOOT).unwrap());
    let disk = Disk::writable(fixture.view(), overlay.clone());
    disk.zero(0, size).await.unwrap();
    assert!(read_all(&disk).await.iter().all(|byte| *byte == 0));
    assert!(overlay.units() <= fixture.disk.len() as u64 / 4096);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parts_of_one_unit_written_at_once_all_arrive() {
    for _ in 0..50 {
        let fixture = Fixture::new();
        let files = MemoryFiles::new();
        let size = fixture.disk.len() as u64;
        let overlay = Overlay::create(&files, fixture.plan_id, size, BOOT).unwrap();
        let disk = Arc::new(Disk::writable(fixture.view(), Arc::new(overlay)));
        let at = 6 * 4096u64;
        let writers: Vec<_> = (0..8u64)
            .map(|n| {
                let disk = disk.clone();
                tokio::spawn(async move { disk.write(at + n * 512, &[n as u8; 512]).await })
            })
            .collect();
        for writer in writers {
            writer.await.unwrap().unwrap();
        }
        let mut unit = vec![0; 4096];
        disk.read(at, &mut unit).await.unwrap();
        let expected: Vec<u8> = (0..8u8).flat_map(|n| [n; 512]).collect();
        assert!(unit == expected);
    }
}
