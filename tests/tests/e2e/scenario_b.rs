//! Scenario B: what went wrong for people, and what our objects say instead.

use anyhow::{Context as _, Result, ensure};
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};
use testbed::post;

use crate::stage::{NAMESPACE, PASSWORD, Stage, condition, quota};

#[tokio::test]
async fn a_quota_without_an_auth_plugin_ahead_of_it_says_so() -> Result<()> {
    let stage = Stage::set().await?;
    stage.start_controller()?;
    // As in the guides: all in one phase, auth at 400; there the quota was at 300.
    let late = |text: &str| text.replace("phase: AUTHN\n  priority: 310", "priority: 400");
    stage.apply_example_with("gateway.yaml", late).await?;
    stage.apply_example("quota.yaml").await?;
    let quotas = stage.quotas().await?;
    let words = ["Ingress qwen", "key-auth", "400"];
    stage.says(&quotas, "chat", "NoAuthentication", ("True", "NoAuthentication"), &words).await?;
    stage
        .eventually("the warning is told", async || {
            let told = stage.events("NoAuthentication").await?;
            let said = |told: &&String| words.iter().all(|word| told.contains(word));
            ensure!(told.iter().filter(said).count() == 1, "{told:?}");
            Ok(())
        })
        .await?;
    // A warning withholds nothing.
    stage.ready("chat").await?;
    assert_ne!(stage.rules().await?, 0);

    let gone = async |stage: &Stage| {
        stage
            .eventually("the warning is gone", async || {
                let chat = quotas.get("chat").await?;
                ensure!(condition(&chat, "NoAuthentication").is_none(), "{}", chat.data["status"]);
                Ok(())
            })
            .await
    };
    stage.apply_example("gateway.yaml").await?;
    gone(&stage).await?;

    stage.plugins().await?.delete("key-auth", &DeleteParams::default()).await?;
    let words = ["no auth plugin was seen"];
    stage.says(&quotas, "chat", "NoAuthentication", ("True", "NoAuthentication"), &words).await.map(drop)
}

const LIMIT_MODULE: &str = "oci://registry.example/ai-token-ratelimit:1.0.0";

/// What is wrong with the store, and what its condition must say.
struct Mistake {
    what: &'static str,
    /// Fields of the AIQuotaStore's spec.
    spec: Value,
    reason: &'static str,
    said: &'static [&'static str],
}

