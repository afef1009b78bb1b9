//! What runs: an API server with the objects, a Redis, and a controller that is started when all of them are there.
//! I/O: processes, the API server, Redis.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use api::{AiQuota, AiQuotaStatus, Condition};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::{ApiResource, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use redis::aio::MultiplexedConnection;
use serde_json::{Value, json};
use testbed::{ApiServer, Controller, ControllerOptions, Redis, RedisOptions, eventually_within};

use super::objects::GATEWAY;
use super::{Counts, Round, Size, Usage};
use crate::bench::lua;

/// Requests on the way at once: as many as the controller's reporter has.
const IN_FLIGHT: usize = 16;
/// For everything at full size on a machine that others use as well.
const PATIENCE: Duration = Duration::from_secs(900);

/// Everything that runs. Ends when it is dropped.
pub struct Bed {
    pub size: Size,
    pub(super) api: ApiServer,
    pub(super) redis: MultiplexedConnection,
    controller: OnceLock<Controller>,
    _server: Redis,
}

/// All objects are ready.
#[derive(Clone, Debug)]
pub struct Ready {
    /// From the start of the controller to the end of the round that reported the last of them.
    pub took: Duration,
    pub rounds: Vec<Round>,
}

impl Bed {
    /// API server and Redis, and all objects but the quotas.
    ///
    /// # Errors
    /// When something does not start or is refused.
    pub async fn set(size: Size) -> Result<Self> {
        let (api, server) = (ApiServer::start().await?, Redis::start(RedisOptions::default()).await?);
        api.install_crds().await?;
        api.namespace(GATEWAY).await?;
        for namespace in Size::namespaces() {
            api.namespace(&namespace).await?;
        }
        let redis = server.addr();
        let applied = size.surroundings(&redis).map(|object| {
            let api = &api;
            async move { api.apply(&object).await.map(drop) }
        });
        all(applied).await?;
        Ok(Self { size, api, redis: server.connect().await?, controller: OnceLock::new(), _server: server })
    }

    /// Creates the quotas, and says how long that took.
    ///
    /// # Errors
    /// When the API server refuses one.
    pub async fn create(&self) -> Result<Duration> {
        let begun = Instant::now();
        let created = self.size.quotas().enumerate().map(|(object, quota)| async move {
            let quota: DynamicObject = serde_json::from_value(quota)?;
            self.quotas(object).create(&PostParams::default(), &quota).await?;
            Ok(())
        });
        all(created).await?;
        Ok(begun.elapsed())
    }

    /// Patches a status as large as the controller's into every quota, as its reporter does it, and says how long
    /// that took. They say that nothing is known yet.
    ///
    /// # Errors
    /// When the API server refuses one.
    pub async fn patch_statuses(&self) -> Result<Duration> {
        let begun = Instant::now();
        let patched = (0..self.size.objects).map(|object| async move {
            let name = super::objects::name(object);
            let parameters = PatchParams { field_manager: Some(api::MANAGER.to_owned()), ..PatchParams::default() };
            let patch = json!({"status": unknown()});
            self.quotas(object).patch_status(&name, &parameters, &Patch::Merge(patch)).await?;
            Ok(())
        });
        all(patched).await?;
        Ok(begun.elapsed())
    }

    /// Applies as many balances as the objects declare with the controller's script, in large round trips over one
    /// connection, and says how long that took. Nothing of it stays.
    ///
    /// # Errors
    /// When Redis fails.
    pub async fn seed_bare(&self) -> Result<Duration> {
        let took = lua::seed(&self.redis, self.size.balances()).await?;
        redis::cmd("FLUSHALL").query_async::<()>(&mut self.redis.clone()).await?;
        Ok(took)
    }

    /// Starts the controller, or starts it again, and waits until all quotas are ready.
    ///
    /// # Errors
    /// When it ends, or they do not become ready.
    pub async fn start_controller(&self) -> Result<Ready> {
        let before = self.rounds().len();
        let begun = Timestamp::now();
        match self.controller.get() {
            Some(controller) => {
                controller.terminate().await?;
                controller.restart()?;
            }
            None => {
                let options = ControllerOptions {
                    module_url: Some("oci://example.com/ai-quota:1.0.0".to_owned()),
                    args: vec!["--log=controller=debug,info".to_owned()],
                    ..ControllerOptions::default()
                };
                let started = Controller::start(&self.api, options)?;
                self.controller.get_or_init(|| started);
            }
        }
        let mut seen = before;
        loop {
            seen = self.rounds_beyond(seen).await?;
            let ready = self.all_ready().await;
            let rounds = self.rounds();
            match ready {
                Ok(()) => {
                    // Where another round ended while they were looked at, it may have been the one that reported.
                    let last = rounds.get(seen - 1).context("a round vanished")?;
                    let took = Duration::try_from(last.done.duration_since(begun))?;
                    return Ok(Ready { took, rounds: rounds[before..].to_vec() });
                }
                Err(error) => ensure!(begun.duration_until(Timestamp::now()) < PATIENCE.try_into()?, error),
            }
        }
    }

