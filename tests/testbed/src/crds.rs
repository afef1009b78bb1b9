//! Custom resource definitions: Higress' own as its gateway reads them, the Gateway API's, and ours as generated.

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::Client;
use kube::api::{Api, Patch, PatchParams};
use serde_json::Value;

use crate::paths::workspace;
use crate::wait::eventually;

/// `WasmPlugin` and `McpBridge`.
pub(crate) fn higress() -> Vec<String> {
    let texts = [include_str!("../crds/wasmplugins.yaml"), include_str!("../crds/mcpbridges.yaml")];
    texts.map(str::to_owned).to_vec()
}

/// `HTTPRoute`.
pub(crate) fn gateway_api() -> Vec<String> {
    vec![include_str!("../crds/httproutes.yaml").to_owned()]
}

/// What lies in `crds/`, read now: it may have been generated after the test was built.
pub(crate) fn ours() -> Result<Vec<String>> {
    let folder = workspace().join("crds");
    let files =
        std::fs::read_dir(&folder).with_context(|| format!("no {}: `cargo xtask generate`", folder.display()))?;
    let mut texts = Vec::new();
    for file in files {
        let path = file?.path();
        if path.extension().is_some_and(|extension| extension == "yaml") {
            texts.push(std::fs::read_to_string(&path)?);
        }
    }
    Ok(texts)
}

/// Applies definitions and waits until each is served.
pub(crate) async fn install(client: &Client, texts: &[String]) -> Result<()> {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    let mut names = Vec::new();
    for text in texts {
        for definition in serde_yaml::from_multiple::<Value>(text)? {
            let name = definition.pointer("/metadata/name").and_then(Value::as_str).context("a CRD without a name")?;
            api.patch(name, &PatchParams::apply("testbed").force(), &Patch::Apply(&definition)).await?;
            names.push(name.to_owned());
        }
    }
    for name in names {
        eventually(&format!("{name} is established"), async || {
            let definition = api.get(&name).await?;
            let conditions = definition.status.iter().flat_map(|status| status.conditions.iter().flatten());
            let established =
                conditions.into_iter().any(|found| found.type_ == "Established" && found.status == "True");
            ensure!(
                established,
                "the conditions are {:?}",
                definition.status.as_ref().map(|status| &status.conditions)
            );
            for version in definition.spec.versions.iter().filter(|version| version.served) {
                let path = format!("/apis/{}/{}/{}", definition.spec.group, version.name, definition.spec.names.plural);
                client.request_text(http::Request::get(path).body(Vec::new())?).await?;
            }
            Ok(())
        })
        .await
        .with_context(|| format!("cannot install {name}"))?;
    }
    Ok(())
}
