//! What is counted, as text.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;
use shale_view::{CacheDeeds, CacheUsage, Checked, Counters, Observer as _, WaitCause};

use super::Noted;

/// What a host has counted up to a moment.
pub(crate) struct Counted<'a> {
    /// When the service started, in seconds since 1970.
    pub(crate) started: u64,
    pub(crate) counters: &'a Counters,
    pub(crate) noted: &'a Noted,
    pub(crate) cache: (CacheUsage, CacheDeeds),
    pub(crate) machines: Vec<CountedMachine>,
    pub(crate) sources: Vec<CountedSource>,
    /// Events of each kind.
    pub(crate) events: BTreeMap<&'static str, u64>,
}

/// A machine.
pub(crate) struct CountedMachine {
    pub(crate) name: String,
    pub(crate) state: MachineState,
    /// The share of its content that is on this host.
    pub(crate) local: Option<f64>,
    /// The share of the boot set of its template, where that is known.
    pub(crate) boot_set: Option<f64>,
    /// Seconds of its stalls, by cause.
    pub(crate) stalls: BTreeMap<&'static str, f64>,
}

/// A source of content. Repositories that share one are added up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct SourceSums {
    pub(crate) requests: u64,
    pub(crate) failures: u64,
    pub(crate) bytes: u64,
    /// Whether it is left alone.
    pub(crate) is_broken: bool,
}

/// A source with its name.
pub(crate) type CountedSource = (String, SourceSums);

/// What a machine does, as far as that is known without asking its hypervisor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MachineState {
    Deploying,
    Stopped,
    Running,
    /// Somebody wants it to stand still.
    Paused,
    /// It waits for its content, or for room.
    Stalled,
    /// Its record cannot be read.
    Damaged,
}

impl MachineState {
    const ALL: [(Self, &'static str); 6] = [
        (Self::Deploying, "deploying"),
        (Self::Stopped, "stopped"),
        (Self::Running, "running"),
        (Self::Paused, "paused"),
        (Self::Stalled, "stalled"),
        (Self::Damaged, "damaged"),
    ];
}

/// Causes that reads can wait for, in order.
const CAUSES: [WaitCause; 6] = [
    WaitCause::Transfer,
    WaitCause::Unavailable,
    WaitCause::Denied,
    WaitCause::Integrity,
    WaitCause::NoSpace,
    WaitCause::Failed,
];

/// Labels of a value: a name and what it is.
type Labels = Vec<(&'static str, String)>;

fn label(name: &'static str, value: impl Into<String>) -> Labels {
    vec![(name, value.into())]
}

/// The version of the program.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BuildLabels {
    version: &'static str,
}

/// All of it as OpenMetrics text. Pure.
pub(crate) fn render(counted: &Counted<'_>) -> Result<String, fmt::Error> {
    let mut page = Page(Registry::with_prefix("shale"));
    page.service(counted);
    page.reads(counted.counters, counted.noted);
    page.verified(counted.counters, counted.cache.1);
    page.cache(counted.cache);
    page.sources(&counted.sources);
    page.boots(counted.noted);
    page.machines(&counted.machines);
    let mut text = String::new();
    encode(&mut text, &page.0)?;
    Ok(text)
}

/// A page of metrics that is being written.
struct Page(Registry);

impl Page {
    fn counter(&mut self, name: &str, help: &str, values: impl IntoIterator<Item = (Labels, u64)>) {
        let family = Family::<Labels, Counter>::default();
        for (labels, value) in values {
            family.get_or_create(&labels).inc_by(value);
        }
        self.0.register(name, help, family);
    }

    /// A counter without labels.
    fn sum(&mut self, name: &str, help: &str, value: u64) {
        let counter = Counter::<u64>::default();
        counter.inc_by(value);
        self.0.register(name, help, counter);
    }

    /// A gauge without labels.
    fn level(&mut self, name: &str, help: &str, value: f64) {
        let gauge = Gauge::<f64, AtomicU64>::default();
        gauge.set(value);
        self.0.register(name, help, gauge);
    }

    fn seconds(&mut self, name: &str, help: &str, values: impl IntoIterator<Item = (Labels, f64)>) {
        let family = Family::<Labels, Counter<f64, AtomicU64>>::default();
        for (labels, value) in values {
            family.get_or_create(&labels).inc_by(value);
        }
        self.0.register(name, help, family);
    }

    fn gauge(&mut self, name: &str, help: &str, values: impl IntoIterator<Item = (Labels, f64)>) {
        let family = Family::<Labels, Gauge<f64, AtomicU64>>::default();
        for (labels, value) in values {
            family.get_or_create(&labels).set(value);
        }
        self.0.register(name, help, family);
    }

    fn service(&mut self, counted: &Counted<'_>) {
        let version = env!("CARGO_PKG_VERSION");
        let build = Info::new(BuildLabels { version });
        self.0.register("build", "The program that serves", build);
        let started = counted.started as f64;
        let help = "When the service started, in seconds since 1970";
        self.level("service_start_time_seconds", help, started);
        let events = counted.events.iter();
        let events = events.map(|(kind, count)| (label("kind", *kind), *count));
        self.counter("events", "What happened, by kind", events);
    }

