//! What a round found, for as long as this process leads: how many objects and balances are how, and if that is asked
//! for the fullest consumers by name. A plan and what became of it in, gauges out, all of one moment. No I/O.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Error;
use std::sync::{Arc, Mutex, PoisonError};

use api::Condition;
use k8s_openapi::jiff::Timestamp;
use plan::{Counts, Figures, Plan, Seeded, Spending};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::MetricType;

use super::{One, one};
use crate::lease::{Leadership, Part};

type Three = [(&'static str, String); 3];
type Four = [(&'static str, String); 4];

/// What a round came to.
pub(crate) struct Found<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) seeds: &'a [Seeded],
    pub(crate) figures: &'a [Option<Figures>],
    /// Whether each store of the plan answers.
    pub(crate) stores: &'a [Option<Result<(), String>>],
    /// Who runs what, by the index of the store.
    pub(crate) gateways: &'a [Counts],
    pub(crate) tally: Tally,
    /// Where stores can be used.
    pub(crate) gateway: &'a str,
    pub(crate) now: Timestamp,
}

/// How many objects have which condition.
#[derive(Debug, Default)]
pub(crate) struct Tally(BTreeMap<[String; 4], i64>);

impl Tally {
    pub(crate) fn add(&mut self, kind: &impl ToString, conditions: &[Condition]) {
        for Condition { type_, status, reason, .. } in conditions {
            *self.0.entry([kind.to_string(), type_.clone(), status.clone(), reason.clone()]).or_default() += 1;
        }
    }
}

/// What the last round found.
#[derive(Clone, Debug)]
pub(super) struct Shown {
    leadership: Leadership,
    most_consumers: usize,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    series: Option<Series>,
    /// By the uid of an AIQuota, when its next period began when that was looked at last.
    periods: HashMap<String, Timestamp>,
}

#[derive(Debug)]
struct Series {
    objects: Vec<(Four, i64)>,
    stores: Vec<(One, i64)>,
    gateways: Vec<(Three, i64)>,
    balances: Vec<(One, i64)>,
    consumers: Vec<(One, i64)>,
    granted: Vec<(Three, i64)>,
    used: Vec<(Three, i64)>,
    left: Vec<(Three, i64)>,
    /// Nothing where no series of consumers are asked for.
    left_out: Option<i64>,
}

impl Shown {
    pub(super) fn new(leadership: Leadership, most_consumers: usize) -> Self {
        Self { leadership, most_consumers, state: Arc::default() }
    }

    /// How many AIQuotas came to another period since the last time.
    pub(super) fn show(&self, found: Found<'_>) -> u64 {
        let Found { plan, seeds, figures, stores, gateways, tally, gateway, now } = found;
        let (consumers, by_name, left_out) = consumers(plan, figures, self.most_consumers);
        let of = |figure: fn(&Spending<'_>) -> Option<i64>| -> Vec<(Three, i64)> {
            by_name.iter().filter_map(|(object, one)| Some((labels(object, one), figure(one)?))).collect()
        };
        let series = Series {
            objects: tally.0.into_iter().map(object).collect(),
            stores: stores_up(plan, stores, gateway),
            gateways: gateways_by_store(plan, gateways),
            balances: counted("state", seeds.iter().map(state)),
            consumers,
            granted: of(|one| one.quota),
            used: of(|one| Some(one.used)),
            left: of(|one| one.balance),
            left_out,
        };
        let periods = plan.verdicts.iter().filter_map(|verdict| {
            Some((verdict.object.metadata().uid.clone().unwrap_or_default(), verdict.next_refresh?))
        });
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut state.periods, periods.collect());
        state.series = Some(series);
        let begun = |(uid, next): &(&String, &Timestamp)| {
            before.get(*uid).is_some_and(|before| before < *next && *before <= now)
        };
        state.periods.iter().filter(begun).count() as u64
    }
}

impl Collector for Shown {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        // Another process may have changed all of this meanwhile.
        let leads = matches!(self.leadership.part(), Part::Leading(_));
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(found) = state.series.as_ref().filter(|_| leads) else { return Ok(()) };
        let encoder = &mut encoder;
        gauges(encoder, "aiquota_objects", "Objects by kind and condition.", &found.objects)?;
        gauges(encoder, "aiquota_store_up", "Whether a store of the gateway's namespace can be used.", &found.stores)?;
        gauges(encoder, "aiquota_gateways", "Gateways by the WasmPlugin and how they run it.", &found.gateways)?;
        gauges(encoder, "aiquota_balances", "Balances of listed consumers by state.", &found.balances)?;
        gauges(encoder, "aiquota_consumers", "Listed consumers by what is left of their quota.", &found.consumers)?;
        gauges(encoder, "aiquota_consumer_granted_tokens", "A consumer's tokens of a period.", &found.granted)?;
        gauges(encoder, "aiquota_consumer_used_tokens", "What a consumer spent in this period.", &found.used)?;
        gauges(encoder, "aiquota_consumer_balance_tokens", "What a consumer has left.", &found.left)?;
        let Some(left_out) = found.left_out else { return Ok(()) };
        let help = "Consumers without series of their own, because more were not asked for.";
        encoder.encode_descriptor("aiquota_consumers_left_out", help, None, MetricType::Gauge)?.encode_gauge(&left_out)
    }
}

