//! What tenants might try against each other and the administrator: a valid object with one thing changed, put to the
//! real API server while the controller runs. Each is refused with its reason, or reaches only what is the tenant's
//! own; nothing of the others changes, neither in the gateway's WasmPlugin nor in Redis.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail, ensure};
use kube::ResourceExt as _;
use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams};
use serde_json::{Value, json};

use crate::stage::{NAMESPACE, Stage};
use attacks::Fate::{AtOnce, Later, OwnOnly};
use attacks::{
    Attack, LONG, OURS, PARTNER, TEMPLATE, TENANT, VICTIM, attacks, colleagues, ingress, partners, quota, tenants,
};

mod attacks;
mod limits;

/// As `kubectl create` does: unknown fields are refused. The answer of an API server that refuses.
async fn create(stage: &Stage, object: &Value) -> Result<(), String> {
    let (plural, namespace) = (
        match object["kind"].as_str() {
            Some("AIQuota") => "aiquotas",
            Some("AITokenRateLimit") => "aitokenratelimits",
            _ => "aiquotastores",
        },
        object["metadata"]["namespace"].as_str().unwrap_or_default(),
    );
    let path = format!("/apis/{OURS}/namespaces/{namespace}/{plural}?fieldValidation=Strict");
    let request = http::Request::post(path)
        .header(http::header::CONTENT_TYPE, "application/json")
        .body(object.to_string().into_bytes())
        .map_err(|error| error.to_string())?;
    stage.api.client().request::<Value>(request).await.map(drop).map_err(|error| match error {
        kube::Error::Api(status) => status.message,
        other => panic!("no answer of the API server: {other}"),
    })
}

/// All that belongs to others: policies and rules in the WasmPlugins, keys in Redis.
#[derive(Debug, PartialEq)]
struct Others {
    quotas: (Value, Vec<Value>),
    limits: (Value, Vec<Value>),
    keys: BTreeMap<String, String>,
}

const POLICIES: [&str; 4] = ["team-a/chat", "team-a/long", "higress-system/chat", "higress-system/corp"];

const LIMITS: [&str; 2] = ["team-a/limit", "higress-system/limit"];
const QUOTAS_PLUGIN: &str = "aiquota-ai-quota";
const LIMITS_PLUGIN: &str = "aiquota-ai-token-ratelimit";

/// These policies of a WasmPlugin, and their rules.
async fn held(stage: &Stage, plugin: &str, names: &[&str]) -> Result<(Value, Vec<Value>)> {
    let plugin = stage.plugins().await?.get(plugin).await?;
    let spec = &plugin.data["spec"];
    let templates: Vec<&str> = texts(spec).into_iter().filter(|text| text.contains("${")).collect();
    ensure!(templates == [TEMPLATE], "templates in the WasmPlugin: {templates:?}");
    let of = |policy: &&str| spec["defaultConfig"]["aiquota"]["policies"][*policy].clone();
    let policies = names.iter().map(|policy| (policy.to_string(), of(policy))).collect();
    let rules = spec["matchRules"].as_array().context("rules")?.iter();
    let rules = rules.filter(|rule| names.iter().any(|policy| rule["config"]["policy"] == **policy)).cloned();
    Ok((policies, rules.collect()))
}

async fn others(stage: &Stage) -> Result<Others> {
    let (quotas, limits) = (held(stage, QUOTAS_PLUGIN, &POLICIES).await?, held(stage, LIMITS_PLUGIN, &LIMITS).await?);
    let all = keys(stage).await?;
    let foreign = |key: &str| {
        let balance = key.trim_start_matches('{');
        // The colleague's own, under the prefix it shares with the victim.
        !balance.contains("user9")
            && ["aiquota:team-a/", "chat_quota:", "corp:"].iter().any(|begin| balance.starts_with(begin))
    };
    Ok(Others { quotas, limits, keys: all.into_iter().filter(|(key, _)| foreign(key)).collect() })
}

/// Every key in Redis with what it holds; balances and ledgers, whose times of refresh stand still here.
async fn keys(stage: &Stage) -> Result<BTreeMap<String, String>> {
    let mut redis = stage.redis.connect().await?;
    let names: Vec<String> = redis::cmd("KEYS").arg("*").query_async(&mut redis).await?;
    let mut held = BTreeMap::new();
    for name in names {
        let kind: String = redis::cmd("TYPE").arg(&name).query_async(&mut redis).await?;
        let value = match kind.as_str() {
            "string" => redis::cmd("GET").arg(&name).query_async::<String>(&mut redis).await?,
            "hash" => {
                let fields: BTreeMap<String, String> = redis::cmd("HGETALL").arg(&name).query_async(&mut redis).await?;
                format!("{fields:?}")
            }
            other => other.to_owned(),
        };
        held.insert(name, value);
    }
    Ok(held)
}

