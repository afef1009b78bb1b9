//! How the controller is looked after: what it says of itself to probes and to Prometheus, leading or standing by; that
//! it ends in order; and that nothing it tells anywhere has a secret in it.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc;

use anyhow::{Context as _, Result, ensure};
use kube::api::ListParams;
use serde_json::json;
use testbed::{ApiProxy, Controller, ControllerOptions, Moment, Operations, RedisOptions, eventually, get, workspace};

use crate::stage::{NAMESPACE, Stage};

const OURS: &str = "quota.higress.io/v1alpha1";

fn controller(stage: &Stage, more: &[&str], proxy: Option<&ApiProxy>) -> Result<Controller> {
    let args = ["--log=controller=debug,info"].iter().chain(more).map(ToString::to_string).collect();
    let kubeconfig = proxy.map(|proxy| proxy.kubeconfig().to_owned());
    let options = ControllerOptions { elected: true, args, kubeconfig, ..ControllerOptions::default() };
    Controller::start(&stage.api, options)
}

/// What it answers there.
async fn asked(controller: &Controller, path: &str) -> Result<(u16, String)> {
    let address = controller.serves()?;
    let reply = get(format!("http://{address}{path}")).send().await?;
    Ok((reply.status, String::from_utf8(reply.body.to_vec())?))
}

/// Waits until it answers so.
pub(crate) async fn says(controller: &Controller, path: &str, status: u16, words: &str) -> Result<String> {
    eventually(&format!("{path} answers {status} with {words}"), async || {
        controller.ensure_running()?;
        let (found, text) = asked(controller, path).await?;
        ensure!(found == status && text.contains(words), "{found}: {text}");
        Ok(text)
    })
    .await
}

#[tokio::test]
async fn leader_and_standby_are_ready_and_only_the_leader_tells_what_it_found() -> Result<()> {
    let stage = Stage::set().await?;
    stage.apply_example("gateway.yaml").await?;
    stage.apply_example("quota.yaml").await?;
    let leader = controller(&stage, &["--consumer-metrics=1"], None)?;
    says(&leader, "/readyz", 200, "ready: leading with term 2").await?;
    let standby = controller(&stage, &["--consumer-metrics=1"], None)?;
    says(&standby, "/readyz", 200, "ready: standing by").await?;

    let ready = r#"aiquota_objects{kind="AIQuota",condition="Ready",status="True",reason="Ready"} 1"#;
    let found = says(&leader, "/metrics", 200, ready).await?;
    for line in [
        "aiquota_leader 1",
        "aiquota_lease_term 2",
        r#"aiquota_store_up{store="default"} 1"#,
        r#"aiquota_watch_synced{kind="AIQuota"} 1"#,
        r#"aiquota_balances{state="applied"} 2"#,
        r#"aiquota_seed_calls_total{store="default",outcome="applied"} 2"#,
        r#"aiquota_consumer_balance_tokens{policy="higress-system/chat",consumer="aliyun-user1",model=""} 10000"#,
        r#"aiquota_gateways{store="default",plugin="aiquota-ai-quota",state="current"} 0"#,
        "aiquota_consumers_left_out 1",
    ] {
        ensure!(found.lines().any(|served| served == line), "no line {line}:\n{found}");
    }
    let documented = std::fs::read_to_string(workspace().join("docs/metrics.md"))?;
    for name in found.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()) {
        ensure!(documented.contains(&format!("| `{name}")), "docs/metrics.md does not list {name}");
    }
    let stands_by = asked(&standby, "/metrics").await?.1;
    ensure!(stands_by.lines().any(|line| line == "aiquota_leader 0"), "{stands_by}");
    for name in [
        "aiquota_objects",
        "aiquota_store_up",
        "aiquota_gateways",
        "aiquota_balances",
        "aiquota_consumer",
        "aiquota_lease_term",
    ] {
        ensure!(!stands_by.contains(name), "a standby tells of {name}:\n{stands_by}");
    }

    // No restart would bring Redis back.
    stage.redis.kill();
    says(&leader, "/metrics", 200, r#"aiquota_store_up{store="default"} 0"#).await?;
    for controller in [&leader, &standby] {
        ensure!(asked(controller, "/healthz").await? == (200, "ok\n".to_owned()));
        ensure!(asked(controller, "/readyz").await?.0 == 200);
    }
    Ok(())
}

