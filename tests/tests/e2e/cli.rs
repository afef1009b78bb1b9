//! The command line against a cluster: what is rendered is what the controller writes, `usage` shows what the status has,
//! and an import takes over live balances. And GitOps: who applies the same again changes nothing.

use std::path::Path;
use std::process::{Output, Stdio};

use anyhow::{Context as _, Result, ensure};
use kube::api::DeleteParams;
use serde_json::{Value, json};
use tempfile::TempDir;
use testbed::{Component, controller_binary, eventually, workspace};
use tokio::process::Command;

use crate::stage::{IMPATIENT, NAMESPACE, PASSWORD, PATIENT, Stage, condition};

/// A shell in a folder with the examples, changed to the addresses of a stage, and with aiquota and kubectl on its path.
struct Shell<'a> {
    stage: &'a Stage,
    folder: TempDir,
}

impl<'a> Shell<'a> {
    async fn new(stage: &'a Stage) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("aiquota-shell-").tempdir()?;
        let kubectl = tokio::task::spawn_blocking(|| Component::Kubectl.locate()).await??;
        std::fs::create_dir(folder.path().join("bin"))?;
        for (name, program) in [("kubectl", kubectl), ("aiquota", controller_binary()?)] {
            std::os::unix::fs::symlink(program, folder.path().join("bin").join(name))?;
        }
        copy(&workspace().join("examples"), &folder.path().join("examples"), &|text| {
            text.replace("127.0.0.1:6379", &stage.redis.addr())
                .replace("127.0.0.1:8080", &stage.model.addr().to_string())
        })?;
        Ok(Self { stage, folder })
    }

    fn command(&self, program: &str) -> Command {
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = Command::new(program);
        command
            .current_dir(self.folder.path())
            .env("PATH", format!("{}:{path}", self.folder.path().join("bin").display()))
            .env("KUBECONFIG", self.stage.api.kubeconfig())
            .env("AIQUOTA_REDIS_PASSWORD", PASSWORD)
            .kill_on_drop(true);
        command
    }

    /// Exit code, standard output and standard error.
    async fn aiquota(&self, arguments: &[&str]) -> Result<(Option<i32>, String, String)> {
        let program = controller_binary()?;
        let Output { status, stdout, stderr } =
            self.command(&program.display().to_string()).args(arguments).output().await?;
        Ok((status.code(), String::from_utf8(stdout)?, String::from_utf8(stderr)?))
    }
}

fn copy(from: &Path, to: &Path, change: &dyn Fn(&str) -> String) -> Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if from.is_dir() {
            copy(&from, &to, change)?;
        } else {
            std::fs::write(to, change(&std::fs::read_to_string(from)?))?;
        }
    }
    Ok(())
}

/// What is in force but for where the modules come from, which this stage has elsewhere.
fn without_modules(mut plugin: Value) -> Value {
    if let Some(spec) = plugin["spec"].as_object_mut() {
        spec.remove("url");
        spec.remove("sha256");
    }
    json!({"name": plugin["metadata"]["name"], "labels": plugin["metadata"]["labels"], "spec": plugin["spec"]})
}

#[tokio::test]
async fn what_is_rendered_without_a_cluster_is_what_the_controller_writes() -> Result<()> {
    let stage = Stage::set().await?;
    stage.start_controller()?;
    for file in ["gateway.yaml", "quota.yaml", "limit.yaml"] {
        stage.apply_example_with(file, |text| text.replace(PATIENT, IMPATIENT)).await?;
    }
    stage.ready("chat").await?;
    let limits = stage.limits().await?;
    stage.condition(&limits, "chat", "Ready", "True").await?;

    let shell = Shell::new(&stage).await?;
    let system = stage.api.objects("v1", "Namespace", "").await?.get("kube-system").await?;
    let uid = format!("--cluster-uid={}", system.metadata.uid.context("it has an identity")?);
    let (code, rendered, said) = shell.aiquota(&["render", "-f", "examples/quickstart", "-o", "json", &uid]).await?;
    assert_eq!(code, Some(0), "{said}");
    let rendered: Value = serde_json::from_str(&rendered)?;
    let plugins = stage.plugins().await?;
    for name in ["aiquota-guard", "aiquota-ai-quota", "aiquota-ai-token-ratelimit"] {
        let all = rendered["plugins"].as_array().context("a list")?;
        let rendered = all.iter().find(|plugin| plugin["metadata"]["name"] == name).context(name)?;
        let written = serde_json::to_value(plugins.get(name).await?)?;
        assert_eq!(without_modules(rendered.clone()), without_modules(written), "{name}");
    }
    for balance in rendered["balances"].as_array().context("a list")? {
        let key = balance["key"].as_str().context("a key")?;
        assert_eq!(stage.redis.get(key).await?, Some(balance["grant"].to_string()), "{key}");
    }
    Ok(())
}

