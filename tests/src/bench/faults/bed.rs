//! What a fault is played on: a real Redis behind a proxy, a model server, and a gateway that runs the built module.
//! Nobody authenticates requests: each names its consumer itself.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;
use testbed::{
    Blackhole, Gateway, GatewayOptions, ModelServer, Operations, Redis, RedisOptions, RedisProxy, Replies, eventually,
};

use super::fault::PASSWORD;
use super::{Fault, Kind, Size};

const PLUGIN: &str = "aiquota";

pub(super) struct Bed {
    pub(super) kind: Kind,
    pub(super) size: Size,
    pub(super) redis: Redis,
    pub(super) proxy: RedisProxy,
    pub(super) model: ModelServer,
    pub(super) gateway: Gateway,
    pub(super) folder: TempDir,
    pub(super) hole: Option<Blackhole>,
    /// Where the gateway finds Redis.
    address: String,
    password: Option<String>,
}

impl Bed {
    pub(super) async fn set(kind: &Kind, fault: Fault, size: Size) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let password = (fault == Fault::NewPassword).then(|| PASSWORD.to_owned());
        let config = fault.configuration(folder.path());
        let redis = Redis::start(RedisOptions { password: password.clone(), config, user: None }).await?;
        let proxy = RedisProxy::start(redis.addr(), &Operations::new()).await?;
        let model = ModelServer::start().await?;
        let gateway = Gateway::start(GatewayOptions::default()).await?;
        // As in production; the proxy only where it is what fails.
        let proxied = matches!(fault, Fault::Cut | Fault::Stuck | Fault::Lost | Fault::Late);
        let address = if proxied { proxy.addr().to_string() } else { redis.addr() };
        let hole = None;
        let bed = Self { kind: *kind, size, redis, proxy, model, gateway, folder, hole, address, password };
        bed.serve().await?;
        Ok(bed)
    }

    /// The gateway finds Redis elsewhere.
    pub(super) async fn lead_to(&mut self, address: &str) -> Result<()> {
        address.clone_into(&mut self.address);
        self.serve().await
    }

    /// The store has another password.
    pub(super) async fn configure(&mut self, password: Option<&str>) -> Result<()> {
        self.password = password.map(str::to_owned);
        self.serve().await
    }

    async fn serve(&self) -> Result<()> {
        self.gateway.set_objects(self.objects()?).await?;
        ensure!(self.gateway.loaded().runs(PLUGIN), "{:#?}", self.gateway.loaded());
        Ok(())
    }

    fn objects(&self) -> Result<Vec<Value>> {
        let registry =
            |name: &str, address: &str| json!({"name": name, "type": "static", "domain": address, "port": 80});
        let object = |kind: &str, name: &str, spec: &Value| {
            json!({"kind": kind, "metadata": {"namespace": "higress-system", "name": name,
                "annotations": {"higress.io/destination": "llm.static:80"}}, "spec": spec})
        };
        let registries = [registry("llm", &self.model.addr().to_string()), registry("redis", &self.address)];
        let native = self.kind.configuration(self.size.timeout, self.password.as_deref(), self.size.tokens);
        Ok(vec![
            object("McpBridge", "default", &json!({"registries": registries})),
            object("Ingress", "llm", &json!({"rules": [{"http": {"paths": [{"path": "/", "pathType": "Prefix"}]}}]})),
            object(
                "WasmPlugin",
                PLUGIN,
                &json!({
                    "url": format!("file://{}", testbed::module(self.kind.module())?.display()), "priority": 750,
                    "failStrategy": "FAIL_CLOSE", "defaultConfig": {"aiquota": native},
                    "matchRules": [{"ingress": ["llm"], "config": {"policy": "n/q"}}],
                }),
            ),
        ])
    }

    #[expect(clippy::unnecessary_wraps, reason = "one of several ways to bring a fault about")]
    pub(super) fn replies(&self, replies: Replies) -> Result<()> {
        self.proxy.replies(replies);
        Ok(())
    }

    /// Sends a command to Redis as somebody who may.
    pub(super) async fn tell(&self, words: &[&str]) -> Result<()> {
        let (verb, rest) = words.split_first().context("no command")?;
        Ok(redis::cmd(verb).arg(rest).query_async(&mut self.redis.connect().await?).await?)
    }

    /// Waits until Redis says so of its files.
    pub(super) async fn persisted(&self, line: &str) -> Result<()> {
        eventually(&format!("Redis says {line}"), async || {
            let mut redis = self.redis.connect().await?;
            let info: String = redis::cmd("INFO").arg("persistence").query_async(&mut redis).await?;
            ensure!(info.lines().any(|said| said == line), "{info}");
            Ok(())
        })
        .await
    }

    /// Waits until Redis listens again and says that it loads.
    pub(super) async fn loads(&self) -> Result<()> {
        eventually("Redis says LOADING", async || {
            let ping = redis::cmd("PING").query_async::<()>(&mut self.redis.connect().await?).await;
            ensure!(ping.as_ref().is_err_and(|error| error.to_string().contains("is loading the dataset")), "{ping:?}");
            Ok(())
        })
        .await
    }

    /// Waits until the module says of the charges of all of these that they may not have been booked.
    pub(super) async fn reports(&self, consumers: &[String]) -> Result<()> {
        eventually("charges that meet the fault are reported", async || {
            let logs = self.gateway.logs();
            let reported = |consumer: &String| {
                logs.iter()
                    .filter_map(|line| self.kind.unknown(&line.text))
                    .any(|(key, _)| key == self.kind.key(consumer))
            };
            let silent: Vec<_> = consumers.iter().filter(|consumer| !reported(consumer)).collect();
            ensure!(silent.is_empty(), "those of {silent:?} are not");
            Ok(())
        })
        .await
    }

    /// How many of so many requests have not ended, once that does not change any more for the better.
    pub(super) async fn stuck(&self, asked: usize) -> Result<usize> {
        let left = || asked.saturating_sub(self.gateway.access_log().len()) + self.model.in_flight();
        let ended = eventually("every stream has ended", async || {
            ensure!(left() == 0, "{} have not", left());
            Ok(())
        });
        Ok(if ended.await.is_ok() { 0 } else { left() })
    }
}
