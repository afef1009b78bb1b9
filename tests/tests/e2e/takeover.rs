//! `aiquota import --take-over`: a pair of hand-written WasmPlugins with live balances and counters is replaced under
//! load, and every token is accounted for; what is against it, or comes between, leaves nothing half done.

mod load;

use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use kube::ResourceExt as _;
use kube::api::{ListParams, Patch, PatchParams};
use serde_json::{Value, json};
use tempfile::TempDir;
use testbed::{
    ApiProxy, Controller, Gateway, Moment, Operations, ServiceAccount, built_module, controller_binary, eventually,
    workspace,
};
use tokio::process::Command;

use crate::stage::{NAMESPACE, PASSWORD, Stage};
use load::{Account, CONSUMERS, Load};

const OURS: &str = "quota.higress.io/v1alpha1";
/// More than any load here spends.
const GIVEN: [(&str, i64); 4] =
    [("aliyun-user1", 1_000_000_000), ("aliyun-user2", 2_000_000_000), ("away", 5), ("in-debt", -7)];

fn wasm_plugin(name: &str, module: &str, priority: i64, rules: &[Value]) -> Result<Value> {
    let (url, sha256) = built_module(module)?;
    Ok(json!({
        "apiVersion": "extensions.higress.io/v1alpha1", "kind": "WasmPlugin",
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": {"team": "llm"}},
        "spec": {"url": url, "sha256": sha256, "phase": "UNSPECIFIED_PHASE", "priority": priority,
            "failStrategy": "FAIL_CLOSE", "matchRules": rules},
    }))
}

fn redis() -> Value {
    json!({"service_name": "local-redis.static", "service_port": 80, "timeout": 30_000,
        "password": "${secret.higress-system/redis-auth.password}"})
}

fn quota_rule() -> Value {
    json!({"ingress": ["qwen"], "config": {"redis_key_prefix": "chat_quota:", "admin_consumer": "aliyun-admin",
        "admin_path": "/quota", "redis": redis()}})
}

/// As the guides have them; our modules play upstream's.
fn pair() -> Result<[Value; 2]> {
    let limit = json!({"ingress": ["qwen"], "config": {"rule_name": "default_rule", "redis": redis(), "rule_items": [
        {"limit_by_per_header": "x-api-key", "limit_keys": [{"key": "*", "token_per_day": 1_000_000_000}]},
    ]}});
    Ok([
        wasm_plugin("ai-quota", "ai-quota", 750, &[quota_rule()])?,
        wasm_plugin("ai-token-ratelimit", "ai-token-ratelimit", 600, &[limit])?,
    ])
}

/// The hand-written pair on the quickstart's route, with balances, and a controller.
struct Bed {
    stage: Arc<Stage>,
    folder: TempDir,
}

impl Bed {
    async fn new(plugins: &[Value]) -> Result<Self> {
        let stage = Stage::set().await?;
        stage.apply_example("gateway.yaml").await?;
        for plugin in plugins {
            stage.api.apply(plugin).await?;
        }
        for (consumer, balance) in GIVEN {
            stage.redis.set(&format!("chat_quota:{consumer}"), balance).await?;
        }
        stage.start_controller()?;
        let folder = tempfile::Builder::new().prefix("aiquota-take-over-").tempdir()?;
        Ok(Self { stage: Arc::new(stage), folder })
    }

    /// What it says it did, as whoever has this kubeconfig.
    async fn take_over(&self, kubeconfig: &Path, backup: &str, more: &[&str]) -> Result<(Option<i32>, Value)> {
        let program = controller_binary()?;
        let Output { status, stdout, stderr } = Command::new(program)
            .args(["import", "--from-cluster", "--take-over", "-o", "json", "--load-time=1s"])
            .arg(format!("--consumers-from-redis=redis://{}", self.stage.redis.addr()))
            .arg(format!("--backup={}", self.backup(backup).display()))
            .args(more)
            .env("KUBECONFIG", kubeconfig)
            .env("AIQUOTA_REDIS_PASSWORD", PASSWORD)
            .kill_on_drop(true)
            .output()
            .await?;
        let (said, errors) = (String::from_utf8(stdout)?, String::from_utf8(stderr)?);
        ensure!(!said.contains(PASSWORD) && !errors.contains(PASSWORD), "it tells the password: {said}{errors}");
        let outcome = serde_json::from_str(&said).with_context(|| format!("{status}: {said}{errors}"))?;
        Ok((status.code(), outcome))
    }

