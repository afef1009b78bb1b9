//! What this process counts and measures: its parts say what they did, and the text of OpenMetrics comes out. No label
//! has text that somebody else wrote, but for the names of objects and, where that is asked for, of consumers. No I/O.

mod found;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use crate::lease::{Leadership, Part};

use found::Shown;
pub(crate) use found::{Found, Tally};

/// What [`Metrics::encode`] writes.
pub(crate) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// From a millisecond to a minute, beyond which a plan is given up.
const STEPS: [f64; 14] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0];
/// From a fifth of a millisecond to the longest that is waited for a store.
const ROUND_TRIPS: [f64; 13] = [0.0002, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];

type One = [(&'static str, String); 1];
type Two = [(&'static str, String); 2];
type Histograms = Family<One, Histogram, fn() -> Histogram>;

/// What was written to the API server.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Written {
    WasmPlugin,
    Status,
    Finalizer,
    Event,
}

/// What became of it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Became {
    Done,
    /// Somebody else was faster: it is tried again on what there is then.
    Overtaken,
    Failed,
    /// An Event of a reason of which too many were told just now.
    Withheld,
}

/// Why balances were refreshed.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Refreshed {
    ByHand,
    BySchedule,
}

/// All of them.
pub(crate) struct Metrics {
    registry: Registry,
    steps: Histograms,
    rounds: Counter,
    writes: Family<Two, Counter>,
    drift: Family<One, Counter>,
    refreshes: Family<One, Counter>,
    synced: Family<One, Gauge>,
    lists: Family<One, Counter>,
    watch_failures: Family<One, Counter>,
    round_trips: Histograms,
    store_failures: Family<One, Counter>,
    seeds: Family<Two, Counter>,
    shown: Shown,
}

impl Metrics {
    /// `consumers`: of how many consumers there are series of their own.
    pub(crate) fn new(leadership: Leadership, consumers: usize) -> Self {
        let mut metrics = Self {
            registry: Registry::default(),
            steps: Family::new_with_constructor(|| Histogram::new(STEPS)),
            rounds: Counter::default(),
            writes: Family::default(),
            drift: Family::default(),
            refreshes: Family::default(),
            synced: Family::default(),
            lists: Family::default(),
            watch_failures: Family::default(),
            round_trips: Family::new_with_constructor(|| Histogram::new(ROUND_TRIPS)),
            store_failures: Family::default(),
            seeds: Family::default(),
            shown: Shown::new(leadership.clone(), consumers),
        };
        metrics.register(leadership);
        metrics.begin();
        metrics
    }

    /// What can be counted is there from the beginning: the first of something would not be seen as one more.
    fn begin(&self) {
        for what in [Written::WasmPlugin, Written::Status, Written::Finalizer, Written::Event] {
            for became in [Became::Done, Became::Overtaken, Became::Failed] {
                self.writes.get_or_create(&written(what, became)).inc_by(0);
            }
        }
        self.writes.get_or_create(&written(Written::Event, Became::Withheld)).inc_by(0);
        for plugin in [plan::GUARD, plan::AI_QUOTA, plan::AI_TOKEN_RATELIMIT] {
            self.drift.get_or_create(&one("plugin", plugin)).inc_by(0);
        }
        for why in [Refreshed::ByHand, Refreshed::BySchedule] {
            self.refreshed(why, 0);
        }
    }

    fn register(&mut self, leadership: Leadership) {
        let Self {
            registry,
            steps,
            rounds,
            writes,
            drift,
            refreshes,
            synced,
            lists,
            watch_failures,
            round_trips,
            store_failures,
            seeds,
            shown,
        } = self;
        let version = vec![("version", env!("CARGO_PKG_VERSION"))];
        registry.register("aiquota_build", "The running version", Info::new(version));
        let began = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        let began = ConstGauge::new(began);
        registry.register("aiquota_start_time_seconds", "When this process began, as Unix time", began);
        registry.register_collector(Box::new(Leading(leadership)));
        registry.register(
            "aiquota_rounds",
            "Rounds that were completed, from a snapshot to the last report",
            rounds.clone(),
        );
        registry.register("aiquota_round_step_duration_seconds", "How long the steps of rounds took", steps.clone());
        registry.register("aiquota_writes", "Writes to the API server by what became of them", writes.clone());
        registry.register(
            "aiquota_drift_mended",
            "Changes of others to our WasmPlugins that were undone",
            drift.clone(),
        );
        registry.register("aiquota_refreshes", "Refreshes of AIQuotas", refreshes.clone());
        registry.register("aiquota_watch_synced", "Whether all objects of a kind are known", synced.clone());
        registry.register(
            "aiquota_watch_lists",
            "Complete lists of a kind: a watch began, or began anew",
            lists.clone(),
        );
        registry.register(
            "aiquota_watch_failures",
            "Failures of watching a kind, each tried again",
            watch_failures.clone(),
        );
        registry.register(
            "aiquota_store_round_trip_duration_seconds",
            "How long a store took to answer a round trip of up to 256 calls",
            round_trips.clone(),
        );
        registry.register("aiquota_store_failures", "How often a store could not be used", store_failures.clone());
        registry.register("aiquota_seed_calls", "Calls that put or look at a balance, by their answer", seeds.clone());
        registry.register_collector(Box::new(shown.clone()));
    }

    /// As text.
    pub(crate) fn encode(&self) -> Result<String, std::fmt::Error> {
        let mut into = String::new();
        text::encode(&mut into, &self.registry)?;
        Ok(into)
    }

    /// A round was completed.
    pub(crate) fn round(&self, steps: impl Iterator<Item = (&'static str, Duration)>) {
        for (step, took) in steps {
            self.steps.get_or_create(&one("step", step)).observe(took.as_secs_f64());
        }
        self.rounds.inc();
    }

    pub(crate) fn wrote(&self, what: Written, became: Became) {
        self.writes.get_or_create(&written(what, became)).inc();
    }

    /// What somebody else did to a WasmPlugin of ours is undone.
    pub(crate) fn mended(&self, plugin: &str) {
        self.drift.get_or_create(&one("plugin", plugin)).inc();
    }

    pub(crate) fn refreshed(&self, why: Refreshed, times: u64) {
        let trigger = match why {
            Refreshed::ByHand => "hand",
            Refreshed::BySchedule => "schedule",
        };
        self.refreshes.get_or_create(&one("trigger", trigger)).inc_by(times);
    }

    /// A kind is watched from now on.
    pub(crate) fn watch(&self, kind: &str) -> WatchMeter {
        let kind = one("kind", kind);
        WatchMeter {
            synced: self.synced.get_or_create_owned(&kind),
            lists: self.lists.get_or_create_owned(&kind),
            failures: self.watch_failures.get_or_create_owned(&kind),
        }
    }

    /// A store is asked from now on.
    pub(crate) fn store(&self, name: &str) -> StoreMeter {
        let store = one("store", name);
        StoreMeter {
            name: name.to_owned(),
            round_trips: self.round_trips.get_or_create_owned(&store),
            failures: self.store_failures.get_or_create_owned(&store),
            seeds: self.seeds.clone(),
        }
    }

    /// What a round found, in the place of what the last one did.
    pub(crate) fn found(&self, found: Found<'_>) {
        let refreshed = self.shown.show(found);
        self.refreshed(Refreshed::BySchedule, refreshed);
    }
}

/// The counters of one watch.
#[derive(Clone, Default)]
pub(crate) struct WatchMeter {
    synced: Gauge,
    lists: Counter,
    failures: Counter,
}

impl WatchMeter {
    pub(crate) fn complete(&self) {
        self.synced.set(1);
        self.lists.inc();
    }

    pub(crate) fn failed(&self) {
        self.failures.inc();
    }
}

/// The counters of one store.
#[derive(Clone)]
pub(crate) struct StoreMeter {
    name: String,
    round_trips: Histogram,
    failures: Counter,
    seeds: Family<Two, Counter>,
}

impl StoreMeter {
    /// One that nobody reads.
    #[cfg(test)]
    pub(crate) fn unread() -> Self {
        Self {
            name: String::new(),
            round_trips: Histogram::new(ROUND_TRIPS),
            failures: Counter::default(),
            seeds: Family::default(),
        }
    }

    pub(crate) fn answered(&self, after: Duration) {
        self.round_trips.observe(after.as_secs_f64());
    }

    pub(crate) fn failed(&self) {
        self.failures.inc();
    }

    pub(crate) fn seeded(&self, outcome: &'static str) {
        let labels = [("store", self.name.clone()), ("outcome", outcome.to_owned())];
        self.seeds.get_or_create(&labels).inc();
    }
}

impl Written {
    const fn word(self) -> &'static str {
        match self {
            Self::WasmPlugin => "wasmplugin",
            Self::Status => "status",
            Self::Finalizer => "finalizer",
            Self::Event => "event",
        }
    }
}

impl Became {
    const fn word(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Overtaken => "overtaken",
            Self::Failed => "failed",
            Self::Withheld => "withheld",
        }
    }
}

fn written(what: Written, became: Became) -> Two {
    [("object", what.word().to_owned()), ("result", became.word().to_owned())]
}

fn one(label: &'static str, value: &str) -> One {
    [(label, value.to_owned())]
}

/// Whether this process leads, when it is asked.
#[derive(Debug)]
struct Leading(Leadership);

impl Collector for Leading {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let term = match self.0.part() {
            Part::Leading(term) => Some(term),
            Part::Asking | Part::StandingBy => None,
        };
        let help = "Whether this process leads.";
        encoder
            .encode_descriptor("aiquota_leader", help, None, MetricType::Gauge)?
            .encode_gauge(&i64::from(term.is_some()))?;
        let Some(term) = term else { return Ok(()) };
        let help = "The term with which this process leads: it grows with every change of the leader.";
        encoder.encode_descriptor("aiquota_lease_term", help, None, MetricType::Gauge)?.encode_gauge(&term)
    }
}

#[cfg(test)]
mod tests;
