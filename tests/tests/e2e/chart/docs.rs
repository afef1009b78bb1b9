//! docs/install.md, run as it stands: its files are written, its commands run in their order.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use testbed::{ApiServer, Component, workspace};

use super::{HOME, RELEASE, copy};
use crate::stage::NAMESPACE;

/// The fenced blocks of a text, each with its language.
fn blocks(text: &str) -> Vec<(&str, String)> {
    let (mut blocks, mut open) = (Vec::new(), None);
    for line in text.lines() {
        match (line.trim().strip_prefix("```"), &mut open) {
            (Some(language), None) => open = Some((language, String::new())),
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (None, Some((_, content))) => content.extend([line, "\n"]),
            (None, None) => {}
        }
    }
    blocks
}

#[tokio::test]
async fn who_follows_the_guide_has_installed_upgraded_and_uninstalled_it() -> Result<()> {
    let api = ApiServer::start().await?;
    api.install_higress_crds().await?;
    api.namespace(NAMESPACE).await?;
    let clone = tempfile::Builder::new().prefix("aiquota-clone-").tempdir()?;
    let home = clone.path().join("home");
    for folder in ["charts", "examples"] {
        fs::create_dir_all(clone.path().join(folder))?;
        copy(&workspace().join(folder), &clone.path().join(folder))?;
    }
    fs::create_dir_all(&home)?;
    let tools = || anyhow::Ok([Component::Helm, Component::Kubectl].map(|tool| tool.locate().map(|path| (tool, path))));
    for tool in tokio::task::spawn_blocking(tools).await?? {
        let (tool, path) = tool?;
        symlink(path, home.join(tool.name()))?;
    }
    let path = std::env::var("PATH").unwrap_or_default();
    let (mut written, mut run) = (0, 0);
    for (language, content) in blocks(&fs::read_to_string(workspace().join("docs/install.md"))?) {
        let file = content.lines().next().and_then(|line| line.strip_prefix("# ")).filter(|_| language == "yaml");
        if let Some(file) = file {
            fs::write(clone.path().join(file), &content)?;
            written += 1;
        }
        if language != "sh" {
            continue;
        }
        let output = tokio::process::Command::new("bash")
            .args(["-euo", "pipefail", "-c", &content])
            .current_dir(clone.path())
            .env("PATH", format!("{}:{path}", home.display()))
            .env("HOME", &home)
            .env("KUBECONFIG", api.kubeconfig())
            .env("KUBECACHEDIR", home.join("cache"))
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await?;
        let told = [output.stdout, output.stderr].concat();
        ensure!(output.status.success(), "{content}{}", String::from_utf8_lossy(&told));
        run += 1;
    }
    ensure!(written == 1 && run >= 5, "{written} files, {run} blocks");
    // As it says in the end.
    let quotas = api.objects("quota.higress.io/v1alpha1", "AIQuota", NAMESPACE).await?;
    quotas.get_opt("chat").await?.context("the object went with the release")?;
    let stores = api.objects("quota.higress.io/v1alpha1", "AIQuotaStore", NAMESPACE).await?;
    stores.get_opt("default").await?.context("the store went with the release")?;
    let deployments = api.objects("apps/v1", "Deployment", HOME).await?;
    ensure!(deployments.get_opt(RELEASE).await?.is_none(), "the controller is left");
    Ok(())
}
