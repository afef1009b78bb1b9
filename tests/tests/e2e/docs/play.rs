//! One block after the other, on a stage: a folder as a checkout has it, with the addresses of the stage in the examples,
//! and with aiquota, kubectl and helm on the path.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Output, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;
use testbed::{Component, controller_binary, workspace};
use tokio::process::Command;

use super::GATEWAY;
use super::blocks::{Block, Rule, documents};
use crate::stage::{PASSWORD, Stage};

const OURS: &str = "quota.higress.io/v1alpha1";
/// Where docs/install.md puts the controller.
const HOME: &str = "aiquota-system";

pub(super) struct Play<'a> {
    stage: &'a Stage,
    folder: TempDir,
}

impl<'a> Play<'a> {
    pub(super) async fn new(stage: &'a Stage) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("aiquota-docs-").tempdir()?;
        let change = |text: &str| {
            text.replace("127.0.0.1:6379", &stage.redis.addr())
                .replace("127.0.0.1:8080", &stage.model.addr().to_string())
        };
        for kept in ["charts", "examples", "crates/cli/tests"] {
            copy(&workspace().join(kept), &folder.path().join(kept), &change)?;
        }
        let programs = folder.path().join("home/bin");
        fs::create_dir_all(&programs)?;
        let tools = || anyhow::Ok([Component::Helm.locate()?, Component::Kubectl.locate()?]);
        let [helm, kubectl] = tokio::task::spawn_blocking(tools).await??;
        for (name, program) in [("helm", helm), ("kubectl", kubectl), ("aiquota", controller_binary()?)] {
            symlink(program, programs.join(name))?;
        }
        Ok(Self { stage, folder })
    }

    fn command(&self, script: &str) -> Command {
        let home = self.folder.path().join("home");
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = Command::new("bash");
        command.args(["-euo", "pipefail", "-c", script]).current_dir(self.folder.path());
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("AIQUOTA_")) {
            command.env_remove(name);
        }
        command
            .env("PATH", format!("{}:{path}", home.join("bin").display()))
            .env("HOME", &home)
            .env("KUBECONFIG", self.stage.api.kubeconfig())
            .env("KUBECACHEDIR", home.join("cache"))
            // What a reader puts in for the server of docs/migration.md.
            .env("AIQUOTA_REDIS_PASSWORD", PASSWORD)
            .env("REDIS", format!("redis://{}", self.stage.redis.addr()))
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }

    async fn shell(&self, script: &str) -> Result<String> {
        let Output { status, stdout, stderr } = self.command(script).output().await?;
        let (said, errors) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
        ensure!(status.success(), "{script}\n{status}: {said}{errors}");
        Ok(said.into_owned())
    }

    /// One after the other.
    pub(super) async fn blocks(&self, blocks: &[Block]) -> Result<()> {
        for block in blocks {
            self.block(block).await.with_context(|| format!("{}:{}\n{}", block.document, block.line, block.content))?;
        }
        Ok(())
    }

    async fn block(&self, block: &Block) -> Result<()> {
        let content = &block.content;
        match &block.rule {
            Rule::Run => self.shell(content).await.map(drop),
            Rule::Controller => {
                let output = self.command(content).env("KUBECONFIG", "/nowhere").output().await?;
                let said = String::from_utf8_lossy(&output.stderr);
                // 2 is a wrong call.
                ensure!(output.status.code() == Some(1), "{}: {said}", output.status);
                Ok(())
            }
            Rule::Cargo => content.lines().try_for_each(named),
            Rule::Compare => {
                let (command, shown) = content.split_once('\n').context("a command and what it says")?;
                let command = command.strip_prefix("$ ").context("it begins with `$ `")?;
                let Output { stdout, .. } = self.command(command).output().await?;
                let said = String::from_utf8(stdout)?;
                ensure!(said.trim_end() == shown.trim_end(), "it says:\n{said}");
                Ok(())
            }
            Rule::File(name) => Ok(fs::write(self.folder.path().join(name), content)?),
            Rule::Objects => self.objects(&documents(content)?).await,
            Rule::Spec(kind) => {
                let fields: Value = serde_yaml::from_str(content)?;
                self.objects(&[with(kind, &fields)?]).await
            }
            Rule::Json => {
                let whole = serde_json::from_str::<Value>(content).is_ok();
                ensure!(whole || content.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()), "no JSON");
                Ok(())
            }
            Rule::Redis => {
                let mut redis = self.stage.redis.connect().await?;
                super::users::commands(&mut redis, content).await
            }
            Rule::Shown => Ok(()),
        }
    }

    /// What the API server and `aiquota check` say of them, without changing anything.
    async fn objects(&self, objects: &[Value]) -> Result<()> {
        for object in objects {
            self.stage.api.namespace(object["metadata"]["namespace"].as_str().unwrap_or("default")).await?;
        }
        let texts: Result<Vec<String>, _> = objects.iter().map(serde_yaml::to_string).collect();
        let file = self.folder.path().join("home/objects.yaml");
        fs::write(&file, texts?.join("---\n"))?;
        let file = file.display();
        if objects.iter().any(|object| object["apiVersion"] == OURS) {
            self.shell(&format!("aiquota check -f {file}")).await?;
        }
        let apply = "kubectl apply --server-side --dry-run=server --force-conflicts --field-manager=docs";
        self.shell(&format!("{apply} -f {file}")).await.map(drop)
    }

    /// The objects of the quickstart are there as they stand in the examples, and ready.
    pub(super) async fn quickstart(&self) -> Result<()> {
        self.shell("kubectl apply --server-side --force-conflicts -f examples/quickstart").await?;
        self.stage.ready("chat").await
    }

    /// After docs/install.md: what is behind the gateway, and the controller, for which no pod runs here.
    pub(super) async fn installed(&self) -> Result<()> {
        let deployments = self.stage.api.objects("apps/v1", "Deployment", HOME).await?;
        deployments.get("aiquota").await.context("no controller was installed")?;
        self.stage
            .api
            .apply(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "platform"}}))
            .await?;
        self.stage.start_controller_with(&["--drain=1s", "--trusted-namespace=platform"])?;
        self.quickstart().await
    }

    /// After docs/upgrade.md: nothing of the release is left. What others need is installed again.
    pub(super) async fn uninstalled(&self) -> Result<()> {
        let deployments = self.stage.api.objects("apps/v1", "Deployment", HOME).await?;
        ensure!(deployments.get_opt("aiquota").await?.is_none(), "the controller is left");
        let served = self.shell("kubectl get crds -o name").await?;
        ensure!(!served.contains("quota.higress.io"), "definitions are left: {served}");
        ensure!(self.stage.plugins().await?.get_opt("aiquota-ai-quota").await?.is_none(), "the WasmPlugin is left");
        self.stage.api.install_crds().await?;
        // It looks for kinds that were not served once a minute.
        self.stage.controller().context("no controller")?.restart()
    }
}

