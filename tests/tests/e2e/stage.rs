//! What the scenarios are played on: an API server with Higress' definitions and ours, a Redis with a password, a
//! model server, and the objects of examples/quickstart with their addresses.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use kube::api::{Api, DynamicObject, ListParams};
use serde_json::{Value, json};
use testbed::{
    ApiProxy, ApiServer, Controller, ControllerOptions, Gateway, GatewayOptions, ModelServer, Redis, RedisOptions,
    Source, eventually, eventually_within, kubectl_with_input, workspace,
};

pub(crate) const NAMESPACE: &str = "higress-system";
/// The password in examples/quickstart/gateway.yaml.
pub(crate) const PASSWORD: &str = "change-me";
/// How long the store of examples/quickstart/quota.yaml may take, and how long it may here.
pub(crate) const IMPATIENT: &str = "timeout: 2s";
pub(crate) const PATIENT: &str = "timeout: 30s";
const OURS: &str = "quota.higress.io/v1alpha1";
const WASM_PLUGIN: &str = "extensions.higress.io/v1alpha1";

pub(crate) struct Stage {
    pub(crate) api: ApiServer,
    pub(crate) redis: Redis,
    pub(crate) model: ModelServer,
    controller: OnceLock<Controller>,
}

impl Stage {
    /// Everything but the objects and the controller.
    pub(crate) async fn set() -> Result<Self> {
        Self::set_with(RedisOptions { password: Some(PASSWORD.to_owned()), ..RedisOptions::default() }).await
    }

    /// [`Self::set`] with a Redis of its own kind.
    pub(crate) async fn set_with(options: RedisOptions) -> Result<Self> {
        let api = ApiServer::start().await?;
        api.install_crds().await?;
        Self::set_on(api, options).await
    }

    /// [`Self::set_with`] on an API server with the definitions that it has.
    pub(crate) async fn set_on(api: ApiServer, options: RedisOptions) -> Result<Self> {
        let redis = Redis::start(options).await?;
        let model = ModelServer::start().await?;
        api.namespace(NAMESPACE).await?;
        Ok(Self { api, redis, model, controller: OnceLock::new() })
    }

    /// Starts the controller, logging each round.
    pub(crate) fn start_controller(&self) -> Result<&Controller> {
        self.start_controller_by(None, &[])
    }

    /// [`Self::start_controller`] with more arguments.
    pub(crate) fn start_controller_with(&self, more: &[&str]) -> Result<&Controller> {
        self.start_controller_by(None, more)
    }

    /// [`Self::start_controller`] with a proxy between it and the API server.
    pub(crate) fn start_controller_through(&self, proxy: &ApiProxy) -> Result<&Controller> {
        self.start_controller_by(Some(proxy.kubeconfig().to_owned()), &[])
    }

    fn start_controller_by(&self, kubeconfig: Option<PathBuf>, more: &[&str]) -> Result<&Controller> {
        let args = ["--log=controller=debug,info"].iter().chain(more).map(ToString::to_string).collect();
        let options = ControllerOptions { args, kubeconfig, ..ControllerOptions::default() };
        let controller = Controller::start(&self.api, options)?;
        Ok(self.controller.get_or_init(|| controller))
    }

    /// The controller, once it was started.
    pub(crate) fn controller(&self) -> Option<&Controller> {
        self.controller.get()
    }

    /// Starts the gateway on the objects of the API server.
    pub(crate) async fn start_gateway(&self) -> Result<Gateway> {
        let source = Source::Cluster(self.api.client(), NAMESPACE.to_owned());
        Gateway::start(GatewayOptions { source, ..GatewayOptions::default() }).await
    }

    /// Waits for a condition; when that is in vain, the error shows what the controller did.
    pub(crate) async fn eventually<T>(&self, what: &str, probe: impl AsyncFnMut() -> Result<T>) -> Result<T> {
        eventually(what, probe).await.with_context(|| {
            let log = self.controller.get().map(Controller::log).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            format!("the controller's log ends:\n{}", lines[lines.len().saturating_sub(30)..].join("\n"))
        })
    }

    /// Applies a file of examples/quickstart with kubectl, with the addresses of this stage, and with a store that may
    /// take [`PATIENT`]: what a busy machine is late with is no failure.
    pub(crate) async fn apply_example(&self, file: &str) -> Result<()> {
        self.apply_example_with(file, str::to_owned).await
    }

