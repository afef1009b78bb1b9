//! Model server, gateway and Redis for exchanges over HTTP, each by a consumer of its own; when all have ended and Redis
//! has nothing more to do, every balance is compared.

use anyhow::{Context as _, Result, ensure};
use futures::TryStreamExt as _;
use serde_json::{Value, json};
use testbed::{Answer, Gateway, GatewayOptions, ModelServer, Redis, RedisOptions, Source, eventually, post};

use super::BALANCE;
use super::recorded::{FLAVORS, Flavor, REQUEST, Recorded};

/// Exchanges under way at the same time.
const AT_ONCE: usize = 16;

/// One exchange, by a consumer of its own.
pub(super) struct Case {
    pub(super) consumer: String,
    pub(super) what: String,
    pub(super) flavor: Flavor,
    pub(super) path: String,
    pub(super) answer: Answer,
    /// The client leaves as soon as it has so many bytes.
    pub(super) leaves: Option<usize>,
    pub(super) cost: i64,
}

fn object(kind: &str, name: &str, annotations: &Value, spec: &Value) -> Value {
    let metadata = json!({"namespace": "higress-system", "name": name, "annotations": annotations});
    json!({"kind": kind, "metadata": metadata, "spec": spec})
}

pub(super) struct Bed {
    gateway: Gateway,
    model: ModelServer,
    redis: Redis,
}

impl Bed {
    pub(super) async fn new(answers: &[Recorded]) -> Result<Self> {
        let (redis, model) = (Redis::start(RedisOptions::default()).await?, ModelServer::start().await?);
        let addresses = [("llm", model.addr().to_string()), ("redis", redis.addr())];
        let registries = addresses.map(|(name, to)| json!({"name": name, "type": "static", "domain": to, "port": 80}));
        let mut objects = vec![object("McpBridge", "default", &json!({}), &json!({"registries": registries}))];
        for flavor in FLAVORS {
            let (name, (default, rule)) = (flavor.name(), flavor.configuration(answers));
            let url = format!("file://{}", testbed::module("ai-quota")?.display());
            let rules = json!([{"ingress": [name], "config": rule}]);
            let spec = json!({"url": url, "failStrategy": "FAIL_CLOSE", "defaultConfig": default, "matchRules": rules});
            objects.push(object("WasmPlugin", name, &json!({}), &spec));
            let marks =
                json!({"higress.io/destination": "llm.static:80", "higress.io/exact-match-header-x-flavor": name});
            let backend =
                json!({"resource": {"apiGroup": "networking.higress.io", "kind": "McpBridge", "name": "default"}});
            let path = json!({"path": "/", "pathType": "Prefix", "backend": backend});
            let spec = json!({"ingressClassName": "higress", "rules": [{"http": {"paths": [path]}}]});
            objects.push(object("Ingress", name, &marks, &spec));
        }
        let gateway =
            Gateway::start(GatewayOptions { source: Source::Objects(objects), ..GatewayOptions::default() }).await?;
        ensure!(FLAVORS.iter().all(|flavor| gateway.loaded().runs(flavor.name())), "{:#?}", gateway.loaded());
        Ok(Self { gateway, model, redis })
    }

    /// Plays all cases and compares every balance with what it must be.
    pub(super) async fn play(&self, mut cases: Vec<Case>) -> Result<()> {
        for (number, case) in cases.iter_mut().enumerate() {
            case.consumer = number.to_string();
            self.model.script(&case.consumer, case.answer.clone());
        }
        let mut connection = self.redis.connect().await?;
        let keys: Vec<String> = cases.iter().map(|case| case.flavor.key(&case.consumer)).collect();
        let full: Vec<(&str, i64)> = keys.iter().map(|key| (key.as_str(), BALANCE)).collect();
        redis::cmd("MSET").arg(full).query_async::<()>(&mut connection).await?;

        let exchanges = futures::stream::iter(cases.iter().map(Ok));
        exchanges
            .try_for_each_concurrent(AT_ONCE, |case| async {
                self.exchange(case).await.with_context(|| case.what.clone())
            })
            .await?;
        self.settle(&cases).await?;

        let balances: Vec<i64> = redis::cmd("MGET").arg(&keys).query_async(&mut connection).await?;
        let wrong: Vec<String> = cases
            .iter()
            .zip(balances)
            .filter(|(case, balance)| BALANCE - balance != case.cost)
            .map(|(case, balance)| format!("{}: charged {} instead of {}", case.what, BALANCE - balance, case.cost))
            .collect();
        ensure!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
        ensure!(self.gateway.traps() == 0, "{:#?}", self.gateway.logs());
        Ok(())
    }

    async fn exchange(&self, case: &Case) -> Result<()> {
        let call = post(format!("{}{}", self.gateway.url(), case.path))
            .header("x-flavor", case.flavor.name())
            .header("x-mse-consumer", &case.consumer)
            .header("x-answer", &case.consumer)
            .body(REQUEST);
        let body = case.answer.chunks.concat();
        let Some(leaves) = case.leaves else {
            let reply = call.send().await?;
            ensure!(reply.status == case.answer.status && reply.body == body, "{} {}", reply.status, reply.text());
            return Ok(());
        };
        let mut reply = call.open().await?;
        ensure!(reply.status == case.answer.status, "{}", reply.status);
        let mut seen = 0;
        while seen < leaves {
            seen += reply.chunk().await?.context("the answer ended")?.len();
        }
        ensure!(seen == leaves, "{seen} bytes came");
        Ok(())
    }

    /// Returns when Redis has done all that the exchanges have caused.
    async fn settle(&self, cases: &[Case]) -> Result<()> {
        let ended = eventually("all exchanges have ended", async || {
            let ended = self.gateway.access_log();
            ensure!(ended.len() == cases.len(), "{} of {}", ended.len(), cases.len());
            Ok(ended)
        })
        .await?;
        let left = ended.iter().filter(|exchange| exchange.flags == "DC").count();
        ensure!(left == cases.iter().filter(|case| case.leaves.is_some()).count(), "{left} clients left");
        // What an exchange charges has left the module when it is logged, and the commands of a worker are done in
        // order: when another question was answered on each worker, all are done.
        for _ in 0..2 {
            let last = post(format!("{}/v1/chat/completions", self.gateway.url()));
            let reply = last.header("x-flavor", "upstream").header("x-mse-consumer", "nobody").send().await?;
            ensure!(reply.status == 403, "{} {}", reply.status, reply.text());
        }
        let asked = eventually("both questions are logged", async || {
            let ended = self.gateway.access_log().split_off(cases.len());
            ensure!(ended.len() == 2, "{ended:?}");
            Ok(ended)
        })
        .await?;
        ensure!(asked[0].worker != asked[1].worker, "{asked:?}");
        eventually("no answer is sent to nobody", async || {
            ensure!(self.model.in_flight() == 0, "{} are", self.model.in_flight());
            Ok(())
        })
        .await
    }
}
