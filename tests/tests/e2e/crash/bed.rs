//! One API server and one Redis for all runs of a story, both behind proxies that count, and the controller between.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use anyhow::{Context as _, Result, bail, ensure};
use e2e::raw::Raw;
use enforcement::redis::{Balance, Charge, ChargeOutcome, Check, CheckOutcome};
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams};
use serde_json::{Value, json};
use testbed::{
    ApiProxy, ApiServer, Controller, ControllerOptions, Moment, Operation, Operations, Reached, Redis, RedisOptions,
    RedisProxy, eventually,
};

use super::state::{self, State};
use crate::stage::{NAMESPACE, condition, quota};

const OURS: &str = "quota.higress.io/v1alpha1";
/// An object without a target: an edit of it makes the controller go round and say so in its status.
const PROBE: &str = "probe";

pub(super) struct Bed {
    api: ApiServer,
    pub(super) redis: Redis,
    operations: Operations,
    /// The last grant of the probe: no two looks are the same.
    probed: AtomicI64,
    controller: Arc<Controller>,
    quotas: Api<DynamicObject>,
    stores: Api<DynamicObject>,
    plugins: Api<DynamicObject>,
    /// Stop with the bed.
    _proxies: (ApiProxy, RedisProxy),
}

/// The store, on the gateway's Redis.
pub(super) fn store() -> Value {
    json!({"apiVersion": OURS, "kind": "AIQuotaStore", "metadata": {"name": "default", "namespace": NAMESPACE},
        "spec": {"service": {"name": "redis.static", "port": 80}, "timeout": "5s"}})
}

/// Another database of the same Redis.
pub(super) fn second_store() -> Value {
    named("second", "second.static", 1)
}

/// The same database under another name.
pub(super) fn store_under_another_name() -> Value {
    named("alias", "alias.static", 0)
}

fn named(name: &str, service: &str, database: u32) -> Value {
    let mut store = store();
    store["metadata"]["name"] = json!(name);
    store["spec"]["service"]["name"] = json!(service);
    store["spec"]["database"] = json!(database);
    store
}