/// All strings in a value.
fn texts(value: &Value) -> Vec<&str> {
    match value {
        Value::String(text) => vec![text],
        Value::Array(items) => items.iter().flat_map(texts).collect(),
        Value::Object(fields) => {
            fields.iter().flat_map(|(name, field)| [vec![name.as_str()], texts(field)].concat()).collect()
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => Vec::new(),
    }
}

async fn objects(stage: &Stage, object: &Value) -> Result<Api<DynamicObject>> {
    let kind = object["kind"].as_str().context("a kind")?;
    stage.api.objects(OURS, kind, object["metadata"]["namespace"].as_str().context("a namespace")?).await
}

/// Where it is enforced.
fn plugin(object: &Value) -> &'static str {
    if object["kind"] == "AITokenRateLimit" { LIMITS_PLUGIN } else { QUOTAS_PLUGIN }
}

async fn remove(stage: &Stage, object: &Value) -> Result<()> {
    let (objects, name) = (objects(stage, object).await?, object["metadata"]["name"].as_str().context("a name")?);
    objects.delete(name, &DeleteParams::default()).await?;
    let none = json!({"metadata": {"finalizers": null}});
    if let Some(left) =
        objects.get_opt(name).await?.filter(|left| left.finalizers().iter().any(|one| one == "example.com/stays"))
    {
        objects.patch(&left.name_any(), &PatchParams::default(), &Patch::Merge(none)).await?;
    }
    stage
        .eventually("the object is gone, and so is its rule", async || {
            ensure!(objects.get_opt(name).await?.is_none(), "{name} is there");
            let plugin = stage.plugins().await?.get(plugin(object)).await?;
            let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default();
            let policies = &plugin.data["spec"]["defaultConfig"]["aiquota"]["policies"];
            ensure!(policies.get(format!("{namespace}/{name}")).is_none(), "{policies}");
            Ok(())
        })
        .await
}

async fn ready(stage: &Stage, object: &Value) -> Result<()> {
    let name = object["metadata"]["name"].as_str().context("a name")?;
    stage.condition(&objects(stage, object).await?, name, "Ready", "True").await.map(drop)
}

/// The gateway of an administrator, a victim, and what the others have.
async fn set() -> Result<Stage> {
    let stage = Stage::set().await?;
    for namespace in [VICTIM, TENANT, PARTNER] {
        stage.api.namespace(namespace).await?;
    }
    stage.start_controller_with(&["--trusted-namespace=partner"])?;
    stage.apply_example("gateway.yaml").await?;
    stage.apply_example("quota.yaml").await?;
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "their-redis", "namespace": VICTIM}, "stringData": {"password": "x"}});
    let service = |namespace: &str, name: &str, port: u16| {
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": namespace},
            "spec": {"ports": [{"port": port}]}})
    };
    for object in [
        secret,
        service(VICTIM, "model", 80),
        service(NAMESPACE, "redis", 6379),
        ingress(VICTIM, "qwen", "a.example"),
        ingress(VICTIM, LONG, "long.a.example"),
        ingress(TENANT, "own", "b.example"),
        ingress(TENANT, LONG, "long.b.example"),
    ] {
        stage.api.apply(&object).await?;
    }
    let consumers = json!([{"name": "user1", "quota": 100}, {"name": "user2", "unlimited": true}]);
    let target = |kind: &str, name: &str| json!([{"kind": kind, "name": name}]);
    for (namespace, name, spec) in [
        (
            VICTIM,
            "chat",
            json!({"targetRefs": target("Ingress", "qwen"), "admin": {"consumer": "boss"}, "consumers": consumers}),
        ),
        (VICTIM, "long", json!({"targetRefs": target("Ingress", LONG), "consumers": consumers})),
        (
            NAMESPACE,
            "corp",
            json!({"targetRefs": target("Domain", "*.corp.example"), "keyPrefix": "corp:", "consumers": consumers}),
        ),
    ] {
        let object = quota(namespace, name, &spec);
        stage.api.apply(&object).await?;
        ready(&stage, &object).await?;
    }
    let spec = |target: Value, more: &Value| {
        let any = json!([{"match": {"any": true}, "tokens": 5, "window": "1m"}]);
        let mut spec = json!({"targetRefs": target, "rules": [{"by": {"header": "x-api-key"}, "limits": any}]});
        for (field, value) in more.as_object().into_iter().flatten() {
            spec[field] = value.clone();
        }
        spec
    };
    for object in [
        limits::limit(VICTIM, "limit", &spec(target("Ingress", "qwen"), &json!({}))),
        limits::limit(NAMESPACE, "limit", &spec(target("Domain", "*.corp.example"), &json!({"ruleName": "corp"}))),
    ] {
        stage.api.apply(&object).await?;
        ready(&stage, &object).await?;
    }
    stage.ready("chat").await?;
    Ok(stage)
}

