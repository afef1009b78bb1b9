//! Several controllers: one acts, the others wait; and where two act at once, or one with what was true once, nothing is
//! granted twice and nothing flaps.

mod kills;

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use kube::ResourceExt;
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use serde_json::{Value, json};
use testbed::{ApiProxy, Controller, ControllerOptions, Operations, eventually_within, kubectl};

use crate::stage::{NAMESPACE, Stage};

/// Somebody may have to wait for its end; a busy machine may stand still for a third of it.
const QUICK: &str = "--lease-duration=20s";
/// So long that what happens to the Lease is not noticed by renewing it.
const SLOW: &str = "--lease-duration=5m";

/// A controller that takes part in the election, or is told that there is no other.
fn controller(stage: &Stage, lease: Option<&str>, through: Option<&ApiProxy>) -> Result<Controller> {
    let log = "--log=controller=debug,info".to_owned();
    let options = ControllerOptions {
        elected: lease.is_some(),
        args: lease.map(str::to_owned).into_iter().chain([log]).collect(),
        kubeconfig: through.map(|proxy| proxy.kubeconfig().to_owned()),
        ..ControllerOptions::default()
    };
    Controller::start(&stage.api, options)
}

/// The stage with its gateway, Redis and one AIQuota `chat`.
async fn set() -> Result<Stage> {
    let stage = Stage::set().await?;
    stage.apply_example("gateway.yaml").await?;
    stage.apply_example("quota.yaml").await?;
    Ok(stage)
}

async fn grant(stage: &Stage, quota: i64) -> Result<()> {
    stage.apply_consumers(&json!([{"name": "aliyun-user1", "quota": quota}])).await
}

/// What upstream's module does when a request is over.
async fn spend(stage: &Stage, consumer: &str, tokens: i64) -> Result<i64> {
    let mut redis = stage.redis.connect().await?;
    Ok(redis::cmd("DECRBY").arg(format!("chat_quota:{consumer}")).arg(tokens).query_async(&mut redis).await?)
}

async fn lease(stage: &Stage) -> Result<(Api<DynamicObject>, Value)> {
    let leases = stage.api.objects("coordination.k8s.io/v1", "Lease", NAMESPACE).await?;
    let spec = leases.get("aiquota").await?.data["spec"].clone();
    Ok((leases, spec))
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

fn rounds(controller: &Controller) -> usize {
    controller.log().matches("round done").count()
}

/// Waits until something that is watched made every controller go round once more.
async fn nudge(stage: &Stage, controllers: &[&Controller]) -> Result<()> {
    let before: Vec<usize> = controllers.iter().map(|controller| rounds(controller)).collect();
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "nudge", "namespace": NAMESPACE},
        "stringData": {"rounds": format!("{before:?}")}});
    stage.api.apply(&secret).await?;
    stage
        .eventually("every controller goes round", async || {
            let now: Vec<usize> = controllers.iter().map(|controller| rounds(controller)).collect();
            ensure!(now.iter().zip(&before).all(|(now, before)| now > before), "{before:?}, then {now:?} rounds");
            Ok(())
        })
        .await
}

/// The versions of all that controllers write, and how often Redis changed.
async fn written(stage: &Stage) -> Result<(Vec<Option<String>>, String)> {
    let mut versions = Vec::new();
    for (objects, name) in [
        (stage.quotas().await?, "chat"),
        (stage.stores().await?, "default"),
        (stage.plugins().await?, "aiquota-guard"),
        (stage.plugins().await?, "aiquota-ai-quota"),
    ] {
        versions.push(objects.get(name).await?.resource_version());
    }
    let info: String = redis::cmd("INFO").arg("persistence").query_async(&mut stage.redis.connect().await?).await?;
    let changes = info.lines().find(|line| line.starts_with("rdb_changes_since_last_save")).context("no count")?;
    Ok((versions, changes.to_owned()))
}

