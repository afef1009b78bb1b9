//! Many streams of one consumer at once, redirects, WebSockets and forged identities: what is spent is what was used,
//! once, by whom it was used.

use anyhow::{Context as _, Result, ensure};
use futures::future::try_join_all;
use serde_json::{Value, json};
use testbed::{Answer, Call, Gateway, GatewayOptions, ModelServer, Redis, RedisOptions, eventually, post};

use crate::gateway::bed::plugin;

const STREAMS: usize = 200;
const BALANCE: i64 = 1_000_000;

/// The built module behind key-auth, with a guard in front unless it is taken away.
struct Bed {
    gateway: Gateway,
    model: ModelServer,
    redis: Redis,
}

#[derive(Clone, Copy, Debug)]
enum Flavor {
    Native,
    Upstream,
}

impl Bed {
    async fn new(flavor: Flavor, guarded: bool) -> Result<Self> {
        let (model, redis) = (ModelServer::start().await?, Redis::start(RedisOptions::default()).await?);
        let gateway = Gateway::start(GatewayOptions::default()).await?;
        let bed = Self { gateway, model, redis };
        bed.gateway.set_objects(bed.objects(flavor, guarded)?).await?;
        let failed: Vec<_> =
            bed.gateway.loaded().plugins.into_iter().filter(|plugin| plugin.failure.is_some()).collect();
        ensure!(failed.is_empty(), "{failed:#?}");
        Ok(bed)
    }

    /// Two routes: `asks` with authentication and `free`, below `/free`, without. The quota is on both.
    fn objects(&self, flavor: Flavor, guarded: bool) -> Result<Vec<Value>> {
        let url = format!("file://{}", testbed::module("ai-quota")?.display());
        let registry =
            |name: &str, address: &str| json!({"name": name, "type": "static", "domain": address, "port": 80});
        let (default, rule) = match flavor {
            Flavor::Native => {
                let store = json!({"service": "redis.static", "port": 80, "timeoutMs": 20_000});
                let policy = json!({"store": "main", "keyPrefix": "chat_quota:", "owner": "c/n/q",
                    "paths": ["/v1/chat/completions"]});
                let native = json!({"version": 1, "stores": {"main": store}, "policies": {"n/q": policy}});
                (json!({"aiquota": native}), json!({"policy": "n/q"}))
            }
            Flavor::Upstream => {
                let redis = json!({"service_name": "redis.static", "timeout": 20_000});
                (json!({}), json!({"admin_consumer": "admin", "redis": redis}))
            }
        };
        let auth = json!({"keys": ["x-api-key"], "in_header": true, "consumers": [
            {"name": "alice", "credential": "a"}, {"name": "victim", "credential": "v"}]});
        let mut objects = vec![
            json!({"kind": "McpBridge", "metadata": {"namespace": "higress-system", "name": "default"}, "spec": {
                "registries": [registry("llm", &self.model.addr().to_string()), registry("redis", &self.redis.addr())]}}),
            route("asks", "/"),
            route("free", "/free"),
            plugin(
                "key-auth",
                "oci://registry.example/key-auth:1.0.0",
                json!({"phase": "AUTHN", "priority": 310,
                "defaultConfig": auth, "matchRules": [{"ingress": ["asks"], "config": {"allow": ["alice"]}}]}),
            ),
            plugin(
                "quota",
                &url,
                json!({"priority": 750, "defaultConfig": default,
                "matchRules": [{"ingress": ["asks", "free"], "config": rule}]}),
            ),
        ];
        if guarded {
            let config = json!({"aiquota": {"version": 1, "guard": true}});
            let spec = json!({"phase": "AUTHN", "priority": 1000, "defaultConfig": config});
            objects.push(plugin("guard", &url, spec));
        }
        Ok(objects)
    }

    fn call(&self, below: &str) -> Call {
        post(format!("{}{below}/v1/chat/completions", self.gateway.url()))
    }

    async fn balance(&self, consumer: &str) -> Result<i64> {
        let balance = self.redis.get(&format!("chat_quota:{consumer}")).await?;
        Ok(balance.context("no balance")?.parse()?)
    }