    /// Waits until the controller has gone through a whole round in which nothing was left to do but what is already
    /// on its way: two changes that mean nothing are answered by a round each, and the second began after the first.
    ///
    /// # Errors
    /// When the controller does not go round.
    pub async fn settle(&self) -> Result<()> {
        for nudge in 0..2 {
            let seen = self.rounds().len();
            let bridges = self.api.objects("networking.higress.io/v1", "McpBridge", GATEWAY).await?;
            let patch = json!({"metadata": {"annotations": {"example.com/nudge": format!("{seen}.{nudge}")}}});
            bridges.patch("default", &PatchParams::default(), &Patch::Merge(patch)).await?;
            self.rounds_beyond(seen).await?;
        }
        Ok(())
    }

    /// What was done so far, but for the nudges of [`Self::settle`].
    ///
    /// # Errors
    /// When the API server or Redis does not answer.
    pub async fn counts(&self) -> Result<Counts> {
        let mut counts = Counts::read(&self.api.client(), &mut self.redis.clone()).await?;
        counts.api.remove("PATCH mcpbridges");
        Ok(counts)
    }

    /// What the controller took of the machine.
    ///
    /// # Errors
    /// When it does not run.
    pub fn usage(&self) -> Result<Usage> {
        Usage::of(self.controller.get().context("no controller was started")?.process_id()?)
    }

    /// The version of every quota and WasmPlugin by its name: who has the same was not written to.
    ///
    /// # Errors
    /// When the API server does not answer.
    pub async fn versions(&self) -> Result<Vec<(String, String)>> {
        let quotas = self.list().await?.into_iter().map(|quota| quota.metadata);
        let plugins = self.plugins().list(&ListParams::default()).await?;
        let version = |metadata: kube::core::ObjectMeta| {
            (metadata.name.unwrap_or_default(), metadata.resource_version.unwrap_or_default())
        };
        Ok(quotas.chain(plugins.items.into_iter().map(|plugin| plugin.metadata)).map(version).collect())
    }

    /// All keys in Redis.
    ///
    /// # Errors
    /// When Redis does not answer.
    pub async fn keys(&self) -> Result<usize> {
        Ok(redis::cmd("DBSIZE").query_async(&mut self.redis.clone()).await?)
    }

    /// Of all starts of the controller.
    pub(super) fn rounds(&self) -> Vec<Round> {
        self.controller.get().map(|controller| Round::all(&controller.log())).unwrap_or_default()
    }

    pub(super) fn quotas(&self, object: usize) -> Api<DynamicObject> {
        let resource = ApiResource::erase::<AiQuota>(&());
        Api::namespaced_with(self.api.client(), &self.size.namespace_of(object), &resource)
    }

    pub(super) fn plugins(&self) -> Api<api::WasmPlugin> {
        Api::namespaced(self.api.client(), GATEWAY)
    }

    /// Waits for more rounds than so many, and says how many there are.
    async fn rounds_beyond(&self, seen: usize) -> Result<usize> {
        let controller = self.controller.get().context("no controller was started")?;
        eventually_within(PATIENCE, "the controller goes round", async || {
            controller.ensure_running()?;
            let rounds = self.rounds().len();
            ensure!(rounds > seen, "{rounds} rounds");
            Ok(rounds)
        })
        .await
    }

    async fn all_ready(&self) -> Result<()> {
        let quotas = self.list().await?;
        ensure!(quotas.len() == self.size.objects, "there are {} quotas", quotas.len());
        let not = quotas.iter().find(|quota| !is_ready(quota));
        ensure!(not.is_none(), "{:?}", not.map(|quota| (&quota.metadata.name, &quota.status)));
        Ok(())
    }

    async fn list(&self) -> Result<Vec<AiQuota>> {
        let api: Api<AiQuota> = Api::all(self.api.client());
        let mut found = Vec::with_capacity(self.size.objects);
        let mut page = ListParams::default().limit(500);
        loop {
            let list = api.list(&page).await?;
            found.extend(list.items);
            match list.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => page = page.continue_token(&token),
                None => return Ok(found),
            }
        }
    }
}

/// Whether the status says so of the spec that is there now.
pub(super) fn is_ready(quota: &AiQuota) -> bool {
    let status = quota.status.as_ref().filter(|status| status.observed_generation == quota.metadata.generation);
    let mut conditions = status.into_iter().flat_map(|status| &status.conditions);
    conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// Some at once, until one fails.
async fn all<F: Future<Output = Result<()>>>(of: impl Iterator<Item = F>) -> Result<()> {
    stream::iter(of).buffer_unordered(IN_FLIGHT).try_collect().await
}

fn unknown() -> Value {
    let condition = |kind: &str| Condition {
        type_: kind.to_owned(),
        status: "Unknown".to_owned(),
        reason: "Unknown".to_owned(),
        message: String::new(),
        observed_generation: Some(0),
        last_transition_time: Time(Timestamp::UNIX_EPOCH),
    };
    let status = AiQuotaStatus {
        observed_generation: Some(0),
        conditions: ["Accepted", "Programmed", "Seeded", "Ready"].map(condition).to_vec(),
        ..AiQuotaStatus::default()
    };
    json!(status)
}