/// However often the controllers go round now, they write nothing.
async fn stands_still(stage: &Stage, controllers: &[&Controller]) -> Result<()> {
    // Each has polled balances since the last was spent, which it does once a minute.
    eventually_within(Duration::from_secs(180), "nothing is written any more", async || {
        nudge(stage, controllers).await?;
        let before = written(stage).await?;
        for _ in 0..3 {
            nudge(stage, controllers).await?;
        }
        let after = written(stage).await?;
        ensure!(before == after, "{before:?}, then {after:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_standby_writes_nothing_and_takes_over_at_once_when_the_leader_ends_in_order() -> Result<()> {
    let stage = set().await?;
    let first = controller(&stage, Some(QUICK), None)?;
    says(&stage, &first, "leading with term 2").await?;
    stage.ready("chat").await?;
    let second = controller(&stage, Some(QUICK), None)?;
    says(&stage, &second, "standing by while").await?;
    says(&stage, &second, "watching").await?;
    grant(&stage, 500).await?;
    stage.balance("aliyun-user1", 500).await?;
    stage.ready("chat").await?;

    let before = lease(&stage).await?.1["holderIdentity"].clone();
    ensure!(before.is_string(), "nobody holds the Lease");
    let status = first.terminate().await?;
    ensure!(status.success(), "{status}");
    let holder = lease(&stage).await?.1["holderIdentity"].clone();
    ensure!(holder != before, "it left with the Lease: {holder}");
    says(&stage, &second, "leading with term 3").await?;
    let log = second.log();
    let (stood_by, led) = log.split_once("leading with term 3").context("it does not lead")?;
    ensure!(!stood_by.contains("round done"), "it acted while another led:\n{log}");
    ensure!(!led.contains("leading with term"), "{log}");
    grant(&stage, 600).await?;
    stage.balance("aliyun-user1", 600).await?;
    stage.ready("chat").await?;
    second.ensure_running()
}

#[tokio::test]
async fn two_that_act_at_once_grant_nothing_twice_and_come_to_rest() -> Result<()> {
    const STEPS: i64 = 40;
    let stage = set().await?;
    let (one, other) = (controller(&stage, None, None)?, controller(&stage, None, None)?);
    // Three whose grants rise and fall while they spend, and three that come and go.
    let steady = |step: i64, n: i64| 1000 + (step * 7 + n * 13) % 5 * 100;
    let coming = |step: i64, n: i64| 500 + (step + n) % 4 * 50;
    let consumers = |step: i64| {
        let steady = (0..3).map(|n| json!({"name": format!("steady{n}"), "quota": steady(step, n)}));
        let here = (0..3).filter(|n| step == 0 || step == STEPS || (step + n) % 3 != 0);
        let coming = here.map(|n| json!({"name": format!("coming{n}"), "quota": coming(step, n)}));
        Value::Array(steady.chain(coming).collect())
    };
    stage.apply_consumers(&consumers(0)).await?;
    for n in 0..3 {
        stage.balance(&format!("steady{n}"), steady(0, n)).await?;
    }
    stage.ready("chat").await?;
    for step in 1..=STEPS {
        stage.apply_consumers(&consumers(step)).await?;
        for n in 0..3 {
            spend(&stage, &format!("steady{n}"), n + 1).await?;
        }
    }
    for n in 0..3 {
        stage.balance(&format!("steady{n}"), steady(STEPS, n) - STEPS * (n + 1)).await?;
        stage.balance(&format!("coming{n}"), coming(STEPS, n)).await?;
    }
    stage.ready("chat").await?;
    stands_still(&stage, &[&one, &other]).await?;
    for n in 0..3 {
        stage.balance(&format!("steady{n}"), steady(STEPS, n) - STEPS * (n + 1)).await?;
        stage.balance(&format!("coming{n}"), coming(STEPS, n)).await?;
    }
    one.ensure_running()?;
    other.ensure_running()
}

#[tokio::test]
async fn a_leader_that_was_stopped_notices_before_it_writes_and_ends() -> Result<()> {
    let stage = set().await?;
    let old = controller(&stage, Some(QUICK), None)?;
    says(&stage, &old, "leading with term 2").await?;
    grant(&stage, 100).await?;
    stage.balance("aliyun-user1", 100).await?;
    stage.ready("chat").await?;
    spend(&stage, "aliyun-user1", 30).await?;
    let new = controller(&stage, Some(QUICK), None)?;
    says(&stage, &new, "standing by while").await?;

    old.pause()?;
    let before = rounds(&old);
    says(&stage, &new, "leading with term 3").await?;
    grant(&stage, 200).await?;
    stage.balance("aliyun-user1", 170).await?;
    stage.ready("chat").await?;
    old.resume()?;
    let status = old.ended().await?;
    ensure!(!status.success(), "{status}");
    let log = old.log();
    ensure!(log.contains("another controller may act now"), "{log}");
    ensure!(rounds(&old) == before, "it acted after it was resumed:\n{log}");
    stands_still(&stage, &[&new]).await?;
    stage.balance("aliyun-user1", 170).await
}

#[tokio::test]
async fn a_leader_that_believes_an_old_grant_is_not_obeyed_and_ends() -> Result<()> {
    let stage = set().await?;
    let proxy = ApiProxy::start(&stage.api, &Operations::new()).await?;
    let old = controller(&stage, Some(SLOW), Some(&proxy))?;
    says(&stage, &old, "leading with term 2").await?;
    grant(&stage, 100).await?;
    stage.balance("aliyun-user1", 100).await?;
    stage.ready("chat").await?;
    spend(&stage, "aliyun-user1", 30).await?;

    let _held = proxy.hold("aiquotas");
    let new = controller(&stage, Some(SLOW), None)?;
    says(&stage, &new, "standing by while").await?;
    // Behind the back of the old leader, which renews it in minutes only.
    let freed = json!({"spec": {"holderIdentity": null}});
    lease(&stage).await?.0.patch("aiquota", &PatchParams::default(), &Patch::Merge(freed)).await?;
    says(&stage, &new, "leading with term 3").await?;
    grant(&stage, 200).await?;
    stage.balance("aliyun-user1", 170).await?;
    stage.ready("chat").await?;
    old.ensure_running()?;
    act_on_what_is_believed(&stage).await?;

    says(&stage, &old, "the Lease aiquota is now held by").await?;
    let status = old.ended().await?;
    ensure!(!status.success(), "{status}");
    ensure!(!old.log().contains("leading with term 4"), "{}", old.log());
    stands_still(&stage, &[&new]).await?;
    stage.balance("aliyun-user1", 170).await?;
    stage.ready("chat").await
}

/// Lets every controller apply all balances once more, as it knows them: how the store is reached has changed.
async fn act_on_what_is_believed(stage: &Stage) -> Result<()> {
    let other = json!({"spec": {"timeout": "3s"}});
    stage.stores().await?.patch("default", &PatchParams::default(), &Patch::Merge(other)).await?;
    Ok(())
}

#[tokio::test]
async fn of_two_that_act_at_once_the_one_whose_watch_lags_is_not_obeyed() -> Result<()> {
    let stage = set().await?;
    let proxy = ApiProxy::start(&stage.api, &Operations::new()).await?;
    let old = controller(&stage, None, Some(&proxy))?;
    grant(&stage, 100).await?;
    stage.balance("aliyun-user1", 100).await?;
    stage.ready("chat").await?;
    spend(&stage, "aliyun-user1", 30).await?;
    // So that it does not learn of the last status either.
    nudge(&stage, &[&old]).await?;
    let held = proxy.hold("aiquotas");
    let new = controller(&stage, None, None)?;
    grant(&stage, 200).await?;
    stage.balance("aliyun-user1", 170).await?;
    stage.ready("chat").await?;

    act_on_what_is_believed(&stage).await?;
    nudge(&stage, &[&old, &new]).await?;
    nudge(&stage, &[&old, &new]).await?;
    stage.balance("aliyun-user1", 170).await?;
    stage.ready("chat").await?;
    drop(held);
    stands_still(&stage, &[&old, &new]).await?;
    stage.balance("aliyun-user1", 170).await?;
    stage.ready("chat").await
}

#[tokio::test]
async fn a_lease_that_is_deleted_or_reset_costs_no_authority() -> Result<()> {
    let stage = set().await?;
    let controller = controller(&stage, Some(QUICK), None)?;
    says(&stage, &controller, "leading with term 2").await?;
    controller.terminate().await?;
    controller.restart()?;
    says(&stage, &controller, "leading with term 3").await?;
    grant(&stage, 100).await?;
    stage.balance("aliyun-user1", 100).await?;

    // Under its holder: another may have taken it meanwhile, so it goes on with the term after its own.
    kubectl(&stage.api, &["delete", "lease", "aiquota", "-n", NAMESPACE]).await?;
    let transitions = async |expected: i64| {
        stage
            .eventually(&format!("{expected} changes of holder are counted"), async || {
                controller.ensure_running()?;
                let (_, spec) = lease(&stage).await?;
                ensure!(spec["leaseTransitions"] == expected && spec["holderIdentity"].is_string(), "{spec}");
                Ok(())
            })
            .await
    };
    transitions(2).await?;
    let reset = json!({"spec": {"leaseTransitions": 0}});
    lease(&stage).await?.0.patch("aiquota", &PatchParams::default(), &Patch::Merge(reset)).await?;
    transitions(2).await?;
    grant(&stage, 110).await?;
    stage.balance("aliyun-user1", 110).await?;

    // While nobody knew it: Redis knows the term that was.
    controller.terminate().await?;
    kubectl(&stage.api, &["delete", "lease", "aiquota", "-n", NAMESPACE]).await?;
    grant(&stage, 120).await?;
    controller.restart()?;
    says(&stage, &controller, "leading with term 5").await?;
    transitions(3).await?;
    stage.balance("aliyun-user1", 120).await?;
    stage.ready("chat").await?;
    controller.terminate().await?;

    // One that is told that it is the only one may be it.
    let alone = self::controller(&stage, None, None)?;
    grant(&stage, 130).await?;
    stage.balance("aliyun-user1", 130).await?;
    stage.ready("chat").await?;
    alone.ensure_running()
}
