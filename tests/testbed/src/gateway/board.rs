//! What all workers write on and tests read: module log, access log, traps, metrics, and the data that VMs share.
//! Bounded; no I/O.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::abi::status;

/// How many lines and exchanges are kept.
const KEPT: usize = 100_000;

/// A line a module wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    pub plugin: String,
    /// As in the ABI: 0 trace, 1 debug, 2 info, 3 warn, 4 error, 5 critical.
    pub level: u32,
    pub text: String,
}

/// One run of the filter chain; a request that was redirected to a fallback has several.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exchange {
    pub request_id: String,
    pub method: String,
    pub path: String,
    pub route: Option<String>,
    pub cluster: Option<String>,
    /// What the client, or the redirect, was told; 0 when the client left before.
    pub status: u16,
    /// Envoy's response code details: `via_upstream`, or who answered and why.
    pub details: String,
    /// Envoy's response flags: `UF`, `UC`, `NR`, `DC`, or nothing.
    pub flags: &'static str,
    /// Bytes of the body that reached the client.
    pub sent: u64,
    /// Redirected to this fallback instead of answering the client.
    pub redirected: bool,
    pub worker: usize,
    /// The configuration that it ran under, as [`super::Loaded::generation`], and that which the worker had at its end.
    pub generation: u64,
    pub ended_in: u64,
}

#[derive(Default)]
pub(super) struct Board {
    /// Lines below this level are not kept.
    level: u32,
    logs: Mutex<VecDeque<LogLine>>,
    exchanges: Mutex<VecDeque<Exchange>>,
    traps: AtomicU64,
    builds: Mutex<BTreeMap<String, u64>>,
    metrics: Mutex<Metrics>,
    shared: Mutex<HashMap<Vec<u8>, Versioned>>,
}

/// A value with the number of its last change.
type Versioned = (Vec<u8>, u32);

#[derive(Default)]
struct Metrics {
    ids: HashMap<String, u32>,
    /// Kind, name and value, by id.
    all: Vec<(i32, String, i64)>,
}

impl Board {
    pub(super) fn new(level: u32) -> Self {
        Self { level, ..Self::default() }
    }

    pub(super) fn log(&self, plugin: &str, level: u32, text: String) {
        if level >= self.level {
            push(&mut lock(&self.logs), LogLine { plugin: plugin.to_owned(), level, text });
        }
    }

    pub(super) const fn level(&self) -> u32 {
        self.level
    }

    pub(super) fn logs(&self) -> Vec<LogLine> {
        lock(&self.logs).iter().cloned().collect()
    }

    pub(super) fn record(&self, exchange: Exchange) {
        push(&mut lock(&self.exchanges), exchange);
    }

    pub(super) fn exchanges(&self) -> Vec<Exchange> {
        lock(&self.exchanges).iter().cloned().collect()
    }

    pub(super) fn trapped(&self) {
        self.traps.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn traps(&self) -> u64 {
        self.traps.load(Ordering::Relaxed)
    }

    pub(super) fn built(&self, plugin: &str) {
        *lock(&self.builds).entry(plugin.to_owned()).or_default() += 1;
    }

    pub(super) fn builds(&self, plugin: &str) -> u64 {
        lock(&self.builds).get(plugin).copied().unwrap_or_default()
    }

    pub(super) fn define_metric(&self, kind: i32, name: String) -> u32 {
        let mut metrics = lock(&self.metrics);
        if let Some(id) = metrics.ids.get(&name) {
            return *id;
        }
        let id = metrics.all.len() as u32;
        metrics.ids.insert(name.clone(), id);
        metrics.all.push((kind, name, 0));
        id
    }

    /// Adds to a metric, or sets it; a counter only grows.
    pub(super) fn change_metric(&self, id: u32, set: bool, by: i64) -> i32 {
        match lock(&self.metrics).all.get_mut(id as usize) {
            None => status::NOT_FOUND,
            Some((0, _, _)) if set || by < 0 => status::BAD_ARGUMENT,
            Some((_, _, value)) => {
                *value = if set { by } else { value.saturating_add(by) };
                status::OK
            }
        }
    }

    pub(super) fn metric(&self, id: u32) -> Option<i64> {
        lock(&self.metrics).all.get(id as usize).map(|(_, _, value)| *value)
    }

    pub(super) fn metrics(&self) -> BTreeMap<String, i64> {
        lock(&self.metrics).all.iter().map(|(_, name, value)| (name.clone(), *value)).collect()
    }

    pub(super) fn shared_data(&self, key: &[u8]) -> Option<(Vec<u8>, u32)> {
        lock(&self.shared).get(key).cloned()
    }

    pub(super) fn set_shared_data(&self, key: Vec<u8>, value: Vec<u8>, cas: u32) -> i32 {
        let mut shared = lock(&self.shared);
        let now = shared.get(&key).map_or(0, |(_, cas)| *cas);
        if cas != 0 && cas != now {
            return status::CAS_MISMATCH;
        }
        shared.insert(key, (value, now + 1));
        status::OK
    }
}

fn push<T>(queue: &mut VecDeque<T>, item: T) {
    if queue.len() == KEPT {
        queue.pop_front();
    }
    queue.push_back(item);
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
