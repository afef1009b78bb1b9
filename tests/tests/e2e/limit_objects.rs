//! AITokenRateLimit objects on the real API server, with the controller: what it writes and reports, beside a quota on
//! the same route, and what a tenant may not do.

use anyhow::{Result, ensure};
use kube::api::{Api, DeleteParams, DynamicObject};
use serde_json::{Value, json};

use crate::stage::{NAMESPACE, Stage};

const OURS: &str = "quota.higress.io/v1alpha1";
const PLUGIN: &str = "aiquota-ai-token-ratelimit";

fn limit(namespace: &str, name: &str, fields: &Value) -> Value {
    let mut limit = json!({
        "apiVersion": OURS, "kind": "AITokenRateLimit", "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "targetRefs": [{"kind": "Ingress", "name": "qwen"}],
            "rules": [{"by": {"header": "x-api-key"}, "limits": [{"match": {"any": true}, "tokens": 5, "window": "1m"}]}],
        },
    });
    for (field, value) in fields.as_object().into_iter().flatten() {
        limit["spec"][field] = value.clone();
    }
    limit
}

async fn limits(stage: &Stage, namespace: &str) -> Result<Api<DynamicObject>> {
    stage.api.objects(OURS, "AITokenRateLimit", namespace).await
}

#[tokio::test]
async fn limits_are_written_reported_and_taken_out_beside_a_quota_on_the_same_route() -> Result<()> {
    let stage = Stage::set().await?;
    stage.start_controller_with(&["--limit-module-url=oci://registry.example/ai-token-ratelimit:1.0.0"])?;
    stage.apply_example("gateway.yaml").await?;
    stage.apply_example("quota.yaml").await?;
    stage.api.apply(&limit(NAMESPACE, "burst", &json!({"ruleName": "default_rule"}))).await?;
    stage.ready("chat").await?;
    let all = limits(&stage, NAMESPACE).await?;
    stage.condition(&all, "burst", "Ready", "True").await?;

    let plugins = stage.plugins().await?;
    let spec = plugins.get(PLUGIN).await?.data["spec"].clone();
    assert_eq!((&spec["phase"], &spec["priority"]), (&json!("UNSPECIFIED_PHASE"), &json!(600)));
    assert_eq!(spec["matchRules"][0]["ingress"], json!(["qwen", "qwen-default", "qwen-fallback"]));
    let policy = &spec["defaultConfig"]["aiquota"]["policies"]["higress-system/burst"];
    assert_eq!(policy["ruleName"], "default_rule");
    assert_eq!(policy["rules"][0]["limits"][0], json!({"match": "any", "tokens": 5, "windowSeconds": 60}));
    assert_eq!(stage.rules().await?, 1, "the quota's own rule");

    // What somebody makes of it does not stay, and an edit reaches it.
    plugins.delete(PLUGIN, &DeleteParams::default()).await?;
    stage.api.apply(&limit(NAMESPACE, "burst", &json!({"ruleName": "other_rule"}))).await?;
    stage
        .eventually("it is there again, as edited", async || {
            let plugin = plugins.get(PLUGIN).await?;
            let name = plugin.data.pointer("/spec/defaultConfig/aiquota/policies/higress-system~1burst/ruleName");
            ensure!(name == Some(&json!("other_rule")), "{name:?}");
            Ok(())
        })
        .await?;

    all.delete("burst", &DeleteParams::default()).await?;
    stage
        .eventually("the WasmPlugin is gone with the last object", async || {
            ensure!(plugins.get_opt(PLUGIN).await?.is_none(), "it is there");
            Ok(())
        })
        .await?;
    stage.ready("chat").await
}

#[tokio::test]
async fn a_tenant_chooses_no_rule_name_and_takes_no_route_of_others() -> Result<()> {
    let stage = Stage::set().await?;
    stage.api.namespace("team-a").await?;
    stage.start_controller_with(&["--limit-module-url=oci://registry.example/ai-token-ratelimit:1.0.0"])?;
    stage.apply_example("gateway.yaml").await?;
    let theirs = limits(&stage, "team-a").await?;
    for (name, fields, reason, said) in [
        ("name", json!({"ruleName": "default_rule"}), "NotTrusted", "spec.ruleName"),
        ("gateway", json!({"targetRefs": [{"kind": "Gateway"}]}), "NotTrusted", "spec.targetRefs[0]"),
        ("route", json!({}), "TargetNotFound", "Ingress qwen"),
    ] {
        stage.api.apply(&limit("team-a", name, &fields)).await?;
        stage.says(&theirs, name, "Accepted", ("False", reason), &[said]).await?;
    }
    ensure!(stage.plugins().await?.get_opt(PLUGIN).await?.is_none(), "nothing is limited");
    Ok(())
}