#[tokio::test]
async fn each_attack_is_refused_with_its_reason_and_reaches_nothing_of_others() -> Result<()> {
    let stage = set().await?;
    // Without the change each is in force, so that the change is what is refused.
    for valid in [tenants(), partners(), colleagues(), limits::tenants(), limits::partners()] {
        create(&stage, &valid).await.map_err(anyhow::Error::msg)?;
        ready(&stage, &valid).await.with_context(|| valid.to_string())?;
        remove(&stage, &valid).await?;
    }
    let before = others(&stage).await?;
    ensure!(before.keys.len() >= 12, "{:?}", before.keys);

    for attack in attacks().into_iter().chain(limits::attacks()) {
        let Attack { what, at, fate, .. } = &attack;
        let about = || format!("{what} ({at})");
        let object = attack.object();
        match (create(&stage, &object).await, fate) {
            (Err(message), AtOnce(said)) => ensure!(message.contains(said), "{}: {message}", about()),
            (Ok(()), AtOnce(_)) => bail!("{}: the API server took it", about()),
            (Err(message), _) => bail!("{}: {message}", about()),
            (Ok(()), Later(condition, reason, said)) => {
                let name = object["metadata"]["name"].as_str().unwrap_or_default();
                let objects = objects(&stage, &object).await?;
                stage.says(&objects, name, condition, ("False", reason), &[said]).await.with_context(about)?;
            }
            (Ok(()), OwnOnly) => {
                ready(&stage, &object).await.with_context(about)?;
                let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default();
                if object["kind"] == "AITokenRateLimit" {
                    let name = object["metadata"]["name"].as_str().unwrap_or_default();
                    let (policies, _) = held(&stage, LIMITS_PLUGIN, &[&format!("{namespace}/{name}")]).await?;
                    let rule_name = &policies[format!("{namespace}/{name}")]["ruleName"];
                    ensure!(*rule_name == format!("{namespace}.{name}"), "{}: counters {rule_name}", about());
                } else {
                    let own = match object["spec"]["keyPrefix"].as_str() {
                        Some(prefix) => prefix.to_owned(),
                        None => format!("aiquota:{namespace}/"),
                    };
                    let made = keys(&stage).await?;
                    let has_own = made.keys().any(|key| key.starts_with(&own));
                    ensure!(has_own, "{}: no balance of its own: {made:?}", about());
                }
            }
        }
        let after = others(&stage).await.with_context(about)?;
        ensure!(after == before, "{}: before\n{before:#?}\nafter\n{after:#?}", about());
        if !matches!(fate, AtOnce(_)) {
            remove(&stage, &object).await.with_context(about)?;
        }
    }
    let after = others(&stage).await?;
    ensure!(after == before, "before\n{before:#?}\nafter\n{after:#?}");
    Ok(())
}

#[tokio::test]
async fn a_canary_of_another_namespace_joins_no_rule_of_the_victims() -> Result<()> {
    let stage = set().await?;
    let before = others(&stage).await?;
    let mut canary = ingress(TENANT, "qwen", "a.example");
    canary["metadata"]["annotations"] =
        json!({"nginx.ingress.kubernetes.io/canary": "true", "higress.io/canary": "true"});
    stage.api.apply(&canary).await?;
    let mut own = tenants();
    own["spec"]["targetRefs"][0]["name"] = json!("qwen");
    create(&stage, &own).await.map_err(anyhow::Error::msg)?;
    ready(&stage, &own).await?;
    let plugin = stage.plugins().await?.get("aiquota-ai-quota").await?;
    let rules = plugin.data["spec"]["matchRules"].as_array().context("rules")?;
    let own = rules.iter().find(|rule| rule["config"]["policy"] == "team-b/try").context("its own rule")?;
    assert_eq!(own["ingress"], json!(["team-b/qwen", "team-b/qwen-default", "team-b/qwen-fallback"]));
    assert_eq!(others(&stage).await?, before);
    Ok(())
}
