//! Second requests, in virtual time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use shale_model::*;
use shale_view::*;
use tokio::time::Instant;

/// Reads of a simulation.
const READS: usize = 4000;

/// Answers in 5 to 25 ms; of a hundred, so many are stuck for two seconds.
struct Sometimes {
    stuck: u64,
    asked: AtomicU64,
}

impl Sometimes {
    fn new(stuck: u64) -> Arc<Self> {
        let asked = AtomicU64::new(0);
        Arc::new(Self { stuck, asked })
    }

    fn asked(&self) -> usize {
        self.asked.load(SeqCst) as usize
    }
}

impl Fetch for Sometimes {
    fn locate<'a>(&'a self, _: &'a [ChunkId]) -> BoxFuture<'a, SeamResult<Vec<Option<Location>>>> {
        unreachable!("only reads are simulated")
    }

    fn read(&self, _: PackId, _: u64, len: u64) -> BoxFuture<'_, SeamResult<Vec<u8>>> {
        // The numbers of a run are the same every time.
        let number = self.asked.fetch_add(1, SeqCst);
        let hash = blake3::hash(&number.to_le_bytes());
        let [one, two, ..] = *hash.as_bytes();
        let takes = match u64::from(one) * 100 < self.stuck * 256 {
            true => Duration::from_secs(2),
            false => Duration::from_micros(5000 + u64::from(two) * 78),
        };
        Box::pin(async move {
            tokio::time::sleep(takes).await;
            Ok(vec![0; len as usize])
        })
    }
}

fn source(fetch: &Arc<Sometimes>) -> NamedFetch {
    NamedFetch {
        name: "source".into(),
        fetch: fetch.clone(),
        hearing: None,
    }
}

/// How long reads took, sorted.
async fn times(source: &dyn Fetch) -> Vec<Duration> {
    let mut times = Vec::new();
    for _ in 0..READS {
        let begun = Instant::now();
        source
            .read(PackId::from_bytes([1; 32]), 0, 100)
            .await
            .unwrap();
        times.push(begun.elapsed());
    }
    times.sort();
    times
}

fn of_hundred(times: &[Duration], share: usize) -> Duration {
    times[times.len() * share / 100]
}

const STUCK: Duration = Duration::from_secs(2);

#[tokio::test(start_paused = true)]
async fn of_a_source_that_gets_stuck_the_slowest_reads_take_the_hedging_time() {
    let alone = Sometimes::new(2);
    assert_eq!(of_hundred(&times(&*alone).await, 99), STUCK);
    // Over another connection, and of a mirror that is as bad.
    for others in [vec![], vec![Sometimes::new(2)]] {
        let (last, counters) = (Sometimes::new(2), Arc::new(Counters::default()));
        let mirrors = others.iter().map(source).collect();
        let supply = Supply::new(mirrors, source(&last), || 0.5, counters.clone());
        let times = times(&supply).await;
        let slow = of_hundred(&times, 99);
        assert!(slow < Duration::from_millis(50 + 26), "{slow:?}");
        let asked: usize = last.asked() + others.iter().map(|other| other.asked()).sum::<usize>();
        assert_eq!(asked, READS + counters.hedges() as usize);
        assert!(
            counters.hedges() as usize <= READS / 10,
            "{}",
            counters.hedges()
        );
        assert!(counters.hedges_won() > counters.hedges() / 2);
    }
}

#[tokio::test(start_paused = true)]
async fn a_source_that_is_always_slow_is_not_asked_twice_as_much() {
    let (slow, counters) = (Sometimes::new(100), Arc::new(Counters::default()));
    let supply = Supply::of(source(&slow), counters.clone());
    let times = times(&supply).await;
    assert_eq!(of_hundred(&times, 50), STUCK);
    // The few at the beginning, when nothing was known.
    assert!(counters.hedges() < 20, "{}", counters.hedges());
    assert_eq!(slow.asked(), READS + counters.hedges() as usize);
}

#[tokio::test(start_paused = true)]
async fn a_mirror_that_hangs_is_left_alone_after_some_reads() {
    // As one that holds its connections and says nothing.
    struct Hanging(AtomicU64);
    impl Fetch for Hanging {
        fn locate<'a>(
            &'a self,
            _: &'a [ChunkId],
        ) -> BoxFuture<'a, SeamResult<Vec<Option<Location>>>> {
            Box::pin(std::future::pending())
        }
        fn read(&self, _: PackId, _: u64, _: u64) -> BoxFuture<'_, SeamResult<Vec<u8>>> {
            self.0.fetch_add(1, SeqCst);
            Box::pin(std::future::pending())
        }
    }
    let hanging = Arc::new(Hanging(AtomicU64::new(0)));
    let mirror = NamedFetch {
        name: "mirror".into(),
        fetch: hanging.clone(),
        hearing: None,
    };
    let (registry, counters) = (Sometimes::new(0), Arc::new(Counters::default()));
    let supply = Supply::new(vec![mirror], source(&registry), || 0.5, counters);
    let times = times(&supply).await;
    assert!(of_hundred(&times, 99) < Duration::from_millis(30));
    let longest = times.last().unwrap();
    assert!(*longest <= Duration::from_millis(2030), "{longest:?}");
    // All reads take a minute together, in which it is probed now and then.
    assert!(hanging.0.load(SeqCst) < 20);
    let state = supply.report()[0].state;
    assert_ne!(state, SourceState::Asked, "it is left alone");
}