    fn backup(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The WasmPlugins of the gateway by name, each with its version.
    async fn plugins(&self) -> Result<Vec<(String, Option<String>)>> {
        let all = self.stage.plugins().await?.list(&ListParams::default()).await?.items;
        Ok(all.iter().map(|plugin| (plugin.name_any(), plugin.resource_version())).collect())
    }

    async fn names(&self) -> Result<Vec<String>> {
        Ok(self.plugins().await?.into_iter().map(|(name, _)| name).collect())
    }

    async fn quotas(&self) -> Result<usize> {
        Ok(self.stage.quotas().await?.list(&ListParams::default()).await?.items.len())
    }

    async fn number(&self, key: &str) -> Result<i64> {
        Ok(self.stage.redis.get(key).await?.with_context(|| format!("no {key}"))?.parse()?)
    }

    async fn balances_are_given(&self) -> Result<()> {
        for (consumer, balance) in GIVEN {
            ensure!(self.number(&format!("chat_quota:{consumer}")).await? == balance, "{consumer}");
        }
        Ok(())
    }

    async fn gateway(&self) -> Result<Gateway> {
        let gateway = self.stage.start_gateway().await?;
        gateway.settled(|loaded| loaded.runs("ai-quota") && loaded.runs("ai-token-ratelimit")).await?;
        Ok(gateway)
    }
}

/// Waits until all that was metered is booked, and not a token more.
async fn is_booked(what: &str, account: &Account, spent: impl AsyncFn() -> Result<i64>) -> Result<()> {
    let Account { booked, on_the_way, .. } = *account;
    eventually(&format!("what {what} spent is booked"), async || {
        let found = spent().await?;
        ensure!(found >= booked - on_the_way, "{found} of {booked}, of which {on_the_way} were on the way");
        Ok(())
    })
    .await?;
    let found = spent().await?;
    println!("{what}: {found} of {booked} tokens are booked, {account:?}");
    ensure!(found <= booked, "{what}: {found} are booked of {booked}: charged twice");
    ensure!(booked > 10 * on_the_way, "{what}: too little was spent to tell: {account:?}");
    Ok(())
}

/// The user of docs/migration.md, with the rights that stand there.
async fn somebody(stage: &Stage) -> Result<ServiceAccount> {
    let text = std::fs::read_to_string(workspace().join("docs/migration.md"))?;
    let (_, rest) = text.split_once("```yaml take-over.yaml\n").context("the rights")?;
    let (rights, _) = rest.split_once("\n```").context("their end")?;
    stage.api.apply_yaml(rights).await?;
    let subject = json!([{"kind": "ServiceAccount", "name": "somebody", "namespace": NAMESPACE}]);
    let binding = |kind: &str, role: &str| {
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "subjects": subject,
            "metadata": {"name": "somebody", "namespace": if kind == "RoleBinding" { json!(NAMESPACE) } else { Value::Null }},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": role, "name": "aiquota-take-over"}})
    };
    let account =
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "somebody", "namespace": NAMESPACE}});
    for object in [account, binding("RoleBinding", "Role"), binding("ClusterRoleBinding", "ClusterRole")] {
        stage.api.apply(&object).await?;
    }
    ServiceAccount::of(&stage.api, NAMESPACE, "somebody").await
}