    async fn has_balance(&self, consumer: &str, expected: i64) -> Result<()> {
        eventually(&format!("the balance of {consumer} is {expected}"), async || {
            let found = self.balance(consumer).await?;
            ensure!(found == expected, "it is {found}");
            Ok(())
        })
        .await
    }
}

fn route(name: &str, path: &str) -> Value {
    json!({"kind": "Ingress", "metadata": {"namespace": "higress-system", "name": name,
            "annotations": {"higress.io/destination": "llm.static:80"}},
        "spec": {"rules": [{"http": {"paths": [{"path": path, "pathType": "Prefix"}]}}]}})
}

#[tokio::test]
async fn two_hundred_streams_of_one_consumer_are_charged_what_they_used_together() -> Result<()> {
    for flavor in [Flavor::Native, Flavor::Upstream] {
        let bed = Bed::new(flavor, true).await?;
        bed.redis.set("chat_quota:alice", BALANCE).await?;
        let gate = bed.model.gate("all");
        let streams = (0..STREAMS).map(|n| {
            // Every stream costs something else, and is cut elsewhere.
            bed.call("")
                .header("x-api-key", "a")
                .header("x-test-gate", "all")
                .header("x-test-usage", format!("{},{}", 3 * n + 1, 7 * n + 2))
                .header("x-test-border", (n % 40 + 1).to_string())
                .json(&json!({"model": "qwen-max", "stream": true, "messages": []}))
                .send()
        });
        let opened = async {
            gate.reached_by(STREAMS).await;
            gate.open();
            anyhow::Ok(())
        };
        let (replies, ()) = futures::try_join!(try_join_all(streams), opened)?;
        ensure!(replies.iter().all(|reply| reply.status == 200), "{flavor:?}");
        let used: usize = (0..STREAMS).map(|n| 10 * n + 3).sum();
        bed.has_balance("alice", BALANCE - i64::try_from(used)?).await?;
        let workers: Vec<usize> = (0..2)
            .map(|worker| bed.gateway.access_log().iter().filter(|exchange| exchange.worker == worker).count())
            .collect();
        ensure!(workers.iter().all(|count| *count > 0), "{workers:?}: both workers must have charged");
        ensure!(bed.gateway.traps() == 0, "{:#?}", bed.gateway.logs());
        // One more, so that a charge that came twice and late would show.
        let last = bed.call("").header("x-api-key", "a").header("x-test-usage", "4,1").json(&json!({"messages": []}));
        ensure!(last.send().await?.status == 200);
        bed.has_balance("alice", BALANCE - i64::try_from(used)? - 5).await?;
    }
    Ok(())
}

/// Sends a request that claims to be the victim's, with a key of its own or none.
async fn forge(bed: &Bed, below: &str, key: Option<&str>) -> Result<u16> {
    let mut call = bed.call(below).header("x-mse-consumer", "victim").header("X-MSE-Consumer", "victim");
    if let Some(key) = key {
        call = call.header("x-api-key", key);
    }
    let reply = call.header("x-test-usage", "30,12").json(&json!({"model": "m", "messages": []})).send().await?;
    Ok(reply.status)
}

#[tokio::test]
async fn a_forged_header_spends_nobodys_quota_with_the_guard_in_front() -> Result<()> {
    for flavor in [Flavor::Native, Flavor::Upstream] {
        let bed = Bed::new(flavor, true).await?;
        bed.redis.set("chat_quota:alice", BALANCE).await?;
        bed.redis.set("chat_quota:victim", BALANCE).await?;
        ensure!(forge(&bed, "", None).await? == 401, "{flavor:?}: the auth plugin asks for a key");
        ensure!(forge(&bed, "/free", None).await? == 401, "{flavor:?}: the quota asks who it is");
        ensure!(forge(&bed, "/free", Some("a")).await? == 401, "{flavor:?}: nobody read the key here");
        ensure!(forge(&bed, "", Some("a")).await? == 200, "{flavor:?}: as herself alice may");
        bed.has_balance("alice", BALANCE - 42).await?;
        ensure!(bed.balance("victim").await? == BALANCE, "{flavor:?}");
        ensure!(bed.model.received().len() == 1);
    }
    Ok(())
}