fn gauges<const N: usize>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    series: &[([(&'static str, String); N], i64)],
) -> Result<(), Error> {
    if series.is_empty() {
        return Ok(());
    }
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (labels, value) in series {
        metric.encode_family(labels)?.encode_gauge(value)?;
    }
    Ok(())
}

fn object(([kind, condition, status, reason], count): ([String; 4], i64)) -> (Four, i64) {
    ([("kind", kind), ("condition", condition), ("status", status), ("reason", reason)], count)
}

/// Of the gateway's namespace: others cannot be used at all.
fn stores_up(plan: &Plan, stores: &[Option<Result<(), String>>], gateway: &str) -> Vec<(One, i64)> {
    let stores = plan.stores.iter().zip(stores);
    let here = stores.filter(|(store, _)| store.object.metadata.namespace.as_deref() == Some(gateway));
    let name = |store: &plan::StorePlan| store.object.metadata.name.clone().unwrap_or_default();
    here.map(|(store, answers)| (one("store", &name(store)), i64::from(matches!(answers, Some(Ok(())))))).collect()
}

/// Names of gateways are in the status of the store: pods come and go.
fn gateways_by_store(plan: &Plan, gateways: &[Counts]) -> Vec<(Three, i64)> {
    let stores = plan.stores.iter().zip(gateways);
    let of = |(store, counts): (&plan::StorePlan, &Counts)| -> Vec<(Three, i64)> {
        let store = store.object.metadata.name.clone().unwrap_or_default();
        let labels = |plugin: &str, state: &str| {
            [("store", store.clone()), ("plugin", plugin.to_owned()), ("state", state.to_owned())]
        };
        counts.iter().map(|((plugin, state), count)| (labels(plugin, state), *count)).collect()
    };
    stores.flat_map(of).collect()
}

const fn state(seeded: &Seeded) -> &'static str {
    match seeded {
        Seeded::Pending => "pending",
        Seeded::Applied => "applied",
        Seeded::Conflict { .. } => "conflict",
        Seeded::Malformed { .. } => "malformed",
        Seeded::Unreadable { .. } => "unreadable",
        Seeded::Stale { .. } => "stale",
        Seeded::Unreachable { .. } => "unreachable",
    }
}

fn counted(label: &'static str, words: impl Iterator<Item = &'static str>) -> Vec<(One, i64)> {
    let mut counts = BTreeMap::new();
    for word in words {
        *counts.entry(word).or_insert(0) += 1;
    }
    counts.into_iter().map(|(word, count)| (one(label, word), count)).collect()
}

type ByName<'p> = Vec<(String, Spending<'p>)>;

/// How many consumers are how, the fullest `most` of them, and how many are left out then.
fn consumers<'p>(
    plan: &'p Plan,
    figures: &[Option<Figures>],
    most: usize,
) -> (Vec<(One, i64)>, ByName<'p>, Option<i64>) {
    let all = || {
        plan.verdicts
            .iter()
            .flat_map(|verdict| plan::spendings(plan, verdict, figures).into_iter().map(move |one| (verdict, one)))
    };
    let counts = counted("state", all().map(|(_, one)| fullness(&one)));
    if most == 0 {
        return (counts, Vec::new(), None);
    }
    let mut by_name: Vec<_> = all().collect();
    let left_out = by_name.len().saturating_sub(most);
    if left_out > 0 {
        by_name.select_nth_unstable_by(most, |(_, a), (_, b)| a.fuller(b));
        by_name.truncate(most);
    }
    by_name.sort_unstable_by(|(_, a), (_, b)| a.fuller(b));
    let by_name = by_name.into_iter().map(|(verdict, one)| (verdict.key.to_string(), one));
    (counts, by_name.collect(), i64::try_from(left_out).ok())
}

fn fullness(one: &Spending<'_>) -> &'static str {
    match (one.quota, one.balance) {
        // Who is given nothing is not to be warned about.
        (Some(0), _) => "blocked",
        (Some(_), Some(balance)) if balance <= 0 => "exhausted",
        (Some(quota), Some(balance)) if balance < quota / 10 => "nearly_exhausted",
        (Some(_), _) => "within",
        (None, _) => "unlimited",
    }
}

fn labels(object: &str, one: &Spending<'_>) -> Three {
    let model = one.model.unwrap_or_default().to_owned();
    [("policy", object.to_owned()), ("consumer", one.consumer.to_owned()), ("model", model)]
}