#[tokio::test]
async fn a_hand_written_pair_is_replaced_under_load_and_every_token_is_accounted_for() -> Result<()> {
    let bed = Bed::new(&pair()?).await?;
    let gateway = bed.gateway().await?;
    let account = somebody(&bed.stage).await?;
    let mut load = Load::start(&gateway);
    load.flows(200).await?;
    let (code, said) = bed.take_over(&account.kubeconfig(), "kept.yaml", &[]).await?;
    ensure!(code == Some(0) && said["state"] == "takenOver", "{said:#}");
    bed.stage.in_force(&gateway).await?;
    load.flows(400).await?;
    let answered = load.stop().await?;

    for (at, (plugin, ours)) in
        [("ai-quota", "aiquota-ai-quota"), ("ai-token-ratelimit", "aiquota-ai-token-ratelimit")].into_iter().enumerate()
    {
        let taken = &said["taken"][at];
        println!("{taken}");
        ensure!(taken["plugin"] == plugin && taken["ours"] == ours && taken["removed"] == json!([plugin]), "{said:#}");
        ensure!(taken["gap"]["side"] == "unmetered" && taken["gap"]["milliseconds"].is_f64(), "{said:#}");
        for (consumer, account) in answered.accounts(&gateway, [plugin, ours])? {
            ensure!(account.twice == 0, "{plugin}, {consumer}: {account:?}");
            let key = CONSUMERS.iter().find(|(name, _)| *name == consumer).map(|(_, key)| *key).context("a key")?;
            let given =
                GIVEN.iter().find(|(name, _)| *name == consumer).map(|(_, given)| *given).context("a balance")?;
            let spent = async || match plugin {
                "ai-quota" => Ok(given - bed.number(&format!("chat_quota:{consumer}")).await?),
                _ => {
                    let key =
                        format!("higress-token-ratelimit:{{default_rule}}:limit_by_per_header:86400:x-api-key:{key}");
                    bed.number(&key).await
                }
            };
            is_booked(&format!("{plugin}, {consumer}"), &account, spent).await?;
        }
    }
    println!("{} answered, {} refused while modules were replaced", answered.all.len(), answered.refused);
    for (consumer, balance) in GIVEN.iter().filter(|(name, _)| !CONSUMERS.iter().any(|(known, _)| known == name)) {
        ensure!(bed.number(&format!("chat_quota:{consumer}")).await? == *balance, "{consumer}");
        let told = said["balances"].as_array().into_iter().flatten();
        let told = told.clone().find(|told| told["key"] == format!("chat_quota:{consumer}")).context("it is told")?;
        ensure!(told["before"] == *balance && told["after"] == *balance, "{told}");
    }
    ensure!(bed.names().await? == ["aiquota-ai-quota", "aiquota-ai-token-ratelimit", "aiquota-guard", "key-auth"]);
    let (code, again) = bed.take_over(&account.kubeconfig(), "again.yaml", &[]).await?;
    ensure!(code == Some(0) && again["state"] == "nothingToDo", "{again:#}");
    Ok(())
}

#[tokio::test]
async fn a_plugin_that_somebody_changes_meanwhile_stays_and_a_second_run_finishes() -> Result<()> {
    let bed = Bed::new(&pair()?).await?;
    let operations = Operations::new();
    let proxy = ApiProxy::start_as(bed.stage.api.kubeconfig(), &operations).await?;
    // Three objects are tried and made, then ai-quota goes, then ai-token-ratelimit.
    let (plugins, runtime) = (bed.stage.plugins().await?, tokio::runtime::Handle::current());
    let changed = operations.at(8, Moment::Unsent, move || {
        let patch = Patch::Merge(json!({"metadata": {"labels": {"team": "other"}}}));
        let _ = runtime.block_on(plugins.patch("ai-token-ratelimit", &PatchParams::default(), &patch));
    });
    let (code, said) = bed.take_over(proxy.kubeconfig(), "first.yaml", &[]).await?;
    let at = changed.operation().await?;
    ensure!(at.to_string() == format!("DELETE wasmplugins {NAMESPACE}/ai-token-ratelimit"), "{at}");
    ensure!(code == Some(1) && said["state"] == "unfinished", "{said:#}");
    let problem = said["problems"][0].as_str().unwrap_or_default();
    ensure!(problem.contains("ai-token-ratelimit was changed by somebody else meanwhile"), "{problem}");
    ensure!(problem.contains("as they were") && problem.contains("run it again"), "{problem}");
    ensure!(said["taken"][0]["plugin"] == "ai-quota" && said["taken"][1].is_null(), "{said:#}");
    bed.stage.ready("qwen").await?;
    ensure!(bed.names().await?.contains(&"ai-token-ratelimit".to_owned()), "it is gone");

    let (code, said) = bed.take_over(bed.stage.api.kubeconfig(), "second.yaml", &[]).await?;
    ensure!(code == Some(0) && said["state"] == "takenOver", "{said:#}");
    ensure!(bed.names().await? == ["aiquota-ai-quota", "aiquota-ai-token-ratelimit", "aiquota-guard", "key-auth"]);
    bed.balances_are_given().await
}