    /// [`Self::apply_example`] with another text.
    pub(crate) async fn apply_example_with(&self, file: &str, change: impl FnOnce(&str) -> String) -> Result<()> {
        let text = std::fs::read_to_string(workspace().join("examples/quickstart").join(file))?;
        let text = text
            .replace("127.0.0.1:6379", &self.redis.addr())
            .replace("127.0.0.1:8080", &self.model.addr().to_string())
            .replace(IMPATIENT, PATIENT);
        kubectl_with_input(&self.api, &["apply", "--server-side", "-f", "-"], &change(&text)).await.map(drop)
    }

    pub(crate) async fn quotas(&self) -> Result<Api<DynamicObject>> {
        self.api.objects(OURS, "AIQuota", NAMESPACE).await
    }

    pub(crate) async fn limits(&self) -> Result<Api<DynamicObject>> {
        self.api.objects(OURS, "AITokenRateLimit", NAMESPACE).await
    }

    pub(crate) async fn stores(&self) -> Result<Api<DynamicObject>> {
        self.api.objects(OURS, "AIQuotaStore", NAMESPACE).await
    }

    pub(crate) async fn plugins(&self) -> Result<Api<DynamicObject>> {
        self.api.objects(WASM_PLUGIN, "WasmPlugin", NAMESPACE).await
    }

    /// Waits until a condition of an object has this status, for the generation that is there now.
    pub(crate) async fn condition(
        &self,
        objects: &Api<DynamicObject>,
        name: &str,
        kind: &str,
        status: &str,
    ) -> Result<Value> {
        self.eventually(&format!("{name} has {kind}={status}"), async || {
            let object = objects.get(name).await?;
            let found = condition(&object, kind).with_context(|| format!("no such condition: {}", shown(&object)))?;
            ensure!(found["status"] == status, "{}", shown(&object));
            ensure!(found["observedGeneration"].as_i64() == object.metadata.generation, "{}", shown(&object));
            Ok(found)
        })
        .await
    }

    /// Waits until a condition of an object has this status and reason, and a message with these words: what it says
    /// first may not be the last word. Its message.
    pub(crate) async fn says(
        &self,
        objects: &Api<DynamicObject>,
        name: &str,
        kind: &str,
        (status, reason): (&str, &str),
        words: &[&str],
    ) -> Result<String> {
        self.eventually(&format!("{name} has {kind}={status} for {reason} and says {words:?}"), async || {
            let found = self.condition(objects, name, kind, status).await?;
            let message = found["message"].as_str().unwrap_or_default();
            ensure!(found["reason"] == reason && words.iter().all(|word| message.contains(word)), "{found}");
            Ok(message.to_owned())
        })
        .await
    }

    /// Waits until the AIQuota is ready.
    pub(crate) async fn ready(&self, quota: &str) -> Result<()> {
        self.condition(&self.quotas().await?, quota, "Ready", "True").await.map(drop)
    }

    /// Waits until both of the gateway's workers run what the API server holds now. An object that is ready has its rule
    /// written; the gateway takes it a moment later.
    pub(crate) async fn in_force(&self, gateway: &Gateway) -> Result<()> {
        const READ: [(&str, &str); 4] = [
            (WASM_PLUGIN, "WasmPlugin"),
            ("networking.higress.io/v1", "McpBridge"),
            ("networking.k8s.io/v1", "Ingress"),
            ("v1", "Secret"),
        ];
        let mut kinds = Vec::new();
        for (version, kind) in READ {
            kinds.push((kind, self.api.objects(version, kind, NAMESPACE).await?));
        }
        self.eventually("the gateway runs what the API server holds", async || {
            let mut held = BTreeMap::new();
            for (kind, objects) in &kinds {
                for object in objects.list(&ListParams::default()).await?.items {
                    let name = object.metadata.name.unwrap_or_default();
                    let version = object.metadata.resource_version.unwrap_or_default();
                    held.insert(((*kind).to_owned(), NAMESPACE.to_owned(), name), version);
                }
            }
            let mut loaded = gateway.loaded();
            let read = |kind: &str| READ.iter().any(|(_, read)| *read == kind);
            loaded.versions.retain(|(kind, namespace, _), _| namespace == NAMESPACE && read(kind));
            ensure!(loaded.versions == held, "it runs {:#?}, and there are {held:#?}", loaded.versions);
            let failed: Vec<_> = loaded.plugins.iter().filter(|plugin| plugin.failure.is_some()).collect();
            ensure!(failed.is_empty() && loaded.runs("aiquota-guard"), "{:#?}", loaded.plugins);
            Ok(())
        })
        .await
    }

