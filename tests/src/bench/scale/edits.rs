//! One edit among many objects: a change of a spec in, how long it took to be in force and reported out. I/O: the API
//! server, Redis.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use api::{AiQuota, WasmPlugin};
use futures::{StreamExt as _, pin_mut};
use kube::Api;
use kube::api::{Patch, PatchParams};
use kube_runtime::watcher::watch_object;
use serde_json::{Value, json};
use testbed::eventually;

use super::bed::{Bed, is_ready};
use super::objects::{GRANT, name};

/// What is edited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edit {
    /// What one consumer is given: Redis only.
    Grant,
    /// One more target: the WasmPlugin.
    Rule,
}

/// From the API server's answer to the edit.
#[derive(Clone, Copy, Debug)]
pub struct Edited {
    /// Until Redis or the WasmPlugin had it.
    pub in_force: Duration,
    /// Until the status of the object said so.
    pub reported: Duration,
}

impl Bed {
    /// Makes the `turn`-th edit of this kind, on this object.
    ///
    /// # Errors
    /// When the API server refuses it, or it does not come into force.
    pub async fn edit(&self, edit: Edit, object: usize, turn: usize) -> Result<Edited> {
        match edit {
            Edit::Grant => {
                let grant = GRANT + 1 + i64::try_from(turn)?;
                let begun = self.change(object, &json!({"consumers": self.size.consumers_of(object, grant)})).await?;
                let balance = self.size.first_balance(object);
                let mut redis = self.redis.clone();
                eventually("the balance follows the edit", async || {
                    let found: Option<i64> = redis::cmd("GET").arg(&balance).query_async(&mut redis).await?;
                    ensure!(found == Some(grant), "{balance} is {found:?}");
                    Ok(())
                })
                .await?;
                self.edited(object, begun).await
            }
            Edit::Rule => {
                let (targets, route) = self.size.with_spare_route(object, turn);
                let plugins = watch_object(self.plugins(), "aiquota-ai-quota");
                pin_mut!(plugins);
                // The watch runs before the edit does.
                plugins.next().await.context("the watch ended")??;
                let begun = self.change(object, &json!({"targetRefs": targets})).await?;
                let wait = async {
                    while !plugins.next().await.context("the watch ended")??.is_some_and(|p| has_rule(&p, &route)) {}
                    anyhow::Ok(())
                };
                tokio::time::timeout(Duration::from_secs(60), wait).await.context("no rule for the new target")??;
                self.edited(object, begun).await
            }
        }
    }

    async fn change(&self, object: usize, fields: &Value) -> Result<Instant> {
        let patch = Patch::Merge(json!({"spec": fields}));
        self.quotas(object).patch(&name(object), &PatchParams::default(), &patch).await?;
        Ok(Instant::now())
    }

    async fn edited(&self, object: usize, begun: Instant) -> Result<Edited> {
        let in_force = begun.elapsed();
        let api: Api<AiQuota> = Api::namespaced(self.api.client(), &self.size.namespace_of(object));
        eventually("the status follows the edit", async || {
            let quota = api.get(&name(object)).await?;
            ensure!(is_ready(&quota), "{:?}", quota.status);
            Ok(())
        })
        .await?;
        Ok(Edited { in_force, reported: begun.elapsed() })
    }
}

fn has_rule(plugin: &WasmPlugin, route: &str) -> bool {
    let rules = plugin.spec.match_rules.iter().flatten();
    rules.flat_map(|rule| rule.ingress.iter().flatten()).any(|named| named == route)
}
