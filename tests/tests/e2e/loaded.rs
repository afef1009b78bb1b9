//! Which modules the gateways run: what they say of themselves in Redis, and what the controller makes of it, where all
//! is well, where an image or a configuration is stale, and where the gateway is gone.

mod words;

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use kube::api::{Api, DynamicObject, ListParams};
use serde_json::{Value, json};
use testbed::{Controller, ControllerOptions, Gateway, GatewayOptions, eventually_within};

use crate::operations::says;
use crate::stage::{NAMESPACE, Stage, condition, quota};

/// What this workspace builds.
const VERSION: &str = env!("CARGO_PKG_VERSION");
/// Workers speak once a minute, who is silent for 90 s is gone, and that nobody speaks is told after 180 s.
const PATIENCE: Duration = Duration::from_secs(600);

/// Waits until the condition `Loaded` of the AIQuota has this reason; its status and message.
async fn loaded(quotas: &Api<DynamicObject>, reason: &str) -> Result<(String, String)> {
    eventually_within(PATIENCE, &format!("Loaded for {reason}"), async || {
        let chat = quotas.get("chat").await?;
        let found =
            condition(&chat, "Loaded").with_context(|| format!("no such condition: {}", chat.data["status"]))?;
        ensure!(found["reason"] == reason, "{found}");
        ensure!(found["observedGeneration"].as_i64() == chat.metadata.generation, "{found}");
        let text = |field: &str| found[field].as_str().unwrap_or_default().to_owned();
        Ok((text("status"), text("message")))
    })
    .await
}

/// Waits until the store shows just these gateways.
async fn shown(stage: &Stage, expected: &Value) -> Result<()> {
    let stores = stage.stores().await?;
    eventually_within(PATIENCE, &format!("the store shows {expected}"), async || {
        let gateways = &stores.get("default").await?.data["status"]["gateways"];
        ensure!(gateways == expected, "{gateways}");
        Ok(())
    })
    .await
}

fn gateway(version: &str, configuration: &str) -> Value {
    let name = "higress-gateway-0.higress-system";
    json!({"name": name, "plugin": "aiquota-ai-quota", "version": version, "configuration": configuration})
}

async fn apply(stage: &Stage) -> Result<()> {
    stage.apply_example("gateway.yaml").await?;
    stage.apply_example("quota.yaml").await?;
    stage.ready("chat").await
}

#[tokio::test]
async fn a_gateway_that_runs_what_was_declared_is_shown_until_it_is_gone() -> Result<()> {
    let stage = Stage::set().await?;
    stage.start_controller()?;
    let runs = stage.start_gateway().await?;
    apply(&stage).await?;
    let quotas = stage.quotas().await?;
    assert_eq!(loaded(&quotas, "Loaded").await?.0, "True");
    shown(&stage, &json!([gateway(VERSION, "Current")])).await?;
    let mut redis = stage.redis.connect().await?;
    let keys: Vec<String> = redis::cmd("KEYS").arg("aiquota:loaded:*").query_async(&mut redis).await?;
    let [key] = keys.as_slice() else { anyhow::bail!("one key, of who has rules: {keys:?}") };
    let expires: i64 = redis::cmd("TTL").arg(key).query_async(&mut redis).await?;
    assert!((1..=180).contains(&expires), "{key} expires in {expires} s");

    drop(runs);
    shown(&stage, &Value::Null).await
}

/// The built module as a release before would be, in a folder that oci:// urls are looked up in.
fn old_modules(version: &str) -> Result<tempfile::TempDir> {
    let mut wasm = std::fs::read(testbed::module("ai-quota")?)?;
    let (now, then) = (format!("aiquota {VERSION}"), format!("aiquota {version}"));
    ensure!(now.len() == then.len(), "{version} is not as long as {VERSION}");
    let places: Vec<usize> =
        wasm.windows(now.len()).enumerate().filter(|(_, at)| *at == now.as_bytes()).map(|(at, _)| at).collect();
    let [place] = places.as_slice() else { anyhow::bail!("{now} is in the module {} times", places.len()) };
    wasm[*place..place + then.len()].copy_from_slice(then.as_bytes());
    let folder = tempfile::tempdir()?;
    std::fs::write(folder.path().join("ai-quota.wasm"), wasm)?;
    Ok(folder)
}

