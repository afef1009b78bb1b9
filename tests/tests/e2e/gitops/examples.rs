//! Every folder of examples, applied as a GitOps tool does where Higress is installed.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use testbed::{kubectl_with_input, workspace};

use super::{KINDS, OURS};
use crate::stage::{NAMESPACE, PASSWORD, Stage};

const MANAGER: &str = "gitops";
const AS: [&str; 2] = ["--server-side", "--field-manager=gitops"];

/// An example as its user applies it.
struct Example<'a> {
    stage: &'a Stage,
    text: String,
    objects: Vec<Value>,
}

fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

impl<'a> Example<'a> {
    /// The files of a folder, with the addresses of the stage.
    fn read(stage: &'a Stage, folder: &Path) -> Result<Self> {
        let mut files: Vec<_> = fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
        files.sort();
        let files: Vec<String> = files.iter().map(fs::read_to_string).collect::<Result<_, _>>()?;
        let port = stage.redis.port();
        let text = files
            .join("\n---\n")
            .replace("127.0.0.1:6379", &stage.redis.addr())
            .replace("127.0.0.1:8080", &stage.model.addr().to_string())
            .replace("domain: redis.platform.example, port: 6379", &format!("domain: localhost, port: {port}"))
            .replace("{name: quota-redis.dns, port: 6379}", &format!("{{name: quota-redis.dns, port: {port}}}"));
        let objects = serde_yaml::from_multiple(&text)?;
        Ok(Self { stage, text, objects })
    }

    /// What an installation has before quotas and limits are declared: of the quickstart, all but these.
    fn installation(stage: &'a Stage) -> Result<Self> {
        let mut example = Self::read(stage, &workspace().join("examples/quickstart"))?;
        example.objects.retain(|object| !["AIQuota", "AITokenRateLimit"].contains(&text(object, "/kind")));
        let documents: Vec<String> = example.objects.iter().map(Value::to_string).collect();
        Ok(Self { text: documents.join("\n"), ..example })
    }

    fn has(&self, kind: &str) -> bool {
        self.objects.iter().any(|object| object["kind"] == kind)
    }

    async fn kubectl(&self, verb: &str, more: &[&str]) -> Result<String> {
        let arguments = [&[verb, "-f", "-"], more].concat();
        kubectl_with_input(&self.stage.api, &arguments, &self.text).await
    }

    async fn apply(&self) -> Result<String> {
        self.kubectl("apply", &AS).await
    }

    /// Waits until each object of ours is ready; how many there are.
    async fn ready(&self) -> Result<usize> {
        let ours: Vec<&Value> = self.objects.iter().filter(|object| object["apiVersion"] == OURS).collect();
        for object in &ours {
            let (kind, namespace) = (text(object, "/kind"), text(object, "/metadata/namespace"));
            let objects = self.stage.api.objects(OURS, kind, namespace).await?;
            self.stage.condition(&objects, text(object, "/metadata/name"), "Ready", "True").await?;
        }
        Ok(ours.len())
    }

    /// What would be otherwise if somebody had written: the controller's statuses are not in it.
    async fn written(&self) -> Result<BTreeMap<String, (Option<i64>, Value)>> {
        let mut written = BTreeMap::new();
        for object in &self.objects {
            let (kind, name) = (text(object, "/kind"), text(object, "/metadata/name"));
            let namespace = text(object, "/metadata/namespace");
            let found = self.stage.api.objects(text(object, "/apiVersion"), kind, namespace).await?.get(name).await?;
            let fields = found.metadata.managed_fields.into_iter().flatten();
            let ours: Vec<_> = fields.filter(|fields| fields.manager.as_deref() == Some(MANAGER)).collect();
            ensure!(!ours.is_empty(), "{MANAGER} owns nothing of {kind} {name}");
            let ours = serde_json::to_value(ours)?;
            written.insert(format!("{kind} {namespace}/{name}"), (found.metadata.generation, ours));
        }
        Ok(written)
    }
}

#[tokio::test]
async fn every_example_becomes_ready_and_is_no_difference_when_it_is_applied_again() -> Result<()> {
    let stage = Stage::set().await?;
    let controller = stage.start_controller()?;
    for namespace in ["argocd", "shop"] {
        stage.api.namespace(namespace).await?;
    }
    let secret = json!({"apiVersion": "v1", "kind": "Secret",
        "metadata": {"name": "quota-redis", "namespace": NAMESPACE}, "stringData": {"password": PASSWORD}});
    stage.api.apply(&secret).await?;
    let folders = fs::read_dir(workspace().join("examples"))?;
    let mut folders: Vec<_> = folders.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    folders.sort();
    let (mut ready, mut kinds) = (0, Vec::new());
    for folder in &folders {
        let name = || folder.display().to_string();
        let (before, example) = (Example::installation(&stage)?, Example::read(&stage, folder)?);
        let brings_its_own = example.has("AIQuotaStore");
        if !brings_its_own {
            before.apply().await.with_context(name)?;
        }
        example.apply().await.with_context(name)?;
        ready += example.ready().await.with_context(name)?;
        kinds.extend(KINDS.into_iter().filter(|kind| example.has(kind)));

        // It fails where there is a difference.
        example.kubectl("diff", &AS).await.with_context(name)?;
        let written = example.written().await?;
        example.apply().await.with_context(name)?;
        let (again, name) = (example.written().await?, name());
        ensure!(again == written, "{name}: it was {written:?}, and is {again:?}");

        example.kubectl("delete", &[]).await?;
        if !brings_its_own {
            before.kubectl("delete", &[]).await?;
        }
    }
    ensure!(ready > 8 && KINDS.iter().all(|kind| kinds.contains(kind)), "only {ready} objects, of {kinds:?}");
    controller.ensure_running()
}
