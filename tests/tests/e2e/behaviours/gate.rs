//! The gateway as a way in: every behaviour's policy on a host of its own, key-auth in front, the built module with
//! the native configuration as the controller would write it.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail, ensure};
use enforcement::wire;
use redis::aio::MultiplexedConnection;
use serde_json::{Value, json};
use testbed::{Call, Gateway, GatewayOptions, ModelServer, Redis, Source, eventually, get, post};

use super::stage::{Administered, Asked, Setting, Stage};

const PLUGIN: &str = "aiquota-ai-quota";
const COMPLETIONS: &str = "/v1/chat/completions";

pub(super) struct Gate {
    gateway: Gateway,
    redis: MultiplexedConnection,
    model: ModelServer,
}

impl Gate {
    pub(super) async fn open(redis: &Redis, settings: &[Setting]) -> Result<Self> {
        let model = ModelServer::start().await?;
        let mut objects = vec![
            object(
                "networking.higress.io/v1",
                "McpBridge",
                "default",
                &json!({"registries": [
                    {"name": "local-redis", "type": "static", "domain": redis.addr(), "port": 80},
                    {"name": "llm", "type": "static", "domain": model.addr().to_string(), "port": 80},
                ]}),
            ),
            object(
                "extensions.higress.io/v1alpha1",
                "WasmPlugin",
                "key-auth",
                &json!({
                    "url": "oci://registry.example/plugins/key-auth:1.0.0", "phase": "AUTHN", "priority": 310,
                    "defaultConfig": {"keys": ["x-api-key"], "in_header": true, "global_auth": true,
                        "consumers": (["ann", "bob", "cid", "dan", "eve", "admin"])
                            .map(|name| json!({"name": name, "credential": key(name)}))},
                }),
            ),
            plugin(settings)?,
        ];
        objects.extend(settings.iter().map(route));
        let gateway =
            Gateway::start(GatewayOptions { source: Source::Objects(objects), ..GatewayOptions::default() }).await?;
        ensure!(gateway.loaded().runs(PLUGIN), "{:#?}", gateway.loaded());
        Ok(Self { gateway, redis: redis.connect().await?, model })
    }

    /// A request for a completion; returns when a served one was charged.
    pub(super) async fn ask(&self, stage: &Stage, consumer: &str, tokens: i64) -> Result<Asked> {
        let before = self.scripts_run().await?;
        let reply = self.completion(stage, consumer, tokens).send().await?;
        match (reply.status, reply.text().as_str()) {
            (200, _) => {
                eventually("the answer is charged", async || {
                    let run = self.scripts_run().await? - before;
                    ensure!(run == 2, "{run} scripts ran for the request, expected check and charge");
                    Ok(())
                })
                .await?;
                Ok(Asked::Served)
            }
            (403, "Request denied by ai quota check, No quota left") => Ok(Asked::NoQuota),
            (status, text) => bail!("a completion was answered {status} {text}"),
        }
    }

    /// The same, and what happens while the model thinks.
    pub(super) async fn ask_while(
        &self,
        stage: &Stage,
        consumer: &str,
        tokens: i64,
        meanwhile: impl Future<Output = Result<()>>,
    ) -> Result<()> {
        let thinking = self.model.gate(&stage.setting.name);
        thinking.close();
        let asked = self.completion(stage, consumer, tokens).header("x-test-gate", &stage.setting.name).send();
        let mut asked = std::pin::pin!(asked);
        tokio::select! {
            reply = &mut asked => bail!("answered {} before the model was asked", reply?.status),
            () = thinking.reached_by(1) => {}
        }
        let done = async {
            meanwhile.await?;
            self.scripts_run().await
        };
        let done = done.await;
        thinking.open();
        let (reply, before) = (asked.await?, done?);
        ensure!(reply.status == 200, "a completion was answered {} {}", reply.status, reply.text());
        eventually("the answer is charged", async || {
            let run = self.scripts_run().await? - before;
            ensure!(run == 1, "{run} scripts ran for the answer, expected the charge");
            Ok(())
        })
        .await
    }

    pub(super) async fn query(&self, stage: &Stage, consumer: &str) -> Result<Option<i64>> {
        let url = format!("{}{COMPLETIONS}/quota?consumer={consumer}", self.gateway.url());
        let reply = self.call(stage, "admin", get(url)).send().await?;
        match reply.status {
            200 => {
                let answer = reply.json()?;
                ensure!(answer["consumer"] == consumer, "{answer}");
                answer["quota"].as_i64().with_context(|| answer.to_string()).map(Some)
            }
            503 => Ok(None),
            status => bail!("a query was answered {status} {}", reply.text()),
        }
    }

