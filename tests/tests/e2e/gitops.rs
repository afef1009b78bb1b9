//! What a GitOps tool sees: health, as Argo CD asks for it with the script of examples/argocd, run by the Lua of Redis on
//! objects of a real API server; and that each example becomes ready and is no difference when it is applied again.

mod examples;

use std::fs;

use anyhow::{Context as _, Result, ensure};
use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams};
use serde_json::{Value, json};
use testbed::workspace;

use crate::stage::{NAMESPACE, Stage, quota};

const OURS: &str = "quota.higress.io/v1alpha1";
const KINDS: [&str; 3] = ["AIQuota", "AITokenRateLimit", "AIQuotaStore"];

/// Argo CD's part: the script is given `obj` and answers a table. It has these libraries of Redis' not.
const AROUND: [&str; 2] = [
    "local obj = cjson.decode(ARGV[1])\nlocal health = function()\nlocal string, math, os, bit, struct, cmsgpack, redis, cjson, KEYS, ARGV\n",
    "end\nreturn cjson.encode(health())\n",
];

struct Argo<'a> {
    stage: &'a Stage,
    config: Value,
}

impl<'a> Argo<'a> {
    fn new(stage: &'a Stage) -> Result<Self> {
        let config = serde_yaml::from_str(&fs::read_to_string(workspace().join("examples/argocd/health.yaml"))?)?;
        Ok(Self { stage, config })
    }

    async fn objects(&self, kind: &str) -> Result<Api<DynamicObject>> {
        self.stage.api.objects(OURS, kind, NAMESPACE).await
    }

    /// The health of an object as it is now.
    async fn health(&self, kind: &str, name: &str) -> Result<Health> {
        let object = self.objects(kind).await?.get(name).await?;
        let script = &self.config["data"][format!("resource.customizations.health.quota.higress.io_{kind}")];
        let script = AROUND.join(script.as_str().with_context(|| format!("no script for {kind}"))?);
        let object = serde_json::to_string(&object)?;
        let mut redis = self.stage.redis.connect().await?;
        let answer: String = redis::cmd("EVAL").arg(script).arg(0).arg(&object).query_async(&mut redis).await?;
        let answer: Value = serde_json::from_str(&answer)?;
        let text = |key: &str| answer[key].as_str().map(str::to_owned).with_context(|| format!("no {key}: {answer}"));
        Ok(Health { status: text("status")?, message: text("message")? })
    }

    async fn is(&self, kind: &str, name: &str, status: &str, words: &str) -> Result<()> {
        let health = self.health(kind, name).await?;
        ensure!(health.status == status && health.message.contains(words), "{kind} {name}: {health:?}");
        Ok(())
    }

    /// Writes what the controller would say of the generation that is there.
    async fn say(&self, kind: &str, status: &str, reason: &str) -> Result<()> {
        let objects = self.objects(kind).await?;
        let generation = objects.get(NAME).await?.metadata.generation;
        let condition = json!({"type": "Ready", "status": status, "reason": reason, "message": "as it is said",
            "observedGeneration": generation, "lastTransitionTime": "2026-01-01T00:00:00Z"});
        let patch = Patch::Merge(json!({"status": {"conditions": [condition]}}));
        objects.patch_status(NAME, &PatchParams::default(), &patch).await?;
        Ok(())
    }
}

#[derive(Debug)]
struct Health {
    status: String,
    message: String,
}

const NAME: &str = "default";

fn limit(tokens: i64) -> Value {
    json!({"apiVersion": OURS, "kind": "AITokenRateLimit", "metadata": {"name": NAME, "namespace": NAMESPACE}, "spec": {
        "targetRefs": [{"kind": "Ingress", "name": "qwen"}], "global": [{"tokens": tokens, "window": "1h"}]}})
}

fn store(timeout: &str) -> Value {
    json!({"apiVersion": OURS, "kind": "AIQuotaStore", "metadata": {"name": NAME, "namespace": NAMESPACE}, "spec": {
        "service": {"name": "local-redis.static", "port": 80}, "timeout": timeout,
        "auth": {"secretName": "redis-auth", "passwordKey": "password"}}})
}

#[tokio::test]
async fn argo_cd_is_told_the_health_that_the_conditions_mean() -> Result<()> {
    let stage = Stage::set().await?;
    let argo = Argo::new(&stage)?;
    let gone = json!({"deletionPolicy": "Delete"});
    for object in [quota(NAME, &gone), limit(10), store("2s")] {
        stage.api.apply(&object).await?;
    }
    for kind in KINDS {
        argo.is(kind, NAME, "Progressing", "has not answered").await?;
    }

    // What is missing is told; then it is there.
    let controller = stage.start_controller()?;
    for (kind, reason) in KINDS.into_iter().zip(["TargetNotFound", "TargetNotFound", "ServiceNotFound"]) {
        stage.condition(&argo.objects(kind).await?, NAME, "Ready", "False").await?;
        argo.is(kind, NAME, "Degraded", &format!("{reason}: ")).await?;
    }
    stage.apply_example("gateway.yaml").await?;
    for kind in KINDS {
        stage.condition(&argo.objects(kind).await?, NAME, "Ready", "True").await?;
        argo.is(kind, NAME, "Healthy", "").await?;
    }
    let nobody = json!({"deletionPolicy": "Delete", "consumers": []});
    stage.api.apply(&quota(NAME, &nobody)).await?;
    stage.condition(&stage.quotas().await?, NAME, "NobodyMaySpend", "True").await?;
    argo.is("AIQuota", NAME, "Healthy", "NobodyMaySpend").await?;

    // Nobody looks at what is edited now, and what a controller would say is said by us.
    controller.kill();
    for object in [quota(NAME, &gone), limit(20), store("3s")] {
        stage.api.apply(&object).await?;
    }
    for kind in KINDS {
        argo.is(kind, NAME, "Progressing", "has not answered").await?;
        for reason in plan::PASSING {
            for status in ["False", "Unknown"] {
                argo.say(kind, status, reason).await?;
                argo.is(kind, NAME, "Progressing", &format!("{reason}: as it is said")).await?;
            }
        }
        for reason in ["StoreUnreachable", "Conflicted", "NotAWordThatIsKnown"] {
            argo.say(kind, "False", reason).await?;
            argo.is(kind, NAME, "Degraded", &format!("{reason}: as it is said")).await?;
        }
    }

    // It waits for a controller to let it go.
    argo.objects("AIQuota").await?.delete(NAME, &DeleteParams::default()).await?;
    argo.is("AIQuota", NAME, "Progressing", "being deleted").await?;
    controller.restart()?;
    stage.condition(&stage.quotas().await?, NAME, "Deleting", "True").await?;
    argo.is("AIQuota", NAME, "Progressing", "Draining: ").await
}