#[tokio::test]
async fn an_older_module_under_the_declared_tag_is_told_and_named() -> Result<()> {
    let stage = Stage::set().await?;
    let module_url = Some(format!("oci://registry.example/ai-quota:{VERSION}"));
    let controller = Controller::start(&stage.api, ControllerOptions { module_url, ..ControllerOptions::default() })?;
    // What the gateway's node pulled once stays there under its tag.
    let old = old_modules("0.0.9")?;
    let source = testbed::Source::Cluster(stage.api.client(), NAMESPACE.to_owned());
    let options = GatewayOptions { source, module_dir: Some(old.path().to_owned()), ..GatewayOptions::default() };
    let runs = Gateway::start(options).await?;
    apply(&stage).await?;
    stage.in_force(&runs).await?;
    let quotas = stage.quotas().await?;
    let (status, message) = loaded(&quotas, "StaleModule").await?;
    assert_eq!(status, "False");
    for word in ["higress-gateway-0.higress-system runs 0.0.9", &format!("declares module version {VERSION}")] {
        assert!(message.contains(word), "{message}");
    }
    shown(&stage, &json!([gateway("0.0.9", "Current")])).await?;
    for (state, count) in [("stale_module", 1), ("current", 0)] {
        let line = format!(r#"aiquota_gateways{{store="default",plugin="aiquota-ai-quota",state="{state}"}} {count}"#);
        says(&controller, "/metrics", 200, &line).await?;
    }
    stage
        .eventually("it is told", async || {
            let told = stage.events("StaleModule").await?;
            ensure!(told == [message.clone()], "{told:?}");
            Ok(())
        })
        .await?;
    // It warns and withholds nothing; who looks at nothing else sees it too.
    stage.says(&quotas, "chat", "Ready", ("True", "Ready"), &["StaleModule"]).await.map(drop)
}

/// What the API server holds for the gateway now.
async fn held(stage: &Stage) -> Result<Vec<Value>> {
    const READ: [(&str, &str); 5] = [
        ("extensions.higress.io/v1alpha1", "WasmPlugin"),
        ("networking.higress.io/v1", "McpBridge"),
        ("networking.k8s.io/v1", "Ingress"),
        ("v1", "Secret"),
        ("v1", "Service"),
    ];
    let mut all = Vec::new();
    for (version, kind) in READ {
        for object in stage.api.objects(version, kind, NAMESPACE).await?.list(&ListParams::default()).await?.items {
            let mut object = serde_json::to_value(object)?;
            object["apiVersion"] = version.into();
            object["kind"] = kind.into();
            all.push(object);
        }
    }
    Ok(all)
}

#[tokio::test]
async fn a_gateway_that_does_not_take_the_current_configuration_is_told_and_named() -> Result<()> {
    let stage = Stage::set().await?;
    stage.start_controller()?;
    apply(&stage).await?;
    let runs = Gateway::start(GatewayOptions::default()).await?;
    runs.set_objects(held(&stage).await?).await?;
    let quotas = stage.quotas().await?;
    assert_eq!(loaded(&quotas, "Loaded").await?.0, "True");
    // From here on the gateway hears of nothing.
    stage.api.apply(&quota("chat", &json!({"defaultQuota": 5}))).await?;
    stage.ready("chat").await?;
    let (status, message) = loaded(&quotas, "StaleConfiguration").await?;
    assert_eq!(status, "False");
    assert!(message.contains("in force in higress-gateway-0.higress-system"), "{message}");
    shown(&stage, &json!([gateway(VERSION, "Stale")])).await?;

    runs.set_objects(held(&stage).await?).await?;
    assert_eq!(loaded(&quotas, "Loaded").await?.0, "True");
    shown(&stage, &json!([gateway(VERSION, "Current")])).await
}

#[tokio::test]
async fn a_module_that_no_gateway_runs_is_told_and_one_that_runs_it_ends_that() -> Result<()> {
    let stage = Stage::set().await?;
    let controller = stage.start_controller()?;
    apply(&stage).await?;
    let quotas = stage.quotas().await?;
    // Nothing is known of it at first, which is another reason.
    let (status, message) = loaded(&quotas, "NotLoaded").await?;
    assert_eq!(status, "Unknown");
    assert!(message.contains("no gateway says that it runs WasmPlugin aiquota-ai-quota"), "{message}");
    shown(&stage, &Value::Null).await?;
    says(controller, "/metrics", 200, r#"condition="Loaded",status="Unknown",reason="NotLoaded"} 1"#).await?;
    // It withholds nothing, and it was the gateway that was missing.
    stage.says(&quotas, "chat", "Programmed", ("True", "Programmed"), &[]).await?;
    let _runs = stage.start_gateway().await?;
    assert_eq!(loaded(&quotas, "Loaded").await?.0, "True");
    shown(&stage, &json!([gateway(VERSION, "Current")])).await
}
