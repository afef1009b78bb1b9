//! A period that begins at the gateway while no controller runs, and a refresh by hand: on the whole system.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use serde_json::json;
use testbed::{eventually_within, kubectl_with_input};

use crate::{
    scenario_a::{completion, is},
    stage::{Stage, quota},
};

const METRICS: &str = "aiquota.quota.policy.higress-system/chat.metric.";
const NO_QUOTA: &str = "No quota left";

#[tokio::test]
async fn a_period_begins_without_a_controller_and_a_refresh_by_hand_is_done_once() -> Result<()> {
    let stage = Stage::set().await?;
    let controller = stage.start_controller()?;
    let gateway = stage.start_gateway().await?;
    stage.apply_example("gateway.yaml").await?;
    stage.apply_example("quota.yaml").await?;
    // An answer takes 30 tokens.
    let consumers = json!([{"name": "aliyun-user1", "quota": 10}]);
    let refresh = json!({"schedule": "* * * * *"});
    stage.api.apply(&quota("chat", &json!({"consumers": consumers, "refresh": refresh}))).await?;
    stage.ready("chat").await?;
    stage.in_force(&gateway).await?;

    let quotas = stage.quotas().await?;
    let next = quotas.get("chat").await?.data["status"]["nextRefresh"].as_str().unwrap_or_default().to_owned();
    let left = next.parse::<Timestamp>().with_context(|| next.clone())?.duration_since(Timestamp::now());
    ensure!(left.as_secs() <= 60, "{next}");
    let columns = kubectl_with_input(&stage.api, &["get", "aiquota", "chat", "-n", "higress-system"], "").await?;
    ensure!(columns.contains("NEXT REFRESH") && columns.contains(":00Z"), "{columns}");

    let ask = || completion(&gateway, "user1-key", false);
    let served = async || is(ask(), 200, "total_tokens").await;
    let refused = async || is(ask(), 403, NO_QUOTA).await;
    stage.eventually("everything is spent", refused).await?;
    controller.kill();
    eventually_within(Duration::from_secs(150), "the next minute begins at the gateway", served).await?;

    // By hand, where nothing refreshes by itself.
    controller.restart()?;
    stage.api.apply(&quota("chat", &json!({"consumers": consumers}))).await?;
    stage
        .eventually("the schedule is gone", async || {
            let status = quotas.get("chat").await?.data["status"].clone();
            ensure!(status.get("nextRefresh").is_none(), "{status}");
            Ok(())
        })
        .await?;
    stage.eventually("everything is spent", refused).await?;
    stage
        .eventually("what was served is charged", async || {
            let metrics = gateway.metrics();
            let of = |what: &str| metrics.get(&format!("{METRICS}{what}")).copied().unwrap_or_default();
            ensure!(of("tokens") == 30 * of("admitted"), "{metrics:?}");
            Ok(())
        })
        .await?;
    let annotate = async |value: &str| {
        let patch = Patch::Merge(json!({"metadata": {"annotations": {api::REFRESH: value}}}));
        quotas.patch("chat", &PatchParams::default(), &patch).await.map(drop)
    };
    annotate("first").await?;
    stage.balance("aliyun-user1", 10).await?;
    stage
        .eventually("the refresh is reported", async || {
            let status = quotas.get("chat").await?.data["status"].clone();
            ensure!(status["refreshed"] == "first", "{status}");
            Ok(())
        })
        .await?;
    served().await?;
    stage.balance("aliyun-user1", -20).await?;
    controller.restart()?;
    stage.rounds(1).await?;
    annotate("not one word").await?;
    stage.condition(&quotas, "chat", "RefreshUnreadable", "True").await?;
    stage.balance("aliyun-user1", -20).await?;
    annotate("second").await?;
    stage.balance("aliyun-user1", 10).await
}