impl Bed {
    /// Everything but quotas and store; the controller does not run.
    pub(super) async fn new() -> Result<Self> {
        let (redis, operations) = (Redis::start(RedisOptions::default()).await?, Operations::without(is_of_probe));
        let to_redis = RedisProxy::start(redis.addr(), &operations).await?;
        let api = ApiServer::start().await?;
        api.install_crds().await?;
        api.namespace(NAMESPACE).await?;
        let registry = |(name, host)| {
            let domain = format!("{host}:{}", to_redis.addr().port());
            json!({"name": name, "type": "static", "domain": domain, "port": 80})
        };
        let registries = [("redis", "127.0.0.1"), ("second", "127.0.0.1"), ("alias", "localhost")].map(registry);
        api.apply(&json!({"apiVersion": "networking.higress.io/v1", "kind": "McpBridge",
            "metadata": {"name": "default", "namespace": NAMESPACE}, "spec": {"registries": registries}}))
            .await?;
        api.apply(&json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
            "metadata": {"name": "qwen", "namespace": NAMESPACE},
            "spec": {"rules": [{"http": {"paths": [{"path": "/", "pathType": "Prefix",
                "backend": {"service": {"name": "llm", "port": {"number": 80}}}}]}}]}}))
            .await?;
        let to_api = ApiProxy::start(&api, &operations).await?;
        let options = ControllerOptions {
            args: vec!["--log=controller=debug,info".to_owned(), "--drain=1s".to_owned()],
            kubeconfig: Some(to_api.kubeconfig().to_owned()),
            ..ControllerOptions::default()
        };
        let controller = Arc::new(Controller::start(&api, options)?);
        controller.kill();
        let quotas = api.objects(OURS, "AIQuota", NAMESPACE).await?;
        let stores = api.objects(OURS, "AIQuotaStore", NAMESPACE).await?;
        let plugins = api.objects("extensions.higress.io/v1alpha1", "WasmPlugin", NAMESPACE).await?;
        Ok(Self {
            api,
            redis,
            operations,
            probed: AtomicI64::new(0),
            controller,
            quotas,
            stores,
            plugins,
            _proxies: (to_api, to_redis),
        })
    }

    /// As new: no controller, no object of ours but the probe, an empty Redis.
    pub(super) async fn clear(&self) -> Result<()> {
        self.controller.kill();
        self.operations.disarm();
        for kind in [&self.quotas, &self.stores, &self.plugins] {
            for object in kind.list(&ListParams::default()).await?.items {
                let name = object.metadata.name.context("an object without a name")?;
                if object.metadata.finalizers.is_some_and(|finalizers| !finalizers.is_empty()) {
                    let none = json!({"metadata": {"finalizers": null}});
                    kind.patch(&name, &PatchParams::default(), &Patch::Merge(none)).await?;
                }
                match kind.delete(&name, &DeleteParams::default()).await {
                    // It had been waiting for its finalizers.
                    Err(kube::Error::Api(status)) if status.is_not_found() => {}
                    other => drop(other?),
                }
            }
        }
        self.redis.flush().await?;
        // It has never heard of the script either.
        redis::cmd("SCRIPT").arg("FLUSH").query_async::<()>(&mut self.redis.connect().await?).await?;
        self.probe().await?;
        self.forget();
        Ok(())
    }

    pub(super) async fn apply(&self, objects: &[Value]) -> Result<()> {
        for object in objects {
            self.api.apply(object).await?;
        }
        Ok(())
    }

    pub(super) async fn annotate(&self, quota: &str, key: &str, value: &str) -> Result<()> {
        let annotation = json!({"metadata": {"annotations": {key: value}}});
        self.quotas.patch(quota, &PatchParams::default(), &Patch::Merge(annotation)).await?;
        Ok(())
    }

    pub(super) async fn delete(&self, quota: &str) -> Result<()> {
        self.quotas.delete(quota, &DeleteParams::default()).await?;
        Ok(())
    }

    /// Starts the controller, also when it was killed.
    pub(super) fn restart(&self) -> Result<()> {
        self.controller.restart()
    }

    /// What the controller has written since [`Self::forget`].
    pub(super) fn operations(&self) -> Vec<Operation> {
        self.operations.seen()
    }

    pub(super) fn forget(&self) {
        self.operations.take();
    }

    /// Kills the controller when it has done `n` more operations; it hears nothing of the last.
    pub(super) fn kill_after(&self, n: usize) -> Reached {
        let controller = self.controller.clone();
        self.operations.cut(n, Moment::Unanswered, move || controller.kill())
    }

    /// Breaks every connection of the controller when it has done `n` more operations; it hears nothing of the last.
    pub(super) fn break_after(&self, n: usize) -> Reached {
        self.operations.cut(n, Moment::Unanswered, || ())
    }

    /// Lets the controller be away while a boundary passes: what is there now was there a period ago.
    pub(super) async fn rewind(&self, consumers: &[&str]) -> Result<()> {
        self.controller.kill();
        let mut redis = self.redis.connect().await?;
        for consumer in consumers {
            let ledger = self.balance(consumer).ledger();
            let mut back = redis::cmd("HINCRBY");
            let ordinal: i64 = back.arg(ledger).arg("ordinal").arg(-1).query_async(&mut redis).await?;
            ensure!(ordinal > 0, "{consumer} has no period");
        }
        self.restart()
    }

    /// Waits until every object is ready as it is now.
    pub(super) async fn done(&self) -> Result<()> {
        self.eventually("every object is ready", async || {
            for store in self.stores.list(&ListParams::default()).await?.items {
                let connected = condition(&store, "Connected");
                ensure!(connected.is_none_or(|connected| connected["status"] == "True"), "{}", store.data["status"]);
            }
            for object in self.quotas.list(&ListParams::default()).await?.items {
                let name = object.metadata.name.as_deref().unwrap_or_default();
                ensure!(object.metadata.deletion_timestamp.is_none(), "{name} is being deleted");
                if name != PROBE {
                    ensure!(observed(&object) == object.metadata.generation, "{name}: {}", object.data["status"]);
                    let ready = condition(&object, "Ready").context("no condition")?;
                    ensure!(ready["status"] == "True", "{name}: {}", object.data["status"]);
                }
            }
            Ok(())
        })
        .await
    }

    /// Waits until all is as `wanted` says and the controller, made to look at everything, leaves it so.
    pub(super) async fn settled(&self, wanted: impl Fn(&State) -> Result<()>) -> Result<State> {
        self.eventually("all is as it should be, and the controller writes nothing more", async || {
            let before = self.operations.seen().len();
            let generation = self.probe().await?;
            self.eventually("the controller looks at everything", async || {
                let probe = self.quotas.get(PROBE).await?;
                ensure!(observed(&probe) == Some(generation), "the probe's status is {}", probe.data["status"]);
                Ok(())
            })
            .await?;
            let others: Vec<String> = self.operations.seen()[before..].iter().map(ToString::to_string).collect();
            let state = self.state().await?;
            wanted(&state)?;
            ensure!(others.is_empty(), "it was still writing: {others:?}");
            Ok(state)
        })
        .await
    }

    async fn state(&self) -> Result<State> {
        state::read(&self.redis, [&self.quotas, &self.stores, &self.plugins], PROBE).await
    }

    pub(super) fn balance(&self, consumer: &str) -> Balance {
        Balance::new("chat:", consumer.as_bytes())
    }

    /// Books what a request used, as the module does; whether there was something to book it on.
    pub(super) async fn spend(&self, consumer: &str, tokens: i64) -> Result<bool> {
        let balance = self.balance(consumer);
        let charge = Charge { balance: &balance, tokens, hold: None, admitted_in: None, period: None };
        let mut redis = Raw::connect(&self.redis.addr()).await?;
        match redis.call(&charge.invocation(), ChargeOutcome::of).await? {
            ChargeOutcome::Booked { .. } => Ok(true),
            ChargeOutcome::Absent => Ok(false),
            other => bail!("{tokens} of {consumer} became {other:?}"),
        }
    }

    /// Makes a balance of the default of the object that has `like`, as a request does.
    pub(super) async fn start(&self, consumer: &str, like: &str, default: i64) -> Result<()> {
        let mut redis = self.redis.connect().await?;
        let owner: String =
            redis::cmd("HGET").arg(self.balance(like).ledger()).arg("owner").query_async(&mut redis).await?;
        let balance = &self.balance(consumer);
        let check =
            Check { balance, need: 1, hold: None, default: Some(default), owner: &owner, yields: false, period: None };
        let outcome = Raw::connect(&self.redis.addr()).await?.call(&check.invocation(), CheckOutcome::of).await?;
        ensure!(matches!(outcome, CheckOutcome::Admitted { .. }), "{consumer}: {outcome:?}");
        Ok(())
    }

    /// Waits until the operation comes. There is none where all is as expected without it: a WasmPlugin is written at
    /// most each 2 s, and who is quick enough to have to wait for that says so in statuses.
    pub(super) async fn comes(&self, reached: Reached, expected: &State) -> Result<Option<Operation>> {
        let over = async {
            let is_as_expected = async || state::compare(&self.state().await?, expected);
            self.eventually("the operation comes, or all is as it should be", is_as_expected).await?;
            self.settled(|found| state::compare(found, expected)).await
        };
        let mut reached = pin!(reached.operation());
        tokio::select! {
            biased;
            last = &mut reached => return last.map(Some),
            over = over => drop(over?),
        }
        // It may come at this very moment.
        if self.operations.disarm() { Ok(None) } else { reached.await.map(Some) }
    }

    /// Gives the probe another grant; its generation then.
    async fn probe(&self) -> Result<i64> {
        let grant = self.probed.fetch_add(1, Ordering::Relaxed);
        let consumers = json!([{"name": "nobody", "quota": grant}]);
        let target = json!([{"kind": "Ingress", "name": "nowhere"}]);
        let probe = quota(PROBE, &json!({"targetRefs": target, "keyPrefix": "probe:", "consumers": consumers}));
        self.api.apply(&probe).await?.metadata.generation.context("no generation")
    }

    async fn eventually<T>(&self, what: &str, probe: impl AsyncFnMut() -> Result<T>) -> Result<T> {
        eventually(what, probe).await.with_context(|| self.ends())
    }

    fn ends(&self) -> String {
        let log = self.controller.log();
        let lines: Vec<&str> = log.lines().collect();
        format!("the controller's log ends:\n{}", lines[lines.len().saturating_sub(30)..].join("\n"))
    }
}

/// Whether an edit of the probe caused it.
fn is_of_probe(operation: &Operation) -> bool {
    operation.name == format!("{NAMESPACE}/{PROBE}")
}

fn observed(object: &DynamicObject) -> Option<i64> {
    object.data.pointer("/status/observedGeneration")?.as_i64()
}
