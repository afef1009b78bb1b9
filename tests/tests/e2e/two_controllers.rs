//! Several controllers: one acts, the others wait; and where two act at once, or one with what was true once, nothing is
//! granted twice and nothing flaps.

use anyhow::{Context as _, Result, ensure};
use kube::api::{Api, DynamicObject};
use serde_json::json;
use testbed::{Controller, ControllerOptions};

use crate::stage::{NAMESPACE, Stage};

const LEASE: &str = "--lease-duration=5s";

/// A controller that takes part in the election.
fn candidate(stage: &Stage) -> Result<Controller> {
    let args = vec![LEASE.to_owned(), "--log=controller=debug,info".to_owned()];
    Controller::start(&stage.api, ControllerOptions { args, elected: true, ..ControllerOptions::default() })
}

/// The stage with its gateway, Redis and one AIQuota `chat`.
async fn stage() -> Result<Stage> {
    let stage = Stage::set().await?;
    stage.apply_example("gateway.yaml").await?;
    stage.apply_example("quota.yaml").await?;
    Ok(stage)
}

async fn leases(stage: &Stage) -> Result<Api<DynamicObject>> {
    stage.api.objects("coordination.k8s.io/v1", "Lease", NAMESPACE).await
}

/// Waits until a controller says this.
async fn says(stage: &Stage, controller: &Controller, words: &str) -> Result<()> {
    stage
        .eventually(&format!("a controller says: {words}"), async || {
            let log = controller.log();
            ensure!(log.contains(words), "it says:\n{log}");
            Ok(())
        })
        .await
}

#[tokio::test]
async fn a_standby_writes_nothing_and_takes_over_at_once_when_the_leader_ends_in_order() -> Result<()> {
    let stage = stage().await?;
    let first = candidate(&stage)?;
    says(&stage, &first, "leading with term 2").await?;
    stage.ready("chat").await?;
    let second = candidate(&stage)?;
    says(&stage, &second, "standing by while").await?;
    says(&stage, &second, "watching").await?;
    stage.apply_consumers(&json!([{"name": "aliyun-user1", "quota": 500}])).await?;
    stage.balance("aliyun-user1", 500).await?;
    stage.ready("chat").await?;

    let before = leases(&stage).await?.get("aiquota").await?.data["spec"]["holderIdentity"].clone();
    ensure!(before.is_string(), "nobody holds the Lease");
    let status = first.terminate().await?;
    ensure!(status.success(), "{status}");
    let holder = leases(&stage).await?.get("aiquota").await?.data["spec"]["holderIdentity"].clone();
    ensure!(holder != before, "it left with the Lease: {holder}");
    says(&stage, &second, "leading with term 3").await?;
    let log = second.log();
    let (stood_by, led) = log.split_once("leading with term 3").context("it does not lead")?;
    ensure!(!stood_by.contains("round done"), "it acted while another led:\n{log}");
    ensure!(!led.contains("leading with term"), "{log}");
    stage.apply_consumers(&json!([{"name": "aliyun-user1", "quota": 600}])).await?;
    stage.balance("aliyun-user1", 600).await?;
    stage.ready("chat").await?;
    second.ensure_running()
}