    pub(super) async fn change(&self, stage: &Stage, operation: &str, form: &str) -> Result<Administered> {
        let url = format!("{}{COMPLETIONS}/quota/{operation}", self.gateway.url());
        let reply = self.call(stage, "admin", post(url)).form(form).send().await?;
        match (reply.status, reply.text()) {
            (200, text) if text == format!("{operation} quota successful") => Ok(Administered::Done),
            (403 | 503, _) => Ok(Administered::Refused),
            (status, text) => bail!("{operation} {form} was answered {status} {text}"),
        }
    }

    pub(super) fn ensure_no_traps(&self) -> Result<()> {
        ensure!(self.gateway.traps() == 0, "{:#?}", self.gateway.logs());
        Ok(())
    }

    fn completion(&self, stage: &Stage, consumer: &str, tokens: i64) -> Call {
        self.call(stage, consumer, post(format!("{}{COMPLETIONS}", self.gateway.url())))
            .header("x-test-usage", format!("{tokens},0"))
            .json(&json!({"model": "qwen-max", "messages": [{"role": "user", "content": "hello"}]}))
    }

    fn call(&self, stage: &Stage, consumer: &str, call: Call) -> Call {
        call.header("host", host(&stage.setting)).header("x-api-key", key(consumer))
    }

    /// How many scripts have run to their end since Redis was started.
    async fn scripts_run(&self) -> Result<i64> {
        let stats: String = redis::cmd("INFO").arg("commandstats").query_async(&mut self.redis.clone()).await?;
        let mut run = 0;
        for line in stats.lines() {
            if let Some(fields) = line.strip_prefix("cmdstat_evalsha:").or_else(|| line.strip_prefix("cmdstat_eval:")) {
                let fields: BTreeMap<_, _> = fields.split(',').filter_map(|field| field.split_once('=')).collect();
                let count = |name: &str| fields.get(name).map_or(Ok(0), |count| count.parse::<i64>());
                run += count("calls")? - count("failed_calls")?;
            }
        }
        Ok(run)
    }
}

fn key(consumer: &str) -> String {
    format!("{consumer}-key")
}

fn host(setting: &Setting) -> String {
    format!("{}.test", setting.name)
}

fn object(api: &str, kind: &str, name: &str, spec: &Value) -> Value {
    json!({"apiVersion": api, "kind": kind, "metadata": {"namespace": "higress-system", "name": name}, "spec": spec})
}

fn route(setting: &Setting) -> Value {
    let backend = json!({"resource": {"apiGroup": "networking.higress.io", "kind": "McpBridge", "name": "default"}});
    let path = json!({"path": "/", "pathType": "Prefix", "backend": backend});
    let rules = json!([{"host": host(setting), "http": {"paths": [path]}}]);
    let mut route = object(
        "networking.k8s.io/v1",
        "Ingress",
        &setting.name,
        &json!({"ingressClassName": "higress", "rules": rules}),
    );
    route["metadata"]["annotations"] = json!({"higress.io/destination": "llm.static:80"});
    route
}

fn plugin(settings: &[Setting]) -> Result<Value> {
    let store = wire::Store {
        service: "local-redis.static".into(),
        port: 80,
        database: 0,
        timeout_ms: 5000,
        username: None,
        password: None,
    };
    let schedules = settings
        .iter()
        .filter_map(|setting| Some((setting.policy.refresh.as_ref()?.schedule.clone(), setting.schedule.clone()?)));
    let native: wire::Native = wire::Native {
        version: wire::VERSION,
        guard: false,
        stores: [("default".to_owned(), store)].into(),
        schedules: schedules.collect(),
        policies: settings.iter().map(|setting| (setting.name.clone(), setting.policy.clone())).collect(),
        report: None,
    };
    let rules = settings.iter().map(|setting| {
        let rule = wire::Rule { policy: setting.name.clone(), open: false };
        Ok(json!({"ingress": [setting.name], "config": serde_json::to_value(rule)?}))
    });
    Ok(object(
        "extensions.higress.io/v1alpha1",
        "WasmPlugin",
        PLUGIN,
        &json!({
            "url": format!("file://{}", testbed::module("ai-quota")?.display()),
            "phase": "UNSPECIFIED_PHASE", "priority": 750, "failStrategy": "FAIL_CLOSE",
            "defaultConfig": {wire::KEY: native}, "matchRules": rules.collect::<Result<Vec<_>>>()?,
        }),
    ))
}