/// Asks without a runtime, from where none is.
fn asked_now(address: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: controller\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

#[tokio::test]
async fn who_is_asked_to_end_is_not_ready_before_it_gives_the_lease_away_and_ends_without_an_error() -> Result<()> {
    let stage = Stage::set().await?;
    let operations = Operations::new();
    let proxy = ApiProxy::start(&stage.api, &operations).await?;
    // Renewed so seldom that what is written next is written at the end.
    let controller = controller(&stage, &["--lease-duration=5m"], Some(&proxy))?;
    says(&controller, "/readyz", 200, "ready: leading with term 2").await?;
    let address = controller.serves()?;
    let (tell, told) = mpsc::channel();
    let reached = operations.at(1, Moment::Unanswered, move || {
        let _ = tell.send(asked_now(address, "/readyz"));
    });
    let status = controller.terminate().await?;
    ensure!(status.success(), "{status}: {}", controller.log());
    let operation = reached.operation().await?;
    ensure!(operation.kind == "leases", "{operation:?}");
    let answer = told.recv()??;
    ensure!(answer.starts_with("HTTP/1.1 503") && answer.ends_with("not ready: stopping\n"), "{answer}");
    let leases = stage.api.objects("coordination.k8s.io/v1", "Lease", NAMESPACE).await?;
    let spec = leases.get("aiquota").await?.data["spec"].clone();
    ensure!(spec["holderIdentity"].is_null() && spec["leaseTransitions"] == 0, "{spec}");
    ensure!(asked_now(address, "/healthz").is_err(), "it still listens");
    Ok(())
}

const REDIS_PASSWORD: &str = "planted-redis-password";
const OTHER_PASSWORD: &str = "planted-other-password";
const USER_KEY: &str = "planted-user-key";
const LIMIT_KEY: &str = "planted-limit-key";
const URL_PASSWORD: &str = "planted-url-password";

/// All that is told: by log, probes and metrics, in Events, statuses and our WasmPlugins.
async fn everything(stage: &Stage, controller: &Controller) -> Result<Vec<(String, String)>> {
    let mut told = vec![("the log".to_owned(), controller.log())];
    for path in ["/healthz", "/readyz", "/metrics"] {
        told.push((path.to_owned(), asked(controller, path).await?.1));
    }
    for (version, kind) in [
        ("events.k8s.io/v1", "Event"),
        (OURS, "AIQuota"),
        (OURS, "AITokenRateLimit"),
        (OURS, "AIQuotaStore"),
        ("extensions.higress.io/v1alpha1", "WasmPlugin"),
    ] {
        for object in stage.api.objects(version, kind, NAMESPACE).await?.list(&ListParams::default()).await?.items {
            let name = object.metadata.name.clone().unwrap_or_default();
            let text = match kind {
                "WasmPlugin" if !name.starts_with("aiquota-") => continue,
                "Event" | "WasmPlugin" => serde_json::to_string(&object)?,
                _ => object.data["status"].to_string(),
            };
            told.push((format!("{kind} {name}"), text));
        }
    }
    Ok(told)
}

#[tokio::test]
async fn no_secret_is_in_anything_that_the_controller_tells() -> Result<()> {
    let options = RedisOptions { password: Some(REDIS_PASSWORD.to_owned()), ..RedisOptions::default() };
    let stage = Stage::set_with(options).await?;
    let more = ["--log=trace,hyper=info,rustls=info,h2=info,tower=info,hyper_util=info", "--consumer-metrics=10"];
    let args = more.map(str::to_owned).to_vec();
    let controller = Controller::start(&stage.api, ControllerOptions { args, ..ControllerOptions::default() })?;
    let planted =
        |password: &'static str| move |text: &str| text.replace("change-me", password).replace("user1-key", USER_KEY);
    stage.apply_example_with("gateway.yaml", planted(REDIS_PASSWORD)).await?;
    stage.apply_example("quota.yaml").await?;
    // A line that is right, and one that cannot be read.
    let keys = |line: &str| {
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "keys", "namespace": NAMESPACE},
            "stringData": {"limits": format!("{LIMIT_KEY}: 100/1h\n{line}")}})
    };
    stage.api.apply(&keys("")).await?;
    let limit = json!({"apiVersion": OURS, "kind": "AITokenRateLimit",
        "metadata": {"name": "burst", "namespace": NAMESPACE},
        "spec": {"targetRefs": [{"kind": "Ingress", "name": "qwen"}], "rules": [{"by": {"header": "x-api-key"},
            "limits": [{"match": {"any": true}, "tokens": 5, "window": "1h"}],
            "overridesFrom": [{"kind": "Secret", "name": "keys"}]}]}});
    stage.api.apply(&limit).await?;
    stage.ready("chat").await?;
    let limits = stage.limits().await?;
    stage.condition(&limits, "burst", "Ready", "True").await?;
    stage.api.apply(&keys(&format!("{LIMIT_KEY}-without-a-limit"))).await?;
    stage.condition(&limits, "burst", "OverridesInvalid", "True").await?;

    // Of a store that is reached in another way nothing is known.
    let consumer = r#"consumer="aliyun-user1""#;
    says(&controller, "/metrics", 200, consumer).await?;
    let mut told = everything(&stage, &controller).await?;

    // A store by a URL with a password, and the other one with a password that Redis refuses.
    let url = format!("redis://default:{URL_PASSWORD}@{}", stage.redis.addr());
    let by_url = json!({"apiVersion": OURS, "kind": "AIQuotaStore",
        "metadata": {"name": "by-url", "namespace": NAMESPACE},
        "spec": {"service": {"name": "local-redis.static", "port": 80}, "address": url}});
    if let Err(refused) = stage.api.apply(&by_url).await {
        ensure!(format!("{refused:#}").contains("spec.address"), "{refused:#}");
    }
    let redis_auth = json!({"apiVersion": "v1", "kind": "Secret",
        "metadata": {"name": "redis-auth", "namespace": NAMESPACE}, "stringData": {"password": OTHER_PASSWORD}});
    stage.api.apply(&redis_auth).await?;
    stage.condition(&stage.stores().await?, "default", "Connected", "False").await?;
    eventually("that is in an Event", async || {
        let events = stage.api.objects("events.k8s.io/v1", "Event", NAMESPACE).await?;
        let events = events.list(&ListParams::default()).await?.items;
        let reasons: BTreeSet<&str> = events.iter().filter_map(|event| event.data["reason"].as_str()).collect();
        ensure!(reasons.len() > 1, "{reasons:?}");
        Ok(())
    })
    .await?;

    told.extend(everything(&stage, &controller).await?);
    let text = |what: &str| told.iter().find(|(name, _)| name.contains(what)).map(|(_, text)| text.as_str());
    ensure!(text("the log").is_some_and(|log| log.contains("DEBUG") && log.contains("connected to Redis")));
    ensure!(text("/metrics").is_some_and(|metrics| metrics.contains(consumer)));
    ensure!(text("WasmPlugin aiquota-ai-quota").context("no WasmPlugin")?.contains("${secret."));
    for (what, text) in &told {
        for secret in [REDIS_PASSWORD, OTHER_PASSWORD, USER_KEY, LIMIT_KEY, URL_PASSWORD] {
            let at = text.find(secret).map(|at| &text[text.floor_char_boundary(at.saturating_sub(200))..at]);
            ensure!(at.is_none(), "{secret} is in {what}, after {at:?}");
        }
    }
    Ok(())
}