/// A valid object of this kind with these fields in its spec.
fn with(kind: &str, fields: &Value) -> Result<Value> {
    let targets = json!([{"kind": "Ingress", "name": "qwen"}]);
    let (version, mut spec) = match kind {
        "AIQuota" => (OURS, json!({"targetRefs": targets, "consumers": [{"name": "aliyun-user1", "quota": 1}]})),
        "AITokenRateLimit" if fields.get("rules").is_some() => (OURS, json!({"targetRefs": targets})),
        "AITokenRateLimit" => (OURS, json!({"targetRefs": targets, "global": [{"tokens": 1, "window": "1m"}]})),
        "AIQuotaStore" => (OURS, json!({"service": {"name": "local-redis.static"}})),
        "WasmPlugin" => ("extensions.higress.io/v1alpha1", json!({"url": "oci://registry.example/ai-quota:1.0.0"})),
        other => bail!("no object of kind {other} is known here"),
    };
    for (field, value) in fields.as_object().context("fields of a spec")? {
        spec[field] = value.clone();
    }
    let metadata = json!({"name": "shown", "namespace": GATEWAY});
    Ok(json!({"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec}))
}

/// Whether what a command of cargo names is there: a subcommand of xtask, a package, a topic.
fn named(line: &str) -> Result<()> {
    let words: Vec<&str> = line.split('#').next().unwrap_or_default().split_whitespace().collect();
    let is_there =
        |file: &str, text: &str| -> Result<bool> { Ok(fs::read_to_string(workspace().join(file))?.contains(text)) };
    let known = match words.as_slice() {
        [] | ["cargo", "fmt"] => true,
        ["cargo", "xtask", command, ..] => {
            let name: String =
                command.chars().take(1).flat_map(char::to_uppercase).chain(command.chars().skip(1)).collect();
            is_there("xtask/src/main.rs", &format!("Command::{name} "))?
                || is_there("xtask/src/main.rs", &format!("Command::{name} =>"))?
        }
        ["cargo", "test" | "bench", "-p", package, ..] => is_there("Cargo.lock", &format!("name = \"{package}\""))?,
        ["cargo", "test", "--workspace", "--test", "e2e", topic, ..] => {
            is_there("tests/tests/e2e/main.rs", &format!("mod {topic};"))?
        }
        _ => false,
    };
    ensure!(known, "`{line}` names nothing that is known");
    Ok(())
}

fn copy(from: &Path, to: &Path, change: &dyn Fn(&str) -> String) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        // What helm has built in a clone is not part of it.
        if from.is_dir() && entry.file_name() != "charts" {
            copy(&from, &to, change)?;
        } else if from.is_file() && entry.file_name() != "Chart.lock" {
            fs::write(to, change(&fs::read_to_string(from)?))?;
        }
    }
    Ok(())
}

#[test]
fn a_command_that_names_nothing_is_found() {
    for good in ["cargo xtask check # all", "cargo test -p aiquota-plan", "cargo test --workspace --test e2e docs", ""]
    {
        assert!(named(good).is_ok(), "{good}");
    }
    for bad in ["cargo xtask chek", "cargo test -p aiquota-plam", "cargo test --workspace --test e2e doc", "make"] {
        assert!(named(bad).is_err(), "{bad}");
    }
}