#[tokio::test]
async fn usage_shows_what_is_left_and_watches_it_change() -> Result<()> {
    let stage = Stage::set().await?;
    stage.start_controller()?;
    stage.apply_example("gateway.yaml").await?;
    stage.apply_example("quota.yaml").await?;
    stage.ready("chat").await?;
    let shell = Shell::new(&stage).await?;
    let one = ["usage", "chat", "-n", NAMESPACE, "-c", "aliyun-user1", "-o", "json"];
    eventually("the figures are in the status", async || {
        let (code, said, errors) = shell.aiquota(&one).await?;
        ensure!(code == Some(0), "{errors}");
        let expected = json!([{"namespace": NAMESPACE, "object": "chat", "name": "aliyun-user1",
            "quota": 10000, "balance": 10000, "used": 0}]);
        ensure!(serde_json::from_str::<Value>(&said)? == expected, "{said}");
        Ok(())
    })
    .await?;
    let (_, table, _) = shell.aiquota(&["usage"]).await?;
    let line = table.lines().find(|line| line.contains("aliyun-user2")).context("a line")?;
    assert!(line.contains("50000") && line.contains("[##########]"), "{table}");
    assert!(!table.contains('\u{1b}'), "no colour but on a terminal");
    let (code, _, said) = shell.aiquota(&["usage", "nothing"]).await?;
    assert!(code == Some(1) && said.contains("there is no AIQuota nothing"), "{code:?}: {said}");

    let watched = shell.folder.path().join("watched");
    let mut watching = shell.command(&controller_binary()?.display().to_string());
    watching.args(one).arg("--watch").stdin(Stdio::null()).stdout(std::fs::File::create(&watched)?);
    let mut watching = watching.spawn()?;
    let seen = async |what: &str| {
        eventually(&format!("{what} is shown"), async || {
            let text = std::fs::read_to_string(&watched)?;
            ensure!(text.contains(what), "{text}");
            Ok(())
        })
        .await
    };
    seen("\"balance\":10000").await?;
    stage.apply_consumers(&json!([{"name": "aliyun-user1", "quota": 10007}])).await?;
    seen("\"balance\":10007").await?;
    watching.kill().await?;
    Ok(())
}

/// As the guides have it, with the quickstart's Redis.
fn hand_written() -> Value {
    json!({
        "apiVersion": "extensions.higress.io/v1alpha1", "kind": "WasmPlugin",
        "metadata": {"name": "ai-quota", "namespace": NAMESPACE},
        "spec": {
            "url": "oci://higress-registry.cn-hangzhou.cr.aliyuncs.com/plugins/ai-quota:2.0.1",
            "matchRules": [{"ingress": ["qwen"], "config": {
                "redis_key_prefix": "chat_quota:", "admin_consumer": "aliyun-admin",
                "redis": {"service_name": "local-redis.static", "service_port": 80, "timeout": 2000,
                    "password": "${secret.higress-system/redis-auth.password}"},
            }}],
        },
    })
}

#[tokio::test]
async fn a_hand_written_plugin_with_live_balances_is_imported_and_no_balance_changes() -> Result<()> {
    let balances = [("aliyun-user1", 1234), ("aliyun-user2", -7), ("aliyun-user3", 0), ("chat:odd", 5)];
    let stage = Stage::set().await?;
    stage.apply_example("gateway.yaml").await?;
    stage.api.apply(&hand_written()).await?;
    for (consumer, balance) in balances {
        stage.redis.set(&format!("chat_quota:{consumer}"), balance).await?;
    }
    stage.redis.set("chat_quota:broken", "no number").await?;
    stage.redis.set("elsewhere:aliyun-user1", 1).await?;
    let shell = Shell::new(&stage).await?;
    let from = format!("--consumers-from-redis=redis://{}", stage.redis.addr());
    let (code, objects, said) = shell.aiquota(&["import", "--from-cluster", &from]).await?;
    assert_eq!(code, Some(1), "a value that is no balance is told: {said}");
    assert!(said.contains("1 key under chat_quota:") && !said.contains(PASSWORD), "{said}");
    std::fs::write(shell.folder.path().join("imported.yaml"), &objects)?;
    stage.start_controller()?;
    let kubectl = shell.command("kubectl").args(["apply", "--server-side", "-f", "imported.yaml"]).output().await?;
    assert!(kubectl.status.success(), "{}", String::from_utf8_lossy(&kubectl.stderr));

    // Balances are adopted, and the rule waits for the old one to go.
    let quotas = stage.quotas().await?;
    stage.condition(&quotas, "qwen", "Seeded", "True").await?;
    stage
        .eventually("the old rule is named", async || {
            let quota = quotas.get("qwen").await?;
            let found = condition(&quota, "Programmed").context("no condition")?;
            ensure!(found["reason"] == "ForeignRule", "{found}");
            Ok(())
        })
        .await?;
    stage.plugins().await?.delete("ai-quota", &DeleteParams::default()).await?;
    stage.ready("qwen").await?;
    assert_eq!(stage.rules().await?, 1);
    for (consumer, balance) in balances {
        let found = stage.redis.get(&format!("chat_quota:{consumer}")).await?;
        assert_eq!(found, Some(balance.to_string()), "{consumer}");
    }
    let (_, shown, _) = shell.aiquota(&["import", "--from-cluster"]).await?;
    assert_eq!(shown, "", "aiquota's own WasmPlugins are not imported");
    Ok(())
}

#[tokio::test]
async fn who_applies_the_same_again_finds_nothing_that_the_controller_changed() -> Result<()> {
    let stage = Stage::set().await?;
    stage.start_controller()?;
    stage.apply_example("gateway.yaml").await?;
    let shell = Shell::new(&stage).await?;
    let kubectl = async |verb: &str| {
        let mut command = shell.command("kubectl");
        command.args([verb, "--server-side", "--field-manager=gitops", "-f", "examples/quickstart/quota.yaml"]);
        let Output { status, stdout, stderr } = command.output().await?;
        // `diff` fails where there is a difference.
        ensure!(status.success(), "{}", String::from_utf8_lossy(&[stdout, stderr].concat()));
        Ok(())
    };
    kubectl("apply").await?;
    stage.ready("chat").await?;
    stage.condition(&stage.stores().await?, "default", "Connected", "True").await?;
    let generation = stage.quotas().await?.get("chat").await?.metadata.generation;
    kubectl("diff").await?;
    kubectl("apply").await?;
    assert_eq!(stage.quotas().await?.get("chat").await?.metadata.generation, generation);
    Ok(())
}