#[tokio::test]
async fn without_a_controller_the_rules_are_put_back_and_a_second_run_finishes() -> Result<()> {
    let [quota, _] = pair()?;
    let bed = Bed::new(std::slice::from_ref(&quota)).await?;
    let operations = Operations::new();
    let proxy = ApiProxy::start_as(bed.stage.api.kubeconfig(), &operations).await?;
    // Two objects are tried and made, then the plugin goes.
    let stage = Arc::clone(&bed.stage);
    let killed = operations.at(5, Moment::Unsent, move || stage.controller().into_iter().for_each(Controller::kill));
    let (code, said) = bed.take_over(proxy.kubeconfig(), "first.yaml", &[]).await?;
    ensure!(killed.operation().await?.verb == "DELETE", "the controller was killed elsewhere");
    ensure!(code == Some(1) && said["state"] == "unfinished", "{said:#}");
    let problem = said["problems"][0].as_str().unwrap_or_default();
    ensure!(problem.contains("aiquota-ai-quota was not written") && problem.contains("ai-quota are back"), "{problem}");
    let back = bed.stage.plugins().await?.get("ai-quota").await?;
    ensure!(back.data["spec"] == quota["spec"] && back.labels()["team"] == "llm", "{back:?}");

    bed.stage.controller().context("a controller")?.restart()?;
    let (code, said) = bed.take_over(bed.stage.api.kubeconfig(), "second.yaml", &[]).await?;
    ensure!(code == Some(0) && said["state"] == "takenOver", "{said:#}");
    bed.balances_are_given().await
}

#[tokio::test]
async fn what_has_no_equivalent_stops_everything_or_stays_where_it_is() -> Result<()> {
    let both = json!({"ingress": ["gpt"], "service": ["gpt.dns"], "config": quota_rule()["config"]});
    let bed = Bed::new(&[wasm_plugin("ai-quota", "ai-quota", 750, &[both.clone(), quota_rule()])?]).await?;
    let before = bed.plugins().await?;
    let kubeconfig = bed.stage.api.kubeconfig().to_owned();
    let (code, said) = bed.take_over(&kubeconfig, "kept.yaml", &[]).await?;
    ensure!(code == Some(1) && said["state"] == "refused", "{said:#}");
    ensure!(said["report"][0]["field"] == "spec.matchRules[0].service", "{said:#}");
    let problems = said["problems"].to_string();
    ensure!(problems.contains("--accept-differences") && problems.contains("nothing was changed"), "{problems}");
    let (code, said) = bed.take_over(&kubeconfig, "kept.yaml", &["--accept-differences", "--dry-run"]).await?;
    ensure!(code == Some(0) && said["state"] == "dryRun", "{said:#}");
    ensure!(said["plugins"] == json!([{"name": "ai-quota", "deleted": false}]), "{said:#}");
    ensure!(bed.plugins().await? == before && bed.quotas().await? == 0, "something was changed");
    ensure!(!bed.backup("kept.yaml").exists(), "nothing goes, and there is a backup");

    let (code, said) = bed.take_over(&kubeconfig, "kept.yaml", &["--accept-differences"]).await?;
    ensure!(code == Some(0) && said["state"] == "takenOver", "{said:#}");
    let left = bed.stage.plugins().await?.get("ai-quota").await?;
    ensure!(left.data["spec"]["matchRules"] == json!([both]), "{}", left.data["spec"]);
    bed.stage.ready("qwen").await?;
    // Back beside ours, it is metered twice, and another run ends that.
    let kept = std::fs::read_to_string(bed.backup("kept.yaml"))?;
    bed.stage.api.apply_yaml(&kept).await?;
    let (code, said) = bed.take_over(&kubeconfig, "again.yaml", &["--accept-differences"]).await?;
    ensure!(code == Some(0) && said["taken"][0]["gap"] == json!({"side": "twice"}), "{said:#}");
    bed.stage.api.objects(OURS, "AIQuota", NAMESPACE).await?.delete("qwen", &Default::default()).await?;
    bed.stage.api.apply_yaml(&kept).await?;
    let back = bed.stage.plugins().await?.get("ai-quota").await?;
    ensure!(back.data["spec"]["matchRules"] == json!([both, quota_rule()]), "{}", back.data["spec"]);
    bed.balances_are_given().await
}

#[tokio::test]
async fn who_follows_the_guide_has_migrated_and_can_go_back() -> Result<()> {
    let bed = Bed::new(&pair()?).await?;
    let before = bed.stage.plugins().await?.get("ai-quota").await?;
    crate::docs::play(&bed.stage, crate::docs::MIGRATION).await?;
    // As it says in the end.
    let back = bed.stage.plugins().await?.get("ai-quota").await?;
    ensure!(back.data["spec"] == before.data["spec"], "{}", back.data["spec"]);
    ensure!(bed.quotas().await? == 0, "the objects are left");
    bed.balances_are_given().await
}