    fn reads(&mut self, counters: &Counters, noted: &Noted) {
        let bytes = [
            (label("source", "cache"), counters.cache_bytes()),
            (label("source", "fetched"), counters.waited_bytes()),
        ];
        let help = "Bytes of chunks that were read: from the cache, or after waiting for a fetch";
        self.counter("read_bytes", help, bytes);
        let help = "Time of reads, by the face that they come through";
        let reads = noted.reads.clone();
        self.0.register("read_duration_seconds", help, reads);
        let sums = counters.waits().sums();
        let stalls = CAUSES.map(|cause| {
            let time = sums.get(&cause).copied().unwrap_or_default();
            (label("reason", cause.name()), time.as_secs_f64())
        });
        let help = "Time in which at least one read waited, by what for";
        self.seconds("stall_seconds", help, stalls);
        let fetched = [
            (label("purpose", "read"), counters.fetched_bytes()),
            (label("purpose", "boot_set"), counters.boot_set_bytes()),
            (label("purpose", "fill"), counters.filled_bytes()),
        ];
        let help = "Bytes of packs that arrived, by what they were fetched for";
        self.counter("fetched_bytes", help, fetched);
        let help = "Fetches that failed and were tried again";
        self.sum("fetch_retries", help, counters.retries());
        let help = "Second requests, for what a first one had not brought in time";
        self.sum("hedged_requests", help, counters.hedges());
        let help = "Second requests that were faster than the first";
        self.sum("hedged_requests_won", help, counters.hedges_won());
    }

    fn verified(&mut self, counters: &Counters, deeds: CacheDeeds) {
        let of =
            |at: &str, result: &str| vec![("at", at.to_owned()), ("result", result.to_owned())];
        let chunks = [
            (
                of("arrival", "right"),
                counters.checked_chunks(Checked::Right),
            ),
            (
                of("arrival", "wrong"),
                counters.checked_chunks(Checked::Wrong),
            ),
            (of("first_use", "right"), deeds.right_chunks),
            (of("first_use", "wrong"), deeds.wrong_chunks),
        ];
        let help = "Chunks that were hashed: when they arrived, or at first use after a start";
        self.counter("chunks_verified", help, chunks);
    }

    fn cache(&mut self, (usage, deeds): (CacheUsage, CacheDeeds)) {
        let help = "Bytes of the chunk cache";
        self.level("cache_bytes", help, usage.bytes as f64);
        let help = "Most bytes of the chunk cache";
        self.level("cache_capacity_bytes", help, usage.cap_bytes as f64);
        let help = "Bytes of the chunk cache that do not leave";
        self.level("cache_pinned_bytes", help, usage.pinned_bytes as f64);
        let help = "Chunks in the cache";
        self.level("cache_chunks", help, usage.chunks as f64);
        let help = "Bytes that left the cache for want of room";
        self.sum("cache_evicted_bytes", help, deeds.evicted_bytes);
    }

    fn sources(&mut self, sources: &[CountedSource]) {
        let each = |value: fn(&SourceSums) -> u64| {
            let values = sources.iter();
            let values = values.map(move |(name, sums)| (label("source", name), value(sums)));
            values.collect::<Vec<_>>()
        };
        let help = "Requests that were sent to a source of content";
        self.counter("source_requests", help, each(|sums| sums.requests));
        let help = "Requests that a source did not answer, answered wrong, or too late";
        self.counter("source_failures", help, each(|sums| sums.failures));
        let help = "Bytes of packs that came from a source";
        self.counter("source_bytes", help, each(|sums| sums.bytes));
        let broken = sources.iter().map(|(name, sums)| {
            let broken = f64::from(u8::from(sums.is_broken));
            (label("source", name), broken)
        });
        let help = "Whether a source failed several times in a row and is left alone";
        self.gauge("source_broken", help, broken.collect::<Vec<_>>());
    }

    fn boots(&mut self, noted: &Noted) {
        let help = "Time from the request to the login prompt";
        let ready = noted.ready.clone();
        self.0.register("time_to_ready_seconds", help, ready);
        let boots = *noted.boots();
        let chunks = [
            (label("result", "hit"), boots.here),
            (label("result", "miss"), boots.waited),
        ];
        let help = "Chunks that first boots read, by whether they had come before";
        self.counter("boot_read_chunks", help, chunks);
        // Without a boot there is no share.
        let all = boots.here + boots.waited;
        if all > 0 {
            let help = "Share of the chunks that first boots read that had come before";
            let share = boots.here as f64 / all as f64;
            self.level("boot_set_hit_ratio", help, share);
        }
    }