#[tokio::test]
async fn a_wrong_name_port_address_or_secret_of_redis_is_named_and_nothing_is_half_applied() -> Result<()> {
    let stage = Stage::set().await?;
    stage.start_controller_with(&[&format!("--limit-module-url={LIMIT_MODULE}")])?;
    stage.apply_example("gateway.yaml").await?;
    let secret = |name: &str, data: Value| json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": NAMESPACE}, "stringData": data});
    stage.api.apply(&secret("wrong", json!({"password": "not-it"}))).await?;
    stage.api.apply(&secret("pasted", json!({"password": "a\"b"}))).await?;
    let right = json!({
        "service": {"name": "local-redis.static", "port": 80},
        "auth": {"secretName": "redis-auth", "passwordKey": "password"},
    });
    let auth = |name: &str, key: &str| json!({"auth": {"secretName": name, "passwordKey": key}});
    let mistakes = [
        Mistake {
            what: "no such registry",
            spec: json!({"service": {"name": "lokal-redis.static", "port": 80}}),
            reason: "ServiceNotFound",
            said: &["lokal-redis.static"],
        },
        Mistake {
            what: "no such service",
            spec: json!({"service": {"name": "redis.cache.svc.cluster.local", "port": 6379}}),
            reason: "ServiceNotFound",
            said: &["redis.cache.svc.cluster.local"],
        },
        Mistake {
            what: "another port",
            spec: json!({"service": {"name": "local-redis.static", "port": 81}}),
            reason: "PortNotFound",
            said: &["local-redis.static", "81"],
        },
        Mistake {
            what: "nobody listens",
            spec: json!({"address": "redis://127.0.0.1:1"}),
            reason: "StoreUnreachable",
            said: &["local-redis.static:80", "127.0.0.1:1", "refused"],
        },
        Mistake {
            what: "no such host",
            spec: json!({"address": "redis://redis.invalid:6379"}),
            reason: "StoreUnreachable",
            said: &["redis.invalid:6379"],
        },
        Mistake { what: "no password", spec: json!({"auth": null}), reason: "StoreUnreachable", said: &["NOAUTH"] },
        Mistake {
            what: "a wrong password",
            spec: auth("wrong", "password"),
            reason: "StoreUnreachable",
            said: &["authentication"],
        },
        Mistake {
            what: "no such secret",
            spec: auth("nowhere", "password"),
            reason: "SecretNotFound",
            said: &["nowhere"],
        },
        Mistake {
            what: "no such key",
            spec: auth("redis-auth", "pass"),
            reason: "SecretInvalid",
            said: &["redis-auth", "pass"],
        },
        Mistake {
            what: "a value that breaks JSON",
            spec: auth("pasted", "password"),
            reason: "SecretInvalid",
            said: &["pasted"],
        },
    ];
    let (stores, quotas, limits) = (stage.stores().await?, stage.quotas().await?, stage.limits().await?);
    for Mistake { what, spec, reason, said } in mistakes {
        let mut wrong = right.clone();
        for (field, value) in spec.as_object().into_iter().flatten() {
            match value {
                Value::Null => drop(wrong.as_object_mut().map(|spec| spec.remove(field))),
                value => wrong[field] = value.clone(),
            }
        }
        let store = |spec: &Value| {
            json!({"apiVersion": "quota.higress.io/v1alpha1", "kind": "AIQuotaStore",
                "metadata": {"name": "default", "namespace": NAMESPACE}, "spec": spec})
        };
        stage.api.apply(&store(&wrong)).await?;
        stage.api.apply(&quota("chat", &json!({}))).await?;
        stage.apply_example("limit.yaml").await?;
        let connected = stage.says(&stores, "default", "Connected", ("False", reason), said).await;
        let message = connected.context(what)?;
        stage.says(&quotas, "chat", "Seeded", ("False", reason), &[]).await.context(what)?;
        stage.condition(&quotas, "chat", "Ready", "False").await?;
        // A limit needs nothing in Redis before its rule; so it has one, but never without a word.
        let warned = if reason == "StoreUnreachable" {
            stage.condition(&limits, "chat", "Ready", "True").await.context(what)?;
            stage.says(&limits, "chat", reason, ("True", reason), &["store default, local-redis.static:80 at "]).await
        } else {
            stage.says(&limits, "chat", "Programmed", ("False", reason), &[]).await
        };
        let warned = warned.context(what)?;
        for secret in [PASSWORD, "not-it"] {
            assert!(!message.contains(secret) && !warned.contains(secret), "{what}: {message}; {warned}");
        }
        assert_eq!(stage.rules().await?, 0, "{what}: a rule without balances");
        assert_eq!(stage.redis.get("chat_quota:aliyun-user1").await?, None, "{what}: a balance without a rule");

        quotas.delete("chat", &DeleteParams::default()).await?;
        limits.delete("chat", &DeleteParams::default()).await?;
        stores.delete("default", &DeleteParams::default()).await?;
    }

    stage.apply_example("quota.yaml").await?;
    stage.apply_example("limit.yaml").await?;
    stage.ready("chat").await?;
    stage.condition(&stores, "default", "Connected", "True").await?;
    assert_ne!(stage.rules().await?, 0);
    // Which image the gateway was told to run is in the status: an old one under the same tag cannot hide in it.
    for (objects, module) in [(&quotas, "ai-quota.wasm"), (&limits, LIMIT_MODULE)] {
        stage.says(objects, "chat", "Programmed", ("True", "Programmed"), &[module]).await?;
    }
    stage.condition(&limits, "chat", "Ready", "True").await?;
    ensure!(condition(&limits.get("chat").await?, "StoreUnreachable").is_none());
    Ok(())
}