#[tokio::test]
async fn without_the_guard_a_forged_header_is_refused_beside_another_and_believed_alone() -> Result<()> {
    for flavor in [Flavor::Native, Flavor::Upstream] {
        let bed = Bed::new(flavor, false).await?;
        bed.redis.set("chat_quota:alice", BALANCE).await?;
        bed.redis.set("chat_quota:victim", BALANCE).await?;
        ensure!(forge(&bed, "", Some("a")).await? == 403, "{flavor:?}: two that differ");
        ensure!(bed.gateway.access_log().iter().any(|exchange| exchange.details == "ai-quota.unauthorized"));
        ensure!((bed.balance("alice").await?, bed.balance("victim").await?) == (BALANCE, BALANCE));
        ensure!(forge(&bed, "/free", None).await? == 200, "{flavor:?}: this is what the guard is for");
        bed.has_balance("victim", BALANCE - 42).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_request_that_is_redirected_after_a_failure_is_charged_once() -> Result<()> {
    for flavor in [Flavor::Native, Flavor::Upstream] {
        let (bed, second) = (Bed::new(flavor, true).await?, ModelServer::start().await?);
        let mut objects = bed.objects(flavor, true)?;
        for object in &mut objects {
            if object["metadata"]["name"] == "asks" {
                object["metadata"]["annotations"]["higress.io/default-backend"] = json!("spare");
                object["metadata"]["annotations"]["higress.io/custom-http-errors"] = json!("503");
            }
            if object["metadata"]["name"] == "quota" {
                object["spec"]["matchRules"][0]["ingress"] = json!(["asks", "asks-fallback"]);
            }
            if object["metadata"]["name"] == "key-auth" {
                object["spec"]["matchRules"][0]["ingress"] = json!(["asks", "asks-fallback"]);
            }
        }
        objects.push(json!({"kind": "Service", "metadata": {"namespace": "higress-system", "name": "spare"}, "spec": {
            "type": "ExternalName", "externalName": "127.0.0.1",
            "ports": [{"port": 80, "targetPort": second.addr().port()}]}}));
        bed.gateway.set_objects(objects).await?;
        bed.redis.set("chat_quota:alice", BALANCE).await?;
        bed.model.script("fails", Answer { status: 503, ..Answer::ok("text/plain", ["busy"]) });
        let usage = r#"{"usage":{"prompt_tokens":9,"completion_tokens":6,"total_tokens":15}}"#;
        second.script("fails", Answer::ok("application/json", [usage]));

        let prompt = json!({"model": "qwen-max", "messages": [{"role": "user", "content": "word ".repeat(1_000)}]});
        let reply = bed.call("").header("x-api-key", "a").header("x-answer", "fails").json(&prompt).send().await?;
        ensure!((reply.status, reply.text().as_str()) == (200, usage), "{flavor:?}: {} {}", reply.status, reply.text());
        let legs: Vec<_> = bed.gateway.access_log().into_iter().map(|leg| (leg.route, leg.redirected)).collect();
        ensure!(legs == [(Some("asks".into()), true), (Some("asks-fallback".into()), false)], "{legs:?}");
        // Two more, of which one goes to each worker: charges that came twice would show by then.
        for _ in 0..2 {
            let last = bed.call("").header("x-api-key", "a").header("x-test-usage", "4,1");
            ensure!(last.json(&json!({"messages": []})).send().await?.status == 200);
        }
        bed.has_balance("alice", BALANCE - 15 - 10).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_websocket_is_refused_on_a_metered_path_and_nowhere_else() -> Result<()> {
    let bed = Bed::new(Flavor::Native, true).await?;
    bed.redis.set("chat_quota:alice", BALANCE).await?;
    let websocket =
        |call: Call| call.header("x-api-key", "a").header("connection", "Upgrade").header("upgrade", "websocket");
    let refused = websocket(bed.call("")).json(&json!({"messages": []})).send().await?;
    let text = "Request denied by ai quota check. A WebSocket cannot be metered.";
    ensure!((refused.status, refused.text().as_str()) == (403, text), "{} {}", refused.status, refused.text());
    let elsewhere = websocket(post(format!("{}/v1/embeddings", bed.gateway.url())));
    ensure!(elsewhere.json(&json!({"input": "x"})).send().await?.status == 200);
    bed.has_balance("alice", BALANCE).await
}