    fn machines(&mut self, machines: &[CountedMachine]) {
        let states = MachineState::ALL.map(|(state, name)| {
            let here = machines.iter().filter(|machine| machine.state == state);
            (label("state", name), here.count() as f64)
        });
        self.gauge("machines", "Machines, by what they do", states);
        let share = |share: fn(&CountedMachine) -> Option<f64>| {
            let shares = machines.iter().filter_map(move |machine| {
                Some((label("machine", &machine.name), share(machine)?))
            });
            shares.collect::<Vec<_>>()
        };
        let help = "Share of the content of a machine that is on this host";
        self.gauge("view_local_ratio", help, share(|machine| machine.local));
        let help = "Share of what boots of a machine's template read that is on this host";
        let boot_set = share(|machine| machine.boot_set);
        self.gauge("boot_set_local_ratio", help, boot_set);
        let stalls = machines.iter().flat_map(|machine| {
            machine.stalls.iter().map(|(cause, seconds)| {
                let mut labels = label("machine", &machine.name);
                labels.extend(label("reason", *cause));
                (labels, *seconds)
            })
        });
        let help = "Time in which a machine was stalled, by why";
        self.seconds("machine_stall_seconds", help, stalls);
    }
}

#[cfg(test)]
mod tests {
    use shale_model::{ChunkId, Trouble};
    use shale_view::{FirstReads, Hedge, Observer, Purpose, Source};

    use super::*;
    use crate::metrics::Face;

    #[test]
    fn everything_has_its_name_and_its_value() {
        let counters = Counters::default();
        let chunk = ChunkId::of(b"a");
        counters.touched(chunk, 100, Source::Cache);
        counters.touched(chunk, 20, Source::Fetched);
        counters.fetched(7, Purpose::BootSet);
        counters.checked(5, Checked::Right);
        counters.checked(1, Checked::Wrong);
        counters.hedged(Hedge::Sent);
        counters.retried(Trouble::Unavailable, "nobody is there");
        let noted = Noted::new();
        noted.reads(Face::Nbd).observe(0.002);
        noted.reads(Face::FuseTree).observe(0.02);
        noted.ready(4.0);
        noted.booted(FirstReads { here: 3, waited: 1 });
        let usage = CacheUsage {
            cap_bytes: 1000,
            bytes: 600,
            pinned_bytes: 200,
            chunks: 9,
        };
        let deeds = CacheDeeds {
            right_chunks: 4,
            wrong_chunks: 2,
            evicted_bytes: 50,
        };
        let sums = SourceSums {
            requests: 8,
            failures: 3,
            bytes: 4096,
            is_broken: true,
        };
        let text = render(&Counted {
            started: 1_764_080_571,
            counters: &counters,
            noted: &noted,
            cache: (usage, deeds),
            machines: vec![CountedMachine {
                name: "web".into(),
                state: MachineState::Stalled,
                local: Some(0.25),
                boot_set: None,
                stalls: BTreeMap::from([("unavailable", 2.5)]),
            }],
            sources: vec![("http://a\"b".into(), sums)],
            events: BTreeMap::from([("paused", 2)]),
        })
        .unwrap();
        for line in [
            "shale_build_info{version=\"0.1.0\"} 1",
            "shale_service_start_time_seconds 1764080571.0",
            "shale_events_total{kind=\"paused\"} 2",
            "shale_read_bytes_total{source=\"cache\"} 100",
            "shale_read_bytes_total{source=\"fetched\"} 20",
            "shale_read_duration_seconds_bucket{le=\"0.003\",face=\"nbd\"} 1",
            "shale_read_duration_seconds_bucket{le=\"0.003\",face=\"fuse_tree\"} 0",
            "shale_stall_seconds_total{reason=\"unavailable\"} 0.0",
            "shale_fetched_bytes_total{purpose=\"boot_set\"} 7",
            "shale_fetch_retries_total 1",
            "shale_hedged_requests_total 1",
            "shale_hedged_requests_won_total 0",
            "shale_chunks_verified_total{at=\"arrival\",result=\"right\"} 5",
            "shale_chunks_verified_total{at=\"first_use\",result=\"wrong\"} 2",
            "shale_cache_bytes 600.0",
            "shale_cache_capacity_bytes 1000.0",
            "shale_cache_evicted_bytes_total 50",
            "shale_source_requests_total{source=\"http://a\\\"b\"} 8",
            "shale_source_broken{source=\"http://a\\\"b\"} 1.0",
            "shale_time_to_ready_seconds_count 1",
            "shale_boot_read_chunks_total{result=\"miss\"} 1",
            "shale_boot_set_hit_ratio 0.75",
            "shale_machines{state=\"stalled\"} 1.0",
            "shale_machines{state=\"running\"} 0.0",
            "shale_view_local_ratio{machine=\"web\"} 0.25",
            "shale_machine_stall_seconds_total{machine=\"web\",reason=\"unavailable\"} 2.5",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}:\n{text}");
        }
        assert!(!text.contains("shale_boot_set_local_ratio{"), "not known");
        assert!(text.ends_with("# EOF\n"));
    }
}