#[tokio::test]
async fn bad_objects_are_refused_by_name_and_disturb_no_other() -> Result<()> {
    let stage = Stage::set().await?;
    let controller = stage.start_controller()?;
    stage.apply_example("gateway.yaml").await?;
    stage.apply_example("quota.yaml").await?;
    stage.ready("chat").await?;
    let rules = stage.rules().await?;
    let quotas = stage.quotas().await?;

    let refused = stage.api.apply(&quota("typo", &json!({"consumers": [{"name": "a b", "quota": 1}]}))).await;
    let refused = format!("{:#}", refused.expect_err("a blank is in no consumer's name"));
    assert!(refused.contains("spec.consumers[0].name"), "{refused}");

    let bad_key = |text: &str| text.replace("{any: true}", "{pattern: (a}");
    let refused = stage.apply_example_with("limit.yaml", bad_key).await.expect_err("that is no pattern");
    let refused = format!("{refused:#}");
    assert!(refused.contains("spec.rules[0].limits[0].match.pattern"), "{refused}");

    stage
        .api
        .apply(&quota("lost", &json!({"keyPrefix": "lost:", "targetRefs": [{"kind": "Ingress", "name": "qwem"}]})))
        .await?;
    stage
        .api
        .apply(&quota("early", &json!({"keyPrefix": "early:", "targetRefs": [{"kind": "HTTPRoute", "name": "qwen"}]})))
        .await?;
    for (name, target) in [("lost", "Ingress qwem"), ("early", "HTTPRoute qwen")] {
        stage.says(&quotas, name, "Accepted", ("False", "TargetNotFound"), &[target]).await?;
    }
    stage
        .eventually("the refusals are told", async || {
            let told = stage.events("TargetNotFound").await?;
            let of = |target: &str| told.iter().filter(|told| told.contains(target)).count();
            ensure!((of("Ingress qwem"), of("HTTPRoute qwen")) == (1, 1), "{told:?}");
            Ok(())
        })
        .await?;

    // An object of another version of us, which our schema would refuse: its last rule stays.
    for mut definition in api::crds()?.into_iter().filter(|crd| crd["spec"]["names"]["kind"] == "AIQuota") {
        definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["x-kubernetes-preserve-unknown-fields"] =
            json!(true);
        stage.api.apply(&definition).await?;
    }
    stage
        .eventually("the object of tomorrow is taken", async || {
            let chat = stage.api.apply(&quota("chat", &json!({"fromTomorrow": true}))).await?;
            ensure!(chat.data.pointer("/spec/fromTomorrow").is_some(), "pruned");
            Ok(())
        })
        .await?;
    // A watch of before still sees the object as the old schema had it.
    controller.restart()?;
    stage.says(&quotas, "chat", "Accepted", ("False", "Undecodable"), &["fromTomorrow"]).await?;
    assert_eq!(stage.rules().await?, rules, "what was in force stays");
    stage.redis.set("chat_quota:aliyun-user1", 5).await?;
    quotas.patch("chat", &PatchParams::default(), &Patch::Merge(json!({"spec": {"fromTomorrow": null}}))).await?;
    stage.ready("chat").await?;
    stage.balance("aliyun-user1", 5).await
}

#[tokio::test]
async fn a_refusal_with_fallback_for_4xx_opens_no_unmetered_route() -> Result<()> {
    let stage = Stage::set().await?;
    stage.start_controller()?;
    let gateway = stage.start_gateway().await?;
    stage.apply_example("gateway.yaml").await?;
    stage.apply_example("quota.yaml").await?;
    let route = |name: &str, annotations: Value| {
        json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
        "metadata": {"name": name, "namespace": NAMESPACE, "annotations": annotations},
        "spec": {"ingressClassName": "higress", "rules": [{"host": "ai.example", "http": {"paths": [{
            "path": "/", "pathType": "Prefix",
            "backend": {"resource": {"apiGroup": "networking.higress.io", "kind": "McpBridge", "name": "default"}},
        }]}}]}})
    };
    let to = "llm-qwen.static:80";
    stage.api.apply(&route("ai-route-chat.internal", json!({"higress.io/destination": to}))).await?;
    let twin = json!({"higress.io/destination": to, "testbed.aiquota/fallback-on": "4xx"});
    stage.api.apply(&route("ai-route-chat.fallback.internal", twin)).await?;
    let target = json!([{"kind": "Ingress", "name": "ai-route-chat.internal"}]);
    let consumers = json!([{"name": "aliyun-user1", "quota": 30}, {"name": "aliyun-user2", "quota": 0}]);
    stage
        .api
        .apply(&quota("console", &json!({"targetRefs": target, "keyPrefix": "console:", "consumers": consumers})))
        .await?;
    stage.ready("console").await?;
    stage.ready("chat").await?;
    stage.in_force(&gateway).await?;

    let ask = |key: &str| {
        let call =
            post(format!("{}/v1/chat/completions", gateway.url())).json(&json!({"model": "qwen-max", "messages": []}));
        call.header("host", "ai.example").header("x-api-key", key).send()
    };
    let passed = ask("user1-key").await?;
    assert_eq!(passed.status, 200, "{}", passed.text());
    let answered = stage.model.received().len();
    let refused = ask("user2-key").await?;
    assert_eq!(refused.status, 403, "{}", refused.text());
    assert!(refused.text().contains("No quota left"), "{}", refused.text());
    assert_eq!(stage.model.received().len(), answered, "the fallback's model was asked");
    let redirected = gateway.access_log().iter().filter(|run| run.redirected).count();
    assert_eq!(redirected, 1, "the gateway redirects, or this test shows nothing");
    Ok(())
}
