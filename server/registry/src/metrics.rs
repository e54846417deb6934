//! What the registry counts.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// Upper bounds of the request times, in seconds: from a cached answer to a large pack.
const SECONDS: [f64; 10] = [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 60.0];

/// Counters of one registry.
pub(crate) struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    seconds: Family<RouteLabels, Histogram>,
    pub(crate) sent_bytes: Counter,
    pub(crate) received_bytes: Counter,
    packs: Family<ResultLabels, Counter>,
    pub(crate) connections: Gauge,
    pushes: Gauge,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    method: String,
    route: String,
    status: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RouteLabels {
    route: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabels {
    result: &'static str,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let histogram: fn() -> Histogram = || Histogram::new(SECONDS);
        let mut this = Self {
            registry: Registry::with_prefix("shale"),
            requests: Family::default(),
            seconds: Family::new_with_constructor(histogram),
            sent_bytes: Counter::default(),
            received_bytes: Counter::default(),
            packs: Family::default(),
            connections: Gauge::default(),
            pushes: Gauge::default(),
        };
        let registry = &mut this.registry;
        let requests = this.requests.clone();
        registry.register("http_requests", "Requests answered", requests);
        let help = "Time until the head of an answer";
        registry.register("http_request_duration_seconds", help, this.seconds.clone());
        let sent = this.sent_bytes.clone();
        registry.register("registry_pack_sent_bytes", "Bytes of packs sent", sent);
        let received = this.received_bytes.clone();
        registry.register(
            "registry_pack_received_bytes",
            "Bytes of packs received",
            received,
        );
        let packs = this.packs.clone();
        registry.register(
            "registry_packs_received",
            "Packs received, by result",
            packs,
        );
        let connections = this.connections.clone();
        registry.register("http_connections", "Connections open", connections);
        let pushes = this.pushes.clone();
        registry.register("registry_pushes_open", "Pushes open", pushes);
        this
    }

    /// Counts an answer. Routes and statuses are few; what has no route counts as one.
    pub(crate) fn answered(&self, method: &str, route: &str, status: u16, took: Duration) {
        let labels = RequestLabels {
            method: method.to_owned(),
            route: route.to_owned(),
            status,
        };
        self.requests.get_or_create(&labels).inc();
        let labels = RouteLabels {
            route: route.to_owned(),
        };
        self.seconds
            .get_or_create(&labels)
            .observe(took.as_secs_f64());
    }

    /// Counts an uploaded pack.
    pub(crate) fn pack_received(&self, accepted: Result<(), ()>) {
        let result = if accepted.is_ok() {
            "accepted"
        } else {
            "refused"
        };
        self.packs.get_or_create(&ResultLabels { result }).inc();
    }

    /// All of it as OpenMetrics text.
    pub(crate) fn render(&self, pushes: usize) -> Result<String, std::fmt::Error> {
        self.pushes.set(i64::try_from(pushes).unwrap_or(i64::MAX));
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}