    /// Waits until the gateway has said that it runs what is declared for the AIQuota, and that is in all statuses. Who
    /// counts what is written must not count this.
    pub(crate) async fn loaded(&self, quota: &str) -> Result<()> {
        let (quotas, stores) = (self.quotas().await?, self.stores().await?);
        // Workers that were replaced are waited for until they have been silent for 90 s.
        eventually_within(Duration::from_secs(300), "the gateway says what it runs", async || {
            let found = condition(&quotas.get(quota).await?, "Loaded").context("nothing is said yet")?;
            ensure!(found["status"] == "True", "{found}");
            let store = stores.get("default").await?;
            ensure!(store.data["status"]["gateways"].is_array(), "{}", store.data["status"]);
            Ok(())
        })
        .await
    }

    /// The AIQuota of the quickstart with these consumers.
    pub(crate) async fn apply_consumers(&self, consumers: &Value) -> Result<()> {
        self.api.apply(&quota("chat", &json!({"consumers": consumers}))).await.map(drop)
    }

    /// The notes of the Events about an object, by their reason.
    pub(crate) async fn events(&self, reason: &str) -> Result<Vec<String>> {
        let events = self.api.objects("events.k8s.io/v1", "Event", NAMESPACE).await?;
        let events = events.list(&ListParams::default()).await?;
        let notes = events.items.iter().filter(|event| event.data["reason"] == reason);
        Ok(notes.map(|event| event.data["note"].as_str().unwrap_or_default().to_owned()).collect())
    }

    /// Waits until these are the Events with a reason, and no others.
    pub(crate) async fn tells(&self, reason: &str, expected: &[&str]) -> Result<()> {
        self.eventually("Events say so", async || {
            let found = self.events(reason).await?;
            ensure!(found == expected, "{found:?}");
            Ok(())
        })
        .await
    }

    /// How many rules the gateway has for quotas.
    pub(crate) async fn rules(&self) -> Result<usize> {
        let plugin = self.plugins().await?.get_opt("aiquota-ai-quota").await?;
        Ok(plugin.and_then(|plugin| plugin.data["spec"]["matchRules"].as_array().map(Vec::len)).unwrap_or(0))
    }

    /// Waits until a balance is this.
    pub(crate) async fn balance(&self, consumer: &str, expected: i64) -> Result<()> {
        self.holds(&format!("chat_quota:{consumer}"), Some(&expected.to_string())).await
    }

    /// Waits until Redis has this under a key, or nothing.
    pub(crate) async fn holds(&self, key: &str, expected: Option<&str>) -> Result<()> {
        self.eventually(&format!("{key} is {expected:?}"), async || {
            let found = self.redis.get(key).await?;
            ensure!(found.as_deref() == expected, "it is {found:?}");
            Ok(())
        })
        .await
    }

    /// Waits until the controller has gone `more` times from a snapshot to the last report.
    pub(crate) async fn rounds(&self, more: usize) -> Result<()> {
        let controller = self.controller.get().context("no controller was started")?;
        let rounds = || controller.log().matches("round done").count();
        let goal = rounds() + more;
        self.eventually("the controller goes round", async || {
            controller.ensure_running()?;
            ensure!(rounds() >= goal, "{} of {goal} rounds", rounds());
            Ok(())
        })
        .await
    }
}

/// The AIQuota of the quickstart, with other fields in its spec.
pub(crate) fn quota(name: &str, fields: &Value) -> Value {
    let mut quota = json!({
        "apiVersion": OURS, "kind": "AIQuota", "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "targetRefs": [{"kind": "Ingress", "name": "qwen"}],
            "keyPrefix": "chat_quota:",
            "admin": {"consumer": "aliyun-admin", "path": "/quota"},
            "consumers": [{"name": "aliyun-user1", "quota": 10000}, {"name": "aliyun-user2", "quota": 50000}],
        },
    });
    for (field, value) in fields.as_object().into_iter().flatten() {
        quota["spec"][field] = value.clone();
    }
    quota
}

pub(crate) fn condition(object: &DynamicObject, kind: &str) -> Option<Value> {
    let conditions = object.data.pointer("/status/conditions")?.as_array()?;
    conditions.iter().find(|condition| condition["type"] == kind).cloned()
}

fn shown(object: &DynamicObject) -> String {
    format!("generation {:?}, status {}", object.metadata.generation, object.data["status"])
}
