//! What was done to the API server and to Redis so far, by their own counters, and what of it was done since.
//! I/O: the API server, Redis.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use kube::Client;
use redis::aio::MultiplexedConnection;

/// Counters as they were at one moment, or what they grew by since another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Writes by verb and resource: `PATCH aiquotas/status`. Only of what this product reads or writes; reads and the
    /// API server's own housekeeping are left out.
    pub api: BTreeMap<String, u64>,
    /// Commands by name, those that scripts call included.
    pub redis: BTreeMap<String, u64>,
    /// Changes of the data set, as Redis counts them: one per key, hash field or set member.
    pub redis_changes: u64,
}

const WRITES: [&str; 6] = ["POST", "PUT", "PATCH", "APPLY", "DELETE", "DELETECOLLECTION"];
const RESOURCES: [&str; 8] =
    ["aiquotas", "aiquotastores", "wasmplugins", "mcpbridges", "ingresses", "secrets", "services", "events"];

impl Counts {
    pub(super) async fn read(client: &Client, redis: &mut MultiplexedConnection) -> Result<Self> {
        let metrics = client.request_text(http::Request::get("/metrics").body(Vec::new())?).await?;
        let mut api = BTreeMap::new();
        for line in metrics.lines().filter_map(|line| line.strip_prefix("apiserver_request_total{")) {
            let (labels, count) = line.rsplit_once("} ").context("a metric without a value")?;
            let label = |name: &str| {
                let (_, rest) = labels.split_once(&format!("{name}=\""))?;
                rest.split_once('"').map(|(value, _)| value)
            };
            let (verb, resource) = (label("verb").unwrap_or_default(), label("resource").unwrap_or_default());
            if WRITES.contains(&verb) && RESOURCES.contains(&resource) {
                let part = label("subresource").filter(|part| !part.is_empty()).map(|part| format!("/{part}"));
                let what = format!("{verb} {resource}{}", part.unwrap_or_default());
                *api.entry(what).or_default() += count.parse::<u64>()?;
            }
        }
        let info: String = redis::cmd("INFO").arg("everything").query_async(redis).await?;
        let of = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let commands = info.lines().filter_map(|line| {
            let (name, figures) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
            Some((name.to_owned(), figures.split_once(',')?.0.parse().ok()?))
        });
        let redis_changes = of("rdb_changes_since_last_save").context("Redis counts no changes")?.trim().parse()?;
        Ok(Self { api, redis: commands.collect(), redis_changes })
    }

    /// What came on top of `before`.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let grown = |now: &BTreeMap<String, u64>, before: &BTreeMap<String, u64>| {
            let by = now.iter().map(|(what, count)| (what, count - before.get(what).copied().unwrap_or(0)));
            by.filter(|(_, count)| *count > 0).map(|(what, count)| (what.clone(), count)).collect()
        };
        Self {
            api: grown(&self.api, &before.api),
            redis: grown(&self.redis, &before.redis),
            redis_changes: self.redis_changes - before.redis_changes,
        }
    }

    /// How often this was written.
    #[must_use]
    pub fn written(&self, what: &str) -> u64 {
        self.api.get(what).copied().unwrap_or(0)
    }
}
